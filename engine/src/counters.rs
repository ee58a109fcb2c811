//! Counters per port. Each worker has its own shard of every port's counters and is its only writer, so
//! counting is a plain load and store on a line no other core writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam::utils::CachePadded;
use trunkline_packet::DropReason;
use trunkline_ports::{RecvStats, SendStats};

/// A sum over all workers at one moment. Packets are internal ones: a superframe counts once, coalesced
/// frames count as received singly, then all but one as absorbed. When a port is quiet,
/// over all ports and the underlay
/// `rx_packets + generated + replicated = tx_packets + absorbed + sum(drops)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortCounters {
    /// Packets received, those dropped at once included.
    pub rx_packets: u64,
    /// Bytes of them.
    pub rx_bytes: u64,
    /// Packets delivered to the kernel, counted before segmentation.
    pub tx_packets: u64,
    /// Bytes delivered to the kernel.
    pub tx_bytes: u64,
    /// Frames delivered to the kernel, counted after segmentation and coalescing.
    pub tx_frames: u64,
    /// Copies made of packets received here, beyond the first.
    pub replicated: u64,
    /// Packets that the switch made itself: errors about packets too big for a tunnel, liveness packets.
    pub generated: u64,
    /// Packets merged into another on the way out here, or taken in by the switch itself.
    pub absorbed: u64,
    /// Drops by [`DropReason::index`].
    pub drops: [u64; DropReason::COUNT],
}

impl Default for PortCounters {
    fn default() -> PortCounters {
        PortCounters {
            rx_packets: 0,
            rx_bytes: 0,
            tx_packets: 0,
            tx_bytes: 0,
            tx_frames: 0,
            replicated: 0,
            generated: 0,
            absorbed: 0,
            drops: [0; DropReason::COUNT],
        }
    }
}

/// One worker's part of one port's counters.
pub(crate) struct Shard {
    pub(crate) rx_packets: Counter,
    pub(crate) rx_bytes: Counter,
    pub(crate) tx_packets: Counter,
    pub(crate) tx_bytes: Counter,
    pub(crate) tx_frames: Counter,
    pub(crate) replicated: Counter,
    pub(crate) generated: Counter,
    pub(crate) absorbed: Counter,
    drops: [Counter; DropReason::COUNT],
}

impl Default for Shard {
    fn default() -> Shard {
        Shard {
            rx_packets: Counter::default(),
            rx_bytes: Counter::default(),
            tx_packets: Counter::default(),
            tx_bytes: Counter::default(),
            tx_frames: Counter::default(),
            replicated: Counter::default(),
            generated: Counter::default(),
            absorbed: Counter::default(),
            drops: std::array::from_fn(|_| Counter::default()),
        }
    }
}

/// A counter with one writer and any number of readers.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        // Only the owning worker writes, so no read-modify-write is needed.
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Shard {
    #[inline]
    pub(crate) fn drop(&self, reason: DropReason, n: u64) {
        self.drops[reason.index()].add(n);
    }

    /// Counts one packet that was dropped as soon as it was received.
    pub(crate) fn received_and_dropped(&self, reason: DropReason) {
        self.rx_packets.add(1);
        self.drop(reason, 1);
    }

    /// Counts what became of `offered` packets, which may have been cut into more frames.
    pub(crate) fn count_sent(&self, offered: u64, stats: &SendStats) {
        self.tx_frames.add(stats.packets);
        self.tx_bytes.add(stats.bytes);
        let mut lost = 0;
        for (reason, &n) in DropReason::ALL.iter().zip(&stats.drops).filter(|(_, n)| **n > 0) {
            self.drop(*reason, u64::from(n));
            lost += u64::from(n);
        }
        self.tx_packets.add(offered.saturating_sub(lost));
    }

    /// Counts what the port met but could not hand over: received, then dropped.
    pub(crate) fn count_unusable(&self, stats: &RecvStats) {
        let reasons = [
            (stats.truncated, DropReason::Truncated),
            (stats.oversize, DropReason::Oversize),
            (stats.bad_offload, DropReason::BadOffload),
        ];
        for (n, reason) in reasons {
            if n > 0 {
                self.rx_packets.add(u64::from(n));
                self.drop(reason, u64::from(n));
            }
        }
    }
}

/// The counters of one port: a shard for each worker, and one for what the engine's own thread sends.
#[derive(Clone)]
pub(crate) struct Shards(Arc<[CachePadded<Shard>]>);

impl Shards {
    pub(crate) fn new(workers: usize) -> Shards {
        Shards((0..=workers).map(|_| CachePadded::default()).collect())
    }

    /// The shard of the engine's own thread.
    pub(crate) fn own(&self) -> &Shard {
        &self.0[self.0.len() - 1]
    }

    #[inline]
    pub(crate) fn of(&self, worker: usize) -> &Shard {
        &self.0[worker]
    }

    pub(crate) fn sum(&self) -> PortCounters {
        let mut sum = PortCounters::default();
        for s in self.0.iter() {
            sum.rx_packets += s.rx_packets.get();
            sum.rx_bytes += s.rx_bytes.get();
            sum.tx_packets += s.tx_packets.get();
            sum.tx_bytes += s.tx_bytes.get();
            sum.tx_frames += s.tx_frames.get();
            sum.replicated += s.replicated.get();
            sum.generated += s.generated.get();
            sum.absorbed += s.absorbed.get();
            for (total, part) in sum.drops.iter_mut().zip(&s.drops) {
                *total += part.get();
            }
        }
        sum
    }
}
