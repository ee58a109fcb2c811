//! The engine's handle for the control plane: edits the configuration, publishes it as a snapshot, and
//! waits until every worker runs on it.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam::channel::{Receiver, Sender};
use parking_lot::Mutex;
use trunkline_packet::PortId;
use trunkline_ports::{RxQueue, TxCaps, TxQueue};
use trunkline_switch::{Bridge, BridgeConfig, Fdb, PortConfig};

use crate::counters::Shards;
use crate::l3::L3State;
use crate::snapshot::{Backend, PortView, Queues, Snapshot};
use crate::spin::Spin;
use crate::stages::Stages;
use crate::tunnel::liveness::Liveness;
use crate::tunnel::setup::{TunnelState, TunnelTables};
use crate::tunnel::sockets::Sockets;
use crate::worker::{self, Command, Handle, Setup, Source};
use crate::{KernelSockets, OpenSockets, PortCounters};

/// How workers run.
#[derive(Clone, Debug, Default)]
pub struct EngineConfig {
    /// Worker threads; 0: one for every two CPUs this process may use, at most 4.
    pub workers: u16,
    /// Pin worker `n` to one of those CPUs, from the last one downwards.
    pub pin: bool,
    /// Whether they wait awake for more work.
    pub spin: Spin,
}

/// Names a bridge in the engine; never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BridgeId(pub u32);

/// What the data path tells the control plane.
#[derive(Debug)]
pub enum EngineEvent {
    /// A port's queue failed. When `fatal`, its worker has let go of it: remove the port or give it new
    /// descriptors.
    PortFailed {
        /// Which.
        port: PortId,
        /// What the kernel said.
        error: io::Error,
        /// The descriptor is of no more use.
        fatal: bool,
    },
    /// A queue that had failed without being fatal (interface down) brought frames again.
    PortRecovered {
        /// Which.
        port: PortId,
    },
    /// The far end of a tunnel is heard, or counts as dead.
    PeerChanged {
        /// The tunnel's port.
        port: PortId,
        /// The far end.
        remote: IpAddr,
        /// Frames are sent there.
        up: bool,
    },
    /// What the path to a tunnel's far end takes was found by trying.
    PathMtu {
        /// The tunnel's port.
        port: PortId,
        /// The far end.
        remote: IpAddr,
        /// The longest outer IP packet that arrives, bytes.
        mtu: u16,
    },
}

/// The descriptors of a port.
pub struct PortIo {
    /// One per queue; spread over the workers.
    pub rx: Vec<Box<dyn RxQueue>>,
    /// One per queue, in the same order.
    pub tx: Vec<Arc<dyn TxQueue>>,
}

/// The running data path. All methods may be called from any thread. What is added is in force from each
/// worker's next batch on; those that change or take away something return when every worker has taken it up,
/// after a batch at most.
pub struct Engine {
    pub(crate) state: Mutex<State>,
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(crate) workers: Vec<Mutex<Handle>>,
    events: Receiver<EngineEvent>,
    /// Queues that workers have let go of.
    graveyard: Receiver<Source>,
    pub(crate) clock: Instant,
    /// What came in by sockets under tunnels and belongs to none.
    underlay: Shards,
    pub(crate) liveness: Mutex<Liveness>,
}

pub(crate) struct State {
    epoch: u64,
    next_bridge: u32,
    bridges: Vec<Option<BridgeState>>,
    pub(crate) ports: Vec<Option<PortState>>,
    /// Earlier snapshots that a worker may still refer to.
    retired: Vec<Arc<Snapshot>>,
    /// Receive queues and sockets owned by each worker.
    pub(crate) load: Vec<usize>,
    pub(crate) sockets: Sockets,
    pub(crate) tunnels: TunnelTables,
    pub(crate) l3: L3State,
}

struct BridgeState {
    id: BridgeId,
    config: BridgeConfig,
    fdb: Arc<Fdb>,
}

pub(crate) struct PortState {
    /// `None`: an uplink's.
    pub(crate) bridge: Option<BridgeId>,
    pub(crate) config: PortConfig,
    pub(crate) view: PortView,
    /// Workers that own its receive queues, one entry per queue.
    owners: Vec<usize>,
    pub(crate) tunnel: Option<TunnelState>,
}

impl PortState {
    /// Whether nothing is behind it.
    pub(crate) fn may_be_gateway(&self) -> bool {
        self.bridge.is_some() && matches!(self.view.backend, Backend::Down)
    }
}

impl Engine {
    /// Starts the workers.
    ///
    /// # Errors
    /// When a thread or an event queue cannot be made.
    pub fn start(config: EngineConfig) -> io::Result<Engine> {
        Engine::start_with(config, Arc::new(KernelSockets::default()))
    }

    /// The same, with other sockets under tunnels than the kernel's.
    ///
    /// # Errors
    /// When a thread or an event queue cannot be made.
    pub fn start_with(config: EngineConfig, opener: Arc<dyn OpenSockets>) -> io::Result<Engine> {
        let cpus = allowed_cpus();
        let count = match config.workers {
            0 => (cpus.len() / 2).clamp(1, 4),
            n => usize::from(n),
        };
        let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
        let clock = Instant::now();
        let (sender, events): (Sender<EngineEvent>, _) = crossbeam::channel::unbounded();
        let (gravedigger, graveyard) = crossbeam::channel::unbounded();
        let underlay = Shards::new(count);
        let mut liveness = Liveness::new(sender.clone(), Arc::clone(&snapshot), Arc::clone(&opener), clock);
        let mut workers = Vec::with_capacity(count);
        for index in 0..count {
            let cpu = cpus.iter().rev().cycle().nth(index).filter(|_| config.pin);
            workers.push(Mutex::new(worker::start(Setup {
                index,
                events: sender.clone(),
                graveyard: gravedigger.clone(),
                stages: Stages::new(index, clock, underlay.clone(), liveness.sender(), cpus.len()),
                snapshot: Arc::clone(&snapshot),
                clock,
                spin: config.spin,
                cpu: cpu.copied(),
            })?));
        }
        let state = Mutex::new(State {
            epoch: 0,
            next_bridge: 0,
            bridges: Vec::new(),
            ports: Vec::new(),
            retired: Vec::new(),
            load: vec![0; count],
            sockets: Sockets::new(opener),
            tunnels: TunnelTables::default(),
            l3: L3State::default(),
        });
        liveness.courier = workers.first().map(|worker| worker.lock().courier());
        let liveness = Mutex::new(liveness);
        Ok(Engine { state, snapshot, workers, events, graveyard, clock, underlay, liveness })
    }

    /// How many workers run.
    pub fn workers(&self) -> u16 {
        self.workers.len() as u16
    }

    /// Failures and recoveries of ports and peers, in order.
    pub fn events(&self) -> &Receiver<EngineEvent> {
        &self.events
    }

    /// Seconds on the engine's clock, for [`Fdb::entries`].
    pub fn now(&self) -> u32 {
        self.clock.elapsed().as_secs() as u32
    }

    /// Milliseconds on the engine's clock.
    pub(crate) fn millis(&self) -> u64 {
        self.clock.elapsed().as_millis() as u64
    }

    /// Adds an empty bridge.
    pub fn add_bridge(&self, config: BridgeConfig) -> BridgeId {
        let state = &mut *self.state.lock();
        let id = BridgeId(state.next_bridge);
        state.next_bridge += 1;
        let fdb = Arc::new(Fdb::new(config.max_macs));
        let slot = free_slot(&mut state.bridges);
        state.bridges[slot] = Some(BridgeState { id, config, fdb });
        self.publish(state);
        id
    }

    /// Changes a bridge's settings. A changed `max_macs` moves the entries to a new table.
    pub fn update_bridge(&self, bridge: BridgeId, config: BridgeConfig) {
        let state = &mut *self.state.lock();
        let Some(b) = state.bridges.iter_mut().flatten().find(|b| b.id == bridge) else { return };
        if b.config.max_macs != config.max_macs {
            b.fdb = Arc::new(b.fdb.resized(config.max_macs));
        }
        b.config = config;
        self.publish_and_wait(state);
    }

    /// Removes a bridge and detaches its ports, which must have been removed before.
    pub fn remove_bridge(&self, bridge: BridgeId) {
        let state = &mut *self.state.lock();
        if let Some(slot) = state.bridge_slot(bridge) {
            state.bridges[slot] = None;
            self.publish_and_wait(state);
        }
    }

    /// A bridge's table.
    pub fn fdb(&self, bridge: BridgeId) -> Option<Arc<Fdb>> {
        let state = self.state.lock();
        state.bridges.iter().flatten().find(|b| b.id == bridge).map(|b| Arc::clone(&b.fdb))
    }

    /// Reserves a slot for a port of this bridge, without descriptors: counted, in the VLAN tables, but
    /// down. `config.id` is ignored and set to the slot. `mtu`: largest L2 payload sent there, bytes.
    /// `None` when all 65,535 slots are taken or the bridge is unknown.
    pub fn add_port(&self, bridge: BridgeId, config: PortConfig, mtu: u32) -> Option<PortId> {
        let state = &mut *self.state.lock();
        let id = self.new_port(state, Some(bridge), config, mtu)?;
        self.publish(state);
        Some(id)
    }

    /// A port of a bridge, or of none.
    pub(crate) fn new_port(
        &self,
        state: &mut State,
        bridge: Option<BridgeId>,
        mut config: PortConfig,
        mtu: u32,
    ) -> Option<PortId> {
        let bridge_slot = match bridge {
            Some(bridge) => state.bridge_slot(bridge)?,
            None => usize::MAX,
        };
        let slot = free_slot(&mut state.ports);
        let id = u16::try_from(slot).ok().map(PortId).filter(|&id| id != PortId::NONE)?;
        config.id = id;
        let view = PortView {
            bridge: bridge_slot,
            backend: Backend::Down,
            mtu,
            shards: Shards::new(self.workers.len()),
        };
        state.ports[slot] = Some(PortState { bridge, config, view, owners: Vec::new(), tunnel: None });
        Some(id)
    }

    /// Changes a port's role or MTU while it runs.
    pub fn update_port(&self, port: PortId, mut config: PortConfig, mtu: u32) {
        let state = &mut *self.state.lock();
        let Some(p) = state.port(port) else { return };
        config.id = port;
        if let (Some(guard), Some(before)) = (&mut config.guard, &p.config.guard)
            && let Some(guard) = Arc::get_mut(guard)
        {
            guard.inherit(before);
        }
        p.config = config;
        p.view.mtu = mtu;
        // It says which VLAN untagged frames are in.
        state.refresh(port);
        self.publish_and_wait(state);
    }

    /// Gives a port its descriptors, in place of the old ones or of its tunnel. `software_offload`: segment and
    /// complete checksums here whatever the port can take.
    ///
    /// # Errors
    /// When the port is unknown or has no queue.
    pub fn attach_port(&self, port: PortId, io: PortIo, software_offload: bool) -> io::Result<()> {
        let state = &mut *self.state.lock();
        self.release_queues(state, port);
        let Some(p) = state.ports.get_mut(port.index()).and_then(Option::as_mut) else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no such port in the engine"));
        };
        let Some(first) = io.tx.first() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a port needs a queue to send on"));
        };
        let caps = if software_offload { TxCaps::NONE } else { first.caps() };
        for _ in &io.rx {
            let worker = least_loaded(&state.load);
            state.load[worker] += 1;
            p.owners.push(worker);
        }
        p.owners.sort_unstable();
        let tx = (0..self.workers.len())
            .map(|w| Arc::clone(&io.tx[send_queue(&p.owners, w, io.tx.len())]))
            .collect();
        p.view.backend = Backend::Queues(Queues { tx, caps });
        for (rx, &worker) in io.rx.into_iter().zip(&p.owners) {
            self.command(worker, Command::Add { source: Source::Port { port, rx } });
        }
        self.publish(state);
        Ok(())
    }

    /// Takes a port's descriptors or its tunnel away and drops them; it stays configured, down. Its learned addresses are
    /// flushed.
    pub fn detach_port(&self, port: PortId) {
        let state = &mut *self.state.lock();
        self.release_queues(state, port);
        if let Some(fdb) = state.fdb_of(port) {
            fdb.flush(None, Some(port));
        }
    }

    /// Removes a port, its table entries and counters. When this returns no worker uses it any more.
    pub fn remove_port(&self, port: PortId) {
        let state = &mut *self.state.lock();
        self.release_queues(state, port);
        self.forget_l3_port(state, port);
        let fdb = state.fdb_of(port);
        if let Some(slot) = state.ports.get_mut(port.index()) {
            *slot = None;
        }
        self.publish_and_wait(state);
        // Only now can no worker learn an address there again.
        if let Some(fdb) = fdb {
            fdb.forget_port(port);
        }
    }

    /// A port's counters; zeros for an unknown one.
    pub fn counters(&self, port: PortId) -> PortCounters {
        match self.snapshot.load().port(port) {
            Some(view) => view.shards.sum(),
            None => PortCounters::default(),
        }
    }

    /// What came in by the sockets under tunnels and belongs to none: received, and dropped for a reason.
    pub fn underlay_counters(&self) -> PortCounters {
        self.underlay.sum()
    }

    /// Stops the workers and drops every descriptor. Also done when the engine is dropped.
    pub fn stop(&self) {
        self.liveness.lock().stop();
        for worker in &self.workers {
            let mut handle = worker.lock();
            if let Some(thread) = handle.thread.take() {
                let _ = handle.commands.send(Command::Stop);
                let _ = handle.waker.wake();
                if thread.join().is_err() {
                    tracing::error!("a worker had panicked");
                }
            }
        }
        self.snapshot.store(Arc::new(Snapshot::default()));
    }

    /// Takes the queues of a port away from their workers, or its tunnel. When it returns, nobody refers to them.
    fn release_queues(&self, state: &mut State, port: PortId) {
        let Some(p) = state.port(port) else { return };
        if p.tunnel.is_some() {
            return self.release_tunnel(state, port);
        }
        if matches!(p.view.backend, Backend::Down) {
            return;
        }
        p.view.backend = Backend::Down;
        for worker in std::mem::take(&mut p.owners) {
            state.load[worker] -= 1;
            self.command(worker, Command::Remove { port });
        }
        self.publish_and_wait(state);
    }

    pub(crate) fn command(&self, worker: usize, command: Command) {
        // Fails only for a worker that has ended, which owns nothing.
        let _ = self.workers[worker].lock().commands.send(command);
    }

    /// Makes the state the one workers run on from their next batch on. Enough for what is only added.
    pub(crate) fn publish(&self, state: &mut State) {
        state.epoch += 1;
        state.retired.push(self.snapshot.swap(Arc::new(state.snapshot())));
        for worker in &self.workers {
            let _ = worker.lock().waker.wake();
        }
        // What no worker refers to is freed here, so that no worker pays for it.
        state.retired.retain(|old| Arc::strong_count(old) > 1);
    }

    /// The same, and waits until nobody refers to anything older: for what is changed or taken away.
    pub(crate) fn publish_and_wait(&self, state: &mut State) {
        self.publish(state);
        self.wait(state.epoch);
        // This may close descriptors.
        state.retired.clear();
        self.graveyard.try_iter().for_each(drop);
    }

    fn wait(&self, epoch: u64) {
        for worker in &self.workers {
            let handle = worker.lock();
            let mut patience = 0;
            let running = || handle.thread.as_ref().is_some_and(|t| !t.is_finished());
            while handle.epoch.load(Ordering::Acquire) < epoch && running() {
                patience += 1;
                match patience {
                    ..50 => std::thread::yield_now(),
                    _ => std::thread::sleep(Duration::from_micros(100)),
                }
            }
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}

impl State {
    fn bridge_slot(&self, id: BridgeId) -> Option<usize> {
        self.bridges.iter().position(|b| b.as_ref().is_some_and(|b| b.id == id))
    }

    pub(crate) fn port(&mut self, id: PortId) -> Option<&mut PortState> {
        self.ports.get_mut(id.index())?.as_mut()
    }

    /// Whether a port is one of the network layer's, in no bridge.
    pub(crate) fn is_l3_port(&self, port: PortId) -> bool {
        self.ports.get(port.index()).and_then(|p| p.as_ref()).is_some_and(|p| p.bridge.is_none())
    }

    /// Seconds that addresses learned on the bridge of a port are good for.
    pub(crate) fn ageing_of(&self, port: PortId) -> u32 {
        let bridge = self.ports.get(port.index()).and_then(|p| p.as_ref()).and_then(|p| p.bridge);
        let bridge = self.bridges.iter().flatten().find(|b| Some(b.id) == bridge);
        bridge.map_or(0, |b| b.config.ageing)
    }

    /// Whether both ports are of one bridge.
    pub(crate) fn same_bridge(&self, a: PortId, b: PortId) -> bool {
        let bridge = |p: PortId| self.ports.get(p.index())?.as_ref()?.bridge;
        bridge(a).is_some() && bridge(a) == bridge(b)
    }

    pub(crate) fn fdb_of(&self, port: PortId) -> Option<Arc<Fdb>> {
        let bridge = self.ports.get(port.index())?.as_ref()?.bridge?;
        let slot = self.bridge_slot(bridge)?;
        self.bridges[slot].as_ref().map(|b| Arc::clone(&b.fdb))
    }

    fn snapshot(&self) -> Snapshot {
        let bridges = self.bridges.iter().map(|bridge| {
            let b = bridge.as_ref()?;
            let ports = self.ports.iter().flatten().filter(|p| p.bridge == Some(b.id));
            let ports = ports.map(|p| p.config.clone()).collect();
            Some(Arc::new(Bridge::new(b.config.clone(), Arc::clone(&b.fdb), ports)))
        });
        let ports = self.ports.iter().map(|p| p.as_ref().map(|p| p.view.clone()));
        let (tunnels, uplinks) = (Arc::clone(&self.tunnels.sockets), self.tunnels.uplinks.clone());
        let l3 = self.l3.view();
        Snapshot {
            epoch: self.epoch,
            ports: ports.collect(),
            bridges: bridges.collect(),
            tunnels,
            uplinks,
            l3,
        }
    }
}

fn free_slot<T>(slots: &mut Vec<Option<T>>) -> usize {
    slots.iter().position(Option::is_none).unwrap_or_else(|| {
        slots.push(None);
        slots.len() - 1
    })
}

pub(crate) fn least_loaded(load: &[usize]) -> usize {
    (0..load.len()).min_by_key(|&w| load[w]).unwrap_or(0)
}

/// On which of a port's queues a worker sends: one it receives from, if there is one.
///
/// A TAP brings a flow by the queue on which its other direction was last written, so the queues and the
/// workers of both directions follow from each other. Both maps, queue to worker (`owners` is in order) and
/// worker to queue, never fall, and the steps of a map that never falls settle: had they a cycle, the flow
/// would change queues, and its order, for ever.
fn send_queue(owners: &[usize], worker: usize, queues: usize) -> usize {
    owners.partition_point(|&owner| owner <= worker).saturating_sub(1).min(queues.saturating_sub(1))
}

/// The CPUs this process may run on; none when the kernel does not tell, as on more CPUs than a set holds.
fn allowed_cpus() -> Vec<usize> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else { return Vec::new() };
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|&c| set.is_set(c)).collect()
}
