//! Who talks to whom, with types that keep the two sides of the translation apart.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr};

use trunkline_packet::Plain;
use trunkline_packet::headers::proto;

/// A network inside: packets of one zone never match entries of another, so that addresses may overlap.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Zone(pub u16);

/// A network outside.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Uplink(pub u16);

/// An address and a port. IPv4 addresses are in their mapped form (RFC 4291 §2.5.5.2). The port is the query
/// identifier for ICMP, and 0 for protocols without.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Endpoint {
    /// Address.
    pub addr: Ipv6Addr,
    /// Port.
    pub port: u16,
}

impl Endpoint {
    /// An endpoint of either address family.
    pub fn new(addr: IpAddr, port: u16) -> Endpoint {
        Endpoint { addr: mapped(addr), port }
    }

    /// The address as its family writes it.
    pub fn ip(&self) -> IpAddr {
        self.addr.to_canonical()
    }
}

/// The one form that addresses have here.
#[inline]
pub(crate) fn mapped(addr: IpAddr) -> Ipv6Addr {
    match addr {
        IpAddr::V4(a) => a.to_ipv6_mapped(),
        IpAddr::V6(a) => a,
    }
}

/// As the hosts inside see it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Inside<T>(pub T);

/// As the world outside sees it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Outside<T>(pub T);

/// Where a packet comes from and, routed already, goes to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Path {
    /// From a host inside to the world.
    Out(Zone, Uplink),
    /// From the world; the zone is what the translation finds.
    In(Uplink),
    /// As from the world, from a host inside: the second pass of a hairpinned packet.
    Hairpin(Uplink),
    /// From the host itself, whose address the uplink shares, to that address. It appears inside as the
    /// gateway.
    Local(Uplink),
    /// From a host inside to a gateway's own address: the answer to somebody who appears as the gateway.
    Answer(Zone),
}

impl Path {
    /// Which side sends.
    #[inline]
    pub(crate) fn side(self) -> Side {
        match self {
            Path::Out(..) | Path::Answer(_) => Side::Inside,
            Path::In(_) | Path::Hairpin(_) | Path::Local(_) => Side::Outside,
        }
    }
}

/// One of the two sides; also the slot in arrays of two.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub(crate) enum Side {
    Inside = 0,
    Outside = 1,
}

impl Side {
    #[inline]
    pub(crate) fn other(self) -> Side {
        if self == Side::Inside { Side::Outside } else { Side::Inside }
    }
}

/// What the tables are looked up by. Made only from typed endpoints, so that a key of one side is never
/// taken for one of the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Key {
    near: u128,
    remote: u128,
    /// Both ports, then zone or uplink, protocol, and kind: side, and whether it is a mapping's, which has no
    /// remote.
    rest: u64,
}

/// Nobody: the remote of a mapping.
const NOBODY: Endpoint = Endpoint { addr: Ipv6Addr::UNSPECIFIED, port: 0 };

/// An address as it stands in memory: all that a key asks of it is to be the same.
#[inline]
fn raw(addr: Ipv6Addr) -> u128 {
    u128::from_ne_bytes(addr.octets())
}

impl Key {
    #[inline]
    fn new(near: Endpoint, remote: Endpoint, scope: u16, proto: u8, kind: u8) -> Key {
        let ports = u32::from(near.port) << 16 | u32::from(remote.port);
        Key::flat(raw(near.addr), raw(remote.addr), ports, scope, proto, kind)
    }

    #[inline]
    fn flat(near: u128, remote: u128, ports: u32, scope: u16, proto: u8, kind: u8) -> Key {
        let rest = u64::from(ports) << 32 | u64::from(scope) << 16 | u64::from(proto) << 8 | u64::from(kind);
        Key { near, remote, rest }
    }

    #[inline]
    pub(crate) fn inside(zone: Zone, proto: u8, local: Inside<Endpoint>, remote: Endpoint) -> Key {
        Key::new(local.0, remote, zone.0, proto, 0)
    }

    #[inline]
    pub(crate) fn outside(uplink: Uplink, proto: u8, external: Outside<Endpoint>, remote: Endpoint) -> Key {
        Key::new(external.0, remote, uplink.0, proto, 1)
    }

    /// Of a plain packet from inside.
    #[inline]
    pub(crate) fn plain_inside(zone: Zone, p: &Plain) -> Key {
        Key::flat(raw(p.src), raw(p.dst), p.ports, zone.0, p.proto, 0)
    }

    /// Of a plain packet from outside.
    #[inline]
    pub(crate) fn plain_outside(uplink: Uplink, p: &Plain) -> Key {
        Key::flat(raw(p.dst), raw(p.src), p.ports.rotate_left(16), uplink.0, p.proto, 1)
    }

    /// Of a mapping, by its inside endpoint; one for each uplink.
    #[inline]
    pub(crate) fn mapping(zone: Zone, uplink: Uplink, proto: u8, local: Inside<Endpoint>) -> Key {
        Key::new(local.0, Endpoint { port: uplink.0, ..NOBODY }, zone.0, proto, 2)
    }

    /// Of a mapping, by its external endpoint.
    #[inline]
    pub(crate) fn mapped(uplink: Uplink, proto: u8, external: Outside<Endpoint>) -> Key {
        Key::new(external.0, NOBODY, uplink.0, proto, 3)
    }

    /// Of the permission that one remote address has to use a mapping.
    #[inline]
    pub(crate) fn permission(mapping: u32, remote: Ipv6Addr) -> Key {
        Key::flat(u128::from(mapping), raw(remote), 0, 0, 0, 4)
    }
}

impl Hash for Key {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(self.near);
        state.write_u128(self.remote);
        state.write_u64(self.rest);
    }
}

/// The protocols with ports or identifiers, and so with mappings; the slot in arrays of three.
#[inline]
pub(crate) fn port_class(protocol: u8) -> Option<usize> {
    match protocol {
        proto::TCP => Some(0),
        proto::UDP => Some(1),
        proto::ICMP | proto::ICMPV6 => Some(2),
        _ => None,
    }
}

/// Whether a packet from this address may be forwarded (RFC 6890, RFC 4291 §2.5). IPv4 link-local is left
/// alone: clouds route to it.
pub(crate) fn is_unicast(addr: Ipv6Addr) -> bool {
    match addr.to_canonical() {
        IpAddr::V4(a) => {
            let first = a.octets()[0];
            first != 0 && first != 127 && first < 224
        }
        IpAddr::V6(a) => {
            !(a.is_unspecified() || a.is_loopback() || a.is_multicast() || a.is_unicast_link_local())
        }
    }
}

/// A network prefix.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Prefix {
    addr: Ipv6Addr,
    mask: u128,
}

impl Prefix {
    /// All addresses whose first `len` bits are those of `addr`. `None` when `len` is longer than an address.
    pub fn new(addr: IpAddr, len: u8) -> Option<Prefix> {
        let (most, lead) = if addr.is_ipv4() { (32, 96) } else { (128, 0) };
        if len > most {
            return None;
        }
        let mask = u128::MAX.checked_shl(128 - u32::from(len) - lead).unwrap_or(0);
        Some(Prefix { addr: Ipv6Addr::from(u128::from(mapped(addr)) & mask), mask })
    }

    /// Whether it is of IPv4 addresses.
    pub(crate) fn is_v4(&self) -> bool {
        self.addr.to_ipv4_mapped().is_some() && self.mask >> 32 == u128::MAX >> 32
    }

    /// Whether the address is one of them.
    #[inline]
    pub(crate) fn contains(&self, addr: Ipv6Addr) -> bool {
        u128::from(addr) & self.mask == u128::from(self.addr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    #[test]
    fn prefixes_keep_the_families_apart() {
        let p = Prefix::new(ip("10.77.3.9"), 16).unwrap();
        assert!(p.contains(mapped(ip("10.77.255.1"))) && !p.contains(mapped(ip("10.78.0.1"))));
        assert!(Prefix::new(ip("0.0.0.0"), 0).unwrap().contains(mapped(ip("1.2.3.4"))));
        assert!(!Prefix::new(ip("0.0.0.0"), 0).unwrap().contains(mapped(ip("2001:db8::1"))));
        assert!(Prefix::new(ip("::"), 0).unwrap().contains(mapped(ip("2001:db8::1"))));
        assert!(Prefix::new(ip("10.0.0.0"), 33).is_none());
        assert!(Prefix::new(ip("fd00::"), 129).is_none());
    }

    #[test]
    fn martians() {
        for bad in ["0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "ff02::1", "fe80::1"]
        {
            assert!(!is_unicast(mapped(ip(bad))), "{bad}");
        }
        for good in ["10.0.0.1", "169.254.169.254", "fd00::1", "2001:db8::1"] {
            assert!(is_unicast(mapped(ip(good))), "{good}");
        }
    }
}
