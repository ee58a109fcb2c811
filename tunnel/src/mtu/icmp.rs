//! Errors that tell an inner sender that its packet does not fit the tunnel: ICMP "fragmentation needed"
//! (RFC 792, RFC 1191 §4) and ICMPv6 "packet too big" (RFC 4443 §3.2).
//!
//! A switch has no address in the network it carries, so the error's source is the destination of the packet
//! it is about; senders look at the quoted packet, not at the source.

use std::time::Instant;

use trunkline_packet::checksum::Sum;
use trunkline_packet::headers::{
    Fragment, Headers, IPV4_HLEN, IPV6_HLEN, IpVersion, proto, read16, write16, write32,
};
use trunkline_packet::{DropReason, MacAddr, Packet, Pool, segment};

use super::IPV6_MIN;

/// Longest ICMP error with its IP header (RFC 1812 §4.3.2.3).
const V4_LONGEST: usize = 576;
/// Longest ICMPv6 error with its IP header: "as much of invoking packet as possible without … exceeding the
/// minimum IPv6 MTU" (RFC 4443 §3.2).
const V6_LONGEST: usize = IPV6_MIN as usize;
const ICMP_HLEN: usize = 8;
const TTL: u8 = 64;

/// A limit on how many errors are made (RFC 1812 §4.3.2.8, RFC 4443 §2.4(f)).
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    per_second: u32,
    burst: u32,
    /// Tokens, in nanoseconds' worth.
    credit: u64,
    last: Instant,
}

impl TokenBucket {
    /// Full.
    pub fn new(now: Instant, per_second: u32, burst: u32) -> TokenBucket {
        let mut bucket = TokenBucket { per_second: per_second.max(1), burst, credit: 0, last: now };
        bucket.credit = bucket.full();
        bucket
    }

    const fn token(&self) -> u64 {
        1_000_000_000 / self.per_second as u64
    }

    const fn full(&self) -> u64 {
        self.token() * self.burst as u64
    }

    /// Takes a token, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.last).as_nanos().min(u128::from(u64::MAX)) as u64;
        self.credit = self.credit.saturating_add(passed).min(self.full());
        self.last = self.last.max(now);
        let ok = self.credit >= self.token();
        if ok {
            self.credit -= self.token();
        }
        ok
    }
}

/// What to do with an inner packet that exceeds the MTU.
#[derive(Debug)]
pub enum TooBig {
    /// Drop it and send this back to where it came from.
    Reply(Packet),
    /// Drop it: an error is not allowed, or there were too many.
    Silent,
    /// Its sender allows fragments (IPv4 without DF), which a switch does not make: send it all the same, with
    /// the outer packet fragmented.
    Fragment,
}

/// Whether a frame, or a segment of a superframe, is larger than `mtu` bytes of IP.
#[inline]
pub fn exceeds(packet: &Packet, mtu: u16) -> bool {
    segment::l3_segment_len(packet) > usize::from(mtu)
}

/// Decides about a frame for which [`exceeds`] is true, and makes the error. The error's VLAN tag is that of
/// the frame.
///
/// # Errors
/// As [`Packet::set_bytes`].
pub fn too_big(
    packet: &Packet,
    mtu: u16,
    now: Instant,
    limit: &mut TokenBucket,
    pool: &mut Pool,
) -> Result<TooBig, DropReason> {
    let head = packet.head();
    let Some(ip) = Headers::of_frame(head) else { return Ok(TooBig::Silent) };
    let l3 = usize::from(ip.l3);
    const DF: u16 = 0x4000;
    if ip.version == IpVersion::V4 && read16(head, l3 + 6).unwrap_or_default() & DF == 0 {
        return Ok(TooBig::Fragment);
    }
    if !may_answer(head, &ip) || !limit.take(now) {
        return Ok(TooBig::Silent);
    }
    let mut reply = pool.get();
    match build(packet, &ip, mtu, pool, &mut reply) {
        Ok(()) => Ok(TooBig::Reply(reply)),
        Err(reason) => {
            pool.put(reply);
            Err(reason)
        }
    }
}

/// The packets about which no error may be sent: RFC 1122 §3.2.2, RFC 1812 §4.3.2.7, RFC 4443 §2.4(e).
fn may_answer(head: &[u8], ip: &Headers) -> bool {
    let (l3, l4) = (usize::from(ip.l3), usize::from(ip.l4));
    let mac = |at: usize| head.get(at..).and_then(<[u8]>::first_chunk).copied().map(MacAddr);
    if ip.fragment == Fragment::Later || mac(6).is_none_or(|src| src.is_group()) {
        return false;
    }
    let kind = head.get(l4).copied();
    match ip.version {
        IpVersion::V4 => {
            // Source quench, redirect, errors; a type that is cut off might be one.
            let error = ip.proto == proto::ICMP && matches!(kind, None | Some(3..=5 | 11 | 12));
            let host = |at: usize| !matches!(head.get(at), None | Some(0 | 127 | 224..));
            !error && host(l3 + 12) && host(l3 + 16) && mac(0).is_some_and(|dst| !dst.is_group())
        }
        IpVersion::V6 => {
            // Errors have types below 128; 137 is a redirect. Too big is the error that may answer multicast,
            // but its source must be an address of one host, which here only the destination could lend.
            let error = ip.proto == proto::ICMPV6 && matches!(kind, None | Some(..128 | 137));
            let unspecified = head.get(l3 + 8..l3 + 24).is_none_or(|src| src == [0; 16]);
            let group = |at: usize| head.get(at) == Some(&0xff);
            !error && !unspecified && !group(l3 + 8) && !group(l3 + 24)
        }
    }
}

fn build(
    packet: &Packet,
    ip: &Headers,
    mtu: u16,
    pool: &mut Pool,
    reply: &mut Packet,
) -> Result<(), DropReason> {
    let (head, l3) = (packet.head(), usize::from(ip.l3));
    let v4 = ip.version == IpVersion::V4;
    let (ip_len, longest) = if v4 { (IPV4_HLEN, V4_LONGEST) } else { (IPV6_HLEN, V6_LONGEST) };
    let quote = (ip.end as usize).min(packet.len()).saturating_sub(l3).min(longest - ip_len - ICMP_HLEN);
    // Link header with its tags, IP, ICMP.
    let mut front = [0u8; 14 + 4 * trunkline_packet::headers::MAX_TAGS + IPV6_HLEN + ICMP_HLEN];
    let len = l3 + ip_len + ICMP_HLEN;
    let (Some(b), Some(link)) = (front.get_mut(..len), head.get(..l3)) else {
        return Err(DropReason::Truncated);
    };
    b[..l3].copy_from_slice(link);
    b[..6].copy_from_slice(&link[6..12]);
    b[6..12].copy_from_slice(&link[..6]);
    let h = &mut b[l3..];
    if v4 {
        // Precedence of internetwork control (RFC 1812 §4.3.2.5); an atomic datagram (RFC 6864 §4.1).
        (h[0], h[1], h[6], h[8], h[9]) = (0x45, 0xc0, 0x40, TTL, proto::ICMP);
        write16(h, 2, (IPV4_HLEN + ICMP_HLEN + quote) as u16);
        h[12..16].copy_from_slice(&head[l3 + 16..l3 + 20]);
        h[16..20].copy_from_slice(&head[l3 + 12..l3 + 16]);
        let check = Sum::ZERO.bytes(&h[..IPV4_HLEN]).finish();
        write16(h, 10, check);
        // Destination unreachable, fragmentation needed; the MTU in the low half (RFC 1191 §4).
        (h[20], h[21]) = (3, 4);
        write16(h, 26, mtu);
    } else {
        h[0] = 0x60;
        write16(h, 4, (ICMP_HLEN + quote) as u16);
        (h[6], h[7]) = (proto::ICMPV6, TTL);
        h[8..24].copy_from_slice(&head[l3 + 24..l3 + 40]);
        h[24..40].copy_from_slice(&head[l3 + 8..l3 + 24]);
        h[40] = 2;
        write32(h, 44, mtu.max(IPV6_MIN).into());
    }
    reply.set_bytes(b, pool)?;
    reply.append_range(packet, l3, quote, pool)?;
    reply.meta_mut().vlan = packet.meta().vlan;
    let l4 = l3 + ip_len;
    let pseudo = if v4 {
        Sum::ZERO
    } else {
        let addresses = reply.head().get(l3 + 8..l3 + 40).unwrap_or_default();
        Sum::ZERO.bytes(addresses).add(proto::ICMPV6.into()).add((ICMP_HLEN + quote) as u32)
    };
    let check = pseudo.frame(reply, l4).finish();
    write16(reply.head_mut(), l4 + 2, check);
    Ok(())
}

#[cfg(test)]
#[path = "icmp_tests.rs"]
mod tests;
