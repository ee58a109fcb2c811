//! A network of containers: a bridge or a VLAN of one, a gateway, a masquerade, a way out.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{UPLINK, is_ours, mac_of, networks};
use crate::model::attach::Network;
use crate::model::l3::{GatewaySpec, Masquerade, NatKind, NatSpec, SharedUplink, UplinkKind, UplinkSpec};
use crate::model::{BridgeSpec, Desired, Owner};
use crate::validate::uplink::own_addresses;
use crate::{Error, Result};

/// What is asked for.
pub(crate) struct Wish<'a> {
    pub(crate) owner: Owner,
    /// The network as its owner calls it: for messages.
    pub(crate) shown: &'a str,
    /// What names of things made for it begin with, and the name of its own bridge.
    pub(crate) stem: &'a str,
    pub(crate) bridge: Option<&'a str>,
    /// A bridge that is not there is made.
    pub(crate) make_bridge: bool,
    pub(crate) mesh: Option<&'a str>,
    pub(crate) vlan: Option<u16>,
    pub(crate) mtu: Option<u32>,
    pub(crate) icc: bool,
    pub(crate) internal: bool,
    /// The containers' subnets.
    pub(crate) subnets: Vec<IpNet>,
    /// Addresses of the switch; none: nothing is routed.
    pub(crate) gateways: Vec<IpNet>,
    pub(crate) masquerade: bool,
    pub(crate) uplink: Option<&'a str>,
    pub(crate) proxy: bool,
}

impl Wish<'_> {
    fn routed(&self) -> bool {
        !self.internal && !self.gateways.is_empty()
    }
}

impl Network {
    /// The name of its gateway.
    pub(crate) fn place(&self) -> String {
        place(&self.bridge, self.vlan)
    }
}

fn place(bridge: &str, vlan: Option<u16>) -> String {
    vlan.map_or_else(|| bridge.to_owned(), |vlan| format!("{bridge}.{vlan}"))
}

/// Makes a network. `has_default`: whether the host has a default route that an uplink can share.
pub(crate) fn make(desired: &mut Desired, wish: &Wish<'_>, has_default: bool) -> Result<Network> {
    if let (Some(uplink), false) = (wish.uplink, wish.routed()) {
        return Err(Error::invalid(format!("uplink {uplink}: nothing leads out of this network"))
            .hint("leave the uplink out, or give the network a gateway"));
    }
    let (bridge, own_bridge) = bridge(desired, wish)?;
    let place = place(&bridge, wish.vlan);
    if let Some((other, _)) = networks(desired).find(|(_, n)| n.bridge == bridge && n.vlan == wish.vlan) {
        let other = if desired.networks.contains_key(other) { other } else { super::short(other) };
        let taken = format!("{place} is that of network {other} already");
        return Err(Error::conflict(taken).hint("give this one another bridge, or a VLAN of its own"));
    }
    let mut network = Network {
        bridge,
        own_bridge,
        vlan: wish.vlan,
        subnets: wish.subnets.clone(),
        gateways: wish.gateways.iter().map(IpNet::addr).collect(),
        own_gateway: false,
        internal: wish.internal,
        icc: wish.icc,
        anti_spoof: false,
        mtu: wish.mtu,
        uplink: None,
        proxy: wish.proxy,
        nat: Vec::new(),
    };
    route(desired, wish, &mut network, has_default)?;
    Ok(network)
}

/// Gives a network what a later attachment of it asks for besides: another subnet, a gateway, a way out.
pub(crate) fn extend(
    desired: &mut Desired,
    wish: &Wish<'_>,
    network: &mut Network,
    has_default: bool,
) -> Result<()> {
    let bridge = match (wish.mesh, wish.bridge) {
        (Some(name), _) => mesh_bridge(desired, name, wish.bridge)?,
        (None, bridge) => bridge.unwrap_or(wish.stem).to_owned(),
    };
    let differs = |what: &str, is: &str, asked: &str| {
        Err(Error::conflict(format!("network {} has containers with {what} {is}, not {asked}", wish.shown))
            .hint("remove these first, or give the network another name"))
    };
    if bridge != network.bridge {
        return differs("the bridge", &network.bridge, &bridge);
    }
    let vlan = |vlan: Option<u16>| vlan.map_or_else(|| "none".to_owned(), |v| v.to_string());
    if wish.vlan != network.vlan {
        return differs("the VLAN", &vlan(network.vlan), &vlan(wish.vlan));
    }
    if let (Some(asked), Some(is)) = (wish.uplink, &network.uplink)
        && asked != is
    {
        return differs("the uplink", is, asked);
    }
    for subnet in &wish.subnets {
        if !network.subnets.contains(subnet) {
            network.subnets.push(*subnet);
        }
    }
    for gateway in &wish.gateways {
        if !network.gateways.contains(&gateway.addr()) {
            network.gateways.push(gateway.addr());
        }
    }
    (network.mtu, network.icc, network.proxy) = (wish.mtu, wish.icc, wish.proxy);
    route(desired, wish, network, has_default)
}

/// Its gateway, its way out, its masquerade, as far as they are not there.
fn route(desired: &mut Desired, wish: &Wish<'_>, network: &mut Network, has_default: bool) -> Result<()> {
    if !wish.routed() {
        return Ok(());
    }
    network.own_gateway |= gateway(desired, network, wish)?;
    if network.uplink.is_none() {
        network.uplink = uplink(desired, wish, has_default)?;
    }
    if wish.masquerade {
        masquerade(desired, wish, network);
    }
    Ok(())
}

/// Removes what was made for a network. Its endpoints are gone already, and so is what noted it.
pub(crate) fn remove(desired: &mut Desired, network: &Network) {
    for name in &network.nat {
        desired.nat.remove(name);
    }
    if network.own_gateway {
        desired.gateways.remove(&network.place());
    }
    let heir = |n: &Network| n.bridge == network.bridge;
    let used = desired.ports.values().any(|p| p.bridge == network.bridge)
        || desired.meshes.values().any(|m| m.bridge == network.bridge);
    let shared = networks(desired).any(|(_, n)| heir(n));
    if network.own_bridge && shared {
        // The last one removes it.
        let docker = desired.docker.iter_mut().flat_map(|d| d.networks.values_mut());
        let heirs = docker.chain(desired.networks.values_mut()).filter(|n| heir(n));
        heirs.for_each(|n| n.own_bridge = true);
    } else if network.own_bridge && !used {
        desired.bridges.remove(&network.bridge);
    }
    super::drop_uplinks(desired);
}

fn mesh_bridge(desired: &Desired, name: &str, bridge: Option<&str>) -> Result<String> {
    let mesh = desired.meshes.get(name).ok_or_else(|| {
        Error::not_found(format!("there is no mesh {name}")).hint("make it first: trunkline mesh add --help")
    })?;
    match bridge {
        Some(bridge) if *bridge != mesh.bridge => Err(Error::conflict(format!(
            "bridge {bridge} and mesh {name}: that mesh is on bridge {}",
            mesh.bridge
        ))
        .hint("leave the bridge out")),
        _ => Ok(mesh.bridge.clone()),
    }
}

/// Finds or makes the bridge; true when it was made.
fn bridge(desired: &mut Desired, wish: &Wish<'_>) -> Result<(String, bool)> {
    if let Some(name) = wish.mesh {
        return mesh_bridge(desired, name, wish.bridge).map(|bridge| (bridge, false));
    }
    let name = wish.bridge.unwrap_or(wish.stem);
    if wish.bridge.is_some() && desired.bridges.contains_key(name) {
        return Ok((name.to_owned(), false));
    }
    if wish.bridge.is_some() && !wish.make_bridge {
        return Err(Error::not_found(format!("there is no bridge {name}"))
            .hint(format!("make it first: trunkline bridge add {name}; or leave the option out")));
    }
    desired.bridges.insert(name.to_owned(), BridgeSpec { owner: wish.owner, ..Default::default() });
    Ok((name.to_owned(), true))
}

/// Finds or makes the gateway; true when it was made.
fn gateway(desired: &mut Desired, network: &Network, wish: &Wish<'_>) -> Result<bool> {
    let place = network.place();
    if let Some(there) = desired.gateways.get_mut(&place) {
        let missing = |a: &&IpNet| !there.addresses.iter().any(|t| t.addr() == a.addr());
        let missing: Vec<IpNet> = wish.gateways.iter().filter(missing).copied().collect();
        let Some(first) = missing.first() else { return Ok(false) };
        if network.own_gateway {
            there.addresses.extend(&missing);
            return Ok(true);
        }
        return Err(Error::conflict(format!(
            "gateway {place} is there already, without the address {}",
            first.addr()
        ))
        .hint("give the network that gateway's subnet and address, or a VLAN of its own"));
    }
    let spec = GatewaySpec {
        owner: wish.owner,
        addresses: wish.gateways.clone(),
        // The same one on every host of a mesh: each is the gateway of its own containers.
        mac: wish.gateways.first().map(|a| mac_of(a.addr())),
        mtu: wish.mtu,
        dhcp_range: None,
        dhcp_lease: None,
        reservations: Default::default(),
        ra: false,
        dns: Vec::new(),
        domain: None,
        icc: wish.icc,
        private: false,
    };
    desired.gateways.insert(place, spec);
    Ok(true)
}

/// Finds the way out, or makes it: the host's own address, shared.
fn uplink(desired: &mut Desired, wish: &Wish<'_>, has_default: bool) -> Result<Option<String>> {
    if let Some(name) = wish.uplink {
        return match desired.uplinks.contains_key(name) {
            true => Ok(Some(name.to_owned())),
            false => {
                Err(Error::not_found(format!("there is no uplink {name}")).hint("see: trunkline uplink list"))
            }
        };
    }
    let mut there = desired.uplinks.keys().filter(|name| !is_ours(name));
    match (there.next(), there.next()) {
        (Some(only), None) => return Ok(Some(only.clone())),
        (Some(_), Some(_)) => {
            let names = desired.uplinks.keys().filter(|name| !is_ours(name)).cloned().collect::<Vec<_>>();
            return Err(Error::invalid(format!("there are several uplinks: {}", names.join(", ")))
                .hint("say which is this network's way out with the option uplink"));
        }
        (None, _) => {}
    }
    if !has_default && !desired.uplinks.contains_key(UPLINK) {
        tracing::info!(network = wish.shown, "the host has no default route: nothing leads out");
        return Ok(None);
    }
    desired.uplinks.entry(UPLINK.to_owned()).or_insert_with(|| UplinkSpec {
        owner: wish.owner,
        kind: UplinkKind::Shared(SharedUplink::default()),
        nd_proxy: Vec::new(),
    });
    Ok(Some(UPLINK.to_owned()))
}

/// IPv4 is masqueraded. IPv6 is where its addresses mean nothing outside (RFC 4193) and the uplink has some that
/// do, and wherever the host's own address is shared: what comes for others than that is the host's kernel's.
fn masquerade(desired: &mut Desired, wish: &Wish<'_>, network: &mut Network) {
    let Some(uplink) = &network.uplink else { return };
    let spec = desired.uplinks.get(uplink);
    let shared = spec.is_some_and(|spec| matches!(spec.kind, UplinkKind::Shared(_)));
    let nat66 = spec.is_some_and(|spec| own_addresses(spec).iter().any(|a| a.addr().is_ipv6()));
    let translated = |net: &IpNet| match net.addr() {
        IpAddr::V4(_) => true,
        IpAddr::V6(a) => shared || (nat66 && a.is_unique_local()),
    };
    for (n, net) in network.subnets.iter().enumerate().filter(|(_, net)| translated(net)) {
        let name = format!("{}-{n}", wish.stem);
        if network.nat.contains(&name) {
            continue;
        }
        let spec = NatSpec {
            owner: wish.owner,
            uplink: uplink.clone(),
            bridge: Some(network.bridge.clone()),
            kind: NatKind::Masquerade(Masquerade {
                from: *net,
                pool: None,
                ports: None,
                filtering: None,
                nat66: net.addr().is_ipv6(),
            }),
        };
        desired.nat.insert(name.clone(), spec);
        network.nat.push(name);
    }
}
