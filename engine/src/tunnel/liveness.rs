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
use std::time::Instant;

use arc_swap::ArcSwap;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use trunkline_packet::PortId;
use trunkline_tunnel::bfd::Config;
use trunkline_tunnel::mtu::report::Report;

use super::BfdOptions;
use super::session::{Entry, MEASURE, Wire};
use super::sockets::OpenSockets;
use super::view::Peer;
use crate::EngineEvent;
use crate::snapshot::Snapshot;
use crate::worker::Courier;

/// Packets that wait for the thread at most.
const INBOX: usize = 1024;

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
    /// The port has no liveness any more; the tunnel stays, or it goes too.
    Remove { port: PortId, stays: bool },
    /// A router says that it takes no packets of this size from an uplink to a remote.
    TooBig { uplink: PortId, report: Report },
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
    pub(crate) fn message(port: PortId, remote: IpAddr, ttl: u8, control: &[u8]) -> Message {
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
    /// What sends by uplinks; there once workers are.
    pub(crate) courier: Option<Courier>,
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
        Liveness {
            inbox: crossbeam::channel::bounded(INBOX),
            events,
            snapshot,
            opener,
            courier: None,
            clock,
            thread: None,
        }
    }

    /// For workers.
    pub(crate) fn sender(&self) -> HeardSender {
        self.inbox.0.clone()
    }

    /// Has the thread keep the sessions of a tunnel, or none.
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
            None => Message::Remove { port, stays: true },
        };
        self.start()?;
        // Fails only when the thread has ended.
        let _ = self.inbox.0.send(message);
        Ok(())
    }

    /// Starts the thread, if it does not run. Without sessions it hears what routers say of paths.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn start(&mut self) -> std::io::Result<()> {
        if self.thread.is_none()
            && let Some(courier) = self.courier.clone()
        {
            let mut keeper = Keeper::new(self, courier);
            let run = move || keeper.run();
            self.thread = Some(std::thread::Builder::new().name("tunnel-bfd".into()).spawn(run)?);
        }
        Ok(())
    }

    /// The tunnel is gone.
    pub(super) fn forget(&self, port: PortId) {
        if self.thread.is_some() {
            let _ = self.inbox.0.send(Message::Remove { port, stays: false });
        }
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

/// Everything the thread owns.
struct Keeper {
    inbox: Receiver<Message>,
    sessions: HashMap<(PortId, IpAddr), Entry>,
    /// The session that is being looked at.
    serving: Option<(PortId, IpAddr)>,
    /// Makes discriminators that others cannot guess.
    random: RandomState,
    made: u64,
    wire: Wire,
}

impl Keeper {
    fn new(of: &Liveness, courier: Courier) -> Keeper {
        let (events, snapshot, opener) =
            (of.events.clone(), Arc::clone(&of.snapshot), Arc::clone(&of.opener));
        Keeper {
            inbox: of.inbox.1.clone(),
            sessions: HashMap::new(),
            serving: None,
            random: RandomState::new(),
            made: 0,
            wire: Wire::new(events, snapshot, opener, courier, of.clock),
        }
    }

    fn run(&mut self) {
        // A packet that meets a bug must not end the liveness of all tunnels, but only its own session's.
        while let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.work())) {
            let text = panic.downcast_ref::<String>().map_or("no message", String::as_str);
            tracing::error!("a bug in the liveness of tunnels: {text}");
            self.wire.clear();
            if let Some(entry) = self.serving.take().and_then(|key| self.sessions.remove(&key)) {
                entry.peer.reset();
            }
        }
    }

    fn work(&mut self) {
        let mut next = Instant::now();
        let mut age = next;
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
                    if let Some(entry) = self.sessions.get_mut(&key) {
                        self.serving = Some(key);
                        let bytes = &heard.bytes[..usize::from(heard.len)];
                        // What is discarded is of no session, or of an earlier one.
                        if let Ok(Some(event)) = entry.session.on_packet(now, heard.ttl, bytes) {
                            self.wire.changed(entry, event);
                        }
                        next = next.min(self.wire.serve(entry, now));
                    }
                }
                Some(Message::Set { port, options, peers }) => {
                    self.set(port, options, peers, now);
                    next = now;
                }
                Some(Message::Remove { port, stays }) => self.remove(port, stays, now),
                Some(Message::TooBig { uplink, report }) => self.wire.too_big(uplink, &report, now),
                None => {}
            }
            if now >= age {
                age = now + MEASURE;
                self.wire.age(now);
            }
            if now >= next {
                next = now + MEASURE;
                for (key, entry) in &mut self.sessions {
                    self.serving = Some(*key);
                    next = next.min(self.wire.serve(entry, now));
                }
            }
            self.serving = None;
        }
    }

    fn set(&mut self, port: PortId, options: BfdOptions, peers: Vec<Arc<Peer>>, now: Instant) {
        self.sessions.retain(|&(p, remote), _| p != port || peers.iter().any(|peer| peer.remote == remote));
        let micros = |ms: u32| ms.max(1).saturating_mul(1000);
        let (min_tx, min_rx) = (micros(options.min_tx_ms), micros(options.min_rx_ms));
        for peer in peers {
            let key = (port, peer.remote);
            if let Some(entry) = self.sessions.get_mut(&key) {
                entry.session.set_intervals(min_tx, min_rx);
                entry.session.set_multiplier(options.multiplier);
                continue;
            }
            self.made += 1;
            let seed = self.random.hash_one(self.made);
            // Not 0, and no other session's.
            let taken = |d: &u32| *d == 0 || self.sessions.values().any(|entry| entry.discriminator == *d);
            let discriminator = (seed as u32..).find(|d| !taken(d)).unwrap_or(1);
            let detect_mult = options.multiplier.max(1);
            let config = Config { min_tx, min_rx, detect_mult, ..Config::new(discriminator) };
            self.sessions.insert(key, Entry::new(peer, config, now, seed));
        }
    }

    /// Ends the sessions of a port. Where the tunnel stays, the far ends are told that it is meant so.
    fn remove(&mut self, port: PortId, stays: bool, now: Instant) {
        for (_, mut entry) in self.sessions.extract_if(|key, _| key.0 == port) {
            if stays {
                entry.session.set_admin_down(now, true);
                self.wire.transmit(&mut entry, now);
            }
            entry.peer.reset();
        }
    }
}
