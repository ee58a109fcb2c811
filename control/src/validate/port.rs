//! One port by itself.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{guard, is_name_byte, object_name, shorten, station_mac, tunnel, vlan};
use crate::model::{LinkRoute, LinkSpec, PortKind, PortSpec, TapSpec};
use crate::{Error, Result};

/// Longest name of an interface, bytes (`IFNAMSIZ` less the terminator).
const MAX_IFNAME: usize = 15;
/// Least MTU that IPv6 runs on (RFC 8200 §5).
const MIN_IPV6_MTU: u32 = 1280;
const MAX_ADDRESSES: usize = 64;
/// Routes of one interface.
const MAX_ROUTES: usize = 64;
const MAX_LABELS: usize = 64;

/// Checks a port by itself: all but whether its bridge and the interface are there.
///
/// # Errors
/// The first thing that is wrong.
pub fn port(name: &str, spec: &PortSpec) -> Result<()> {
    object_name("port", name)?;
    let own = tunnel::split_horizon(spec).and_then(|()| check(name, spec));
    own.map_err(|e| e.within(format!("port {name}")))
}

/// What holds for the ports of meshes too.
pub(super) fn check(name: &str, spec: &PortSpec) -> Result<()> {
    vlan::check(spec)?;
    if spec.max_macs.is_some_and(|n| n > 1_048_576) {
        return Err(Error::invalid("max-macs is out of range").hint("use 0 (no limit) to 1048576"));
    }
    labels(spec)?;
    guard::check(spec)?;
    match &spec.kind {
        PortKind::Tap(tap) => {
            interface_name(name, tap.ifname.as_deref())?;
            namespace(tap)?;
            queues(tap.queues)?;
            link(&tap.link)
        }
        PortKind::Host(host) => {
            interface_name(name, host.ifname.as_deref())?;
            queues(host.queues)?;
            link(&host.link)
        }
        PortKind::Afpacket(a) => existing_interface(&a.interface),
        PortKind::Replay(replay) => {
            if !replay.file.starts_with('/') {
                return Err(Error::invalid(format!(
                    "file '{}' is not an absolute path",
                    shorten(&replay.file)
                ))
                .hint("the daemon runs in another directory: begin it with /"));
            }
            Ok(())
        }
        PortKind::Null {} => Ok(()),
        PortKind::Gre(_) | PortKind::Nvgre(_) | PortKind::Vxlan(_) | PortKind::Geneve(_) => {
            spec.kind.tunnel().map_or(Ok(()), |(kind, t)| tunnel::check(kind, t, spec))
        }
    }
}

/// The name of an interface that is made.
pub(super) fn interface_name(port: &str, ifname: Option<&str>) -> Result<()> {
    let ifname = match ifname {
        Some(ifname) => ifname,
        None if port.len() > MAX_IFNAME => {
            return Err(Error::invalid(format!(
                "its name is too long for an interface ({MAX_IFNAME} characters)"
            ))
            .hint("give the interface another name with ifname"));
        }
        None => port,
    };
    let fits = (1..=MAX_IFNAME).contains(&ifname.len());
    if !fits || ifname == "." || ifname == ".." || ifname == "lo" || !ifname.bytes().all(is_name_byte) {
        return Err(Error::invalid(format!("'{}' is not a name for an interface", shorten(ifname)))
            .hint(format!("use 1 to {MAX_IFNAME} of the characters A-Z a-z 0-9 _ . -, not lo")));
    }
    Ok(())
}

/// The name of an interface that exists: whatever the kernel accepts (`dev_valid_name`).
pub(super) fn existing_interface(ifname: &str) -> Result<()> {
    let fits = (1..=MAX_IFNAME).contains(&ifname.len()) && ifname != "." && ifname != "..";
    if !fits || ifname.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control()) {
        return Err(Error::invalid(format!("'{}' is not an interface", shorten(ifname)))
            .hint("'ip link' lists the interfaces"));
    }
    Ok(())
}

fn namespace(tap: &TapSpec) -> Result<()> {
    if tap.handed_over && (tap.adopt || tap.netns.is_some()) {
        return Err(Error::invalid("handed-over excludes adopt and netns")
            .hint("an interface that is handed over is made in the daemon's own namespace"));
    }
    if tap.follow.is_some() && (tap.adopt || tap.handed_over) {
        return Err(Error::invalid("follow excludes adopt and handed-over")
            .hint("what is followed is where the interface is made"));
    }
    let Some(netns) = &tap.netns else { return Ok(()) };
    if tap.adopt {
        return Err(Error::invalid("adopt and netns exclude each other")
            .hint("an adopted TAP is in the daemon's own namespace"));
    }
    let path = netns.starts_with('/') && !netns.contains('\0');
    let name =
        (1..=255).contains(&netns.len()) && netns != "." && netns != ".." && !netns.contains(['/', '\0']);
    if !path && !name {
        return Err(Error::invalid(format!("'{}' is not a network namespace", shorten(netns)))
            .hint("give a name from 'ip netns', an absolute path, or a pid"));
    }
    Ok(())
}

fn queues(queues: Option<u16>) -> Result<()> {
    match queues {
        None | Some(1..=256) => Ok(()),
        Some(n) => Err(Error::invalid(format!("{n} queues are out of range")).hint("use 1 to 256")),
    }
}

fn labels(spec: &PortSpec) -> Result<()> {
    if spec.labels.len() > MAX_LABELS {
        return Err(Error::invalid(format!("{} labels are too many", spec.labels.len()))
            .hint(format!("use {MAX_LABELS}")));
    }
    for (key, value) in &spec.labels {
        let key_fits = (1..=63).contains(&key.len()) && key.bytes().all(|b| is_name_byte(b) || b == b'/');
        if !key_fits || value.len() > 255 || value.contains(char::is_control) {
            return Err(Error::invalid(format!("the label '{}' is malformed", shorten(key))).hint(
                "use 1 to 63 of A-Z a-z 0-9 _ . - / for the key, 255 printable characters for the value",
            ));
        }
    }
    Ok(())
}

pub(super) fn link(link: &LinkSpec) -> Result<()> {
    if let Some(mac) = &link.mac {
        station_mac(mac)?;
    }
    if link.addresses.len() > MAX_ADDRESSES {
        return Err(Error::invalid(format!("{} addresses are too many", link.addresses.len()))
            .hint(format!("use {MAX_ADDRESSES}")));
    }
    for (i, net) in link.addresses.iter().enumerate() {
        address(net)?;
        if link.addresses[..i].iter().any(|other| other.addr() == net.addr()) {
            return Err(Error::invalid(format!("address {} is given twice", net.addr())));
        }
    }
    for (i, gw) in link.gateways.iter().enumerate() {
        gateway(gw, &link.addresses)?;
        if link.gateways[..i].iter().any(|other| other.is_ipv4() == gw.is_ipv4()) {
            let family = if gw.is_ipv4() { "IPv4" } else { "IPv6" };
            return Err(Error::invalid(format!("gateway {gw} is a second one for {family}"))
                .hint("give one gateway for each of IPv4 and IPv6"));
        }
    }
    if link.routes.len() > MAX_ROUTES {
        return Err(Error::invalid(format!("{} routes are too many", link.routes.len()))
            .hint(format!("use {MAX_ROUTES}")));
    }
    for (i, r) in link.routes.iter().enumerate() {
        route(r, &link.addresses).map_err(|e| e.within(format!("route {r}")))?;
        if link.routes[..i].iter().any(|other| other.to == r.to) {
            return Err(Error::invalid(format!("there are two routes to {}", r.to)));
        }
    }
    mtu(link)
}

fn route(route: &LinkRoute, addresses: &[IpNet]) -> Result<()> {
    let LinkRoute { to, via } = route;
    if to.prefix_len() == 0 {
        return Err(Error::invalid("this is a default route").hint("give its router as a gateway"));
    }
    if to.addr() != to.network() {
        return Err(Error::invalid(format!("{to} is an address of {}", to.trunc()))
            .hint(format!("write {} for the network", to.trunc())));
    }
    if !addresses.iter().any(|a| a.addr().is_ipv4() == to.addr().is_ipv4()) {
        return Err(Error::invalid("the interface has no address of that family"));
    }
    match via {
        Some(via) if via.is_ipv4() != to.addr().is_ipv4() => {
            Err(Error::invalid("the router is of another family").hint("give one of the same"))
        }
        Some(via) => gateway(via, addresses),
        None => Ok(()),
    }
}

pub(super) fn address(net: &IpNet) -> Result<()> {
    let addr = net.addr();
    let bad = |why: &str| {
        Err(Error::invalid(format!("address {net} {why}")).hint("give the interface's own address"))
    };
    if addr.is_unspecified() || addr.is_multicast() || addr == IpAddr::from([255; 4]) {
        return bad("is no interface's");
    }
    if let IpNet::V4(v4) = net
        && v4.prefix_len() < 31
    {
        if v4.addr() == v4.network() {
            return bad("is that of the network");
        }
        if v4.addr() == v4.broadcast() {
            return bad("is the network's broadcast address");
        }
    }
    Ok(())
}

fn gateway(gateway: &IpAddr, addresses: &[IpNet]) -> Result<()> {
    let bad = |why: &str, hint: &str| Err(Error::invalid(format!("gateway {gateway} {why}")).hint(hint));
    if gateway.is_unspecified() || gateway.is_multicast() {
        return bad("is no router's address", "give the router's own address");
    }
    if addresses.iter().any(|net| net.addr() == *gateway) {
        return bad("is the interface's own address", "give the router's address");
    }
    // A link-local gateway is on every IPv6 link (RFC 4291 §2.5.6).
    let link_local = matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local());
    if !link_local && !addresses.iter().any(|net| net.contains(gateway)) {
        return bad("is outside the networks of the addresses", "give an address in the gateway's network");
    }
    Ok(())
}

fn mtu(link: &LinkSpec) -> Result<()> {
    let Some(mtu) = link.mtu else { return Ok(()) };
    if !(68..=65535).contains(&mtu) {
        return Err(Error::invalid(format!("MTU {mtu} is out of range")).hint("use 68 to 65535"));
    }
    let ipv6 =
        link.addresses.iter().any(|net| net.addr().is_ipv6()) || link.gateways.iter().any(IpAddr::is_ipv6);
    if mtu < MIN_IPV6_MTU && ipv6 {
        return Err(Error::invalid(format!("MTU {mtu} is too small for IPv6"))
            .hint(format!("use {MIN_IPV6_MTU} or more, or leave the IPv6 address out")));
    }
    Ok(())
}
