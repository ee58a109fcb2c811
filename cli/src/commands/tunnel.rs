//! Tunnels in words: for `port show` and `mesh show`.

use trunkline_control::model::tunnel::{Inherit, Liveness};
use trunkline_control::model::{InnerVlan, PeerStatus, PortStatus, TunnelSpec};

use crate::output::duration;

/// What `port show` says of a tunnel, by name.
pub(super) fn lines(port: &PortStatus) -> Vec<(&'static str, String)> {
    let Some((_, t)) = port.spec.kind.tunnel() else { return Vec::new() };
    let words = |all: &[std::net::IpAddr]| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let group = match (t.group, &t.group_interface) {
        (Some(group), Some(interface)) => format!("{group} by {interface}"),
        _ => String::new(),
    };
    let mut lines = vec![
        ("remotes", words(&t.remotes)),
        ("group", group),
        ("local", t.local.map(|a| a.to_string()).unwrap_or_default()),
        ("vni", t.vni.map(|n| n.to_string()).unwrap_or_default()),
        ("key", t.key.map(|n| n.to_string()).unwrap_or_default()),
        ("vlan map", t.vlan_map.clone().unwrap_or_default()),
        ("tunnel", options(t)),
    ];
    lines.extend(port.peers.iter().map(|peer| ("peer", far_end(peer))));
    lines
}

/// What is not as it is by default.
fn options(t: &TunnelSpec) -> String {
    let mut words: Vec<String> = Vec::new();
    let flags = [
        (t.csum, "csum"),
        (t.seq, "seq"),
        (t.udp_csum == Some(true), "udp-csum"),
        (t.udp_csum == Some(false), "udp-csum=false"),
        (t.zero_csum6, "zero-csum6"),
        (!t.df, "no-df"),
        (!t.mss_clamp, "no-mss-clamp"),
        (!t.learn_remotes, "no-learning-remotes"),
        (t.bfd == Some(true), "bfd"),
    ];
    words.extend(flags.iter().filter(|(on, _)| *on).map(|(_, name)| (*name).to_owned()));
    let byte = |byte: Inherit| match byte {
        Inherit::Inner => "inherit".to_owned(),
        Inherit::Fixed(n) => n.to_string(),
    };
    let inner_vlan = |mode| match mode {
        InnerVlan::Strip => "strip".to_owned(),
        InnerVlan::Keep => "keep".to_owned(),
    };
    let values = [
        ("dst-port", t.dst_port.map(|n| n.to_string())),
        ("tos", t.tos.map(byte)),
        ("ttl", t.ttl.map(byte)),
        ("inner-vlan", t.inner_vlan.map(inner_vlan)),
        ("bfd-interval", t.bfd_interval.map(|n| n.to_string())),
        ("bfd-multiplier", t.bfd_multiplier.map(|n| n.to_string())),
        ("underlay", t.underlay.clone()),
    ];
    words.extend(values.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?))));
    words.join(" ")
}

fn far_end(peer: &PeerStatus) -> String {
    let mut words = vec![peer.remote.to_string(), liveness(peer.liveness).to_owned()];
    if !peer.diag.is_empty() {
        words.push(format!("({})", peer.diag));
    }
    words.extend(peer.since.map(|s| format!("for {}", duration(s))));
    let named = [("round trip", round_trip(peer)), ("loss", loss(peer))];
    words.extend(named.into_iter().filter(|(_, v)| !v.is_empty()).map(|(name, v)| format!("{name} {v}")));
    words.push(peer.path_mtu.map_or_else(|| "no route".to_owned(), |mtu| format!("path MTU {mtu}")));
    words.join(" ")
}

/// Lost packets in per cent.
pub(super) fn loss(peer: &PeerStatus) -> String {
    peer.loss_permille.map_or_else(String::new, |n| format!("{}.{} %", n / 10, n % 10))
}

/// Milliseconds.
pub(super) fn round_trip(peer: &PeerStatus) -> String {
    peer.rtt_us.map_or_else(String::new, |us| format!("{}.{:03} ms", us / 1000, us % 1000))
}

/// What BFD says, in a word.
fn liveness(liveness: Liveness) -> &'static str {
    match liveness {
        Liveness::Unknown => "not watched",
        Liveness::Down => "down",
        Liveness::Init => "init",
        Liveness::Up => "up",
        Liveness::AdminDown => "admin-down",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tunnel_is_said_line_by_line() {
        let port: PortStatus = serde_json::from_value(json!({
            "name": "gre0", "state": "up", "mtu": 1454, "offloads": [], "queues": 1, "macs": 0,
            "vlan-mode": "trunk",
            "spec": {"bridge": "br0", "type": "gre", "remotes": ["192.0.2.2"], "key": 7, "csum": true,
                     "ttl": "inherit", "df": false, "bfd": true},
            "peers": [{"remote": "192.0.2.2", "liveness": "down", "diag": "no packet in time", "since": 4,
                       "path-mtu": 1500, "rtt-us": 87, "loss-permille": 1000}],
        }))
        .unwrap();
        let text: Vec<_> = lines(&port)
            .into_iter()
            .filter(|(_, v)| !v.is_empty())
            .map(|(k, v)| format!("{k}: {v}"))
            .collect();
        assert_eq!(
            text,
            [
                "remotes: 192.0.2.2",
                "key: 7",
                "tunnel: csum no-df bfd ttl=inherit",
                "peer: 192.0.2.2 down (no packet in time) for 4 s round trip 0.087 ms loss 100.0 % path MTU 1500",
            ]
        );
    }
}
