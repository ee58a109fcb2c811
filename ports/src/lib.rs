//! How frames get in and out: TAP, AF_PACKET, replay and null ports.
//!
//! This crate and the buffers of `trunkline-packet` are the only ones that may hold `unsafe` code, and it
//! is the only one that makes packet system calls. It knows nothing of bridges or VLAN membership: it
//! turns kernel frames into [`trunkline_packet::Packet`]s with their offload metadata, and back.
#![allow(unsafe_code)]

pub mod afpacket;
mod frame;
pub mod guard;
pub mod inherited;
pub mod link;
mod netlink;
pub mod netns;
pub mod null;
pub mod replay;
mod sys;
pub mod tap;
pub mod tsc;
pub mod underlay;

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use trunkline_packet::{Batch, DropReason, GsoKind, Pool};

/// Bytes after which a receive call hands over what it has: a few superframes, which are still in the cache when
/// they are sent (1 MiB a core is usual).
const ENOUGH_BYTES: usize = 256 << 10;

/// How a receive call ended.
#[derive(Debug)]
pub enum RecvEnd {
    /// The queue is empty; wait for readiness before the next call.
    Drained,
    /// The budget is used up, or it is many bytes; there may be more.
    More,
    /// The interface is gone or down (EBADFD, ENETDOWN, ENODEV …). The error says which; the queue may be
    /// polled again only if `fatal` is false.
    Failed {
        /// What the kernel said.
        error: io::Error,
        /// The descriptor is of no more use (its device or namespace is gone).
        fatal: bool,
    },
}

/// Frames that a receive call met but could not hand over.
#[derive(Default, Debug, Clone, Copy)]
pub struct RecvStats {
    /// Frames shorter than an Ethernet header, or cut by a capture length.
    pub truncated: u32,
    /// Frames larger than the receive buffers.
    pub oversize: u32,
    /// Frames whose virtio header made no sense.
    pub bad_offload: u32,
}

/// The receiving side of one queue. Owned by one worker.
pub trait RxQueue: Send {
    /// The descriptor that becomes readable when frames are waiting; `None` for ports that always have
    /// frames (an endless replay without a pace).
    fn poll_fd(&self) -> Option<RawFd>;

    /// Appends up to `budget` frames to `out`. The outermost VLAN tag is left where the port found it: in
    /// the metadata if the kernel stripped it (AF_PACKET), else in the bytes; `in_port` is set by the
    /// caller. Never blocks.
    fn recv(&mut self, pool: &mut Pool, out: &mut Batch, budget: usize, stats: &mut RecvStats) -> RecvEnd;
}

/// What an egress takes without help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxCaps {
    /// Frames with [`trunkline_packet::Checksum::Partial`].
    pub csum: bool,
    /// TCP superframes over IPv4 and IPv6.
    pub tso: bool,
    /// UDP superframes.
    pub uso: bool,
    /// Superframes whose segmented headers lie behind an outer UDP or GRE header. The kernel marks them like
    /// plain ones and refuses them when they are sent again (ENOMEM), so no port of this crate that leads
    /// into the kernel takes them: segment them in software.
    pub tunnel_gso: bool,
}

impl TxCaps {
    /// Takes everything as it comes.
    pub const ALL: TxCaps = TxCaps { csum: true, tso: true, uso: true, tunnel_gso: true };
    /// Takes only ordinary frames with complete checksums.
    pub const NONE: TxCaps = TxCaps { csum: false, tso: false, uso: false, tunnel_gso: false };

    /// Whether superframes of this kind may be sent as they are.
    #[inline]
    pub const fn gso(&self, kind: GsoKind) -> bool {
        match kind {
            GsoKind::None => true,
            GsoKind::TcpV4 | GsoKind::TcpV6 => self.tso,
            GsoKind::UdpL4 => self.uso,
        }
    }
}

/// What became of a batch handed to [`TxQueue::send`].
#[derive(Debug, Clone)]
pub struct SendStats {
    /// Frames the kernel took.
    pub packets: u64,
    /// Bytes of them, without virtio headers.
    pub bytes: u64,
    /// Frames not sent, by reason ([`DropReason::index`]).
    pub drops: [u32; DropReason::COUNT],
}

impl Default for SendStats {
    fn default() -> SendStats {
        SendStats { packets: 0, bytes: 0, drops: [0; DropReason::COUNT] }
    }
}

/// The sending side of a port. Any worker may send on any port at any time; the kernel serialises.
pub trait TxQueue: Send + Sync {
    /// What the egress takes without help.
    fn caps(&self) -> TxCaps;

    /// Sends every packet of the batch or counts why not; leaves the batch empty, its packets back in the
    /// pool. VLAN tags are already in the bytes, and frames fit [`TxQueue::caps`]. Never blocks.
    fn send(&self, pool: &mut Pool, batch: &mut Batch, stats: &mut SendStats);

    /// Whether a superframe costs this port less than its frames would singly, so that merging them pays.
    /// Asked only if [`TxQueue::caps`] says that it takes them.
    fn likes_superframes(&self) -> bool {
        true
    }

    /// Whether somebody on this machine may need the CPU to take what is sent.
    fn has_receiver(&self) -> bool {
        true
    }

    /// Largest L2 payload the interface takes now (its MTU), if the port knows it.
    fn mtu(&self) -> Option<u32> {
        None
    }
}

/// The receiving and the sending sides of a port, one of each for every queue.
pub type Queues = (Vec<Box<dyn RxQueue>>, Vec<Arc<dyn TxQueue>>);
