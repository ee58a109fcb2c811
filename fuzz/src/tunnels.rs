//! The tunnels that several targets share: one of each kind between two hosts, of both families.

use std::net::IpAddr;

use trunkline_packet::{MacAddr, PortId};
use trunkline_tunnel::{Endpoint, GreKey, Kind, NetId, OuterPath, Tunnels, Vni};

/// How many kinds: GRE plain, keyed, with checksum, with everything; NVGRE, VXLAN, Geneve.
pub const KINDS: u8 = 7;

/// The network of all tunnels that have a VNI.
pub const VNI: u32 = 77;

/// The addresses of the two hosts.
pub fn hosts(v6: bool) -> (IpAddr, IpAddr) {
    if v6 {
        (IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]), IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 2]))
    } else {
        (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]))
    }
}

/// The tunnel of this kind from host A to B, or from B to A.
pub fn endpoint(kind: u8, v6: bool, from_a: bool) -> Endpoint {
    let vni = NetId::Vni(Vni::new(VNI).unwrap_or(Vni::MAX));
    let index = kind % KINDS;
    let (kind, net) = match index {
        0 => (Kind::Gre, NetId::None),
        1..=3 => (Kind::Gre, NetId::Key(GreKey(6 + u32::from(index)))),
        4 => (Kind::Nvgre, vni),
        5 => (Kind::Vxlan, vni),
        _ => (Kind::Geneve, vni),
    };
    let mut endpoint = Endpoint::new(PortId(10 + u16::from(index)), kind, net);
    let (a, b) = hosts(v6);
    let (local, remote) = if from_a { (a, b) } else { (b, a) };
    (endpoint.local, endpoint.remotes) = (Some(local), vec![remote]);
    endpoint.gre_checksum = matches!(index, 2 | 3);
    endpoint.gre_sequence = index == 3;
    endpoint
}

/// All of host B's.
pub fn all_of_b() -> Tunnels {
    let both = [false, true].into_iter().flat_map(|v6| {
        (0..KINDS).map(move |kind| {
            let mut endpoint = endpoint(kind, v6, false);
            endpoint.port.0 += if v6 { 100 } else { 0 };
            endpoint
        })
    });
    Tunnels::new(both.collect()).expect("they do not conflict")
}

/// The way from A to B.
pub fn path(v6: bool) -> OuterPath {
    let (src_mac, dst_mac) = (MacAddr([2, 0, 0, 0, 0, 0xa]), MacAddr([2, 0, 0, 0, 0, 0xb]));
    OuterPath { src_mac, dst_mac, vlan: None, src: hosts(v6).0 }
}
