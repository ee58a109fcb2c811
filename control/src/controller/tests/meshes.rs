//! Meshes: ports that are derived, on a world that fails on purpose.

use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::model::MeshSpec;
use crate::model::tunnel::{FIRST_MESH_GROUP, member_name, mesh_group};

fn mesh(peers: &[&str]) -> MeshSpec {
    let json = serde_json::json!({ "bridge": "br0", "type": "vxlan", "vni": 7, "peers": peers });
    serde_json::from_value(json).unwrap()
}

async fn edit(controller: &Controller, f: impl FnOnce(&mut Desired) + Send + 'static) -> Result<()> {
    let edited = controller.edit(move |d| {
        f(d);
        d.drop_orphans();
        Ok(())
    });
    edited.await
}

/// A host that is 192.0.2.1, with a mesh of three.
async fn meshed() -> (Controller, FakeWorld) {
    let (controller, world) = controller();
    world.own.lock().push(IpAddr::from([192, 0, 2, 1]));
    let made = edit(&controller, |d| {
        d.bridges.insert("br0".into(), BridgeSpec::default());
        d.meshes.insert("m".into(), mesh(&["192.0.2.1", "192.0.2.2", "192.0.2.3"]));
    });
    made.await.unwrap();
    (controller, world)
}

fn ports(world: &FakeWorld) -> Vec<String> {
    world.state.lock().ports.keys().cloned().collect()
}

#[tokio::test]
async fn a_mesh_has_a_port_for_each_other_host() {
    let (controller, world) = meshed().await;
    assert_eq!(ports(&world), ["m/192.0.2.2", "m/192.0.2.3"]);
    let spec = world.state.lock().ports["m/192.0.2.2"].clone();
    let (_, tunnel) = spec.kind.tunnel().unwrap();
    assert_eq!(tunnel.remotes, [IpAddr::from([192, 0, 2, 2])]);
    assert_eq!(tunnel.local, Some([192, 0, 2, 1].into()), "what the others know this host by");
    assert_eq!((tunnel.bfd, tunnel.vni), (Some(true), Some(7)));
    assert!(spec.split_horizon_group.is_some_and(|group| group >= FIRST_MESH_GROUP));
    assert_ne!(mesh_group("m"), mesh_group("n"));
    assert!(controller.desired().ports.is_empty(), "they are not written down");
    let status = &controller.meshes().await[0];
    assert_eq!(status.own, [IpAddr::from([192, 0, 2, 1])]);
    let shown: Vec<_> = status.peers.iter().map(|p| p.port.as_str()).collect();
    assert_eq!(shown, ["m/192.0.2.2", "m/192.0.2.3"]);
    assert_eq!(controller.ports().await.len(), 2);
    assert_eq!(controller.bridges().await[0].ports, shown);
}

#[tokio::test]
async fn a_peer_that_comes_or_goes_touches_no_other() {
    let (controller, world) = meshed().await;
    for op in ["add m/192.0.2.2", "update m/192.0.2.2"] {
        world.fail_on(op);
    }
    let mut events = controller.watch();
    edit(&controller, |d| {
        d.meshes.insert("m".into(), mesh(&["192.0.2.4", "192.0.2.2", "192.0.2.1"]));
    })
    .await
    .unwrap();
    assert_eq!(ports(&world), ["m/192.0.2.2", "m/192.0.2.4"]);
    let mut seen = Vec::new();
    while let Ok(event) = events.try_recv() {
        seen.push(match event {
            Event::Port(p) => format!("port {}", p.name),
            Event::PortGone { name } => format!("gone {name}"),
            Event::Mesh(m) => format!("mesh {} of {}", m.name, m.peers.len()),
            Event::Bridge(b) => format!("bridge {}", b.name),
            Event::Revision { .. } => continue,
            other => format!("{other:?}"),
        });
    }
    assert_eq!(seen, ["bridge br0", "port m/192.0.2.4", "mesh m of 2", "gone m/192.0.2.3"]);
}

#[tokio::test]
async fn a_mesh_that_cannot_be_made_changes_nothing() {
    let (controller, world) = meshed().await;
    let before = world.state.lock().clone();
    world.fail_on("add m/192.0.2.9");
    let failed = edit(&controller, |d| {
        d.meshes.insert("m".into(), mesh(&["192.0.2.2", "192.0.2.5", "192.0.2.9"]));
    });
    assert!(failed.await.unwrap_err().message.contains("add m/192.0.2.9 fails on purpose"));
    assert_eq!(*world.state.lock(), before);
    assert_eq!(controller.desired().meshes["m"].peers.len(), 3);
    assert_eq!(controller.ports().await.len(), 2);
}

#[tokio::test]
async fn a_mesh_follows_the_addresses_of_its_host() {
    let (controller, world) = meshed().await;
    let mut events = controller.watch();
    world.own.lock().push(IpAddr::from([192, 0, 2, 3]));
    let gone = async {
        loop {
            if let Ok(Event::PortGone { name }) = events.recv().await {
                return name;
            }
        }
    };
    let gone = tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap();
    assert_eq!(gone, member_name("m", [192, 0, 2, 3].into()));
    assert_eq!(ports(&world), ["m/192.0.2.2"]);
    assert_eq!(controller.meshes().await[0].own.len(), 2);
}

#[tokio::test]
async fn static_entries_go_with_their_peer() {
    let (controller, world) = meshed().await;
    let entry = StaticFdb { remote: Some([192, 0, 2, 3].into()), ..entry("m/192.0.2.3", 1) };
    let kept = StaticFdb { remote: None, ..entry.clone() };
    let kept = StaticFdb { mac: "02:00:00:00:01:02".into(), port: "m/192.0.2.2".into(), ..kept };
    let entries = vec![entry, kept.clone()];
    edit(&controller, move |d| d.bridges.get_mut("br0").unwrap().static_fdb = entries).await.unwrap();
    assert_eq!(world.state.lock().statics["br0"].len(), 2);
    edit(&controller, |d| {
        d.meshes.insert("m".into(), mesh(&["192.0.2.1", "192.0.2.2"]));
    })
    .await
    .unwrap();
    assert_eq!(world.state.lock().statics["br0"], [kept]);
    edit(&controller, |d| {
        d.meshes.remove("m");
    })
    .await
    .unwrap();
    assert!(world.state.lock().statics["br0"].is_empty() && ports(&world).is_empty());
}
