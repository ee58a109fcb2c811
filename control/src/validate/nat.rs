//! NAT rules.

use std::net::IpAddr;

use ipnet::IpNet;

use super::l3::{blame, overlap};
use super::uplink::{own_addresses, routers};
use super::{gateway_place, object_name};
use crate::model::Desired;
use crate::model::l3::{
    AddrRange, Masquerade, NatKind, NatSpec, PortRange, Publish, SharedUplink, StaticNat, Target, UplinkKind,
    UplinkSpec,
};
use crate::{Error, Result};

/// Most addresses of a pool.
const MAX_POOL: u64 = 1024;

/// Checks a NAT rule by itself: all but what it refers to.
///
/// # Errors
/// The first thing that is wrong.
pub fn nat(name: &str, spec: &NatSpec) -> Result<()> {
    object_name("nat rule", name)?;
    check(spec).map_err(|e| e.within(format_args!("nat {name}")))
}

fn check(spec: &NatSpec) -> Result<()> {
    match &spec.kind {
        NatKind::Masquerade(m) => masquerade(m),
        NatKind::Publish(p) => publish(p),
        NatKind::Static(s) => {
            host(s.inside)?;
            host(s.external)?;
            same_family(s.inside, s.external)
        }
    }
}

/// An address that packets of a host can have.
fn host(addr: IpAddr) -> Result<()> {
    let link_local = matches!(addr, IpAddr::V6(a) if a.is_unicast_link_local());
    let broadcast = addr == IpAddr::from([255; 4]);
    if addr.is_unspecified() || addr.is_multicast() || addr.is_loopback() || link_local || broadcast {
        return Err(Error::invalid(format!("{addr} is no address to translate"))
            .hint("give a unicast address that is routed"));
    }
    Ok(())
}

fn same_family(a: IpAddr, b: IpAddr) -> Result<()> {
    if a.is_ipv4() == b.is_ipv4() {
        return Ok(());
    }
    Err(Error::invalid(format!("{a} and {b} are not of one family"))
        .hint("IPv4 is translated to IPv4 and IPv6 to IPv6"))
}

fn masquerade(m: &Masquerade) -> Result<()> {
    let v6 = m.from.addr().is_ipv6();
    if v6 && !m.nat66 {
        return Err(Error::invalid(format!("{} is IPv6, which is routed without translation", m.from))
            .hint("give nat66 too if it is to be translated nevertheless"));
    }
    if !v6 && m.nat66 {
        return Err(Error::invalid(format!("nat66 is for IPv6, and {} is IPv4", m.from)).hint("leave it out"));
    }
    if let Some(pool) = &m.pool {
        same_family(m.from.addr(), pool.first)?;
        host(pool.first)?;
        host(pool.last)?;
        if pool.count().is_none_or(|n| n > MAX_POOL) {
            return Err(Error::invalid(format!("pool {pool} is too large"))
                .hint(format!("use at most {MAX_POOL} addresses")));
        }
    }
    Ok(())
}

fn publish(p: &Publish) -> Result<()> {
    host(p.to.addr)?;
    if let Some(external) = p.external {
        host(external)?;
        same_family(external, p.to.addr)?;
    }
    let to = p.to_ports();
    if to.span() != p.port.span() {
        let count = |r: PortRange| u32::from(r.span()) + 1;
        let of = |r: PortRange| match count(r) {
            1 => format!("{r} is 1 port"),
            n => format!("{r} is {n} ports"),
        };
        return Err(Error::invalid(format!("{} and {}", of(p.port), of(to)))
            .hint("give as many ports inside as outside, or none for the same ones"));
    }
    Ok(())
}

/// Bridges whose hosts a rule is for: the one it names, or those with a network of its addresses.
///
/// # Errors
/// When there is none, or several for one host.
pub(crate) fn bridges<'a>(desired: &'a Desired, spec: &'a NatSpec) -> Result<Vec<&'a str>> {
    if let Some(bridge) = &spec.bridge {
        if !desired.bridges.contains_key(bridge) {
            return Err(Error::not_found(format!("there is no bridge {bridge}"))
                .hint(format!("make it first: trunkline bridge add {bridge}")));
        }
        if !desired.gateways.keys().any(|g| gateway_place(desired, g).0 == bridge) {
            return Err(Error::invalid(format!("bridge {bridge} has no gateway"))
                .hint(format!("make one: trunkline gateway add {bridge} --address 10.77.0.1/24")));
        }
        return Ok(vec![bridge]);
    }
    let having = |fits: &dyn Fn(&IpNet) -> bool| {
        let gateways = desired.gateways.iter().filter(|(_, g)| g.addresses.iter().any(fits));
        let mut bridges: Vec<&str> = gateways.map(|(name, _)| gateway_place(desired, name).0).collect();
        bridges.sort_unstable();
        bridges.dedup();
        bridges
    };
    let (what, bridges) = match &spec.kind {
        NatKind::Masquerade(m) => (m.from.to_string(), having(&|net| overlap(net, &m.from))),
        NatKind::Publish(Publish { to: Target { addr, .. }, .. })
        | NatKind::Static(StaticNat { inside: addr, .. }) => {
            (addr.to_string(), having(&|net| net.contains(addr)))
        }
    };
    match (&spec.kind, &bridges[..]) {
        (_, []) => Err(Error::invalid(format!("{what} is in no gateway's network")).hint(
            "make a gateway for it: trunkline gateway add; or name its bridge if it is behind a router there",
        )),
        (NatKind::Masquerade(_), _) | (_, [_]) => Ok(bridges),
        (_, [a, b, ..]) => Err(Error::invalid(format!("{what} may be a host of bridge {a} or of {b}"))
            .hint("name the one with --bridge")),
    }
}

fn shared(uplink: &UplinkSpec) -> Option<&SharedUplink> {
    match &uplink.kind {
        UplinkKind::Shared(shared) => Some(shared),
        _ => None,
    }
}

/// An uplink's first address of a family; `None` when it has none, or is shared: then the host knows.
pub(crate) fn first_address(uplink: &UplinkSpec, v4: bool) -> Option<IpAddr> {
    own_addresses(uplink).iter().map(IpNet::addr).find(|a| a.is_ipv4() == v4)
}

/// External ports of a masquerade.
pub(crate) fn masquerade_ports(m: &Masquerade, uplink: &UplinkSpec) -> PortRange {
    let default = shared(uplink).map_or(PortRange { first: 1024, last: 65535 }, SharedUplink::ports);
    m.ports.unwrap_or(default)
}

/// Whether a rule and its uplink go together.
fn fits(uplink: &UplinkSpec, uplink_name: &str, spec: &NatSpec) -> Result<()> {
    match &spec.kind {
        NatKind::Masquerade(m) => {
            let ports = masquerade_ports(m, uplink);
            if let Some(shared) = shared(uplink)
                && !shared.ports().covers(ports)
            {
                return Err(Error::invalid(format!(
                    "ports {ports} are not all uplink {uplink_name}'s, which shares {} with the host",
                    shared.ports()
                ))
                .hint("leave ports out, or give the uplink other ones"));
            }
            match m.pool {
                Some(pool) => external(uplink, uplink_name, pool),
                None => default_external(uplink, uplink_name, m.from.addr().is_ipv4()),
            }
        }
        NatKind::Publish(p) => match p.external {
            // A host that has its external address itself is reached there without translation.
            Some(addr) if addr == p.to.addr => Ok(()),
            Some(addr) => external(uplink, uplink_name, AddrRange { first: addr, last: addr }),
            None => default_external(uplink, uplink_name, p.to.addr.is_ipv4()),
        },
        NatKind::Static(s) if s.external == s.inside => Ok(()),
        NatKind::Static(s) => {
            if shared(uplink).is_some() {
                return Err(Error::invalid(format!("uplink {uplink_name} shares the host's own address"))
                    .hint("a static translation takes a whole address: publish ports instead, or use an uplink of type own"));
            }
            external(uplink, uplink_name, AddrRange { first: s.external, last: s.external })
        }
    }
}

/// The uplink has an address of the family.
fn default_external(uplink: &UplinkSpec, name: &str, v4: bool) -> Result<()> {
    if shared(uplink).is_some() || first_address(uplink, v4).is_some() {
        return Ok(());
    }
    let family = if v4 { "IPv4" } else { "IPv6" };
    Err(Error::invalid(format!("uplink {name} has no {family} address"))
        .hint(format!("add one: trunkline uplink set {name} --address …")))
}

/// External addresses are those of the uplink's networks that nobody else has. Those of a shared uplink are
/// the host's: whether it has them is seen when the rule is made.
fn external(uplink: &UplinkSpec, name: &str, range: AddrRange) -> Result<()> {
    if shared(uplink).is_some() {
        return Ok(());
    }
    let addresses = own_addresses(uplink);
    let net = addresses.iter().find(|net| net.contains(&range.first) && net.contains(&range.last));
    let Some(net) = net else {
        return Err(Error::invalid(format!("{range} is outside the networks of uplink {name}"))
            .hint("give addresses of a network that the uplink has an address in"));
    };
    let bad = |addr: IpAddr, what: &str| {
        Err(Error::invalid(format!("{addr} is {what}")).hint("give an address that nobody else has"))
    };
    if let Some(router) = routers(uplink).into_iter().find(|r| range.contains(*r)) {
        return bad(router, &format!("the router of uplink {name}"));
    }
    if net.addr().is_ipv4() && net.prefix_len() < 31 {
        for (edge, what) in
            [(net.network(), "the network's own address"), (net.broadcast(), "the broadcast address")]
        {
            if range.contains(edge) {
                return bad(edge, &format!("{what} of {}", net.trunc()));
            }
        }
    }
    Ok(())
}

/// What a rule takes of the world outside: addresses as a user wrote them, or the uplink's first of a
/// family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    First { v4: bool },
    Range(AddrRange),
}

fn place(uplink: &UplinkSpec, spec: &NatSpec) -> Place {
    let one = |addr| Place::Range(AddrRange { first: addr, last: addr });
    let first = |v4| first_address(uplink, v4).map_or(Place::First { v4 }, one);
    match &spec.kind {
        NatKind::Masquerade(m) => m.pool.map_or_else(|| first(m.from.addr().is_ipv4()), Place::Range),
        NatKind::Publish(p) => p.external.map_or_else(|| first(p.to.addr.is_ipv4()), one),
        NatKind::Static(s) => one(s.external),
    }
}

fn meet(a: Place, b: Place) -> bool {
    match (a, b) {
        (Place::Range(a), Place::Range(b)) => {
            a.first.is_ipv4() == b.first.is_ipv4() && a.first <= b.last && b.first <= a.last
        }
        (Place::First { v4: a }, Place::First { v4: b }) => a == b,
        // The host may have several addresses: which is its first is seen when the rule is made.
        _ => false,
    }
}

/// Why two rules of one uplink cannot both be.
fn clash(a: &NatSpec, b: &NatSpec, uplink: &UplinkSpec, zones: (&[&str], &[&str])) -> Option<String> {
    use NatKind::{Masquerade as M, Publish as P, Static as S};
    let together = meet(place(uplink, a), place(uplink, b));
    let same_zone = zones.0.iter().any(|z| zones.1.contains(z));
    match (&a.kind, &b.kind) {
        (P(p), P(q)) if together && p.proto == q.proto && p.port.overlaps(q.port) => {
            Some(format!("{} port {} is published", p.proto.name(), p.port))
        }
        (S(s), S(t)) if s.external == t.external => Some(format!("{} is translated", s.external)),
        (S(s), S(t)) if s.inside == t.inside && same_zone => Some(format!("{} is translated", s.inside)),
        (S(s), P(_) | M(_)) | (P(_) | M(_), S(s)) if together => Some(format!("{} is used", s.external)),
        (M(m), M(n)) if m.from == n.from && same_zone => Some(format!("{} is masqueraded", m.from)),
        _ => None,
    }
}

pub(super) fn check_all(old: &Desired, desired: &Desired) -> Result<()> {
    let mut all: Vec<(&String, &NatSpec, Vec<&str>)> = Vec::with_capacity(desired.nat.len());
    for (name, spec) in &desired.nat {
        nat(name, spec)?;
        let within = |e: Error| e.within(format_args!("nat {name}"));
        let Some(uplink) = desired.uplinks.get(&spec.uplink) else {
            return Err(within(
                Error::not_found(format!("there is no uplink {}", spec.uplink))
                    .hint("see: trunkline uplink list"),
            ));
        };
        fits(uplink, &spec.uplink, spec).map_err(within)?;
        all.push((name, spec, bridges(desired, spec).map_err(within)?));
    }
    for (i, (name, spec, zones)) in all.iter().enumerate() {
        let uplink = &desired.uplinks[&spec.uplink];
        for (other, theirs, their_zones) in all[..i].iter().filter(|(_, s, _)| s.uplink == spec.uplink) {
            let Some(what) = clash(spec, theirs, uplink, (zones, their_zones)) else { continue };
            let (bad, good) = blame(name, other, old.nat.get(*name) != Some(*spec));
            return Err(Error::conflict(format!("nat {bad}: {what} by nat {good} already")).hint(format!(
                "remove that one first: trunkline nat del {good}; or choose other ports or another address"
            )));
        }
    }
    Ok(())
}
