//! Fragmenting IPv4 packets that a link does not take whole (RFC 791 §3.2, RFC 1812 §5.2.6).

use crate::checksum::Sum;
use crate::ether::ETH_HLEN;
use crate::headers::{Headers, IPV4_HLEN, IpVersion, read16, write16};
use crate::{Batch, DropReason, Packet, Pool, segment};

const DF: u16 = 0x4000;
const MORE: u16 = 0x2000;
/// Options with this bit are in every fragment (RFC 791 §3.1).
const COPIED: u8 = 0x80;

/// Appends an untagged frame to `out` as fragments of at most `mtu` bytes of IP, or whole where it fits; a
/// superframe is segmented first. Fragments of fragments keep their place. `frames` in the metadata stays
/// with the first. Returns how many there are.
///
/// # Errors
/// [`DropReason::Mtu`] when it is not IPv4, has DF, or the MTU holds no payload; [`DropReason::Truncated`] when
/// the packet is not whole; as [`segment()`]. Nothing is appended then, the packet goes back to the pool.
pub fn fragment_v4(
    packet: Packet,
    mtu: usize,
    pool: &mut Pool,
    out: &mut Batch,
) -> Result<usize, DropReason> {
    let before = out.len();
    let count = segment::segment(packet, pool, out, true)?;
    // Segments are taken from the front of what was appended, fragments put at the end.
    let result = (0..count).try_for_each(|_| {
        let whole = out.remove(before);
        if segment::l3_segment_len(&whole) <= mtu {
            out.push(whole);
            return Ok(());
        }
        let result = cut(&whole, mtu, pool, out);
        pool.put(whole);
        result
    });
    if result.is_err() {
        out.drain(before..).for_each(|fragment| pool.put(fragment));
    }
    result.map(|()| out.len() - before)
}

fn cut(whole: &Packet, mtu: usize, pool: &mut Pool, out: &mut Batch) -> Result<(), DropReason> {
    let head = whole.head();
    let ip =
        Headers::of_frame(head).filter(|ip| usize::from(ip.l3) == ETH_HLEN).ok_or(DropReason::Truncated)?;
    let field = read16(head, ETH_HLEN + 6).unwrap_or(DF);
    if ip.version != IpVersion::V4 || field & DF != 0 {
        return Err(DropReason::Mtu);
    }
    let start = usize::from(ip.l4);
    let payload = (ip.end as usize).checked_sub(start).filter(|_| ip.is_whole(whole.len()));
    let payload = payload.ok_or(DropReason::Truncated)?;
    let first = head.get(..start).ok_or(DropReason::Truncated)?;
    let (later, later_len) = later_header(first);
    let later = later.get(..later_len).ok_or(DropReason::Truncated)?;
    let (mut at, mut index) = (0, 0u16);
    while at < payload {
        let header = if index == 0 { first } else { later };
        let rest = payload - at;
        let room = mtu.saturating_sub(header.len() - ETH_HLEN);
        let len = if rest <= room { rest } else { room / 8 * 8 };
        if len == 0 {
            return Err(DropReason::Mtu);
        }
        let more = if at + len < payload { MORE } else { field & MORE };
        let place = (field & 0x1fff) + (at / 8) as u16;
        let mut part = pool.get();
        let filled = fill(whole, &mut part, header, (start + at, len), place | more, pool);
        if index > 0 {
            part.meta_mut().frames = 0;
        }
        out.push(part);
        filled?;
        at += len;
        index += 1;
    }
    Ok(())
}

fn fill(
    whole: &Packet,
    part: &mut Packet,
    header: &[u8],
    (from, len): (usize, usize),
    field: u16,
    pool: &mut Pool,
) -> Result<(), DropReason> {
    part.append(header, pool)?;
    *part.meta_mut() = *whole.meta();
    // A checksum that the kernel found right covers the whole packet, which no one sees any more.
    part.meta_mut().offload.csum = crate::Checksum::Unknown;
    let h = &mut part.head_mut()[ETH_HLEN..];
    let header_len = h.len();
    h[0] = 0x40 | (header_len / 4) as u8;
    write16(h, 2, (header_len + len) as u16);
    write16(h, 6, field);
    write16(h, 10, 0);
    let check = Sum::ZERO.bytes(h).finish();
    write16(h, 10, check);
    part.append_range(whole, from, len, pool)
}

/// Link and IP header of all fragments but the first: without the options that are not copied. Malformed
/// options are left out. Returns the length.
fn later_header(first: &[u8]) -> ([u8; ETH_HLEN + 60], usize) {
    let mut later = [0; ETH_HLEN + 60];
    const FIXED: usize = ETH_HLEN + IPV4_HLEN;
    later[..FIXED].copy_from_slice(&first[..FIXED]);
    let (mut at, mut len) = (FIXED, FIXED);
    while let Some(&kind) = first.get(at) {
        let size = match kind {
            0 => break,
            1 => 1,
            _ => first.get(at + 1).map_or(0, |n| usize::from(*n)),
        };
        let Some(option) = first.get(at..at + size).filter(|_| size == 1 || size >= 2) else { break };
        if kind & COPIED != 0 {
            later[len..len + size].copy_from_slice(option);
            len += size;
        }
        at += size;
    }
    // What is left of the last word is zero: end of options.
    (later, FIXED + (len - FIXED).next_multiple_of(4))
}

#[cfg(test)]
mod tests {
    use etherparse::{IpNumber, Ipv4Header};

    use super::*;

    fn packet(pool: &mut Pool, options: &[u8], flags: u16, payload: &[u8]) -> Packet {
        let mut h =
            Ipv4Header::new(payload.len() as u16, 9, IpNumber(250), [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
        h.identification = 0x1234;
        h.options = options.try_into().unwrap();
        h.set_payload_len(payload.len()).unwrap();
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        h.dont_fragment = flags & DF != 0;
        h.more_fragments = flags & MORE != 0;
        h.fragment_offset = (flags & 0x1fff).try_into().unwrap();
        h.header_checksum = h.calc_header_checksum();
        h.write(&mut frame).unwrap();
        frame.extend(payload);
        let mut p = pool.get();
        p.set_bytes(&frame, pool).unwrap();
        p
    }

    /// Puts fragments together; checks each.
    fn join(out: &Batch, mtu: usize, base: u16, last_more: bool) -> (Vec<u8>, Vec<Vec<u8>>) {
        let (mut data, mut options) = (Vec::new(), Vec::new());
        for (i, part) in out.iter().enumerate() {
            let bytes = part.to_vec();
            let (h, payload) = Ipv4Header::from_slice(&bytes[14..]).unwrap();
            assert!(bytes.len() - 14 <= mtu && h.header_checksum == h.calc_header_checksum());
            assert_eq!(usize::from(h.total_len), bytes.len() - 14);
            assert_eq!(usize::from(h.fragment_offset.value() - base) * 8, data.len());
            assert_eq!(h.more_fragments, i + 1 < out.len() || last_more);
            assert_eq!((h.identification, h.dont_fragment), (0x1234, false));
            data.extend_from_slice(payload);
            options.push(h.options.as_slice().to_vec());
        }
        (data, options)
    }

    #[test]
    fn fragments_join_to_the_packet() {
        let mut pool = Pool::new(64, 4);
        for len in [1, 8, 600, 1480, 1481, 4000, 40_000] {
            for mtu in [68, 576, 1000, 1500] {
                for (flags, last_more) in [(0, false), (MORE | 10, true), (100, false)] {
                    let payload: Vec<u8> = (0..len as u32).map(|i| (i * 7) as u8).collect();
                    let p = packet(&mut pool, &[], flags, &payload);
                    let mut out = Batch::new();
                    if last_more && len % 8 != 0 {
                        pool.put(p);
                        continue;
                    }
                    let n = fragment_v4(p, mtu, &mut pool, &mut out).unwrap();
                    assert_eq!(n, out.len());
                    assert_eq!(join(&out, mtu, flags & 0x1fff, last_more).0, payload);
                    pool.put_all(&mut out);
                }
            }
        }
    }

    #[test]
    fn options_are_copied_when_they_say_so() {
        let mut pool = Pool::new(8, 4);
        // Record route (not copied), no operation, router alert (copied).
        let options = [7, 3, 4, 1, 148, 4, 0, 0];
        let p = packet(&mut pool, &options, 0, &[5; 300]);
        let mut out = Batch::new();
        fragment_v4(p, 128, &mut pool, &mut out).unwrap();
        let (data, seen) = join(&out, 128, 0, false);
        assert_eq!((data, &seen[0][..]), (vec![5; 300], &options[..]));
        assert!(seen.len() > 2 && seen[1..].iter().all(|o| o[..] == [148, 4, 0, 0]));
    }

    #[test]
    fn what_may_not_be_cut_is_refused() {
        let mut pool = Pool::new(8, 4);
        let mut out = Batch::new();
        let p = packet(&mut pool, &[], DF, &[0; 600]);
        assert_eq!(fragment_v4(p, 500, &mut pool, &mut out), Err(DropReason::Mtu));
        let p = packet(&mut pool, &[], 0, &[0; 600]);
        assert_eq!(fragment_v4(p, 27, &mut pool, &mut out), Err(DropReason::Mtu));
        let mut p = packet(&mut pool, &[], 0, &[0; 600]);
        p.truncate(560);
        assert_eq!(fragment_v4(p, 500, &mut pool, &mut out), Err(DropReason::Truncated));
        assert!(out.is_empty());
        let p = packet(&mut pool, &[], DF, &[0; 60]);
        assert_eq!(fragment_v4(p, 500, &mut pool, &mut out), Ok(1));
    }
}
