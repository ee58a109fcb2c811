//! What several tests share.
#![allow(dead_code, unreachable_pub)]

use std::net::IpAddr;

use trunkline_packet::checksum::Sum;
use trunkline_packet::{Checksum, Gso, GsoKind, MacAddr, Offload, Packet, Pool, PortId, VlanId};
use trunkline_tunnel::{Endpoint, GreKey, Kind, NetId, Outer, OuterPath, Tunnels, Vni};

pub const VNI: u32 = 77;
pub const PATH_A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
pub const PATH_B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);

pub fn vni() -> Vni {
    Vni::new(VNI).unwrap()
}

/// The addresses of two hosts, A and B.
pub fn hosts(v6: bool) -> (IpAddr, IpAddr) {
    let [a, b] = if v6 { ["2001:db8::1", "2001:db8::2"] } else { ["192.0.2.1", "192.0.2.2"] };
    (a.parse().unwrap(), b.parse().unwrap())
}

/// The way from A to B.
pub fn path(v6: bool) -> OuterPath {
    OuterPath { src_mac: PATH_A, dst_mac: PATH_B, vlan: None, src: hosts(v6).0 }
}

/// Every kind of endpoint: GRE plain, keyed, with checksum, with everything; NVGRE, VXLAN, Geneve.
pub const ENDPOINTS: usize = 7;

/// Endpoint number `index` of the host at `local` towards `remote`, port 10 + index.
pub fn endpoint(index: usize, local: IpAddr, remote: IpAddr) -> Endpoint {
    let (kind, net) = match index {
        0 => (Kind::Gre, NetId::None),
        1..=3 => (Kind::Gre, NetId::Key(GreKey(6 + index as u32))),
        4 => (Kind::Nvgre, NetId::Vni(vni())),
        5 => (Kind::Vxlan, NetId::Vni(vni())),
        _ => (Kind::Geneve, NetId::Vni(vni())),
    };
    let mut e = Endpoint::new(PortId(10 + index as u16), kind, net);
    e.local = Some(local);
    e.remotes = vec![remote];
    e.gre_checksum = matches!(index, 2 | 3);
    e.gre_sequence = index == 3;
    e
}

/// The tunnels of A towards B (`from_a`) or of B towards A, of both families.
pub fn tunnels(from_a: bool, change: impl Fn(&mut Endpoint)) -> Tunnels {
    let mut all = Vec::new();
    for v6 in [false, true] {
        let (a, b) = hosts(v6);
        let (local, remote) = if from_a { (a, b) } else { (b, a) };
        for index in 0..ENDPOINTS {
            let mut e = endpoint(index, local, remote);
            e.port.0 += if v6 { 100 } else { 0 };
            change(&mut e);
            all.push(e);
        }
    }
    Tunnels::new(all).unwrap()
}

pub fn port(index: usize, v6: bool) -> PortId {
    PortId(10 + index as u16 + if v6 { 100 } else { 0 })
}

/// A frame inside: TCP or UDP over IPv4 or IPv6, with the VLAN tags in the bytes.
#[derive(Clone, Debug)]
pub struct Frame {
    pub v6: bool,
    pub tcp: bool,
    pub tags: usize,
    pub payload: usize,
    pub tos: u8,
    /// 0 for a finished checksum, 1 for a partial one, else the segment size of a superframe.
    pub offload: usize,
    pub ports: (u16, u16),
}

impl Frame {
    pub const SMALL: Frame =
        Frame { v6: false, tcp: true, tags: 0, payload: 100, tos: 0, offload: 0, ports: (1000, 2000) };

    pub fn build(&self, pool: &mut Pool) -> Packet {
        let payload: Vec<u8> = (0..self.payload).map(|i| (i * 31 + 7) as u8).collect();
        self.build_with(&payload, pool)
    }

    pub fn build_with(&self, payload: &[u8], pool: &mut Pool) -> Packet {
        let mut b = vec![2, 0, 0, 0, 1, 2, 2, 0, 0, 0, 1, 1];
        for tag in 0..self.tags {
            b.extend([0x81, 0, 0x60, tag as u8 + 5]);
        }
        let proto = if self.tcp { 6 } else { 17 };
        let l4_len = payload.len() + if self.tcp { 20 } else { 8 };
        let src_dst: Vec<u8>;
        if self.v6 {
            b.extend([0x86, 0xdd]);
            b.extend((6 << 28 | u32::from(self.tos) << 20).to_be_bytes());
            b.extend((l4_len as u16).to_be_bytes());
            b.extend([proto, 63]);
            src_dst = (0..32).map(|i| i * 3 + 1).collect();
            b.extend(&src_dst);
        } else {
            b.extend([8, 0]);
            let l3 = b.len();
            b.extend([0x45, self.tos]);
            b.extend((20 + l4_len as u16).to_be_bytes());
            b.extend([0x12, 0x34, 0x40, 0, 63, proto, 0, 0]);
            src_dst = vec![10, 0, 0, 1, 10, 0, 0, 2];
            b.extend(&src_dst);
            let check = Sum::ZERO.bytes(&b[l3..]).finish();
            b[l3 + 10..l3 + 12].copy_from_slice(&check.to_be_bytes());
        }
        let l4 = b.len();
        b.extend(self.ports.0.to_be_bytes());
        b.extend(self.ports.1.to_be_bytes());
        let offset = if self.tcp {
            b.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
            16
        } else {
            b.extend((l4_len as u16).to_be_bytes());
            b.extend([0, 0]);
            6
        };
        b.extend(payload);
        let pseudo = Sum::ZERO.bytes(&src_dst).add(proto.into()).add(l4_len as u32);
        let check = if self.offload == 0 { pseudo.bytes(&b[l4..]).finish() } else { pseudo.fold() };
        b[l4 + offset..l4 + offset + 2].copy_from_slice(&check.to_be_bytes());
        let mut packet = pool.get();
        packet.set_bytes(&b, pool).unwrap();
        if self.offload > 0 {
            let kind = match (self.tcp, self.v6) {
                _ if self.offload == 1 => GsoKind::None,
                (true, false) => GsoKind::TcpV4,
                (true, true) => GsoKind::TcpV6,
                (false, _) => GsoKind::UdpL4,
            };
            let size = if self.offload == 1 { 0 } else { self.offload as u16 };
            packet.meta_mut().offload = Offload {
                csum: Checksum::Partial { start: l4 as u16, offset: offset as u16 },
                gso: Gso { kind, ecn: false, size },
            };
        }
        packet
    }
}

pub fn packet(bytes: &[u8], pool: &mut Pool) -> Packet {
    let mut p = pool.get();
    p.set_bytes(bytes, pool).unwrap();
    p
}

pub const UNTAGGED: VlanId = VlanId::NONE;

/// The outer headers of a VXLAN packet from A to B.
pub fn vxlan_from_a(tos: u8) -> Outer {
    let (src, dst) = hosts(false);
    Outer { src, dst, src_port: 50000, dst_port: 4789, tos, ttl: 64, proto: 17 }
}
