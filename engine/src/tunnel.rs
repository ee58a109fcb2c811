//! Tunnels as ports of a bridge.
//!
//! ```text
//! DatagramRx ──recv──▶ ingress: decap, count on the tunnel's port, liveness ──▶ Bridge::forward
//!                                                                                    │
//! DatagramTx ◀─sendmmsg── egress: inner MTU, MSS, remotes, encap ◀───────────────────┘
//! ```
//!
//! [`TunnelConfig`] is what the control plane wants; `setup` makes it so, `sockets` opens what it needs,
//! `view` is what workers see of it, `liveness` the thread that talks BFD, `session` one of its sessions.

pub(crate) mod egress;
pub(crate) mod ingress;
pub(crate) mod liveness;
pub(crate) mod remotes;
mod session;
pub(crate) mod setup;
pub(crate) mod sockets;
pub(crate) mod uplink;
pub(crate) mod view;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use trunkline_packet::{MacAddr, PortId, VlanId};
use trunkline_tunnel::bfd::{Diag, Loss, State};
use trunkline_tunnel::{Endpoint, TableError};

/// What carries a tunnel's packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Underlay {
    /// The kernel's sockets: routes, neighbours and the path's MTU are the kernel's.
    Sockets,
    /// An L3 uplink port of this engine.
    Uplink(PortId),
}

/// Liveness sessions of a tunnel, one for each remote that is one host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BfdOptions {
    /// How often to send, milliseconds.
    pub min_tx_ms: u32,
    /// How often the other may send, milliseconds.
    pub min_rx_ms: u32,
    /// How many packets in a row may be lost.
    pub multiplier: u8,
}

impl Default for BfdOptions {
    /// A dead peer is noticed within 0.9 s.
    fn default() -> BfdOptions {
        BfdOptions { min_tx_ms: 300, min_rx_ms: 300, multiplier: 3 }
    }
}

/// A tunnel port.
#[derive(Clone, Debug)]
pub struct TunnelConfig {
    /// Addresses, networks, how packets are made. Its port, state and
    /// `mss_clamp` are set by the engine. A group is sent
    /// to besides the remotes, and anyone may send when there is one.
    pub endpoint: Endpoint,
    /// What carries it.
    pub underlay: Underlay,
    /// Lower TCP's maximum segment size to the inner MTU, in both directions.
    pub mss_clamp: bool,
    /// Liveness.
    pub bfd: Option<BfdOptions>,
    /// With several remotes, or none: learn which one an address is behind.
    pub learn_remotes: bool,
    /// Remotes of addresses, told by the user; VLANs are the bridge's.
    pub static_remotes: Vec<(VlanId, MacAddr, IpAddr)>,
    /// Where to join the group and send to it, and to link-local remotes; where the route leads when `None`.
    pub group_interface: Option<String>,
    /// Outer packets are fragmented, whatever the endpoint says of DF: they are larger than what the path takes,
    /// which is this, bytes.
    pub fragment: Option<u16>,
}

impl TunnelConfig {
    /// With the defaults: MSS clamping and learning on, no liveness.
    pub fn new(endpoint: Endpoint) -> TunnelConfig {
        TunnelConfig {
            endpoint,
            underlay: Underlay::Sockets,
            mss_clamp: true,
            bfd: None,
            learn_remotes: true,
            static_remotes: Vec::new(),
            group_interface: None,
            fragment: None,
        }
    }
}

/// Why a tunnel could not be made or changed. Nothing has changed then.
#[derive(Debug)]
pub enum TunnelError {
    /// The engine has no such port, or it has descriptors of its own.
    Port,
    /// The tunnel makes no sense, by itself or beside the others.
    Table(TableError),
    /// The underlay's sockets could not be opened.
    Socket {
        /// Which, for users.
        what: String,
        /// Why.
        error: io::Error,
    },
}

impl fmt::Display for TunnelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TunnelError::Port => f.write_str("the port cannot be a tunnel's"),
            TunnelError::Table(error) => error.fmt(f),
            TunnelError::Socket { what, error } => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for TunnelError {}

impl From<TableError> for TunnelError {
    fn from(error: TableError) -> TunnelError {
        TunnelError::Table(error)
    }
}

/// What is known of one far end.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct PeerStatus {
    /// Its address.
    pub remote: IpAddr,
    /// Our side of its session; `None` without liveness.
    pub state: Option<State>,
    /// Why it last went down.
    pub diag: Diag,
    /// Frames are sent there.
    pub alive: bool,
    /// From a poll to its answer, smoothed.
    pub round_trip: Option<Duration>,
    /// How many of the far end's last packets of the session did not arrive.
    pub loss: Option<Loss>,
    /// The longest outer IP packet that arrives, found by trying; `None` while that is not known.
    pub path_mtu: Option<u16>,
    /// When the session last came up or went down.
    pub changed: Option<SystemTime>,
}

impl PeerStatus {
    fn new(remote: IpAddr) -> PeerStatus {
        PeerStatus {
            remote,
            state: None,
            diag: Diag::NONE,
            alive: true,
            round_trip: None,
            loss: None,
            path_mtu: None,
            changed: None,
        }
    }
}
