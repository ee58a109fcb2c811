//! The Internet checksum: ones-complement sums (RFC 1071), incremental updates (RFC 1624), and finishing
//! the partial checksums that senders leave for later.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::headers::{Headers, IPV4_HLEN, IpVersion, proto, read16};
use crate::wide::sum_words;
use crate::{Checksum, DropReason, Packet};

/// A ones-complement sum in the making. Words are added as the numbers they mean on the wire, so the
/// result needs no byte swapping.
#[derive(Clone, Copy, Default, Debug)]
pub struct Sum(u64);

impl Sum {
    /// Zero.
    pub const ZERO: Sum = Sum(0);

    /// Adds a number of up to 32 bits, which is the same as adding its two 16-bit words.
    #[inline]
    #[must_use]
    pub const fn add(self, word: u32) -> Sum {
        Sum(self.0 + word as u64)
    }

    /// Takes a number away again.
    #[inline]
    #[must_use]
    pub const fn sub(self, word: u32) -> Sum {
        self.add(!word)
    }

    /// Adds bytes; the first is the high half of a word, and an odd last one is padded with zero.
    #[inline]
    #[must_use]
    pub fn bytes(self, data: &[u8]) -> Sum {
        self.add(u32::from(sum_bytes(data)))
    }

    /// Adds the bytes of a frame from `start` on, over head and tail. `start` past the head adds nothing.
    #[inline]
    #[must_use]
    pub fn frame(self, packet: &Packet, start: usize) -> Sum {
        let front = packet.head().get(start..).unwrap_or_default();
        let mut sum = self.bytes(front);
        if !packet.tail().is_empty() {
            let tail = sum_bytes(packet.tail());
            // Behind an odd number of bytes every tail byte has the other place in its word
            // (RFC 1071 §2(B)).
            sum = sum.add(u32::from(if front.len() % 2 == 0 { tail } else { tail.swap_bytes() }));
        }
        sum
    }

    /// Adds `len` bytes of a frame from `start` on, over head and tail. Bytes that are not there add nothing.
    #[inline]
    #[must_use]
    pub fn range(self, packet: &Packet, start: usize, len: usize) -> Sum {
        let (head, tail, end) = (packet.head(), packet.tail(), start + len);
        let front = head.get(start.min(head.len())..end.min(head.len())).unwrap_or_default();
        let at = |offset: usize| offset.saturating_sub(head.len()).min(tail.len());
        let back = sum_bytes(&tail[at(start)..at(end)]);
        self.bytes(front).add(u32::from(if front.len() % 2 == 0 { back } else { back.swap_bytes() }))
    }

    /// The IPv4 pseudo-header (RFC 9293 §3.1, RFC 768).
    #[inline]
    #[must_use]
    pub fn pseudo_v4(self, src: Ipv4Addr, dst: Ipv4Addr, proto: u8, len: u16) -> Sum {
        self.add(src.to_bits()).add(dst.to_bits()).add(u32::from(proto)).add(u32::from(len))
    }

    /// The IPv6 pseudo-header (RFC 8200 §8.1).
    #[inline]
    #[must_use]
    pub fn pseudo_v6(self, src: Ipv6Addr, dst: Ipv6Addr, proto: u8, len: u32) -> Sum {
        self.bytes(&src.octets()).bytes(&dst.octets()).add(u32::from(proto)).add(len)
    }

    /// The sum as one word, not complemented: what a partial checksum field holds.
    #[inline]
    pub const fn fold(self) -> u16 {
        // The upper half of a number plus its halves exchanged is their sum, with the carry that comes back in.
        let s = (self.0.wrapping_add(self.0.rotate_left(32)) >> 32) as u32;
        (s.wrapping_add(s.rotate_left(16)) >> 16) as u16
    }

    /// The complement: what a finished checksum field holds.
    #[inline]
    pub const fn finish(self) -> u16 {
        !self.fold()
    }
}

/// Sums 16-bit words in wire order: 32-bit words of the machine's own order, swapped once at the end (RFC 1071 §2(B)).
fn sum_bytes(data: &[u8]) -> u16 {
    u16::from_be(Sum(sum_words(data)).fold())
}

/// The checksum after one 16-bit word of what it covers changed (RFC 1624 §3, equation 3).
#[inline]
pub const fn update(check: u16, old: u16, new: u16) -> u16 {
    Sum(0).sub(check as u32).sub(old as u32).add(new as u32).finish()
}

/// Finishes the checksum of an ordinary frame with [`Checksum::Partial`] and marks it valid. Frames with any
/// other state are left as they are.
///
/// # Errors
/// [`DropReason::BadOffload`] when the field is not in the head (headers always are),
/// [`DropReason::Unsegmentable`] for a superframe, which has one checksum per segment.
#[inline]
pub fn complete(packet: &mut Packet) -> Result<(), DropReason> {
    let offload = packet.meta().offload;
    let Checksum::Partial { start, offset } = offload.csum else { return Ok(()) };
    if offload.is_gso() {
        return Err(DropReason::Unsegmentable);
    }
    let (start, field) = (usize::from(start), usize::from(start) + usize::from(offset));
    if field + 2 > packet.head().len() {
        return Err(DropReason::BadOffload);
    }
    let mut check = Sum::ZERO.frame(packet, start).finish();
    if check == 0 && offset == UDP_CHECK {
        // 0 would mean "no checksum" (RFC 768); the other zero of ones-complement is as good.
        check = 0xffff;
    }
    packet.head_mut()[field..field + 2].copy_from_slice(&check.to_be_bytes());
    packet.meta_mut().offload.csum = Checksum::Valid;
    Ok(())
}

/// Whether the IPv4 header checksum is right; true for IPv6, which has none.
#[inline]
pub fn ipv4_header_ok(head: &[u8], ip: &Headers) -> bool {
    if ip.version == IpVersion::V6 {
        return true;
    }
    let Some(header) = head.get(usize::from(ip.l3)..usize::from(ip.l4)) else { return false };
    let sum = match <&[u8; IPV4_HLEN]>::try_from(header) {
        // Without options, as nearly always: five words.
        Ok(plain) => plain.as_chunks::<4>().0.iter().fold(Sum::ZERO, |s, w| s.add(u32::from_be_bytes(*w))),
        Err(_) => Sum::ZERO.bytes(header),
    };
    sum.fold() == 0xffff
}

/// Whether the finished TCP or UDP checksum of a whole packet is right. A UDP checksum of 0 is not.
pub fn transport_ok(packet: &Packet, ip: &Headers) -> bool {
    let (l4, len) = (usize::from(ip.l4), packet.len());
    if ip.end as usize != len || ip.transport_len(packet.head()).is_none() {
        return false;
    }
    if ip.proto == proto::UDP && read16(packet.head(), l4 + usize::from(UDP_CHECK)) == Some(0) {
        return false;
    }
    ip.pseudo(packet.head(), (len - l4) as u32).frame(packet, l4).fold() == 0xffff
}

/// Offset of the checksum in a UDP header.
pub(crate) const UDP_CHECK: u16 = 6;
/// Offset of the checksum in a TCP header.
pub(crate) const TCP_CHECK: u16 = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pool;

    #[test]
    fn the_example_of_rfc_1071() {
        // RFC 1071 §3.
        let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::ZERO.bytes(&data).fold(), 0xddf2);
        assert_eq!(Sum::ZERO.bytes(&data).finish(), !0xddf2);
    }

    #[test]
    fn every_length_and_alignment_equals_the_plain_sum() {
        let data: Vec<u8> = (0..300u32).map(|i| (i * i + 7 * i) as u8 | 0x80).collect();
        for start in 0..9 {
            for end in start..data.len() {
                let slice = &data[start..end];
                let plain = slice.chunks(2).fold(Sum::ZERO, |sum, pair| {
                    sum.add(u32::from(pair[0]) << 8).add(pair.get(1).map_or(0, |b| u32::from(*b)))
                });
                assert_eq!(Sum::ZERO.bytes(slice).fold(), plain.fold(), "{start}..{end}");
            }
        }
    }

    #[test]
    fn a_fold_is_the_remainder() {
        // As RFC 1071 §2 adds: zero only of nothing, else the other form of it.
        let mut n = 1u64;
        for round in 0..1_000_000 {
            n = n.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            for n in [n, n >> (round % 64), n | 0xffff_ffff, u64::MAX << (round % 64), round] {
                let want = if n > 0 && n % 0xffff == 0 { 0xffff } else { n % 0xffff };
                assert_eq!(u64::from(Sum(n).fold()), want, "{n:#x}");
            }
        }
    }

    #[test]
    fn the_largest_sum_does_not_overflow() {
        assert_eq!(Sum::ZERO.bytes(&[0xff; 65536]).fold(), 0xffff);
        assert_eq!(Sum::ZERO.add(u32::MAX).add(u32::MAX).fold(), 0xffff);
        assert_eq!(Sum(u64::MAX).fold(), 0xffff);
    }

    #[test]
    fn a_sum_over_head_and_tail_at_an_odd_boundary() {
        let mut pool = Pool::new(1, 1);
        let mut packet = pool.get();
        for len in [1000, 1921, 4000, 4001] {
            let data: Vec<u8> = (0..len as u32).map(|i| (i * 37) as u8).collect();
            packet.set_bytes(&data, &mut pool).unwrap();
            for start in [0, 1, 13, 14, 500, 501] {
                let want = Sum::ZERO.bytes(&data[start..]).fold();
                assert_eq!(Sum::ZERO.frame(&packet, start).fold(), want, "{len} from {start}");
            }
        }
    }

    #[test]
    fn update_equals_a_new_sum() {
        // RFC 1624 §4: the example that equation 2 of RFC 1141 gets wrong.
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
        let mut words = [0x4500u16, 0x1234, 0, 0xffff, 0x4006];
        let sum = |w: &[u16]| w.iter().fold(Sum::ZERO, |s, w| s.add(u32::from(*w))).finish();
        let mut check = sum(&words);
        for new in [0, 1, 0xfffe, 0xffff, 0x1234, 0x8000] {
            for i in 0..words.len() {
                check = update(check, words[i], new);
                words[i] = new;
                if words.iter().any(|w| *w != 0) {
                    assert_eq!(check, sum(&words));
                }
            }
        }
    }

    #[test]
    fn a_field_outside_the_head_is_refused() {
        let mut pool = Pool::new(1, 1);
        let mut packet = pool.get();
        packet.set_bytes(&[0; 100], &mut pool).unwrap();
        for (start, offset, ok) in
            [(34, 16, true), (98, 0, true), (98, 1, false), (99, 0, false), (65535, 65535, false)]
        {
            packet.meta_mut().offload.csum = Checksum::Partial { start, offset };
            assert_eq!(complete(&mut packet).is_ok(), ok, "{start} {offset}");
        }
    }
}
