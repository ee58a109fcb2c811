//! Batches: what a worker receives, decides on and sends in one go.

use crate::Packet;

/// How many packets a receive call may hand over at once.
pub const BATCH: usize = 64;

/// Packets in order. Made once with room for what it will hold, then reused.
pub type Batch = Vec<Packet>;
