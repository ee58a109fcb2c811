//! Gateways, uplinks, routes and NAT: all or nothing, and what the daemon fills in.

use super::*;
use crate::model::l3::{GatewaySpec, UplinkKind};

const L3: &str = "[bridge.br0]\n[gateway.br0]\naddresses=['10.77.0.1/24']\n\
    [uplink.up0]\ntype='own'\ninterface='eth1'\naddresses=['192.0.2.10/24']\n\
    [uplink.host0]\ntype='host'\naddresses=['192.168.77.2/30']\n\
    [route.lab]\nprefix='10.9.0.0/16'\nvia='10.77.0.2'\n\
    [nat.web]\nuplink='up0'\ntype='publish'\nproto='tcp'\nport=80\nto='10.77.0.2'\n[ct]\nlimit=1000\n";

fn replace(desired: &mut Desired, file: Desired) -> Result<()> {
    *desired = file;
    Ok(())
}

async fn furnished() -> (Controller, FakeWorld) {
    let (controller, world) = controller();
    let file = crate::files::parse("f", L3).unwrap();
    controller.edit(move |d| replace(d, file)).await.unwrap();
    (controller, world)
}

#[tokio::test]
async fn layer_3_is_realised_with_addresses_that_stay() {
    let (controller, world) = furnished().await;
    let desired = controller.desired();
    let l3 = world.state.lock().l3.clone();
    assert_eq!((&l3.gateways, &l3.uplinks, &l3.nat), (&desired.gateways, &desired.uplinks, &desired.nat));
    assert_eq!((&l3.routes, &l3.ct), (&desired.routes, &desired.ct));
    let mac = desired.gateways["br0"].mac.clone();
    assert!(mac.is_some());
    let UplinkKind::Host(host) = &desired.uplinks["host0"].kind else { panic!() };
    assert!(host.mac.is_some());
    // As a file would say it: without what the daemon filled in.
    let revision = controller.revision();
    let file = crate::files::parse("f", L3).unwrap();
    controller.edit(move |d| replace(d, file)).await.unwrap();
    assert_eq!((controller.revision(), &controller.desired().gateways["br0"].mac), (revision, &mac));
    assert_eq!(controller.gateways().await[0].bridge, "br0");
    let routes = controller.routes().await;
    let shown: Vec<_> = routes.iter().map(|r| (r.prefix.to_string(), r.name.as_deref())).collect();
    assert!(shown.contains(&("10.9.0.0/16".into(), Some("lab"))), "{shown:?}");
    assert!(
        shown.contains(&("0.0.0.0/0".into(), None)),
        "the host's end of a host uplink is the router: {shown:?}"
    );
}

#[tokio::test]
async fn a_failing_uplink_leaves_everything_as_it_was() {
    let (controller, world) = furnished().await;
    let before = (world.state.lock().clone(), controller.desired(), controller.revision());
    let mut events = controller.watch();
    world.fail_on("uplink up1");
    let edit = |d: &mut Desired| {
        d.bridges.insert("br1".into(), BridgeSpec::default());
        let addresses = vec!["10.78.0.1/24".parse().unwrap()];
        d.gateways.insert("br1".into(), GatewaySpec { addresses, mac: None, ..d.gateways["br0"].clone() });
        let json = serde_json::json!({"type": "own", "interface": "eth2", "addresses": ["198.51.100.2/24"]});
        d.uplinks.insert("up1".into(), serde_json::from_value(json).unwrap());
        d.nat.clear();
        Ok(())
    };
    let error = controller.edit(edit).await.unwrap_err();
    assert_eq!(error.message, "uplink up1 fails on purpose");
    assert_eq!((world.state.lock().clone(), controller.desired(), controller.revision()), before);
    assert!(events.try_recv().is_err(), "nothing is announced");
    world.failing.lock().clear();
    controller.edit(edit).await.unwrap();
    assert!(world.state.lock().l3.uplinks.contains_key("up1"));
    let mut seen = Vec::new();
    while let Ok(event) = events.try_recv() {
        match event {
            Event::Gateway(g) => seen.push(format!("gateway {}", g.name)),
            Event::Uplink(u) => seen.push(format!("uplink {}", u.name)),
            _ => {}
        }
    }
    assert_eq!(seen, ["gateway br1", "uplink up1"]);
}

#[tokio::test]
async fn a_state_file_that_cannot_be_written_undoes_layer_3_too() {
    let world = FakeWorld::default();
    let full = Box::new(|_: &Desired| Err(Error::failed("no space left on device")));
    let (controller, _running) =
        Controller::start(Box::new(world.clone()), Desired::default(), full).unwrap();
    let file = crate::files::parse("f", L3).unwrap();
    controller.edit(move |d| replace(d, file)).await.unwrap_err();
    assert_eq!(*world.state.lock(), State::default());
}

#[tokio::test]
async fn layer_3_is_there_again_after_a_restart() {
    let (_, world) = furnished().await;
    let again = FakeWorld::default();
    let desired = world.state.lock().l3.clone();
    let desired = Desired { bridges: world.state.lock().bridges.clone(), ..desired };
    let (controller, _running) =
        Controller::start(Box::new(again.clone()), desired.clone(), Box::new(|_| Ok(()))).unwrap();
    assert_eq!(controller.uplinks().await.len(), 2);
    assert_eq!(again.state.lock().l3, Desired { bridges: Default::default(), ..desired });
}
