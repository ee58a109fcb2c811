//! `trunkline mesh`.

use std::net::IpAddr;

use clap::ValueEnum as _;
use serde_json::{Map, Value, json};
use trunkline_control::model::keys::{self, Object};
use trunkline_control::model::{self, MeshPeer, MeshSpec, MeshStatus, PortState};
use trunkline_control::{Error, validate};

use super::tunnel::{loss, round_trip};
use super::{Context, Outcome, topology};
use crate::args::{MeshCommand, MeshOptions, MeshType, PeerCommand};
use crate::output::{Look, Output, Table, duration, plural};

pub(super) async fn run(context: &Context<'_>, command: MeshCommand) -> Outcome {
    let Context { client, out } = context;
    match command {
        MeshCommand::Add { bridge, name, kind, peers, options } => {
            let spec = spec(&name, &bridge, kind, &peers, &options)?;
            client.add_mesh(&name, &spec).await?;
        }
        MeshCommand::Del { name } => client.del_mesh(&name).await?,
        MeshCommand::Set { name, bridge, peers, options } => {
            let mut patch = options.patch();
            patch.extend(bridge.map(|b| ("bridge".to_owned(), b.into())));
            if !peers.is_empty() {
                patch.insert("peers".into(), json!(peers));
            }
            if patch.is_empty() {
                return Err(Error::invalid("nothing to set").hint("see: trunkline mesh set --help").into());
            }
            client.patch_mesh(&name, &patch.into()).await?;
        }
        MeshCommand::Peer(PeerCommand::Add { mesh, address }) => {
            client.add_mesh_peer(&mesh, address).await?;
        }
        MeshCommand::Peer(PeerCommand::Del { mesh, address }) => {
            client.del_mesh_peer(&mesh, address).await?;
        }
        MeshCommand::List(json) => {
            let meshes = client.meshes().await?;
            return if json.json { out.json(&meshes) } else { out.print(&list(&meshes, out)) };
        }
        MeshCommand::Show { name: Some(name), json } => {
            let mesh = client.mesh(&name).await?;
            return if json.json { out.json(&mesh) } else { out.print(&show(&mesh, out)) };
        }
        MeshCommand::Show { name: None, json } => {
            let meshes = client.meshes().await?;
            if json.json {
                return out.json(&meshes);
            }
            let all: Vec<_> = meshes.iter().map(|mesh| show(mesh, out)).collect();
            return out.print(&all.join("\n"));
        }
    }
    Ok(())
}

/// The mesh that the options describe, checked as far as it can be without the daemon.
fn spec(
    name: &str,
    bridge: &str,
    kind: MeshType,
    peers: &[IpAddr],
    options: &MeshOptions,
) -> Result<MeshSpec, Error> {
    let mut map: Map<String, Value> = options.patch().into_iter().filter(|(_, v)| !v.is_null()).collect();
    let type_name = kind.to_possible_value().map(|v| v.get_name().to_owned());
    map.insert("bridge".into(), bridge.into());
    map.insert("type".into(), type_name.into());
    map.insert("peers".into(), json!(peers));
    let value = Value::Object(map);
    keys::check_mesh(name, &value)?;
    let spec = keys::read(Object::Mesh(name, ""), value)?;
    validate::mesh(name, &spec)?;
    Ok(spec)
}

fn kind(spec: &MeshSpec) -> String {
    let (name, number) = match spec.kind {
        model::MeshType::Gre => ("gre", spec.tunnel.key.map(|n| format!(" key {n}"))),
        model::MeshType::Vxlan => ("vxlan", spec.tunnel.vni.map(|n| format!(" {n}"))),
        model::MeshType::Geneve => ("geneve", spec.tunnel.vni.map(|n| format!(" {n}"))),
    };
    format!("{name}{}", number.unwrap_or_default())
}

fn list(meshes: &[MeshStatus], out: &Output) -> String {
    let mut table = Table::new(&["MESH", "BRIDGE", "TYPE", ">PEERS", ">UP", ">INNER MTU", "OWNER"]);
    for mesh in meshes {
        let up = mesh.peers.iter().filter(|p| p.state == PortState::Up).count();
        let least = mesh.peers.iter().map(|p| p.inner_mtu).filter(|mtu| *mtu > 0).min();
        let plain = |text: String| (Look::Plain, text);
        table.row([
            plain(mesh.name.clone()),
            plain(mesh.spec.bridge.clone()),
            plain(kind(&mesh.spec)),
            plain(mesh.peers.len().to_string()),
            (if up == mesh.peers.len() { Look::Good } else { Look::Bad }, up.to_string()),
            plain(least.map_or_else(String::new, |mtu| mtu.to_string())),
            plain(mesh.spec.owner.name().to_owned()),
        ]);
    }
    table.render(out)
}

fn show(mesh: &MeshStatus, out: &Output) -> String {
    let name = out.paint(Look::Bold, &format!("mesh {}", mesh.name));
    let own: Vec<_> = mesh.own.iter().map(ToString::to_string).collect();
    let own = if own.is_empty() { String::new() } else { format!(", this host is {}", own.join(" ")) };
    let peers = plural(mesh.peers.len() as u64, "peer", "s");
    let mut text = format!("{name}  {} on {}, {peers}{own}\n", kind(&mesh.spec), mesh.spec.bridge);
    let heads = ["PEER", "PORT", "STATE", "SINCE", ">LOSS", ">ROUND TRIP", ">PATH MTU", ">INNER MTU", "WHY"];
    let mut table = Table::new(&heads).indented(2);
    for peer in &mesh.peers {
        peer_row(&mut table, peer);
    }
    text += &table.render(out);
    text
}

fn peer_row(table: &mut Table, of: &MeshPeer) {
    let plain = |text: String| (Look::Plain, text);
    let MeshPeer { port, state, reason, inner_mtu, mtu_why, peer } = of;
    table.row([
        plain(peer.remote.to_string()),
        plain(port.clone()),
        topology::state(*state),
        plain(peer.since.map(duration).unwrap_or_default()),
        plain(loss(peer)),
        plain(round_trip(peer)),
        plain(peer.path_mtu.map_or_else(String::new, |mtu| mtu.to_string())),
        plain(if *inner_mtu == 0 { String::new() } else { inner_mtu.to_string() }),
        plain(mtu_why.clone()),
    ]);
    if !reason.is_empty() {
        table.note(Look::Bad, reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    use crate::args::{Cli, Command};

    fn mesh() -> MeshStatus {
        serde_json::from_value(json!({
            "name": "m1",
            "spec": {"bridge": "br0", "type": "vxlan", "vni": 77, "peers": ["192.0.2.1", "192.0.2.2", "192.0.2.3"]},
            "own": ["192.0.2.1"],
            "peers": [
                {"port": "m1/192.0.2.2", "state": "up", "inner-mtu": 1450, "mtu-why": "path MTU less 50",
                 "remote": "192.0.2.2", "liveness": "up", "rtt-us": 1234, "loss-permille": 5, "path-mtu": 1500,
                 "since": 61},
                {"port": "m1/192.0.2.3", "state": "down", "reason": "no route to 192.0.2.3", "inner-mtu": 0,
                 "remote": "192.0.2.3", "liveness": "down"},
            ],
        }))
        .unwrap()
    }

    #[test]
    fn a_mesh_is_shown_peer_by_peer() {
        let expected = "\
mesh m1  vxlan 77 on br0, 2 peers, this host is 192.0.2.1
  PEER       PORT          STATE  SINCE   LOSS  ROUND TRIP  PATH MTU  INNER MTU  WHY
  192.0.2.2  m1/192.0.2.2  up     1 min  0.5 %    1.234 ms      1500       1450  path MTU less 50
  192.0.2.3  m1/192.0.2.3  down
    no route to 192.0.2.3
";
        assert_eq!(show(&mesh(), &Output::plain()), expected);
        let expected = "\
MESH  BRIDGE  TYPE      PEERS  UP  INNER MTU  OWNER
m1    br0     vxlan 77      2   1       1450  cli
";
        assert_eq!(list(&[mesh()], &Output::plain()), expected);
    }

    #[test]
    fn a_mesh_is_checked_without_a_daemon() {
        for (options, says) in [
            ("--type gre --peers 192.0.2.1,192.0.2.2 --key 7 --vlan 10 --no-bfd", Ok(())),
            (
                "--type gre --peers 192.0.2.1 --vni 7",
                Err("mesh m1: a mesh of type gre has no key 'vni'; it belongs to type vxlan or geneve"),
            ),
            (
                "--type vxlan --peers 192.0.2.1",
                Err("mesh m1: missing vni; give the virtual network's number, like vni 77"),
            ),
            (
                "--type gre --peers 192.0.2.1,192.0.2.1",
                Err("mesh m1: peer 192.0.2.1 is given twice; give it once"),
            ),
        ] {
            let line = format!("trunkline mesh add br0 m1 {options}");
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            let Command::Mesh(MeshCommand::Add { bridge, name, kind, peers, options }) = cli.command else {
                panic!()
            };
            let made = spec(&name, &bridge, kind, &peers, &options).map(drop);
            assert_eq!(made.map_err(|e| e.to_string()), says.map_err(str::to_owned), "{line}");
        }
    }
}
