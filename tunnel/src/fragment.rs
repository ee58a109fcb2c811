//! Fragmenting outer packets, for a port as the underlay whose path takes less than the inner network needs
//! ([`crate::mtu`]); kernel sockets do it themselves. RFC 7348 §4.3 says that a VTEP must not; the choice is
//! between that and an inner network without IPv6.

use trunkline_packet::checksum::Sum;
use trunkline_packet::ether::ETH_HLEN;
use trunkline_packet::headers::{Fragment, Headers, IPV4_HLEN, IPV6_HLEN, IpVersion, write16, write32};
use trunkline_packet::{Batch, DropReason, Packet, Pool, checksum, segment};

use crate::config::TxState;

/// Next header value of the fragment header (RFC 8200 §4.5).
const FRAGMENT: u8 = 44;
const FRAGMENT_HLEN: usize = 8;
const MORE_V4: u16 = 0x2000;
const MORE_V6: u16 = 1;

/// Appends a frame made by [`crate::encap_frame`] to `out` as fragments of at most `mtu` bytes of IP, or whole
/// where it fits; a superframe that does not fit is segmented first. Returns how many frames there are.
/// `frames` in the metadata stays with the first.
///
/// # Errors
/// [`DropReason::Mtu`] when the outer header has DF or the MTU holds no payload; [`DropReason::Truncated`]
/// when it is no such frame; as [`segment()`]. Nothing is appended then, the packet goes back to the pool.
pub fn fragment(
    packet: Packet,
    mtu: u16,
    state: &TxState,
    pool: &mut Pool,
    out: &mut Batch,
) -> Result<usize, DropReason> {
    let before = out.len();
    if segment::l3_segment_len(&packet) <= usize::from(mtu) {
        out.push(packet);
        return Ok(1);
    }
    let count = segment(packet, pool, out, true)?;
    // Segments are taken from the front of what was appended, fragments put at the end.
    let result = (0..count).try_for_each(|_| {
        let mut whole = out.remove(before);
        let result = checksum::complete(&mut whole)
            .and_then(|()| cut(&whole, usize::from(mtu), state.next_ip_id(), pool, out));
        pool.put(whole);
        result
    });
    if result.is_err() {
        out.drain(before..).for_each(|fragment| pool.put(fragment));
    }
    result.map(|()| out.len() - before)
}

fn cut(whole: &Packet, mtu: usize, id: u32, pool: &mut Pool, out: &mut Batch) -> Result<(), DropReason> {
    let head = whole.head();
    let ip = Headers::of_frame(head).filter(|ip| ip.l3 as usize == ETH_HLEN).ok_or(DropReason::Truncated)?;
    let v4 = ip.version == IpVersion::V4;
    let front = ETH_HLEN + if v4 { IPV4_HLEN } else { IPV6_HLEN };
    if ip.extended || ip.fragment != Fragment::None || ip.end as usize != whole.len() {
        return Err(DropReason::Truncated);
    }
    let header = front - ETH_HLEN + if v4 { 0 } else { FRAGMENT_HLEN };
    let room = mtu.saturating_sub(header) / 8 * 8;
    let payload = whole.len() - front;
    if room == 0 || (v4 && head[ETH_HLEN + 6] & 0x40 != 0) {
        return Err(DropReason::Mtu);
    }
    for at in (0..payload).step_by(room) {
        let len = room.min(payload - at);
        let more = at + len < payload;
        let mut part = pool.get();
        let filled = fill(whole, &mut part, front, v4, (at, len, more, id), pool);
        out.push(part);
        filled?;
        if at > 0
            && let Some(part) = out.last_mut()
        {
            part.meta_mut().frames = 0;
        }
    }
    Ok(())
}

fn fill(
    whole: &Packet,
    part: &mut Packet,
    front: usize,
    v4: bool,
    (at, len, more, id): (usize, usize, bool, u32),
    pool: &mut Pool,
) -> Result<(), DropReason> {
    part.append(&whole.head()[..front], pool)?;
    *part.meta_mut() = *whole.meta();
    let flag = |bit: u16| if more { bit } else { 0 };
    if v4 {
        let h = &mut part.head_mut()[ETH_HLEN..];
        write16(h, 2, (IPV4_HLEN + len) as u16);
        write16(h, 4, id as u16);
        write16(h, 6, (at / 8) as u16 | flag(MORE_V4));
        write16(h, 10, 0);
        let check = Sum::ZERO.bytes(h).finish();
        write16(h, 10, check);
    } else {
        // RFC 8200 §4.5: next header, reserved, offset in units of eight bytes shifted by three, M, id.
        let h = &mut part.head_mut()[ETH_HLEN..];
        let mut extension = [h[6], 0, 0, 0, 0, 0, 0, 0];
        write16(&mut extension, 2, at as u16 | flag(MORE_V6));
        write32(&mut extension, 4, id);
        h[6] = FRAGMENT;
        write16(h, 4, (FRAGMENT_HLEN + len) as u16);
        part.append(&extension, pool)?;
    }
    part.append_range(whole, front + at, len, pool)
}
