//! Interfaces, addresses and routes by rtnetlink, in a given network namespace.
//!
//! Calls block; they are for the controller's thread, not for tasks. Errors say what to do.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use futures::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::{AddressMessageBuilder, Handle, LinkUnspec, RouteMessageBuilder};
use tokio::runtime::Runtime;
use trunkline_packet::MacAddr;
use trunkline_ports::netns::Netns;

use crate::model::LinkRoute;
use crate::{Error, ErrorKind, Result};

pub(crate) mod host;
#[cfg(test)]
mod tests;

/// What [`Link::gso_segments`] is where nobody has set it (GSO_MAX_SEGS).
pub(crate) const GSO_MAX_SEGMENTS: u32 = 65_535;

/// An interface as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// Its number in its namespace.
    pub(crate) index: u32,
    /// Its name.
    pub(crate) name: String,
    /// Its MAC address, if it has one.
    pub(crate) mac: Option<MacAddr>,
    /// Bytes.
    pub(crate) mtu: u32,
    /// Most segments of a superframe that is sent by it (IFLA_GSO_MAX_SEGS).
    pub(crate) gso_segments: u32,
    /// Administratively up.
    pub(crate) up: bool,
    /// It has a carrier.
    pub(crate) carrier: bool,
    /// Frames its own queue dropped on the way out, since it was made.
    pub(crate) tx_dropped: u64,
    /// Name of the kind of bond, bridge or switch it is enslaved to, by index.
    pub(crate) controller: Option<u32>,
}

/// An rtnetlink socket.
pub(crate) struct Session {
    runtime: Runtime,
    handle: Handle,
}

/// Runs `f` with an rtnetlink socket in a namespace, or in the calling thread's. Not to be called from a
/// tokio task.
///
/// # Errors
/// Those of `f`, and when the namespace cannot be entered.
pub(crate) fn session<T: Send>(
    netns: Option<&Netns>,
    f: impl FnOnce(&Session) -> Result<T> + Send,
) -> Result<T> {
    let open = || f(&Session::open().map_err(|e| explain("cannot open a netlink socket", &e))?);
    match netns {
        None => open(),
        Some(netns) => {
            netns.run(open).map_err(|e| explain("cannot enter the network namespace", &e)).flatten()
        }
    }
}

impl Session {
    fn open() -> io::Result<Session> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let guard = runtime.enter();
        let (connection, handle, _) = rtnetlink::new_connection()?;
        drop(guard);
        runtime.spawn(connection);
        Ok(Session { runtime, handle })
    }

    /// An interface by name; `None` when there is none.
    pub(crate) fn link(&self, name: &str) -> Result<Option<Link>> {
        let found = self.runtime.block_on(async {
            let mut links = self.handle.link().get().match_name(name.to_owned()).execute();
            links.next().await.transpose()
        });
        match found.map_err(netlink) {
            Ok(message) => Ok(message.map(Link::from)),
            Err(e) if e.raw_os_error() == Some(19) => Ok(None),
            Err(e) => Err(explain(format!("cannot look up interface {name}"), &e)),
        }
    }

    /// An interface that must be there.
    ///
    /// # Errors
    /// `NotFound` when it is not.
    pub(crate) fn expect_link(&self, name: &str) -> Result<Link> {
        self.link(name)?.ok_or_else(|| Error::not_found(format!("there is no interface {name}")))
    }

    /// Every interface of the namespace.
    pub(crate) fn links(&self) -> Result<Vec<Link>> {
        self.runtime
            .block_on(self.handle.link().get().execute().map_ok(Link::from).try_collect())
            .map_err(|e| explain("cannot list interfaces", &netlink(e)))
    }

    fn set(&self, what: impl FnOnce() -> String, message: LinkMessage) -> Result<()> {
        self.runtime
            .block_on(self.handle.link().set(message).execute())
            .map_err(|e| explain(what(), &netlink(e)))
    }

    /// Sets the MAC address.
    pub(crate) fn set_mac(&self, link: &Link, mac: MacAddr) -> Result<()> {
        let message = LinkUnspec::new_with_index(link.index).address(mac.0.to_vec()).build();
        self.set(|| format!("cannot give interface {} the address {mac}", link.name), message)
    }

    /// Sets the MTU, bytes.
    pub(crate) fn set_mtu(&self, link: &Link, mtu: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(link.index).mtu(mtu).build();
        self.set(|| format!("cannot set interface {} to MTU {mtu}", link.name), message)
    }

    /// Sets the most segments of a superframe.
    pub(crate) fn set_gso_segments(&self, link: &Link, segments: u32) -> Result<()> {
        let most = LinkAttribute::GsoMaxSegs(segments);
        let message = LinkUnspec::new_with_index(link.index).append_extra_attribute(most).build();
        self.set(
            || format!("cannot limit superframes of interface {} to {segments} segments", link.name),
            message,
        )
    }

    /// Sets the interface up or down.
    pub(crate) fn set_up(&self, link: &Link, up: bool) -> Result<()> {
        let link_at = LinkUnspec::new_with_index(link.index);
        let message = if up { link_at.up() } else { link_at.down() }.build();
        let word = if up { "up" } else { "down" };
        self.set(|| format!("cannot set interface {} {word}", link.name), message)
    }

    /// Renames an interface that is down.
    pub(crate) fn rename(&self, link: &Link, name: &str) -> Result<()> {
        let message = LinkUnspec::new_with_index(link.index).name(name).build();
        self.set(|| format!("cannot name interface {} '{name}'", link.name), message)
    }

    /// Moves an interface into another namespace, where it has another index.
    pub(crate) fn move_to(&self, link: &Link, netns: &Netns) -> Result<()> {
        use std::os::fd::AsFd;
        let fd = netns.as_fd().as_raw_fd();
        let message = LinkUnspec::new_with_index(link.index).setns_by_fd(fd).build();
        self.set(|| format!("cannot move interface {} into the namespace", link.name), message)
    }

    /// Makes a pair of virtual Ethernet interfaces.
    #[cfg(test)]
    pub(crate) fn add_veth(&self, one: &str, other: &str) -> Result<()> {
        let add = self.handle.link().add(rtnetlink::LinkVeth::new(one, other).build());
        self.runtime.block_on(add.execute()).map_err(|e| explain("cannot make a veth pair", &netlink(e)))
    }

    /// Deletes an interface.
    #[cfg(test)]
    pub(crate) fn delete(&self, link: &Link) -> Result<()> {
        let del = self.handle.link().del(link.index);
        self.runtime.block_on(del.execute()).map_err(|e| explain("cannot delete", &netlink(e)))
    }

    /// Addresses of an interface, without those the kernel made up (IPv6 link-local).
    pub(crate) fn addresses(&self, link: &Link) -> Result<Vec<IpNet>> {
        let get = self.handle.address().get().set_link_index_filter(link.index).execute();
        let messages: Vec<_> = self
            .runtime
            .block_on(get.try_collect())
            .map_err(|e| explain(format!("cannot read the addresses of {}", link.name), &netlink(e)))?;
        let address = |m: &netlink_packet_route::address::AddressMessage| {
            let of = |want_local: bool| {
                m.attributes.iter().find_map(|a| match a {
                    AddressAttribute::Local(ip) if want_local => Some(*ip),
                    AddressAttribute::Address(ip) if !want_local => Some(*ip),
                    _ => None,
                })
            };
            IpNet::new(of(true).or_else(|| of(false))?, m.header.prefix_len).ok()
        };
        let ours = |m: &&netlink_packet_route::address::AddressMessage| m.header.index == link.index;
        Ok(messages.iter().filter(ours).filter_map(address).filter(|n| !is_kernel_made(n)).collect())
    }

    /// Gives an interface an address, IPv6 ones without duplicate detection so that they work at once. One
    /// it has already is no error.
    pub(crate) fn add_address(&self, link: &Link, net: IpNet) -> Result<()> {
        let mut add = self.handle.address().add(link.index, net.addr(), net.prefix_len());
        if net.addr().is_ipv6() {
            if let Some(why) = ipv6_disabled(&link.name) {
                return Err(Error::failed(format!("cannot give {} the address {net}: {why}", link.name))
                    .hint(
                        "allow it there first, e.g. sysctl -w net.ipv6.conf.all.disable_ipv6=0 in the namespace",
                    ));
            }
            add.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        match self.runtime.block_on(add.execute()).map_err(netlink) {
            Err(e) if e.raw_os_error() == Some(EEXIST) => Ok(()),
            other => other.map_err(|e| explain(format!("cannot give {} the address {net}", link.name), &e)),
        }
    }

    /// Takes an address away; one it does not have is no error.
    pub(crate) fn del_address(&self, link: &Link, net: IpNet) -> Result<()> {
        let (index, prefix) = (link.index, net.prefix_len());
        let message = match net.addr() {
            IpAddr::V4(a) => AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(a, prefix).build(),
            IpAddr::V6(a) => AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(a, prefix).build(),
        };
        match self.runtime.block_on(self.handle.address().del(message).execute()).map_err(netlink) {
            Err(e) if e.raw_os_error() == Some(EADDRNOTAVAIL) => Ok(()),
            other => other.map_err(|e| explain(format!("cannot take {net} from {}", link.name), &e)),
        }
    }

    /// Makes a default route by `gateway`. One that exists by the same interface and gateway is no error.
    ///
    /// # Errors
    /// `Conflict` when the namespace has another default route.
    pub(crate) fn add_default(&self, link: &Link, gateway: IpAddr) -> Result<()> {
        let message = default_route(link, gateway);
        match self.runtime.block_on(self.handle.route().add(message).execute()).map_err(netlink) {
            Err(e) if e.raw_os_error() == Some(EEXIST) => {
                if self.defaults(link)?.contains(&gateway) {
                    return Ok(());
                }
                let what = format!("cannot use gateway {gateway}: the namespace has another default route");
                Err(Error::conflict(what).hint("delete that route, or leave the gateway out"))
            }
            other => other.map_err(|e| explain(format!("cannot make a default route by {gateway}"), &e)),
        }
    }

    /// Removes a default route; one that is not there is no error.
    pub(crate) fn del_default(&self, link: &Link, gateway: IpAddr) -> Result<()> {
        let message = default_route(link, gateway);
        match self.runtime.block_on(self.handle.route().del(message).execute()).map_err(netlink) {
            Err(e) if e.raw_os_error() == Some(ESRCH) => Ok(()),
            other => other.map_err(|e| explain(format!("cannot remove the default route by {gateway}"), &e)),
        }
    }

    /// Makes a route. One that is there already is no error.
    ///
    /// # Errors
    /// `Conflict` when the namespace has another route to there.
    pub(crate) fn add_route(&self, link: &Link, route: LinkRoute) -> Result<()> {
        match self.runtime.block_on(self.handle.route().add(message(link, route)).execute()).map_err(netlink)
        {
            Err(e) if e.raw_os_error() == Some(EEXIST) => {
                if self.routes(link)?.contains(&route) {
                    return Ok(());
                }
                let what = format!("cannot make the route {route}: the namespace has another one to there");
                Err(Error::conflict(what).hint("delete that route, or leave this one out"))
            }
            other => other.map_err(|e| explain(format!("cannot make the route {route}"), &e)),
        }
    }

    /// Removes a route; one that is not there is no error.
    pub(crate) fn del_route(&self, link: &Link, route: LinkRoute) -> Result<()> {
        match self.runtime.block_on(self.handle.route().del(message(link, route)).execute()).map_err(netlink)
        {
            Err(e) if e.raw_os_error() == Some(ESRCH) => Ok(()),
            other => other.map_err(|e| explain(format!("cannot remove the route {route}"), &e)),
        }
    }

    /// Routes of the main table by an interface, without default ones and those the kernel made.
    pub(crate) fn routes(&self, link: &Link) -> Result<Vec<LinkRoute>> {
        let made = |m: &RouteMessage| {
            m.header.protocol != RouteProtocol::Kernel && m.header.destination_prefix_length > 0
        };
        let routes = self.routes_by(link, made)?;
        Ok(routes.into_iter().map(|r| LinkRoute { to: r.prefix, via: r.via }).collect())
    }

    /// Gateways of the default routes that lead out by an interface.
    pub(crate) fn defaults(&self, link: &Link) -> Result<Vec<IpAddr>> {
        let routes = self.routes_by(link, |m| m.header.destination_prefix_length == 0)?;
        Ok(routes.into_iter().filter_map(|r| r.via).collect())
    }
}

const ESRCH: i32 = 3;
const EEXIST: i32 = 17;
const EADDRNOTAVAIL: i32 = 99;

fn default_route(link: &Link, gateway: IpAddr) -> RouteMessage {
    match gateway {
        IpAddr::V4(g) => {
            RouteMessageBuilder::<Ipv4Addr>::new().output_interface(link.index).gateway(g).build()
        }
        IpAddr::V6(g) => {
            RouteMessageBuilder::<Ipv6Addr>::new().output_interface(link.index).gateway(g).build()
        }
    }
}

fn message(link: &Link, route: LinkRoute) -> RouteMessage {
    let prefix = route.to.prefix_len();
    match (route.to.addr(), route.via) {
        (IpAddr::V4(to), via) => {
            let message = RouteMessageBuilder::<Ipv4Addr>::new()
                .output_interface(link.index)
                .destination_prefix(to, prefix);
            match via {
                Some(IpAddr::V4(via)) => message.gateway(via).build(),
                // Without a router it is on the link, and says so (as `ip route` does).
                _ => message.scope(RouteScope::Link).build(),
            }
        }
        (IpAddr::V6(to), via) => {
            let message = RouteMessageBuilder::<Ipv6Addr>::new()
                .output_interface(link.index)
                .destination_prefix(to, prefix);
            match via {
                Some(IpAddr::V6(via)) => message.gateway(via).build(),
                _ => message.build(),
            }
        }
    }
}

/// Whether the kernel gives every interface such an address by itself.
fn is_kernel_made(net: &IpNet) -> bool {
    matches!(net, IpNet::V6(n) if n.addr().is_unicast_link_local())
}

/// Why an interface of the calling thread's namespace can have no IPv6 address, if so.
fn ipv6_disabled(name: &str) -> Option<&'static str> {
    // Reads of /proc/sys/net are answered for the reading thread's namespace. A name that is no path
    // component cannot be an interface.
    match std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6")) {
        Ok(text) if text.trim() == "0" => None,
        Ok(_) => Some("IPv6 is disabled there"),
        Err(_) if std::path::Path::new("/proc/sys/net/ipv6").exists() => None,
        Err(_) => Some("the kernel has no IPv6"),
    }
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Link {
        let mut link = Link {
            index: message.header.index,
            name: String::new(),
            mac: None,
            mtu: 0,
            gso_segments: GSO_MAX_SEGMENTS,
            up: message.header.flags.contains(LinkFlags::Up),
            carrier: message.header.flags.contains(LinkFlags::LowerUp),
            tx_dropped: 0,
            controller: None,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok().map(MacAddr),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::GsoMaxSegs(segments) => link.gso_segments = segments,
                LinkAttribute::Stats64(stats) => link.tx_dropped = stats.tx_dropped,
                LinkAttribute::Controller(index) => link.controller = Some(index),
                _ => {}
            }
        }
        link
    }
}

/// What the kernel answered, as an error number.
fn netlink(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}

/// A kernel error in one line with what to do about it.
pub(crate) fn explain(what: impl Into<String>, error: &io::Error) -> Error {
    let said = error.to_string();
    let said = said.split(" (os error").next().unwrap_or_default();
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::Permission,
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::AlreadyExists | io::ErrorKind::ResourceBusy => ErrorKind::Conflict,
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => ErrorKind::Invalid,
        _ => ErrorKind::Failed,
    };
    let error = Error::new(kind, format!("{}: {said}", what.into()));
    match kind {
        ErrorKind::Permission => {
            error.hint("run the daemon as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN")
        }
        _ => error,
    }
}
