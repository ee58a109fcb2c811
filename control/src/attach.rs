//! Attachments: containers that CNI and podman put into a network of the switch, one call for each.
//!
//! `POST /v1/attachments` with an [`Attach`] does all of it, or nothing: it makes the network if it is the first
//! of it (a bridge, a gateway, a masquerade, an uplink), then a TAP with addresses and routes in the container's
//! namespace, takes the host's ports and publishes them, and announces the addresses. `DELETE
//! /v1/attachments/{id}` undoes all of that; the network goes with its last attachment. What is not there is no
//! error there: programs may ask twice, and after the namespace has gone. `GET /v1/attachments/{id}` says what
//! is desired, and what the interface is like in the namespace now.
//!
//! Everything is desired state: it outlives the daemon, and so does the interface (the keeper has its
//! descriptor).

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use trunkline_ports::netns::Netns;

use crate::controller::Controller;
use crate::endpoint::listen::{self, Sockets};
use crate::endpoint::network::{self, Wish};
use crate::endpoint::ports::{Held, Publisher};
use crate::endpoint::{Carriers, announce, forget, has_default_route, mac_of, no_gateway, outside, short};
use crate::model::attach::{
    Attach, Attachment, AttachmentStatus, InterfaceStatus, Network, NetworkWish, Published,
};
use crate::model::{Desired, LinkSpec, Owner, PortKind, PortSpec, PortState, PortStatus, TapSpec};
use crate::net::session;
use crate::{Error, Result};

/// How often the host's ports are tried again that somebody else had when the daemon started.
const RETRY: Duration = Duration::from_secs(5);
/// Labels of every attachment's port.
const LABELS: [&str; 3] = ["container", "ifname", "network"];

/// Makes and removes attachments.
pub struct Attachments {
    controller: Controller,
    carriers: Carriers,
    /// Held while one is made or removed, together with its sockets.
    changing: tokio::sync::Mutex<()>,
}

impl Attachments {
    pub(crate) fn new(controller: Controller) -> Arc<Attachments> {
        Arc::new(Attachments { controller, carriers: Carriers::default(), changing: Default::default() })
    }

    /// Takes the host's ports again that were published when the last daemon ended; tries again for as long as
    /// the daemon runs.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            {
                let _guard = self.changing.lock().await;
                let desired = self.controller.desired();
                for (id, attachment) in desired.attachments.iter().filter(|(_, a)| !a.published.is_empty()) {
                    let addresses = addresses(&desired, attachment);
                    if let Err(error) = self.carriers.resume(id, &attachment.published, addresses) {
                        tracing::error!(attachment = id, %error, "a published port is lost");
                    }
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Ends carrying; the attachments stay for the next daemon.
    pub(crate) fn stop(&self) {
        self.carriers.clear();
    }

    pub(crate) async fn attach(&self, asked: Attach) -> Result<AttachmentStatus> {
        let id = asked.id();
        check(&asked)?;
        let has_default = has_default_route().await;
        let _guard = self.changing.lock().await;
        // Refused before anything is made, most often.
        let wanted =
            asked.publish.iter().map(|p| Held { proto: p.proto, host: p.host, port: p.port, to: p.to });
        let taken: Vec<Sockets> = wanted.map(|held| listen::take(held, 0)).collect::<Result<_>>()?;
        let made = asked.clone();
        self.controller.edit(move |d| add(d, &made, has_default)).await?;
        if let Err(error) = self.publish(&id, taken).await {
            self.remove(&id).await?;
            return Err(error);
        }
        let status = self.status(&id).await?;
        let mac = status.port.mac.as_ref().and_then(|mac| mac.parse().ok());
        if let Some(mac) = mac.filter(|_| !asked.addresses.is_empty()) {
            let send = move || {
                let addresses: Vec<_> = asked.addresses.iter().map(IpNet::addr).collect();
                announce::now(&asked.netns, &asked.ifname, mac, &addresses);
            };
            let _ = tokio::task::spawn_blocking(send).await;
        }
        Ok(status)
    }

    /// Publishes the ports whose sockets were taken.
    async fn publish(&self, id: &str, taken: Vec<Sockets>) -> Result<()> {
        if taken.is_empty() {
            return Ok(());
        }
        let desired = self.controller.desired();
        let (network, attachment) = find(&desired, id)?;
        let outside = outside(&self.controller, network).await;
        let held: Vec<Held> = taken.iter().map(|t| t.held).collect();
        let of = id.to_owned();
        let published = self.controller.edit(move |d| publish(d, &of, &held, &outside)).await?;
        self.carriers.carry(id, taken, &published, addresses(&desired, attachment))
    }

    /// Removes an attachment. One that is not there is no error.
    pub(crate) async fn detach(&self, id: &str) -> Result<()> {
        let _guard = self.changing.lock().await;
        self.remove(id).await
    }

    async fn remove(&self, id: &str) -> Result<()> {
        let of = id.to_owned();
        let gone = self
            .controller
            .edit(move |desired| {
                let gone =
                    find(desired, &of).ok().map(|(n, a)| (n.bridge.clone(), addresses(desired, a).to_vec()));
                delete(desired, &of);
                Ok(gone)
            })
            .await?;
        self.carriers.drop(id);
        if let Some((bridge, addresses)) = gone {
            forget(&self.controller, &bridge, &addresses).await;
        }
        Ok(())
    }

    /// Every attachment, by its id.
    pub(crate) async fn list(&self) -> Vec<AttachmentStatus> {
        let desired = self.controller.desired();
        let ports = self.controller.ports().await;
        let of = |(id, attachment): (&String, &Attachment)| {
            // One that was removed meanwhile has no port any more.
            let port = ports.iter().find(|p| p.name == attachment.port)?.clone();
            let network = desired.networks.get(&attachment.network)?.clone();
            let (id, attachment) = (id.clone(), attachment.clone());
            Some(AttachmentStatus { id, attachment, network, port, interface: None })
        };
        desired.attachments.iter().filter_map(of).collect()
    }

    /// One attachment, with what its interface is like now.
    pub(crate) async fn status(&self, id: &str) -> Result<AttachmentStatus> {
        let mut all = self.list().await;
        let at = all.iter().position(|a| a.id == id).ok_or_else(|| no_attachment(id))?;
        let mut status = all.swap_remove(at);
        let port = status.port.clone();
        let observed = tokio::task::spawn_blocking(move || observe(&port)).await;
        status.interface = observed.ok().flatten();
        Ok(status)
    }
}

fn no_attachment(id: &str) -> Error {
    Error::not_found(format!("there is no attachment {id}")).hint("see: trunkline cni list")
}

/// The interface of a port that is up, as it is in its namespace.
fn observe(port: &PortStatus) -> Option<InterfaceStatus> {
    let PortKind::Tap(TapSpec { netns: Some(netns), ifname: Some(ifname), .. }) = &port.spec.kind else {
        return None;
    };
    if port.state != PortState::Up {
        return None;
    }
    let netns = Netns::open(netns).ok()?;
    let look = session(Some(&netns), |s| {
        let link = s.expect_link(ifname)?;
        Ok(InterfaceStatus {
            name: link.name.clone(),
            mac: link.mac.map(|mac| mac.to_string()).unwrap_or_default(),
            mtu: link.mtu,
            up: link.up,
            addresses: s.addresses(&link)?,
            default_routes: s.defaults(&link)?,
            routes: s.routes(&link)?,
        })
    });
    look.ok()
}

/// What is wrong by itself. The rest is said of the objects that are made.
fn check(asked: &Attach) -> Result<()> {
    if !matches!(asked.owner, Owner::Cni | Owner::Podman) {
        return Err(Error::invalid(format!(
            "owner {}: attachments are made by CNI and podman",
            asked.owner.name()
        ))
        .hint("for other containers: trunkline container attach"));
    }
    for (what, text) in [("network", &asked.network.name), ("container", &asked.container)] {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if text.is_empty() || text.len() > 255 || !text.chars().all(fits) {
            return Err(Error::invalid(format!("'{}' names no {what}", text.escape_debug()))
                .hint("use 1 to 255 of the characters A-Z a-z 0-9 _ . -"));
        }
    }
    if !asked.netns.starts_with('/') {
        return Err(Error::invalid(format!(
            "'{}' is not the path of a network namespace",
            asked.netns.escape_debug()
        ))
        .hint("give an absolute path"));
    }
    if asked.network.gateways.is_empty() && !asked.publish.is_empty() {
        return Err(no_gateway("give it one, or leave the ports out"));
    }
    if asked.addresses.is_empty() && !asked.publish.is_empty() {
        return Err(Error::invalid("ports are published for an interface without addresses")
            .hint("give it one, or leave the ports out"));
    }
    Ok(())
}

fn network_key(owner: Owner, name: &str) -> String {
    format!("{}:{name}", owner.name())
}

fn find<'d>(desired: &'d Desired, id: &str) -> Result<(&'d Network, &'d Attachment)> {
    let attachment = desired.attachments.get(id).ok_or_else(|| no_attachment(id))?;
    let network = desired.networks.get(&attachment.network).ok_or_else(|| no_attachment(id))?;
    Ok((network, attachment))
}

/// The container's addresses.
fn addresses<'d>(desired: &'d Desired, attachment: &Attachment) -> &'d [IpNet] {
    match desired.ports.get(&attachment.port).map(|p| &p.kind) {
        Some(PortKind::Tap(tap)) => &tap.link.addresses,
        _ => &[],
    }
}

/// Makes an attachment without published ports.
fn add(desired: &mut Desired, asked: &Attach, has_default: bool) -> Result<()> {
    let id = asked.id();
    if desired.attachments.contains_key(&id) {
        return Err(Error::conflict(format!(
            "container {} has the interface {} in network {} already",
            asked.container, asked.ifname, asked.network.name
        ))
        .hint("remove it first (DEL)"));
    }
    let key = network_key(asked.owner, &asked.network.name);
    let stem = stem(&key);
    let NetworkWish { name, bridge, mesh, vlan, mtu, icc, anti_spoof, gateways, masquerade, uplink, proxy } =
        &asked.network;
    let wish = Wish {
        owner: asked.owner,
        shown: name,
        stem: &stem,
        bridge: bridge.as_deref(),
        make_bridge: true,
        mesh: mesh.as_deref(),
        vlan: *vlan,
        mtu: *mtu,
        icc: *icc,
        internal: gateways.is_empty(),
        subnets: asked.addresses.iter().map(IpNet::trunc).collect(),
        gateways: gateways.clone(),
        masquerade: *masquerade,
        uplink: uplink.as_deref(),
        proxy: *proxy,
    };
    let mut network = match desired.networks.get(&key).cloned() {
        Some(mut network) => {
            network::extend(desired, &wish, &mut network, has_default)?;
            network
        }
        None => network::make(desired, &wish, has_default)?,
    };
    network.anti_spoof = *anti_spoof;
    let port = port_name(desired, asked);
    desired.ports.insert(port.clone(), port_spec(asked, &network));
    desired.networks.insert(key.clone(), network);
    let attachment = Attachment {
        owner: asked.owner,
        network: key,
        container: asked.container.clone(),
        port,
        published: Vec::new(),
    };
    desired.attachments.insert(id, attachment);
    Ok(())
}

/// What the names of things made for a network begin with: its key in the characters of names, which all fit.
fn stem(key: &str) -> String {
    const ROOM: usize = 40;
    let name = key.replace(':', "-");
    match name.len() {
        0..=ROOM => name,
        // Names may be longer here than there; these end in something of their own.
        _ => format!("{}-{:08x}", &name[..ROOM - 9], fnv(key.as_bytes()) as u32),
    }
}

/// FNV-1a: the same in every version of this program.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}

/// `OWNER-CONTAINER-IFNAME`, as far as it makes a name, and free.
fn port_name(desired: &Desired, asked: &Attach) -> String {
    let container = match asked.container.len() {
        0..=24 => &asked.container[..],
        _ => short(&asked.container),
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let ifname: String = asked.ifname.chars().map(|c| if fits(c) { c } else { '-' }).take(15).collect();
    let stem = format!("{}-{container}-{ifname}", asked.owner.name());
    let mut names = std::iter::once(stem.clone()).chain((2..).map(|n| format!("{stem}-{n}")));
    names.find(|name| !desired.ports.contains_key(name)).expect("names without end")
}

fn port_spec(asked: &Attach, network: &Network) -> PortSpec {
    let made = || asked.addresses.first().map(|net| mac_of(net.addr()));
    let link = LinkSpec {
        addresses: asked.addresses.clone(),
        gateways: asked.default_routes.clone(),
        routes: asked.routes.clone(),
        mac: asked.mac.clone().or_else(made),
        mtu: network.mtu,
    };
    let (netns, ifname) = (Some(asked.netns.clone()), Some(asked.ifname.clone()));
    let mut labels = asked.labels.clone();
    let own = [&asked.container, &asked.ifname, &asked.network.name];
    labels.extend(LABELS.iter().zip(own).map(|(key, value)| ((*key).to_owned(), value.clone())));
    let tap = TapSpec { netns, ifname, link, ..TapSpec::default() };
    PortSpec { labels, ..network.port(asked.owner, tap, &asked.addresses) }
}

/// Publishes the ports of an attachment that has none yet.
fn publish(
    desired: &mut Desired,
    id: &str,
    held: &[Held],
    outside: &[std::net::IpAddr],
) -> Result<Vec<Published>> {
    let (network, attachment) = find(desired, id).map(|(n, a)| (n.clone(), a.clone()))?;
    let addresses = addresses(desired, &attachment).to_vec();
    let publisher = Publisher {
        owner: attachment.owner,
        stem: &attachment.port,
        network: &network,
        addresses: &addresses,
    };
    let published = publisher.publish(desired, held, outside);
    if let Some(attachment) = desired.attachments.get_mut(id) {
        attachment.published.clone_from(&published);
    }
    Ok(published)
}

/// Removes an attachment, and its network if it was the last. One that is not there is no error.
fn delete(desired: &mut Desired, id: &str) {
    let Some(attachment) = desired.attachments.remove(id) else { return };
    for name in attachment.published.iter().flat_map(|p| &p.nat) {
        desired.nat.remove(name);
    }
    desired.remove_port(&attachment.port);
    let key = &attachment.network;
    if !desired.attachments.values().any(|a| a.network == *key)
        && let Some(network) = desired.networks.remove(key)
    {
        network::remove(desired, &network);
    }
}
