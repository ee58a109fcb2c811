//! Merging a train: what UDP_GRO hands over as one buffer, datagrams of equal length (but a shorter last one) with
//! the same tunnel header and consecutive segments of one inner flow inside.
//!
//! The result is the superframe that [`coalesce`](mod@crate::coalesce) would make of the single frames, for a fraction of the
//! work: nothing is looked up twice, no buffer is taken, and each payload moves up by a few hundred bytes within
//! the cache instead of being copied to memory elsewhere. All or nothing: a train that is not of this kind stays as
//! it is, for the long way. The reasons not to merge are those listed in [`coalesce`](mod@crate::coalesce), and
//! - **Tunnel.** The bytes in front of the inner frames differ.
//! - **Length.** The inner packets exceed the tunnel's MTU, or a datagram does not fit a packet's head.
//! - **Push.** PSH is set elsewhere than at the end.
//! - **Checksums.** One is wrong or unfinished. That the kernel has verified those of the outer packets says nothing
//!   of an error made before encapsulation, so each inner one is summed up.

use crate::checksum::{self, Sum, TCP_CHECK, UDP_CHECK};
use crate::coalesce::{DF, MAX_UDP_SEGMENTS, NEVER, PSH};
use crate::headers::{Fragment, Headers, IpVersion, proto, read16, read32, write16};
use crate::segment::fix_ip;
use crate::{Checksum, Gso, GsoKind, Offload, Packet};

/// Room for the headers of a datagram of a train: Geneve with options, a tag, IPv6 and TCP with options.
const MAX_HEADERS: usize = 256;

/// Makes one superframe behind `skip` bytes of tunnel header out of a train of datagrams of `size` bytes, whose inner
/// IP packets may have `mtu`. True: it is done, and the packet's metadata says so. False: nothing has changed.
pub fn merge_train(packet: &mut Packet, size: usize, skip: usize, mtu: u16) -> bool {
    let Some(train) = Train::new(packet, size, skip, mtu) else { return false };
    let mut fixed_id = false;
    for index in 0..train.count {
        match train.fits(packet, index, fixed_id) {
            Some(fixed) => fixed_id = fixed,
            None => return false,
        }
    }
    train.merge(packet)
}

struct Train {
    /// Of the first inner frame, from its start.
    ip: Headers,
    skip: usize,
    size: usize,
    count: usize,
    /// Length of all headers, the tunnel's too.
    headers: usize,
    /// Payload of each segment but a shorter last one.
    payload: usize,
    /// Which bits of the headers all have alike.
    alike: [u8; MAX_HEADERS],
    /// What the pseudo-header adds to each transport checksum but for the length.
    pseudo: Sum,
}

impl Train {
    #[inline]
    fn new(packet: &Packet, size: usize, skip: usize, mtu: u16) -> Option<Train> {
        let count = packet.len().div_ceil(size.max(1));
        let first = packet.head().get(skip..size)?;
        let ip = Headers::of_frame(first)?;
        let headers = skip + usize::from(ip.l4) + ip.transport_len(first)?;
        let ours = (2..=MAX_UDP_SEGMENTS).contains(&count)
            && ip.fragment == Fragment::None
            && !ip.extended
            && ip.end as usize == first.len()
            && first.len() - usize::from(ip.l3) <= usize::from(mtu)
            && headers < size
            && headers <= MAX_HEADERS
            && packet.meta().offload == Offload::NONE
            && packet.meta().outer == Offload::NONE;
        if !ours {
            return None;
        }
        let mut alike = [0xff; MAX_HEADERS];
        let (l3, l4) = (skip + usize::from(ip.l3), skip + usize::from(ip.l4));
        match ip.version {
            // Total length and identification; checksum.
            IpVersion::V4 => {
                alike[l3 + 2..l3 + 6].fill(0);
                alike[l3 + 10..l3 + 12].fill(0);
            }
            // Payload length.
            IpVersion::V6 => alike[l3 + 4..l3 + 6].fill(0),
        }
        match ip.proto {
            // Length, checksum.
            proto::UDP => alike[l4 + 4..l4 + 8].fill(0),
            proto::TCP if first[usize::from(ip.l4) + 13] & NEVER == 0 => {
                // Sequence number, PSH, checksum.
                alike[l4 + 4..l4 + 8].fill(0);
                alike[l4 + 13] = !PSH;
                alike[l4 + 16..l4 + 18].fill(0);
            }
            _ => return None,
        }
        let pseudo = ip.pseudo(first, 0);
        Some(Train { ip, skip, size, count, headers, payload: size - headers, alike, pseudo })
    }

    fn check_at(&self) -> u16 {
        if self.ip.proto == proto::UDP { UDP_CHECK } else { TCP_CHECK }
    }

    /// Whether headers are like those of the first but for what differs between segments.
    #[inline]
    fn like(&self, a: &[u8], b: &[u8]) -> bool {
        let word = |bytes: &[u8; 8]| u64::from_ne_bytes(*bytes);
        let (words, masks) = (a.as_chunks().0.iter().zip(b.as_chunks().0), self.alike.as_chunks().0);
        let differ = words.zip(masks).fold(0, |all, ((a, b), mask)| all | (word(a) ^ word(b)) & word(mask));
        // The last word overlaps the one before. There are more than 40 bytes.
        let last = |bytes: &[u8]| bytes.last_chunk().map_or(0, word);
        (differ | (last(a) ^ last(b)) & last(&self.alike[..self.headers])) == 0
    }

    /// Whether a datagram may be where it is in the train; then, whether all up to here have the same IPv4
    /// identification.
    #[inline]
    fn fits(&self, packet: &Packet, index: usize, fixed_id: bool) -> Option<bool> {
        let at = index * self.size;
        let (len, last) = (self.size.min(packet.len() - at), index + 1 == self.count);
        if len <= self.headers {
            return None;
        }
        let a = packet.head().get(..self.headers)?;
        let mut room;
        let b = match packet.piece(at, self.headers) {
            Some(b) => b,
            // It lies across head and tail.
            None => {
                room = [0; MAX_HEADERS];
                let room = &mut room[..self.headers];
                packet.copy_out(at, room).then_some(&*room)?
            }
        };
        let (l3, l4) = (self.skip + usize::from(self.ip.l3), self.skip + usize::from(self.ip.l4));
        if !self.like(a, b) {
            return None;
        }
        let mut fixed = false;
        match self.ip.version {
            IpVersion::V4 => {
                let step = read16(b, l3 + 4)?.wrapping_sub(read16(a, l3 + 4)?);
                fixed = match step {
                    0 if index == 0 => false,
                    0 if a[l3 + 6] & DF != 0 && (fixed_id || index == 1) => true,
                    _ if usize::from(step) == index && !fixed_id => false,
                    _ => return None,
                };
                if usize::from(read16(b, l3 + 2)?) != len - l3
                    || !checksum::ipv4_header_ok(&b[self.skip..], &self.ip)
                {
                    return None;
                }
            }
            IpVersion::V6 => {
                if usize::from(read16(b, l3 + 4)?) != len - l3 - 40 {
                    return None;
                }
            }
        }
        let transport = len - l4;
        if self.ip.proto == proto::UDP {
            if usize::from(read16(b, l4 + 4)?) != transport || read16(b, l4 + 6)? == 0 {
                return None;
            }
        } else {
            let sequence = read32(a, l4 + 4)?.wrapping_add((index * self.payload) as u32);
            if (b[l4 + 13] & PSH != 0 && !last) || read32(b, l4 + 4)? != sequence {
                return None;
            }
        }
        let sum = self.pseudo.add(transport as u32).range(packet, at + l4, transport);
        (sum.fold() == 0xffff).then_some(fixed)
    }

    fn merge(&self, packet: &mut Packet) -> bool {
        let l4 = self.skip + usize::from(self.ip.l4);
        let len = packet.len();
        let last = (self.count - 1) * self.size;
        let mut flags = [0];
        if self.ip.proto == proto::TCP && !packet.copy_out(last + l4 + 13, &mut flags) {
            return false;
        }
        for index in 1..self.count {
            let from = index * self.size + self.headers;
            let payload = self.payload.min(len - from);
            // Only the first one could fail, for a tail that is shared.
            if !packet.slide(from, self.headers + index * self.payload, payload) {
                return false;
            }
        }
        let merged = len - (self.count - 1) * self.headers;
        packet.truncate(merged);
        let check = self.check_at();
        let inner = &mut packet.head_mut()[self.skip..];
        let (len, at) = (merged - self.skip, usize::from(self.ip.l4));
        fix_ip(inner, &self.ip, len, 0);
        let kind = match (self.ip.proto, self.ip.version) {
            (proto::UDP, _) => {
                write16(inner, at + 4, (len - at) as u16);
                GsoKind::UdpL4
            }
            (_, version) => {
                inner[at + 13] |= flags[0] & PSH;
                if version == IpVersion::V4 { GsoKind::TcpV4 } else { GsoKind::TcpV6 }
            }
        };
        let pseudo = self.ip.pseudo(inner, (len - at) as u32).fold();
        write16(inner, at + usize::from(check), pseudo);
        let meta = packet.meta_mut();
        meta.frames = self.count as u16;
        meta.offload = Offload {
            csum: Checksum::Partial { start: l4 as u16, offset: check },
            gso: Gso { kind, ecn: false, size: self.payload as u16 },
        };
        true
    }
}
