//! Tunnels and meshes: whether what is asked for can be, and what it means for the packet path.

use std::collections::BTreeMap;
use std::net::IpAddr;

use trunkline_packet::{PortId, VlanId};
use trunkline_switch::VlanSet;
use trunkline_tunnel::mesh::MAX_PEERS;
use trunkline_tunnel::mtu::IPV6_MIN;
use trunkline_tunnel::{Endpoint, GreKey, Kind, NetId, Nets, TableError, Tos, Ttl, Tunnels, Vni};

use super::port::existing_interface;
use super::{object_name, port_config, shorten, vlan_mode};
use crate::model::l3::UplinkKind;
use crate::model::tunnel::{FIRST_MESH_GROUP, Inherit, member_of, mesh_group};
use crate::model::{Desired, InnerVlan, MeshSpec, OffloadMode, PortSpec, StaticFdb, TunnelSpec, VlanMode};
use crate::{Error, Result};

/// Largest inner MTU: with the headers of any tunnel it is still an IP packet.
const MAX_MTU: u32 = 65_400;

/// Checks what only a tunnel port has.
pub(super) fn check(kind: Kind, t: &TunnelSpec, spec: &PortSpec) -> Result<()> {
    addresses(t)?;
    networks(kind, t)?;
    inner_tags(kind, t, spec)?;
    outer(t)?;
    liveness(t)?;
    if spec.offload == OffloadMode::Off {
        return Err(
            Error::invalid("a tunnel has no interface whose offloads could be off").hint("leave offload out")
        );
    }
    if t.seq && t.remotes.len() != 1 {
        return Err(Error::invalid("sequence numbers need exactly one remote")
            .hint("leave seq out, or make a port for each remote"));
    }
    // What is left is for the table itself to find.
    match Tunnels::new(vec![endpoint(PortId::NONE, kind, t, spec)?]) {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::invalid(error.to_string())),
    }
}

fn addresses(t: &TunnelSpec) -> Result<()> {
    if t.remotes.is_empty() && t.group.is_none() {
        return Err(Error::invalid("a tunnel needs a remote")
            .hint("give the other host's address, or for vxlan a multicast group"));
    }
    if t.remotes.len() > MAX_PEERS {
        return Err(Error::invalid(format!("{} remotes are too many", t.remotes.len()))
            .hint(format!("use {MAX_PEERS} at most")));
    }
    for (i, &remote) in t.remotes.iter().enumerate() {
        host("remote", remote)?;
        if t.remotes[..i].contains(&remote) {
            return Err(Error::invalid(format!("remote {remote} is given twice")).hint("give it once"));
        }
        if t.local == Some(remote) {
            return Err(Error::invalid(format!("remote {remote} is the local address too"))
                .hint("give the other host's address as the remote"));
        }
    }
    if let Some(local) = t.local {
        host("local", local)?;
    }
    match (t.group, &t.group_interface) {
        (Some(group), Some(interface)) => {
            if !group.is_multicast() {
                return Err(Error::invalid(format!("group {group} is not a multicast address"))
                    .hint("use one like 239.1.1.1 or ff05::100; one host is a remote"));
            }
            existing_interface(interface)?;
        }
        (Some(_), None) => {
            return Err(Error::invalid("group needs group-interface")
                .hint("say by which interface the group is reached"));
        }
        (None, Some(_)) => {
            return Err(Error::invalid("group-interface needs group").hint("add the multicast group"));
        }
        (None, None) => {}
    }
    let mut all = t.remotes.iter().chain(&t.local).chain(&t.group);
    if let Some(first) = all.next()
        && let Some(other) = all.find(|a| a.is_ipv4() != first.is_ipv4())
    {
        return Err(Error::invalid(format!("{first} and {other} are of two address families"))
            .hint("a tunnel runs over IPv4 or over IPv6; make two ports"));
    }
    if t.zero_csum6 && t.remotes.iter().chain(&t.group).any(IpAddr::is_ipv4) {
        return Err(Error::invalid("zero-csum6 means nothing over IPv4").hint("leave it out"));
    }
    Ok(())
}

/// An address that a tunnel can end at.
fn host(what: &str, address: IpAddr) -> Result<()> {
    let bad = |why: &str, hint: &str| Err(Error::invalid(format!("{what} {address} {why}")).hint(hint));
    if address.is_multicast() {
        return bad("is a multicast address", "that is a group: use group and group-interface (vxlan only)");
    }
    if address.is_unspecified() || address == IpAddr::from([255; 4]) {
        return bad("is no host's address", "give the address of one host");
    }
    if address.is_loopback() {
        return bad("never leaves this host", "give an address that other hosts reach");
    }
    if matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        return bad("is link-local", "give an address that does not depend on the interface");
    }
    Ok(())
}

/// VNI, key, VLAN map.
fn networks(kind: Kind, t: &TunnelSpec) -> Result<()> {
    let word = if kind == Kind::Gre { "key" } else { "vni" };
    let one = if kind == Kind::Gre { t.key } else { t.vni };
    match (&t.vlan_map, one) {
        (Some(_), Some(_)) => {
            return Err(Error::invalid(format!("vlan-map and {word} exclude each other"))
                .hint(format!("put the {word} into the map, with 0 for untagged frames")));
        }
        (Some(map), None) => {
            parse_vlan_map(map, most(kind))?;
        }
        (None, None) if kind != Kind::Gre => {
            return Err(Error::invalid("missing vni").hint("give the virtual network's number, like vni 77"));
        }
        (None, Some(n)) if n > most(kind) => {
            return Err(Error::invalid(format!("{word} {n} is out of range"))
                .hint(format!("use 0 to {}", most(kind))));
        }
        (None, _) => {}
    }
    if t.seq && t.vlan_map.is_some() {
        return Err(Error::invalid("sequence numbers and a vlan-map exclude each other")
            .hint("leave one of them out"));
    }
    Ok(())
}

/// The largest VNI or key.
fn most(kind: Kind) -> u32 {
    if kind == Kind::Gre { u32::MAX } else { Vni::MAX.get() }
}

/// A map of VLANs to VNIs or keys, like "10=1010,20-29=2020-2029"; VLAN 0 stands for untagged frames.
///
/// # Errors
/// Says which part is wrong.
pub(super) fn parse_vlan_map(text: &str, most: u32) -> Result<Vec<(VlanId, u32)>> {
    let bad = |why: String| {
        Error::invalid(format!("vlan-map '{}': {why}", shorten(text)))
            .hint("write VLANs, 0 for untagged, and their VNIs or keys, like 10=1010,20-29=2020-2029")
    };
    let number = |word: &str| {
        let plain = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
        word.parse::<u32>().ok().filter(|_| plain).ok_or_else(|| bad(format!("'{word}' is not a number")))
    };
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (number(first.trim())?, number(last.trim())?);
        if first > last {
            return Err(bad(format!("the range {first}-{last} runs backwards")));
        }
        Ok((first, last))
    };
    let mut map = BTreeMap::new();
    let mut nets = BTreeMap::new();
    for part in text.split(',') {
        let (vlans, ids) = part.split_once('=').ok_or_else(|| bad(format!("'{}' has no =", part.trim())))?;
        let ((first, last), (low, high)) = (range(vlans)?, range(ids)?);
        if last > 4094 {
            return Err(bad(format!("VLAN {last} is out of range")));
        }
        if high > most {
            return Err(bad(format!("{high} is more than {most}")));
        }
        if last - first != high - low {
            return Err(bad(format!("{first}-{last} and {low}-{high} are not of one length")));
        }
        for (vlan, net) in (first..=last).zip(low..=high) {
            let vid = u16::try_from(vlan).ok().and_then(VlanId::new);
            let vid = vid.ok_or_else(|| bad(format!("VLAN {vlan} is out of range")))?;
            if map.insert(vid, net).is_some() {
                return Err(bad(format!("VLAN {vlan} is in it twice")));
            }
            if let Some(other) = nets.insert(net, vlan) {
                return Err(bad(format!("{net} is given to VLAN {other} and to VLAN {vlan}")));
            }
        }
    }
    Ok(map.into_iter().collect())
}

/// Whether tags travel inside, and what that allows.
fn inner_tags(kind: Kind, t: &TunnelSpec, spec: &PortSpec) -> Result<()> {
    let asks_for_tags = spec.trunks.is_some() || spec.vlan_mode.is_some_and(|m| m != VlanMode::Access);
    if t.vlan_map.is_some() {
        if spec.vlan.is_some() || spec.trunks.is_some() || spec.vlan_mode.is_some() {
            return Err(Error::invalid("vlan-map excludes vlan, trunks and vlan-mode")
                .hint("the map says which VLANs the tunnel carries"));
        }
        if t.inner_vlan == Some(InnerVlan::Keep) {
            return Err(Error::invalid("vlan-map excludes inner-vlan keep")
                .hint("each VLAN has a network of its own, in which there are no tags"));
        }
    }
    if kind == Kind::Nvgre && t.inner_vlan == Some(InnerVlan::Keep) {
        return Err(Error::invalid("NVGRE carries no inner tags (RFC 7637 section 3.3)")
            .hint("use vlan-map to carry several VLANs"));
    }
    if asks_for_tags && inner_vlan(kind, t, spec) == InnerVlan::Strip {
        let hint = match kind {
            Kind::Nvgre => "use vlan for one of them, or vlan-map",
            _ => "use vlan for one of them, vlan-map, or inner-vlan keep",
        };
        return Err(Error::invalid("a tunnel that strips tags would mix its VLANs").hint(hint));
    }
    Ok(())
}

/// Whether tags travel inside: as given; else for VXLAN only when the port is made a trunk expressly (RFC 7348
/// §6.1: no tags "unless configured otherwise"), for NVGRE never (RFC 7637 §3.3), for GRE and Geneve always.
fn inner_vlan(kind: Kind, t: &TunnelSpec, spec: &PortSpec) -> InnerVlan {
    let trunk = spec.trunks.is_some() || spec.vlan_mode.is_some_and(|m| m != VlanMode::Access);
    match (t.inner_vlan, kind) {
        _ if t.vlan_map.is_some() => InnerVlan::Strip,
        (Some(given), _) => given,
        (None, Kind::Gre | Kind::Geneve) => InnerVlan::Keep,
        (None, Kind::Vxlan) if trunk => InnerVlan::Keep,
        (None, Kind::Vxlan | Kind::Nvgre) => InnerVlan::Strip,
    }
}

/// The VLANs that a tunnel without VLAN options carries: those of its map; untagged frames alone where tags are
/// stripped, or VLANs would come out mixed; else all. `None` for ports that are no tunnel.
pub(super) fn carried(spec: &PortSpec) -> Option<Result<VlanSet>> {
    let (kind, t) = spec.kind.tunnel()?;
    if vlan_mode(spec) != VlanMode::Trunk || spec.trunks.is_some() {
        return None;
    }
    let mut set = VlanSet::empty();
    if let Some(map) = &t.vlan_map {
        return Some(parse_vlan_map(map, most(kind)).map(|map| {
            map.iter().for_each(|&(vid, _)| set.insert(vid));
            set
        }));
    }
    if inner_vlan(kind, t, spec) == InnerVlan::Keep {
        return None;
    }
    set.insert(VlanId::NONE);
    Some(Ok(set))
}

/// Whether it is a tunnel that carries untagged frames alone, as it strips tags and is given no VLAN.
pub fn untagged_only(spec: &PortSpec) -> bool {
    spec.kind.tunnel().is_some_and(|(_, t)| t.vlan_map.is_none()) && carried(spec).is_some()
}

/// The outer header.
fn outer(t: &TunnelSpec) -> Result<()> {
    if t.dst_port == Some(0) {
        return Err(Error::invalid("dst-port 0 is no port").hint("use 1 to 65535"));
    }
    if t.ttl == Some(Inherit::Fixed(0)) {
        return Err(Error::invalid("ttl 0 reaches nobody").hint("use 1 to 255, or inherit"));
    }
    if let Some(Inherit::Fixed(tos)) = t.tos
        && tos & 3 != 0
    {
        return Err(Error::invalid(format!("tos {tos} sets the two ECN bits"))
            .hint("ECN follows the inner packet (RFC 6040); use a multiple of 4"));
    }
    if let Some(mtu) = t.mtu
        && !(u32::from(IPV6_MIN)..=MAX_MTU).contains(&mtu)
    {
        return Err(Error::invalid(format!("MTU {mtu} is out of range"))
            .hint(format!("use {IPV6_MIN} (what IPv6 needs) to {MAX_MTU}")));
    }
    if let Some(underlay) = &t.underlay {
        object_name("uplink", underlay)?;
    }
    Ok(())
}

fn liveness(t: &TunnelSpec) -> Result<()> {
    if t.bfd == Some(true) && t.remotes.is_empty() {
        return Err(Error::invalid("BFD needs a remote").hint("a group has no liveness"));
    }
    if t.bfd != Some(true) && (t.bfd_interval.is_some() || t.bfd_multiplier.is_some()) {
        return Err(Error::invalid("bfd-interval and bfd-multiplier mean nothing without BFD")
            .hint("add bfd, or leave them out"));
    }
    if t.bfd_interval.is_some_and(|ms| !(10..=60_000).contains(&ms)) {
        return Err(Error::invalid("bfd-interval is out of range").hint("use 10 to 60000 milliseconds"));
    }
    if t.bfd_multiplier == Some(0) {
        return Err(Error::invalid("bfd-multiplier 0 is out of range").hint("use 1 to 255"));
    }
    Ok(())
}

/// A mesh by itself: all but whether its bridge is there.
///
/// # Errors
/// The first thing that is wrong.
pub fn mesh(name: &str, spec: &MeshSpec) -> Result<()> {
    object_name("mesh", name)?;
    let within = |error: Error| error.within(format_args!("mesh {name}"));
    let peers = &spec.peers;
    let wrong = |what: String, hint: &str| Err(within(Error::invalid(what).hint(hint)));
    let Some(first) = peers.first() else {
        return wrong("it has no peers".to_owned(), "give the addresses of its hosts");
    };
    if peers.len() > MAX_PEERS {
        let hint = format!("use {MAX_PEERS} at most");
        return wrong(format!("{} peers are too many", peers.len()), &hint);
    }
    for (i, &peer) in peers.iter().enumerate() {
        host("peer", peer).map_err(within)?;
        if peers[..i].contains(&peer) {
            return wrong(format!("peer {peer} is given twice"), "give it once");
        }
        if peer.is_ipv4() != first.is_ipv4() {
            let what = format!("peers {first} and {peer} are of two address families");
            return wrong(what, "a mesh runs over IPv4 or over IPv6");
        }
    }
    // Every peer's tunnel is like the others, this host's own apart.
    let other = peers.iter().find(|p| Some(**p) != spec.tunnel.local);
    let other = other.copied().unwrap_or(*first);
    let mut member = spec.member(name, other, &[]);
    if let Some((_, t)) = member.kind.tunnel()
        && t.local == Some(other)
    {
        // The only host of its mesh as yet.
        member = MeshSpec { tunnel: TunnelSpec { local: None, ..spec.tunnel.clone() }, ..spec.clone() }
            .member(name, other, &[]);
    }
    super::port::check(name, &member).map_err(within)
}

/// Two meshes on a bridge that carry a VLAN to one host are a loop.
pub(super) fn meshes(desired: &Desired) -> Result<()> {
    let all: Vec<_> = desired.meshes.iter().collect();
    for (i, &(name, spec)) in all.iter().enumerate() {
        if !desired.bridges.contains_key(&spec.bridge) {
            return Err(Error::not_found(format!("mesh {name}: there is no bridge {}", spec.bridge))
                .hint(format!("make it first: trunkline bridge add {}", spec.bridge)));
        }
        for &(other, before) in all[..i].iter().filter(|(_, other)| other.bridge == spec.bridge) {
            if mesh_group(name) == mesh_group(other) {
                return Err(Error::invalid(format!("mesh {name} cannot stand beside mesh {other}"))
                    .hint("give one of the two another name"));
            }
            // One host in both is where two sites meet; two hosts in both are a loop.
            let local = [spec.tunnel.local, before.tunnel.local];
            let mut shared: Vec<_> =
                spec.peers.iter().filter(|p| before.peers.contains(p)).copied().collect();
            shared.sort_unstable_by_key(|p| (local.contains(&Some(*p)), *p));
            if let [one, .., another] = shared.as_slice()
                && overlap(&spec.member(name, *one, &[]), &before.member(other, *one, &[]))?
            {
                return Err(Error::invalid(format!(
                    "meshes {other} and {name} both connect bridge {} with {one} and {another}: \
                     frames would go round",
                    spec.bridge
                ))
                .hint("use one mesh, two bridges, or VLANs that are not the same"));
            }
        }
    }
    Ok(())
}

/// Whether two ports have a VLAN of the bridge in common.
fn overlap(one: &PortSpec, other: &PortSpec) -> Result<bool> {
    let (one, other) = (port_config(one)?, port_config(other)?);
    let carries = |config: &trunkline_switch::PortConfig, vid: VlanId| match config.vlan_mode {
        trunkline_switch::VlanMode::Access => config.tag == vid,
        _ => config.trunks.contains(vid),
    };
    Ok((0..=4094).filter_map(VlanId::new).any(|vid| carries(&one, vid) && carries(&other, vid)))
}

/// Whether the remote of a static entry is one of its port's.
pub(super) fn static_remote(entry: &StaticFdb, port: &PortSpec) -> Result<()> {
    let Some(remote) = entry.remote else { return Ok(()) };
    let Some((_, t)) = port.kind.tunnel() else {
        return Err(Error::invalid(format!("port {} is no tunnel and has no remote {remote}", entry.port))
            .hint("leave remote out"));
    };
    host("remote", remote)?;
    let in_group = t.group.is_some_and(|group| group.is_ipv4() == remote.is_ipv4());
    if in_group || t.remotes.contains(&remote) {
        return Ok(());
    }
    Err(Error::invalid(format!("{remote} is no remote of port {}", entry.port))
        .hint("what it sends would be refused: add it to the port's remotes"))
}

/// A user's split-horizon group is none of those of meshes.
pub(super) fn split_horizon(spec: &PortSpec) -> Result<()> {
    match spec.split_horizon_group {
        Some(group) if group >= FIRST_MESH_GROUP => {
            Err(Error::invalid(format!("split-horizon-group {group} is out of range"))
                .hint(format!("use 0 to {}", FIRST_MESH_GROUP - 1)))
        }
        _ => Ok(()),
    }
}

/// Refuses tunnels that would take the same packets: of two, the one that is as it was is not to blame. Both
/// states have their meshes' ports in them.
pub(super) fn tables(old: &Desired, desired: &Desired) -> Result<()> {
    let mut underlays: BTreeMap<Option<&str>, (Vec<Endpoint>, Vec<&str>)> = BTreeMap::new();
    let mut shared: Vec<(&str, Option<&str>, Kind, u16)> = Vec::new();
    let (kept, edited): (Vec<_>, Vec<_>) =
        desired.ports.iter().partition(|(name, spec)| old.ports.get(*name) == Some(*spec));
    for (name, spec) in kept.into_iter().chain(edited) {
        let Some((kind, t)) = spec.kind.tunnel() else { continue };
        if let Some(uplink) = &t.underlay {
            underlay(desired, uplink, t).map_err(|e| e.within(owner(name)))?;
        }
        on_host_addresses(desired, &mut shared, name, (kind, t)).map_err(|e| e.within(owner(name)))?;
        let (endpoints, names) = underlays.entry(t.underlay.as_deref()).or_default();
        let id = u16::try_from(names.len()).map_or(PortId::NONE, PortId);
        endpoints.push(endpoint(id, kind, t, spec).map_err(|e| e.within(owner(name)))?);
        names.push(name);
    }
    for (endpoints, names) in underlays.into_values() {
        let name = |port: PortId| names.get(usize::from(port.0)).copied().unwrap_or_default();
        let sharing = |port: u16| {
            let mut users = endpoints.iter().filter(|e| e.dst_port == port);
            let first = users.next()?;
            let second = users.find(|e| e.kind != first.kind)?;
            Some((name(first.port), name(second.port)))
        };
        let error = match Tunnels::new(endpoints.clone()) {
            Ok(_) => continue,
            Err(error) => error,
        };
        return Err(match error {
            TableError::Invalid { port, why } => Error::invalid(why).within(owner(name(port))),
            TableError::Conflict { first, second } => {
                let what = format!("{} has the same type, addresses and VNI or key", owner(name(first)));
                Error::conflict(what)
                    .hint("give one of the two another VNI, key or remote")
                    .within(owner(name(second)))
            }
            TableError::SharedPort(port) => {
                let (first, second) = sharing(port).unwrap_or_default();
                let what = format!("UDP port {port} is that of {}, which is of another type", owner(first));
                Error::conflict(what).hint("give one of the two another dst-port").within(owner(second))
            }
        });
    }
    Ok(())
}

/// Whether an uplink can carry a tunnel.
fn underlay(desired: &Desired, uplink: &str, t: &TunnelSpec) -> Result<()> {
    let sockets = "without underlay the kernel's sockets are used";
    if !desired.uplinks.contains_key(uplink) {
        return Err(Error::not_found(format!("there is no uplink {uplink}"))
            .hint(format!("see: trunkline uplink list; {sockets}")));
    }
    if t.group.is_some() {
        return Err(Error::invalid("a group needs the kernel's sockets").hint("leave underlay out"));
    }
    Ok(())
}

/// What a shared uplink takes of the host's addresses, the kernel's sockets do not get: a UDP port, or GRE, is
/// the one's or the other's. `before` are the tunnels that were looked at, by name, with their underlay.
fn on_host_addresses<'a>(
    desired: &'a Desired,
    before: &mut Vec<(&'a str, Option<&'a str>, Kind, u16)>,
    name: &'a str,
    (kind, t): (Kind, &'a TunnelSpec),
) -> Result<()> {
    let by = t.underlay.as_deref();
    let uplink = by.and_then(|uplink| desired.uplinks.get(uplink));
    if by.is_some() && !uplink.is_some_and(|u| matches!(u.kind, UplinkKind::Shared(_))) {
        return Ok(());
    }
    let port = dst_port(kind, t);
    let same = |k: Kind, p: u16| k.is_udp() == kind.is_udp() && (!kind.is_udp() || p == port);
    // Two shared uplinks have addresses of their own.
    let other = before.iter().find(|(_, u, k, p)| (u.is_none() || by.is_none()) && *u != by && same(*k, *p));
    if let Some((other, ..)) = other {
        let (sockets, shared) = if by.is_none() { (name, *other) } else { (*other, name) };
        let what = if kind.is_udp() { format!("UDP port {port}") } else { "GRE".to_owned() };
        return Err(Error::conflict(format!(
            "{what} is taken for {} by the kernel's sockets and for {} by an uplink shared with the host",
            owner(sockets),
            owner(shared)
        ))
        .hint("give both the same underlay, or leave it out of both"));
    }
    before.push((name, by, kind, port));
    Ok(())
}

/// The UDP port of a tunnel, at both ends.
pub(crate) fn dst_port(kind: Kind, t: &TunnelSpec) -> u16 {
    t.dst_port.unwrap_or(Endpoint::new(PortId::NONE, kind, NetId::None).dst_port)
}

/// What a user calls the object that a port comes from.
fn owner(port: &str) -> String {
    match member_of(port) {
        Some((mesh, peer)) => format!("mesh {mesh}, peer {peer}"),
        None => format!("port {port}"),
    }
}

/// A tunnel as the packet path has it; `inner_mtu` and what follows from the path are for the caller.
///
/// # Errors
/// When the VLAN map is malformed, or a number is out of range.
pub(crate) fn endpoint(port: PortId, kind: Kind, t: &TunnelSpec, spec: &PortSpec) -> Result<Endpoint> {
    let net = |n: u32| match kind {
        Kind::Gre => Ok(NetId::Key(GreKey(n))),
        _ => Vni::new(n).map(NetId::Vni).ok_or_else(|| Error::invalid(format!("vni {n} is out of range"))),
    };
    let one = if kind == Kind::Gre { t.key } else { t.vni };
    let nets = match (&t.vlan_map, one) {
        (Some(map), _) => {
            let map = parse_vlan_map(map, most(kind))?;
            Nets::Map(map.into_iter().map(|(vid, n)| Ok((vid, net(n)?))).collect::<Result<_>>()?)
        }
        (None, Some(n)) => Nets::One(net(n)?),
        (None, None) => Nets::One(NetId::None),
    };
    let default = Endpoint::new(port, kind, NetId::None);
    let dst_port = dst_port(kind, t);
    Ok(Endpoint {
        local: t.local,
        group: t.group,
        // The group stands for all who listen to it; others are sent to one by one.
        remotes: t.group.iter().chain(&t.remotes).copied().collect(),
        nets,
        dst_port,
        tos: match t.tos {
            Some(Inherit::Inner) => Tos::Inherit,
            Some(Inherit::Fixed(tos)) => Tos::Fixed(tos),
            None => default.tos,
        },
        ttl: match t.ttl {
            Some(Inherit::Inner) => Ttl::Inherit,
            Some(Inherit::Fixed(ttl)) => Ttl::Fixed(ttl),
            None => default.ttl,
        },
        df: t.df,
        udp_checksum: t.udp_csum,
        zero_checksum_v6: t.zero_csum6,
        inner_vlan: match inner_vlan(kind, t, spec) {
            InnerVlan::Strip => trunkline_tunnel::InnerVlan::Strip,
            InnerVlan::Keep => trunkline_tunnel::InnerVlan::Keep,
        },
        gre_checksum: t.csum,
        gre_sequence: t.seq,
        ..default
    })
}

#[cfg(test)]
mod tests;
