//! Frames for tests, written by etherparse, so that what this crate reads and writes has an oracle that
//! shares no code with it.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

use etherparse::{
    IpFragOffset, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, SlicedPacket, TcpHeader, TransportSlice,
    UdpHeader,
};
use trunkline_packet::{Checksum, Gso, GsoKind, Packet, Pool};

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;
pub const URG: u8 = 32;
pub const ECE: u8 = 64;
pub const CWR: u8 = 128;

/// What a TCP or UDP frame consists of.
#[derive(Clone, Debug)]
pub struct Spec {
    pub src_mac: u8,
    /// (TPID, TCI), outermost first.
    pub tags: Vec<(u16, u16)>,
    pub v6: bool,
    pub tcp: bool,
    pub tos: u8,
    pub ttl: u8,
    pub df: bool,
    pub id: u16,
    pub flow_label: u32,
    /// Bytes of no-operation options in the IPv4 header.
    pub ip_options: usize,
    /// 8-byte destination options headers in front of the transport header.
    pub extensions: usize,
    pub src: u8,
    pub dst: u8,
    pub sport: u16,
    pub dport: u16,
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
    pub urgent: u16,
    pub flags: u8,
    pub tcp_options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Spec {
    pub fn new(tcp: bool, v6: bool, payload: usize) -> Spec {
        Spec {
            src_mac: 1,
            tags: vec![],
            v6,
            tcp,
            tos: 0,
            ttl: 64,
            df: true,
            id: 100,
            flow_label: 0x12345,
            ip_options: 0,
            extensions: 0,
            src: 1,
            dst: 2,
            sport: 4000,
            dport: 5000,
            seq: 1000,
            ack: 77,
            window: 500,
            urgent: 0,
            flags: ACK,
            tcp_options: vec![],
            payload: bytes(payload),
        }
    }

    /// Changes one thing.
    pub fn with(&self, change: impl FnOnce(&mut Spec)) -> Spec {
        let mut spec = self.clone();
        change(&mut spec);
        spec
    }

    /// The frame a sender would send next, with this much payload.
    pub fn next(&self, payload: usize) -> Spec {
        self.with(|s| {
            s.id = s.id.wrapping_add(1);
            s.seq = s.seq.wrapping_add(self.payload.len() as u32);
            s.payload = bytes(payload);
        })
    }

    pub fn ip_offset(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    pub fn l4_offset(&self) -> usize {
        self.ip_offset() + if self.v6 { 40 + 8 * self.extensions } else { 20 + self.ip_options }
    }

    pub fn header_len(&self) -> usize {
        self.l4_offset() + if self.tcp { 20 + self.tcp_options.len() } else { 8 }
    }

    pub fn check_offset(&self) -> usize {
        if self.tcp { 16 } else { 6 }
    }

    fn protocol(&self) -> IpNumber {
        if self.tcp { IpNumber::TCP } else { IpNumber::UDP }
    }

    fn v6_addresses(&self) -> ([u8; 16], [u8; 16]) {
        let address = |last| [0xfd, 0, 0x99, 1, 2, 3, 4, 5, 0xff, 0xff, 6, 7, 8, 9, 0, last];
        (address(self.src), address(self.dst))
    }

    fn v4_addresses(&self) -> ([u8; 4], [u8; 4]) {
        ([10, 200, 3, self.src], [10, 200, 3, self.dst])
    }

    /// The whole frame with right checksums.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, self.src_mac];
        for (tpid, tci) in &self.tags {
            out.extend(tpid.to_be_bytes());
            out.extend(tci.to_be_bytes());
        }
        let transport_len = self.header_len() - self.l4_offset() + self.payload.len();
        if self.v6 {
            out.extend([0x86, 0xdd]);
            let (source, destination) = self.v6_addresses();
            let ip = Ipv6Header {
                traffic_class: self.tos,
                flow_label: Ipv6FlowLabel::try_new(self.flow_label).unwrap(),
                payload_length: (transport_len + 8 * self.extensions) as u16,
                next_header: if self.extensions > 0 { IpNumber(60) } else { self.protocol() },
                hop_limit: self.ttl,
                source,
                destination,
            };
            out.extend(ip.to_bytes());
            for i in 1..=self.extensions {
                let next = if i == self.extensions { self.protocol() } else { IpNumber(60) };
                out.extend([next.0, 0, 1, 4, 0, 0, 0, 0]);
            }
        } else {
            out.extend([8, 0]);
            let (source, destination) = self.v4_addresses();
            let mut ip = Ipv4Header::new(0, self.ttl, self.protocol(), source, destination).unwrap();
            ip.options = vec![1; self.ip_options][..].try_into().unwrap();
            ip.set_payload_len(transport_len).unwrap();
            ip.dscp = (self.tos >> 2).try_into().unwrap();
            ip.ecn = (self.tos & 3).try_into().unwrap();
            ip.identification = self.id;
            ip.dont_fragment = self.df;
            ip.fragment_offset = IpFragOffset::ZERO;
            ip.header_checksum = ip.calc_header_checksum();
            out.extend(ip.to_bytes());
        }
        let ((s4, d4), (s6, d6)) = (self.v4_addresses(), self.v6_addresses());
        if self.tcp {
            let mut tcp = TcpHeader::new(self.sport, self.dport, self.seq, self.window);
            tcp.acknowledgment_number = self.ack;
            tcp.urgent_pointer = self.urgent;
            let bits = |flag| self.flags & flag != 0;
            (tcp.fin, tcp.syn, tcp.rst, tcp.psh) = (bits(FIN), bits(SYN), bits(RST), bits(PSH));
            (tcp.ack, tcp.urg, tcp.ece, tcp.cwr) = (bits(ACK), bits(URG), bits(ECE), bits(CWR));
            tcp.set_options_raw(&self.tcp_options).unwrap();
            tcp.checksum = if self.v6 {
                tcp.calc_checksum_ipv6_raw(s6, d6, &self.payload).unwrap()
            } else {
                tcp.calc_checksum_ipv4_raw(s4, d4, &self.payload).unwrap()
            };
            out.extend(tcp.to_bytes());
        } else {
            let length = transport_len as u16;
            let mut udp =
                UdpHeader { source_port: self.sport, destination_port: self.dport, length, checksum: 0 };
            udp.checksum = if self.v6 {
                udp.calc_checksum_ipv6_raw(s6, d6, &self.payload).unwrap()
            } else {
                udp.calc_checksum_ipv4_raw(s4, d4, &self.payload).unwrap()
            };
            out.extend(udp.to_bytes());
        }
        out.extend(&self.payload);
        out
    }

    /// The frame with its finished checksum, of unknown state.
    pub fn packet(&self, pool: &mut Pool) -> Packet {
        from_bytes(&self.bytes(), pool)
    }

    /// The frame with a partial checksum, as a container's kernel hands it over; a superframe when `size` is
    /// not 0.
    pub fn partial(&self, size: u16, pool: &mut Pool) -> Packet {
        let (mut bytes, at) = (self.bytes(), self.l4_offset());
        let field = at + self.check_offset();
        let pseudo = self.pseudo((bytes.len() - at) as u32);
        bytes[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
        let mut packet = from_bytes(&bytes, pool);
        let offload = &mut packet.meta_mut().offload;
        offload.csum = Checksum::Partial { start: at as u16, offset: self.check_offset() as u16 };
        if size > 0 {
            offload.gso = Gso { kind: self.kind(), ecn: self.flags & CWR != 0, size };
        }
        packet
    }

    pub fn kind(&self) -> GsoKind {
        match (self.tcp, self.v6) {
            (false, _) => GsoKind::UdpL4,
            (true, false) => GsoKind::TcpV4,
            (true, true) => GsoKind::TcpV6,
        }
    }

    fn pseudo(&self, len: u32) -> u16 {
        let mut header = vec![];
        if self.v6 {
            let (source, destination) = self.v6_addresses();
            header.extend([source, destination].concat());
        } else {
            let (source, destination) = self.v4_addresses();
            header.extend([source, destination].concat());
        }
        header.extend(u32::from(self.protocol().0).to_be_bytes());
        header.extend(len.to_be_bytes());
        naive_sum(&header)
    }

    /// The frames that a superframe with this content stands for, after Linux's rules.
    pub fn segments(&self, size: usize) -> Vec<Spec> {
        let count = self.payload.len().div_ceil(size).max(1);
        (0..count)
            .map(|i| {
                self.with(|s| {
                    s.id = self.id.wrapping_add(i as u16);
                    s.seq = self.seq.wrapping_add((i * size) as u32);
                    if i > 0 {
                        s.flags &= !CWR;
                    }
                    if i + 1 < count {
                        s.flags &= !(FIN | PSH);
                    }
                    s.payload = self.payload.iter().skip(i * size).take(size).copied().collect();
                })
            })
            .collect()
    }
}

/// Bytes that differ from their neighbours.
pub fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 256) as u8).collect()
}

pub fn from_bytes(bytes: &[u8], pool: &mut Pool) -> Packet {
    let mut packet = pool.get();
    packet.set_bytes(bytes, pool).unwrap();
    packet
}

/// The Internet checksum in its plainest form, not complemented.
pub fn naive_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Asserts that etherparse finds a whole TCP or UDP frame with right checksums, and returns its payload.
pub fn check_frame(bytes: &[u8]) -> Vec<u8> {
    let sliced = SlicedPacket::from_ethernet(bytes).unwrap();
    let (v4, v6) = match sliced.net.as_ref().unwrap() {
        etherparse::NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            (Some(header), None)
        }
        etherparse::NetSlice::Ipv6(ip) => (None, Some(ip.header().to_header())),
        other => panic!("not IP: {other:?}"),
    };
    match sliced.transport.unwrap() {
        TransportSlice::Tcp(tcp) => {
            let header = tcp.to_header();
            let sum = match (v4, v6) {
                (Some(ip), _) => header.calc_checksum_ipv4(&ip, tcp.payload()),
                (_, Some(ip)) => header.calc_checksum_ipv6(&ip, tcp.payload()),
                _ => unreachable!(),
            };
            assert_eq!(header.checksum, sum.unwrap());
            tcp.payload().to_vec()
        }
        TransportSlice::Udp(udp) => {
            let header = udp.to_header();
            let sum = match (v4, v6) {
                (Some(ip), _) => header.calc_checksum_ipv4(&ip, udp.payload()),
                (_, Some(ip)) => header.calc_checksum_ipv6(&ip, udp.payload()),
                _ => unreachable!(),
            };
            assert_eq!(header.checksum, sum.unwrap());
            udp.payload().to_vec()
        }
        other => panic!("neither TCP nor UDP: {other:?}"),
    }
}
