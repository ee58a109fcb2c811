//! What a worker carries a batch through: ingress, decapsulation, the bridge, egress. The same for every
//! batch, whatever it came from; the thread around it is in `worker.rs`.

use std::time::Instant;

use trunkline_packet::{BATCH, Batch, DropReason, Packet, Pool, PortId, tag};
use trunkline_ports::RecvStats;
use trunkline_switch::Sink;

use crate::counters::{Shard, Shards};
use crate::egress::EgressQueues;
use crate::snapshot::Snapshot;
use crate::tunnel::ingress::Decap;
use crate::tunnel::liveness::HeardSender;

/// Free heads and tails a worker keeps (about 2 KiB and 64 KiB each, made on demand).
const KEEP_HEADS: usize = MAX_IN_FLIGHT;
const KEEP_TAILS: usize = 160;

/// Most packets in flight at once, counting the copies of floods: bounds memory.
const MAX_IN_FLIGHT: usize = 8192;

/// A worker's buffers, and what is in hand.
pub(crate) struct Stages {
    worker: usize,
    clock: Instant,
    pub(crate) pool: Pool,
    /// What was received and is not yet decided on.
    pub(crate) batch: Batch,
    /// Datagrams of tunnels, and what was in them.
    pub(crate) decap: Decap,
    trash: Batch,
    egress: EgressQueues,
}

impl Stages {
    /// `underlay` counts datagrams that belong to no tunnel; `heard` takes liveness packets.
    pub(crate) fn new(worker: usize, clock: Instant, underlay: Shards, heard: HeardSender) -> Stages {
        Stages {
            worker,
            clock,
            pool: Pool::new(KEEP_HEADS, KEEP_TAILS),
            batch: Batch::with_capacity(BATCH),
            decap: Decap::new(underlay, heard),
            trash: Batch::with_capacity(BATCH),
            egress: EgressQueues::new(),
        }
    }

    /// Forgets everything that is in hand.
    pub(crate) fn clear(&mut self) {
        self.batch.clear();
        self.decap.clear();
        self.trash.clear();
        self.egress.clear();
    }

    /// How many frames of a port may be taken at once.
    #[inline]
    pub(crate) fn budget(snapshot: &Snapshot, port: PortId) -> usize {
        (MAX_IN_FLIGHT / snapshot.fanout(port).max(1)).clamp(1, BATCH)
    }

    /// Seconds on the engine's clock.
    #[inline]
    fn now(&self) -> u32 {
        self.clock.elapsed().as_secs() as u32
    }

    /// Carries what a port brought, which is in `batch`, to its end.
    pub(crate) fn frames(&mut self, snapshot: &Snapshot, port: PortId, stats: &RecvStats) {
        let Some(view) = snapshot.port(port) else {
            self.pool.put_all(&mut self.batch);
            return;
        };
        self.egress.resize(snapshot.ports.len());
        let shard = view.shards.of(self.worker);
        shard.count_unusable(stats);
        if self.batch.is_empty() {
            return;
        }
        ingress(port, shard, &mut self.batch, &mut self.pool);
        let now = self.now();
        self.bridge(snapshot, port, now);
        self.egress.flush(snapshot, self.worker, now, &mut self.pool);
    }

    /// Carries the datagrams that an underlay brought, which are in `decap`, to their end.
    pub(crate) fn datagrams(&mut self, snapshot: &Snapshot, stats: &RecvStats) {
        self.egress.resize(snapshot.ports.len());
        self.decap.begin(self.worker, stats);
        let now = self.now();
        let mut in_flight = 0;
        while self.decap.open_some(snapshot, self.worker, now, &mut self.pool) {
            while let Some(port) = self.decap.next_port() {
                let fanout = snapshot.fanout(port).max(1);
                self.decap.take((MAX_IN_FLIGHT / fanout).max(1), &mut self.batch);
                in_flight += self.batch.len() * fanout;
                self.bridge(snapshot, port, now);
                if in_flight >= MAX_IN_FLIGHT {
                    self.egress.flush(snapshot, self.worker, now, &mut self.pool);
                    in_flight = 0;
                }
            }
        }
        self.egress.flush(snapshot, self.worker, now, &mut self.pool);
    }

    /// Decides on the batch, whose packets came in by `port`, and queues them for their egress.
    fn bridge(&mut self, snapshot: &Snapshot, port: PortId, now: u32) {
        let Some(view) = snapshot.port(port) else {
            self.pool.put_all(&mut self.batch);
            return;
        };
        let shard = view.shards.of(self.worker);
        let mut sink = WorkerSink { shard, egress: &mut self.egress, trash: &mut self.trash };
        match snapshot.bridge_of(view) {
            Some(bridge) => bridge.forward(now, port, &mut self.batch, &mut self.pool, &mut sink),
            None => self.batch.drain(..).for_each(|p| sink.drop(p, DropReason::NoBridge)),
        }
        self.pool.put_all(&mut self.trash);
    }
}

/// Counts what came in, notes where, and moves the outermost tag into the metadata.
#[inline]
fn ingress(port: PortId, shard: &Shard, batch: &mut Batch, pool: &mut Pool) {
    let mut bytes = 0;
    let mut bad = false;
    for packet in batch.iter_mut() {
        bytes += packet.len() as u64;
        packet.meta_mut().in_port = port;
        bad |= tag::pop_tag(packet).is_err();
    }
    shard.rx_packets.add(batch.len() as u64);
    shard.rx_bytes.add(bytes);
    if bad {
        drop_cut_tags(shard, batch, pool);
    }
}

/// The slow half of [`ingress`]: removes the frames whose tag is cut off.
#[cold]
fn drop_cut_tags(shard: &Shard, batch: &mut Batch, pool: &mut Pool) {
    let mut i = 0;
    while i < batch.len() {
        match tag::pop_tag(&mut batch[i]) {
            // A second call pops nothing from a frame whose tag is in the metadata.
            Ok(()) => i += 1,
            Err(reason) => {
                shard.drop(reason, 1);
                pool.put(batch.remove(i));
            }
        }
    }
}

struct WorkerSink<'a> {
    shard: &'a Shard,
    egress: &'a mut EgressQueues,
    trash: &'a mut Batch,
}

impl Sink for WorkerSink<'_> {
    #[inline]
    fn send(&mut self, port: PortId, packet: Packet) {
        self.egress.push(port, packet);
    }

    #[inline]
    fn drop(&mut self, packet: Packet, reason: DropReason) {
        self.shard.drop(reason, 1);
        self.trash.push(packet);
    }

    #[inline]
    fn replicated(&mut self, n: u64) {
        self.shard.replicated.add(n);
    }
}
