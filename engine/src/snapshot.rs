//! What workers run on: an immutable picture of all ports and bridges, replaced as a whole.

use std::sync::Arc;

use trunkline_packet::PortId;
use trunkline_ports::{TxCaps, TxQueue};
use trunkline_switch::Bridge;

use crate::counters::Shards;

/// One version of the configuration, numbered.
#[derive(Default)]
pub(crate) struct Snapshot {
    /// Grows by one with each version; workers report which one they run on.
    pub(crate) epoch: u64,
    /// By [`PortId::index`].
    pub(crate) ports: Vec<Option<PortView>>,
    /// By slot, as [`PortView::bridge`] refers to them.
    pub(crate) bridges: Vec<Option<Arc<Bridge>>>,
}

impl Snapshot {
    #[inline]
    pub(crate) fn port(&self, id: PortId) -> Option<&PortView> {
        self.ports.get(id.index())?.as_ref()
    }

    /// How many copies of one frame from this port a flood can make, at most.
    #[inline]
    pub(crate) fn fanout(&self, id: PortId) -> usize {
        let bridge = self.port(id).and_then(|p| self.bridges.get(p.bridge)?.as_ref());
        bridge.map_or(0, |b| b.ports().len())
    }
}

/// A port as workers see it.
#[derive(Clone)]
pub(crate) struct PortView {
    /// Slot in [`Snapshot::bridges`].
    pub(crate) bridge: usize,
    /// The queue each worker sends on; empty while the port is down.
    pub(crate) tx: Vec<Arc<dyn TxQueue>>,
    /// What the egress takes without help.
    pub(crate) caps: TxCaps,
    /// Largest L2 payload sent here, bytes.
    pub(crate) mtu: u32,
    /// Its counters.
    pub(crate) shards: Shards,
}
