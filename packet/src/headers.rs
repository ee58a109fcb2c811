//! Where the headers of a frame are, found in one pass without allocation, and the reads and writes that
//! segmentation, coalescing and address translation need.
//!
//! Nothing here panics on any bytes. Lengths that the headers claim are reported, not judged: whether the
//! frame holds all of the IP packet is [`Headers::is_whole`].

use std::net::Ipv6Addr;

use crate::ether::ETH_HLEN;
use crate::plain::MAPPED;
use crate::vlan::Tpid;
use crate::{EtherType, Packet};

/// VLAN tags looked through in the bytes of a frame: two, and the outermost one when it is not in the
/// metadata.
pub const MAX_TAGS: usize = 3;

/// IPv6 extension headers looked through. RFC 8200 §4.1 names seven for one packet.
pub const MAX_EXTENSIONS: usize = 8;

/// Protocol numbers (IANA "Assigned Internet Protocol Numbers").
pub mod proto {
    /// Internet Control Message Protocol.
    pub const ICMP: u8 = 1;
    /// Internet Group Management Protocol.
    pub const IGMP: u8 = 2;
    /// IPv4 in IP.
    pub const IPV4: u8 = 4;
    /// Transmission Control Protocol.
    pub const TCP: u8 = 6;
    /// User Datagram Protocol.
    pub const UDP: u8 = 17;
    /// IPv6 in IP.
    pub const IPV6: u8 = 41;
    /// Generic Routing Encapsulation.
    pub const GRE: u8 = 47;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;

    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const DESTINATION: u8 = 60;
}

/// Length of a UDP header, bytes.
pub const UDP_HLEN: usize = 8;
/// Length of a TCP header without options, bytes.
pub const TCP_HLEN: usize = 20;
/// Length of an IPv4 header without options, bytes.
pub const IPV4_HLEN: usize = 20;
/// Length of the fixed IPv6 header, bytes.
pub const IPV6_HLEN: usize = 40;

/// Version of the Internet Protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IpVersion {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

/// Whether a packet is a fragment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fragment {
    /// A whole packet.
    None,
    /// A whole IPv6 packet with a fragment header (RFC 6946).
    Atomic,
    /// The first of several; it begins with the transport header.
    First,
    /// A later one, without a transport header.
    Later,
}

/// One IP packet inside a frame. Offsets count from the start of the frame's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Headers {
    /// IP version.
    pub version: IpVersion,
    /// The transport protocol: IPv4's protocol, or IPv6's next header behind the extensions.
    pub proto: u8,
    /// Fragment or not.
    pub fragment: Fragment,
    /// IPv4 options or IPv6 extension headers are there.
    pub extended: bool,
    /// Where the IP header starts.
    pub l3: u16,
    /// Where it ends, with options and extensions: the transport header, if it has one.
    pub l4: u16,
    /// Where the IP packet ends, by its own length field; may be past the frame.
    pub end: u32,
}

/// Where the link header with its tags ends, and the EtherType behind the tags. `None` when it is cut.
#[inline]
pub fn link(head: &[u8]) -> Option<(usize, EtherType)> {
    let mut at = ETH_HLEN;
    let mut ethertype = read16(head, at - 2)?;
    let mut tags = 0;
    while Tpid::from_ethertype(ethertype).is_some() && tags < MAX_TAGS {
        at += 4;
        tags += 1;
        ethertype = read16(head, at - 2)?;
    }
    Some((at, EtherType(ethertype)))
}

impl Headers {
    /// Finds the headers of a frame. `None` when it does not carry IP, or the IP header is malformed or cut
    /// off.
    #[inline]
    pub fn parse(packet: &Packet) -> Option<Headers> {
        Headers::of_frame(packet.head())
    }

    /// As [`Headers::parse`], from the front of a frame.
    #[inline]
    pub fn of_frame(head: &[u8]) -> Option<Headers> {
        match link(head)? {
            (l3, EtherType::IPV4) => Headers::ipv4(head, l3),
            (l3, EtherType::IPV6) => Headers::ipv6(head, l3),
            _ => None,
        }
    }

    /// The IP packet whose header starts at `l3`, of the version it says it has.
    #[inline]
    pub fn ip(head: &[u8], l3: usize) -> Option<Headers> {
        match head.get(l3)? >> 4 {
            4 => Headers::ipv4(head, l3),
            6 => Headers::ipv6(head, l3),
            _ => None,
        }
    }

    #[inline]
    fn ipv4(head: &[u8], l3: usize) -> Option<Headers> {
        let h: &[u8; IPV4_HLEN] = head.get(l3..)?.first_chunk()?;
        let ihl = usize::from(h[0] & 0xf) * 4;
        let total = u16::from_be_bytes([h[2], h[3]]);
        if h[0] >> 4 != 4 || ihl < IPV4_HLEN || l3 + ihl > head.len() || usize::from(total) < ihl {
            return None;
        }
        // RFC 791 §3.1: reserved bit, DF, MF, then 13 bits of offset.
        let fragment = match u16::from_be_bytes([h[6], h[7]]) & 0x3fff {
            0 => Fragment::None,
            0x2000 => Fragment::First,
            _ => Fragment::Later,
        };
        Some(Headers {
            version: IpVersion::V4,
            proto: h[9],
            fragment,
            extended: ihl > IPV4_HLEN,
            l3: l3 as u16,
            l4: (l3 + ihl) as u16,
            end: l3 as u32 + u32::from(total),
        })
    }

    #[inline]
    fn ipv6(head: &[u8], l3: usize) -> Option<Headers> {
        let h: &[u8; IPV6_HLEN] = head.get(l3..)?.first_chunk()?;
        if h[0] >> 4 != 6 {
            return None;
        }
        let mut found = Headers {
            version: IpVersion::V6,
            proto: h[6],
            fragment: Fragment::None,
            extended: false,
            l3: l3 as u16,
            l4: (l3 + IPV6_HLEN) as u16,
            end: (l3 + IPV6_HLEN) as u32 + u32::from(u16::from_be_bytes([h[4], h[5]])),
        };
        if matches!(found.proto, proto::TCP | proto::UDP | proto::ICMPV6) {
            Some(found)
        } else {
            found.extensions(head)
        }
    }

    /// Walks the extension headers (RFC 8200 §4). A chain longer than [`MAX_EXTENSIONS`] is malformed.
    fn extensions(&mut self, head: &[u8]) -> Option<Headers> {
        let mut at = usize::from(self.l4);
        for _ in 0..=MAX_EXTENSIONS {
            let len = match self.proto {
                proto::HOP_BY_HOP | proto::ROUTING | proto::DESTINATION => {
                    8 + 8 * usize::from(*head.get(at + 1)?)
                }
                // RFC 4302 §2.2: in 4-byte units minus 2.
                proto::AUTHENTICATION => 8 + 4 * usize::from(*head.get(at + 1)?),
                proto::FRAGMENT => {
                    self.fragment = match read16(head, at + 2)? & 0xfff9 {
                        0 => Fragment::Atomic,
                        1 => Fragment::First,
                        _ => Fragment::Later,
                    };
                    8
                }
                _ => return Some(*self),
            };
            if at + len > head.len() {
                return None;
            }
            self.proto = head[at];
            self.extended = true;
            at += len;
            self.l4 = at as u16;
            if self.fragment == Fragment::Later {
                return Some(*self);
            }
        }
        None
    }

    /// Whether a frame of `len` bytes holds all of the IP packet.
    #[inline]
    pub const fn is_whole(&self, len: usize) -> bool {
        self.end as usize <= len
    }

    /// Whether a transport header follows, rather than the middle of a fragmented packet.
    #[inline]
    pub const fn has_transport(&self) -> bool {
        !matches!(self.fragment, Fragment::Later)
    }

    /// Length of the TCP or UDP header, `None` for other protocols, later fragments, and headers that are
    /// malformed or not wholly in the head.
    #[inline]
    pub fn transport_len(&self, head: &[u8]) -> Option<usize> {
        let l4 = usize::from(self.l4);
        let len = match self.proto {
            proto::TCP => usize::from(head.get(l4 + 12)? >> 4) * 4,
            proto::UDP => UDP_HLEN,
            _ => return None,
        };
        let least = if self.proto == proto::TCP { TCP_HLEN } else { UDP_HLEN };
        (self.has_transport() && len >= least && l4 + len <= head.len()).then_some(len)
    }

    /// The sum of the pseudo-header for a transport part of `len` bytes, to the addresses in the IP header.
    /// Wrong for a packet that still has a routing header to obey (RFC 8200 §8.1).
    #[inline]
    pub fn pseudo(&self, head: &[u8], len: u32) -> crate::checksum::Sum {
        let l3 = usize::from(self.l3);
        let sum = crate::checksum::Sum::ZERO.add(u32::from(self.proto)).add(len);
        match self.version {
            IpVersion::V4 => {
                let (src, dst) = (read32(head, l3 + 12), read32(head, l3 + 16));
                sum.add(src.unwrap_or_default()).add(dst.unwrap_or_default())
            }
            IpVersion::V6 => sum.bytes(head.get(l3 + 8..l3 + 40).unwrap_or_default()),
        }
    }

    /// Who talks to whom. `None` when the bytes of the ports are not in the head.
    #[inline]
    pub fn flow(&self, head: &[u8]) -> Option<FlowKey> {
        let l3 = usize::from(self.l3);
        let ports = matches!(self.proto, proto::TCP | proto::UDP) && self.fragment == Fragment::None;
        let (src, dst) = match self.version {
            IpVersion::V4 => {
                let mapped = |addr: u32| Ipv6Addr::from_bits(MAPPED | u128::from(addr));
                (mapped(read32(head, l3 + 12)?), mapped(read32(head, l3 + 16)?))
            }
            IpVersion::V6 => {
                let (src, rest) = head.get(l3 + 8..)?.split_first_chunk::<16>()?;
                (Ipv6Addr::from(*src), Ipv6Addr::from(*rest.first_chunk::<16>()?))
            }
        };
        let l4 = usize::from(self.l4);
        let (src_port, dst_port) = if ports { (read16(head, l4)?, read16(head, l4 + 2)?) } else { (0, 0) };
        Some(FlowKey { src, dst, src_port, dst_port, proto: self.proto })
    }
}

/// Both endpoints of a flow. IPv4 addresses are in their mapped form (RFC 4291 §2.5.5.2); ports are 0 for
/// protocols without, and for fragments, so that all fragments of a flow have one key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FlowKey {
    /// Source address.
    pub src: Ipv6Addr,
    /// Destination address.
    pub dst: Ipv6Addr,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Protocol number.
    pub proto: u8,
}

impl FlowKey {
    /// A quick hash, for spreading. Anyone can make flows that collide: nothing that must withstand an
    /// attacker may depend on it.
    #[inline]
    pub fn hash32(&self) -> u32 {
        let ports = u32::from(self.src_port) << 16 | u32::from(self.dst_port);
        hash(self.src.to_bits(), self.dst.to_bits(), ports, self.proto)
    }

    /// [`FlowKey::hash32`] of two IPv4 hosts, the source port in the high half of `ports`.
    #[inline]
    pub fn hash32_v4(src: u32, dst: u32, ports: u32, proto: u8) -> u32 {
        hash(MAPPED | u128::from(src), MAPPED | u128::from(dst), ports, proto)
    }
}

#[inline]
fn hash(src: u128, dst: u128, ports: u32, proto: u8) -> u32 {
    let ports = u64::from(ports) << 16 | u64::from(proto);
    let a = fold_mul((src >> 64) as u64 ^ 0x9e37_79b9_7f4a_7c15, (dst >> 64) as u64 ^ 0xc2b2_ae3d_27d4_eb4f);
    let b = fold_mul(src as u64 ^ ports ^ 0x1656_67b1_9e37_79f9, dst as u64 ^ a ^ 0x27d4_eb2f_1656_67c5);
    (b ^ b >> 32) as u32
}

#[inline]
fn fold_mul(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

/// The 16-bit number at `at`, `None` past the end.
#[inline]
pub fn read16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The 32-bit number at `at`, `None` past the end.
#[inline]
pub fn read32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Writes a 16-bit number at `at`; nothing past the end.
#[inline]
pub fn write16(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(field) = bytes.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

/// Writes a 32-bit number at `at`; nothing past the end.
#[inline]
pub fn write32(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(field) = bytes.get_mut(at..at + 4) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(proto: u8, ihl: u8, flags: u16, l4: &[u8]) -> Vec<u8> {
        let mut b = vec![0; 12];
        b.extend([8, 0, 0x40 | ihl, 0]);
        b.extend((u16::from(ihl) * 4 + l4.len() as u16).to_be_bytes());
        b.extend([0, 1]);
        b.extend(flags.to_be_bytes());
        b.extend([64, proto, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        b.resize(14 + usize::from(ihl) * 4, 0);
        b.extend(l4);
        b
    }

    fn ipv6(next: u8, rest: &[u8]) -> Vec<u8> {
        let mut b = vec![0; 12];
        b.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        b.extend((rest.len() as u16).to_be_bytes());
        b.extend([next, 64]);
        b.extend([0xfd; 32]);
        b.extend(rest);
        b
    }

    const UDP: [u8; 8] = [0, 1, 0, 2, 0, 8, 0, 0];

    #[test]
    fn plain_ipv4_and_ipv6() {
        let frame = ipv4(17, 5, 0x4000, &UDP);
        let h = Headers::of_frame(&frame).unwrap();
        assert_eq!((h.version, h.proto, h.l3, h.l4, h.end), (IpVersion::V4, 17, 14, 34, 42));
        assert_eq!((h.fragment, h.extended, h.transport_len(&frame)), (Fragment::None, false, Some(8)));
        assert!(h.is_whole(42) && !h.is_whole(41));
        let frame = ipv6(17, &UDP);
        let h = Headers::of_frame(&frame).unwrap();
        assert_eq!((h.version, h.proto, h.l3, h.l4, h.end), (IpVersion::V6, 17, 14, 54, 62));
        let flow = h.flow(&frame).unwrap();
        assert_eq!((flow.src_port, flow.dst_port, flow.proto), (1, 2, 17));
    }

    #[test]
    fn up_to_three_tags_are_looked_through() {
        for tags in 0..5 {
            let mut frame = ipv4(17, 5, 0, &UDP);
            for _ in 0..tags {
                frame.splice(12..12, [0x88, 0xa8, 0, 1]);
            }
            let h = Headers::of_frame(&frame);
            assert_eq!(h.map(|h| usize::from(h.l3)), (tags <= MAX_TAGS).then_some(14 + 4 * tags));
            for cut in 0..14 + 4 * tags.min(MAX_TAGS) {
                assert_eq!(link(&frame[..cut]), None);
            }
        }
    }

    #[test]
    fn fragments() {
        let kinds = [
            (0x4000, Fragment::None),
            (0x2000, Fragment::First),
            (0x2001, Fragment::Later),
            (1, Fragment::Later),
        ];
        for (flags, want) in kinds {
            let frame = ipv4(17, 5, flags, &UDP);
            let h = Headers::of_frame(&frame).unwrap();
            assert_eq!(h.fragment, want);
            assert_eq!(h.transport_len(&frame).is_some(), want != Fragment::Later);
            // Fragments with and without ports have one key.
            let ports = h.flow(&frame).unwrap().src_port;
            assert_eq!(ports, u16::from(want == Fragment::None));
        }
        for (offset, want) in
            [(0u16, Fragment::Atomic), (1, Fragment::First), (9, Fragment::Later), (8, Fragment::Later)]
        {
            let [a, b] = offset.to_be_bytes();
            let frame = ipv6(44, &[&[17, 0, a, b, 0, 0, 0, 0][..], &UDP].concat());
            let h = Headers::of_frame(&frame).unwrap();
            assert_eq!((h.fragment, h.proto, h.l4, h.extended), (want, 17, 62, true));
        }
    }

    #[test]
    fn extension_headers_of_every_kind_and_no_more_than_eight() {
        let mut rest = vec![43, 0, 0, 0, 0, 0, 0, 0]; // hop-by-hop
        rest.extend([60, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]); // routing, 16 bytes
        rest.extend([51, 0, 0, 0, 0, 0, 0, 0]); // destination
        rest.extend([17, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]); // authentication, 24
        rest.extend(UDP);
        let frame = ipv6(0, &rest);
        let h = Headers::of_frame(&frame).unwrap();
        assert_eq!((h.proto, h.l4, h.transport_len(&frame)), (17, 54 + 56, Some(8)));
        for cut in 54..54 + 56 {
            assert_eq!(Headers::of_frame(&frame[..cut]), None, "{cut}");
        }
        for count in 1..12 {
            let mut rest = [60, 0, 0, 0, 0, 0, 0, 0].repeat(count - 1);
            rest.extend([17, 0, 0, 0, 0, 0, 0, 0]);
            rest.extend(UDP);
            assert_eq!(Headers::of_frame(&ipv6(60, &rest)).is_some(), count <= MAX_EXTENSIONS, "{count}");
        }
        // What has no known layout ends the walk: ESP.
        assert_eq!(Headers::of_frame(&ipv6(50, &UDP)).unwrap().proto, 50);
    }

    #[test]
    fn malformed_headers_are_none() {
        assert_eq!(Headers::of_frame(&ipv4(17, 4, 0, &UDP)), None, "IHL below 5");
        let mut short = ipv4(17, 5, 0, &UDP);
        short[16..18].copy_from_slice(&[0, 19]);
        assert_eq!(Headers::of_frame(&short), None, "total length below the header");
        let mut version = ipv4(17, 5, 0, &UDP);
        version[14] = 0x65;
        assert_eq!(Headers::of_frame(&version), None);
        let whole = ipv4(17, 7, 0, &UDP);
        for cut in 0..42 {
            assert_eq!(Headers::of_frame(&whole[..cut]), None, "{cut}");
        }
        let mut tcp = ipv4(6, 5, 0, &[0; 20]);
        tcp[46] = 0x40;
        assert_eq!(Headers::of_frame(&tcp).unwrap().transport_len(&tcp), None, "data offset below 5");
        tcp[46] = 0x60;
        assert_eq!(Headers::of_frame(&tcp).unwrap().transport_len(&tcp), None, "data offset past the head");
        tcp[46] = 0x50;
        assert_eq!(Headers::of_frame(&tcp).unwrap().transport_len(&tcp), Some(20));
    }

    #[test]
    fn hashes_differ_between_flows_and_directions() {
        let base = Headers::of_frame(&ipv4(17, 5, 0, &UDP)).unwrap().flow(&ipv4(17, 5, 0, &UDP)).unwrap();
        let mut seen = std::collections::HashSet::from([base.hash32()]);
        for i in 1..=1000u16 {
            assert!(seen.insert(FlowKey { src_port: base.src_port + i, ..base }.hash32()));
            assert!(seen.insert(FlowKey { dst_port: base.dst_port + i, ..base }.hash32()));
            let src = Ipv6Addr::from(u128::from(base.src) + u128::from(i));
            assert!(seen.insert(FlowKey { src, ..base }.hash32()));
        }
        assert!(seen.insert(FlowKey { src: base.dst, dst: base.src, ..base }.hash32()));
    }

    #[test]
    fn fields_past_the_end_are_neither_read_nor_written() {
        let mut b = [1, 2, 3, 4, 5];
        assert_eq!(
            (read16(&b, 3), read16(&b, 4), read32(&b, 1), read32(&b, 2)),
            (Some(0x0405), None, Some(0x0203_0405), None)
        );
        write16(&mut b, 4, 9);
        write32(&mut b, 2, 9);
        assert_eq!(b, [1, 2, 3, 4, 5]);
        write16(&mut b, 3, 0x0607);
        assert_eq!(b, [1, 2, 3, 6, 7]);
    }
}
