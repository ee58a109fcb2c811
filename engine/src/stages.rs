//! What a worker carries a batch through: ingress, decapsulation, the bridge, egress. The same for every
//! batch, whatever it came from; the thread around it is in `worker.rs`.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use trunkline_packet::{BATCH, Batch, DropReason, Packet, Pool, PortId, tag};
use trunkline_ports::RecvStats;
use trunkline_switch::Sink;
use trunkline_tunnel::Tunnels;

use crate::counters::{Shard, Shards};
use crate::egress::EgressQueues;
use crate::l3::{L3, Out, Role};
use crate::snapshot::Snapshot;
use crate::tunnel::ingress::Decap;
use crate::tunnel::liveness::HeardSender;
use crate::tunnel::uplink::Underneath;
use crate::turns::ENOUGH;

/// Free heads and tails a worker keeps (about 2 KiB and 64 KiB each, made on demand).
const KEEP_HEADS: usize = MAX_IN_FLIGHT;
const KEEP_TAILS: usize = 160;

/// Most packets in flight at once, counting the copies of floods: bounds memory.
const MAX_IN_FLIGHT: usize = 8192;

/// Datagrams out of tunnels after which a worker pauses. A socket's default buffer holds 256 or so small ones, a
/// train of datagrams may bring 4,096 at once, and the scheduler may let a busy worker go on for 4 ms: where there
/// are fewer CPUs than threads at work, most were lost at the receivers, whose turn did not come.
const BURST: usize = 128;
/// With more CPUs than this, receivers have some of their own, and a pause would only cost throughput.
const FEW_CPUS: usize = 2;
/// How long. Unlike a yield it does not cost the worker its share of the CPU.
const PAUSE: Duration = Duration::from_micros(30);
/// A burst that took longer than this left its receivers time.
const BURST_TIME: Duration = Duration::from_millis(2);

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
    /// What an uplink brought that is not for tunnels.
    rest: Batch,
    egress: EgressQueues,
    /// Copies made for floods, since somebody set it to 0.
    pub(crate) copies: usize,
    /// When the last burst of datagrams out of tunnels had been delivered.
    burst: Instant,
    /// Whether to pause after bursts.
    pauses: bool,
    /// The network layer, if there is any.
    pub(crate) l3: Option<Box<L3>>,
}

impl Stages {
    /// `underlay` counts datagrams that belong to no tunnel; `heard` takes liveness packets; `cpus`: how many
    /// this process may use.
    pub(crate) fn new(
        worker: usize,
        clock: Instant,
        underlay: Shards,
        heard: HeardSender,
        cpus: usize,
    ) -> Stages {
        Stages {
            worker,
            clock,
            pool: Pool::new(KEEP_HEADS, KEEP_TAILS),
            batch: Batch::with_capacity(BATCH),
            decap: Decap::new(underlay, heard),
            trash: Batch::with_capacity(BATCH),
            rest: Batch::with_capacity(BATCH),
            egress: EgressQueues::new(),
            copies: 0,
            burst: clock,
            pauses: cpus <= FEW_CPUS,
            l3: None,
        }
    }

    /// Forgets everything that is in hand.
    pub(crate) fn clear(&mut self) {
        self.batch.clear();
        self.decap.clear();
        self.trash.clear();
        self.rest.clear();
        self.egress.clear();
        if let Some(l3) = &mut self.l3 {
            l3.clear();
        }
    }

    /// How many frames of a port may be taken at once; `short`: if they are likely to be flooded.
    #[inline]
    pub(crate) fn budget(snapshot: &Snapshot, port: PortId, short: bool) -> usize {
        let copies = if short { ENOUGH } else { MAX_IN_FLIGHT };
        (copies / snapshot.fanout(port).max(1)).clamp(1, BATCH)
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
        match &snapshot.l3 {
            Some(view) if matches!(view.role(port), Role::Uplink(_) | Role::Loopback(_)) => {
                let tunnels = snapshot.tunnels_on(port);
                self.egress.watch_delivered(self.pauses && tunnels.is_some());
                if let Some(tunnels) = tunnels {
                    self.underlay(snapshot, port, tunnels, now);
                }
                self.route(snapshot, port, now);
                self.finish(snapshot, now);
                if tunnels.is_some() {
                    self.pause_if_due();
                }
            }
            _ => {
                self.egress.watch_delivered(false);
                self.bridge(snapshot, port, now);
                self.finish(snapshot, now);
            }
        }
    }

    /// Carries the datagrams that an underlay brought, which are in `decap`, to their end.
    pub(crate) fn datagrams(&mut self, snapshot: &Snapshot, stats: &RecvStats) {
        self.egress.resize(snapshot.ports.len());
        self.decap.begin(self.worker, stats);
        self.egress.watch_delivered(self.pauses);
        let now = self.now();
        while self.decap.open_some(snapshot, self.worker, now, &mut self.pool) {
            self.decapsulated(snapshot, now);
            self.finish(snapshot, now);
            self.pause_if_due();
        }
    }

    /// Pauses when so much has come out of tunnels that its receivers need the CPU first.
    fn pause_if_due(&mut self) {
        if !self.pauses || self.egress.delivered() < BURST {
            return;
        }
        self.egress.forget_delivered();
        let now = Instant::now();
        let before = std::mem::replace(&mut self.burst, now);
        if now.duration_since(before) < BURST_TIME {
            std::thread::sleep(PAUSE);
            self.burst = Instant::now();
        }
    }

    /// Takes what is for tunnels out of the batch, which came in by an uplink.
    fn underlay(&mut self, snapshot: &Snapshot, port: PortId, tunnels: &Tunnels, now: u32) {
        let (Some(view), Some(uplink)) = (snapshot.port(port), snapshot.uplink(port)) else { return };
        let mut rest = std::mem::take(&mut self.rest);
        let shard = view.shards.of(self.worker);
        let from = Underneath { uplink, tunnels, shard, worker: self.worker, now };
        self.decap.open_frames(snapshot, &from, &mut self.batch, &mut rest, &mut self.pool);
        self.decapsulated(snapshot, now);
        std::mem::swap(&mut self.batch, &mut rest);
        self.rest = rest;
    }

    /// What is due once a second or so.
    pub(crate) fn housekeeping(&mut self, snapshot: &Snapshot) {
        self.decap.expire(snapshot, self.worker, &mut self.pool);
    }

    /// Hands decapsulated frames to the bridges.
    fn decapsulated(&mut self, snapshot: &Snapshot, now: u32) {
        let mut in_flight = 0;
        while let Some(port) = self.decap.next_port() {
            let fanout = snapshot.fanout(port).max(1);
            self.decap.take((MAX_IN_FLIGHT / fanout).max(1), &mut self.batch);
            in_flight += self.batch.len() * fanout;
            self.bridge(snapshot, port, now);
            if in_flight >= MAX_IN_FLIGHT {
                self.finish(snapshot, now);
                in_flight = 0;
            }
        }
    }

    /// What other workers have sent here, and what is due. True when there may be more of the former.
    pub(crate) fn l3_work(&mut self, snapshot: &Snapshot) -> bool {
        let (Some(l3), Some(view)) = (&mut self.l3, &snapshot.l3) else { return false };
        self.egress.resize(snapshot.ports.len());
        l3.sync(view);
        let mut out = Out { snapshot, pool: &mut self.pool, egress: &mut self.egress };
        let more = l3.work(&mut out);
        let now = self.now();
        self.deliver(snapshot, now);
        self.finish(snapshot, now);
        more
    }

    /// How long until [`Stages::l3_work`] has something to do.
    pub(crate) fn l3_due(&self) -> Option<Duration> {
        self.l3.as_ref()?.due_in().map(Duration::from_millis)
    }

    /// Routes the batch, which came in by a gateway or an uplink.
    fn route(&mut self, snapshot: &Snapshot, port: PortId, now: u32) {
        let (Some(l3), Some(view)) = (&mut self.l3, &snapshot.l3) else {
            // It comes in a moment, or went a moment ago.
            if let Some(view) = snapshot.port(port) {
                view.shards.of(self.worker).drop(DropReason::EgressDown, self.batch.len() as u64);
            }
            return self.pool.put_all(&mut self.batch);
        };
        l3.sync(view);
        let mut out = Out { snapshot, pool: &mut self.pool, egress: &mut self.egress };
        l3.run(port, &mut self.batch, &mut out);
        self.deliver(snapshot, now);
    }

    /// Hands to the bridges what was routed there.
    fn deliver(&mut self, snapshot: &Snapshot, now: u32) {
        let Some(l3) = &mut self.l3 else { return };
        let mut inward = std::mem::take(&mut l3.inward);
        let mut port = PortId::NONE;
        for (to, mut packet) in inward.drain(..) {
            if to != port && !self.batch.is_empty() {
                self.bridge(snapshot, port, now);
            }
            port = to;
            packet.meta_mut().in_port = to;
            packet.meta_mut().vlan = None;
            self.batch.push(packet);
        }
        if !self.batch.is_empty() {
            self.bridge(snapshot, port, now);
        }
        if let Some(l3) = &mut self.l3 {
            l3.inward = inward;
        }
    }

    /// Sends what is queued, by way of the router what is queued for gateways.
    fn finish(&mut self, snapshot: &Snapshot, now: u32) {
        self.send(snapshot, now);
        if self.egress.has_replies() {
            self.egress.queue_replies(snapshot, self.worker, &mut self.pool);
            // No error is made about an error, so this is the last time.
            self.send(snapshot, now);
        }
    }

    #[inline]
    fn send(&mut self, snapshot: &Snapshot, now: u32) {
        self.gateways(snapshot, now);
        while !snapshot.uplinks.is_empty() && self.uplinks(snapshot, now) {
            // Errors about outer packets may be for gateways.
            self.gateways(snapshot, now);
        }
        self.egress.flush(snapshot, self.worker, now, &mut self.pool);
    }

    /// Encapsulates what is queued for tunnels over uplinks, and has the router send it. False: nothing was.
    fn uplinks(&mut self, snapshot: &Snapshot, now: u32) -> bool {
        let uplink_of = |port| snapshot.port(port).and_then(|view| view.tunnel()?.uplink());
        // What goes by one uplink is routed at once.
        let mut by = None;
        while let Some(port) = self.egress.take(|port| uplink_of(port).is_some(), &mut self.batch) {
            let uplink = uplink_of(port);
            if by.is_some() && (by != uplink || self.egress.outer().len() >= BATCH) {
                self.route_own(snapshot, by, now);
            }
            by = uplink;
            let (batch, at) = (&mut self.batch, (self.worker, now));
            self.egress.encapsulate(snapshot, port, at, &mut self.pool, |tunnel| tunnel.send_all(batch));
        }
        if by.is_some() {
            self.route_own(snapshot, by, now);
        }
        by.is_some()
    }

    /// A packet of a tunnel itself, over an uplink.
    pub(crate) fn send_own(
        &mut self,
        snapshot: &Snapshot,
        port: PortId,
        remote: IpAddr,
        packet: Packet,
        df: bool,
    ) {
        let uplink = snapshot.port(port).and_then(|view| view.tunnel()?.uplink());
        if uplink.is_none() {
            // The tunnel went, or changed its carrier.
            return self.pool.put(packet);
        }
        self.egress.resize(snapshot.ports.len());
        let now = self.now();
        let at = (self.worker, now);
        self.egress.encapsulate(snapshot, port, at, &mut self.pool, |tunnel| {
            tunnel.send_own(packet, remote, df);
        });
        self.route_own(snapshot, uplink, now);
        self.finish(snapshot, now);
    }

    /// Has the router send outer packets of tunnels.
    fn route_own(&mut self, snapshot: &Snapshot, uplink: Option<PortId>, now: u32) {
        let (Some(l3), Some(view), Some(uplink)) = (&mut self.l3, &snapshot.l3, uplink) else {
            // It comes in a moment, or went a moment ago.
            return self.pool.put_all(self.egress.outer());
        };
        let mut frames = std::mem::take(self.egress.outer());
        l3.sync(view);
        let mut out = Out { snapshot, pool: &mut self.pool, egress: &mut self.egress };
        l3.send_own(uplink, &mut frames, &mut out);
        *self.egress.outer() = frames;
        self.deliver(snapshot, now);
    }

    #[inline]
    fn gateways(&mut self, snapshot: &Snapshot, now: u32) {
        let Some(view) = &snapshot.l3 else { return };
        // Who forwards takes one off the TTL, so this ends.
        while let Some(port) = self.egress.take(|port| view.is_gateway(port), &mut self.batch) {
            self.route(snapshot, port, now);
        }
    }

    /// Decides on the batch, whose packets came in by `port`, and queues them for their egress.
    fn bridge(&mut self, snapshot: &Snapshot, port: PortId, now: u32) {
        let Some(view) = snapshot.port(port) else {
            self.pool.put_all(&mut self.batch);
            return;
        };
        let shard = view.shards.of(self.worker);
        let mut sink = WorkerSink { shard, egress: &mut self.egress, trash: &mut self.trash, copies: 0 };
        match snapshot.bridge_of(view) {
            Some(bridge) => bridge.forward(now, port, &mut self.batch, &mut self.pool, &mut sink),
            None => self.batch.drain(..).for_each(|p| sink.drop(p, DropReason::NoBridge)),
        }
        self.copies += sink.copies;
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
    copies: usize,
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
        self.copies += n as usize;
    }
}
