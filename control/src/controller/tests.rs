//! All or nothing, on a world that fails on purpose.

mod l3;
mod meshes;

use super::*;
use crate::model::{BridgeSpec, PortKind, PortSpec, PortState, StaticFdb, TapSpec};
use crate::reconcile::fake::{FakeWorld, State, controller};

fn port(bridge: &str, kind: PortKind) -> PortSpec {
    let json = serde_json::json!({ "bridge": bridge, "type": "null" });
    PortSpec { kind, ..serde_json::from_value(json).unwrap() }
}

fn tap(bridge: &str, netns: &str) -> PortSpec {
    port(bridge, PortKind::Tap(TapSpec { netns: Some(netns.to_owned()), ..TapSpec::default() }))
}

fn entry(port: &str, last: u8) -> StaticFdb {
    StaticFdb { mac: format!("02:00:00:00:01:{last:02x}"), vlan: 0, port: port.to_owned(), remote: None }
}

/// Two bridges, two ports, a static entry.
async fn furnished() -> (Controller, FakeWorld) {
    let (controller, world) = controller();
    let spec = BridgeSpec { static_fdb: vec![entry("a", 1)], ..BridgeSpec::default() };
    controller
        .edit(move |d| {
            d.bridges.insert("br0".into(), spec);
            d.bridges.insert("br1".into(), BridgeSpec::default());
            d.ports.insert("a".into(), tap("br0", "web"));
            d.ports.insert("b".into(), port("br0", PortKind::Null {}));
            Ok(())
        })
        .await
        .unwrap();
    (controller, world)
}

fn matches(state: &State, desired: &Desired) {
    assert_eq!(state.bridges, desired.bridges);
    assert_eq!(state.ports, desired.ports);
    assert!(state.parked.is_empty());
    for (name, spec) in &desired.bridges {
        assert_eq!(state.statics.get(name).cloned().unwrap_or_default(), spec.static_fdb, "{name}");
    }
}

/// An edit that touches everything: a bridge gone, one new, one changed, a port of each fate.
fn upheaval(d: &mut Desired) -> Result<()> {
    d.bridges.remove("br1");
    d.bridges.insert("br2".into(), BridgeSpec::default());
    let br0 = d.bridges.get_mut("br0").unwrap();
    br0.ageing = 10;
    br0.static_fdb = vec![entry("a", 2), entry("c", 3)];
    d.ports.insert("a".into(), tap("br0", "db"));
    d.ports.get_mut("b").unwrap().isolated = true;
    d.ports.insert("c".into(), port("br0", PortKind::Null {}));
    d.ports.insert("d".into(), port("br2", PortKind::Null {}));
    Ok(())
}

#[tokio::test]
async fn an_edit_is_realised_and_published() {
    let (controller, world) = furnished().await;
    let mut events = controller.watch();
    let revision = controller.revision();
    controller.edit(upheaval).await.unwrap();
    matches(&world.state.lock(), &controller.desired());
    assert_eq!(controller.revision(), revision + 1);
    let mut seen = Vec::new();
    while let Ok(event) = events.try_recv() {
        seen.push(match event {
            Event::Revision { revision } => format!("revision {revision}"),
            Event::Bridge(b) => format!("bridge {}", b.name),
            Event::BridgeGone { name } => format!("bridge gone {name}"),
            Event::Port(p) => format!("port {}", p.name),
            other => format!("{other:?}"),
        });
    }
    let revision = format!("revision {}", revision + 1);
    let expected =
        [&revision, "bridge br0", "bridge br2", "port a", "port b", "port c", "port d", "bridge gone br1"];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_failure_anywhere_leaves_everything_as_it_was() {
    for op in ["complete d", "update b", "add a", "add c", "add d", "static br0"] {
        let (controller, world) = furnished().await;
        let before = (world.state.lock().clone(), controller.desired(), controller.revision());
        let mut events = controller.watch();
        world.fail_on(op);
        let error = controller.edit(upheaval).await.unwrap_err();
        assert!(error.message.contains(op), "{op}: {error}");
        assert_eq!(*world.state.lock(), before.0, "{op}");
        assert_eq!(controller.desired(), before.1, "{op}");
        assert_eq!(controller.revision(), before.2, "{op}");
        assert!(events.try_recv().is_err(), "{op}: nothing is announced");
        world.failing.lock().clear();
        controller.edit(upheaval).await.unwrap();
        matches(&world.state.lock(), &controller.desired());
    }
}

#[tokio::test]
async fn a_state_file_that_cannot_be_written_undoes_the_edit() {
    let world = FakeWorld::default();
    let full = Box::new(|_: &Desired| Err(Error::failed("no space left on device")));
    let (controller, _running) =
        Controller::start(Box::new(world.clone()), Desired::default(), full).unwrap();
    let add = |d: &mut Desired| {
        d.bridges.insert("br0".into(), BridgeSpec::default());
        d.ports.insert("a".into(), port("br0", PortKind::Null {}));
        Ok(())
    };
    let error = controller.edit(add).await.unwrap_err();
    assert_eq!(error.message, "no space left on device");
    assert_eq!(*world.state.lock(), State::default());
    assert_eq!(*controller.desired(), Desired::default());
}

#[tokio::test]
async fn an_edit_that_changes_nothing_is_no_edit() {
    let (controller, _world) = furnished().await;
    let revision = controller.revision();
    let drawn = controller.desired().ports["a"].clone();
    // As a file would say it: without what the daemon filled in.
    controller.edit(|d| Ok(d.ports.insert("a".into(), tap("br0", "web")))).await.unwrap();
    assert_eq!(controller.revision(), revision);
    assert_eq!(controller.desired().ports["a"], drawn);
}

#[tokio::test]
async fn an_edit_that_makes_no_sense_is_refused() {
    let (controller, world) = furnished().await;
    let before = world.state.lock().clone();
    controller.edit(|d| Ok(d.ports.insert("x".into(), tap("nobridge", "web")))).await.unwrap_err();
    let error: Result<()> = controller.edit(|_| Err(Error::invalid("no"))).await;
    assert_eq!(error.unwrap_err().message, "no");
    assert_eq!(*world.state.lock(), before);
}

#[tokio::test]
async fn what_cannot_be_restored_is_down_and_retried() {
    let world = FakeWorld::default();
    world.fail_on("add a");
    let mut desired = Desired::default();
    desired.bridges.insert("br0".into(), BridgeSpec::default());
    desired.ports.insert("a".into(), port("br0", PortKind::Null {}));
    let (controller, _running) =
        Controller::start(Box::new(world.clone()), desired, Box::new(|_| Ok(()))).unwrap();
    let status = &controller.ports().await[0];
    assert_eq!((status.state, status.reason.as_str()), (PortState::Down, "add a fails on purpose"));
    let mut events = controller.watch();
    world.failing.lock().clear();
    let event = tokio::time::timeout(std::time::Duration::from_secs(20), events.recv()).await;
    match event.expect("retried within seconds").unwrap() {
        Event::Port(status) => assert_eq!(status.state, PortState::Up),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn after_stop_nothing_is_edited() {
    let (controller, world) = furnished().await;
    controller.stop(true).await;
    assert_eq!(world.state.lock().stopped, Some(true));
    let error = controller.edit(|d| Ok(d.ports.remove("a"))).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Internal);
}

#[tokio::test]
async fn a_bridge_with_other_ports_is_announced_even_if_they_are_as_many() {
    let (controller, _world) = furnished().await;
    let mut events = controller.watch();
    let swap = |d: &mut Desired| {
        let spec = d.ports.remove("b").unwrap();
        Ok(d.ports.insert("c".into(), spec))
    };
    controller.edit(swap).await.unwrap();
    let mut ports = None;
    while let Ok(event) = events.try_recv() {
        if let Event::Bridge(bridge) = event {
            ports = Some(bridge.ports);
        }
    }
    assert_eq!(ports.unwrap(), ["a", "c"]);
}
