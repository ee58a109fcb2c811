//! The engine's handle for the control plane.

use std::io;
use std::sync::Arc;

use crossbeam::channel::Receiver;
use trunkline_packet::PortId;
use trunkline_ports::{RxQueue, TxQueue};
use trunkline_switch::{BridgeConfig, Fdb, PortConfig};

use crate::PortCounters;

/// How workers run.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Worker threads; 0: chosen from the number of CPUs.
    pub workers: u16,
    /// Pin worker `n` to a CPU.
    pub pin: bool,
    /// Microseconds to poll before sleeping; 0: sleep at once.
    pub spin_us: u32,
}

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig { workers: 0, pin: true, spin_us: 0 }
    }
}

/// Names a bridge in the engine; never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BridgeId(pub u32);

/// What the data path tells the control plane.
#[derive(Debug)]
pub enum EngineEvent {
    /// A port's queue failed. When `fatal`, its workers have stopped reading it: remove the port or give it
    /// new descriptors.
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
}

/// The descriptors of a port.
pub struct PortIo {
    /// One per queue; spread over the workers.
    pub rx: Vec<Box<dyn RxQueue>>,
    /// One per queue; worker `n` uses `n % len`.
    pub tx: Vec<Arc<dyn TxQueue>>,
}

/// The running data path. All methods may be called from any thread; they block for a few milliseconds at
/// most, until every worker has taken up the change.
pub struct Engine {}

impl Engine {
    /// Starts the workers.
    ///
    /// # Errors
    /// When a thread or an event queue cannot be made.
    pub fn start(config: EngineConfig) -> io::Result<Engine> {
        let _ = config;
        Ok(Engine {})
    }

    /// How many workers run.
    pub fn workers(&self) -> u16 {
        1
    }

    /// Failures and recoveries of ports, in order.
    pub fn events(&self) -> &Receiver<EngineEvent> {
        unreachable!()
    }

    /// Seconds on the engine's clock, for [`Fdb::entries`].
    pub fn now(&self) -> u32 {
        0
    }

    /// Adds an empty bridge.
    pub fn add_bridge(&self, config: BridgeConfig) -> BridgeId {
        let _ = config;
        BridgeId(0)
    }

    /// Changes a bridge's settings. A changed `max_macs` moves the entries to a new table.
    pub fn update_bridge(&self, bridge: BridgeId, config: BridgeConfig) {
        let _ = (bridge, config);
    }

    /// Removes a bridge and detaches its ports, which must have been removed before.
    pub fn remove_bridge(&self, bridge: BridgeId) {
        let _ = bridge;
    }

    /// A bridge's table.
    pub fn fdb(&self, bridge: BridgeId) -> Option<Arc<Fdb>> {
        let _ = bridge;
        None
    }

    /// Reserves a slot for a port of this bridge, without descriptors: counted, in the VLAN tables, but
    /// down. `config.id` is ignored and set to the slot. `mtu`: largest L2 payload sent there.
    /// `None` when all 65,535 slots are taken or the bridge is unknown.
    pub fn add_port(&self, bridge: BridgeId, config: PortConfig, mtu: u32) -> Option<PortId> {
        let _ = (bridge, config, mtu);
        None
    }

    /// Changes a port's role or MTU while it runs.
    pub fn update_port(&self, port: PortId, config: PortConfig, mtu: u32) {
        let _ = (port, config, mtu);
    }

    /// Gives a port its descriptors, in place of the old ones if it had any. `software_offload`: segment and
    /// complete checksums here whatever the port can take.
    ///
    /// # Errors
    /// When a descriptor cannot be polled.
    pub fn attach_port(&self, port: PortId, io: PortIo, software_offload: bool) -> io::Result<()> {
        let _ = (port, io, software_offload);
        Ok(())
    }

    /// Takes a port's descriptors away and drops them; it stays configured, down. Its learned addresses are
    /// flushed.
    pub fn detach_port(&self, port: PortId) {
        let _ = port;
    }

    /// Removes a port, its table entries and counters. When this returns no worker uses it any more.
    pub fn remove_port(&self, port: PortId) {
        let _ = port;
    }

    /// A port's counters; zeros for an unknown one.
    pub fn counters(&self, port: PortId) -> PortCounters {
        let _ = port;
        PortCounters::default()
    }

    /// Stops the workers and drops every descriptor. Also done when the engine is dropped.
    pub fn stop(&self) {}
}
