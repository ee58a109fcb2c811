//! A tunnel port as workers see it, and what they share with the control plane and the liveness thread.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use parking_lot::Mutex;
use trunkline_packet::{Packet, PortId, VlanId};
use trunkline_ports::underlay::DatagramTx;
use trunkline_tunnel::mtu::path::PathMtu;
use trunkline_tunnel::{Endpoint, Tunnel, Tunnels};

use super::PeerStatus;
use super::remotes::Remotes;
use super::sockets::SocketId;

/// A tunnel port. Immutable; what it refers to outlives changes of its configuration.
pub(crate) struct TunnelView {
    /// This tunnel alone, for sending; to receive, all of them are needed.
    table: Tunnels,
    pub(crate) carrier: Carrier,
    /// The far ends, in the order of [`Endpoint::remotes`].
    pub(crate) peers: Vec<Arc<Peer>>,
    /// Which remote an address is behind; `None` where there is only one.
    pub(crate) remotes: Option<Arc<Remotes>>,
    /// Learn that from what comes in.
    pub(crate) learns: bool,
    /// What the path takes, bytes of outer IP, where outer packets are fragmented.
    pub(crate) fragment: Option<u16>,
    /// Liveness packets come in it.
    pub(crate) bfd: bool,
    /// The VLAN of frames without a tag.
    untagged: VlanId,
    /// Interface to send to groups and link-local addresses by; 0: where the route leads.
    interface: u32,
}

/// What a tunnel's packets come in and leave by.
#[derive(Clone)]
pub(crate) enum Carrier {
    /// The kernel's sockets.
    Sockets { id: SocketId, tx: Arc<dyn DatagramTx> },
    /// A port of the network layer.
    Uplink(PortId),
}

/// What of a tunnel port is not in its [`Endpoint`].
pub(super) struct Parts {
    pub(super) carrier: Carrier,
    pub(super) peers: Vec<Arc<Peer>>,
    pub(super) remotes: Option<Arc<Remotes>>,
    pub(super) learns: bool,
    pub(super) fragment: Option<u16>,
    pub(super) bfd: bool,
    pub(super) untagged: VlanId,
    pub(super) interface: u32,
}

impl TunnelView {
    /// `None` when the endpoint makes no sense, which was checked before.
    pub(super) fn new(endpoint: Endpoint, parts: Parts) -> Option<TunnelView> {
        let Parts { carrier, peers, remotes, learns, fragment, bfd, untagged, interface } = parts;
        let table = Tunnels::new(vec![endpoint]).ok()?;
        table.iter().next()?;
        Some(TunnelView { table, carrier, peers, remotes, learns, fragment, bfd, untagged, interface })
    }

    /// How it sends.
    #[inline]
    pub(crate) fn tunnel(&self) -> &Tunnel {
        // `new` made sure that there is exactly one.
        &self.table.iter().as_slice()[0]
    }

    #[inline]
    pub(crate) fn endpoint(&self) -> &Endpoint {
        self.tunnel().endpoint()
    }

    /// The uplink that carries it, if it is one.
    #[inline]
    pub(crate) fn uplink(&self) -> Option<PortId> {
        match self.carrier {
            Carrier::Uplink(port) => Some(port),
            Carrier::Sockets { .. } => None,
        }
    }

    /// The bridge's VLAN of a frame that comes in or leaves here.
    #[inline]
    pub(crate) fn vlan(&self, packet: &Packet) -> VlanId {
        let tagged = packet.meta().vlan.and_then(|tag| tag.vid()).filter(|&vid| vid != VlanId::NONE);
        tagged.unwrap_or(self.untagged)
    }

    /// The interface by which packets to this address must leave, if any.
    #[inline]
    pub(crate) fn interface(&self, to: IpAddr) -> u32 {
        let on_link = matches!(to, IpAddr::V6(v6) if v6.is_unicast_link_local());
        if on_link || to.is_multicast() { self.interface } else { 0 }
    }
}

/// One far end of one tunnel port.
pub(crate) struct Peer {
    pub(crate) port: PortId,
    pub(crate) remote: IpAddr,
    /// Frames may be sent there. Written by the liveness thread.
    alive: AtomicBool,
    pub(super) status: Mutex<PeerStatus>,
    /// What routers on the path have said, over an uplink.
    pub(super) path: Mutex<Option<PathMtu>>,
}

impl Peer {
    pub(super) fn new(port: PortId, remote: IpAddr) -> Arc<Peer> {
        let status = Mutex::new(PeerStatus::new(remote));
        Arc::new(Peer { port, remote, alive: AtomicBool::new(true), status, path: Mutex::default() })
    }

    #[inline]
    pub(crate) fn is_alive(&self) -> bool {
        self.alive.load(Relaxed)
    }

    /// As without liveness.
    pub(super) fn reset(&self) {
        self.set_alive(true);
        *self.status.lock() = PeerStatus::new(self.remote);
    }

    pub(super) fn set_alive(&self, alive: bool) {
        self.alive.store(alive, Relaxed);
    }
}
