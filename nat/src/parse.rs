//! What of a packet decides about it.

use std::net::{Ipv4Addr, Ipv6Addr};

use trunkline_packet::checksum::{Sum, ipv4_header_ok};
use trunkline_packet::headers::{Fragment, Headers, IpVersion, read16};
use trunkline_packet::{Packet, headers::proto};

use crate::DropReason;
use crate::tcp::Segment;
use crate::types::{Endpoint, Path, Side, is_unicast};

/// What kind of packet, as far as tracking goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Tcp,
    Udp,
    /// An ICMP query or its reply.
    Query {
        reply: bool,
    },
    /// An ICMP error.
    Error,
    /// A protocol without ports.
    Other,
    /// A later fragment: the ports are in the first.
    Later,
}

/// A packet, seen from its side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) ip: Headers,
    pub(crate) kind: Kind,
    /// The endpoint that is, or is to be, translated.
    pub(crate) near: Endpoint,
    /// The other one. Its port is the query type for ICMP.
    pub(crate) remote: Endpoint,
}

const ECHO_V6: u8 = 128;

/// Whether an ICMP type is a query or its reply: the type of the query, and whether it is the reply.
/// RFC 792, RFC 950, RFC 4443.
pub(crate) fn query(version: IpVersion, icmp_type: u8) -> Option<(u8, bool)> {
    match (version, icmp_type) {
        (IpVersion::V4, 8 | 13 | 15 | 17) => Some((icmp_type, false)),
        (IpVersion::V4, 0) => Some((8, true)),
        (IpVersion::V4, 14 | 16 | 18) => Some((icmp_type - 1, true)),
        (IpVersion::V6, ECHO_V6) => Some((ECHO_V6, false)),
        (IpVersion::V6, 129) => Some((ECHO_V6, true)),
        _ => None,
    }
}

/// Unreachable, too big, time exceeded, parameter problem. Source quench (RFC 6633) and redirect are not
/// forwarded.
fn is_error(version: IpVersion, icmp_type: u8) -> bool {
    match version {
        IpVersion::V4 => matches!(icmp_type, 3 | 11 | 12),
        IpVersion::V6 => matches!(icmp_type, 1..=4),
    }
}

/// Source and destination address.
#[inline]
pub(crate) fn addresses(head: &[u8], ip: &Headers) -> Option<(Ipv6Addr, Ipv6Addr)> {
    let l3 = usize::from(ip.l3);
    Some(match ip.version {
        IpVersion::V4 => {
            let (src, rest) = head.get(l3 + 12..)?.split_first_chunk::<4>()?;
            let dst = rest.first_chunk::<4>()?;
            (Ipv4Addr::from(*src).to_ipv6_mapped(), Ipv4Addr::from(*dst).to_ipv6_mapped())
        }
        IpVersion::V6 => {
            let (src, rest) = head.get(l3 + 8..)?.split_first_chunk::<16>()?;
            (Ipv6Addr::from(*src), Ipv6Addr::from(*rest.first_chunk::<16>()?))
        }
    })
}

impl Seen {
    /// Reads a packet.
    #[inline]
    pub(crate) fn parse(packet: &Packet, path: Path) -> Result<Seen, DropReason> {
        let side = path.side();
        let head = packet.head();
        let ip = Headers::of_frame(head).ok_or(DropReason::NatMalformed)?;
        // Nor may its extension headers reach behind its end.
        if !ip.is_whole(packet.len()) || u32::from(ip.l4) > ip.end {
            return Err(DropReason::NatMalformed);
        }
        let (src, dst) = addresses(head, &ip).ok_or(DropReason::NatMalformed)?;
        check_addresses(&ip, src, dst)?;
        if ip.extended {
            check_routing(head, &ip)?;
        }
        let mut seen = Seen::orient(ip, src, dst, side);
        seen.transport(head, side)?;
        // Only a hairpinned packet, or one of the host itself, goes from one of our own addresses to it.
        let same_end = seen.near == seen.remote && matches!(seen.kind, Kind::Tcp | Kind::Udp);
        if src == dst && (same_end || !matches!(path, Path::Hairpin(_) | Path::Local(_))) {
            return Err(DropReason::NatLand);
        }
        Ok(seen)
    }

    /// The packet inside an ICMP error, which was sent to `side`, whose headers may be all that is left of it.
    pub(crate) fn embedded(head: &[u8], l3: usize, side: Side) -> Option<Seen> {
        let ip = Headers::ip(head, l3)?;
        let (src, dst) = addresses(head, &ip)?;
        let sender = side.other();
        let mut seen = Seen::orient(ip, src, dst, sender);
        // It was sent the other way, and must not be an error itself.
        seen.transport(head, sender).ok()?;
        (!matches!(seen.kind, Kind::Error | Kind::Later)).then_some(seen)
    }

    #[inline]
    fn orient(ip: Headers, src: Ipv6Addr, dst: Ipv6Addr, side: Side) -> Seen {
        let (near, remote) = if side == Side::Inside { (src, dst) } else { (dst, src) };
        let [near, remote] = [near, remote].map(|addr| Endpoint { addr, port: 0 });
        Seen { ip, kind: Kind::Other, near, remote }
    }

    /// Finds the ports.
    #[inline]
    fn transport(&mut self, head: &[u8], side: Side) -> Result<(), DropReason> {
        if self.ip.fragment == Fragment::Later {
            self.kind = Kind::Later;
            return Ok(());
        }
        let l4 = usize::from(self.ip.l4);
        // Eight bytes are in every whole packet of these protocols, and in every ICMP error (RFC 792).
        let enough = l4 + 8 <= head.len() && l4 as u32 + 8 <= self.ip.end;
        let short = if self.ip.fragment == Fragment::First {
            DropReason::NatFragmentTiny
        } else {
            DropReason::NatMalformed
        };
        let field = |at| read16(head, l4 + at).filter(|_| enough).ok_or(short);
        match (self.ip.version, self.ip.proto) {
            (_, proto::TCP | proto::UDP) => {
                self.kind = if self.ip.proto == proto::TCP { Kind::Tcp } else { Kind::Udp };
                let (src, dst) = (field(0)?, field(2)?);
                (self.near.port, self.remote.port) =
                    if side == Side::Inside { (src, dst) } else { (dst, src) };
            }
            (version @ IpVersion::V4, proto::ICMP) | (version @ IpVersion::V6, proto::ICMPV6) => {
                let icmp_type = (field(0)? >> 8) as u8;
                if let Some((query, reply)) = query(version, icmp_type) {
                    self.kind = Kind::Query { reply };
                    self.near.port = field(4)?;
                    self.remote.port = u16::from(query);
                } else if is_error(version, icmp_type) {
                    self.kind = Kind::Error;
                } else {
                    return Err(DropReason::NatIcmpType);
                }
            }
            // The one's protocol over the other.
            (_, proto::ICMP | proto::ICMPV6) => return Err(DropReason::NatIcmpType),
            _ => {}
        }
        Ok(())
    }

    /// The TCP segment, with the payload length of the whole packet, superframe or not.
    #[inline]
    pub(crate) fn segment(&self, head: &[u8]) -> Result<Segment, DropReason> {
        let short = if self.ip.fragment == Fragment::First {
            DropReason::NatFragmentTiny
        } else {
            DropReason::NatMalformed
        };
        let l4 = usize::from(self.ip.l4);
        let header = self.ip.transport_len(head).ok_or(short)?;
        let len = self.ip.end.checked_sub((l4 + header) as u32).ok_or(short)?;
        Segment::parse(&head[l4..], header, len).ok_or(short)
    }
}

fn check_addresses(ip: &Headers, src: Ipv6Addr, dst: Ipv6Addr) -> Result<(), DropReason> {
    // An IPv4 address in an IPv6 header would be taken for the real one (RFC 6890: not forwardable).
    let posing =
        ip.version == IpVersion::V6 && (src.to_ipv4_mapped().is_some() || dst.to_ipv4_mapped().is_some());
    if posing || !is_unicast(src) || !is_unicast(dst) { Err(DropReason::NatMartian) } else { Ok(()) }
}

/// Refuses source routes: IPv4 options (RFC 7126 §4.3, §4.4), IPv6 routing headers that are not used up
/// (RFC 5095), with which the checksum would cover another destination than the header's.
fn check_routing(head: &[u8], ip: &Headers) -> Result<(), DropReason> {
    let (l3, l4) = (usize::from(ip.l3), usize::from(ip.l4));
    if ip.version == IpVersion::V4 {
        let mut options = head.get(l3 + 20..l4).unwrap_or_default();
        loop {
            match *options {
                [] | [0, ..] => return Ok(()),
                [1, ref rest @ ..] => options = rest,
                [131 | 137, ..] => return Err(DropReason::NatSourceRoute),
                [_, len, ..] if len >= 2 && usize::from(len) <= options.len() => {
                    options = &options[usize::from(len)..];
                }
                _ => return Err(DropReason::NatMalformed),
            }
        }
    }
    for (kind, at) in extensions(head, ip) {
        if kind == ROUTING && head.get(at + 3).is_some_and(|left| *left != 0) {
            return Err(DropReason::NatSourceRoute);
        }
    }
    Ok(())
}

const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;

/// The extension headers of an IPv6 packet that was parsed: their numbers, and where they are.
fn extensions<'a>(head: &'a [u8], ip: &Headers) -> impl Iterator<Item = (u8, usize)> + use<'a> {
    let (mut next, mut at, end) =
        (head.get(usize::from(ip.l3) + 6).copied(), usize::from(ip.l3) + 40, usize::from(ip.l4));
    std::iter::from_fn(move || {
        let (kind, here) = (next?, at);
        if here >= end {
            return None;
        }
        let len = usize::from(*head.get(here + 1)?);
        at += match kind {
            FRAGMENT => 8,
            AUTHENTICATION => 8 + 4 * len,
            _ => 8 + 8 * len,
        };
        next = head.get(here).copied();
        Some((kind, here))
    })
}

/// One piece of a fragmented packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    /// Identification.
    pub(crate) id: u32,
    /// The bytes of the fragmented part that it carries.
    pub(crate) from: u32,
    pub(crate) to: u32,
    /// More come behind it.
    pub(crate) more: bool,
}

/// Where a fragment belongs. `None` when the header cannot be found.
pub(crate) fn piece(head: &[u8], ip: &Headers) -> Option<Piece> {
    let l3 = usize::from(ip.l3);
    let (id, field, start) = match ip.version {
        IpVersion::V4 => {
            let field = read16(head, l3 + 6)?;
            (u32::from(read16(head, l3 + 4)?), (field & 0x1fff) << 3 | field >> 13 & 1, usize::from(ip.l4))
        }
        IpVersion::V6 => {
            let (_, at) = extensions(head, ip).find(|(kind, _)| *kind == FRAGMENT)?;
            (trunkline_packet::headers::read32(head, at + 4)?, read16(head, at + 2)? & 0xfff9, at + 8)
        }
    };
    let from = u32::from(field & 0xfff8);
    Some(Piece { id, from, to: from + ip.end.checked_sub(start as u32)?, more: field & 1 != 0 })
}

/// The packet inside an ICMP error of `side`, once the error's own checksum and the inner header's are found
/// right (RFC 5508 REQ-3). The inner transport checksum is not judged: what it covers is cut off.
pub(crate) fn error_payload(packet: &Packet, seen: &Seen, side: Side) -> Result<Seen, DropReason> {
    let (l4, end) = (usize::from(seen.ip.l4), seen.ip.end as usize);
    // Errors are short: all of one is in the head.
    let head = packet.head().get(..end).ok_or(DropReason::NatMalformed)?;
    let start = match seen.ip.version {
        IpVersion::V4 => Sum::ZERO,
        IpVersion::V6 => seen.ip.pseudo(head, (end - l4) as u32),
    };
    if packet.meta().offload.csum.is_full() && start.bytes(&head[l4..]).fold() != 0xffff {
        return Err(DropReason::NatIcmpChecksum);
    }
    let inner = Seen::embedded(head, l4 + 8, side).ok_or(DropReason::NatIcmpUnmatched)?;
    if inner.ip.version != seen.ip.version {
        return Err(DropReason::NatIcmpUnmatched);
    }
    if !ipv4_header_ok(head, &inner.ip) {
        return Err(DropReason::NatIcmpChecksum);
    }
    Ok(inner)
}
