//! Uplinks.

use std::net::IpAddr;

use ipnet::IpNet;

use super::l3::{blame, overlap};
use super::{interface, object_name, port, station_mac};
use crate::model::l3::{HostUplink, UplinkKind, UplinkSpec};
use crate::model::{Desired, LinkSpec};
use crate::{Error, Result};

const MAX_PREFIXES: usize = 64;
/// Fewest ports that a shared uplink can do with.
const MIN_SHARED: u16 = 64;

/// Checks an uplink by itself: all but whether its interface is there.
///
/// # Errors
/// The first thing that is wrong.
pub fn uplink(name: &str, spec: &UplinkSpec) -> Result<()> {
    object_name("uplink", name)?;
    check(name, spec).map_err(|e| e.within(format_args!("uplink {name}")))
}

fn check(name: &str, spec: &UplinkSpec) -> Result<()> {
    match &spec.kind {
        UplinkKind::Own(own) => {
            port::existing_interface(&own.interface)?;
            addresses(&own.addresses)?;
            link(&own.addresses, &own.gateways, own.mac.as_deref(), own.mtu)?;
        }
        UplinkKind::Host(host) => {
            port::interface_name(name, host.interface.as_deref())?;
            addresses(&host.addresses)?;
            link(&host.addresses, &host.gateways, host.mac.as_deref(), host.mtu)?;
            host_addresses(host)?;
        }
        UplinkKind::Shared(shared) => {
            if let Some(interface) = &shared.interface {
                port::existing_interface(interface)?;
            }
            if let Some(ports) = shared.ports
                && (ports.first < 1024 || ports.span() < MIN_SHARED - 1)
            {
                return Err(Error::invalid(format!("ports {ports} are not fit to be shared")).hint(format!(
                    "give a range of at least {MIN_SHARED} ports from 1024 on, like 61000-64999"
                )));
            }
        }
    }
    if spec.nd_proxy.len() > MAX_PREFIXES {
        return Err(Error::invalid(format!("{} nd-proxy prefixes are too many", spec.nd_proxy.len()))
            .hint(format!("use {MAX_PREFIXES}")));
    }
    for prefix in &spec.nd_proxy {
        let bad =
            |why: &str, hint: String| Err(Error::invalid(format!("nd-proxy {prefix} {why}")).hint(hint));
        match prefix {
            IpNet::V4(_) => return bad("is of IPv4", "give an IPv6 prefix, like 2001:db8:1::/64".into()),
            _ if *prefix != prefix.trunc() => {
                return bad("is an address, not a prefix", format!("write {}", prefix.trunc()));
            }
            _ if prefix.prefix_len() < 32 => {
                return bad(
                    "is too wide",
                    "give the prefix that is used inside, like 2001:db8:1::/64".into(),
                );
            }
            _ => {}
        }
    }
    Ok(())
}

fn addresses(addresses: &[IpNet]) -> Result<()> {
    if addresses.is_empty() {
        return Err(Error::invalid("it has no address of the switch's own")
            .hint("give one like 192.0.2.10/24, or share the host's with --type shared"));
    }
    addresses.iter().try_for_each(super::gateway::configurable)
}

fn link(addresses: &[IpNet], gateways: &[IpAddr], mac: Option<&str>, mtu: Option<u32>) -> Result<()> {
    if let Some(mac) = mac {
        station_mac(mac)?;
    }
    let (addresses, gateways) = (addresses.to_vec(), gateways.to_vec());
    port::link(&LinkSpec { addresses, gateways, mtu, ..LinkSpec::default() })
}

fn host_addresses(host: &HostUplink) -> Result<()> {
    for net in &host.addresses {
        if host_side(host, net).is_none() {
            return Err(Error::invalid(format!("address {net} leaves no room for the host's")).hint(
                "give a shorter prefix, like 192.168.77.2/30, and an address of the host in it as gateway",
            ));
        }
    }
    Ok(())
}

/// The host's address in a network of a host uplink: as given, or the first one that is not the switch's.
pub(crate) fn host_side(host: &HostUplink, net: &IpNet) -> Option<IpNet> {
    let with = |addr: IpAddr| IpNet::new(addr, net.prefix_len()).ok();
    if let Some(given) = host.gateways.iter().find(|g| net.contains(*g)) {
        return with(*given);
    }
    let ours = |addr: &IpAddr| host.addresses.iter().any(|net| net.addr() == *addr);
    let free = match net {
        IpNet::V4(v4) => v4.hosts().map(IpAddr::V4).take(MAX_PREFIXES * 2).find(|a| !ours(a)),
        // The first address of an IPv6 network is that of any router there (RFC 4291 §2.6.1).
        IpNet::V6(v6) => {
            let skip = usize::from(v6.prefix_len() < 127);
            v6.hosts().map(IpAddr::V6).skip(skip).take(MAX_PREFIXES * 2).find(|a| !ours(a))
        }
    };
    free.and_then(with)
}

/// Default routers of an uplink, as far as its spec says.
pub(crate) fn routers(spec: &UplinkSpec) -> Vec<IpAddr> {
    match &spec.kind {
        UplinkKind::Own(own) => own.gateways.clone(),
        UplinkKind::Host(host) if host.link_only => Vec::new(),
        UplinkKind::Host(host) if !host.gateways.is_empty() => host.gateways.clone(),
        UplinkKind::Host(host) => {
            let mut routers: Vec<IpAddr> =
                host.addresses.iter().filter_map(|net| Some(host_side(host, net)?.addr())).collect();
            // One of each family.
            routers.sort_by_key(IpAddr::is_ipv6);
            routers.dedup_by_key(|r| r.is_ipv6());
            routers
        }
        UplinkKind::Shared(_) => Vec::new(),
    }
}

/// Addresses of the switch on an uplink, as far as its spec says: those of a shared one are the host's.
pub(crate) fn own_addresses(spec: &UplinkSpec) -> &[IpNet] {
    match &spec.kind {
        UplinkKind::Own(own) => &own.addresses,
        UplinkKind::Host(host) => &host.addresses,
        UplinkKind::Shared(_) => &[],
    }
}

/// The interface of the daemon's namespace that an uplink takes, where its spec says.
fn takes<'a>(name: &'a str, spec: &'a UplinkSpec) -> Option<&'a str> {
    match &spec.kind {
        UplinkKind::Own(own) => Some(&own.interface),
        UplinkKind::Host(host) => Some(host.interface.as_deref().unwrap_or(name)),
        UplinkKind::Shared(shared) => shared.interface.as_deref(),
    }
}

pub(super) fn check_all(old: &Desired, desired: &Desired) -> Result<()> {
    let all: Vec<_> = desired.uplinks.iter().collect();
    for (i, (name, spec)) in all.iter().enumerate() {
        uplink(name, spec)?;
        let new = old.uplinks.get(*name) != Some(*spec);
        if let Some(ifname) = takes(name, spec) {
            let port = desired.ports.iter().find(|(n, p)| interface(n, p) == Some((None, ifname)));
            if let Some((port, _)) = port {
                let ((kind, bad), (their, good)) = blame(("uplink", *name), ("port", port), new);
                return Err(Error::conflict(format!(
                    "{kind} {bad}: interface {ifname} is {their} {good}'s already"
                ))
                .hint("an interface is a port of a bridge or an uplink, not both"));
            }
            if let Some((other, _)) = all[..i].iter().find(|(n, s)| takes(n, s) == Some(ifname)) {
                let (bad, good) = blame(*name, *other, new);
                return Err(Error::conflict(format!(
                    "uplink {bad}: interface {ifname} is uplink {good}'s already"
                ))
                .hint("give one of them another interface"));
            }
        }
        if takes(name, spec).is_none()
            && let Some((other, _)) = all[..i].iter().find(|(n, s)| takes(n, s).is_none())
        {
            let (bad, good) = blame(*name, *other, new);
            return Err(Error::conflict(format!(
                "uplink {bad} would share the interface with the default route, as uplink {good} does"
            ))
            .hint("name its interface with --interface"));
        }
        networks(old, desired, name, spec, &all[..i])?;
    }
    Ok(())
}

/// Networks outside overlap neither each other nor those inside: nobody could tell where an address is. A part of
/// an IPv6 network outside may be inside where neighbour discovery is answered for it there.
fn networks(
    old: &Desired,
    desired: &Desired,
    name: &str,
    spec: &UplinkSpec,
    before: &[(&String, &UplinkSpec)],
) -> Result<()> {
    let others = before.iter().map(|(n, s)| ("uplink", n.as_str(), own_addresses(s)));
    let gateways = desired.gateways.iter().map(|(n, g)| ("gateway", n.as_str(), &g.addresses[..]));
    for (kind, other, theirs) in others.chain(gateways) {
        let pair = own_addresses(spec).iter().flat_map(|a| theirs.iter().map(move |b| (a, b)));
        let proxied = |a: &IpNet, b: &IpNet| {
            kind == "gateway"
                && a.prefix_len() < b.prefix_len()
                && spec.nd_proxy.iter().any(|p| p.contains(&b.trunc()))
        };
        let wrong = |(a, b): &(&IpNet, &IpNet)| overlap(a, b) && !proxied(a, b);
        let Some((a, b)) = pair.into_iter().find(wrong) else { continue };
        let new = old.uplinks.get(name) != Some(spec);
        let (bad, good) = blame(("uplink", name, a), (kind, other, b), new);
        return Err(Error::conflict(format!(
            "{} {}: the network of {} overlaps that of {}, {} {}'s",
            bad.0, bad.1, bad.2, good.2, good.0, good.1
        ))
        .hint("give one of them addresses of another network"));
    }
    Ok(())
}
