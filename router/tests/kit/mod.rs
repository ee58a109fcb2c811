//! A router with two gateways and an uplink, and what it sends.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::net::IpAddr;
use std::sync::Arc;

use etherparse::{PacketBuilder, PacketBuilderStep, SlicedPacket};
use ipnet::IpNet;
use trunkline_packet::{DropReason, MacAddr, Packet, Pool};
use trunkline_router::{
    Iface, IfaceId, Kind, Limits, Neighbours, Received, Route, Router, Sink, Tables, Zone,
};

pub(crate) const A: IfaceId = IfaceId(0);
pub(crate) const B: IfaceId = IfaceId(1);
pub(crate) const UP: IfaceId = IfaceId(2);
/// The MAC addresses of the interfaces, and of hosts on them.
pub(crate) const MACS: [MacAddr; 3] =
    [MacAddr([2, 0, 0, 0, 0xaa, 1]), MacAddr([2, 0, 0, 0, 0xbb, 1]), MacAddr([2, 0, 0, 0, 0xcc, 1])];
pub(crate) const HOST: MacAddr = MacAddr([2, 0, 0, 0, 0xaa, 9]);
pub(crate) const PEER: MacAddr = MacAddr([2, 0, 0, 0, 0xbb, 9]);

pub(crate) fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

pub(crate) fn net(s: &str) -> IpNet {
    s.parse().unwrap()
}

pub(crate) fn iface(id: IfaceId, kind: Kind, addresses: &[&str]) -> Iface {
    Iface {
        id,
        kind,
        mac: MACS[usize::from(id.0)],
        mtu: 1500,
        addresses: addresses.iter().map(|a| net(a)).collect(),
        proxies: Vec::new(),
        nd_proxy: Vec::new(),
        isolated: false,
        services: Arc::default(),
    }
}

pub(crate) fn gateway(zone: u16) -> Kind {
    Kind::Gateway { zone: Zone(zone), open: true }
}

/// The first gateway keeps its hosts apart.
pub(crate) fn isolated() -> Vec<Iface> {
    let mut all = ifaces();
    all[0].isolated = true;
    all
}

pub(crate) fn ifaces() -> Vec<Iface> {
    vec![
        iface(A, gateway(1), &["10.77.0.1/24", "fd77::1/64"]),
        iface(B, gateway(2), &["10.78.0.1/24", "fd78::1/64"]),
        iface(UP, Kind::Uplink { shared: false }, &["192.0.2.10/24", "2001:db8::10/64"]),
    ]
}

pub(crate) fn routes() -> Vec<Route> {
    let to = |prefix, via| Route { prefix: net(prefix), via: Some(ip(via)), iface: UP, metric: 0 };
    vec![to("0.0.0.0/0", "192.0.2.1"), to("::/0", "2001:db8::1")]
}

/// What a router did.
#[derive(Default)]
pub(crate) struct Out {
    pub(crate) sent: Vec<(IfaceId, Vec<u8>, bool)>,
    pub(crate) injected: Vec<(IfaceId, Packet)>,
    pub(crate) consumed: usize,
    pub(crate) dropped: Vec<(IfaceId, DropReason)>,
    pub(crate) resolved: usize,
    pub(crate) offloads: Vec<trunkline_packet::Offload>,
}

impl Sink for Out {
    fn send(&mut self, iface: IfaceId, packet: Packet, made: bool) {
        self.offloads.push(packet.meta().offload);
        self.sent.push((iface, packet.to_vec(), made));
    }
    fn inject(&mut self, iface: IfaceId, packet: Packet) {
        self.injected.push((iface, packet));
    }
    fn consumed(&mut self, _: IfaceId, _: usize) {
        self.consumed += 1;
    }
    fn dropped(&mut self, iface: IfaceId, reason: DropReason) {
        self.dropped.push((iface, reason));
    }
    fn resolved(&mut self) {
        self.resolved += 1;
    }
}

pub(crate) struct Rig {
    pub(crate) router: Router,
    pub(crate) neighbours: Arc<Neighbours>,
    pub(crate) pool: Pool,
    pub(crate) now: u64,
    pub(crate) out: Out,
}

impl Rig {
    pub(crate) fn new() -> Rig {
        Rig::with(ifaces(), &routes(), Limits::default())
    }

    /// Quiet: announcements have been made.
    pub(crate) fn with(ifaces: Vec<Iface>, routes: &[Route], limits: Limits) -> Rig {
        let neighbours = Arc::new(Neighbours::new(limits));
        let mut router = Router::new(Arc::clone(&neighbours), true);
        router.set_tables(0, Arc::new(Tables::new(ifaces, routes).unwrap()));
        let mut rig = Rig { router, neighbours, pool: Pool::new(64, 8), now: 10_000, out: Out::default() };
        rig.tick();
        rig.now += 10_000;
        rig.tick();
        rig.out = Out::default();
        rig
    }

    pub(crate) fn tick(&mut self) {
        self.router.tick(self.now, &mut self.pool, &mut self.out);
    }

    /// Until nothing is due before `end`.
    pub(crate) fn run_until(&mut self, end: u64) {
        while self.router.next_due() <= end {
            self.now = self.router.next_due().max(self.now);
            self.tick();
        }
        self.now = end;
        self.tick();
    }

    pub(crate) fn packet(&mut self, frame: &[u8]) -> Packet {
        let mut packet = self.pool.get();
        packet.set_bytes(frame, &mut self.pool).unwrap();
        packet
    }

    /// A frame comes in; without translation, everything is carried on.
    pub(crate) fn receive(&mut self, at: IfaceId, frame: &[u8]) -> &mut Out {
        let packet = self.packet(frame);
        self.receive_packet(at, packet)
    }

    pub(crate) fn receive_packet(&mut self, at: IfaceId, packet: Packet) -> &mut Out {
        let Rig { router, pool, out, now, .. } = self;
        match router.receive(*now, at, packet, pool, out) {
            Received::Done => {}
            Received::Local(packet) | Received::Answer(packet) => router.local(*now, at, packet, pool, out),
            Received::Forward(packet, hop) => router.transmit(*now, hop, packet, pool, out),
            Received::Inbound(packet) => {
                router.unsolicited(*now, at, packet, DropReason::NatUnsolicited, pool, out);
            }
        }
        out
    }

    /// A neighbour is learned by asking and being answered.
    pub(crate) fn know(&mut self, at: IfaceId, addr: &str, mac: MacAddr) {
        self.neighbours.set_static(self.now, at, &[(ip(addr), mac)]);
    }

    pub(crate) fn take(&mut self) -> Out {
        std::mem::take(&mut self.out)
    }
}

/// A frame from a host to an interface's MAC address.
pub(crate) fn build(at: IfaceId, src: &str, dst: &str, ttl: u8) -> PacketBuilderStep<etherparse::IpHeaders> {
    let b = PacketBuilder::ethernet2(HOST.0, MACS[usize::from(at.0)].0);
    match (ip(src), ip(dst)) {
        (IpAddr::V4(s), IpAddr::V4(d)) => b.ipv4(s.octets(), d.octets(), ttl),
        (IpAddr::V6(s), IpAddr::V6(d)) => b.ipv6(s.octets(), d.octets(), ttl),
        _ => panic!("mixed families"),
    }
}

pub(crate) fn udp(at: IfaceId, src: &str, dst: &str, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    build(at, src, dst, ttl).udp(4000, 5000).write(&mut frame, payload).unwrap();
    frame
}

pub(crate) fn ping(at: IfaceId, src: &str, dst: &str, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let b = build(at, src, dst, 64);
    if ip(src).is_ipv4() {
        b.icmpv4_echo_request(7, 1).write(&mut frame, payload).unwrap();
    } else {
        b.icmpv6_echo_request(7, 1).write(&mut frame, payload).unwrap();
    }
    frame
}

/// Sets or clears the bit that forbids fragmenting, with the checksum.
pub(crate) fn dont_fragment(frame: &mut [u8], on: bool) {
    frame[20] = if on { 0x40 } else { 0 };
    fix_v4(frame);
}

/// Puts the IPv4 header checksum right.
pub(crate) fn fix_v4(frame: &mut [u8]) {
    let end = 14 + usize::from(frame[14] & 0xf) * 4;
    frame[24..26].fill(0);
    let sum = frame[14..end].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    frame[24..26].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
}

/// Checks every checksum of a frame, with another implementation.
pub(crate) fn assert_valid(frame: &[u8]) {
    use etherparse::{NetSlice, TransportSlice};
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let fragmented = match sliced.net.as_ref() {
        Some(NetSlice::Ipv4(v4)) => {
            let h = v4.header().to_header();
            assert_eq!(h.header_checksum, h.calc_header_checksum());
            h.is_fragmenting_payload()
        }
        _ => false,
    };
    if fragmented {
        return;
    }
    let (Some(net), Some(transport)) = (sliced.net, sliced.transport) else { return };
    match (net, transport) {
        (NetSlice::Ipv4(v4), TransportSlice::Udp(u)) => {
            let sum = u.to_header().calc_checksum_ipv4(&v4.header().to_header(), u.payload()).unwrap();
            assert_eq!(u.checksum(), sum);
        }
        (NetSlice::Ipv6(v6), TransportSlice::Udp(u)) => {
            let sum = u.to_header().calc_checksum_ipv6(&v6.header().to_header(), u.payload()).unwrap();
            assert_eq!(u.checksum(), sum);
        }
        (NetSlice::Ipv4(_), TransportSlice::Icmpv4(i)) => {
            assert_eq!(i.checksum(), i.header().icmp_type.calc_checksum(i.payload()));
        }
        (NetSlice::Ipv6(v6), TransportSlice::Icmpv6(i)) => {
            let h = v6.header();
            assert!(i.is_checksum_valid(h.source(), h.destination()));
        }
        _ => {}
    }
}

pub(crate) const ARP_REQUEST: u8 = 1;
pub(crate) const ARP_REPLY: u8 = 2;

/// An ARP message in a frame.
pub(crate) fn arp(op: u8, dst: MacAddr, sender: (MacAddr, &str), target: (MacAddr, &str)) -> Vec<u8> {
    let v4 = |s: &str| match ip(s) {
        IpAddr::V4(a) => a.octets(),
        IpAddr::V6(_) => panic!("ARP is for IPv4"),
    };
    let mut f = [dst.0, sender.0.0].concat();
    f.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, op]);
    f.extend(sender.0.0);
    f.extend(v4(sender.1));
    f.extend(target.0.0);
    f.extend(v4(target.1));
    f
}

/// A neighbour discovery message in a frame, with its checksum.
pub(crate) fn nd(mac: (MacAddr, MacAddr), src: &str, dst: &str, hop_limit: u8, message: &[u8]) -> Vec<u8> {
    let (IpAddr::V6(s), IpAddr::V6(d)) = (ip(src), ip(dst)) else { panic!("ND is for IPv6") };
    let mut f = [mac.1.0, mac.0.0].concat();
    f.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, message.len() as u8, 58, hop_limit]);
    f.extend(s.octets());
    f.extend(d.octets());
    let sum = trunkline_packet::checksum::Sum::ZERO.pseudo_v6(s, d, 58, message.len() as u32);
    let check = sum.bytes(message).finish();
    f.extend(&message[..2]);
    f.extend(check.to_be_bytes());
    f.extend(&message[4..]);
    f
}

/// The body of a solicitation (135) or advertisement (136) about `target`.
pub(crate) fn nd_body(kind: u8, flags: u8, target: &str, mac: Option<MacAddr>) -> Vec<u8> {
    let IpAddr::V6(t) = ip(target) else { panic!("ND is for IPv6") };
    let mut m = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    m.extend(t.octets());
    if let Some(mac) = mac {
        m.extend([if kind == 135 { 1 } else { 2 }, 1]);
        m.extend(mac.0);
    }
    m
}

/// ICMP type and code of a frame.
pub(crate) fn icmp(frame: &[u8]) -> (u8, u8) {
    let at = if frame[12] == 8 { 14 + usize::from(frame[14] & 0xf) * 4 } else { 54 };
    (frame[at], frame[at + 1])
}
