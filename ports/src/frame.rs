//! What TAP and AF_PACKET ports share: packets and their virtio headers.

use trunkline_packet::{DropReason, Packet, VnetHdr, segment};

use crate::RecvStats;

/// Puts the virtio header in front of a packet, and returns what is to be written: header and head, then the tail.
///
/// `hdr_len` tells the kernel how much of a superframe to copy into contiguous memory; it must not exceed
/// the frame (EINVAL).
///
/// # Errors
/// [`DropReason::NoBuffer`] without headroom.
#[inline]
pub(crate) fn with_vnet_header(packet: &mut Packet) -> Result<[&[u8]; 2], DropReason> {
    let header = VnetHdr::from_offload(&packet.meta().offload, segment::hdr_len(packet));
    packet.set_before(&header.to_bytes());
    let head = packet.head_after(VnetHdr::LEN).ok_or(DropReason::NoBuffer)?;
    Ok([head, packet.tail()])
}

impl RecvStats {
    /// Counts a frame that cannot be handed over.
    #[inline]
    pub(crate) fn count(&mut self, reason: DropReason) {
        match reason {
            DropReason::Truncated => self.truncated += 1,
            DropReason::BadOffload => self.bad_offload += 1,
            _ => self.oversize += 1,
        }
    }
}
