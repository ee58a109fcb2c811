//! ICMP errors about packets (RFC 792, RFC 1191, RFC 4443), and the packets about which none may be sent.

use std::net::IpAddr;

use crate::checksum::Sum;
use crate::ether::ETH_HLEN;
use crate::headers::{
    Fragment, Headers, IPV4_HLEN, IPV6_HLEN, IpVersion, MAX_TAGS, proto, read16, write16, write32,
};
use crate::{DropReason, MacAddr, Packet, Pool};

/// The least MTU of a link that carries IPv6 (RFC 8200 §5).
pub const IPV6_MIN_MTU: u16 = 1280;
/// Longest ICMP error with its IP header (RFC 1812 §4.3.2.3).
const V4_LONGEST: usize = 576;
/// Longest ICMPv6 error with its IP header (RFC 4443 §2.4(c)).
const V6_LONGEST: usize = IPV6_MIN_MTU as usize;
const ICMP_HLEN: usize = 8;
const TTL: u8 = 64;

/// What is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    /// No route leads there.
    NoRoute,
    /// The destination does not answer on its link.
    Host,
    /// Nobody listens on the port.
    Port,
    /// The configuration forbids it.
    Prohibited,
    /// TTL or hop limit used up.
    HopLimit,
    /// Larger than this MTU, and not to be fragmented.
    TooBig(u16),
}

impl Problem {
    /// Type, code, and the word behind the checksum.
    fn fields(self, version: IpVersion) -> (u8, u8, u32) {
        match (version, self) {
            (IpVersion::V4, Problem::NoRoute) => (3, 0, 0),
            (IpVersion::V4, Problem::Host) => (3, 1, 0),
            (IpVersion::V4, Problem::Port) => (3, 3, 0),
            (IpVersion::V4, Problem::Prohibited) => (3, 13, 0),
            (IpVersion::V4, Problem::HopLimit) => (11, 0, 0),
            // RFC 1191 §4: the MTU in the low half.
            (IpVersion::V4, Problem::TooBig(mtu)) => (3, 4, u32::from(mtu)),
            (IpVersion::V6, Problem::NoRoute) => (1, 0, 0),
            (IpVersion::V6, Problem::Host) => (1, 3, 0),
            (IpVersion::V6, Problem::Port) => (1, 4, 0),
            (IpVersion::V6, Problem::Prohibited) => (1, 1, 0),
            (IpVersion::V6, Problem::HopLimit) => (3, 0, 0),
            (IpVersion::V6, Problem::TooBig(mtu)) => (2, 0, u32::from(mtu.max(IPV6_MIN_MTU))),
        }
    }
}

/// Whether an error may be sent about a packet: RFC 1122 §3.2.2, RFC 1812 §4.3.2.7, RFC 4443 §2.4(e).
/// Not about errors, fragments but the first, groups and broadcasts at either layer, or senders that are
/// nobody. Subnet broadcasts are for the caller to know.
pub fn may_answer(head: &[u8], ip: &Headers) -> bool {
    let (l3, l4) = (usize::from(ip.l3), usize::from(ip.l4));
    let mac = |at: usize| head.get(at..).and_then(<[u8]>::first_chunk).copied().map(MacAddr);
    if ip.fragment == Fragment::Later
        || mac(0).is_none_or(|m| m.is_group())
        || mac(6).is_none_or(|m| m.is_group())
    {
        return false;
    }
    let kind = head.get(l4).copied();
    match ip.version {
        IpVersion::V4 => {
            // Source quench, redirect, errors; a type that is cut off might be one.
            let error = ip.proto == proto::ICMP && matches!(kind, None | Some(3..=5 | 11 | 12));
            let host = |at: usize| !matches!(head.get(at), None | Some(0 | 127 | 224..));
            !error && host(l3 + 12) && host(l3 + 16)
        }
        IpVersion::V6 => {
            // Errors have types below 128; 137 is a redirect.
            let error = ip.proto == proto::ICMPV6 && matches!(kind, None | Some(..128 | 137));
            let unspecified = head.get(l3 + 8..l3 + 24).is_none_or(|src| src == [0; 16]);
            let group = |at: usize| head.get(at) == Some(&0xff);
            !error && !unspecified && !group(l3 + 8) && !group(l3 + 24)
        }
    }
}

/// Makes an error from `source` to the sender of a frame, with the frame's MAC addresses swapped and its VLAN
/// tags, those in the bytes and the one in the metadata.
///
/// # Errors
/// [`DropReason::Truncated`] when `source` is of another family; as [`Packet::set_bytes`].
pub fn error(
    about: &Packet,
    ip: &Headers,
    problem: Problem,
    source: IpAddr,
    pool: &mut Pool,
) -> Result<Packet, DropReason> {
    let mut reply = pool.get();
    match build(about, ip, problem, source, pool, &mut reply) {
        Ok(()) => Ok(reply),
        Err(reason) => {
            pool.put(reply);
            Err(reason)
        }
    }
}

fn build(
    about: &Packet,
    ip: &Headers,
    problem: Problem,
    source: IpAddr,
    pool: &mut Pool,
    reply: &mut Packet,
) -> Result<(), DropReason> {
    let (head, l3) = (about.head(), usize::from(ip.l3));
    let v4 = ip.version == IpVersion::V4;
    let (ip_len, longest) = if v4 { (IPV4_HLEN, V4_LONGEST) } else { (IPV6_HLEN, V6_LONGEST) };
    let quote = (ip.end as usize).min(about.len()).saturating_sub(l3).min(longest - ip_len - ICMP_HLEN);
    let mut front = [0u8; ETH_HLEN + 4 * MAX_TAGS + IPV6_HLEN + ICMP_HLEN];
    let l4 = l3 + ip_len;
    let (Some(b), Some(link)) = (front.get_mut(..l4 + ICMP_HLEN), head.get(..l3)) else {
        return Err(DropReason::Truncated);
    };
    b[..l3].copy_from_slice(link);
    b[..6].copy_from_slice(&link[6..12]);
    b[6..12].copy_from_slice(&link[..6]);
    let h = &mut b[l3..];
    match source {
        IpAddr::V4(source) if v4 => {
            // Precedence of internetwork control (RFC 1812 §4.3.2.5); an atomic datagram (RFC 6864 §4.1).
            (h[0], h[1], h[6], h[8], h[9]) = (0x45, 0xc0, 0x40, TTL, proto::ICMP);
            write16(h, 2, (IPV4_HLEN + ICMP_HLEN + quote) as u16);
            h[12..16].copy_from_slice(&source.octets());
            h[16..20].copy_from_slice(&head[l3 + 12..l3 + 16]);
            let check = Sum::ZERO.bytes(&h[..IPV4_HLEN]).finish();
            write16(h, 10, check);
        }
        IpAddr::V6(source) if !v4 => {
            h[0] = 0x60;
            write16(h, 4, (ICMP_HLEN + quote) as u16);
            (h[6], h[7]) = (proto::ICMPV6, TTL);
            h[8..24].copy_from_slice(&source.octets());
            h[24..40].copy_from_slice(&head[l3 + 8..l3 + 24]);
        }
        _ => return Err(DropReason::Truncated),
    }
    let (kind, code, word) = problem.fields(ip.version);
    let icmp = &mut b[l4..];
    (icmp[0], icmp[1]) = (kind, code);
    write32(icmp, 4, word);
    reply.set_bytes(b, pool)?;
    reply.append_range(about, l3, quote, pool)?;
    reply.meta_mut().vlan = about.meta().vlan;
    checksum(reply, ip.version, l3, l4);
    Ok(())
}

/// Fills in the checksum of the ICMP message at `l4` of a whole packet.
fn checksum(packet: &mut Packet, version: IpVersion, l3: usize, l4: usize) {
    let pseudo = match version {
        IpVersion::V4 => Sum::ZERO,
        IpVersion::V6 => {
            let addresses = packet.head().get(l3 + 8..l3 + 40).unwrap_or_default();
            Sum::ZERO.bytes(addresses).add(proto::ICMPV6.into()).add((packet.len() - l4) as u32)
        }
    };
    write16(packet.head_mut(), l4 + 2, 0);
    let check = pseudo.frame(packet, l4).finish();
    write16(packet.head_mut(), l4 + 2, check);
}

/// Whether the checksum of the ICMP message of a whole packet is right; a partial one is.
pub fn checksum_ok(packet: &Packet, ip: &Headers) -> bool {
    if !packet.meta().offload.csum.is_full() {
        return true;
    }
    let (l4, end) = (usize::from(ip.l4), ip.end as usize);
    let Some(message) = packet.head().get(l4..end) else {
        return ip.end as usize == packet.len() && pseudo(packet, ip).frame(packet, l4).fold() == 0xffff;
    };
    pseudo(packet, ip).bytes(message).fold() == 0xffff
}

fn pseudo(packet: &Packet, ip: &Headers) -> Sum {
    match ip.version {
        IpVersion::V4 => Sum::ZERO,
        IpVersion::V6 => ip.pseudo(packet.head(), ip.end - u32::from(ip.l4)),
    }
}

/// Whether the packet is an ICMP message of this type, or, over IPv6, an ICMPv6 message of the other.
#[inline]
pub fn is_type(head: &[u8], ip: &Headers, v4: u8, v6: u8) -> bool {
    let kind = read16(head, usize::from(ip.l4)).map(|word| (word >> 8) as u8);
    ip.has_transport()
        && match ip.version {
            IpVersion::V4 => ip.proto == proto::ICMP && kind == Some(v4),
            IpVersion::V6 => ip.proto == proto::ICMPV6 && kind == Some(v6),
        }
}

#[cfg(test)]
mod tests {
    use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, SlicedPacket, TransportSlice};

    use super::*;
    use crate::Packet;

    fn udp(pool: &mut Pool, v4: bool, len: usize) -> Packet {
        let b = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let b = if v4 { b.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9) } else { b.ipv6([0xfd; 16], [0xfc; 16], 9) };
        let mut frame = Vec::new();
        b.udp(1, 2).write(&mut frame, &vec![7; len]).unwrap();
        let mut packet = pool.get();
        packet.set_bytes(&frame, pool).unwrap();
        packet
    }

    #[test]
    fn errors_parse_and_quote_what_they_may() {
        let mut pool = Pool::new(4, 4);
        let all = [
            Problem::NoRoute,
            Problem::Host,
            Problem::Port,
            Problem::Prohibited,
            Problem::HopLimit,
            Problem::TooBig(1400),
        ];
        for v4 in [true, false] {
            for len in [0, 1, 500, 1400, 3000, 9000] {
                for problem in all {
                    let about = udp(&mut pool, v4, len);
                    let ip = Headers::parse(&about).unwrap();
                    let source: IpAddr = if v4 { "192.0.2.1" } else { "2001:db8::1" }.parse().unwrap();
                    let made = error(&about, &ip, problem, source, &mut pool).unwrap();
                    let bytes = made.to_vec();
                    assert!(bytes.len() <= 14 + if v4 { 576 } else { 1280 });
                    assert_eq!(
                        (&bytes[..6], &bytes[6..12]),
                        (&[2, 0, 0, 0, 0, 1][..], &[2, 0, 0, 0, 0, 2][..])
                    );
                    let h = Headers::parse(&made).unwrap();
                    assert!(checksum_ok(&made, &h) && crate::checksum::ipv4_header_ok(made.head(), &h));
                    assert!(!may_answer(made.head(), &h), "no errors about errors");
                    let quote = match SlicedPacket::from_ethernet(&bytes).unwrap().transport.unwrap() {
                        TransportSlice::Icmpv4(s) => {
                            assert!(!matches!(s.icmp_type(), Icmpv4Type::Unknown { .. }));
                            s.payload().to_vec()
                        }
                        TransportSlice::Icmpv6(s) => {
                            assert!(!matches!(s.icmp_type(), Icmpv6Type::Unknown { .. }));
                            assert!(s.is_checksum_valid(h_addr(&bytes, 8), h_addr(&bytes, 24)));
                            s.payload().to_vec()
                        }
                        other => panic!("{other:?}"),
                    };
                    let whole = about.to_vec();
                    assert_eq!(quote[..], whole[14..14 + quote.len()]);
                    let room = if v4 { 576 - 28 } else { 1280 - 48 };
                    assert_eq!(quote.len(), (whole.len() - 14).min(room));
                }
            }
        }
    }

    fn h_addr(bytes: &[u8], at: usize) -> [u8; 16] {
        bytes[14 + at..14 + at + 16].try_into().unwrap()
    }

    #[test]
    fn who_gets_no_errors() {
        let mut pool = Pool::new(4, 4);
        let check = |change: &dyn Fn(&mut [u8])| {
            let mut pool = Pool::new(1, 1);
            let mut about = udp(&mut pool, true, 20);
            change(about.head_mut());
            let ip = Headers::parse(&about).unwrap();
            may_answer(about.head(), &ip)
        };
        assert!(check(&|_| ()));
        assert!(!check(&|h| h[0] = 0xff), "to a group at the link");
        assert!(!check(&|h| h[6] = 1), "from a group");
        assert!(!check(&|h| h[30] = 224), "to a group");
        assert!(!check(&|h| h[26] = 0), "from this network");
        assert!(!check(&|h| h[21] = 1), "a later fragment");
        assert!(check(&|h| h[20] = 0x20), "a first one");
        let about = udp(&mut pool, true, 20);
        let ip = Headers::parse(&about).unwrap();
        let other = error(&about, &ip, Problem::Host, "::1".parse().unwrap(), &mut pool);
        assert_eq!(other.err(), Some(DropReason::Truncated));
    }
}
