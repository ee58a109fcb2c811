//! The last stage: what is queued for a port is made fit for it and handed over.
//!
//! In order: coalesce, MTU, tag into the bytes, segment or complete the checksum only if the port cannot
//! do it, send.

use trunkline_packet::headers::Headers;
use trunkline_packet::{Batch, Checksum, DropReason, GsoKind, Packet, Pool, PortId, segment, tag};
use trunkline_ports::{SendStats, TxQueue};

use crate::counters::Shard;
use crate::snapshot::{PortView, Snapshot};

/// Packets decided on and not yet sent, by egress port.
pub(crate) struct EgressQueues {
    /// By [`PortId::index`].
    queues: Vec<Batch>,
    /// Ports with a non-empty queue, in the order they got their first packet.
    dirty: Vec<PortId>,
    ready: Batch,
    segments: Batch,
}

/// Room made for a queue when its port first appears.
const QUEUE_ROOM: usize = trunkline_packet::BATCH;

impl EgressQueues {
    pub(crate) fn new() -> EgressQueues {
        EgressQueues {
            queues: Vec::new(),
            dirty: Vec::new(),
            ready: Batch::with_capacity(QUEUE_ROOM),
            segments: Batch::with_capacity(QUEUE_ROOM),
        }
    }

    /// Makes room for ports up to `count`, so that queueing allocates nothing.
    pub(crate) fn resize(&mut self, count: usize) {
        if self.queues.len() < count {
            self.queues.resize_with(count, Batch::new);
            self.dirty.reserve(count);
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.queues.iter_mut().for_each(Batch::clear);
        self.dirty.clear();
        self.ready.clear();
        self.segments.clear();
    }

    #[inline]
    pub(crate) fn push(&mut self, port: PortId, packet: Packet) {
        let queue = &mut self.queues[port.index()];
        if queue.is_empty() {
            self.dirty.push(port);
        }
        queue.push(packet);
    }

    /// Sends everything that is queued.
    pub(crate) fn flush(&mut self, snapshot: &Snapshot, worker: usize, pool: &mut Pool) {
        for port in self.dirty.drain(..) {
            let batch = &mut self.queues[port.index()];
            match snapshot.port(port) {
                Some(view) => {
                    let mut egress = Egress {
                        shard: view.shards.of(worker),
                        view,
                        worker,
                        pool,
                        ready: &mut self.ready,
                        segments: &mut self.segments,
                    };
                    egress.send_all(batch);
                }
                // Decisions and queues are of one snapshot, so this does not happen.
                None => pool.put_all(batch),
            }
        }
    }
}

struct Egress<'a> {
    view: &'a PortView,
    shard: &'a Shard,
    worker: usize,
    pool: &'a mut Pool,
    ready: &'a mut Batch,
    segments: &'a mut Batch,
}

impl Egress<'_> {
    fn send_all(&mut self, batch: &mut Batch) {
        let Some(queue) = self.view.tx.get(self.worker) else {
            self.shard.drop(DropReason::EgressDown, batch.len() as u64);
            return self.pool.put_all(batch);
        };
        let queue = &**queue;
        if batch.len() > 1 && self.view.caps.uso && self.view.caps.tso && queue.likes_superframes() {
            let absorbed = trunkline_packet::coalesce::coalesce(batch, self.pool);
            if absorbed > 0 {
                self.shard.absorbed.add(absorbed as u64);
            }
        }
        for packet in batch.drain(..) {
            self.prepare(packet, queue);
        }
        self.send_ready(queue);
    }

    /// Makes one packet fit and appends it to `ready`; a superframe that must be segmented is sent at once,
    /// by itself, so that it counts as one packet.
    #[inline]
    fn prepare(&mut self, mut packet: Packet, queue: &dyn TxQueue) {
        if segment::l3_segment_len(&packet) > self.view.mtu as usize {
            return self.lose(packet, DropReason::Mtu);
        }
        if packet.meta().vlan.is_some()
            && let Err(reason) = tag::push_tag(&mut packet)
        {
            return self.lose(packet, reason);
        }
        let offload = &packet.meta().offload;
        let caps = self.view.caps;
        let must_segment = offload.gso.kind != GsoKind::None
            && (!caps.gso(offload.gso.kind) || (!caps.tunnel_gso && is_encapsulated(&packet)));
        if must_segment {
            self.send_ready(queue);
            return self.send_segmented(packet, queue);
        }
        if !caps.csum
            && matches!(offload.csum, Checksum::Partial { .. })
            && let Err(reason) = trunkline_packet::checksum::complete(&mut packet)
        {
            return self.lose(packet, reason);
        }
        self.ready.push(packet);
    }

    fn lose(&mut self, packet: Packet, reason: DropReason) {
        self.shard.drop(reason, 1);
        self.pool.put(packet);
    }

    fn send_segmented(&mut self, packet: Packet, queue: &dyn TxQueue) {
        if let Err(reason) = segment::segment(packet, self.pool, self.segments, !self.view.caps.csum) {
            return self.shard.drop(reason, 1);
        }
        let mut stats = SendStats::default();
        queue.send(self.pool, self.segments, &mut stats);
        self.shard.tx_frames.add(stats.packets);
        self.shard.tx_bytes.add(stats.bytes);
        // One packet in, one packet out: delivered if every segment was, else lost for the first reason.
        match DropReason::ALL.iter().find(|r| stats.drops[r.index()] > 0) {
            None => self.shard.tx_packets.add(1),
            Some(&reason) => self.shard.drop(reason, 1),
        }
    }

    fn send_ready(&mut self, queue: &dyn TxQueue) {
        if self.ready.is_empty() {
            return;
        }
        let offered = self.ready.len() as u64;
        let mut stats = SendStats::default();
        queue.send(self.pool, self.ready, &mut stats);
        self.shard.tx_packets.add(stats.packets);
        self.shard.tx_frames.add(stats.packets);
        self.shard.tx_bytes.add(stats.bytes);
        if stats.packets < offered {
            for reason in DropReason::ALL {
                let n = stats.drops[reason.index()];
                if n > 0 {
                    self.shard.drop(*reason, u64::from(n));
                }
            }
        }
    }
}

/// Whether a superframe is to be segmented by headers inside an outer UDP or GRE header. The kernel names
/// only the inner kind, and refuses such a frame when it is given back as it came (ENOMEM).
fn is_encapsulated(packet: &Packet) -> bool {
    match (packet.meta().offload.csum, Headers::parse(packet)) {
        (Checksum::Partial { start, .. }, Some(headers)) => headers.l4 != start,
        _ => false,
    }
}
