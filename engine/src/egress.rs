//! The last stage: what is queued for a port is made fit for it and handed over.
//!
//! In order: coalesce, MTU, tag into the bytes, segment or complete the checksum only if the port cannot
//! do it, send.

use trunkline_packet::headers::Headers;
use trunkline_packet::{Batch, Checksum, DropReason, GsoKind, Packet, Pool, PortId, segment, tag};
use trunkline_ports::{SendStats, TxQueue};

use crate::counters::Shard;
use crate::snapshot::{Backend, PortView, Queues, Snapshot};
use crate::tunnel::egress::{Encapsulate, Scratch};

/// Packets decided on and not yet sent, by egress port.
pub(crate) struct EgressQueues {
    /// By [`PortId::index`].
    queues: Vec<Batch>,
    /// Ports with a non-empty queue, in the order they got their first packet.
    dirty: Vec<PortId>,
    ready: Batch,
    segments: Batch,
    tunnels: Scratch,
    /// Whether `delivered` is of interest.
    watched: bool,
    /// Datagrams and single frames handed to ports, while watched, since [`EgressQueues::forget_delivered`].
    delivered: usize,
}

/// Frames shorter than this, bytes, cost a receiver's socket more for what is around them than for their payload.
const SMALL: usize = 512;

/// Room made for a queue when its port first appears.
const QUEUE_ROOM: usize = trunkline_packet::BATCH;

impl EgressQueues {
    pub(crate) fn new() -> EgressQueues {
        EgressQueues {
            queues: Vec::new(),
            dirty: Vec::new(),
            ready: Batch::with_capacity(QUEUE_ROOM),
            segments: Batch::with_capacity(QUEUE_ROOM),
            tunnels: Scratch::new(),
            watched: false,
            delivered: 0,
        }
    }

    /// Makes room for ports up to `count`, so that queueing allocates nothing.
    pub(crate) fn resize(&mut self, count: usize) {
        if self.queues.len() < count {
            self.queues.resize_with(count, Batch::new);
            self.dirty.reserve(count);
            self.tunnels.resize(count);
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.queues.iter_mut().for_each(Batch::clear);
        self.dirty.clear();
        self.ready.clear();
        self.segments.clear();
        self.tunnels.clear();
    }

    #[inline(always)]
    pub(crate) fn push(&mut self, port: PortId, packet: Packet) {
        let queue = &mut self.queues[port.index()];
        if queue.is_empty() || queue.len() == queue.capacity() {
            return self.push_first(port, packet);
        }
        queue.push(packet);
    }

    /// The first packet of a port, or one that needs more room.
    #[inline(never)]
    fn push_first(&mut self, port: PortId, packet: Packet) {
        let queue = &mut self.queues[port.index()];
        if queue.is_empty() {
            self.dirty.push(port);
        }
        queue.push(packet);
    }

    /// Takes what is queued for one of the ports that `which` names, if there is any.
    pub(crate) fn take(&mut self, which: impl Fn(PortId) -> bool, into: &mut Batch) -> Option<PortId> {
        let at = self.dirty.iter().position(|&port| which(port))?;
        let port = self.dirty.remove(at);
        into.append(&mut self.queues[port.index()]);
        Some(port)
    }

    /// Has a tunnel that goes over an uplink encapsulate something. The outer frames are to be taken from
    /// [`EgressQueues::outer`].
    pub(crate) fn encapsulate(
        &mut self,
        snapshot: &Snapshot,
        port: PortId,
        at: (usize, u32),
        pool: &mut Pool,
        work: impl FnOnce(&mut Encapsulate<'_>),
    ) {
        let Some(view) = snapshot.port(port) else { return };
        let Some(tunnel) = view.tunnel() else { return };
        work(&mut Encapsulate::new(snapshot, view, tunnel, at, pool, &mut self.tunnels));
    }

    /// Frames that [`EgressQueues::encapsulate`] has made.
    pub(crate) fn outer(&mut self) -> &mut Batch {
        &mut self.tunnels.datagrams
    }

    /// Whether to count from now on how many datagrams and single frames ports get.
    pub(crate) fn watch_delivered(&mut self, watched: bool) {
        self.watched = watched;
    }

    /// How many datagrams and single frames ports have got.
    pub(crate) fn delivered(&self) -> usize {
        self.delivered
    }

    /// Counts them from 0 again.
    pub(crate) fn forget_delivered(&mut self) {
        self.delivered = 0;
    }

    /// Whether errors about what was sent wait for [`EgressQueues::queue_replies`].
    pub(crate) fn has_replies(&self) -> bool {
        !self.tunnels.replies.is_empty()
    }

    /// Sends everything that is queued, `now` seconds on the engine's clock.
    pub(crate) fn flush(&mut self, snapshot: &Snapshot, worker: usize, now: u32, pool: &mut Pool) {
        for port in self.dirty.drain(..) {
            let batch = &mut self.queues[port.index()];
            // Decisions and queues are of one snapshot, so there is always a port.
            let Some(view) = snapshot.port(port) else {
                pool.put_all(batch);
                continue;
            };
            let shard = view.shards.of(worker);
            match &view.backend {
                Backend::Down => {
                    shard.drop(DropReason::EgressDown, batch.len() as u64);
                    pool.put_all(batch);
                }
                Backend::Queues(queues) => {
                    if self.watched && queues.tx.get(worker).is_some_and(|queue| queue.has_receiver()) {
                        self.delivered += batch.iter().map(in_socket).sum::<usize>();
                    }
                    let (ready, segments) = (&mut self.ready, &mut self.segments);
                    Egress { shard, view, queues, pool, ready, segments }.send_all(batch, worker);
                }
                Backend::Tunnel(tunnel) => {
                    let at = (worker, now);
                    Encapsulate::new(snapshot, view, tunnel, at, pool, &mut self.tunnels).send_all(batch);
                }
            }
        }
    }

    /// Queues the errors that the last round made for the ports they answer.
    #[cold]
    pub(crate) fn queue_replies(&mut self, snapshot: &Snapshot, worker: usize, pool: &mut Pool) {
        let mut replies = std::mem::take(&mut self.tunnels.replies);
        for reply in replies.drain(..) {
            let (by, to, mut packet) = (reply.by, reply.to, reply.packet);
            let view = snapshot.port(by);
            let made = view.and_then(|view| Some((view, snapshot.bridge_of(view)?)));
            match made.map(|(view, bridge)| (view, bridge.answer(by, to, &mut packet, pool))) {
                Some((view, true)) => {
                    view.shards.of(worker).generated.add(1);
                    self.push(to, packet);
                }
                _ => pool.put(packet),
            }
        }
        self.tunnels.replies = replies;
    }
}

struct Egress<'a> {
    view: &'a PortView,
    queues: &'a Queues,
    shard: &'a Shard,
    pool: &'a mut Pool,
    ready: &'a mut Batch,
    segments: &'a mut Batch,
}

impl Egress<'_> {
    fn send_all(&mut self, batch: &mut Batch, worker: usize) {
        let Some(queue) = self.queues.tx.get(worker) else {
            self.shard.drop(DropReason::EgressDown, batch.len() as u64);
            return self.pool.put_all(batch);
        };
        let queue = &**queue;
        let caps = self.queues.caps;
        if batch.len() > 1 && caps.uso && caps.tso && queue.likes_superframes() {
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
        if segment::exceeds(&packet, self.view.mtu as usize) {
            return self.lose(packet, DropReason::Mtu);
        }
        if packet.meta().vlan.is_some()
            && let Err(reason) = tag::push_tag(&mut packet)
        {
            return self.lose(packet, reason);
        }
        let offload = &packet.meta().offload;
        let caps = self.queues.caps;
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
        if let Err(reason) = segment::segment(packet, self.pool, self.segments, !self.queues.caps.csum) {
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
        self.shard.count_sent(offered, &stats);
    }
}

/// How many packets a receiver's socket has to hold for one: none for a stream's, whose flow control sees to that.
#[inline]
fn in_socket(packet: &Packet) -> usize {
    let gso = packet.meta().offload.gso;
    match gso.kind {
        GsoKind::None if packet.len() < SMALL => 1,
        GsoKind::UdpL4 => packet.len().div_ceil(usize::from(gso.size).max(1)),
        _ => 0,
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
