//! Docker's endpoints: an interface for a container, handed over to docker.

use std::net::IpAddr;

use ipnet::IpNet;

use super::protocol::{CreateEndpoint, Interface, InterfaceName, Joined};
use super::{mac_of, short};
use crate::endpoint::no_gateway;
use crate::endpoint::ports::{Held, Publisher};
use crate::model::attach::{Network, Published};
use crate::model::docker::{DockerEndpoint, DockerSpec};
use crate::model::{Desired, LinkSpec, Owner, PortSpec, TapSpec};
use crate::{Error, Result};

/// Longest name of an interface, bytes, is 15: two letters, this much of the id, and the generation.
const ID_IN_NAME: usize = 10;

/// The name of an endpoint's port.
pub(super) fn port_name(id: &str) -> String {
    format!("docker-{}", short(id))
}

/// The name of its interface until docker gives it another.
pub(super) fn interface(id: &str, endpoint: &DockerEndpoint) -> String {
    let id: String = id.chars().take(ID_IN_NAME).collect();
    match endpoint.generation % 1000 {
        0 => format!("dk{id}"),
        n => format!("dk{id}{n}"),
    }
}

/// What docker is told of an endpoint it does not get.
fn no_network(id: &str) -> Error {
    Error::not_found(format!("network {} is not known to trunkline", short(id)))
        .hint("its state was lost: docker network rm and create it again")
}

fn no_endpoint(id: &str) -> Error {
    Error::not_found(format!("endpoint {} is not known to trunkline", short(id)))
        .hint("its state was lost: restart the container")
}

pub(super) fn find<'d>(desired: &'d Desired, id: &str) -> Result<(&'d Network, &'d DockerEndpoint)> {
    let docker = desired.docker.as_ref().ok_or_else(|| no_endpoint(id))?;
    let endpoint = docker.endpoints.get(id).ok_or_else(|| no_endpoint(id))?;
    let network = docker.networks.get(&endpoint.network).ok_or_else(|| no_network(&endpoint.network))?;
    Ok((network, endpoint))
}

pub(super) fn find_mut<'d>(docker: &'d mut Option<DockerSpec>, id: &str) -> Result<&'d mut DockerEndpoint> {
    docker.as_mut().and_then(|d| d.endpoints.get_mut(id)).ok_or_else(|| no_endpoint(id))
}

/// Makes an endpoint with its port; answers what docker left open. Docker may ask twice for one when the first
/// answer got lost.
pub(super) fn create(desired: &mut Desired, asked: &CreateEndpoint) -> Result<Interface> {
    let networks = desired.docker.as_ref().map(|d| &d.networks);
    let network =
        networks.and_then(|n| n.get(&asked.network_id)).ok_or_else(|| no_network(&asked.network_id))?;
    let answer = |mac: &str| Interface {
        mac_address: if asked.interface.mac_address.is_empty() { mac.to_owned() } else { String::new() },
        ..Interface::default()
    };
    let id = &asked.endpoint_id;
    if let Ok((_, there)) = find(desired, id) {
        return Ok(answer(&there.mac));
    }
    let mut addresses = Vec::new();
    for text in [&asked.interface.address, &asked.interface.address_ipv6] {
        if !text.is_empty() {
            let wrong = |_| Error::invalid(format!("'{text}' is not an address with a prefix length"));
            addresses.push(text.parse::<IpNet>().map_err(wrong)?);
        }
    }
    let mac = match (asked.interface.mac_address.as_str(), addresses.first()) {
        ("", Some(net)) => mac_of(net.addr()),
        // Nothing to make one of but the id.
        ("", None) => mac_of_id(id),
        (given, _) => given.to_lowercase(),
    };
    let endpoint = DockerEndpoint {
        network: asked.network_id.clone(),
        addresses,
        mac: mac.clone(),
        generation: 0,
        sandbox: None,
        published: Vec::new(),
    };
    let port = port(id, network, &endpoint);
    desired.ports.insert(port_name(id), port);
    desired.docker.get_or_insert_default().endpoints.insert(id.clone(), endpoint);
    Ok(answer(&mac))
}

fn mac_of_id(id: &str) -> String {
    let mut mac = String::from("02");
    for at in 0..5 {
        let byte = id.get(at * 2..at * 2 + 2).filter(|s| s.bytes().all(|b| b.is_ascii_hexdigit()));
        mac.push(':');
        mac.push_str(&byte.unwrap_or("42").to_lowercase());
    }
    mac
}

/// The port of an endpoint.
fn port(id: &str, network: &Network, endpoint: &DockerEndpoint) -> PortSpec {
    let link = LinkSpec { mac: Some(endpoint.mac.clone()), mtu: network.mtu, ..LinkSpec::default() };
    let tap =
        TapSpec { ifname: Some(interface(id, endpoint)), handed_over: true, link, ..TapSpec::default() };
    let labels = [("docker-network".to_owned(), short(&endpoint.network).to_owned())].into();
    PortSpec { labels, ..network.port(Owner::Docker, tap, &endpoint.addresses) }
}

/// Notes the container's namespace; `anew`: the interface is made once more, the last one is gone.
pub(super) fn join(desired: &mut Desired, id: &str, sandbox: &str, anew: bool) -> Result<Joined> {
    let (network, endpoint) = find(desired, id)?;
    let network = network.clone();
    let mut endpoint = endpoint.clone();
    endpoint.sandbox = Some(sandbox.to_owned()).filter(|s| !s.is_empty());
    if anew {
        endpoint.generation += 1;
        desired.ports.insert(port_name(id), port(id, &network, &endpoint));
    }
    let gateway = |v4: bool| {
        let of_family = |a: &&IpAddr| a.is_ipv4() == v4;
        let has = endpoint.addresses.iter().any(|net| net.addr().is_ipv4() == v4);
        network.gateways.iter().find(of_family).copied().filter(|_| has && !network.internal)
    };
    let joined = Joined {
        interface_name: InterfaceName { src_name: interface(id, &endpoint), dst_prefix: "eth".to_owned() },
        gateway: gateway(true),
        gateway_ipv6: gateway(false),
        disable_gateway_service: network.internal || network.gateways.is_empty(),
    };
    *find_mut(&mut desired.docker, id)? = endpoint;
    Ok(joined)
}

/// The container is gone from the network. What is not there is no error.
pub(super) fn leave(desired: &mut Desired, id: &str) {
    unpublish(desired, id);
    if let Ok(endpoint) = find_mut(&mut desired.docker, id) {
        endpoint.sandbox = None;
    }
}

/// Publishes ports of an endpoint. `outside`: the addresses in force on the network's uplink.
pub(super) fn publish(
    desired: &mut Desired,
    id: &str,
    held: &[Held],
    outside: &[IpAddr],
) -> Result<Vec<Published>> {
    unpublish(desired, id);
    let (network, endpoint) = find(desired, id)?;
    let (network, endpoint) = (network.clone(), endpoint.clone());
    if endpoint.addresses.is_empty() || network.gateways.is_empty() || network.internal {
        return Err(no_gateway("create it with a subnet, and without --internal"));
    }
    let (stem, addresses) = (port_name(id), &endpoint.addresses);
    let publisher = Publisher { owner: Owner::Docker, stem: &stem, network: &network, addresses };
    let published = publisher.publish(desired, held, outside);
    find_mut(&mut desired.docker, id)?.published.clone_from(&published);
    Ok(published)
}

/// Takes an endpoint's published ports away.
pub(super) fn unpublish(desired: &mut Desired, id: &str) {
    let Ok(endpoint) = find_mut(&mut desired.docker, id) else { return };
    for name in std::mem::take(&mut endpoint.published).iter().flat_map(|p| &p.nat) {
        desired.nat.remove(name);
    }
}

/// Removes an endpoint with its port. One that is not there is no error.
pub(super) fn delete(desired: &mut Desired, id: &str) {
    unpublish(desired, id);
    let endpoint = desired.docker.as_mut().and_then(|d| d.endpoints.remove(id));
    if endpoint.is_some() {
        desired.remove_port(&port_name(id));
    }
}
