//! Anti-spoof: what a port that is not trusted may send.
//!
//! Semantics. A guarded port sends with its own MAC addresses and, if it is held to IP addresses, with those:
//! as the source of IPv4 and IPv6, as the sender of ARP (gratuitous ARP and RARP included), as what neighbour
//! discovery claims or asks for before claiming (RFC 4861, RFC 4862). What every host needs before it has an
//! address stays allowed: ARP probes (RFC 5227) and DHCP from 0.0.0.0, IGMP from 0.0.0.0 (RFC 3376 §4.2.13),
//! duplicate address detection for its own addresses, router solicitations and MLD from `::` (RFC 3590), and
//! the link-local address made of its MAC address (RFC 4291 appendix A). Other link-local addresses are given as
//! any other address. It is neither a router nor a DHCP server: no router advertisements or redirects (RA-Guard,
//! RFC 6105), nothing to a DHCP client's port (DHCPv6-Shield, RFC 7610), and no DHCP in the name of another MAC
//! address. Addresses that DHCP gives it are seen in the server's answer, which must come by a port
//! that is not guarded (as RFC 7513 does).
//!
//! Attack model. The host behind the port writes any bytes. What would hide a message is refused rather than
//! guessed at (RFC 7113 §3, RFC 7112): headers cut off or too many, extension headers unknown here, first
//! fragments without the whole chain, more VLAN tags than are looked through, and, from a port held to IP
//! addresses, any other protocol over Ethernet. The state that it can make is bounded (see `bindings`).
//!
//! One check per packet, without allocation or lock; ports without a guard pay one comparison per batch.

mod bindings;
mod dhcp;
mod nd;
#[cfg(all(test, not(loom)))]
mod tests;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use trunkline_packet::headers::{IpVersion, proto, read16};
use trunkline_packet::{Batch, DropReason, EtherType, Headers, MacAddr, Packet, Tpid, headers};

use bindings::Bindings;
pub(crate) use dhcp::given;

/// What a port may use.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Allowed {
    /// Source MAC addresses; none: any.
    pub macs: Vec<MacAddr>,
    /// Addresses, or networks of them. `None`: any, only MAC addresses and roles are looked at.
    pub nets: Option<Vec<IpNet>>,
    /// And IPv4 addresses that DHCP gives to one of the MAC addresses.
    pub dhcp: bool,
}

/// A network as it is compared.
#[derive(Clone, Copy, Debug)]
struct Net<T> {
    bits: T,
    mask: T,
}

/// What one port may send. See the head of the module.
#[derive(Debug)]
pub struct Guard {
    macs: Box<[MacAddr]>,
    /// Held to IP addresses.
    held: bool,
    v4: Box<[Net<u32>]>,
    v6: Box<[Net<u128>]>,
    /// What DHCP gave.
    bindings: Option<Arc<Bindings>>,
}

/// What a packet is checked with.
struct Check<'a> {
    guard: &'a Guard,
    now: u32,
    /// The frame's source.
    mac: MacAddr,
    head: &'a [u8],
}

impl Guard {
    /// A guard that has seen nothing yet.
    pub fn new(allowed: &Allowed) -> Guard {
        let nets = || allowed.nets.iter().flatten();
        let v4 = nets().filter_map(|net| match net {
            IpNet::V4(n) => Some(Net { bits: n.network().to_bits(), mask: n.netmask().to_bits() }),
            IpNet::V6(_) => None,
        });
        let v6 = nets().filter_map(|net| match net {
            IpNet::V6(n) => Some(Net { bits: n.network().to_bits(), mask: n.netmask().to_bits() }),
            IpNet::V4(_) => None,
        });
        Guard {
            macs: allowed.macs.as_slice().into(),
            held: allowed.nets.is_some() || allowed.dhcp,
            v4: v4.collect(),
            v6: v6.collect(),
            bindings: allowed.dhcp.then(Arc::default),
        }
    }

    /// Goes on with the leases that the guard before it has seen.
    pub fn inherit(&mut self, before: &Guard) {
        if self.bindings.is_some() && before.bindings.is_some() {
            self.bindings.clone_from(&before.bindings);
        }
    }

    /// Whether it goes by what DHCP gives.
    pub fn learns(&self) -> bool {
        self.bindings.is_some()
    }

    /// The addresses that DHCP gave and that are still good, at `now` seconds of the engine's clock.
    pub fn leases(&self, now: u32) -> Vec<Ipv4Addr> {
        self.bindings.iter().flat_map(|b| b.list(now)).collect()
    }

    /// See [`crate::PortConfig::lease`].
    pub(crate) fn lease(&self, now: u32, mac: MacAddr, address: Ipv4Addr, seconds: u32) {
        if let Some(bindings) = &self.bindings {
            match self.may_be(mac) {
                true => bindings.insert(now, address, seconds),
                // It is somebody else's now.
                false => bindings.remove(address),
            }
        }
    }

    /// Takes out of a batch what may not be sent.
    #[inline]
    pub(crate) fn filter(&self, now: u32, batch: &mut Batch, mut refuse: impl FnMut(Packet, DropReason)) {
        let mut i = 0;
        while let Some(packet) = batch.get(i) {
            match self.check(now, packet) {
                Ok(()) => i += 1,
                Err(reason) => refuse(batch.remove(i), reason),
            }
        }
    }

    /// Whether the port may send this frame, whose outermost tag may be in the metadata.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, now: u32, packet: &Packet) -> Result<(), DropReason> {
        let head = packet.head();
        // A frame without a whole header is the bridge's to refuse.
        let Some(mac) = head.get(6..).and_then(<[u8]>::first_chunk).copied().map(MacAddr) else {
            return Ok(());
        };
        if !self.may_be(mac) {
            return Err(DropReason::GuardMac);
        }
        let Some((l3, kind)) = headers::link(head) else { return Err(DropReason::Truncated) };
        let check = Check { guard: self, now, mac, head };
        match kind {
            EtherType::IPV4 => check.ipv4(l3),
            EtherType::IPV6 => check.ipv6(l3),
            EtherType::ARP | EtherType::RARP => check.arp(l3, kind),
            // More tags than are looked through.
            EtherType(other) if Tpid::from_ethertype(other).is_some() => Err(DropReason::GuardHidden),
            _ if self.held => Err(DropReason::GuardType),
            _ => Ok(()),
        }
    }

    #[inline]
    fn may_be(&self, mac: MacAddr) -> bool {
        self.macs.is_empty() || self.macs.contains(&mac)
    }
}

impl Check<'_> {
    /// Whether the port may use an IPv4 address.
    #[inline]
    fn owns_v4(&self, addr: Ipv4Addr) -> bool {
        let bits = addr.to_bits();
        !self.guard.held
            || self.guard.v4.iter().any(|net| bits & net.mask == net.bits)
            || self.guard.bindings.as_ref().is_some_and(|b| b.contains(self.now, addr))
    }

    /// Whether the port may use an IPv6 address.
    #[inline]
    fn owns_v6(&self, addr: Ipv6Addr) -> bool {
        let bits = addr.to_bits();
        !self.guard.held
            || self.guard.v6.iter().any(|net| bits & net.mask == net.bits)
            || addr == link_local(self.mac)
    }

    /// The headers of the packet at `l3`, with the ports of UDP, if all that tells what it is can be seen.
    fn headers(&self, l3: usize, version: IpVersion) -> Result<(Headers, Option<(u16, u16)>), DropReason> {
        let hidden = DropReason::GuardHidden;
        let ip = Headers::ip(self.head, l3).filter(|ip| ip.version == version).ok_or(hidden)?;
        if !ip.has_transport() {
            return Ok((ip, None));
        }
        let l4 = usize::from(ip.l4);
        let needed = match ip.proto {
            proto::UDP => headers::UDP_HLEN,
            proto::TCP => headers::TCP_HLEN,
            proto::ICMP | proto::ICMPV6 => 4,
            // Extension headers that are not looked through, and numbers that may become some (RFC 7045 §2.1).
            135 | 139 | 140 | 148.. if version == IpVersion::V6 => return Err(hidden),
            _ => 0,
        };
        if l4 + needed > self.head.len().min(ip.end as usize) {
            return Err(hidden);
        }
        let ports =
            (ip.proto == proto::UDP).then(|| read16(self.head, l4).zip(read16(self.head, l4 + 2))).flatten();
        Ok((ip, ports))
    }

    fn ipv4(&self, l3: usize) -> Result<(), DropReason> {
        let (ip, ports) = self.headers(l3, IpVersion::V4)?;
        let Some((src, dst)) = addresses::<4>(self.head, l3 + 12) else {
            return Err(DropReason::GuardHidden);
        };
        let (src, dst) = (Ipv4Addr::from(src), Ipv4Addr::from(dst));
        let asks_server = match ports {
            Some((_, dhcp::CLIENT)) => return Err(DropReason::GuardDhcp),
            Some((_, dhcp::SERVER)) => {
                self.dhcp_request(&ip)?;
                true
            }
            _ => false,
        };
        let nobody_may =
            (asks_server && dst.is_broadcast()) || (ip.proto == proto::IGMP && dst.is_multicast());
        match src.is_unspecified() {
            true if nobody_may => Ok(()),
            false if self.owns_v4(src) => Ok(()),
            _ => Err(DropReason::GuardIpv4),
        }
    }

    fn ipv6(&self, l3: usize) -> Result<(), DropReason> {
        let (ip, ports) = self.headers(l3, IpVersion::V6)?;
        let Some((src, dst)) = addresses::<16>(self.head, l3 + 8) else {
            return Err(DropReason::GuardHidden);
        };
        let (src, dst) = (Ipv6Addr::from(src), Ipv6Addr::from(dst));
        match ports {
            Some((_, dhcp::CLIENT_V6)) => return Err(DropReason::GuardDhcp),
            Some((_, dhcp::SERVER_V6)) => self.dhcpv6_request(&ip)?,
            _ => {}
        }
        let mut nobody_may = false;
        if ip.proto == proto::ICMPV6 && ip.has_transport() {
            nobody_may = self.icmpv6(&ip, src, dst)?;
        }
        match src.is_unspecified() {
            true if nobody_may => Ok(()),
            false if self.owns_v6(src) => Ok(()),
            _ => Err(DropReason::GuardIpv6),
        }
    }

    /// ARP and RARP for Ethernet and IPv4 (RFC 826, RFC 903).
    fn arp(&self, l3: usize, kind: EtherType) -> Result<(), DropReason> {
        const REQUEST: u8 = 1;
        let refused = Err(DropReason::GuardArp);
        let Some(m) = self.head.get(l3..).and_then(<[u8]>::first_chunk::<28>) else { return refused };
        let [0, 1, 8, 0, 6, 4, 0, operation, rest @ ..] = m else { return refused };
        let (Some(mac), Some(addr)) = (rest.first_chunk::<6>(), rest[6..].first_chunk::<4>()) else {
            return refused;
        };
        let (mac, addr) = (MacAddr(*mac), Ipv4Addr::from(*addr));
        // A probe (RFC 5227 §1.1); who asks for its own address by RARP does not know it.
        let probe = *operation == REQUEST || kind == EtherType::RARP;
        let fine = if addr.is_unspecified() { probe } else { self.owns_v4(addr) };
        if mac == self.mac && fine { Ok(()) } else { refused }
    }
}

/// Source and destination, which stand beside each other.
#[inline]
fn addresses<const N: usize>(head: &[u8], at: usize) -> Option<([u8; N], [u8; N])> {
    let (src, rest) = head.get(at..)?.split_first_chunk::<N>()?;
    Some((*src, *rest.first_chunk::<N>()?))
}

/// The link-local address made of a MAC address (RFC 4291 appendix A).
#[inline]
fn link_local(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}
