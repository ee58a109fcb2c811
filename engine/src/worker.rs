//! A worker: one thread that owns receive queues and carries each batch all the way to its egress.
//!
//! Nothing is handed to another thread: sending on a port is open to every worker (the kernel serialises),
//! so a frame is received, decided on and sent by the one that owns its ingress queue.

use std::any::Any;
use std::io;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Cache};
use crossbeam::channel::{Receiver, Sender};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use trunkline_packet::{Packet, PortId};
use trunkline_ports::underlay::DatagramRx;
use trunkline_ports::{RecvEnd, RecvStats, RxQueue};

use crate::EngineEvent;
use crate::attention::{Attention, Next, Rests, are_small};
use crate::l3::{L3, Question};
use crate::snapshot::Snapshot;
use crate::spin::{Spin, Spinner};
use crate::stages::Stages;
use crate::tunnel::ingress::BUDGET;
use crate::tunnel::sockets::SocketId;
use crate::turns::{Turn, Turns};

/// What the control plane tells a worker.
pub(crate) enum Command {
    /// Own this from now on.
    Add { source: Source },
    /// Let go of every queue of the port.
    Remove { port: PortId },
    /// Let go of every socket of the set.
    RemoveUnderlay { id: SocketId },
    /// Own this network layer from now on, and hand over the one before.
    InstallL3 { l3: Option<Box<L3>>, old: Sender<Option<Box<L3>>> },
    /// Answer a question about the network layer.
    L3(Question),
    /// Send a packet of a tunnel over an uplink.
    SendOwn { port: PortId, remote: IpAddr, packet: Packet, df: bool },
    /// End.
    Stop,
}

/// What the engine keeps of a worker.
pub(crate) struct Handle {
    pub(crate) commands: Sender<Command>,
    pub(crate) waker: Arc<Waker>,
    /// The epoch of the snapshot it runs on; nothing older is referred to, and every command sent before
    /// that snapshot was published has been carried out.
    pub(crate) epoch: Arc<AtomicU64>,
    pub(crate) thread: Option<std::thread::JoinHandle<()>>,
}

impl Handle {
    /// For another thread that has something to be sent.
    pub(crate) fn courier(&self) -> Courier {
        Courier { commands: self.commands.clone(), waker: Arc::clone(&self.waker) }
    }
}

/// Brings a worker commands.
#[derive(Clone)]
pub(crate) struct Courier {
    commands: Sender<Command>,
    waker: Arc<Waker>,
}

impl Courier {
    pub(crate) fn send(&self, command: Command) {
        // Both fail only for a worker that has ended.
        let _ = self.commands.send(command);
        let _ = self.waker.wake();
    }
}

/// How often an otherwise idle worker wakes to age the tables and to look at every queue.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// FDB buckets looked at per housekeeping and bridge.
const SWEEP_BUCKETS: usize = 4096;

const WAKE: Token = Token(usize::MAX);
const TIMER: Token = Token(usize::MAX - 1);

/// What a worker receives from.
pub(crate) enum Source {
    /// A queue of a port.
    Port { port: PortId, rx: Box<dyn RxQueue> },
    /// A socket under tunnels.
    Underlay {
        id: SocketId,
        rx: Box<dyn DatagramRx>,
        /// Set when it is let go of for a failure.
        broken: Arc<AtomicBool>,
    },
}

impl Source {
    fn poll_fd(&self) -> Option<RawFd> {
        match self {
            Source::Port { rx, .. } => rx.poll_fd(),
            Source::Underlay { rx, .. } => Some(rx.poll_fd()),
        }
    }
}

struct Queue {
    source: Source,
    /// What epoll knows it by.
    fd: Option<RawFd>,
    attention: Attention,
    /// Has reported a failure that it may recover from.
    failed: bool,
}

/// Everything a worker thread owns.
pub(crate) struct Worker {
    index: usize,
    poll: Poll,
    commands: Receiver<Command>,
    events_out: Sender<EngineEvent>,
    graveyard: Sender<Source>,
    epoch: Arc<AtomicU64>,
    snapshot: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    clock: Instant,
    spin: Spinner,
    queues: Vec<Option<Queue>>,
    /// Which of them may have frames.
    turns: Turns,
    /// Which of them are left alone for a moment.
    rests: Rests,
    /// The slot being served.
    serving: Option<usize>,
    stages: Stages,
    /// Other workers may have sent more packets than were taken.
    l3_mail: bool,
    next_housekeeping: Instant,
}

/// How a worker is set up.
pub(crate) struct Setup {
    pub(crate) index: usize,
    pub(crate) events: Sender<EngineEvent>,
    /// Takes queues the worker lets go of: closing the last descriptor of a TAP takes the kernel
    /// milliseconds, which the engine's caller may spend but a worker may not.
    pub(crate) graveyard: Sender<Source>,
    pub(crate) stages: Stages,
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(crate) clock: Instant,
    pub(crate) spin: Spin,
    pub(crate) cpu: Option<usize>,
}

/// Starts a worker thread.
pub(crate) fn start(setup: Setup) -> io::Result<Handle> {
    let poll = Poll::new()?;
    let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
    // Who has workers wait awake pays for latency.
    let rests = Rests::new(poll.registry(), TIMER, setup.spin == Spin::default())?;
    let (commands, receiver) = crossbeam::channel::unbounded();
    let epoch = Arc::new(AtomicU64::new(0));
    let mut worker = Worker {
        index: setup.index,
        poll,
        commands: receiver,
        events_out: setup.events,
        graveyard: setup.graveyard,
        epoch: Arc::clone(&epoch),
        snapshot: Cache::new(setup.snapshot),
        clock: setup.clock,
        spin: Spinner::new(setup.spin),
        queues: Vec::new(),
        turns: Turns::default(),
        rests,
        serving: None,
        stages: setup.stages,
        l3_mail: false,
        next_housekeeping: Instant::now() + HOUSEKEEPING,
    };
    let thread = std::thread::Builder::new().name(format!("worker-{}", setup.index)).spawn(move || {
        if let Some(cpu) = setup.cpu {
            pin(cpu);
        }
        // Or the kernel makes 80 µs of a pause of 30.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1000));
        worker.run();
    })?;
    Ok(Handle { commands, waker, epoch, thread: Some(thread) })
}

fn pin(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        tracing::info!(%error, cpu, "worker not pinned");
    }
}

impl Worker {
    /// Works until told to stop, panics notwithstanding: whatever frame meets a bug must not end the
    /// switching of all others.
    fn run(&mut self) {
        // Unwind safe, since `recover` puts everything right that a batch may leave half done.
        while let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.work())) {
            self.recover(&*panic);
        }
    }

    /// Gives up what was in hand, which nothing counts, and the queue it came from, which the control plane
    /// hears of: were it kept, its next frames might do the same again and again.
    #[cold]
    fn recover(&mut self, panic: &(dyn Any + Send)) {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        tracing::error!(worker = self.index, "a bug in the data path: {text}");
        self.stages.clear();
        if let Some(slot) = self.serving.take() {
            self.fail(slot, &io::Error::other(format!("a bug in the data path: {text}")), true);
        }
        // The list may be half edited, and events not looked at are lost.
        self.turns.clear();
        self.rests.clear();
        (0..self.queues.len()).for_each(|slot| self.mark_ready(slot));
    }

    fn work(&mut self) {
        let mut events = Events::with_capacity(256);
        // After a panic, the event that announced commands may be lost.
        if !self.take_commands() {
            return;
        }
        loop {
            let timeout = self.poll_timeout();
            if !timeout.is_zero() {
                self.rests.set_timer();
            }
            match self.poll.poll(&mut events, Some(timeout)) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    // epoll_wait fails only for a broken descriptor; without it nothing can be received.
                    tracing::error!(%error, worker = self.index, "worker stops: epoll failed");
                    return;
                }
            }
            let mut woken = false;
            if !events.is_empty() {
                self.spin.work(Instant::now);
            }
            for event in &events {
                match event.token() {
                    WAKE => woken = true,
                    TIMER => {}
                    Token(slot) => self.mark_ready(slot),
                }
            }
            while let Some(slot) = self.rests.over() {
                self.mark_ready(slot);
            }
            if woken && !self.take_commands() {
                return;
            }
            self.serve_ready();
            self.l3_mail = self.stages.l3_work(self.snapshot.load());
            self.housekeeping();
        }
    }

    /// Zero while there is work, or while it pays to look for more; else until the next housekeeping.
    fn poll_timeout(&mut self) -> Duration {
        if !self.turns.is_empty() || self.l3_mail {
            return Duration::ZERO;
        }
        let now = Instant::now();
        if self.spin.look_again(now) {
            return Duration::ZERO;
        }
        let housekeeping = self.next_housekeeping.saturating_duration_since(now);
        self.stages.l3_due().map_or(housekeeping, |due| due.min(housekeeping))
    }

    fn mark_ready(&mut self, slot: usize) {
        if let Some(Some(_)) = self.queues.get(slot) {
            self.turns.add(slot);
        }
    }

    /// Carries out what the control plane asked for, then takes up its snapshot and says so. False: stop.
    fn take_commands(&mut self) -> bool {
        // The snapshot first: commands sent before it was published are in the channel by then.
        let epoch = self.snapshot.load().epoch;
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Add { source } => self.add_queue(source),
                Command::Remove { port } => {
                    self.remove_queues(|source| matches!(source, Source::Port { port: p, .. } if *p == port));
                }
                Command::RemoveUnderlay { id } => {
                    self.remove_queues(|source| matches!(source, Source::Underlay { id: i, .. } if *i == id));
                }
                Command::SendOwn { port, remote, packet, df } => {
                    self.stages.send_own(self.snapshot.load(), port, remote, packet, df);
                }
                Command::InstallL3 { l3, old } => {
                    // Fails only when nobody waits for it any more.
                    let _ = old.send(std::mem::replace(&mut self.stages.l3, l3));
                }
                Command::L3(question) => question(self.stages.l3.as_deref_mut()),
                Command::Stop => return false,
            }
        }
        self.epoch.store(epoch, Ordering::Release);
        true
    }

    fn add_queue(&mut self, source: Source) {
        let slot = match self.queues.iter().position(Option::is_none) {
            Some(slot) => slot,
            None => {
                self.queues.push(None);
                self.turns.resize(self.queues.len());
                self.rests.reserve(self.queues.len());
                self.queues.len() - 1
            }
        };
        let fd = source.poll_fd();
        self.queues[slot] = Some(Queue { source, fd, attention: Attention::default(), failed: false });
        // Frames may have been waiting before epoll was told.
        self.mark_ready(slot);
        self.watch(slot);
    }

    /// Has epoll watch a queue from now on; it tells at once of frames that wait already.
    fn watch(&mut self, slot: usize) {
        let Some(Queue { fd: Some(fd), .. }) = &self.queues[slot] else { return };
        let watched = self.poll.registry().register(&mut SourceFd(fd), Token(slot), Interest::READABLE);
        if let Err(error) = watched {
            self.fail(slot, &error, true);
        }
    }

    /// A turn has ended: when there will be another.
    #[inline]
    fn turn_over(&mut self, turn: Turn, came: usize, small: bool, end: &RecvEnd) {
        let Some(queue) = &mut self.queues[turn.slot] else { return };
        let copies = self.stages.copies;
        let Some(fd) = queue.fd else {
            return self.turns.done(turn, came, copies, matches!(end, RecvEnd::More));
        };
        let before = queue.attention.is_watched();
        let next = queue.attention.turn(came, small, end);
        let rests = next == Next::Rested && self.rests.add(turn.slot);
        self.turns.done(turn, came, copies, next != Next::Watched && !rests);
        match (before, queue.attention.is_watched()) {
            (true, false) => {
                // Fails only when the kernel has forgotten the descriptor, which the next look will tell.
                let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
            }
            (false, true) => self.watch(turn.slot),
            _ => {}
        }
    }

    fn remove_queues(&mut self, which: impl Fn(&Source) -> bool) {
        for slot in 0..self.queues.len() {
            if self.queues[slot].as_ref().is_some_and(|q| which(&q.source)) {
                self.remove_queue(slot);
            }
        }
    }

    fn remove_queue(&mut self, slot: usize) {
        if let Some(queue) = self.queues[slot].take() {
            if let Some(fd) = queue.fd {
                // A failure means that the kernel has forgotten the descriptor already.
                let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
            }
            self.turns.remove(slot);
            self.rests.remove(slot);
            // Fails only while the engine is being dropped.
            let _ = self.graveyard.send(queue.source);
        }
    }

    /// Tells the control plane that a queue has failed, and lets go of it if that is for good. A socket under
    /// tunnels is a failure of all of them.
    fn fail(&mut self, slot: usize, error: &io::Error, fatal: bool) {
        if let Some(Queue { source: Source::Underlay { broken, .. }, .. }) = &self.queues[slot] {
            broken.fetch_or(fatal, Ordering::Relaxed);
        }
        self.report_all(slot, |port| EngineEvent::PortFailed { port, error: copy(error), fatal });
        if fatal {
            self.remove_queue(slot);
        }
    }

    /// One batch from every queue whose turn it is; from fewer when the control plane has news.
    fn serve_ready(&mut self) {
        self.turns.begin();
        while let Some(turn) = self.turns.next() {
            self.serve(turn);
            if self.snapshot.load().epoch != self.epoch.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    /// Receives one batch and carries it to its end.
    fn serve(&mut self, turn: Turn) {
        let slot = turn.slot;
        let Some(queue) = &mut self.queues[slot] else { return };
        self.serving = Some(slot);
        let snapshot: &Snapshot = self.snapshot.load();
        let stages = &mut self.stages;
        let mut stats = RecvStats::default();
        stages.copies = 0;
        let watchable = queue.fd.is_some();
        let (end, came, small) = match &mut queue.source {
            Source::Port { port, rx } => {
                let budget = Stages::budget(snapshot, *port, turn.short);
                let end = rx.recv(&mut stages.pool, &mut stages.batch, budget, &mut stats);
                let (came, small) = (stages.batch.len(), watchable && are_small(&stages.batch));
                stages.frames(snapshot, *port, &stats);
                (end, came, small)
            }
            Source::Underlay { rx, .. } => {
                let (batch, arrivals) = (&mut stages.decap.datagrams, &mut stages.decap.arrivals);
                let end = rx.recv(&mut stages.pool, batch, arrivals, BUDGET, &mut stats);
                let (came, small) = (batch.len(), watchable && are_small(batch));
                stages.datagrams(snapshot, &stats);
                (end, came, small)
            }
        };
        self.serving = None;
        if queue.failed && came > 0 {
            queue.failed = false;
            self.report_all(slot, |port| EngineEvent::PortRecovered { port });
        }
        self.turn_over(turn, came, small, &end);
        if let RecvEnd::Failed { error, fatal } = end {
            let known = self.queues[slot].as_mut().is_some_and(|q| std::mem::replace(&mut q.failed, true));
            if fatal || !known {
                self.fail(slot, &error, fatal);
            }
        }
    }

    /// Tells the control plane something about each port that depends on a queue.
    fn report_all(&mut self, slot: usize, event: impl Fn(PortId) -> EngineEvent) {
        let (Some(queue), out) = (&self.queues[slot], &self.events_out) else { return };
        // Sending fails only while the engine is being dropped.
        let report = |port| drop(out.send(event(port)));
        match &queue.source {
            Source::Port { port, .. } => report(*port),
            Source::Underlay { id, .. } => self.snapshot.load().tunnels_by(*id).for_each(report),
        }
    }

    fn housekeeping(&mut self) {
        let now = Instant::now();
        if now < self.next_housekeeping {
            return;
        }
        self.next_housekeeping = now + HOUSEKEEPING;
        // Some ends are not signalled: a TAP may wake its reader just before its device goes, a packet socket
        // on an interface that is down hears nothing of its deletion. A read tells.
        for slot in 0..self.queues.len() {
            if self.queues[slot].as_ref().is_some_and(|q| q.fd.is_some()) {
                self.mark_ready(slot);
            }
        }
        self.turns.forgive();
        self.stages.housekeeping(self.snapshot.load());
        // Tables are shared: one worker ages them.
        if self.index == 0 {
            let seconds = self.clock.elapsed().as_secs() as u32;
            let snapshot = self.snapshot.load();
            for bridge in snapshot.bridges.iter().flatten() {
                bridge.fdb().sweep(seconds, bridge.config().ageing, SWEEP_BUCKETS);
            }
            for view in snapshot.ports.iter().flatten() {
                if let (Some(tunnel), Some(bridge)) = (view.tunnel(), snapshot.bridge_of(view))
                    && let Some(remotes) = &tunnel.remotes
                {
                    remotes.sweep(seconds, bridge.config().ageing, SWEEP_BUCKETS);
                }
            }
        }
    }
}

/// An error for each of several who are to hear of it.
fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}
