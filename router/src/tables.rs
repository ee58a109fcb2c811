//! Interfaces and routes: an immutable picture, replaced as a whole.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::iface::{Iface, IfaceId, Kind, Zone};
use crate::lpm::Lpm;

/// A configured route. Those of the interfaces' own prefixes are implied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// For which destinations.
    pub prefix: IpNet,
    /// The next router, on the interface's link; none: the destinations are on the link themselves.
    pub via: Option<IpAddr>,
    /// Where to.
    pub iface: IfaceId,
    /// Of several for one prefix the lowest wins.
    pub metric: u32,
}

/// Where a packet goes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hop {
    /// By which interface.
    pub iface: IfaceId,
    /// To which neighbour.
    pub next: IpAddr,
}

/// What a lookup finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    /// An address of an interface, or of its translation.
    Ours(IfaceId),
    /// The broadcast address of an interface's subnet (RFC 919 §7), or its old form, all zeros.
    Broadcast(IfaceId),
    /// On the link.
    Link(IfaceId),
    /// By a router.
    Via(IfaceId, IpAddr),
}

/// Why tables were refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TableError {
    /// Two interfaces of one name.
    Twice(IfaceId),
    /// An interface with an address that no host can have.
    BadAddress(IfaceId, IpAddr),
    /// Two interfaces that see each other have the same address.
    SameAddress(IpAddr),
    /// An MTU below 576, or below 1280 with IPv6 addresses.
    BadMtu(IfaceId, u16),
    /// A MAC address that no station can have.
    BadMac(IfaceId),
    /// A route by an interface that is not there.
    NoIface(IpNet, IfaceId),
    /// A route whose next router is not on the link of its interface, by its addresses or a route.
    OffLink(IpNet, IpAddr),
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TableError::Twice(id) => write!(f, "interface {} is there twice", id.0),
            TableError::BadAddress(_, addr) => write!(f, "{addr} cannot be the address of an interface"),
            TableError::SameAddress(addr) => write!(f, "{addr} is the address of two interfaces"),
            TableError::BadMtu(_, mtu) => {
                write!(f, "MTU {mtu} is too small: at least 576, and 1280 with IPv6 addresses")
            }
            TableError::BadMac(_) => {
                f.write_str("an interface needs a MAC address that is neither zero nor a group's")
            }
            TableError::NoIface(prefix, _) => write!(f, "the route to {prefix} leads to no interface"),
            TableError::OffLink(prefix, via) => {
                write!(f, "the router {via} of the route to {prefix} is in no subnet of the interface")
            }
        }
    }
}

impl std::error::Error for TableError {}

/// Everything that is configured. Shared by all workers.
#[derive(Debug, Default)]
pub struct Tables {
    ifaces: Vec<Iface>,
    /// Slot in `ifaces` by name; `u16::MAX` for none.
    index: Vec<u16>,
    targets: Vec<Target>,
    /// By zone: what its hosts reach, and what is inside it.
    zones: Vec<(Zone, Lpm, Lpm)>,
    /// By uplink: what is reached by it.
    uplinks: Vec<(IfaceId, Lpm)>,
}

/// A prefix with where it leads, and its place among those of the same prefix.
struct Entry {
    prefix: IpNet,
    target: u32,
    owner: IfaceId,
    /// Lower first: ours, connected, configured.
    rank: (u8, u32),
}

impl Tables {
    /// Checks and builds.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn new(ifaces: Vec<Iface>, routes: &[Route]) -> Result<Tables, TableError> {
        let mut tables = Tables { ifaces, ..Tables::default() };
        let most = tables.ifaces.iter().map(|i| usize::from(i.id.0) + 1).max().unwrap_or(0);
        tables.index = vec![u16::MAX; most];
        for (at, iface) in tables.ifaces.iter().enumerate() {
            check(iface)?;
            let slot = &mut tables.index[usize::from(iface.id.0)];
            if *slot != u16::MAX {
                return Err(TableError::Twice(iface.id));
            }
            *slot = at as u16;
        }
        let entries = tables.entries(routes)?;
        tables.same_addresses(&entries)?;
        tables.build(&entries);
        Ok(tables)
    }

    /// All interfaces.
    pub fn ifaces(&self) -> &[Iface] {
        &self.ifaces
    }

    /// One of them.
    #[inline]
    pub fn iface(&self, id: IfaceId) -> Option<&Iface> {
        self.ifaces.get(usize::from(*self.index.get(usize::from(id.0))?))
    }

    /// What a host of the zone reaches by this address.
    #[inline]
    pub(crate) fn reached(&self, zone: Zone, addr: IpAddr) -> Option<Target> {
        let lpm = &self.zones.iter().find(|z| z.0 == zone)?.1;
        Some(self.targets[lpm.find(addr)? as usize])
    }

    /// What inside the zone has this address.
    #[inline]
    pub(crate) fn inside(&self, zone: Zone, addr: IpAddr) -> Option<Target> {
        let lpm = &self.zones.iter().find(|z| z.0 == zone)?.2;
        Some(self.targets[lpm.find(addr)? as usize])
    }

    /// What is reached by this address through an uplink.
    #[inline]
    pub(crate) fn outside(&self, uplink: IfaceId, addr: IpAddr) -> Option<Target> {
        let lpm = &self.uplinks.iter().find(|u| u.0 == uplink)?.1;
        Some(self.targets[lpm.find(addr)? as usize])
    }

    fn target(&mut self, target: Target) -> u32 {
        self.targets.push(target);
        self.targets.len() as u32 - 1
    }

    fn entries(&mut self, routes: &[Route]) -> Result<Vec<Entry>, TableError> {
        let mut entries = Vec::new();
        for at in 0..self.ifaces.len() {
            let iface = &self.ifaces[at];
            let owner = iface.id;
            let (own, proxies) = (iface.addresses.clone(), iface.proxies.clone());
            let ours = self.target(Target::Ours(owner));
            let link = self.target(Target::Link(owner));
            let broadcast = self.target(Target::Broadcast(owner));
            let mut add =
                |prefix, target, rank| entries.push(Entry { prefix, target, owner, rank: (rank, 0) });
            for addr in own.iter().map(IpNet::addr).chain(proxies) {
                add(IpNet::from(addr), ours, 0);
            }
            for net in own {
                add(net.trunc(), link, 2);
                if let IpNet::V4(net) = net
                    && net.prefix_len() < 31
                {
                    add(IpNet::from(IpAddr::V4(net.network())), broadcast, 1);
                    add(IpNet::from(IpAddr::V4(net.broadcast())), broadcast, 1);
                }
            }
        }
        for route in routes {
            let iface = self.iface(route.iface).ok_or(TableError::NoIface(route.prefix, route.iface))?;
            if let Some(via) = route.via {
                let link_local = matches!(via, IpAddr::V6(a) if a.is_unicast_link_local());
                let same_family = via.is_ipv4() == route.prefix.addr().is_ipv4();
                let beside = |r: &Route| r.iface == route.iface && r.via.is_none() && r.prefix.contains(&via);
                let on_link = link_local
                    || iface.addresses.iter().any(|a| a.contains(&via))
                    || routes.iter().any(beside);
                if !same_family || !on_link || iface.owns(via) {
                    return Err(TableError::OffLink(route.prefix, via));
                }
            }
            let target = match route.via {
                Some(via) => Target::Via(route.iface, via),
                None => Target::Link(route.iface),
            };
            let target = self.target(target);
            let rank = (3, route.metric);
            entries.push(Entry { prefix: route.prefix.trunc(), target, owner: route.iface, rank });
        }
        entries.sort_by_key(|e| e.rank);
        Ok(entries)
    }

    fn same_addresses(&self, entries: &[Entry]) -> Result<(), TableError> {
        let ours: Vec<&Entry> = entries.iter().filter(|e| e.rank.0 == 0).collect();
        for (i, a) in ours.iter().enumerate() {
            let twin = ours[..i].iter().find(|b| b.prefix == a.prefix && b.owner != a.owner);
            let zone = |e: &Entry| self.iface(e.owner).and_then(Iface::zone);
            // Bridges may have overlapping addresses; all see the uplinks.
            if twin.is_some_and(|b| zone(a) == zone(b) || zone(a).is_none() || zone(b).is_none()) {
                return Err(TableError::SameAddress(a.prefix.addr()));
            }
        }
        Ok(())
    }

    fn build(&mut self, entries: &[Entry]) {
        let mut zones: Vec<Zone> = self.ifaces.iter().filter_map(Iface::zone).collect();
        zones.sort_unstable();
        zones.dedup();
        self.zones =
            zones.into_iter().map(|z| (z, self.reach(entries, z), self.within(entries, z))).collect();
        let uplinks = self.ifaces.iter().filter(|i| i.zone().is_none()).map(|i| i.id);
        self.uplinks = uplinks.map(|id| (id, table(entries.iter().filter(|e| e.owner == id)))).collect();
    }

    fn within(&self, entries: &[Entry], zone: Zone) -> Lpm {
        table(entries.iter().filter(|e| self.iface(e.owner).and_then(Iface::zone) == Some(zone)))
    }

    /// What the hosts of a zone may reach: their own gateways' networks, whatever others have the same
    /// addresses; those of other zones, where both sides are open; the uplinks.
    fn reach(&self, entries: &[Entry], zone: Zone) -> Lpm {
        let kind = |e: &Entry| self.iface(e.owner).map(|i| i.kind);
        let open = self.ifaces.iter().any(|i| i.kind == Kind::Gateway { zone, open: true });
        let is_own = |e: &&Entry| matches!(kind(e), Some(Kind::Gateway { zone: z, .. }) if z == zone);
        let own: Vec<&Entry> = entries.iter().filter(is_own).collect();
        let covered = |e: &Entry| own.iter().any(|o| o.rank.0 == 2 && o.prefix.contains(&e.prefix));
        let others = entries.iter().filter(|e| match kind(e) {
            Some(Kind::Gateway { zone: z, open: theirs }) => z != zone && open && theirs && !covered(e),
            Some(Kind::Uplink { .. }) => !covered(e),
            None => false,
        });
        table(own.iter().copied().chain(others))
    }
}

fn table<'a>(entries: impl Iterator<Item = &'a Entry>) -> Lpm {
    let mut lpm = Lpm::new();
    entries.for_each(|e| lpm.insert(e.prefix, e.target));
    lpm
}

fn check(iface: &Iface) -> Result<(), TableError> {
    if iface.mac.is_group() || iface.mac.is_zero() {
        return Err(TableError::BadMac(iface.id));
    }
    let v6 = iface.has_v6();
    if iface.mtu < 576 || (v6 && iface.mtu < 1280) {
        return Err(TableError::BadMtu(iface.id, iface.mtu));
    }
    for addr in iface.addresses.iter().map(IpNet::addr).chain(iface.proxies.iter().copied()) {
        if !is_host(addr) {
            return Err(TableError::BadAddress(iface.id, addr));
        }
    }
    for net in &iface.addresses {
        if let IpNet::V4(net) = net
            && net.prefix_len() < 31
            && (net.addr() == net.network() || net.addr() == net.broadcast())
        {
            return Err(TableError::BadAddress(iface.id, net.addr().into()));
        }
    }
    Ok(())
}

/// Whether an address can be one host's (RFC 6890, RFC 4291 §2.5). Link-local IPv6 addresses are not
/// configured: every interface has one.
pub(crate) fn is_host(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => {
            let first = a.octets()[0];
            first != 0 && first != 127 && first < 224
        }
        IpAddr::V6(a) => {
            !(a.is_unspecified() || a.is_loopback() || a.is_multicast() || a.is_unicast_link_local())
                && a.to_ipv4_mapped().is_none()
        }
    }
}
