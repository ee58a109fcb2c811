//! One worker's part of the network layer: carries packets from receive to transmit.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use trunkline_nat::{ConnFilter, ConnInfo, Glance, Nat, Path, RuleCounters, RuleId, Toward};
use trunkline_packet::{BATCH, Batch, DropReason, Packet, Pool, PortId};
use trunkline_router::{IfaceId, Neighbours, Received, Router, Sink, Zone, destination_of};

use super::view::{L3View, Role};
use super::{L3Stats, Links};
use crate::egress::EgressQueues;
use crate::snapshot::Snapshot;

/// Milliseconds between two looks at expired connections when nothing comes in.
const NAT_TICK: u64 = 1_000;
/// Connections looked at then.
const NAT_BUDGET: usize = 4096;

/// Everything of the network layer that one worker owns.
pub(crate) struct L3 {
    worker: u16,
    workers: u16,
    clock: Instant,
    /// Milliseconds on the clock, read once per batch.
    now: u64,
    view: Arc<L3View>,
    router: Router,
    nat: Nat,
    links: Links,
    next_nat_tick: u64,
    own: bool,
    /// Packets that go the same way into the translation.
    pending: Batch,
    path: Option<Path>,
    /// What the short way has found out about a batch.
    ahead: Vec<Option<Glance>>,
    scratch: Scratch,
    /// What the router sends into bridges, by gateway's port.
    pub(crate) inward: Vec<(PortId, Packet)>,
}

/// What the translation has decided on.
#[derive(Default)]
struct Scratch {
    translated: Vec<(Packet, Toward)>,
    refused: Vec<(Packet, DropReason)>,
    /// Errors to be routed, with the interface that they come from.
    injected: Vec<(IfaceId, Packet)>,
    crossed: Vec<super::cross::Crossing>,
}

impl trunkline_nat::Sink for Scratch {
    #[inline]
    fn forward(&mut self, packet: Packet, toward: Toward) {
        self.translated.push((packet, toward));
    }

    #[inline]
    fn drop(&mut self, packet: Packet, reason: DropReason) {
        self.refused.push((packet, reason));
    }
}

/// Where packets go from here.
pub(crate) struct Out<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) pool: &'a mut Pool,
    pub(crate) egress: &'a mut EgressQueues,
}

/// The router's sink.
struct Ways<'a> {
    worker: usize,
    snapshot: &'a Snapshot,
    egress: &'a mut EgressQueues,
    view: &'a L3View,
    inward: &'a mut Vec<(PortId, Packet)>,
    injected: &'a mut Vec<(IfaceId, Packet)>,
    links: &'a Links,
    /// A packet of a tunnel is being sent: it counts as made here when it is dropped, too.
    own: bool,
}

impl Ways<'_> {
    #[inline]
    fn shard(&self, iface: IfaceId) -> Option<&crate::counters::Shard> {
        Some(self.snapshot.port(PortId(iface.0))?.shards.of(self.worker))
    }
}

impl Sink for Ways<'_> {
    #[inline]
    fn send(&mut self, iface: IfaceId, packet: Packet, made: bool) {
        let port = PortId(iface.0);
        if made && let Some(shard) = self.shard(iface) {
            shard.generated.add(1);
        }
        match self.view.role(port) {
            Role::Uplink(_) if self.snapshot.port(port).is_some() => self.egress.push(port, packet),
            _ => self.inward.push((port, packet)),
        }
    }

    fn inject(&mut self, iface: IfaceId, packet: Packet) {
        if let Some(shard) = self.shard(iface) {
            shard.generated.add(1);
        }
        self.injected.push((iface, packet));
    }

    fn consumed(&mut self, iface: IfaceId, _: usize) {
        if let Some(shard) = self.shard(iface) {
            shard.absorbed.add(1);
        }
    }

    fn dropped(&mut self, iface: IfaceId, reason: DropReason) {
        if let Some(shard) = self.shard(iface) {
            // Those that give up waiting are others.
            if self.own && reason != DropReason::RouterUnresolved {
                shard.generated.add(1);
            }
            shard.drop(reason, 1);
        }
    }

    fn resolved(&mut self) {
        self.links.signal_all();
    }
}

/// The router and everything it needs for one call.
macro_rules! with_router {
    ($self:ident, $out:ident, |$router:ident, $now:ident, $pool:ident, $ways:ident| $body:expr) => {{
        let $now = $self.now;
        let $router = &mut $self.router;
        let $pool = &mut *$out.pool;
        let $ways = &mut Ways {
            worker: usize::from($self.worker),
            snapshot: $out.snapshot,
            egress: &mut *$out.egress,
            view: &$self.view,
            inward: &mut $self.inward,
            injected: &mut $self.scratch.injected,
            links: &$self.links,
            own: $self.own,
        };
        $body
    }};
}

mod short;

impl L3 {
    pub(crate) fn new(
        (worker, workers): (u16, u16),
        clock: Instant,
        neighbours: Arc<Neighbours>,
        ct: trunkline_nat::Config,
        links: Links,
    ) -> L3 {
        L3 {
            worker,
            workers,
            clock,
            now: 0,
            view: Arc::new(L3View::empty()),
            router: Router::new(neighbours, worker == 0),
            nat: Nat::new(trunkline_nat::Config { shard: (worker, workers), ..ct }),
            links,
            next_nat_tick: 0,
            own: false,
            pending: Batch::with_capacity(2 * BATCH),
            path: None,
            ahead: Vec::with_capacity(BATCH),
            scratch: Scratch {
                translated: Vec::with_capacity(2 * BATCH),
                refused: Vec::with_capacity(2 * BATCH),
                injected: Vec::with_capacity(2 * BATCH),
                crossed: Vec::with_capacity(4 * BATCH),
            },
            inward: Vec::with_capacity(4 * BATCH),
        }
    }

    fn millis(&self) -> u64 {
        self.clock.elapsed().as_millis() as u64
    }

    /// Forgets what is in hand.
    pub(crate) fn clear(&mut self) {
        self.pending.clear();
        self.path = None;
        self.scratch.translated.clear();
        self.scratch.refused.clear();
        self.scratch.injected.clear();
        self.scratch.crossed.clear();
        self.inward.clear();
        self.own = false;
    }

    /// Takes up a new version of the configuration.
    #[inline]
    pub(crate) fn sync(&mut self, view: &Arc<L3View>) {
        if view.version != self.view.version {
            self.take_up(view);
        }
    }

    #[cold]
    fn take_up(&mut self, view: &Arc<L3View>) {
        self.view = Arc::clone(view);
        self.router.set_tables(self.millis(), Arc::clone(&view.tables));
        self.nat.configure(view.ct.clone());
        if let Err((id, error)) = self.nat.set_rules(&view.rules, &view.gateways) {
            // The engine has tried them before.
            tracing::error!(rule = id.0, %error, "a rule is not taken up");
        }
        let hosts: Vec<_> = view.loopbacks.iter().map(|l| l.1).collect();
        self.nat.set_hosts(&hosts);
    }

    /// Milliseconds until something is due; `None` for a second and more.
    pub(crate) fn due_in(&self) -> Option<u64> {
        let next = self.router.next_due().min(self.next_nat_tick);
        Some(next.saturating_sub(self.millis())).filter(|wait| *wait < 1_000)
    }

    /// What is due, and what other workers have sent. True when there may be more of that.
    pub(crate) fn work(&mut self, out: &mut Out<'_>) -> bool {
        self.now = self.millis();
        self.links.listen();
        self.links.reclaim(out.pool);
        if self.links.has_mail() {
            self.mail(out);
        }
        let now = self.now;
        if self.next_nat_tick <= now {
            self.next_nat_tick = now + NAT_TICK;
            self.nat.tick(now, NAT_BUDGET, &mut self.scratch);
            let at = self.view.tables.ifaces().first().map_or(IfaceId(u16::MAX), |i| i.id);
            self.decided(at, None, out);
        }
        if self.router.next_due() <= now {
            with_router!(self, out, |router, now, pool, ways| router.tick(now, pool, ways));
        }
        self.inject(out);
        self.links.signal();
        self.links.has_mail()
    }

    /// Packets that this worker owns and others have received.
    fn mail(&mut self, out: &mut Out<'_>) {
        let mut crossed = std::mem::take(&mut self.scratch.crossed);
        crossed.extend(self.links.take(out.pool));
        self.begin(IfaceId(u16::MAX), crossed.len(), out);
        for c in crossed.drain(..) {
            // Whoever sent it has found its owner.
            self.queue(c.at, c.path, c.packet, out);
            if self.pending.len() >= BATCH {
                self.translate(c.at, out);
            }
        }
        self.scratch.crossed = crossed;
        self.translate(IfaceId(u16::MAX), out);
    }

    /// Carries what came in by a gateway or an uplink as far as it goes.
    pub(crate) fn run(&mut self, port: PortId, batch: &mut Batch, out: &mut Out<'_>) {
        self.now = self.millis();
        self.links.reclaim(out.pool);
        self.run_now(port, batch, out);
        self.links.signal();
    }

    fn run_now(&mut self, port: PortId, batch: &mut Batch, out: &mut Out<'_>) {
        let at = IfaceId(port.0);
        self.begin(at, batch.len(), out);
        match (self.arrival(port), self.view.role(port)) {
            (Some(from), _) => self.run_short(at, from, batch, out),
            (None, Role::Loopback(uplink)) => {
                for packet in batch.drain(..) {
                    self.send_to_owner(at, Path::Local(uplink), packet, out);
                }
            }
            // The router says what is wrong.
            _ => batch.drain(..).for_each(|packet| self.receive(at, packet, out)),
        }
        self.translate(at, out);
        self.inject(out);
    }

    /// What so many packets do for connections that have expired.
    #[inline]
    fn begin(&mut self, at: IfaceId, packets: usize, out: &mut Out<'_>) {
        self.nat.begin(self.now, packets, &mut self.scratch);
        if !self.scratch.refused.is_empty() {
            self.decided(at, None, out);
        }
    }

    /// Carries one packet as far as it goes, or to where it waits for others of its path.
    fn receive(&mut self, at: IfaceId, packet: Packet, out: &mut Out<'_>) {
        let received =
            with_router!(self, out, |router, now, pool, ways| router.receive(now, at, packet, pool, ways));
        self.go_on(at, received, false, out);
    }

    /// Sends outer packets of tunnels by an uplink.
    pub(crate) fn send_own(&mut self, uplink: PortId, frames: &mut Batch, out: &mut Out<'_>) {
        self.now = self.millis();
        self.own = true;
        let at = IfaceId(uplink.0);
        let view = out.snapshot.port(uplink).filter(|_| matches!(self.view.role(uplink), Role::Uplink(_)));
        let (mut link, mut sent) = (None, 0);
        for mut packet in frames.drain(..) {
            let by = self.router.link_own(self.now, at, &mut packet, &mut link);
            if view.is_some() && by == Some(at) {
                sent += 1;
                out.egress.push(uplink, packet);
            } else {
                with_router!(self, out, |router, now, pool, ways| router
                    .send_own(now, at, packet, pool, ways));
            }
        }
        if let Some(view) = view {
            view.shards.of(usize::from(self.worker)).generated.add(sent);
        }
        self.own = false;
        self.inject(out);
    }

    /// Errors of our own, which make no others.
    fn inject(&mut self, out: &mut Out<'_>) {
        while let Some((at, packet)) = self.scratch.injected.pop() {
            let received = with_router!(self, out, |router, now, pool, ways| router
                .reroute(now, at, packet, pool, ways));
            self.go_on(at, received, true, out);
            self.translate(at, out);
        }
    }

    /// `ours`: an error that the router has made about a translated packet.
    #[inline]
    fn go_on(&mut self, at: IfaceId, received: Received, ours: bool, out: &mut Out<'_>) {
        let role = self.view.role(PortId(at.0));
        match (received, role) {
            (Received::Done, _) => {}
            (Received::Forward(mut packet, hop), Role::Gateway(zone)) => {
                match self.view.role(PortId(hop.iface.0)) {
                    Role::Uplink(uplink) => self.send_to_owner(at, Path::Out(zone, uplink), packet, out),
                    _ => {
                        if ours {
                            self.router.sign(Zone(zone.0), &mut packet);
                        }
                        with_router!(self, out, |router, now, pool, ways| {
                            router.transmit(now, hop, packet, pool, ways);
                        });
                    }
                }
            }
            (Received::Answer(packet), Role::Gateway(zone)) => {
                self.send_to_owner(at, Path::Answer(zone), packet, out);
            }
            // Our own error may be from the very address that it goes to.
            (Received::Inbound(packet), Role::Uplink(uplink)) if ours => {
                self.send_to_owner(at, Path::Hairpin(uplink), packet, out);
            }
            (Received::Inbound(packet), Role::Uplink(uplink)) => {
                self.send_to_owner(at, Path::In(uplink), packet, out);
            }
            (Received::Local(packet), _) => {
                with_router!(self, out, |router, now, pool, ways| router.local(now, at, packet, pool, ways));
            }
            // Tables and roles are of one version, so this does not happen.
            (Received::Forward(packet, _) | Received::Answer(packet) | Received::Inbound(packet), _) => {
                self.lose(at, packet, DropReason::RouterNoRoute, out);
            }
        }
    }

    fn lose(&mut self, at: IfaceId, packet: Packet, reason: DropReason, out: &mut Out<'_>) {
        if let Some(view) = out.snapshot.port(PortId(at.0)) {
            view.shards.of(usize::from(self.worker)).drop(reason, 1);
        }
        out.pool.put(packet);
    }

    /// Into the translation of the worker that owns the connection.
    #[inline]
    fn send_to_owner(&mut self, at: IfaceId, path: Path, packet: Packet, out: &mut Out<'_>) {
        if self.workers > 1
            && let Some(owner) = self.nat.owner(path, &packet)
            && owner != self.worker
        {
            return self.cross(owner, at, path, packet, out);
        }
        self.queue(at, path, packet, out);
    }

    fn cross(&mut self, to: u16, at: IfaceId, path: Path, packet: Packet, out: &mut Out<'_>) {
        if let Err(packet) = self.links.send(to, packet, path, at) {
            self.lose(at, packet, DropReason::RouterWorkerFull, out);
        }
    }

    #[inline]
    fn queue(&mut self, at: IfaceId, path: Path, packet: Packet, out: &mut Out<'_>) {
        if self.path.is_some_and(|p| p != path) {
            self.translate(at, out);
        }
        self.path = Some(path);
        self.pending.push(packet);
    }

    /// Translates what is pending.
    fn translate(&mut self, at: IfaceId, out: &mut Out<'_>) {
        let Some(path) = self.path.take() else { return };
        let now = self.now;
        let mut pending = std::mem::take(&mut self.pending);
        self.nat.process_batch(now, path, &mut pending, &mut self.scratch);
        self.pending = pending;
        self.decided(at, Some(path), out);
    }

    /// Sends on what the translation has decided on.
    fn decided(&mut self, at: IfaceId, path: Option<Path>, out: &mut Out<'_>) {
        let at = self.entrance(path).unwrap_or(at);
        let mut translated = std::mem::take(&mut self.scratch.translated);
        for (mut packet, toward) in translated.drain(..) {
            match toward {
                Toward::Worker(to, path) => {
                    self.cross(to, at, path, packet, out);
                    continue;
                }
                Toward::Inside(zone) => {
                    let zone = Zone(zone.0);
                    // An error of ours about a packet that was to leave outside.
                    if packet.meta().in_port == PortId::NONE {
                        self.router.sign(zone, &mut packet);
                    }
                    with_router!(self, out, |router, now, pool, ways| {
                        router.inside(now, zone, packet, pool, ways);
                    });
                    continue;
                }
                Toward::Host(uplink) => self.hand_to_host(uplink, packet, out),
                Toward::Client(uplink) if self.is_for_host(uplink, &packet) => {
                    self.hand_to_host(uplink, packet, out)
                }
                Toward::Outside(uplink) | Toward::Client(uplink) => match self.view.uplink(uplink) {
                    None => self.lose(at, packet, DropReason::RouterNoRoute, out),
                    Some(iface) => with_router!(self, out, |router, now, pool, ways| {
                        match toward {
                            Toward::Outside(_) => router.outside(now, iface, packet, pool, ways),
                            _ => router.client(now, iface, packet, pool, ways),
                        }
                    }),
                },
            }
        }
        self.scratch.translated = translated;
        let mut refused = std::mem::take(&mut self.scratch.refused);
        for (packet, reason) in refused.drain(..) {
            match path {
                // Not what came in now, but what waited for its first piece, wherever that was.
                Some(Path::In(_)) if reason != DropReason::NatFragmentLost => {
                    with_router!(self, out, |router, now, pool, ways| {
                        router.unsolicited(now, at, packet, reason, pool, ways);
                    })
                }
                Some(Path::Answer(_)) if reason == DropReason::NatUnsolicited => {
                    with_router!(self, out, |router, now, pool, ways| {
                        router.local(now, at, packet, pool, ways);
                    });
                }
                _ => self.lose(at, packet, reason, out),
            }
        }
        self.scratch.refused = refused;
    }

    /// Whether the packet is addressed to the host that shares the uplink's addresses.
    fn is_for_host(&self, uplink: trunkline_nat::Uplink, packet: &Packet) -> bool {
        let iface = self.view.loopback(uplink).and(self.view.uplink(uplink));
        let Some(iface) = iface.and_then(|id| self.view.tables.iface(id)) else { return false };
        destination_of(packet).is_some_and(|dst| iface.owns(dst))
    }

    /// To the host's own stack, by its loopback.
    fn hand_to_host(&mut self, uplink: trunkline_nat::Uplink, mut packet: Packet, out: &mut Out<'_>) {
        let Some(port) = self.view.loopback(uplink).filter(|port| out.snapshot.port(*port).is_some()) else {
            let at = self.view.uplink(uplink).unwrap_or(IfaceId(u16::MAX));
            return self.lose(at, packet, DropReason::RouterNoRoute, out);
        };
        // The loopback's own MAC address, both ways.
        if let Some(macs) = packet.head_mut().first_chunk_mut::<12>() {
            *macs = [0; 12];
        }
        packet.meta_mut().vlan = None;
        out.egress.push(port, packet);
    }

    /// By which interface packets of a path came in, as far as the path tells: packets that crossed may be of
    /// several.
    fn entrance(&self, path: Option<Path>) -> Option<IfaceId> {
        match path? {
            Path::In(uplink) | Path::Hairpin(uplink) | Path::Local(uplink) => self.view.uplink(uplink),
            Path::Out(..) | Path::Answer(_) => None,
        }
    }

    /// The connections of these slots that fit. `None` behind the last slot.
    pub(crate) fn connections(&self, filter: &ConnFilter, slots: Range<usize>) -> Option<Vec<ConnInfo>> {
        let more = slots.start < self.nat.slots();
        let all = self.nat.connections_in(self.millis(), slots);
        more.then(|| all.filter(|c| filter.matches(c)).collect())
    }

    /// Forgets the connections of these slots that fit. `None` behind the last slot.
    pub(crate) fn flush(&mut self, filter: &ConnFilter, slots: Range<usize>) -> Option<usize> {
        let now = self.millis();
        (slots.start < self.nat.slots()).then(|| self.nat.flush_in(now, slots, |c| filter.matches(c)))
    }

    pub(crate) fn counters(&self) -> Vec<(RuleId, RuleCounters)> {
        let of = |(id, _): &(RuleId, _)| Some((*id, self.nat.counters(*id)?));
        self.view.rules.iter().filter_map(of).collect()
    }

    /// See [`Router::is_ceasing`].
    pub(crate) fn is_ceasing(&self) -> bool {
        self.router.is_ceasing()
    }

    pub(crate) fn stats(&self) -> L3Stats {
        L3Stats { nat: self.nat.stats(), waiting: self.router.held() }
    }
}
