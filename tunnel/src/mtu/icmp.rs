//! Errors that tell an inner sender that its packet does not fit the tunnel: ICMP "fragmentation needed"
//! (RFC 792, RFC 1191 §4) and ICMPv6 "packet too big" (RFC 4443 §3.2).
//!
//! A switch has no address in the network it carries, so the error's source is the destination of the packet
//! it is about; senders look at the quoted packet, not at the source.

use std::net::IpAddr;
use std::time::Instant;

use trunkline_packet::headers::{Headers, IpVersion, read16};
use trunkline_packet::icmp::{self, Problem};
use trunkline_packet::{DropReason, Packet, Pool};

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

/// Decides about a frame for which [`trunkline_packet::segment::exceeds`] is true, and makes the error. The error's
/// VLAN tag is that of the frame.
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
    if !icmp::may_answer(head, &ip) || !limit.take(now) {
        return Ok(TooBig::Silent);
    }
    let Some(flow) = ip.flow(head) else { return Ok(TooBig::Silent) };
    let source = match ip.version {
        IpVersion::V4 => flow.dst.to_canonical(),
        IpVersion::V6 => IpAddr::V6(flow.dst),
    };
    icmp::error(packet, &ip, Problem::TooBig(mtu), source, pool).map(TooBig::Reply)
}

#[cfg(test)]
#[path = "icmp_tests.rs"]
mod tests;
