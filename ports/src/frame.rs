//! What TAP and AF_PACKET ports share: packets and their virtio headers.

use trunkline_packet::{DropReason, Packet, VnetHdr, segment};

use crate::RecvStats;

/// The header to write in front of a packet.
///
/// `hdr_len` tells the kernel how much of a superframe to copy into contiguous memory; it must not exceed
/// the frame (EINVAL).
#[inline]
pub(crate) fn vnet_header(packet: &Packet) -> [u8; VnetHdr::LEN] {
    VnetHdr::from_offload(&packet.meta().offload, segment::hdr_len(packet)).to_bytes()
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
