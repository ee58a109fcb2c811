//! Packets as the switch sees them: buffers with headroom, offload metadata that travels with the
//! frame, header views, checksums, segmentation and coalescing.
//!
//! This crate does no I/O and knows no ports, tables or threads. Everything else in the workspace
//! stands on it; it stands on nothing.

pub mod batch;
pub mod buf;
pub mod checksum;
pub mod coalesce;
pub mod drops;
pub mod ether;
pub mod fragment;
pub mod headers;
pub mod huge;
pub mod icmp;
pub mod offload;
pub mod outer;
pub mod plain;
pub mod prefetch;
pub mod segment;
pub mod tag;
pub mod train;
pub mod vlan;
mod wide;

pub use batch::{BATCH, Batch};
pub use buf::{MAX_FRAME, Packet, Pool};
pub use coalesce::coalesce;
pub use drops::{DropCounts, DropReason};
pub use ether::{EtherType, MacAddr};
pub use fragment::fragment_v4;
pub use headers::Headers;
pub use huge::prefer_huge_pages;
pub use offload::{Checksum, Gso, GsoKind, Offload, VnetHdr};
pub use outer::{Arrival, Outer};
pub use plain::Plain;
pub use prefetch::prefetch;
pub use segment::{hdr_len, l3_segment_len, segment};
pub use tag::{pop_tag, push_tag};
pub use train::merge_train;
pub use vlan::{Tpid, VlanId, VlanTag};

/// Index of a port in the engine's port table. Dense and reused: a slot freed by a deleted port may be
/// given to a later one, after every worker has let go of the old one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PortId(pub u16);

impl PortId {
    /// No port: frames the switch made itself.
    pub const NONE: PortId = PortId(u16::MAX);

    /// The slot in tables indexed by port.
    #[inline]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}
