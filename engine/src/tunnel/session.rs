//! One liveness session of a tunnel, and its way to the wire.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use crossbeam::channel::Sender;
use trunkline_packet::{Batch, DropReason, MacAddr, Pool, PortId};
use trunkline_ports::SendStats;
use trunkline_ports::underlay::Datagrams;
use trunkline_tunnel::bfd::wire::LEN;
use trunkline_tunnel::bfd::{Config, Event, Session, State, frame};
use trunkline_tunnel::encap_datagrams;
use trunkline_tunnel::mtu::path::PathMtu;
use trunkline_tunnel::mtu::probe::{Prober, inner_len};
use trunkline_tunnel::mtu::report::Report;

use super::egress::encap_to;
use super::sockets::OpenSockets;
use super::view::{Carrier, Peer};
use crate::EngineEvent;
use crate::snapshot::Snapshot;
use crate::worker::{Command, Courier};

/// How long a session may take to come up before its remote counts as dead: each side sends once a second
/// until then (RFC 5880 §6.8.3).
const GRACE: Duration = Duration::from_secs(4);

/// How often the round trip is measured, and the kernel asked for the path's MTU.
pub(super) const MEASURE: Duration = Duration::from_secs(1);

/// One session.
pub(super) struct Entry {
    pub(super) peer: Arc<Peer>,
    pub(super) session: Session,
    /// Our name for it.
    pub(super) discriminator: u32,
    /// Looks for the path's MTU; made when the kernel first says what the link takes.
    prober: Option<Prober>,
    /// Counts as dead if it is not up by then; `None` once that was looked at.
    grace: Option<Instant>,
    measure: Instant,
}

impl Entry {
    pub(super) fn new(peer: Arc<Peer>, config: Config, now: Instant, seed: u64) -> Entry {
        let session = Session::new(config, now, seed);
        peer.status.lock().state = Some(session.state());
        let (grace, discriminator) = (Some(now + GRACE), config.discriminator);
        Entry { peer, session, discriminator, prober: None, grace, measure: now }
    }
}

/// What all sessions send and report with.
pub(super) struct Wire {
    events: Sender<EngineEvent>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    opener: Arc<dyn OpenSockets>,
    /// Sends by uplinks.
    courier: Courier,
    clock: Instant,
    /// Makes link addresses.
    random: RandomState,
    pool: Pool,
    batch: Batch,
}

impl Wire {
    pub(super) fn new(
        events: Sender<EngineEvent>,
        snapshot: Arc<ArcSwap<Snapshot>>,
        opener: Arc<dyn OpenSockets>,
        courier: Courier,
        clock: Instant,
    ) -> Wire {
        let (random, pool) = (RandomState::new(), Pool::new(16, 1));
        Wire { events, snapshot, opener, courier, clock, random, pool, batch: Batch::new() }
    }

    /// Forgets what is in hand.
    pub(super) fn clear(&mut self) {
        self.batch.clear();
    }

    /// Does what is due, and says when something will be next.
    pub(super) fn serve(&mut self, entry: &mut Entry, now: Instant) -> Instant {
        if let Some(event) = entry.session.expire(now) {
            self.changed(entry, event);
        }
        if entry.grace.is_some_and(|end| now >= end) {
            entry.grace = None;
            if entry.session.state() != State::Up && entry.session.remote_state() != State::AdminDown {
                self.set_alive(&entry.peer, false);
            }
        }
        if now >= entry.measure {
            entry.measure = now + MEASURE;
            entry.session.measure();
            self.ask_kernel(entry, now);
        }
        self.transmit(entry, now);
        self.probe(entry, now);
        let mtu = entry.prober.as_ref().and_then(Prober::mtu);
        let mut status = entry.peer.status.lock();
        status.state = Some(entry.session.state());
        status.diag = entry.session.diag();
        status.round_trip = entry.session.round_trip();
        status.loss = entry.session.loss();
        if let Some(mtu) = mtu.filter(|mtu| status.path_mtu != Some(*mtu)) {
            status.path_mtu = Some(mtu);
            let (port, remote) = (entry.peer.port, entry.peer.remote);
            self.report(EngineEvent::PathMtu { port, remote, mtu });
        }
        drop(status);
        let probe = entry.prober.as_ref().and_then(|prober| prober.next_deadline(&entry.session));
        let due = entry.session.next_deadline().into_iter().chain(entry.grace).chain(probe).min();
        due.map_or(entry.measure, |due| due.min(entry.measure))
    }

    fn report(&self, event: EngineEvent) {
        // Fails only while the engine is being dropped.
        let _ = self.events.send(event);
    }

    pub(super) fn transmit(&mut self, entry: &mut Entry, now: Instant) {
        while let Some(control) = entry.session.poll(now) {
            self.send(entry, &control, None);
        }
    }

    /// Tells the prober what the kernel takes the path for.
    fn ask_kernel(&self, entry: &mut Entry, now: Instant) {
        let snapshot = self.snapshot.load();
        let Some(tunnel) = snapshot.port(entry.peer.port).and_then(|view| view.tunnel()) else { return };
        let Some(encap) = encap_to(tunnel, entry.peer.remote) else { return };
        let link = match tunnel.uplink() {
            Some(uplink) => snapshot.uplink(uplink).map(|uplink| uplink.mtu),
            None => {
                let mtu = self.opener.path_mtu(encap.remote, encap.local).ok();
                mtu.map(|mtu| u16::try_from(mtu).unwrap_or(u16::MAX))
            }
        };
        let Some(link) = link else { return };
        match &mut entry.prober {
            Some(prober) => prober.set_link(link),
            None => entry.prober = Some(Prober::new(&encap, link, now)),
        }
    }

    fn probe(&mut self, entry: &mut Entry, now: Instant) {
        let Some(mut prober) = entry.prober.take() else { return };
        if let Some(probe) = prober.poll(now, &mut entry.session)
            && self.send(entry, &probe.control, Some(probe.size)) == Some(DropReason::Mtu)
        {
            prober.unsendable(now, &mut entry.session);
        }
        entry.prober = Some(prober);
    }

    /// Sends a packet inside the tunnel, padded so that the outer one has `size` bytes. Why it could not be
    /// sent.
    fn send(&mut self, entry: &Entry, control: &[u8; LEN], size: Option<u16>) -> Option<DropReason> {
        let snapshot = self.snapshot.load();
        let view = snapshot.port(entry.peer.port)?;
        let tunnel = view.tunnel()?;
        let mut encap = encap_to(tunnel, entry.peer.remote)?;
        let [_, a, b, c, d, ..] = self.random.hash_one(entry.discriminator).to_le_bytes();
        let addresses = frame::Addresses::ovs(MacAddr([2, 0x54, a, b, c, d]));
        let packet = match size {
            None => frame::build(control, &addresses, entry.discriminator, &mut self.pool),
            Some(size) => {
                // A fragment would prove nothing.
                encap.df = true;
                let len = inner_len(&encap, size);
                frame::build_padded(control, &addresses, entry.discriminator, len, &mut self.pool)
            }
        };
        let packet = packet.ok()?;
        let Carrier::Sockets { tx, .. } = &tunnel.carrier else {
            // The router is a worker's.
            let (port, remote) = (entry.peer.port, entry.peer.remote);
            self.courier.send(Command::SendOwn { port, remote, packet, df: encap.df });
            return None;
        };
        let shard = view.shards.own();
        shard.generated.add(1);
        let state = &tunnel.endpoint().state.tx;
        match encap_datagrams(packet, &encap, state, &mut self.pool, &mut self.batch) {
            Err(reason) => {
                shard.drop(reason, 1);
                Some(reason)
            }
            Ok(info) => {
                let what = Datagrams {
                    dst: encap.remote,
                    dst_port: encap.dst_port,
                    src: encap.local,
                    interface: tunnel.interface(encap.remote),
                    tos: info.tos,
                    ttl: info.ttl,
                    df: info.df,
                    socket: info.hash as usize,
                    first: 0,
                    count: 1,
                    size: 0,
                };
                let mut stats = SendStats::default();
                tx.send(&mut self.pool, &mut self.batch, &[what], &mut stats);
                shard.count_sent(1, &stats);
                DropReason::ALL.iter().copied().find(|reason| stats.drops[reason.index()] > 0)
            }
        }
    }

    /// A router on the path does not take packets of a size: noted where no prober finds out by itself.
    pub(super) fn too_big(&self, uplink: PortId, report: &Report, now: Instant) {
        let snapshot = self.snapshot.load();
        let tunnels = snapshot.ports.iter().flatten().filter_map(|view| view.tunnel());
        for tunnel in tunnels.filter(|tunnel| tunnel.uplink() == Some(uplink) && !tunnel.bfd) {
            let Some(link) = snapshot.uplink(uplink).map(|uplink| uplink.mtu) else { return };
            for peer in tunnel.peers.iter().filter(|peer| peer.remote == report.remote) {
                let told = &mut *peer.path.lock();
                let path = told.get_or_insert_with(|| PathMtu::new(link, peer.remote.is_ipv6()));
                if path.too_big(now, report.mtu, report.sent) {
                    self.tell_mtu(peer, path.get());
                }
            }
        }
    }

    /// Forgets what routers said long ago.
    pub(super) fn age(&self, now: Instant) {
        let snapshot = self.snapshot.load();
        for tunnel in snapshot.ports.iter().flatten().filter_map(|view| view.tunnel()) {
            for peer in tunnel.peers.iter().filter(|_| tunnel.uplink().is_some()) {
                if let Some(path) = &mut *peer.path.lock()
                    && path.age(now)
                {
                    self.tell_mtu(peer, path.get());
                }
            }
        }
    }

    fn tell_mtu(&self, peer: &Peer, mtu: u16) {
        peer.status.lock().path_mtu = Some(mtu);
        self.report(EngineEvent::PathMtu { port: peer.port, remote: peer.remote, mtu });
    }

    /// A session changed its state.
    pub(super) fn changed(&self, entry: &Entry, event: Event) {
        if event.from == State::Up || event.to == State::Up {
            entry.peer.status.lock().changed = Some(SystemTime::now());
        }
        let off = entry.session.remote_state() == State::AdminDown;
        match event.to {
            State::Up => self.set_alive(&entry.peer, true),
            State::Down | State::AdminDown if !off => self.set_alive(&entry.peer, false),
            _ => {}
        }
    }

    fn set_alive(&self, peer: &Peer, alive: bool) {
        if !alive && !peer.is_alive() {
            return;
        }
        peer.set_alive(alive);
        if !alive {
            self.forget(peer);
        }
        // Who reads that it is dead finds its addresses forgotten.
        peer.status.lock().alive = alive;
        self.report(EngineEvent::PeerChanged { port: peer.port, remote: peer.remote, up: alive });
    }

    /// Forgets the addresses behind a dead peer.
    fn forget(&self, peer: &Peer) {
        let snapshot = self.snapshot.load();
        let Some(view) = snapshot.port(peer.port) else { return };
        let Some(bridge) = snapshot.bridge_of(view) else { return };
        let (fdb, ageing) = (bridge.fdb(), bridge.config().ageing);
        let now = self.clock.elapsed().as_secs() as u32;
        match view.tunnel().and_then(|tunnel| tunnel.remotes.as_ref()) {
            None => {
                fdb.flush(None, Some(peer.port));
            }
            Some(remotes) => {
                for (vlan, mac) in remotes.flush(peer.remote, now, ageing) {
                    if fdb.lookup(now, ageing, vlan, mac) == Some(peer.port) {
                        fdb.remove(vlan, mac);
                    }
                }
            }
        }
    }
}
