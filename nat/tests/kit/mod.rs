//! Packets to send through a [`Nat`], and etherparse as the judge of what comes out.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use std::net::{IpAddr, SocketAddr};

use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, PayloadSlice, TransportHeader};
use trunkline_nat::{
    Config, DropReason, Filtering, Nat, Path, Prefix, Rule, RuleId, Sink, Toward, Uplink, Zone,
};
use trunkline_packet::{Packet, Pool};

pub const ZONE: Zone = Zone(1);
pub const UP: Uplink = Uplink(2);
pub const OUT: Path = Path::Out(ZONE, UP);
pub const IN: Path = Path::In(UP);

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// What came out.
#[derive(Default)]
pub struct Sunk {
    pub sent: Vec<(Packet, Toward)>,
    pub dropped: Vec<(Packet, DropReason)>,
}

impl Sink for Sunk {
    fn forward(&mut self, packet: Packet, toward: Toward) {
        self.sent.push((packet, toward));
    }
    fn drop(&mut self, packet: Packet, reason: DropReason) {
        self.dropped.push((packet, reason));
    }
}

pub fn addr(s: &str) -> SocketAddr {
    s.parse().unwrap()
}

pub fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

/// The plain masquerade of 10.77.0.0/16 and fd77::/64.
pub fn masquerade(pool: &[&str], ports: (u16, u16), filtering: Filtering) -> Rule {
    let from = if pool[0].contains(':') { (ip("fd77::"), 64) } else { (ip("10.77.0.0"), 16) };
    Rule::Masquerade {
        zone: ZONE,
        from: Prefix::new(from.0, from.1).unwrap(),
        uplink: UP,
        pool: pool.iter().map(|a| ip(a)).collect(),
        ports,
        filtering,
    }
}

pub fn publish(proto: u8, external: &str, to: &str) -> Rule {
    let (e, t) = (addr(external), addr(to));
    Rule::Publish {
        uplink: UP,
        proto,
        external: e.ip(),
        ports: (e.port(), e.port()),
        zone: ZONE,
        to: t.ip(),
        to_ports: (t.port(), t.port()),
    }
}

pub struct World {
    pub nat: Nat,
    pub now: u64,
    pool: Pool,
}

/// What became of one packet.
pub type Outcome = Result<Vec<u8>, DropReason>;

impl World {
    pub fn new(config: Config, rules: &[Rule]) -> World {
        let mut nat = Nat::new(config);
        for (i, rule) in rules.iter().enumerate() {
            nat.add_rule(RuleId(i as u32), rule.clone()).unwrap();
        }
        World { nat, now: 1_000_000, pool: Pool::new(64, 64) }
    }

    /// The usual: one external address.
    pub fn usual() -> World {
        World::with(Filtering::AddressAndPort)
    }

    pub fn with(filtering: Filtering) -> World {
        let rules = [
            masquerade(&["192.0.2.10"], (1024, 65535), filtering),
            masquerade(&["2001:db8::10"], (1024, 65535), filtering),
            publish(6, "192.0.2.10:8080", "10.77.0.2:80"),
            publish(17, "192.0.2.10:53", "10.77.0.2:53"),
            publish(6, "[2001:db8::10]:8080", "[fd77::2]:80"),
            publish(17, "[2001:db8::10]:53", "[fd77::2]:53"),
        ];
        World::new(Config::for_capacity(4096), &rules)
    }

    pub fn packet(&mut self, bytes: &[u8]) -> Packet {
        let mut packet = self.pool.get();
        packet.set_bytes(bytes, &mut self.pool).unwrap();
        packet
    }

    /// All that comes out for one packet.
    pub fn all(&mut self, path: Path, bytes: &[u8]) -> Sunk {
        let packet = self.packet(bytes);
        let mut sunk = Sunk::default();
        self.nat.process(self.now, path, packet, &mut sunk);
        sunk
    }

    /// The one thing that comes out. What is forwarded has right checksums.
    pub fn send(&mut self, path: Path, bytes: &[u8]) -> Outcome {
        let mut sunk = self.all(path, bytes);
        assert_eq!(sunk.sent.len() + sunk.dropped.len(), 1);
        match sunk.sent.pop() {
            Some((packet, _)) => {
                let out = packet.to_vec();
                verify(&out);
                Ok(out)
            }
            None => Err(sunk.dropped[0].1),
        }
    }

    pub fn out(&mut self, bytes: &[u8]) -> Outcome {
        self.send(OUT, bytes)
    }

    pub fn back(&mut self, bytes: &[u8]) -> Outcome {
        self.send(IN, bytes)
    }

    pub fn pass(&mut self, ms: u64) {
        self.now += ms;
    }
}

fn build(src: SocketAddr, dst: SocketAddr) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    let b = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    match (src.ip(), dst.ip()) {
        (IpAddr::V4(s), IpAddr::V4(d)) => b.ipv4(s.octets(), d.octets(), 64),
        (IpAddr::V6(s), IpAddr::V6(d)) => b.ipv6(s.octets(), d.octets(), 64),
        _ => panic!("mixed families"),
    }
}

pub fn udp(src: &str, dst: &str, payload: &[u8]) -> Vec<u8> {
    udp_to(addr(src), addr(dst), payload)
}

pub fn udp_to(src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    build(src, dst).udp(src.port(), dst.port()).write(&mut out, payload).unwrap();
    out
}

/// A segment; `options` only for a SYN.
#[derive(Clone, Copy)]
pub struct Seg {
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub win: u16,
    pub len: usize,
    pub scale: Option<u8>,
}

impl Seg {
    pub fn new(flags: u8, seq: u32, ack: u32) -> Seg {
        Seg { flags, seq, ack, win: 65535, len: 0, scale: None }
    }
    pub fn len(self, len: usize) -> Seg {
        Seg { len, ..self }
    }
    pub fn win(self, win: u16) -> Seg {
        Seg { win, ..self }
    }
    pub fn scale(self, scale: u8) -> Seg {
        Seg { scale: Some(scale), ..self }
    }
}

pub fn tcp(src: &str, dst: &str, seg: Seg) -> Vec<u8> {
    tcp_to(addr(src), addr(dst), seg)
}

pub fn tcp_to(src: SocketAddr, dst: SocketAddr, seg: Seg) -> Vec<u8> {
    let mut h = etherparse::TcpHeader::new(src.port(), dst.port(), seg.seq, seg.win);
    h.acknowledgment_number = seg.ack;
    (h.fin, h.syn, h.rst, h.ack) =
        (seg.flags & FIN != 0, seg.flags & SYN != 0, seg.flags & RST != 0, seg.flags & ACK != 0);
    if let Some(scale) = seg.scale {
        h.set_options_raw(&[1, 3, 3, scale]).unwrap();
    }
    let mut out = Vec::new();
    build(src, dst).tcp_header(h).write(&mut out, &vec![7; seg.len]).unwrap();
    out
}

pub fn ping(src: &str, dst: &str, id: u16, reply: bool) -> Vec<u8> {
    let (src, dst) = (SocketAddr::new(ip(src), 0), SocketAddr::new(ip(dst), 0));
    let (mut out, payload) = (Vec::new(), [1, 2, 3, 4, 5]);
    let b = build(src, dst);
    match (src.is_ipv4(), reply) {
        (true, false) => b.icmpv4_echo_request(id, 1).write(&mut out, &payload),
        (true, true) => b.icmpv4_echo_reply(id, 1).write(&mut out, &payload),
        (false, false) => b.icmpv6_echo_request(id, 1).write(&mut out, &payload),
        (false, true) => b.icmpv6_echo_reply(id, 1).write(&mut out, &payload),
    }
    .unwrap();
    out
}

/// An ICMP "too big" about a frame, of which `keep` bytes of IP packet are quoted.
pub fn too_big(src: &str, dst: &str, about: &[u8], keep: usize) -> Vec<u8> {
    let (src, dst) = (SocketAddr::new(ip(src), 0), SocketAddr::new(ip(dst), 0));
    let quoted = &about[14..(14 + keep).min(about.len())];
    let mut out = Vec::new();
    let b = build(src, dst);
    if src.is_ipv4() {
        let kind = etherparse::Icmpv4Type::DestinationUnreachable(
            etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1280 },
        );
        b.icmpv4(kind).write(&mut out, quoted).unwrap();
    } else {
        b.icmpv6(etherparse::Icmpv6Type::PacketTooBig { mtu: 1280 }).write(&mut out, quoted).unwrap();
    }
    out
}

/// The pieces of an IPv4 frame, `size` bytes of payload each (a multiple of 8).
pub fn fragments(frame: &[u8], size: usize) -> Vec<Vec<u8>> {
    let payload = &frame[34..];
    let count = payload.len().div_ceil(size);
    (0..count)
        .map(|i| {
            let part = &payload[i * size..((i + 1) * size).min(payload.len())];
            piece(frame, i * size, part, i + 1 < count)
        })
        .collect()
}

pub fn piece(frame: &[u8], at: usize, part: &[u8], more: bool) -> Vec<u8> {
    let mut b = [&frame[..34], part].concat();
    b[16..18].copy_from_slice(&(20 + part.len() as u16).to_be_bytes());
    b[18..20].copy_from_slice(&[0x12, 0x34]);
    b[20..22].copy_from_slice(&((at / 8) as u16 | if more { 0x2000 } else { 0 }).to_be_bytes());
    let h = etherparse::Ipv4Header::from_slice(&b[14..]).unwrap().0;
    b[24..26].copy_from_slice(&h.calc_header_checksum().to_be_bytes());
    b
}

/// The packet that pieces make, in any order.
pub fn reassemble(pieces: &[Vec<u8>]) -> Vec<u8> {
    let mut sorted: Vec<&Vec<u8>> = pieces.iter().collect();
    let offset = |p: &[u8]| usize::from(u16::from_be_bytes([p[20], p[21]]) & 0x1fff) * 8;
    sorted.sort_by_key(|p| offset(p));
    let payload: Vec<u8> = sorted.iter().flat_map(|p| p[34..].to_vec()).collect();
    let mut whole = [&sorted[0][..34], &payload].concat();
    whole[16..18].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    whole[20..22].fill(0);
    let h = etherparse::Ipv4Header::from_slice(&whole[14..]).unwrap().0;
    whole[24..26].copy_from_slice(&h.calc_header_checksum().to_be_bytes());
    whole
}

/// Source and destination with ports; ports are the identifier for ICMP.
pub fn ends(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    let p = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let (src, dst): (IpAddr, IpAddr) = match p.net.as_ref().unwrap() {
        NetHeaders::Ipv4(h, _) => (h.source.into(), h.destination.into()),
        NetHeaders::Ipv6(h, _) => (h.source.into(), h.destination.into()),
        NetHeaders::Arp(_) => panic!("ARP"),
    };
    let (s, d) = match p.transport {
        Some(TransportHeader::Udp(h)) => (h.source_port, h.destination_port),
        Some(TransportHeader::Tcp(h)) => (h.source_port, h.destination_port),
        Some(TransportHeader::Icmpv4(_) | TransportHeader::Icmpv6(_)) => {
            let l4 = frame.len() - p.payload.slice().len() - 4;
            let id = u16::from_be_bytes([frame[l4], frame[l4 + 1]]);
            (id, id)
        }
        _ => (0, 0),
    };
    (SocketAddr::new(src, s), SocketAddr::new(dst, d))
}

pub fn src(frame: &[u8]) -> SocketAddr {
    ends(frame).0
}

pub fn dst(frame: &[u8]) -> SocketAddr {
    ends(frame).1
}

/// Whether every checksum of a whole frame is what etherparse computes.
pub fn verify(frame: &[u8]) {
    let p = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let PacketHeaders { net, transport, payload, .. } = p;
    let fragmented = matches!(&payload, PayloadSlice::Ip(i) if i.fragmented);
    if let Some(NetHeaders::Ipv4(h, _)) = &net {
        assert_eq!(h.header_checksum, h.calc_header_checksum(), "IPv4 header checksum");
    }
    let Some(mut fresh) = transport.clone().filter(|_| !fragmented) else { return };
    if matches!(&fresh, TransportHeader::Udp(u) if u.checksum == 0) {
        return;
    }
    match &net {
        Some(NetHeaders::Ipv4(h, _)) => fresh.update_checksum_ipv4(h, payload.slice()).unwrap(),
        Some(NetHeaders::Ipv6(h, _)) => fresh.update_checksum_ipv6(h, payload.slice()).unwrap(),
        _ => return,
    }
    assert_eq!(Some(&fresh), transport.as_ref(), "transport checksum");
}
