//! The thread that keeps the liveness sessions of tunnels (BFD, RFC 5880): one for each remote.
//!
//! Workers hand it the packets that come in a tunnel for the session, by a bounded queue that they never wait
//! for; it sends by the tunnel's own sockets, since those take packets from any thread. What workers need to
//! know is one flag per remote.
//!
//! A remote is dead when its session was up and went down, or did not come up within a few seconds, unless
//! the far end says that it has switched liveness off (RFC 5882 §3.2 does not count that as a failure). Then
//! what was learned behind it is forgotten, and nothing is sent there until the session is up.
//!
//! The same packets, padded, find out the path's MTU (see [`trunkline_tunnel::mtu::probe`]).

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use trunkline_packet::{Batch, DropReason, MacAddr, Pool, PortId, VlanId};
use trunkline_ports::SendStats;
use trunkline_ports::underlay::Datagrams;
use trunkline_tunnel::bfd::wire::LEN;
use trunkline_tunnel::bfd::{Config, Event, Session, State, frame};
use trunkline_tunnel::mtu::probe::{Prober, inner_len};
use trunkline_tunnel::{Encap, Nets, encap_datagrams};

use super::BfdOptions;
use super::sockets::OpenSockets;
use super::view::{Peer, TunnelView};
use crate::EngineEvent;
use crate::snapshot::Snapshot;

/// Packets that wait for the thread at most.
const INBOX: usize = 1024;

/// How long a session may take to come up before its remote counts as dead: each side sends once a second
/// until then (RFC 5880 §6.8.3).
const GRACE: Duration = Duration::from_secs(4);

/// How often the round trip is measured, and the kernel asked for the path's MTU.
const MEASURE: Duration = Duration::from_secs(1);

/// Bytes of a packet that are kept: all that counts, without padding.
const KEEP: usize = 64;

/// The sending side of the thread's queue.
pub(crate) type HeardSender = Sender<Message>;

/// What the thread is told.
pub(crate) enum Message {
    /// A packet came.
    Heard(Heard),
    /// The port has these remotes, and no others.
    Set { port: PortId, options: BfdOptions, peers: Vec<Arc<Peer>> },
    /// The port has no liveness any more.
    Remove { port: PortId },
    /// End.
    Stop,
}

/// A liveness packet out of a tunnel.
pub(crate) struct Heard {
    port: PortId,
    remote: IpAddr,
    ttl: u8,
    len: u8,
    bytes: [u8; KEEP],
}

impl Heard {
    /// From the port's remote, with the inner TTL.
    pub(crate) fn new(port: PortId, remote: IpAddr, ttl: u8, control: &[u8]) -> Message {
        let mut bytes = [0; KEEP];
        let len = control.len().min(KEEP);
        bytes[..len].copy_from_slice(&control[..len]);
        Message::Heard(Heard { port, remote, ttl, len: len as u8, bytes })
    }
}

/// The engine's side of the thread, which starts with the first session.
pub(crate) struct Liveness {
    inbox: (HeardSender, Receiver<Message>),
    events: Sender<EngineEvent>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    opener: Arc<dyn OpenSockets>,
    clock: Instant,
    thread: Option<JoinHandle<()>>,
}

impl Liveness {
    pub(crate) fn new(
        events: Sender<EngineEvent>,
        snapshot: Arc<ArcSwap<Snapshot>>,
        opener: Arc<dyn OpenSockets>,
        clock: Instant,
    ) -> Liveness {
        Liveness { inbox: crossbeam::channel::bounded(INBOX), events, snapshot, opener, clock, thread: None }
    }

    /// For workers.
    pub(crate) fn sender(&self) -> HeardSender {
        self.inbox.0.clone()
    }

    /// Has the thread keep the sessions of a port, or none.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn set(
        &mut self,
        port: PortId,
        options: Option<BfdOptions>,
        peers: &[Arc<Peer>],
    ) -> std::io::Result<()> {
        let message = match options {
            Some(options) => {
                let peers = peers.iter().filter(|peer| !peer.remote.is_multicast()).cloned().collect();
                Message::Set { port, options, peers }
            }
            None if self.thread.is_none() => return Ok(()),
            None => Message::Remove { port },
        };
        if self.thread.is_none() {
            let mut keeper = Keeper::new(self);
            let run = move || keeper.run();
            self.thread = Some(std::thread::Builder::new().name("tunnel-bfd".into()).spawn(run)?);
        }
        // Fails only when the thread has ended.
        let _ = self.inbox.0.send(message);
        Ok(())
    }

    /// Ends the thread.
    pub(crate) fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = self.inbox.0.send(Message::Stop);
            if thread.join().is_err() {
                tracing::error!("the liveness thread had panicked");
            }
        }
    }
}

/// One session.
struct Entry {
    peer: Arc<Peer>,
    session: Session,
    /// Looks for the path's MTU; made when the session first comes up.
    prober: Option<Prober>,
    discriminator: u32,
    /// Counts as dead if it is not up by then; `None` once that was looked at.
    grace: Option<Instant>,
    measure: Instant,
}

/// Everything the thread owns.
struct Keeper {
    inbox: Receiver<Message>,
    events: Sender<EngineEvent>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    opener: Arc<dyn OpenSockets>,
    clock: Instant,
    sessions: HashMap<(PortId, IpAddr), Entry>,
    /// Makes discriminators and addresses that others cannot guess.
    random: RandomState,
    made: u64,
    pool: Pool,
    batch: Batch,
}

impl Keeper {
    fn new(of: &Liveness) -> Keeper {
        Keeper {
            inbox: of.inbox.1.clone(),
            events: of.events.clone(),
            snapshot: Arc::clone(&of.snapshot),
            opener: Arc::clone(&of.opener),
            clock: of.clock,
            sessions: HashMap::new(),
            random: RandomState::new(),
            made: 0,
            pool: Pool::new(16, 1),
            batch: Batch::new(),
        }
    }

    fn run(&mut self) {
        // A packet that meets a bug must not end the liveness of all tunnels.
        while catch_unwind(AssertUnwindSafe(|| self.work())).is_err() {
            tracing::error!("a bug in the liveness of tunnels");
            self.batch.clear();
        }
    }

    fn work(&mut self) {
        let mut next = Instant::now();
        loop {
            let message = match self.inbox.recv_deadline(next) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let now = Instant::now();
            match message {
                Some(Message::Stop) => return,
                Some(Message::Heard(heard)) => {
                    let key = (heard.port, heard.remote);
                    if let Some(mut entry) = self.sessions.remove(&key) {
                        let bytes = &heard.bytes[..usize::from(heard.len)];
                        // What is discarded is of no session, or of an earlier one.
                        if let Ok(Some(event)) = entry.session.on_packet(now, heard.ttl, bytes) {
                            self.changed(&entry, event);
                        }
                        next = next.min(self.serve(&mut entry, now));
                        self.sessions.insert(key, entry);
                    }
                }
                Some(Message::Set { port, options, peers }) => {
                    self.set(port, options, peers, now);
                    next = now;
                }
                Some(Message::Remove { port }) => self.remove(port, now),
                None => {}
            }
            if now >= next {
                let mut all = std::mem::take(&mut self.sessions);
                let due = all.values_mut().map(|entry| self.serve(entry, now)).min();
                self.sessions = all;
                next = due.unwrap_or(now + MEASURE);
            }
        }
    }

    fn set(&mut self, port: PortId, options: BfdOptions, peers: Vec<Arc<Peer>>, now: Instant) {
        self.sessions.retain(|&(p, remote), _| p != port || peers.iter().any(|peer| peer.remote == remote));
        let (min_tx, min_rx) = (options.min_tx_ms.max(1) * 1000, options.min_rx_ms.max(1) * 1000);
        for peer in peers {
            if let Some(entry) = self.sessions.get_mut(&(port, peer.remote)) {
                entry.session.set_intervals(min_tx, min_rx);
                continue;
            }
            self.made += 1;
            let seed = self.random.hash_one(self.made);
            // Not 0, and no other session's.
            let taken = |d: &u32| *d == 0 || self.sessions.values().any(|entry| entry.discriminator == *d);
            let discriminator = (seed as u32..).find(|d| !taken(d)).unwrap_or(1);
            let detect_mult = options.multiplier.max(1);
            let config = Config { min_tx, min_rx, detect_mult, ..Config::new(discriminator) };
            let session = Session::new(config, now, seed);
            peer.status.lock().state = Some(session.state());
            let (grace, key) = (Some(now + GRACE), (port, peer.remote));
            self.sessions
                .insert(key, Entry { peer, session, prober: None, discriminator, grace, measure: now });
        }
    }

    /// Ends the sessions of a port. The far ends are told that it is meant so, should the tunnel go on.
    fn remove(&mut self, port: PortId, now: Instant) {
        let keys: Vec<_> = self.sessions.keys().copied().filter(|key| key.0 == port).collect();
        for mut entry in keys.iter().filter_map(|key| self.sessions.remove(key)).collect::<Vec<_>>() {
            entry.session.set_admin_down(now, true);
            self.transmit(&mut entry, now);
            entry.peer.set_alive(true);
            let mut status = entry.peer.status.lock();
            *status = super::PeerStatus::new(entry.peer.remote);
        }
    }

    /// Does what is due, and says when something will be next.
    fn serve(&mut self, entry: &mut Entry, now: Instant) -> Instant {
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

    fn transmit(&mut self, entry: &mut Entry, now: Instant) {
        while let Some(control) = entry.session.poll(now) {
            self.send(entry, &control, None);
        }
    }

    /// Tells the prober what the kernel takes the path for.
    fn ask_kernel(&self, entry: &mut Entry, now: Instant) {
        let snapshot = self.snapshot.load();
        let Some(tunnel) = snapshot.port(entry.peer.port).and_then(|view| view.tunnel()) else { return };
        let Some(encap) = encap_to(tunnel, entry.peer.remote) else { return };
        let Ok(mtu) = self.opener.path_mtu(encap.remote, encap.local) else { return };
        let link = u16::try_from(mtu).unwrap_or(u16::MAX);
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
                    interface: 0,
                    tos: info.tos,
                    ttl: info.ttl,
                    df: info.df,
                    socket: info.hash as usize,
                    first: 0,
                    count: 1,
                    size: 0,
                };
                let mut stats = SendStats::default();
                tunnel.tx.send(&mut self.pool, &mut self.batch, &[what], &mut stats);
                shard.count_sent(1, &stats);
                DropReason::ALL.iter().copied().find(|reason| stats.drops[reason.index()] > 0)
            }
        }
    }

    /// A session changed its state.
    fn changed(&self, entry: &Entry, event: Event) {
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
        peer.status.lock().alive = alive;
        if !alive {
            self.forget(peer);
        }
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

/// How liveness packets to a remote are made: in the network of untagged frames, or the first one.
fn encap_to(tunnel: &TunnelView, remote: IpAddr) -> Option<Encap> {
    let vlan = match &tunnel.endpoint().nets {
        Nets::One(_) => VlanId::NONE,
        Nets::Map(map) => map.first()?.0,
    };
    tunnel.tunnel().encap_to(vlan, remote).ok()
}
