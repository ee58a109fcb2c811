//! Docker's networks: a bridge or a VLAN of one, a gateway, a masquerade.

use std::net::IpAddr;

use ipnet::IpNet;

use super::options::{NetworkOptions, Publishing};
use super::protocol::{CreateNetwork, IpamData};
use super::{UPLINK, endpoints, is_ours, mac_of, short};
use crate::model::docker::DockerNetwork;
use crate::model::l3::{GatewaySpec, Masquerade, NatKind, NatSpec, SharedUplink, UplinkKind, UplinkSpec};
use crate::model::{BridgeSpec, Desired, Owner};
use crate::validate::uplink::own_addresses;
use crate::{Error, Result};

/// Makes a network. Docker may ask twice for one when the first answer got lost: the second changes nothing.
/// `has_default`: whether the host has a default route that an uplink can share.
pub(super) fn create(desired: &mut Desired, asked: &CreateNetwork, has_default: bool) -> Result<()> {
    let id = &asked.network_id;
    if desired.docker.as_ref().is_some_and(|d| d.networks.contains_key(id)) {
        return Ok(());
    }
    let options = NetworkOptions::read(&asked.options)?;
    let (subnets, gateways) = addresses(asked)?;
    let (bridge, own_bridge) = bridge(desired, id, &options)?;
    let place = options.vlan.map_or_else(|| bridge.clone(), |vlan| format!("{bridge}.{vlan}"));
    if let Some((other, _)) = networks(desired).find(|(_, n)| n.bridge == bridge && n.vlan == options.vlan) {
        let taken = format!("{place} is that of docker network {} already", short(other));
        return Err(Error::conflict(taken).hint("give this one another bridge, or a VLAN with -o vlan="));
    }
    let routed = !options.internal && !gateways.is_empty();
    let own_gateway = routed && gateway(desired, &place, &gateways, &options)?;
    let uplink = match routed {
        true => uplink(desired, options.uplink.as_deref(), has_default)?,
        false => match &options.uplink {
            Some(uplink) => {
                return Err(Error::invalid(format!(
                    "option uplink={uplink}: nothing leads out of this network"
                ))
                .hint("leave it out, or --internal"));
            }
            None => None,
        },
    };
    let mut network = DockerNetwork {
        bridge,
        own_bridge,
        vlan: options.vlan,
        gateways: gateways.iter().map(IpNet::addr).collect(),
        subnets,
        own_gateway,
        internal: options.internal,
        icc: options.icc,
        mtu: options.mtu,
        uplink,
        proxy: options.publishing == Publishing::Proxy,
        nat: Vec::new(),
    };
    masquerade(desired, id, &mut network);
    desired.docker.get_or_insert_default().networks.insert(id.clone(), network);
    Ok(())
}

/// Removes a network with what was made for it. One that is not there is no error: docker may ask again.
pub(super) fn delete(desired: &mut Desired, id: &str) -> Result<()> {
    let endpoints = desired.docker.iter().flat_map(|d| d.endpoints.iter());
    let left: Vec<String> = endpoints.filter(|(_, e)| e.network == id).map(|(id, _)| id.clone()).collect();
    for endpoint in left {
        endpoints::delete(desired, &endpoint);
    }
    let Some(network) = desired.docker.as_mut().and_then(|d| d.networks.remove(id)) else { return Ok(()) };
    for name in &network.nat {
        desired.nat.remove(name);
    }
    if network.own_gateway {
        desired.gateways.remove(&network.place());
    }
    if network.own_bridge {
        desired.bridges.remove(&network.bridge);
    }
    super::drop_uplinks(desired);
    Ok(())
}

fn networks(desired: &Desired) -> impl Iterator<Item = (&String, &DockerNetwork)> {
    desired.docker.iter().flat_map(|d| d.networks.iter())
}

impl DockerNetwork {
    /// The name of its gateway.
    pub(super) fn place(&self) -> String {
        self.vlan.map_or_else(|| self.bridge.clone(), |vlan| format!("{}.{vlan}", self.bridge))
    }
}

/// Subnets and gateways of docker's IPAM.
fn addresses(asked: &CreateNetwork) -> Result<(Vec<IpNet>, Vec<IpNet>)> {
    let parse = |text: &String| {
        let wrong = |_| Error::invalid(format!("'{text}' is not an address with a prefix length"));
        text.parse::<IpNet>().map_err(wrong)
    };
    let all = || asked.ipv4.iter().chain(&asked.ipv6);
    let given = |of: fn(&IpamData) -> &String| all().map(of).filter(|text| !text.is_empty()).map(parse);
    // With `--ipam-driver null` there is one subnet, that of every address.
    let subnets: Result<Vec<IpNet>> = given(|d| &d.pool).collect();
    let subnets = subnets?.into_iter().filter(|net| net.prefix_len() > 0).map(|net| net.trunc()).collect();
    let gateways: Result<Vec<IpNet>> = given(|d| &d.gateway).collect();
    Ok((subnets, gateways?.into_iter().filter(|net| net.prefix_len() > 0).collect()))
}

/// Finds or makes the bridge; true when it was made.
fn bridge(desired: &mut Desired, id: &str, options: &NetworkOptions) -> Result<(String, bool)> {
    if let Some(name) = &options.mesh {
        let mesh = desired.meshes.get(name).ok_or_else(|| {
            Error::not_found(format!("option mesh={name}: there is no mesh {name}"))
                .hint("make it first: trunkline mesh add --help")
        })?;
        return match &options.bridge {
            Some(bridge) if *bridge != mesh.bridge => Err(Error::conflict(format!(
                "options bridge={bridge} and mesh={name}: that mesh is on bridge {}",
                mesh.bridge
            ))
            .hint("leave the bridge out")),
            _ => Ok((mesh.bridge.clone(), false)),
        };
    }
    match &options.bridge {
        Some(bridge) if desired.bridges.contains_key(bridge) => Ok((bridge.clone(), false)),
        Some(bridge) => Err(Error::not_found(format!("option bridge={bridge}: there is no bridge {bridge}"))
            .hint(format!("make it first: trunkline bridge add {bridge}; or leave the option out"))),
        None => {
            let name = format!("docker-{}", short(id));
            desired.bridges.insert(name.clone(), BridgeSpec { owner: Owner::Docker, ..Default::default() });
            Ok((name, true))
        }
    }
}

/// Finds or makes the gateway; true when it was made.
fn gateway(
    desired: &mut Desired,
    place: &str,
    addresses: &[IpNet],
    options: &NetworkOptions,
) -> Result<bool> {
    if let Some(there) = desired.gateways.get(place) {
        let missing = addresses.iter().find(|a| !there.addresses.iter().any(|t| t.addr() == a.addr()));
        return match missing {
            None => Ok(false),
            Some(address) => Err(Error::conflict(format!(
                "gateway {place} is there already, without the address {}",
                address.addr()
            ))
            .hint("give docker its subnet and --gateway, or this network a VLAN of its own with -o vlan=")),
        };
    }
    let spec = GatewaySpec {
        owner: Owner::Docker,
        addresses: addresses.to_vec(),
        // The same one on every host of a mesh: each is the gateway of its own containers.
        mac: addresses.first().map(|a| mac_of(a.addr())),
        mtu: options.mtu,
        dhcp_range: None,
        dhcp_lease: None,
        reservations: Default::default(),
        ra: false,
        dns: Vec::new(),
        domain: None,
        icc: options.icc,
        private: false,
    };
    desired.gateways.insert(place.to_owned(), spec);
    Ok(true)
}

/// Finds the way out, or makes it: the host's own address, shared.
fn uplink(desired: &mut Desired, given: Option<&str>, has_default: bool) -> Result<Option<String>> {
    if let Some(name) = given {
        return match desired.uplinks.contains_key(name) {
            true => Ok(Some(name.to_owned())),
            false => Err(Error::not_found(format!("option uplink={name}: there is no uplink {name}"))
                .hint("see: trunkline uplink list")),
        };
    }
    let mut there = desired.uplinks.keys().filter(|name| !is_ours(name));
    match (there.next(), there.next()) {
        (Some(only), None) => return Ok(Some(only.clone())),
        (Some(_), Some(_)) => {
            let names = desired.uplinks.keys().filter(|name| !is_ours(name)).cloned().collect::<Vec<_>>();
            return Err(Error::invalid(format!("there are several uplinks: {}", names.join(", ")))
                .hint("say which is this network's way out with -o uplink="));
        }
        (None, _) => {}
    }
    if !has_default && !desired.uplinks.contains_key(UPLINK) {
        tracing::info!("the host has no default route: nothing leads out of the new docker network");
        return Ok(None);
    }
    desired.uplinks.entry(UPLINK.to_owned()).or_insert_with(|| UplinkSpec {
        owner: Owner::Docker,
        kind: UplinkKind::Shared(SharedUplink::default()),
        nd_proxy: Vec::new(),
    });
    Ok(Some(UPLINK.to_owned()))
}

/// IPv4 is masqueraded, as docker does; IPv6 where its addresses mean nothing outside (RFC 4193) and the
/// uplink has some that do.
fn masquerade(desired: &mut Desired, id: &str, network: &mut DockerNetwork) {
    let Some(uplink) = &network.uplink else { return };
    let outside = desired.uplinks.get(uplink).map_or(&[][..], own_addresses);
    let nat66 = outside.iter().any(|a| a.addr().is_ipv6());
    let translated = |net: &&IpNet| match net.addr() {
        IpAddr::V4(_) => true,
        IpAddr::V6(a) => nat66 && a.is_unique_local(),
    };
    let mut made = Vec::new();
    for (n, net) in network.subnets.iter().filter(translated).enumerate() {
        let spec = NatSpec {
            owner: Owner::Docker,
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
        made.push((format!("docker-{}-{n}", short(id)), spec));
    }
    network.nat = made.iter().map(|(name, _)| name.clone()).collect();
    desired.nat.extend(made);
}
