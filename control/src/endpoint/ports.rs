//! Published ports: NAT rules of the uplink for clients elsewhere, and of the link between the host and the
//! switch, which is how the daemon hands on what reaches the host itself.

use std::net::IpAddr;

use ipnet::IpNet;

use super::LINK;
use crate::model::attach::{Network, Published};
use crate::model::l3::{
    HostUplink, NatKind, NatSpec, PortRange, Proto, Publish, Target, UplinkKind, UplinkSpec,
};
use crate::model::{Desired, Owner};

/// The host's end of the link is the first address of these networks (RFC 3927; RFC 4193).
const LINK4: &str = "169.254.113.2/30";
const LINK6: &str = "fd74:6c64:6f63::2/126";
const LINK_INTERFACE: &str = "tl-host";
/// The ports of the link that are used when the host's own is taken there.
const LINK_PORTS: std::ops::RangeInclusive<u16> = 20_000..=60_999;

/// The switch's address on the link.
pub(crate) fn link_address(v4: bool) -> IpAddr {
    let net: IpNet = if v4 { LINK4 } else { LINK6 }.parse().expect("a constant");
    net.addr()
}

/// A port that the host's socket holds already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Held {
    pub(crate) proto: Proto,
    pub(crate) host: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) to: u16,
}

/// Whose ports are published.
pub(crate) struct Publisher<'a> {
    pub(crate) owner: Owner,
    /// What the names of its NAT rules begin with.
    pub(crate) stem: &'a str,
    pub(crate) network: &'a Network,
    /// The container's.
    pub(crate) addresses: &'a [IpNet],
}

impl Publisher<'_> {
    /// Makes the rules for ports whose sockets are held. `outside`: the addresses in force on the network's
    /// uplink.
    pub(crate) fn publish(&self, desired: &mut Desired, held: &[Held], outside: &[IpAddr]) -> Vec<Published> {
        add_link(desired, self.owner);
        let mut published = Vec::new();
        for (n, held) in held.iter().enumerate() {
            let link = link_port(desired, &published, held);
            let rules = self.rules(n, held, link, outside);
            let nat = rules.iter().map(|(name, _)| name.clone()).collect();
            desired.nat.extend(rules);
            let Held { proto, host, port, to } = *held;
            published.push(Published { proto, host, port, to, link, nat });
        }
        published
    }

    fn rules(&self, n: usize, held: &Held, link: u16, outside: &[IpAddr]) -> Vec<(String, NatSpec)> {
        let stem = format!("{}-{n}-{}-{}", self.stem, held.proto.name(), held.port);
        let one = |port| PortRange { first: port, last: port };
        let rule = |suffix: &str, uplink: &str, port: u16, to: IpAddr, external: Option<IpAddr>| {
            let spec = NatSpec {
                owner: self.owner,
                uplink: uplink.to_owned(),
                bridge: Some(self.network.bridge.clone()),
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
        if let Some(uplink) = self.network.uplink.as_ref().filter(|_| !self.network.proxy) {
            for v4 in [true, false] {
                let inside = self.addresses.iter().map(IpNet::addr).find(|a| a.is_ipv4() == v4);
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
        if let Some(inside) = target(self.addresses, true) {
            rules.push(rule("-host", LINK, link, inside, None));
        }
        rules
    }
}

/// Of a container's addresses the one that is meant for clients of a family; another one if it has none of that.
pub(crate) fn target(addresses: &[IpNet], v4: bool) -> Option<IpAddr> {
    let addresses = || addresses.iter().map(IpNet::addr);
    addresses().find(|a| a.is_ipv4() == v4).or_else(|| addresses().next())
}

/// A port of the link that leads to nobody else: the host's own where that is free.
fn link_port(desired: &Desired, more: &[Published], held: &Held) -> u16 {
    let docker = desired.docker.iter().flat_map(|d| d.endpoints.values()).flat_map(|e| &e.published);
    let attached = desired.attachments.values().flat_map(|a| &a.published);
    let taken: std::collections::BTreeSet<u16> =
        docker.chain(attached).chain(more).filter(|p| p.proto == held.proto).map(|p| p.link).collect();
    let mut ports = std::iter::once(held.port).chain(LINK_PORTS);
    // There are more ports than a daemon has NAT rules.
    ports.find(|port| !taken.contains(port)).unwrap_or(held.port)
}

fn add_link(desired: &mut Desired, owner: Owner) {
    desired.uplinks.entry(LINK.to_owned()).or_insert_with(|| UplinkSpec {
        owner,
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
