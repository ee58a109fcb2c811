//! Changing an endpoint in a packet, with the checksums that cover it (RFC 1624).
//!
//! What changes is collected as a sum of old words taken away and new words added; each checksum that covers
//! the words gets that sum. A partial checksum field holds the plain sum of the pseudo-header: addresses go
//! into it, ports do not, since they are summed when it is finished.

use std::net::Ipv6Addr;

use trunkline_packet::checksum::Sum;
use trunkline_packet::headers::{Headers, IpVersion, proto, read16, read32, write16, write32};
use trunkline_packet::plain::{L4_V4, LEAST_V4};
use trunkline_packet::{Checksum, Packet, Plain};

use crate::types::Endpoint;

/// Which endpoint of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Source,
    Destination,
}

impl End {
    pub(crate) fn other(self) -> End {
        if self == End::Source { End::Destination } else { End::Source }
    }
}

const UDP_LITE: u8 = 136;
const DCCP: u8 = 33;

/// Where the checksum is in a transport header, and whether it covers a pseudo-header.
#[inline]
fn check_field(ip: &Headers) -> Option<(usize, bool)> {
    match ip.proto {
        proto::TCP => Some((16, true)),
        proto::UDP | UDP_LITE | DCCP => Some((6, true)),
        proto::ICMP => Some((2, false)),
        proto::ICMPV6 => Some((2, true)),
        _ => None,
    }
}

/// Replaces a word and adds the difference to the sum.
#[inline]
fn swap(bytes: &mut [u8], at: usize, new: u16, sum: Sum) -> Sum {
    let Some(old) = read16(bytes, at) else { return sum };
    write16(bytes, at, new);
    sum.sub(u32::from(old)).add(u32::from(new))
}

/// The checksum after what it covers changed by `delta`.
#[inline]
fn adjust(check: u16, delta: Sum) -> u16 {
    delta.add(u32::from(!check)).finish()
}

/// Writes an address into an IP header, with the header's checksum. Returns the change, for checksums that
/// cover the pseudo-header, and the change of all the header's bytes.
#[inline]
fn address(head: &mut [u8], ip: &Headers, end: End, to: Ipv6Addr) -> (Sum, Sum) {
    let l3 = usize::from(ip.l3);
    let octets = to.octets();
    let (first, words) = match ip.version {
        IpVersion::V4 => (l3 + if end == End::Source { 12 } else { 16 }, &octets[12..]),
        IpVersion::V6 => (l3 + if end == End::Source { 8 } else { 24 }, &octets[..]),
    };
    let mut delta = Sum::ZERO;
    for (i, word) in words.as_chunks::<4>().0.iter().enumerate() {
        let (at, new) = (first + 4 * i, u32::from_be_bytes(*word));
        let Some(old) = read32(head, at) else { continue };
        write32(head, at, new);
        delta = delta.sub(old).add(new);
    }
    let mut all = delta;
    if ip.version == IpVersion::V4
        && let Some(check) = read16(head, l3 + 10)
    {
        all = swap(head, l3 + 10, adjust(check, delta), all);
    }
    (delta, all)
}

/// Where a port is in a packet of this protocol.
#[inline]
fn port_field(ip: &Headers, end: End) -> Option<usize> {
    let l4 = usize::from(ip.l4);
    match ip.proto {
        proto::TCP | proto::UDP => Some(l4 + if end == End::Source { 0 } else { 2 }),
        proto::ICMP | proto::ICMPV6 => Some(l4 + 4),
        _ => None,
    }
}

/// Writes an endpoint into a packet. The port is left out of fragments that have none, and of ICMP errors if
/// `port` is false.
#[inline]
pub(crate) fn endpoint(packet: &mut Packet, ip: &Headers, end: End, to: Endpoint, port: bool) {
    let csum = packet.meta().offload.csum;
    let head = packet.head_mut();
    let (delta, _) = address(head, ip, end, to.addr);
    if !ip.has_transport() {
        return;
    }
    let mut ports = Sum::ZERO;
    if let Some(at) = port_field(ip, end).filter(|_| port) {
        ports = swap(head, at, to.port, ports);
    }
    let Some((offset, pseudo)) = check_field(ip) else { return };
    let at = usize::from(ip.l4) + offset;
    let Some(check) = read16(head, at) else { return };
    let addresses = if pseudo { delta } else { Sum::ZERO };
    let partial =
        matches!(csum, Checksum::Partial { start, offset: o } if start == ip.l4 && usize::from(o) == offset);
    let new = if partial {
        addresses.add(u32::from(check)).fold()
    } else if ip.proto == proto::UDP && check == 0 {
        // No checksum (RFC 768, RFC 6935); none is made (RFC 3022 §4.1).
        return;
    } else {
        match adjust(check, sum_of(addresses, ports)) {
            0 if ip.proto == proto::UDP => 0xffff,
            new => new,
        }
    };
    write16(head, at, new);
}

/// As [`endpoint`], for a plain packet.
#[inline]
pub(crate) fn plain(packet: &mut Packet, p: &Plain, end: End, to: Endpoint) {
    if !p.v4 {
        return endpoint(packet, &p.headers(), end, to, true);
    }
    let field: u16 = if p.is_tcp() { 16 } else { 6 };
    let csum = packet.meta().offload.csum;
    let head = packet.head_mut();
    let Some(h) = head.first_chunk_mut::<LEAST_V4>() else { return };
    // Words in the machine's own order, all of them: sums are then so, too (RFC 1071 §2(B)).
    let [.., a, b, c, d] = to.addr.octets();
    let new = [a, b, c, d];
    let old = if end == End::Source { &mut h[26..30] } else { &mut h[30..34] };
    let Some(old) = old.first_chunk_mut::<4>() else { return };
    let delta = Sum::ZERO.sub(u32::from_ne_bytes(*old)).add(u32::from_ne_bytes(new));
    *old = new;
    let check = u16::from_ne_bytes([h[24], h[25]]);
    [h[24], h[25]] = adjust(check, delta).to_ne_bytes();
    let new = to.port.to_be_bytes();
    let port = if end == End::Source { &mut h[34..36] } else { &mut h[36..38] };
    let Some(port) = port.first_chunk_mut::<2>() else { return };
    let old = std::mem::replace(port, new);
    let ports = delta.sub(u32::from(u16::from_ne_bytes(old))).add(u32::from(u16::from_ne_bytes(new)));
    let Some(check) = head.get_mut(L4_V4 + usize::from(field)..).and_then(|t| t.first_chunk_mut::<2>())
    else {
        return;
    };
    let old = u16::from_ne_bytes(*check);
    let partial =
        matches!(csum, Checksum::Partial { start, offset } if (start, offset) == (L4_V4 as u16, field));
    let new = if partial {
        delta.add(u32::from(old)).fold()
    } else if !p.is_tcp() && old == 0 {
        // No checksum (RFC 768); none is made (RFC 3022 §4.1).
        return;
    } else {
        match adjust(old, ports) {
            0 if !p.is_tcp() => 0xffff,
            new => new,
        }
    };
    *check = new.to_ne_bytes();
}

#[inline]
fn sum_of(a: Sum, b: Sum) -> Sum {
    a.add(u32::from(b.fold()))
}

/// Writes an endpoint into the packet inside an ICMP error, and puts the error's own checksum right. What of
/// the inner packet is cut off is not there to be changed. The port is left out if `port` is false.
pub(crate) fn embedded(
    packet: &mut Packet,
    outer: &Headers,
    ip: &Headers,
    end: End,
    to: Endpoint,
    port: bool,
) {
    let head = packet.head_mut();
    // What lies behind the error's end is padding, which no checksum covers.
    let len = head.len().min(outer.end as usize);
    let head = &mut head[..len];
    let (delta, mut all) = address(head, ip, end, to.addr);
    let mut ports = Sum::ZERO;
    if let Some(at) = port_field(ip, end).filter(|_| port) {
        ports = swap(head, at, to.port, ports);
        all = sum_of(all, ports);
    }
    if let Some((offset, pseudo)) = check_field(ip) {
        let at = usize::from(ip.l4) + offset;
        let covered = if pseudo { sum_of(delta, ports) } else { ports };
        if let Some(check) = read16(head, at).filter(|check| ip.proto != proto::UDP || *check != 0) {
            let new = match adjust(check, covered) {
                0 if ip.proto == proto::UDP => 0xffff,
                new => new,
            };
            all = swap(head, at, new, all);
        }
    }
    let at = usize::from(outer.l4) + 2;
    if let Some(check) = read16(head, at) {
        write16(head, at, adjust(check, all));
    }
}
