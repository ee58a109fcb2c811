//! Published ports: NAT rules of the uplink for clients elsewhere, and of the link between the host and the
//! switch, which is how the daemon hands on what reaches the host itself.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{LINK, endpoints, short};
use crate::model::docker::{DockerEndpoint, DockerNetwork, DockerPort};
use crate::model::l3::{
    HostUplink, NatKind, NatSpec, PortRange, Proto, Publish, Target, UplinkKind, UplinkSpec,
};
use crate::model::{Desired, Owner};
use crate::{Error, Result};

/// The host's end of the link is the first address of these networks (RFC 3927; RFC 4193).
const LINK4: &str = "169.254.113.2/30";
const LINK6: &str = "fd74:6c64:6f63::2/126";
const LINK_INTERFACE: &str = "tl-docker";
/// The ports of the link that are used when the host's own is taken there.
const LINK_PORTS: std::ops::RangeInclusive<u16> = 20_000..=60_999;

/// The switch's address on the link.
pub(super) fn link_address(v4: bool) -> IpAddr {
    let net: IpNet = if v4 { LINK4 } else { LINK6 }.parse().expect("a constant");
    net.addr()
}

/// A port that the host's socket holds already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Held {
    pub(super) proto: Proto,
    pub(super) host: Option<IpAddr>,
    pub(super) port: u16,
    pub(super) to: u16,
}

/// Publishes ports of an endpoint. `outside`: the addresses in force on the network's uplink.
pub(super) fn publish(
    desired: &mut Desired,
    id: &str,
    held: &[Held],
    outside: &[IpAddr],
) -> Result<Vec<DockerPort>> {
    endpoints::unpublish(desired, id);
    let (network, endpoint) = endpoints::find(desired, id)?;
    let (network, endpoint) = (network.clone(), endpoint.clone());
    if endpoint.addresses.is_empty() || network.gateways.is_empty() || network.internal {
        return Err(Error::invalid("ports of this network cannot be published: it has no gateway")
            .hint("create it with a subnet, and without --internal"));
    }
    add_link(desired);
    let mut published = Vec::new();
    for (n, held) in held.iter().enumerate() {
        let link = link_port(desired, &published, held);
        let rules = rules(id, n, &network, &endpoint, held, link, outside);
        let nat = rules.iter().map(|(name, _)| name.clone()).collect();
        desired.nat.extend(rules);
        let Held { proto, host, port, to } = *held;
        published.push(DockerPort { proto, host, port, to, link, nat });
    }
    endpoints::find_mut(&mut desired.docker, id)?.published.clone_from(&published);
    Ok(published)
}

/// The address of the container that is meant for clients of a family; another one if it has none of that.
pub(super) fn target(endpoint: &DockerEndpoint, v4: bool) -> Option<IpAddr> {
    let addresses = || endpoint.addresses.iter().map(IpNet::addr);
    addresses().find(|a| a.is_ipv4() == v4).or_else(|| addresses().next())
}

fn rules(
    id: &str,
    n: usize,
    network: &DockerNetwork,
    endpoint: &DockerEndpoint,
    held: &Held,
    link: u16,
    outside: &[IpAddr],
) -> Vec<(String, NatSpec)> {
    let stem = format!("docker-{}-{n}-{}-{}", short(id), held.proto.name(), held.port);
    let one = |port| PortRange { first: port, last: port };
    let rule = |suffix: &str, uplink: &str, port: u16, to: IpAddr, external: Option<IpAddr>| {
        let spec = NatSpec {
            owner: Owner::Docker,
            uplink: uplink.to_owned(),
            bridge: Some(network.bridge.clone()),
            kind: NatKind::Publish(Publish {
                proto: held.proto,
                port: one(port),
                to: Target { addr: to, ports: Some(one(held.to)) },
                external,
            }),
        };
        (format!("{stem}{suffix}"), spec)
    };
    let mut rules = Vec::new();
    if let Some(uplink) = network.uplink.as_ref().filter(|_| !network.proxy) {
        for v4 in [true, false] {
            let inside = endpoint.addresses.iter().map(IpNet::addr).find(|a| a.is_ipv4() == v4);
            let Some(inside) = inside else { continue };
            let reachable = match held.host {
                Some(host) => host.is_ipv4() == v4 && outside.contains(&host),
                None => outside.iter().any(|a| a.is_ipv4() == v4),
            };
            if reachable {
                rules.push(rule(if v4 { "" } else { "-6" }, uplink, held.port, inside, held.host));
            }
        }
    }
    if let Some(inside) = target(endpoint, true) {
        rules.push(rule("-host", LINK, link, inside, None));
    }
    rules
}

/// A port of the link that leads to nobody else: the host's own where that is free.
fn link_port(desired: &Desired, more: &[DockerPort], held: &Held) -> u16 {
    let endpoints = desired.docker.iter().flat_map(|d| d.endpoints.values());
    let taken: std::collections::BTreeSet<u16> = endpoints
        .flat_map(|e| &e.published)
        .chain(more)
        .filter(|p| p.proto == held.proto)
        .map(|p| p.link)
        .collect();
    let mut ports = std::iter::once(held.port).chain(LINK_PORTS);
    // There are more ports than a daemon has NAT rules.
    ports.find(|port| !taken.contains(port)).unwrap_or(held.port)
}

fn add_link(desired: &mut Desired) {
    desired.uplinks.entry(LINK.to_owned()).or_insert_with(|| UplinkSpec {
        owner: Owner::Docker,
        kind: UplinkKind::Host(HostUplink {
            interface: Some(LINK_INTERFACE.to_owned()),
            addresses: [LINK4, LINK6].iter().map(|net| net.parse().expect("a constant")).collect(),
            gateways: Vec::new(),
            mac: None,
            mtu: None,
            link_only: true,
        }),
        nd_proxy: Vec::new(),
    });
}
