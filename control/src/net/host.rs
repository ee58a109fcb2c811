//! What the host's own stack knows of an interface that it shares: routes, neighbours; and word of changes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use futures::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};
use rtnetlink::RouteMessageBuilder;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use trunkline_packet::MacAddr;

use super::{Link, Session, explain, netlink as netlink_error};
use crate::{Error, Result};

/// A route of the host's main table.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct HostRoute {
    /// Destinations.
    pub(crate) prefix: IpNet,
    /// The next router.
    pub(crate) via: Option<IpAddr>,
    /// The lower one counts.
    pub(crate) metric: u32,
}

impl Session {
    fn route_messages(&self) -> Result<Vec<RouteMessage>> {
        let mut all = Vec::new();
        for query in
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
        {
            let get = self.handle.route().get(query).execute();
            let routes: Vec<RouteMessage> = self
                .runtime
                .block_on(get.try_collect())
                .map_err(|e| explain("cannot read the routes", &netlink_error(e)))?;
            all.extend(routes.into_iter().filter(is_unicast));
        }
        Ok(all)
    }

    /// Unicast routes of the main table that lead out by an interface.
    pub(crate) fn host_routes(&self, link: &Link) -> Result<Vec<HostRoute>> {
        let mut routes = self.routes_by(link, |_| true)?;
        routes.sort_unstable();
        Ok(routes)
    }

    /// Those of them that are asked for, in the kernel's order, IPv4 first.
    pub(super) fn routes_by(
        &self,
        link: &Link,
        which: impl Fn(&RouteMessage) -> bool,
    ) -> Result<Vec<HostRoute>> {
        let messages = self.route_messages()?;
        let by = |m: &&RouteMessage| oif(m) == Some(link.index) && which(m);
        Ok(messages.iter().filter(by).filter_map(host_route).collect())
    }

    /// The interface with the default route of the lowest metric; IPv4's comes first.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub(crate) fn default_link(&self) -> Result<Link> {
        let messages = self.route_messages()?;
        let defaults = messages.iter().filter(|m| m.header.destination_prefix_length == 0);
        let best = defaults
            .filter_map(|m| Some((host_route(m)?, oif(m)?)))
            .min_by_key(|(route, _)| (route.prefix.addr().is_ipv6(), route.metric));
        let none = || {
            Error::not_found("this host has no default route")
                .hint("name the interface to share with --interface")
        };
        let (_, index) = best.ok_or_else(none)?;
        self.links()?.into_iter().find(|l| l.index == index).ok_or_else(none)
    }

    /// Neighbours on an interface whose MAC address the host knows.
    pub(crate) fn host_neighbours(&self, link: &Link) -> Result<Vec<(IpAddr, MacAddr)>> {
        let get = self.handle.neighbours().get().execute();
        let messages: Vec<NeighbourMessage> = self
            .runtime
            .block_on(get.try_collect())
            .map_err(|e| explain("cannot read the neighbours", &netlink_error(e)))?;
        let ours = messages.iter().filter(|m| m.header.ifindex == link.index);
        let mut known: Vec<_> = ours.filter_map(neighbour).collect();
        known.sort_unstable();
        Ok(known)
    }

    /// Has the host's stack find out the MAC address of a neighbour, as if it had something to send there.
    pub(crate) fn resolve(&self, link: &Link, address: IpAddr) -> Result<()> {
        let ask = self.handle.neighbours().add(link.index, address);
        let ask = ask.state(NeighbourState::None).flags(NeighbourFlags::Use).replace();
        self.runtime
            .block_on(ask.execute())
            .map_err(|e| explain(format!("cannot have {address} resolved"), &netlink_error(e)))
    }
}

fn is_unicast(m: &RouteMessage) -> bool {
    m.header.table == RouteHeader::RT_TABLE_MAIN && m.header.kind == RouteType::Unicast
}

fn oif(m: &RouteMessage) -> Option<u32> {
    m.attributes.iter().find_map(|a| if let RouteAttribute::Oif(index) = a { Some(*index) } else { None })
}

fn address(a: &RouteAddress) -> Option<IpAddr> {
    match a {
        RouteAddress::Inet(a) => Some(IpAddr::V4(*a)),
        RouteAddress::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    }
}

fn host_route(m: &RouteMessage) -> Option<HostRoute> {
    let (mut to, mut via, mut metric) = (None, None, 0);
    for attribute in &m.attributes {
        match attribute {
            RouteAttribute::Destination(a) => to = address(a),
            RouteAttribute::Gateway(a) => via = address(a),
            // A next router of the other family (RFC 5549).
            RouteAttribute::Via(_) => return None,
            RouteAttribute::Priority(n) => metric = *n,
            _ => {}
        }
    }
    let v4 = m.header.address_family == netlink_packet_route::AddressFamily::Inet;
    let anywhere = if v4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let prefix = IpNet::new(to.unwrap_or(anywhere), m.header.destination_prefix_length).ok()?;
    // Neighbour discovery's own, and groups.
    let own = matches!(prefix, IpNet::V6(p) if p.addr().is_unicast_link_local() || p.addr().is_multicast());
    (!own).then_some(HostRoute { prefix, via, metric })
}

fn neighbour(m: &NeighbourMessage) -> Option<(IpAddr, MacAddr)> {
    let unusable =
        [NeighbourState::Incomplete, NeighbourState::Failed, NeighbourState::None, NeighbourState::Noarp];
    if unusable.contains(&m.header.state) {
        return None;
    }
    let (mut addr, mut mac) = (None, None);
    for attribute in &m.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => addr = Some(IpAddr::V4(*a)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => addr = Some(IpAddr::V6(*a)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.clone().try_into().ok().map(MacAddr),
            _ => {}
        }
    }
    let mac = mac.filter(|m: &MacAddr| !m.is_zero() && !m.is_group());
    Some((addr?, mac?))
}

/// Word that links, addresses, routes or neighbours of the daemon's namespace changed.
pub(crate) struct HostNews {
    fd: OwnedFd,
}

/// Multicast groups of rtnetlink(7): RTMGRP_LINK, NEIGH, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE.
const GROUPS: u32 = 0x1 | 0x4 | 0x10 | 0x40 | 0x100 | 0x400;

impl HostNews {
    /// Listens from now on, in the calling thread's namespace.
    pub(crate) fn open() -> io::Result<HostNews> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Protocol 0 is NETLINK_ROUTE.
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&fd, &SocketAddrNetlink::new(0, GROUPS))?;
        Ok(HostNews { fd })
    }

    /// Waits until something changed or the time is over; true for the former.
    pub(crate) fn wait(&self, patience: std::time::Duration) -> io::Result<bool> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let time = Timespec::try_from(patience).map_err(io::Error::other)?;
        let ready = match poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&time)) {
            Err(rustix::io::Errno::INTR) => 0,
            other => other?,
        };
        if ready > 0 {
            self.drain();
        }
        Ok(ready > 0)
    }

    /// What it says is not looked at: everything is read again.
    fn drain(&self) {
        let mut buffer = [0u8; 8192];
        // An error is the end of what there is, or that some was lost: the same to us.
        for _ in 0..1024 {
            match recv(&self.fd, &mut buffer, RecvFlags::TRUNC) {
                Ok(_) | Err(rustix::io::Errno::NOBUFS | rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::net::session;
    use crate::testing::in_new_netns;

    #[test]
    fn the_hosts_view_of_an_interface_is_read_and_followed() {
        in_new_netns(|| {
            session(None, |s| {
                assert!(s.default_link().unwrap_err().hint.contains("--interface"));
                s.add_veth("out", "peer")?;
                let (out, peer) = (s.expect_link("out")?, s.expect_link("peer")?);
                s.set_up(&out, true)?;
                s.set_up(&peer, true)?;
                let news = HostNews::open().unwrap();
                s.add_address(&out, "192.0.2.10/24".parse().unwrap())?;
                s.add_default(&out, "192.0.2.1".parse().unwrap())?;
                assert!(news.wait(Duration::from_secs(5)).unwrap(), "a new address is told");
                assert_eq!(s.default_link()?.name, "out");
                let routes = s.host_routes(&out)?;
                let shown: Vec<_> = routes.iter().map(|r| (r.prefix.to_string(), r.via)).collect();
                assert!(
                    shown.contains(&("0.0.0.0/0".into(), Some("192.0.2.1".parse().unwrap()))),
                    "{shown:?}"
                );
                assert!(shown.contains(&("192.0.2.0/24".into(), None)), "{shown:?}");
                assert_eq!(s.defaults(&out)?, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
                assert!(s.host_routes(&peer)?.is_empty() && s.defaults(&peer)?.is_empty());
                assert!(s.host_neighbours(&out)?.is_empty());
                // Nobody answers, so it stays unknown; that it is asked for is news.
                while news.wait(Duration::from_millis(50)).unwrap() {}
                s.resolve(&out, "192.0.2.1".parse().unwrap())?;
                assert!(news.wait(Duration::from_secs(5)).unwrap());
                assert!(s.host_neighbours(&out)?.is_empty());
                Ok(())
            })
            .unwrap();
        });
    }
}
