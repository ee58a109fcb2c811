//! Counters per port.

use trunkline_packet::DropReason;

/// A sum over all workers at one moment. Packets are internal ones: a superframe counts once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes of them.
    pub rx_bytes: u64,
    /// Packets handed to the kernel, counted before segmentation.
    pub tx_packets: u64,
    /// Bytes handed to the kernel.
    pub tx_bytes: u64,
    /// Frames handed to the kernel, counted after segmentation and coalescing.
    pub tx_frames: u64,
    /// Copies made of packets received here, beyond the first.
    pub replicated: u64,
    /// Packets merged into another on the way out here.
    pub absorbed: u64,
    /// Drops by [`DropReason::index`].
    pub drops: [u64; DropReason::COUNT],
}
