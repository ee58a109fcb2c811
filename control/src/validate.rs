//! Whether a desired state makes sense by itself, before anybody tries to realise it.
//!
//! What only the kernel can know (does the interface exist, is the namespace there) is not looked at here.

mod docker;
mod gateway;
mod guard;
pub(crate) mod l3;
pub(crate) mod nat;
mod port;
pub(crate) mod route;
mod tunnel;
pub(crate) mod uplink;
mod vlan;

use std::borrow::Cow;
use std::collections::BTreeMap;

use trunkline_packet::MacAddr;

use crate::model::{BridgeSpec, Desired, PortKind, PortSpec, StaticFdb};
use crate::{Error, Result};

pub use docker::docker;
pub use gateway::{gateway, gateway_place};
pub use l3::ct;
pub use nat::nat;
pub use port::port;
pub use route::route;
pub(crate) use tunnel::{dst_port, endpoint};
pub use tunnel::{mesh, untagged_only};
pub use uplink::uplink;
pub use vlan::{parse_trunks, port_config, vlan_mode};

/// Most ports of a daemon.
pub const MAX_PORTS: usize = 4096;
/// Most bridges of a daemon.
pub const MAX_BRIDGES: usize = 1024;
/// Most static FDB entries of a bridge.
pub const MAX_STATIC: usize = 4096;
/// Longest name of a bridge or port, bytes.
pub const MAX_NAME: usize = 63;

/// Checks a whole desired state.
///
/// # Errors
/// The first thing that is wrong, with the name of the object.
pub fn validate(desired: &Desired) -> Result<()> {
    validate_edit(&Desired::default(), desired)
}

/// Checks what an edit has made of `old`: of two ports that cannot be together, the one that is as it was
/// is not to blame.
///
/// # Errors
/// As [`validate`].
pub fn validate_edit(old: &Desired, desired: &Desired) -> Result<()> {
    if desired.bridges.len() > MAX_BRIDGES {
        return Err(Error::invalid(format!("{} bridges are too many", desired.bridges.len()))
            .hint(format!("a daemon takes {MAX_BRIDGES}; start another one with its own --run-dir")));
    }
    let ports = desired.ports.len() + desired.meshes.values().map(|m| m.peers.len()).sum::<usize>();
    if ports > MAX_PORTS {
        return Err(Error::invalid(format!("{ports} ports are too many"))
            .hint(format!("a daemon takes {MAX_PORTS}; start another one with its own --run-dir")));
    }
    for (name, spec) in &desired.bridges {
        bridge(name, spec)?;
        for entry in &spec.static_fdb {
            static_port(name, entry, desired)?;
        }
    }
    for (name, spec) in &desired.ports {
        port(name, spec)?;
        if !desired.bridges.contains_key(&spec.bridge) {
            return Err(Error::not_found(format!("port {name}: there is no bridge {}", spec.bridge))
                .hint(format!("make it first: trunkline bridge add {}", spec.bridge)));
        }
    }
    for (name, spec) in &desired.meshes {
        mesh(name, spec)?;
    }
    tunnel::meshes(desired)?;
    tunnel::tables(&old.expanded(|_| false), &desired.expanded(|_| false))?;
    interfaces(old, desired)?;
    desired.docker.as_ref().map_or(Ok(()), docker)?;
    l3::check(old, desired)
}

/// Checks a bridge by itself.
///
/// # Errors
/// The first thing that is wrong.
pub fn bridge(name: &str, spec: &BridgeSpec) -> Result<()> {
    object_name("bridge", name)?;
    let bad = |what: String| Error::invalid(format!("bridge {name}: {what}"));
    if !(1..=1_000_000).contains(&spec.ageing) {
        return Err(bad(format!("ageing {} is out of range", spec.ageing)).hint("use 1 to 1000000 seconds"));
    }
    if !(16..=1_048_576).contains(&spec.max_macs) {
        return Err(bad(format!("max-macs {} is out of range", spec.max_macs)).hint("use 16 to 1048576"));
    }
    let most = MAX_STATIC.min(spec.max_macs as usize);
    if spec.static_fdb.len() > most {
        return Err(bad(format!("{} static entries are too many", spec.static_fdb.len()))
            .hint(format!("this bridge takes {most}")));
    }
    let mut seen = BTreeMap::new();
    for entry in &spec.static_fdb {
        static_entry(entry).map_err(|e| e.within(format!("bridge {name}")))?;
        if let Some(other) = seen.insert((entry.vlan, &entry.mac), &entry.port) {
            return Err(bad(format!(
                "{} in VLAN {} is static on port {other} and on port {}",
                entry.mac, entry.vlan, entry.port
            ))
            .hint("an address is in one place of a VLAN; keep one of the two"));
        }
    }
    Ok(())
}

fn static_entry(entry: &StaticFdb) -> Result<()> {
    station_mac(&entry.mac)?;
    if entry.vlan > 4094 {
        return Err(Error::invalid(format!("VLAN {} is out of range", entry.vlan))
            .hint("use 1 to 4094, or 0 for untagged frames"));
    }
    Ok(())
}

fn static_port(bridge: &str, entry: &StaticFdb, desired: &Desired) -> Result<()> {
    let within = |e: Error| e.within(format_args!("bridge {bridge}: the static entry {}", entry.mac));
    let what = match desired.port(&entry.port) {
        Some(port) if port.bridge == bridge => return tunnel::static_remote(entry, &port).map_err(within),
        Some(port) => format!("port {} is on bridge {}", entry.port, port.bridge),
        None => format!("there is no port {}", entry.port),
    };
    Err(Error::invalid(format!("bridge {bridge}: the static entry {} cannot be: {what}", entry.mac))
        .hint("name a port of this bridge"))
}

/// The address of one station: neither zero nor a group.
fn station_mac(text: &str) -> Result<MacAddr> {
    let mac: MacAddr =
        text.parse().map_err(|e: trunkline_packet::ether::BadMac| Error::invalid(e.to_string()))?;
    if mac.is_zero() || mac.is_group() {
        let what = if mac.is_zero() { "no station's address" } else { "a group address" };
        return Err(
            Error::invalid(format!("{mac} is {what}")).hint("use a unicast address, like 02:00:00:00:00:01")
        );
    }
    Ok(mac)
}

/// A name of a bridge or port: it appears in files, URLs and messages.
fn object_name(kind: &str, name: &str) -> Result<()> {
    let fits = (1..=MAX_NAME).contains(&name.len());
    if fits && name != "." && name != ".." && name.bytes().all(is_name_byte) {
        return Ok(());
    }
    Err(Error::invalid(format!("'{}' is not a name for a {kind}", shorten(name)))
        .hint(format!("use 1 to {MAX_NAME} of the characters A-Z a-z 0-9 _ . -")))
}

fn is_name_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-')
}

/// What a user wrote, fit for a message of one line.
fn shorten(text: &str) -> String {
    let text: String = text.chars().take(80).collect();
    text.escape_debug().to_string()
}

/// Refuses two ports with one interface.
fn interfaces(old: &Desired, desired: &Desired) -> Result<()> {
    let mut seen = BTreeMap::new();
    let (kept, edited): (Vec<_>, Vec<_>) =
        desired.ports.iter().partition(|(name, spec)| old.ports.get(*name) == Some(*spec));
    for (name, spec) in kept.into_iter().chain(edited) {
        let Some((netns, ifname)) = interface(name, spec) else { continue };
        if let Some(other) = seen.insert((netns.clone(), ifname), name) {
            let place = netns.map_or_else(String::new, |n| format!(" in namespace {n}"));
            return Err(Error::conflict(format!(
                "port {name}: interface {ifname}{place} is port {other}'s already"
            ))
            .hint("give one of them another interface"));
        }
    }
    Ok(())
}

/// The interface a port takes: its namespace (`None`: the daemon's) and name.
fn interface<'a>(name: &'a str, spec: &'a PortSpec) -> Option<(Option<Cow<'a, str>>, &'a str)> {
    match &spec.kind {
        PortKind::Tap(tap) => {
            let netns = tap.netns_id.as_deref().or(tap.netns.as_deref()).map(|netns| {
                let named =
                    netns.strip_prefix("/var/run/netns/").or_else(|| netns.strip_prefix("/run/netns/"));
                Cow::from(named.unwrap_or(netns))
            });
            // One that is not there now is nobody else's.
            let netns = netns.or_else(|| tap.follow.as_ref().map(|f| f.to_string().into()));
            Some((netns, tap.ifname.as_deref().unwrap_or(name)))
        }
        PortKind::Host(host) => Some((None, host.ifname.as_deref().unwrap_or(name))),
        PortKind::Afpacket(a) => Some((None, &a.interface)),
        PortKind::Replay(_)
        | PortKind::Null {}
        | PortKind::Gre(_)
        | PortKind::Nvgre(_)
        | PortKind::Vxlan(_)
        | PortKind::Geneve(_) => None,
    }
}

#[cfg(test)]
mod l3_tests;
#[cfg(test)]
mod tests;
