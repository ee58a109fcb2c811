//! Makes the world match what is desired, one object at a time.
//!
//! [`World`] is what the controller needs of the engine and the kernel; `KernelWorld` is the real one.
//! Operations that can fail leave nothing behind when they do, so that the controller can undo an edit as
//! a whole by undoing the parts that succeeded. Ports that go are parked first and let go of only when the
//! rest of the edit has succeeded: a parked interface can be taken back with everything on it.

use std::net::IpAddr;

use trunkline_tunnel::Kind;

use crate::model::{
    BridgeSpec, FdbCounters, FdbRow, PortKind, PortSpec, PortState, PortStats, PortStatus, StaticFdb,
    TunnelSpec,
};
use crate::validate::{dst_port, vlan_mode};
use crate::{Error, Result};

mod adopted;
mod ct;
mod devices;
#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod fake_l3;
mod kernel_l3;
pub(crate) mod l3;
mod l3config;
mod leases;
mod mtu;
mod observe;
mod observe_l3;
mod tap;
mod tunnels;
mod uplinks;
mod world;

pub use l3::L3World;
pub(crate) use l3::same_l3;
pub(crate) use tap::namespace_id;
pub(crate) use world::KernelWorld;

/// The engine and the kernel, as the controller sees them. Calls may block for some milliseconds.
pub trait World: Send + L3World {
    /// Fills in what a new or changed port leaves to the daemon: a MAC address, the namespace's identity.
    ///
    /// # Errors
    /// When the namespace it names does not exist.
    fn complete(&self, name: &str, spec: &mut PortSpec) -> Result<()>;

    /// Makes a bridge without ports.
    fn add_bridge(&mut self, name: &str, spec: &BridgeSpec);
    /// Changes a bridge's settings.
    fn update_bridge(&mut self, name: &str, spec: &BridgeSpec);
    /// Removes a bridge; its ports are gone already.
    fn remove_bridge(&mut self, name: &str);
    /// Removes the static entries `gone` and makes those of `now`.
    ///
    /// # Errors
    /// When the table is full of static entries.
    fn set_static(&mut self, bridge: &str, gone: &[StaticFdb], now: &[StaticFdb]) -> Result<()>;

    /// Makes a port with its interface.
    ///
    /// # Errors
    /// When a part of it cannot be realised; nothing is left behind.
    fn add_port(&mut self, name: &str, spec: &PortSpec) -> Result<()>;
    /// Makes a port that was accepted before as well as it goes: down and retried if it cannot be realised.
    fn restore_port(&mut self, name: &str, spec: &PortSpec);
    /// Changes a port that keeps its interface (`needs_new_interface` is false).
    ///
    /// # Errors
    /// When a part of it cannot be realised; everything is as before.
    fn update_port(&mut self, name: &str, spec: &PortSpec) -> Result<()>;
    /// Takes a port out of its bridge but keeps what is needed to take it back. Its name is free then.
    fn park_port(&mut self, name: &str);
    /// Takes a parked port back.
    fn unpark_port(&mut self, name: &str);
    /// Removes a port that this edit made.
    fn remove_port(&mut self, name: &str);
    /// The edit holds: lets go of every parked port for good, and of what a daemon before left that nobody
    /// asks for any more; makes what is new survive this daemon.
    fn commit(&mut self);

    /// What a port is like; `None` for an unknown one.
    fn port_status(&self, name: &str) -> Option<PortStatus>;
    /// Addresses in a bridge's table, and what it has done.
    fn bridge_macs(&self, name: &str) -> (u64, FdbCounters);
    /// A bridge's table, sorted by VLAN and address; `None` for an unknown bridge.
    fn fdb(&self, bridge: &str) -> Option<Vec<FdbRow>>;
    /// Forgets learned addresses; returns how many.
    fn fdb_flush(&mut self, bridge: &str, vlan: Option<u16>, port: Option<&str>) -> u64;
    /// Counters of every port, by name.
    fn stats(&self) -> Vec<PortStats>;
    /// Those of one port; `None` for an unknown one.
    fn port_stats(&self, name: &str) -> Option<PortStats>;
    /// Worker threads.
    fn workers(&self) -> u16;

    /// Something happened outside; returns the ports whose status changed.
    fn notice(&mut self, notice: Notice) -> Vec<String>;
    /// Whether [`World::retry`] has anything to do.
    fn has_down(&self) -> bool;
    /// Tries once more to bring up the ports that are down; returns those whose status changed.
    fn retry(&mut self) -> Vec<String>;
    /// Whether [`World::check`] has anything to do.
    fn needs_check(&self) -> bool;
    /// Looks at what nobody reports, such as the MTU of adopted interfaces and of tunnels' paths; returns what
    /// changed.
    fn check(&mut self) -> Vec<String>;
    /// Whether there are tunnels, whose paths are looked at more often.
    fn has_tunnels(&self) -> bool;
    /// Whether an address is this host's own.
    fn is_own(&self, address: IpAddr) -> bool;

    /// The daemon stops. `release`: interfaces are let go of too, instead of being kept for the next daemon.
    fn stop(&mut self, release: bool);
}

/// What happened outside the controller.
#[derive(Debug)]
pub enum Notice {
    /// The data path reports on a port.
    Engine(trunkline_engine::EngineEvent),
    /// The keeper process is gone.
    KeeperGone,
    /// What a port follows was looked for.
    Followed {
        /// Name of the port.
        port: String,
        /// Why it is not there; absent: it is there.
        away: Option<Error>,
    },
    /// Links, addresses, routes or neighbours of the host changed; or else it is time to see whether somebody
    /// asks for a neighbour.
    HostNetwork {
        /// The former.
        changed: bool,
    },
}

/// Whether changing `old` into `new` takes another interface; if not, it is done on the running one.
pub(crate) fn needs_new_interface(name: &str, old: &PortSpec, new: &PortSpec) -> bool {
    match (&old.kind, &new.kind) {
        (PortKind::Tap(a), PortKind::Tap(b)) => {
            a.netns != b.netns
                || a.netns_id != b.netns_id
                || (a.adopt, a.handed_over) != (b.adopt, b.handed_over)
                || a.ifname.as_deref().unwrap_or(name) != b.ifname.as_deref().unwrap_or(name)
                || a.queues.unwrap_or(1) != b.queues.unwrap_or(1)
        }
        (PortKind::Host(a), PortKind::Host(b)) => {
            a.ifname.as_deref().unwrap_or(name) != b.ifname.as_deref().unwrap_or(name)
                || a.queues.unwrap_or(1) != b.queues.unwrap_or(1)
        }
        (PortKind::Afpacket(a), PortKind::Afpacket(b)) => a.interface != b.interface,
        (PortKind::Replay(a), PortKind::Replay(b)) => a != b,
        (PortKind::Null {}, PortKind::Null {}) => false,
        (a, b) => match (a.tunnel(), b.tunnel()) {
            (Some((a, _)), Some((b, _))) => a != b,
            _ => true,
        },
    }
}

/// Whether a tunnel takes other packets than before.
pub(crate) fn takes_other_packets(old: &PortSpec, new: &PortSpec) -> bool {
    fn takes<'a>(spec: &'a PortSpec) -> Option<impl PartialEq + use<'a>> {
        let (_, t) = spec.kind.tunnel()?;
        Some((t.vni, t.key, &t.vlan_map, t.dst_port, t.local, &t.remotes, t.group, &t.underlay))
    }
    takes(old) != takes(new)
}

/// Whether a tunnel as it is to be may want packets that another one takes as yet: two that swap must not meet.
pub(crate) fn in_the_way(new: &PortSpec, other: &PortSpec) -> bool {
    let (Some((kind, a)), Some((other_kind, b))) = (new.kind.tunnel(), other.kind.tunnel()) else {
        return false;
    };
    let below = |kind: Kind, t: &TunnelSpec| if kind.is_udp() { dst_port(kind, t) } else { 0 };
    let anyone = a.group.is_some() || b.group.is_some();
    a.underlay == b.underlay
        && below(kind, a) == below(other_kind, b)
        && (kind != other_kind || anyone || a.remotes.iter().any(|remote| b.remotes.contains(remote)))
}

/// Takes over into `new` what the daemon had filled in for `old`, where the two mean the same interface and
/// `new` does not say.
pub(crate) fn inherit(old: &PortSpec, new: &mut PortSpec) {
    match (&old.kind, &mut new.kind) {
        // Where it is at the moment is the daemon's to say.
        (PortKind::Tap(a), PortKind::Tap(b)) if b.netns.is_none() && b.follow.is_some() => {
            if a.follow == b.follow {
                b.netns.clone_from(&a.netns);
                b.netns_id.clone_from(&a.netns_id);
            }
            if b.link.mac.is_none() {
                b.link.mac.clone_from(&a.link.mac);
            }
        }
        // Another namespace: what the old one was says nothing.
        (PortKind::Tap(a), PortKind::Tap(b)) if a.netns != b.netns && a.netns_id == b.netns_id => {
            b.netns_id = None;
        }
        (PortKind::Tap(a), PortKind::Tap(b)) if a.netns == b.netns && a.adopt == b.adopt => {
            if b.netns_id.is_none() {
                b.netns_id.clone_from(&a.netns_id);
            }
            if b.link.mac.is_none() {
                b.link.mac.clone_from(&a.link.mac);
            }
        }
        (PortKind::Host(a), PortKind::Host(b)) if b.link.mac.is_none() => b.link.mac.clone_from(&a.link.mac),
        _ => {}
    }
}

/// A status without anything observed: what a port that never worked has.
pub(crate) fn down_status(name: &str, spec: &PortSpec, reason: &Error) -> PortStatus {
    PortStatus {
        name: name.to_owned(),
        spec: spec.clone(),
        state: PortState::Down,
        reason: reason.to_string(),
        ifname: None,
        mac: None,
        mtu: 0,
        mtu_why: String::new(),
        peers: Vec::new(),
        offloads: Vec::new(),
        queues: 0,
        macs: 0,
        vlan_mode: vlan_mode(spec),
        leased: Vec::new(),
    }
}
