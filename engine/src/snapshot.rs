//! What workers run on: an immutable picture of all ports and bridges, replaced as a whole.

use std::sync::Arc;

use trunkline_packet::PortId;
use trunkline_ports::{TxCaps, TxQueue};
use trunkline_router::{Iface, IfaceId};
use trunkline_switch::Bridge;
use trunkline_tunnel::Tunnels;

use crate::counters::Shards;
use crate::l3::L3View;
use crate::tunnel::sockets::SocketId;
use crate::tunnel::view::{Carrier, TunnelView};

/// One version of the configuration, numbered.
#[derive(Default)]
pub(crate) struct Snapshot {
    /// Grows by one with each version; workers report which one they run on.
    pub(crate) epoch: u64,
    /// By [`PortId::index`].
    pub(crate) ports: Vec<Option<PortView>>,
    /// By slot, as [`PortView::bridge`] refers to them.
    pub(crate) bridges: Vec<Option<Arc<Bridge>>>,
    /// Which tunnel a datagram of the kernel's sockets belongs to.
    pub(crate) tunnels: Arc<Tunnels>,
    /// The same for each uplink that carries tunnels.
    pub(crate) uplinks: Vec<(PortId, Arc<Tunnels>)>,
    /// Gateways, uplinks, routes and rules; `None` without interfaces.
    pub(crate) l3: Option<Arc<L3View>>,
}

impl Snapshot {
    #[inline]
    pub(crate) fn port(&self, id: PortId) -> Option<&PortView> {
        self.ports.get(id.index())?.as_ref()
    }

    /// How many copies of one frame from this port a flood can make, at most.
    #[inline]
    pub(crate) fn fanout(&self, id: PortId) -> usize {
        self.port(id).and_then(|view| self.bridge_of(view)).map_or(0, |bridge| bridge.ports().len())
    }

    /// An uplink of the network layer.
    #[inline]
    pub(crate) fn uplink(&self, port: PortId) -> Option<&Iface> {
        self.l3.as_ref()?.tables.iface(IfaceId(port.0))
    }

    /// The tunnels that an uplink carries.
    #[inline]
    pub(crate) fn tunnels_on(&self, uplink: PortId) -> Option<&Tunnels> {
        self.uplinks.iter().find(|(port, _)| *port == uplink).map(|(_, tunnels)| &**tunnels)
    }

    /// The tunnel ports that use this set of sockets.
    pub(crate) fn tunnels_by(&self, id: SocketId) -> impl Iterator<Item = PortId> {
        let tunnels = self.ports.iter().flatten().filter_map(PortView::tunnel);
        let by =
            move |tunnel: &&TunnelView| matches!(tunnel.carrier, Carrier::Sockets { id: i, .. } if i == id);
        tunnels.filter(by).map(|tunnel| tunnel.endpoint().port)
    }

    /// The bridge of a port.
    #[inline]
    pub(crate) fn bridge_of(&self, view: &PortView) -> Option<&Bridge> {
        self.bridges.get(view.bridge)?.as_deref()
    }
}

/// A port as workers see it.
#[derive(Clone)]
pub(crate) struct PortView {
    /// Slot in [`Snapshot::bridges`].
    pub(crate) bridge: usize,
    /// Where frames for it go.
    pub(crate) backend: Backend,
    /// Largest L2 payload sent here, bytes. A tunnel has its own.
    pub(crate) mtu: u32,
    /// Its counters.
    pub(crate) shards: Shards,
}

impl PortView {
    /// The tunnel, if it is one's port.
    #[inline]
    pub(crate) fn tunnel(&self) -> Option<&TunnelView> {
        match &self.backend {
            Backend::Tunnel(tunnel) => Some(tunnel),
            _ => None,
        }
    }
}

/// What is behind a port.
#[derive(Clone)]
pub(crate) enum Backend {
    /// Nothing at the moment.
    Down,
    /// Descriptors.
    Queues(Queues),
    /// The far ends of a tunnel.
    Tunnel(Arc<TunnelView>),
}

/// The sending side of a port with descriptors.
#[derive(Clone)]
pub(crate) struct Queues {
    /// The queue each worker sends on.
    pub(crate) tx: Vec<Arc<dyn TxQueue>>,
    /// What the egress takes without help.
    pub(crate) caps: TxCaps,
}
