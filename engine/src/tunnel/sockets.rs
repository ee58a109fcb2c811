//! The sockets under tunnels: opened when the first tunnel needs them, shared by all that do, closed with the
//! last.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use trunkline_ports::underlay::{self, DatagramRx, DatagramTx, Family, Groups, UdpOptions};

use super::{TunnelConfig, TunnelError, Underlay};

/// Groups, and the interfaces they are joined on.
type GroupList = Vec<(IpAddr, Option<String>)>;

/// One set of receiving sockets with what sends for it.
pub struct Opened {
    /// One or more, to be spread over the workers.
    pub rx: Vec<Box<dyn DatagramRx>>,
    /// The sending side.
    pub tx: Arc<dyn DatagramTx>,
    /// The groups that are joined, where there can be any.
    pub groups: Option<Groups>,
}

/// Opens sockets under tunnels: the kernel's, unless a test brings its own.
pub trait OpenSockets: Send + Sync {
    /// UDP, for VXLAN and Geneve.
    ///
    /// # Errors
    /// As [`underlay::udp_receivers`] and [`underlay::udp_senders`].
    fn udp(&self, options: &UdpOptions) -> io::Result<Opened>;

    /// GRE.
    ///
    /// # Errors
    /// As [`underlay::gre`].
    fn gre(&self, family: Family) -> io::Result<Opened>;

    /// The MTU of the path to a remote, of the outer IP packet, as far as the system knows it.
    ///
    /// # Errors
    /// As [`underlay::path`].
    fn path_mtu(&self, remote: IpAddr, local: Option<IpAddr>) -> io::Result<u32>;
}

/// The kernel's sockets, in the namespace of the thread that makes tunnels.
#[derive(Default)]
pub struct KernelSockets {
    /// UDP's senders are the same for all ports: IPv4, IPv6.
    senders: Mutex<[Option<Weak<dyn DatagramTx>>; 2]>,
}

impl OpenSockets for KernelSockets {
    fn udp(&self, options: &UdpOptions) -> io::Result<Opened> {
        let (rx, groups) = underlay::udp_receivers(options)?;
        let slot = &mut self.senders.lock()[usize::from(options.family == Family::V6)];
        let tx = match slot.as_ref().and_then(Weak::upgrade) {
            Some(tx) => tx,
            None => underlay::udp_senders(options.family)?,
        };
        *slot = Some(Arc::downgrade(&tx));
        Ok(Opened { rx, tx, groups: Some(groups) })
    }

    fn gre(&self, family: Family) -> io::Result<Opened> {
        let (rx, tx) = underlay::gre(family)?;
        Ok(Opened { rx: vec![rx], tx, groups: None })
    }

    fn path_mtu(&self, remote: IpAddr, local: Option<IpAddr>) -> io::Result<u32> {
        underlay::path(remote, local).map(|path| path.mtu)
    }
}

/// Names a set of sockets; never reused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SocketId(u32);

/// What makes tunnels share sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Key {
    Udp(Family, u16),
    Gre(Family),
}

impl Key {
    /// IPv4 when the endpoint names no address at all. `None` for a tunnel that needs no sockets.
    pub(super) fn of(tunnel: &TunnelConfig) -> Option<Key> {
        let endpoint = &tunnel.endpoint;
        if tunnel.underlay != Underlay::Sockets {
            return None;
        }
        let address = endpoint.remotes.iter().copied().chain(endpoint.local).chain(endpoint.group).next();
        let family = address.map_or(Family::V4, Family::of);
        let udp = endpoint.kind.is_udp();
        Some(if udp { Key::Udp(family, endpoint.dst_port) } else { Key::Gre(family) })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |family: &Family| if *family == Family::V4 { "IPv4" } else { "IPv6" };
        match self {
            Key::Udp(family, port) => write!(f, "UDP port {port} over {}", name(family)),
            Key::Gre(family) => write!(f, "GRE over {}", name(family)),
        }
    }
}

/// What the tunnels of one key want of their sockets.
#[derive(Clone, PartialEq, Eq, Default)]
pub(super) struct Wants {
    groups: GroupList,
    zero_checksum: bool,
}

impl Wants {
    pub(super) fn of<'a>(key: Key, tunnels: impl Iterator<Item = &'a TunnelConfig>) -> Wants {
        let mut wants = Wants::default();
        for tunnel in tunnels.filter(|tunnel| Key::of(tunnel) == Some(key)) {
            let joined = tunnel.endpoint.group.map(|group| (group, tunnel.group_interface.clone()));
            wants.groups.extend(joined.filter(|group| !wants.groups.contains(group)));
            wants.zero_checksum |= tunnel.endpoint.zero_checksum_v6;
        }
        wants
    }
}

/// A set of sockets in use.
pub(crate) struct Set {
    pub(super) id: SocketId,
    pub(super) key: Key,
    pub(super) tx: Arc<dyn DatagramTx>,
    groups: Option<Groups>,
    wants: Wants,
    /// Workers that own its receivers, one entry for each.
    pub(super) owners: Vec<usize>,
    /// A worker has let go of a receiver.
    broken: Arc<AtomicBool>,
}

/// All of them.
pub(crate) struct Sockets {
    opener: Arc<dyn OpenSockets>,
    next: u32,
    pub(super) sets: Vec<Set>,
}

/// A set just opened, not yet with the workers.
pub(super) struct Fresh {
    pub(super) set: Set,
    pub(super) rx: Vec<Box<dyn DatagramRx>>,
}

impl Sockets {
    pub(crate) fn new(opener: Arc<dyn OpenSockets>) -> Sockets {
        Sockets { opener, next: 0, sets: Vec::new() }
    }

    pub(super) fn of(&self, key: Key) -> Option<&Set> {
        self.sets.iter().find(|set| set.key == key)
    }

    /// Whether there is a set that does, or can be made to do, what is wanted.
    pub(super) fn suffices(&self, key: Key, wants: &Wants) -> bool {
        self.of(key).is_some_and(|set| {
            !set.broken.load(Ordering::Relaxed) && set.wants.zero_checksum == wants.zero_checksum
        })
    }

    /// Joins and leaves groups, all or nothing.
    pub(super) fn adapt(&mut self, key: Key, wants: Wants) -> Result<(), TunnelError> {
        let Some(set) = self.sets.iter_mut().find(|set| set.key == key) else { return Ok(()) };
        // Also when they are the same: an interface may have been made anew.
        if let Some(groups) = &set.groups {
            groups
                .set(&wants.groups)
                .map_err(|error| TunnelError::Socket { what: key.to_string(), error })?;
        }
        set.wants = wants;
        Ok(())
    }

    /// Opens a set with `queues` receivers at most.
    pub(super) fn open(&mut self, key: Key, wants: Wants, queues: usize) -> Result<Fresh, TunnelError> {
        let opened = match key {
            Key::Gre(family) => self.opener.gre(family),
            Key::Udp(family, port) => self.opener.udp(&UdpOptions {
                family,
                port,
                queues,
                groups: wants.groups.clone(),
                checksum6: wants.zero_checksum,
            }),
        };
        let opened = opened.map_err(|error| TunnelError::Socket { what: key.to_string(), error })?;
        self.next += 1;
        let (id, broken) = (SocketId(self.next), Arc::default());
        let Opened { rx, tx, groups } = opened;
        let set = Set { id, key, tx, groups, wants, owners: Vec::new(), broken };
        Ok(Fresh { set, rx })
    }
}

impl Set {
    /// Where a worker notes that it has let go of a receiver.
    pub(super) fn broken(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.broken)
    }

    pub(super) fn into_wants(self) -> Wants {
        self.wants
    }
}
