//! From what is desired and what is there to what the engine runs on.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use trunkline_engine::{self as engine, L3Config, L3Error};
use trunkline_nat::{Config, Rule, RuleId, Timeouts, Zone};
use trunkline_packet::headers::proto;
use trunkline_packet::{MacAddr, PortId};
use trunkline_router::{dhcp, ra};

use super::kernel_l3::L3State;
use super::l3::default_prefix;
use super::uplinks::Uplink;
use crate::model::Desired;
use crate::model::l3::{CtSpec, Filtering, GatewaySpec, NatKind, NatSpec, Proto, UplinkKind};
use crate::model::objects::differs;
use crate::net::host::HostRoute;
use crate::validate::gateway_place;
use crate::validate::nat::{bridges, masquerade_ports};
use crate::validate::route::{Exit, exit};
use crate::validate::uplink::routers;
use crate::{Error, Result};

/// Connections when no limit is given.
pub(super) const DEFAULT_LIMIT: u32 = 262_144;
/// How long a DHCP lease lasts when nothing is given, seconds.
const DEFAULT_LEASE: u32 = 3600;
/// What cannot be realised at the moment, and why.
#[derive(Default)]
pub(super) struct Down {
    pub(super) nat: BTreeMap<String, Error>,
    pub(super) routes: BTreeMap<String, Error>,
}

/// The numbers that the engine knows objects by: they stay while the objects do.
#[derive(Clone, Default)]
pub(super) struct Numbers {
    zones: BTreeMap<String, u16>,
    rules: BTreeMap<(String, u16), u32>,
}

impl Numbers {
    /// A bridge's zone.
    fn zone(&mut self, bridge: &str) -> Zone {
        if let Some(zone) = self.zones.get(bridge) {
            return Zone(*zone);
        }
        let zone = free(self.zones.values().copied());
        self.zones.insert(bridge.to_owned(), zone);
        Zone(zone)
    }

    fn rule(&mut self, name: &str, zone: Zone) -> RuleId {
        let next = free(self.rules.values().copied());
        RuleId(*self.rules.entry((name.to_owned(), zone.0)).or_insert(next))
    }

    /// The bridge of a zone.
    pub(super) fn bridge(&self, zone: Zone) -> Option<&str> {
        self.zones.iter().find(|(_, z)| **z == zone.0).map(|(bridge, _)| bridge.as_str())
    }

    pub(super) fn zone_of(&self, bridge: &str) -> Option<Zone> {
        self.zones.get(bridge).map(|z| Zone(*z))
    }

    /// The name of a rule.
    pub(super) fn rule_name(&self, id: RuleId) -> Option<&str> {
        self.rules.iter().find(|(_, n)| **n == id.0).map(|((name, _), _)| name.as_str())
    }

    /// Every number of a rule by that name.
    pub(super) fn rule_ids(&self, name: &str) -> Vec<RuleId> {
        self.rules.iter().filter(|((n, _), _)| n == name).map(|(_, id)| RuleId(*id)).collect()
    }

    /// Forgets those of what is not desired any more.
    fn retain(&mut self, desired: &Desired) {
        self.zones.retain(|bridge, _| desired.gateways.keys().any(|g| gateway_place(desired, g).0 == bridge));
        self.rules.retain(|(name, _), _| desired.nat.contains_key(name));
    }
}

/// The lowest number that is not taken.
fn free<T: Copy + Ord + From<u8> + std::ops::Add<Output = T>>(taken: impl Iterator<Item = T>) -> T {
    let mut taken: Vec<T> = taken.collect();
    taken.sort_unstable();
    taken.into_iter().fold(T::from(0), |next, n| if n == next { next + T::from(1) } else { next })
}

/// What the engine is to run on. What cannot be now is left out and noted in the second part; with `before`
/// an error is returned instead for what was not so before.
pub(super) fn build(
    state: &L3State,
    numbers: &mut Numbers,
    desired: &Desired,
    before: Option<&Desired>,
) -> Result<(L3Config, Down)> {
    let mut down = Down::default();
    numbers.retain(desired);
    let mut config = L3Config { ct: ct(desired.ct.as_ref()), ..L3Config::default() };
    for (name, spec) in &desired.gateways {
        let Some(port) = state.gateways.get(name) else { continue };
        let (bridge, _) = gateway_place(desired, name);
        config.gateways.push(engine::Gateway {
            port: *port,
            mac: mac(spec.mac.as_deref())?,
            addresses: spec.addresses.clone(),
            mtu: clamp(spec.mtu.unwrap_or_else(|| state.bridge_mtu(bridge))),
            zone: numbers.zone(bridge),
            open: !spec.private,
            isolated: !spec.icc,
            dhcp: dhcp_of(spec),
            ra: spec.ra.then(|| ra_of(spec)),
        });
    }
    for uplink in state.uplinks.values() {
        let nd_proxy = uplink.spec.nd_proxy.iter().filter_map(|n| match n {
            IpNet::V6(net) => Some(*net),
            IpNet::V4(_) => None,
        });
        config.uplinks.push(engine::Uplink {
            port: uplink.id,
            uplink: number(uplink),
            mac: uplink.seen.mac,
            addresses: uplink.seen.addresses.clone(),
            mtu: clamp(uplink.seen.mtu),
            shared: matches!(uplink.spec.kind, UplinkKind::Shared(_)),
            nd_proxy: nd_proxy.collect(),
        });
        config.loopbacks.extend(uplink.loopback.map(|port| (port, number(uplink))));
    }
    // Those that users made come first: of two with one metric the first counts.
    for (name, spec) in &desired.routes {
        let leads = exit(desired, spec).and_then(|exit| match exit {
            Exit::Gateway(g) => state.gateways.get(g).copied().ok_or_else(|| is_down(exit)),
            Exit::Uplink(u) => {
                let uplink = state.uplinks.get(u).ok_or_else(|| is_down(exit))?;
                on_link(spec.via, &uplink.seen.addresses)?;
                Ok(uplink.id)
            }
        });
        match leads {
            Ok(port) => config.routes.push(engine::Route {
                prefix: spec.prefix,
                via: spec.via,
                port,
                metric: spec.metric.unwrap_or(0),
            }),
            Err(error) => {
                let waits = error.kind == crate::ErrorKind::Failed;
                if !waits && before.is_some_and(|b| differs(b.routes.get(name), Some(spec))) {
                    return Err(error.within(format_args!("route {name}")));
                }
                down.routes.insert(name.clone(), error);
            }
        }
    }
    for uplink in state.uplinks.values() {
        config.routes.extend(implied(uplink));
    }
    let mut rules: Vec<_> = desired.nat.iter().collect();
    // Of masquerades the first that fits counts: the narrowest.
    rules.sort_by_key(|(name, spec)| match &spec.kind {
        NatKind::Masquerade(m) => (u8::MAX - m.from.prefix_len(), *name),
        _ => (0, *name),
    });
    for (name, spec) in rules {
        match self::rules(state, numbers, desired, name, spec) {
            Ok(all) => config.nat.extend(all),
            Err(error) => {
                let waits = !state.uplinks.contains_key(&spec.uplink);
                if !waits && before.is_some_and(|b| differs(b.nat.get(name), Some(spec))) {
                    return Err(error.within(format_args!("nat {name}")));
                }
                down.nat.insert(name.clone(), error);
            }
        }
    }
    Ok((config, down))
}

/// What is said of what waits for an uplink or gateway.
fn is_down(exit: Exit<'_>) -> Error {
    Error::failed(format!("{exit} is down"))
}

fn on_link(via: Option<IpAddr>, addresses: &[IpNet]) -> Result<()> {
    let Some(via) = via else { return Ok(()) };
    let link_local = matches!(via, IpAddr::V6(a) if a.is_unicast_link_local());
    match link_local || addresses.iter().any(|net| net.contains(&via)) {
        true => Ok(()),
        false => Err(Error::invalid(format!("{via} is outside the networks of the uplink"))
            .hint("give a next router in a network of it")),
    }
}

/// Default routes of an uplink; of a shared one every route that the host has by it.
fn implied(uplink: &Uplink) -> Vec<engine::Route> {
    let port = uplink.id;
    let Uplink { spec, seen, .. } = uplink;
    let own = routers(spec).into_iter().map(|via| engine::Route {
        prefix: default_prefix(via.is_ipv4()),
        via: Some(via),
        port,
        metric: 0,
    });
    own.chain(hosts_routes(&seen.addresses, &seen.routes, port)).collect()
}

/// The routes of the host by an interface. What is the next router of one is on its link, since the kernel has
/// taken it: with an address of its own alone (/32, as many clouds give), or `onlink`, only that says so.
fn hosts_routes(addresses: &[IpNet], routes: &[HostRoute], port: PortId) -> Vec<engine::Route> {
    let connected = |prefix: &IpNet| addresses.iter().any(|net| net.trunc() == *prefix);
    let routes = || routes.iter().filter(|r| !connected(&r.prefix));
    let covered = |via: &IpAddr| {
        on_link(Some(*via), addresses).is_ok() || routes().any(|r| r.via.is_none() && r.prefix.contains(via))
    };
    let mut beside: Vec<IpAddr> = routes().filter_map(|r| r.via).filter(|via| !covered(via)).collect();
    beside.sort_unstable();
    beside.dedup();
    let beside =
        beside.into_iter().map(|via| engine::Route { prefix: via.into(), via: None, port, metric: 0 });
    let all = routes().map(|r| engine::Route { prefix: r.prefix, via: r.via, port, metric: r.metric });
    beside.chain(all).collect()
}

/// The engine's number of an uplink: its port's.
pub(super) fn number(uplink: &Uplink) -> trunkline_nat::Uplink {
    trunkline_nat::Uplink(uplink.id.0)
}

/// A rule for every zone it is for.
fn rules(
    state: &L3State,
    numbers: &mut Numbers,
    desired: &Desired,
    name: &str,
    spec: &NatSpec,
) -> Result<Vec<(RuleId, Rule)>> {
    let uplink = state.uplinks.get(&spec.uplink).ok_or_else(|| is_down(Exit::Uplink(&spec.uplink)))?;
    let out = number(uplink);
    let zones: Vec<Zone> = bridges(desired, spec)?.into_iter().map(|b| numbers.zone(b)).collect();
    let external = external(uplink, spec)?;
    let one = || external.first().copied().ok_or_else(|| Error::failed("it has no external address"));
    let rule = |zone: Zone| -> Result<Rule> {
        Ok(match &spec.kind {
            NatKind::Masquerade(m) => {
                let ports = masquerade_ports(m, &uplink.spec);
                let given = m.filtering.or(desired.ct.as_ref().and_then(|ct| ct.filtering));
                let from = trunkline_nat::Prefix::new(m.from.addr(), m.from.prefix_len());
                Rule::Masquerade {
                    zone,
                    from: from.ok_or_else(|| Error::failed("the prefix is too long"))?,
                    uplink: out,
                    pool: external.clone(),
                    ports: (ports.first, ports.last),
                    filtering: filtering(given.unwrap_or_default()),
                }
            }
            NatKind::Publish(p) => Rule::Publish {
                uplink: out,
                proto: if p.proto == Proto::Tcp { proto::TCP } else { proto::UDP },
                external: one()?,
                ports: (p.port.first, p.port.last),
                zone,
                to: p.to.addr,
                to_ports: (p.to_ports().first, p.to_ports().last),
            },
            NatKind::Static(s) => Rule::Static { zone, inside: s.inside, uplink: out, external: s.external },
        })
    };
    zones.into_iter().map(|zone| Ok((numbers.rule(name, zone), rule(zone)?))).collect()
}

/// External addresses of a rule.
pub(super) fn external(uplink: &Uplink, spec: &NatSpec) -> Result<Vec<IpAddr>> {
    let own = |v4: bool| {
        let first = uplink.seen.addresses.iter().map(IpNet::addr).find(|a| a.is_ipv4() == v4);
        let family = if v4 { "IPv4" } else { "IPv6" };
        let none = || Error::failed(format!("uplink {} has no {family} address", spec.uplink));
        first.map(|a| vec![a]).ok_or_else(none)
    };
    let (given, untranslated) = match &spec.kind {
        NatKind::Masquerade(m) => match m.pool {
            Some(pool) => (pool.iter().collect(), false),
            None => return own(m.from.addr().is_ipv4()),
        },
        NatKind::Publish(p) => match p.external {
            Some(addr) => (vec![addr], addr == p.to.addr),
            None => return own(p.to.addr.is_ipv4()),
        },
        NatKind::Static(s) => (vec![s.external], s.external == s.inside),
    };
    let shared = matches!(uplink.spec.kind, UplinkKind::Shared(_));
    let foreign = |a: &&IpAddr| !uplink.seen.addresses.iter().any(|net| net.addr() == **a);
    match given.iter().find(foreign).filter(|_| shared && !untranslated) {
        Some(addr) => Err(Error::invalid(format!("{addr} is not an address of {}", uplink.seen.interface))
            .hint("a shared uplink has the host's addresses; leave the address out for the first one")),
        None => Ok(given),
    }
}

fn filtering(f: Filtering) -> trunkline_nat::Filtering {
    match f {
        Filtering::EndpointIndependent => trunkline_nat::Filtering::EndpointIndependent,
        Filtering::Address => trunkline_nat::Filtering::Address,
        Filtering::AddressAndPort => trunkline_nat::Filtering::AddressAndPort,
    }
}

/// Settings with the defaults filled in.
fn ct(spec: Option<&CtSpec>) -> Config {
    let spec = spec.cloned().unwrap_or_default();
    let limit = spec.limit.unwrap_or(DEFAULT_LIMIT) as usize;
    let base = Config::for_capacity(limit);
    let defaults = Timeouts::default();
    let millis = |seconds: Option<u32>, default: u64| {
        seconds.map_or(default, |s| Duration::from_secs(s.into()).as_millis() as u64)
    };
    Config {
        source_limit: spec.source_limit.unwrap_or(base.source_limit),
        source_ports: spec.source_ports.unwrap_or(base.source_ports),
        timeouts: Timeouts {
            udp: millis(spec.udp_timeout, defaults.udp),
            tcp_established: millis(spec.tcp_timeout, defaults.tcp_established),
            tcp_transitory: millis(spec.tcp_transitory_timeout, defaults.tcp_transitory),
            icmp: millis(spec.icmp_timeout, defaults.icmp),
            other: millis(spec.other_timeout, defaults.other),
            fragment: millis(spec.fragment_timeout, defaults.fragment),
        },
        liberal: spec.liberal.unwrap_or(base.liberal),
        pickup: spec.pickup.unwrap_or(base.pickup),
        strict_eim: spec.strict_eim.unwrap_or(base.strict_eim),
        ..base
    }
}

fn mac(text: Option<&str>) -> Result<MacAddr> {
    text.and_then(|m| m.parse().ok()).ok_or_else(|| Error::failed("the gateway has no MAC address"))
}

fn clamp(mtu: u32) -> u16 {
    u16::try_from(mtu).unwrap_or(u16::MAX)
}

fn dhcp_of(spec: &GatewaySpec) -> Option<dhcp::Config> {
    let v4 = |addr: &IpAddr| if let IpAddr::V4(a) = addr { Some(*a) } else { None };
    let reservations: Vec<_> = spec
        .reservations
        .iter()
        .filter_map(|(mac, addr)| Some(dhcp::Reservation { mac: mac.parse().ok()?, address: v4(addr)? }))
        .collect();
    let range = match &spec.dhcp_range {
        Some(range) => (v4(&range.first)?, v4(&range.last)?),
        // Nothing but what is reserved.
        None => reservations.first().map(|r| (r.address, r.address))?,
    };
    Some(dhcp::Config {
        reservations,
        lease_time: spec.dhcp_lease.unwrap_or(DEFAULT_LEASE),
        dns: spec.dns.iter().filter_map(v4).collect(),
        domain: spec.domain.clone(),
        ..dhcp::Config::new(range)
    })
}

fn ra_of(spec: &GatewaySpec) -> ra::Config {
    let v6 = |addr: &IpAddr| -> Option<Ipv6Addr> { if let IpAddr::V6(a) = addr { Some(*a) } else { None } };
    ra::Config {
        dns: spec.dns.iter().filter_map(v6).collect(),
        search: spec.domain.iter().cloned().collect(),
        ..ra::Config::default()
    }
}

/// What the engine refused, in the words of users.
pub(super) fn explain_refusal(state: &L3State, numbers: &Numbers, error: &L3Error) -> Error {
    let gateway = |port| {
        let name = state.gateways.iter().find(|(_, p)| **p == port).map(|(name, _)| name.as_str());
        format!("gateway {}", name.unwrap_or("?"))
    };
    match error {
        L3Error::Rule(id, e) => {
            let shown = format!("nat {}", numbers.rule_name(*id).unwrap_or("?"));
            let text = match e {
                trunkline_nat::RuleError::Conflict(other) => {
                    let other = numbers.rule_name(*other).unwrap_or("another rule");
                    format!("the same external ports or address as nat {other}")
                }
                e => e.to_string(),
            };
            Error::conflict(text).within(shown)
        }
        L3Error::Dhcp(port, e) => Error::invalid(e.to_string()).within(gateway(*port)),
        L3Error::DhcpAddress(port) => Error::invalid(error.to_string()).within(gateway(*port)),
        L3Error::BridgeFull(port) => {
            Error::failed(error.to_string()).hint("raise the bridge's --max-macs").within(gateway(*port))
        }
        L3Error::Table(e) => Error::invalid(e.to_string()),
        e => Error::failed(e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routers_of_a_host_are_on_the_link_whatever_its_own_network() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let host = |prefix, via: Option<&str>| HostRoute {
            prefix: net(prefix),
            via: via.map(|v| v.parse().unwrap()),
            metric: 9,
        };
        let routes = |addresses: &[&str], routes: &[HostRoute]| {
            let addresses: Vec<IpNet> = addresses.iter().map(|a| net(a)).collect();
            let all = hosts_routes(&addresses, routes, PortId(1));
            all.iter().map(|r| (r.prefix.to_string(), r.via.is_some())).collect::<Vec<_>>()
        };
        let row = |prefix: &str, via| (prefix.to_owned(), via);
        // As DHCP of a cloud sets it: a route to the router on the link, and one by it.
        let cloud = [host("10.128.0.1/32", None), host("0.0.0.0/0", Some("10.128.0.1"))];
        assert_eq!(routes(&["10.128.0.2/32"], &cloud), [row("10.128.0.1/32", false), row("0.0.0.0/0", true)]);
        // As `ip route add default via 192.0.2.1 dev eth0 onlink` does.
        let onlink = [host("0.0.0.0/0", Some("192.0.2.1"))];
        assert_eq!(
            routes(&["198.51.100.7/32"], &onlink),
            [row("192.0.2.1/32", false), row("0.0.0.0/0", true)]
        );
        // A plain network.
        let plain = [host("192.0.2.0/24", None), host("0.0.0.0/0", Some("192.0.2.1"))];
        assert_eq!(routes(&["192.0.2.7/24"], &plain), [row("0.0.0.0/0", true)]);
        let six = [host("::/0", Some("fe80::1"))];
        assert_eq!(routes(&["2001:db8::7/128"], &six), [row("::/0", true)]);
    }
}
