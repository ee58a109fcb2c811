//! Moving the outermost VLAN tag between the frame's bytes and its metadata (IEEE 802.1Q §9.3).
//!
//! Ports hand frames in and take them out with the tag in the bytes; everything between sees it in the
//! metadata. Both functions run once per packet.

use crate::ether::ETH_HLEN;
use crate::vlan::{Tpid, VlanTag};
use crate::{Checksum, DropReason, Packet};

const MACS: usize = 12;
const TAG: usize = 4;

/// If the frame begins with a tag and the metadata has none, moves the tag there. A frame whose metadata
/// has a tag already is left alone: what its bytes hold is an inner tag.
///
/// # Errors
/// [`DropReason::Truncated`] for a frame shorter than an Ethernet header or a tag that is cut off,
/// [`DropReason::BadOffload`] when the checksum would start inside the link header. The packet is unchanged
/// then.
#[inline]
pub fn pop_tag(packet: &mut Packet) -> Result<(), DropReason> {
    let head = packet.head();
    if head.len() < ETH_HLEN {
        return Err(DropReason::Truncated);
    }
    let Some(tpid) = Tpid::from_ethertype(u16::from_be_bytes([head[12], head[13]])) else { return Ok(()) };
    if packet.meta().vlan.is_some() { Ok(()) } else { pop(packet, tpid) }
}

fn pop(packet: &mut Packet, tpid: Tpid) -> Result<(), DropReason> {
    const LEAST: usize = ETH_HLEN + TAG;
    let csum = packet.meta().offload.csum;
    let head = packet.head_mut();
    if head.len() < LEAST {
        return Err(DropReason::Truncated);
    }
    if matches!(csum, Checksum::Partial { start, .. } if usize::from(start) < LEAST) {
        return Err(DropReason::BadOffload);
    }
    let tci = u16::from_be_bytes([head[14], head[15]]);
    head.copy_within(0..MACS, TAG);
    packet.pull_front(TAG);
    let meta = packet.meta_mut();
    meta.vlan = Some(VlanTag { tpid, tci });
    meta.offload.shift(-(TAG as i16));
    meta.outer.shift(-(TAG as i16));
    Ok(())
}

/// Moves the tag of the metadata, if there is one, into the bytes.
///
/// # Errors
/// [`DropReason::Truncated`] for a frame without addresses, [`DropReason::NoBuffer`] when the headroom is
/// used up. The packet is unchanged then.
#[inline]
pub fn push_tag(packet: &mut Packet) -> Result<(), DropReason> {
    match packet.meta().vlan {
        Some(tag) => push(packet, tag),
        None => Ok(()),
    }
}

fn push(packet: &mut Packet, tag: VlanTag) -> Result<(), DropReason> {
    if packet.head().len() < MACS {
        return Err(DropReason::Truncated);
    }
    let head = packet.push_front(TAG).ok_or(DropReason::NoBuffer)?;
    head.copy_within(TAG..TAG + MACS, 0);
    head[MACS..MACS + TAG].copy_from_slice(&tag.to_bytes());
    let meta = packet.meta_mut();
    meta.vlan = None;
    meta.offload.shift(TAG as i16);
    meta.outer.shift(TAG as i16);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::HEADROOM;
    use crate::{Offload, Pool, VlanId};

    fn packet(bytes: &[u8]) -> Packet {
        let mut pool = Pool::new(1, 1);
        let mut p = pool.get();
        p.set_bytes(bytes, &mut pool).unwrap();
        p
    }

    fn tagged(tpid: u16, tci: u16) -> Vec<u8> {
        let mut b: Vec<u8> = (0..12).collect();
        b.extend(tpid.to_be_bytes());
        b.extend(tci.to_be_bytes());
        b.extend([8, 0, 0x45, 1, 2, 3]);
        b
    }

    #[test]
    fn out_and_in_again() {
        for (tpid, kind) in [(0x8100, Tpid::Customer), (0x88a8, Tpid::Service)] {
            let bytes = tagged(tpid, 0xb123);
            let mut p = packet(&bytes);
            p.meta_mut().offload.csum = Checksum::Partial { start: 20, offset: 0 };
            pop_tag(&mut p).unwrap();
            assert_eq!(p.meta().vlan, Some(VlanTag { tpid: kind, tci: 0xb123 }));
            assert_eq!(p.meta().offload.csum, Checksum::Partial { start: 16, offset: 0 });
            assert_eq!(p.to_vec(), [&bytes[..12], &bytes[16..]].concat());
            push_tag(&mut p).unwrap();
            assert_eq!((p.to_vec(), p.meta().vlan, p.headroom()), (bytes, None, HEADROOM));
            assert_eq!(p.meta().offload.csum, Checksum::Partial { start: 20, offset: 0 });
        }
    }

    #[test]
    fn untagged_frames_and_inner_tags_stay() {
        let mut p = packet(&tagged(0x0800, 5));
        pop_tag(&mut p).unwrap();
        push_tag(&mut p).unwrap();
        assert_eq!((p.to_vec(), p.meta().vlan), (tagged(0x0800, 5), None));

        let outer = VlanTag::new(Tpid::Service, VlanId::MAX, 0);
        let mut p = packet(&tagged(0x8100, 7));
        p.meta_mut().vlan = Some(outer);
        pop_tag(&mut p).unwrap();
        assert_eq!((p.to_vec(), p.meta().vlan), (tagged(0x8100, 7), Some(outer)));
    }

    #[test]
    fn cut_frames_are_refused_at_every_length() {
        let bytes = tagged(0x8100, 7);
        for len in 0..bytes.len() {
            let result = pop_tag(&mut packet(&bytes[..len]));
            assert_eq!(result, if len < 18 { Err(DropReason::Truncated) } else { Ok(()) }, "{len}");
            let mut p = packet(&bytes[..len]);
            p.meta_mut().vlan = Some(VlanTag::default());
            assert_eq!(push_tag(&mut p).is_ok(), len >= 12);
        }
    }

    #[test]
    fn a_checksum_that_starts_in_the_tag_is_refused() {
        let mut p = packet(&tagged(0x8100, 7));
        p.meta_mut().offload = Offload { csum: Checksum::Partial { start: 17, offset: 0 }, ..Offload::NONE };
        for _ in 0..2 {
            assert_eq!(pop_tag(&mut p), Err(DropReason::BadOffload));
            assert_eq!((p.to_vec(), p.meta().vlan), (tagged(0x8100, 7), None));
        }
    }

    #[test]
    fn no_headroom_is_an_error_without_a_change() {
        let mut p = packet(&tagged(0x0800, 7));
        p.push_front(HEADROOM - 3).unwrap();
        p.meta_mut().vlan = Some(VlanTag::default());
        assert_eq!(push_tag(&mut p), Err(DropReason::NoBuffer));
        assert!(p.meta().vlan.is_some());
        assert_eq!(p.headroom(), 3);
    }
}
