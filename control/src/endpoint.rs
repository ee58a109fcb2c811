//! What docker, CNI and podman share: a container's place in a network of the switch.
//!
//! ```text
//! docker/  what docker says once for all: networks, endpoints ──┐
//!                                                               ├──▶ network  bridge, gateway, masquerade, uplink
//! attach   what CNI and podman say for each container ──────────┘    ports    NAT rules of published ports
//!                                                                    listen   sockets on the host's ports
//!                                                                    announce gratuitous ARP and ND
//! ```
//!
//! These parts edit a copy of the desired state; the controller realises an edit as a whole or not at all.

pub(crate) mod announce;
pub(crate) mod listen;
pub(crate) mod network;
pub(crate) mod ports;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use parking_lot::Mutex;

use crate::controller::Controller;
use crate::model::Desired;
use crate::model::attach::{Network, Published};
use crate::model::l3::CtFilter;
use crate::net::session;
use crate::{Error, Result};
use listen::{Carrier, Sockets};
use ports::Held;

/// The uplink that is made when there is none: the host's own address, shared.
pub(crate) const UPLINK: &str = "containers";
/// The uplink that leads to the host itself.
pub(crate) const LINK: &str = "containers-host";

/// Whether an uplink is one of those made here.
fn is_ours(uplink: &str) -> bool {
    uplink == UPLINK || uplink == LINK
}

/// As much of an id as docker and podman show.
pub(crate) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// The MAC address of whoever has an IP address, as docker's bridge driver makes it: an address that is used
/// again is the same station to its neighbours.
pub(crate) fn mac_of(addr: IpAddr) -> String {
    let [a, b, c, d] = match addr {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            [a, b, c, d]
        }
    };
    format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// Every network that a plugin asked for, by what its owner calls it.
pub(crate) fn networks(desired: &Desired) -> impl Iterator<Item = (&String, &Network)> + Clone {
    desired.docker.iter().flat_map(|d| d.networks.iter()).chain(&desired.networks)
}

/// Removes the uplinks made here that no network needs any more.
pub(crate) fn drop_uplinks(desired: &mut Desired) {
    let used = networks(desired).any(|(_, n)| n.uplink.as_deref() == Some(UPLINK));
    let others = |name: &str| desired.nat.values().any(|n| n.uplink == name);
    let unused =
        [(UPLINK, !used && !others(UPLINK)), (LINK, networks(desired).count() == 0 && !others(LINK))];
    for (name, _) in unused.iter().filter(|(_, unused)| *unused) {
        if desired.uplinks.get(*name).is_some_and(|u| u.owner.is_plugin()) {
            desired.uplinks.remove(*name);
        }
    }
}

/// Whether the host has a default route, which an uplink could share.
pub(crate) async fn has_default_route() -> bool {
    let any = |s: &crate::net::Session| {
        let links = s.links()?;
        Ok(links.iter().filter(|l| l.up).any(|l| s.defaults(l).is_ok_and(|d| !d.is_empty())))
    };
    tokio::task::spawn_blocking(move || session(None, any).unwrap_or(false)).await.unwrap_or(false)
}

/// Addresses in force on a network's way out.
pub(crate) async fn outside(controller: &Controller, network: &Network) -> Vec<IpAddr> {
    let Some(uplink) = &network.uplink else { return Vec::new() };
    let uplinks = controller.uplinks().await;
    let found = uplinks.into_iter().find(|u| u.name == *uplink);
    found.map_or_else(Vec::new, |u| u.addresses.iter().map(IpNet::addr).collect())
}

/// Connections of a container that is gone are not those of the next one with its address.
pub(crate) async fn forget(controller: &Controller, bridge: &str, addresses: &[IpNet]) {
    for address in addresses {
        let filter = CtFilter {
            bridge: Some(bridge.to_owned()),
            inside: Some(address.addr().to_string()),
            ..CtFilter::default()
        };
        // Bridges without a gateway have no connections.
        let _ = controller.flush_connections(filter).await;
    }
}

/// What carries to the published ports of endpoints, by their ids.
#[derive(Default)]
pub(crate) struct Carriers(Mutex<HashMap<String, Vec<Carrier>>>);

impl Carriers {
    /// Carries to the ports from now on; `addresses` are the container's.
    pub(crate) fn carry(
        &self,
        id: &str,
        taken: Vec<Sockets>,
        published: &[Published],
        addresses: &[IpNet],
    ) -> Result<()> {
        let carriers: Result<Vec<Carrier>> = taken
            .into_iter()
            .zip(published)
            .map(|(sockets, port)| sockets.carry(link(addresses, port.link)))
            .collect();
        self.0.lock().insert(id.to_owned(), carriers?);
        Ok(())
    }

    /// Takes the host's ports again that were published when the last daemon ended.
    pub(crate) fn resume(&self, id: &str, published: &[Published], addresses: &[IpNet]) -> Result<()> {
        if published.is_empty() || self.0.lock().contains_key(id) {
            return Ok(());
        }
        let again =
            |p: &Published| listen::open(Held { proto: p.proto, host: p.host, port: p.port, to: p.to });
        let taken: Vec<Sockets> = published.iter().map(again).collect::<Result<_>>()?;
        self.carry(id, taken, published, addresses)
    }

    /// Ends carrying to an endpoint; true when there was anything to end.
    pub(crate) fn drop(&self, id: &str) -> bool {
        self.0.lock().remove(id).is_some()
    }

    pub(crate) fn clear(&self) {
        self.0.lock().clear();
    }
}

/// Where on the link between host and switch a published port is.
fn link(addresses: &[IpNet], port: u16) -> SocketAddr {
    let v4 = ports::target(addresses, true).is_none_or(|a| a.is_ipv4());
    SocketAddr::new(ports::link_address(v4), port)
}

/// What is said where ports cannot be published.
pub(crate) fn no_gateway(hint: &str) -> Error {
    Error::invalid("ports of this network cannot be published: it has no gateway").hint(hint)
}
