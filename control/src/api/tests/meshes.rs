//! `/v1/meshes`, and tunnels as ports.

use std::net::IpAddr;

use super::*;
use crate::model::MeshSpec;

fn mesh(json: Value) -> MeshSpec {
    serde_json::from_value(json).unwrap()
}

async fn meshed() -> Daemon {
    let d = daemon();
    d.world.own.lock().push(IpAddr::from([192, 0, 2, 1]));
    d.client.add_bridge("br0", &BridgeSpec::default()).await.unwrap();
    let spec = json!({"bridge": "br0", "type": "gre", "key": 7, "peers": ["192.0.2.1", "192.0.2.2"]});
    let made = d.client.add_mesh("m", &mesh(spec)).await.unwrap();
    assert_eq!((made.own.len(), made.peers.len()), (1, 1));
    d
}

#[tokio::test]
async fn meshes_come_and_go() {
    let d = meshed().await;
    let c = &d.client;
    let far = IpAddr::from([192, 0, 2, 3]);
    assert_eq!(c.add_mesh_peer("m", far).await.unwrap().peers[1].peer.remote, far);
    assert_eq!(c.add_mesh_peer("m", far).await.unwrap_err().kind, ErrorKind::Conflict);
    assert_eq!(c.del_mesh_peer("m", far).await.unwrap().peers.len(), 1);
    assert_eq!(c.del_mesh_peer("m", far).await.unwrap_err().kind, ErrorKind::NotFound);
    let changed =
        c.patch_mesh("m", &json!({"key": null, "mtu": 1400, "peers": ["2001:db8::1"]})).await.unwrap();
    assert_eq!((changed.spec.tunnel.key, changed.spec.tunnel.mtu), (None, Some(1400)));
    assert_eq!(c.port("m/2001:db8::1").await.unwrap().name, "m/2001:db8::1");
    let put = r#"{"bridge":"br0","type":"vxlan","vni":1,"peers":["192.0.2.9"]}"#;
    let (status, body) = d.request("PUT", "/v1/meshes/m", put).await;
    assert_eq!((status, &body["peers"][0]["port"]), (200, &json!("m/192.0.2.9")));
    assert_eq!(c.meshes().await.unwrap().len(), 1);
    assert_eq!(c.mesh("m").await.unwrap().spec.peers.len(), 1);
    c.del_mesh("m").await.unwrap();
    assert_eq!(c.mesh("m").await.unwrap_err().to_string(), "there is no mesh m; see: trunkline mesh list");
    assert!(d.world.state.lock().ports.is_empty());
}

#[tokio::test]
async fn a_member_is_no_port_to_be_edited() {
    let d = meshed().await;
    let says = "port m/192.0.2.2 belongs to mesh m";
    let patch = d.client.patch_port("m/192.0.2.2", &json!({"vlan": 3})).await.unwrap_err();
    let del = d.client.del_port("m/192.0.2.2").await.unwrap_err();
    assert_eq!((patch.message.as_str(), del.message.as_str()), (says, says));
    assert_eq!(d.client.del_port("m/192.0.2.7").await.unwrap_err().kind, ErrorKind::NotFound);
    let (status, body) =
        d.request("POST", "/v1/ports", r#"{"name":"m/1.2.3.4","spec":{"bridge":"br0","type":"null"}}"#).await;
    assert_eq!((status, &body["message"]), (400, &json!("'m/1.2.3.4' is not a name for a port")));
}

#[tokio::test]
async fn a_bridge_with_meshes_goes_by_force_only() {
    let d = meshed().await;
    let refused = d.client.del_bridge("br0", false).await.unwrap_err();
    assert_eq!(refused.message, "bridge br0 has meshes: m");
    d.client.del_bridge("br0", true).await.unwrap();
    assert!(d.controller.desired().meshes.is_empty() && d.world.state.lock().ports.is_empty());
}

#[tokio::test]
async fn files_make_and_remove_meshes_and_tunnels() {
    let d = daemon();
    let file = "[bridge.br0]\n[port.vx]\nbridge='br0'\ntype='vxlan'\nremotes=['192.0.2.2']\nvlan-map='10=7'\ntos='inherit'\n\
                [mesh.m]\nbridge='br0'\ntype='geneve'\nvni=5\npeers=['192.0.2.2','192.0.2.3']\nbfd=false";
    let parsed = files::parse("f", file).unwrap();
    let changes = d.client.apply(&parsed, false).await.unwrap();
    assert_eq!(changes, ["added bridge br0", "added port vx", "added mesh m"]);
    assert_eq!(d.client.apply(&parsed, false).await.unwrap(), Vec::<String>::new());
    let exported = d.client.export().await.unwrap();
    let text = files::export(&exported);
    assert_eq!(files::parse("out", &text).unwrap(), parsed, "{text}");
    assert!(!text.contains("m/192"), "{text}");
    let less = files::parse("f", "[bridge.br0]").unwrap();
    assert_eq!(d.client.apply(&less, false).await.unwrap(), ["removed port vx", "removed mesh m"]);
    let foreign = files::parse("f", "").unwrap();
    d.client
        .add_mesh("m", &mesh(json!({"bridge": "br0", "type": "gre", "peers": ["192.0.2.2"]})))
        .await
        .unwrap();
    let refused = d.client.apply(&foreign, false).await.unwrap_err();
    assert_eq!(refused.message, "bridge br0 is not in the file, but mesh m (owner: cli) is on it");
}
