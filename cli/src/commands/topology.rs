//! `trunkline show` and `trunkline watch`, and the words for what bridges and ports are.

use serde_json::json;
use trunkline_control::model::{
    BridgeStatus, DaemonStatus, Event, PortKind, PortSpec, PortState, PortStats, PortStatus, TunnelSpec,
    VlanMode,
};
use trunkline_control::validate;

use super::{Context, Outcome};
use crate::args::Json;
use crate::output::{Look, Output, Table, bytes, count, duration, plural};

pub(super) async fn show(context: &Context<'_>, json: Json) -> Outcome {
    let Context { client, out } = context;
    let (status, bridges) = (client.status().await?, client.bridges().await?);
    let (ports, stats) = (client.ports(None).await?, client.stats().await?);
    if json.json {
        return out.json(&json!({ "status": status, "bridges": bridges, "ports": ports, "stats": stats }));
    }
    out.print(&topology(&status, &bridges, &ports, &stats, out))
}

fn topology(
    status: &DaemonStatus,
    bridges: &[BridgeStatus],
    ports: &[PortStatus],
    stats: &[PortStats],
    out: &Output,
) -> String {
    let workers = plural(status.workers.into(), "worker", "s");
    let mut text = format!(
        "trunkline {}, pid {}, up {}, {workers}\n",
        status.version,
        status.pid,
        duration(status.uptime)
    );
    for one in bridges {
        text += "\n";
        text += &bridge(one, ports, stats, out);
    }
    if bridges.is_empty() {
        text += "no bridges; make one with: trunkline bridge add br0\n";
    }
    text
}

/// A bridge with its ports.
pub(super) fn bridge(
    bridge: &BridgeStatus,
    ports: &[PortStatus],
    stats: &[PortStats],
    out: &Output,
) -> String {
    let name = out.paint(Look::Bold, &format!("bridge {}", bridge.name));
    let addresses = plural(bridge.macs, "address", "es");
    let mut text = format!("{name}  {addresses}, ageing {} s\n", bridge.spec.ageing);
    let members: Vec<_> = ports.iter().filter(|p| p.spec.bridge == bridge.name).collect();
    if members.is_empty() {
        return text + "  no ports\n";
    }
    let heads = ["PORT", "TYPE", "INTERFACE", "VLAN", "STATE", "ADDRESSES", ">RECEIVED", ">SENT", ">DROPPED"];
    let mut table = Table::new(&heads).indented(2);
    for port in members {
        let plain = |text: String| (Look::Plain, text);
        let stats = stats.iter().find(|s| s.name == port.name);
        let dropped = stats.map_or(0, |s| s.drops.values().sum::<u64>() + s.ring_drops);
        table.row([
            plain(port.name.clone()),
            plain(kind(&port.spec).to_owned()),
            plain(interface(&port.name, &port.spec)),
            plain(vlan(&port.spec)),
            state(port.state),
            plain(addresses_of(&port.spec).join(" ")),
            plain(stats.map_or_else(String::new, |s| bytes(s.rx_bytes))),
            plain(stats.map_or_else(String::new, |s| bytes(s.tx_bytes))),
            plain(count(dropped)),
        ]);
        if !port.reason.is_empty() {
            table.note(Look::Bad, &port.reason);
        }
    }
    text += &table.render(out);
    text
}

pub(super) async fn watch(context: &Context<'_>, json: Json) -> Outcome {
    let mut events = context.client.watch().await?;
    while let Some(event) = events.next().await? {
        if json.json {
            context.out.json_line(&event)?;
        } else {
            context.out.print(&(said(&event) + "\n"))?;
        }
    }
    Ok(())
}

fn said(event: &Event) -> String {
    match event {
        Event::Hello { revision } => format!("watching from revision {revision}"),
        Event::Revision { revision } => format!("revision {revision}"),
        Event::Bridge(b) => {
            let ports = plural(b.ports.len() as u64, "port", "s");
            format!("bridge {}: {ports}, {}", b.name, plural(b.macs, "address", "es"))
        }
        Event::BridgeGone { name } => format!("bridge {name}: gone"),
        Event::Port(p) => {
            let why = if p.reason.is_empty() { String::new() } else { format!(", {}", p.reason) };
            let (interface, vlan) = (interface(&p.name, &p.spec), vlan(&p.spec));
            let of = if interface.is_empty() { String::new() } else { format!(" {interface}") };
            format!(
                "port {}: {}{why} ({}{of} on {}, VLAN {vlan})",
                p.name,
                state(p.state).1,
                kind(&p.spec),
                p.spec.bridge
            )
        }
        Event::PortGone { name } => format!("port {name}: gone"),
        Event::Mesh(m) => {
            let up = m.peers.iter().filter(|p| p.state == PortState::Up).count();
            format!(
                "mesh {}: {up} of {} up (on {})",
                m.name,
                plural(m.peers.len() as u64, "peer", "s"),
                m.spec.bridge
            )
        }
        Event::MeshGone { name } => format!("mesh {name}: gone"),
        Event::Gateway(g) => {
            let addresses: Vec<_> = g.spec.addresses.iter().map(ToString::to_string).collect();
            format!("gateway {}: {}", g.name, addresses.join(" "))
        }
        Event::GatewayGone { name } => format!("gateway {name}: gone"),
        Event::Uplink(u) => {
            let interface = u.interface.as_deref().unwrap_or("no interface");
            let reason = if u.reason.is_empty() { String::new() } else { format!(", {}", u.reason) };
            format!(
                "uplink {}: {}{reason} ({} {interface})",
                u.name,
                state(u.state).1,
                super::uplink::kind(&u.spec)
            )
        }
        Event::UplinkGone { name } => format!("uplink {name}: gone"),
        Event::Lagged { missed } => format!("{missed} changes were missed"),
    }
}

/// The port's type.
pub(super) fn kind(spec: &PortSpec) -> &'static str {
    match spec.kind {
        PortKind::Tap(_) => "tap",
        PortKind::Host(_) => "host",
        PortKind::Afpacket(_) => "afpacket",
        PortKind::Replay(_) => "replay",
        PortKind::Null {} => "null",
        PortKind::Gre(_) => "gre",
        PortKind::Nvgre(_) => "nvgre",
        PortKind::Vxlan(_) => "vxlan",
        PortKind::Geneve(_) => "geneve",
    }
}

/// What the port is on the other side: an interface, a file, a host.
pub(super) fn interface(name: &str, spec: &PortSpec) -> String {
    match &spec.kind {
        PortKind::Tap(tap) => {
            let ifname = tap.ifname.as_deref().unwrap_or(name);
            match &tap.netns {
                _ if tap.follow.is_some() => {
                    let follow = tap.follow.iter().map(ToString::to_string).collect::<String>();
                    format!("{ifname} in {follow}")
                }
                Some(netns) if netns.bytes().all(|b| b.is_ascii_digit()) => {
                    format!("{ifname} in pid {netns}")
                }
                Some(netns) => format!("{ifname} in {netns}"),
                None => ifname.to_owned(),
            }
        }
        PortKind::Host(host) => host.ifname.as_deref().unwrap_or(name).to_owned(),
        PortKind::Afpacket(a) => a.interface.clone(),
        PortKind::Replay(replay) => replay.file.clone(),
        PortKind::Null {} => String::new(),
        PortKind::Gre(t) | PortKind::Nvgre(t) | PortKind::Vxlan(t) | PortKind::Geneve(t) => far_ends(t),
    }
}

/// The remotes of a tunnel in short.
fn far_ends(tunnel: &TunnelSpec) -> String {
    let all: Vec<_> = tunnel.group.iter().chain(&tunnel.remotes).map(ToString::to_string).collect();
    match all.as_slice() {
        [first, rest @ ..] if rest.len() > 2 => format!("to {first} and {} more", rest.len()),
        all => format!("to {}", all.join(" ")),
    }
}

/// The port's VLANs in short.
pub(super) fn vlan(spec: &PortSpec) -> String {
    let tag = spec.vlan.map_or_else(String::new, |v| v.to_string());
    let trunks = spec.trunks.as_deref();
    if let Some((_, TunnelSpec { vlan_map: Some(map), .. })) = spec.kind.tunnel() {
        return format!("map {map}");
    }
    match validate::vlan_mode(spec) {
        VlanMode::Access => tag,
        VlanMode::Trunk if validate::untagged_only(spec) => "untagged".to_owned(),
        VlanMode::Trunk => trunks.map_or_else(|| "trunk".to_owned(), |t| format!("trunk {t}")),
        VlanMode::NativeTagged => format!("native {tag} tagged, trunk {}", trunks.unwrap_or("all")),
        VlanMode::NativeUntagged => format!("native {tag}, trunk {}", trunks.unwrap_or("all")),
        VlanMode::Dot1qTunnel => {
            trunks.map_or_else(|| format!("tunnel {tag}"), |t| format!("tunnel {tag}, customer {t}"))
        }
    }
}

/// Up or down, in colour.
pub(super) fn state(state: PortState) -> (Look, String) {
    match state {
        PortState::Up => (Look::Good, "up".to_owned()),
        PortState::Down => (Look::Bad, "down".to_owned()),
    }
}

fn addresses_of(spec: &PortSpec) -> Vec<String> {
    match &spec.kind {
        PortKind::Tap(tap) => tap.link.addresses.iter().map(ToString::to_string).collect(),
        PortKind::Host(host) => host.link.addresses.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    }
}

/// The port's addresses.
pub(super) fn addresses(spec: &PortSpec) -> String {
    addresses_of(spec).join(" ")
}

/// An MTU, if there is one, and why it is that.
pub(super) fn mtu(mtu: u32, why: &str) -> String {
    match (mtu, why) {
        (0, _) => String::new(),
        (mtu, "") => mtu.to_string(),
        (mtu, why) => format!("{mtu}, {why}"),
    }
}

#[cfg(test)]
pub(super) mod samples {
    use trunkline_control::model::PortStats;

    use super::*;

    fn port(name: &str, spec: serde_json::Value, reason: &str) -> PortStatus {
        let spec: PortSpec = serde_json::from_value(spec).unwrap();
        let up = reason.is_empty();
        PortStatus {
            name: name.into(),
            vlan_mode: validate::vlan_mode(&spec),
            leased: Vec::new(),
            spec,
            state: if up { PortState::Up } else { PortState::Down },
            reason: reason.into(),
            ifname: None,
            mac: up.then(|| "02:00:00:00:00:01".into()),
            mtu: if up { 1500 } else { 0 },
            mtu_why: String::new(),
            peers: Vec::new(),
            offloads: vec!["csum".into(), "tso4".into()],
            queues: 1,
            macs: 3,
        }
    }

    pub(in crate::commands) fn ports() -> Vec<PortStatus> {
        vec![
            port("br0", json!({"bridge": "br0", "type": "host", "addresses": ["10.7.0.254/24"]}), ""),
            port(
                "uplink",
                json!({"bridge": "br0", "type": "afpacket", "interface": "eth1", "trunks": "10,20"}),
                "eth1 does not exist",
            ),
            port(
                "web",
                json!({"bridge": "br0", "type": "tap", "netns": "web", "ifname": "eth0", "vlan": 10, "isolated": true,
                       "addresses": ["10.7.0.1/24"], "gateways": ["10.7.0.254"], "max-macs": 9, "offload": "off",
                       "labels": {"container": "web"}}),
                "",
            ),
        ]
    }

    pub(in crate::commands) fn stats(name: &str) -> PortStats {
        PortStats {
            name: name.into(),
            bridge: "br0".into(),
            rx_packets: 1200,
            rx_bytes: 9000,
            tx_packets: 7,
            tx_bytes: 800,
            tx_frames: 9,
            replicated: 4,
            drops: [("vlan-filtered".to_owned(), 2)].into(),
            ..PortStats::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> DaemonStatus {
        DaemonStatus { version: "0.1.0".into(), pid: 47, uptime: 3700, workers: 1, revision: 3 }
    }

    fn bridge_status() -> BridgeStatus {
        let ports = samples::ports().into_iter().map(|p| p.name).collect();
        BridgeStatus { name: "br0".into(), spec: Default::default(), ports, macs: 9, fdb: Default::default() }
    }

    #[test]
    fn the_topology_is_a_tree() {
        let stats = [samples::stats("br0"), samples::stats("web")];
        let empty = BridgeStatus { name: "br1".into(), ports: vec![], macs: 1, ..bridge_status() };
        let text =
            topology(&status(), &[bridge_status(), empty], &samples::ports(), &stats, &Output::plain());
        let expected = "\
trunkline 0.1.0, pid 47, up 1 h 1 min, 1 worker

bridge br0  9 addresses, ageing 300 s
  PORT    TYPE      INTERFACE    VLAN         STATE  ADDRESSES      RECEIVED   SENT  DROPPED
  br0     host      br0          trunk        up     10.7.0.254/24    9.0 kB  800 B        2
  uplink  afpacket  eth1         trunk 10,20  down                                         0
    eth1 does not exist
  web     tap       eth0 in web  10           up     10.7.0.1/24      9.0 kB  800 B        2

bridge br1  1 address, ageing 300 s
  no ports
";
        assert_eq!(text, expected);
        let text = topology(&status(), &[], &[], &[], &Output::plain());
        assert!(text.ends_with("no bridges; make one with: trunkline bridge add br0\n"), "{text}");
    }

    #[test]
    fn events_are_said_in_a_line() {
        let uplink = samples::ports().swap_remove(1);
        assert_eq!(
            said(&Event::Port(Box::new(uplink))),
            "port uplink: down, eth1 does not exist (afpacket eth1 on br0, VLAN trunk 10,20)"
        );
        assert_eq!(said(&Event::Bridge(Box::new(bridge_status()))), "bridge br0: 3 ports, 9 addresses");
    }

    #[test]
    fn vlans_are_said_in_short() {
        for (spec, says) in [
            (json!({}), "trunk"),
            (json!({"vlan": 4}), "4"),
            (json!({"trunks": "1-3"}), "trunk 1-3"),
            (json!({"vlan": 4, "trunks": "5"}), "native 4 tagged, trunk 5"),
            (json!({"vlan": 4, "vlan-mode": "native-untagged"}), "native 4, trunk all"),
            (json!({"vlan": 4, "vlan-mode": "dot1q-tunnel"}), "tunnel 4"),
            (json!({"type": "vxlan", "vni": 7, "remotes": ["192.0.2.2"]}), "untagged"),
            (json!({"type": "vxlan", "vni": 7, "remotes": ["192.0.2.2"], "inner-vlan": "keep"}), "trunk"),
            (json!({"type": "gre", "remotes": ["192.0.2.2"]}), "trunk"),
            (json!({"type": "gre", "remotes": ["192.0.2.2"], "vlan-map": "1=2"}), "map 1=2"),
        ] {
            let mut spec = spec;
            spec["bridge"] = "b".into();
            if spec.get("type").is_none() {
                spec["type"] = "null".into();
            }
            assert_eq!(vlan(&serde_json::from_value(spec).unwrap()), says);
        }
    }
}
