//! The decision for each packet.

use std::sync::Arc;

use trunkline_packet::{Batch, DropReason, Packet, Pool, PortId};

use crate::{BridgeConfig, Fdb, PortConfig};

/// Where decided packets go. Implemented by the worker, and by tests.
pub trait Sink {
    /// Queue the packet for the port. Its `meta.vlan` is the tag it leaves with.
    fn send(&mut self, port: PortId, packet: Packet);
    /// Count the drop on the ingress port and recycle the packet.
    fn drop(&mut self, packet: Packet, reason: DropReason);
    /// `n` copies more than the one received are about to be sent.
    fn replicated(&mut self, n: u64);
}

/// One bridge's configuration with its table: immutable, replaced as a whole when the configuration
/// changes; the FDB is shared by all versions.
pub struct Bridge {
    config: BridgeConfig,
    fdb: Arc<Fdb>,
    ports: Vec<PortConfig>,
}

impl Bridge {
    /// A bridge with these ports.
    pub fn new(config: BridgeConfig, fdb: Arc<Fdb>, ports: Vec<PortConfig>) -> Bridge {
        Bridge { config, fdb, ports }
    }

    /// The table.
    pub fn fdb(&self) -> &Arc<Fdb> {
        &self.fdb
    }

    /// Its settings.
    pub fn config(&self) -> &BridgeConfig {
        &self.config
    }

    /// Its ports.
    pub fn ports(&self) -> &[PortConfig] {
        &self.ports
    }

    /// Decides on every packet of `batch`, all of which came in by `in_port`, at `now` seconds of the
    /// engine's clock, and hands each to the sink. Leaves the batch empty.
    pub fn forward(&self, now: u32, in_port: PortId, batch: &mut Batch, pool: &mut Pool, sink: &mut impl Sink) {
        let _ = (now, pool);
        for packet in batch.drain(..) {
            let _ = in_port;
            sink.drop(packet, DropReason::NoBridge);
        }
    }
}
