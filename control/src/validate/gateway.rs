//! Gateways.

use std::net::IpAddr;

use ipnet::IpNet;

use super::l3::{blame, overlap};
use super::{object_name, port, shorten, station_mac};
use crate::model::Desired;
use crate::model::l3::GatewaySpec;
use crate::{Error, Result};

const MAX_ADDRESSES: usize = 64;
/// Least MTU of IPv4 hosts (RFC 791 §3.2: every one takes 576 bytes).
const MIN_MTU: u32 = 576;
/// Least MTU that IPv6 runs on (RFC 8200 §5).
const MIN_IPV6_MTU: u32 = 1280;
/// Most addresses of a DHCP range.
const MAX_LEASES: u64 = 65536;
const MAX_DNS: usize = 8;

/// Where a gateway is: the bridge its name says, and the VLAN if it says one. A bridge of exactly that name
/// comes first.
pub fn gateway_place<'a>(desired: &Desired, name: &'a str) -> (&'a str, Option<u16>) {
    if desired.bridges.contains_key(name) {
        return (name, None);
    }
    split(name).map_or((name, None), |(bridge, vlan)| (bridge, Some(vlan)))
}

/// `BRIDGE.VLAN` taken apart.
fn split(name: &str) -> Option<(&str, u16)> {
    let (bridge, vlan) = name.rsplit_once('.')?;
    let digits = !vlan.starts_with('0') && vlan.bytes().all(|b| b.is_ascii_digit());
    let vlan = digits.then(|| vlan.parse().ok()).flatten()?;
    (1..=4094).contains(&vlan).then_some((bridge, vlan))
}

/// Checks a gateway by itself: all but whether its bridge is there.
///
/// # Errors
/// The first thing that is wrong.
pub fn gateway(name: &str, spec: &GatewaySpec) -> Result<()> {
    object_name("gateway", name)?;
    check(spec).map_err(|e| e.within(format_args!("gateway {name}")))
}

fn check(spec: &GatewaySpec) -> Result<()> {
    if spec.addresses.is_empty() {
        return Err(Error::invalid("it has no address").hint("give one like 10.77.0.1/24 or fd77::1/64"));
    }
    if spec.addresses.len() > MAX_ADDRESSES {
        return Err(Error::invalid(format!("{} addresses are too many", spec.addresses.len()))
            .hint(format!("use {MAX_ADDRESSES}")));
    }
    for (i, net) in spec.addresses.iter().enumerate() {
        port::address(net)?;
        configurable(net)?;
        if net.prefix_len() == net.max_prefix_len() {
            return Err(Error::invalid(format!("address {net} leaves no room for hosts"))
                .hint("give the prefix length of the network, like 10.77.0.1/24"));
        }
        if spec.addresses[..i].iter().any(|other| other.addr() == net.addr()) {
            return Err(Error::invalid(format!("address {} is given twice", net.addr())));
        }
    }
    if let Some(mac) = &spec.mac {
        station_mac(mac)?;
    }
    let v6 = spec.addresses.iter().any(|a| a.addr().is_ipv6());
    let least = if v6 { MIN_IPV6_MTU } else { MIN_MTU };
    if let Some(mtu) = spec.mtu
        && !(least..=65535).contains(&mtu)
    {
        let why = if v6 { " with IPv6" } else { "" };
        return Err(
            Error::invalid(format!("MTU {mtu} is out of range{why}")).hint(format!("use {least} to 65535"))
        );
    }
    dhcp(spec)?;
    announcements(spec)
}

/// Whether the switch may be given the address (RFC 6890, RFC 4291 §2.5).
pub(super) fn configurable(net: &IpNet) -> Result<()> {
    let why = match net.addr() {
        IpAddr::V4(a) if a.is_loopback() => "is a loopback address",
        IpAddr::V4(a) if a.octets()[0] == 0 || a.octets()[0] >= 224 => "is no host's",
        IpAddr::V6(a) if a.is_loopback() => "is a loopback address",
        IpAddr::V6(a) if a.is_unicast_link_local() => {
            "is link-local: there is one already, made of the MAC address"
        }
        IpAddr::V6(a) if a.to_ipv4_mapped().is_some() => "is an IPv4 address in disguise",
        _ => return Ok(()),
    };
    Err(Error::invalid(format!("address {net} {why}"))
        .hint("give an address that hosts of the network can reach"))
}

fn dhcp(spec: &GatewaySpec) -> Result<()> {
    let ours = |addr: IpAddr| spec.addresses.iter().find(|net| net.addr() == addr);
    // DHCP serves one network, that of the first IPv4 address.
    let served = spec.addresses.iter().find(|net| net.addr().is_ipv4());
    let within = |addr: IpAddr| served.filter(|net| net.contains(&addr));
    if let Some(range) = &spec.dhcp_range {
        let bad = |why: String, hint: &str| {
            Err(Error::invalid(format!("dhcp-range {range} {why}")).hint(hint.to_owned()))
        };
        if range.first.is_ipv6() {
            return bad("is of IPv6".into(), "IPv6 hosts make their addresses themselves: give --ra");
        }
        let inside = "give a range inside the gateway's own network";
        let Some(net) = within(range.first) else {
            return bad("is outside the network of the gateway's first IPv4 address".into(), inside);
        };
        if !net.contains(&range.last) {
            return bad(format!("reaches beyond {}", net.trunc()), inside);
        }
        let edge = |a: IpAddr| net.prefix_len() < 31 && (a == net.network() || a == net.broadcast());
        if edge(range.first) || edge(range.last) {
            return bad(format!("has the network or broadcast address of {}", net.trunc()), inside);
        }
        if let Some(own) = spec.addresses.iter().find(|net| range.contains(net.addr())) {
            return bad(
                format!("has the gateway's own address {}", own.addr()),
                "begin or end it beside that address",
            );
        }
        if range.count().is_none_or(|n| n > MAX_LEASES) {
            return bad("is too large".into(), "use at most 65536 addresses");
        }
    }
    let mut taken = std::collections::BTreeMap::new();
    for (mac, addr) in &spec.reservations {
        station_mac(mac)?;
        let bad = |why: &str| {
            Err(Error::invalid(format!("the reservation of {addr} for {mac} {why}"))
                .hint("reserve a free IPv4 address of the gateway's network"))
        };
        if addr.is_ipv6() {
            return bad("is of IPv6");
        }
        if within(*addr).is_none() {
            return bad("is outside the network of the gateway's first IPv4 address");
        }
        if ours(*addr).is_some() {
            return bad("is the gateway's own address");
        }
        if let Some(other) = taken.insert(addr, mac) {
            return bad(&format!("is that of {other} too"));
        }
    }
    if let Some(lease) = spec.dhcp_lease
        && !(60..=31_536_000).contains(&lease)
    {
        return Err(
            Error::invalid(format!("dhcp-lease {lease} is out of range")).hint("use 60 to 31536000 seconds")
        );
    }
    if let Some(domain) = &spec.domain
        && !is_domain(domain)
    {
        return Err(Error::invalid(format!("'{}' is not a domain name", shorten(domain)))
            .hint("write it like lab.example"));
    }
    match (spec.has_dhcp(), spec.dhcp_lease.is_some(), spec.domain.is_some()) {
        (false, true, _) => Err(no_dhcp("dhcp-lease")),
        (false, _, true) if !spec.ra => Err(no_dhcp("domain")),
        _ => Ok(()),
    }
}

fn no_dhcp(key: &str) -> Error {
    Error::invalid(format!("{key} without DHCP")).hint("give dhcp-range too, like 10.77.0.100-10.77.0.199")
}

/// RFC 1035 §2.3.1 and RFC 1123 §2.1.
fn is_domain(text: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

fn announcements(spec: &GatewaySpec) -> Result<()> {
    if spec.ra {
        let v6: Vec<&IpNet> = spec.addresses.iter().filter(|a| a.addr().is_ipv6()).collect();
        // RFC 4862 §5.5.3 with the 64-bit interface identifiers of Ethernet (RFC 2464 §4).
        if !v6.iter().any(|a| a.prefix_len() == 64) {
            return Err(Error::invalid(
                "router advertisements need an IPv6 address with a prefix of 64 bits",
            )
            .hint("add one like fd77::1/64, or leave --ra out"));
        }
    }
    if spec.dns.len() > MAX_DNS {
        return Err(Error::invalid(format!("{} name servers are too many", spec.dns.len()))
            .hint(format!("use {MAX_DNS}")));
    }
    for (i, server) in spec.dns.iter().enumerate() {
        if server.is_unspecified() || server.is_multicast() || server.is_loopback() {
            return Err(Error::invalid(format!("{server} is no name server's address"))
                .hint("give an address that hosts of the network can reach"));
        }
        if spec.dns[..i].contains(server) {
            return Err(Error::invalid(format!("name server {server} is given twice")));
        }
        let (told, how) = match server.is_ipv4() {
            true => (spec.has_dhcp(), "DHCP: give dhcp-range"),
            false => (spec.ra, "router advertisements: give ra"),
        };
        if !told {
            return Err(Error::invalid(format!("nobody would tell the hosts of name server {server}"))
                .hint(format!("it is told by {how} too")));
        }
    }
    Ok(())
}

pub(super) fn check_all(old: &Desired, desired: &Desired) -> Result<()> {
    for (name, spec) in &desired.gateways {
        gateway(name, spec)?;
        let (bridge, vlan) = gateway_place(desired, name);
        if !desired.bridges.contains_key(bridge) {
            return Err(Error::not_found(format!("gateway {name}: there is no bridge {bridge}"))
                .hint(format!("make it first: trunkline bridge add {bridge}")));
        }
        if vlan.is_none()
            && let Some((other, _)) = split(name)
            && desired.bridges.contains_key(other)
        {
            return Err(Error::conflict(format!(
                "gateway {name} may be that of bridge {name} or that of a VLAN of bridge {other}"
            ))
            .hint("give one of the two bridges another name"));
        }
        if let Some(mac) = &spec.mac
            && let Some(entry) = desired.bridges[bridge]
                .static_fdb
                .iter()
                .find(|e| &e.mac == mac && e.vlan == vlan.unwrap_or(0))
        {
            return Err(Error::conflict(format!(
                "gateway {name}: {mac} is static behind port {} of bridge {bridge}",
                entry.port
            ))
            .hint("choose another MAC address, or remove that entry"));
        }
    }
    networks(old, desired)
}

/// Networks of one bridge do not overlap; those of two bridges may: they are zones of their own.
fn networks(old: &Desired, desired: &Desired) -> Result<()> {
    let all: Vec<_> = desired.gateways.iter().collect();
    for (i, (name, spec)) in all.iter().enumerate() {
        let bridge = gateway_place(desired, name).0;
        for (other, theirs) in &all[..i] {
            if gateway_place(desired, other).0 != bridge {
                continue;
            }
            let pair = spec.addresses.iter().flat_map(|a| theirs.addresses.iter().map(move |b| (a, b)));
            let Some((a, b)) = pair.into_iter().find(|(a, b)| overlap(a, b)) else { continue };
            let new = old.gateways.get(*name) != Some(*spec);
            let ((bad, net), (good, there)) = blame((name, a), (other, b), new);
            return Err(Error::conflict(format!(
                "gateway {bad}: the network of {net} overlaps that of {there}, gateway {good}'s"
            ))
            .hint("networks of one bridge must not overlap; give them other addresses or another bridge"));
        }
    }
    Ok(())
}
