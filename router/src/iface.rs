//! Interfaces: what the switch itself is, as a host on a network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv6Net};
use trunkline_packet::MacAddr;

use crate::Services;

/// Names an interface; the engine uses the port's number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IfaceId(pub u16);

/// A network inside: one bridge with all its VLANs. The same number as the translation's zone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Zone(pub u16);

/// Which side an interface is on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// The router of a bridge or of one VLAN of it.
    Gateway {
        /// The bridge.
        zone: Zone,
        /// Packets are routed to gateways of other zones that say so too. Gateways of one zone always do.
        open: bool,
    },
    /// A way to the world.
    Uplink {
        /// The addresses and the MAC are the host's, whose stack answers for them; what is not translated
        /// is not ours.
        shared: bool,
    },
}

/// One interface.
#[derive(Clone, Debug)]
pub struct Iface {
    /// Its name.
    pub id: IfaceId,
    /// Its side.
    pub kind: Kind,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Longest IP packet sent there, bytes; at least 1280 when it has IPv6 addresses (RFC 8200 §5).
    pub mtu: u16,
    /// Its addresses, each with the prefix that is on the link.
    pub addresses: Vec<IpNet>,
    /// Addresses that the translation has here, answered for by ARP and ND, never by an echo reply: pools,
    /// static ones.
    pub proxies: Vec<IpAddr>,
    /// Prefixes inside that neighbours here take for on-link: their solicitations are answered (RFC 4389).
    pub nd_proxy: Vec<Ipv6Net>,
    /// Of a gateway: packets are not routed from one host of its own networks to another.
    pub isolated: bool,
    /// DHCP and router advertisements.
    pub services: Arc<Services>,
}

impl Iface {
    /// Whether the zone's hosts are there.
    pub fn zone(&self) -> Option<Zone> {
        match self.kind {
            Kind::Gateway { zone, .. } => Some(zone),
            Kind::Uplink { .. } => None,
        }
    }

    /// Whether it is an uplink whose addresses are the host's.
    pub fn is_shared(&self) -> bool {
        self.kind == Kind::Uplink { shared: true }
    }

    /// Its IPv6 link-local address (RFC 4291 §2.5.6), which every interface has.
    pub fn link_local(&self) -> Ipv6Addr {
        link_local(self.mac)
    }

    /// Its first IPv4 address.
    pub fn v4(&self) -> Option<Ipv4Addr> {
        self.addresses.iter().find_map(|a| if let IpNet::V4(a) = a { Some(a.addr()) } else { None })
    }

    /// Its first IPv6 address, or the link-local one.
    pub fn v6(&self) -> Ipv6Addr {
        let first =
            self.addresses.iter().find_map(|a| if let IpNet::V6(a) = a { Some(a.addr()) } else { None });
        first.unwrap_or_else(|| self.link_local())
    }

    /// Whether it has any IPv6 address besides the link-local one.
    pub fn has_v6(&self) -> bool {
        self.addresses.iter().any(|a| matches!(a, IpNet::V6(_)))
    }

    /// Whether the address is its own.
    #[inline]
    pub fn owns(&self, addr: IpAddr) -> bool {
        self.addresses.iter().any(|a| a.addr() == addr) || addr == IpAddr::V6(self.link_local())
    }

    /// Whether a packet that came in, from an address in IPv6 form (IPv4 mapped), claims to be from it. What the host
    /// sends that shares its address does not come in there.
    #[inline]
    pub fn is_claimed_by(&self, src: Ipv6Addr) -> bool {
        let own = self.addresses.iter().any(|net| match net {
            IpNet::V4(net) => src == net.addr().to_ipv6_mapped(),
            IpNet::V6(net) => src == net.addr(),
        });
        own && !self.is_shared()
    }

    /// Whether it answers for the address when neighbours ask.
    pub(crate) fn answers_for(&self, addr: IpAddr) -> bool {
        let proxied = || matches!(addr, IpAddr::V6(a) if self.nd_proxy.iter().any(|p| p.contains(&a)));
        !self.is_shared() && (self.owns(addr) || self.proxies.contains(&addr) || proxied())
    }
}

/// The link-local address made of a MAC address (RFC 4291 §2.5.6 and appendix A).
pub fn link_local(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0.map(u16::from);
    Ipv6Addr::new(0xfe80, 0, 0, 0, (a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_4291() {
        // Appendix A: 34-56-78-9A-BC-DE.
        let mac = MacAddr([0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde]);
        assert_eq!(link_local(mac), "fe80::3656:78ff:fe9a:bcde".parse::<Ipv6Addr>().unwrap());
    }
}
