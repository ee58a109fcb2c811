//! Routes.

use std::net::IpAddr;

use ipnet::IpNet;

use super::l3::blame;
use super::uplink::own_addresses;
use super::{gateway_place, object_name};
use crate::model::Desired;
use crate::model::l3::{RouteSpec, UplinkKind};
use crate::{Error, Result};

/// What a route leads into.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Exit<'a> {
    /// The network of that gateway.
    Gateway(&'a str),
    /// That uplink.
    Uplink(&'a str),
}

impl<'a> Exit<'a> {
    /// Of the gateway or uplink.
    pub(crate) fn name(self) -> &'a str {
        let (Exit::Gateway(name) | Exit::Uplink(name)) = self;
        name
    }
}

impl std::fmt::Display for Exit<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Exit::Gateway(name) => write!(f, "gateway {name}"),
            Exit::Uplink(name) => write!(f, "uplink {name}"),
        }
    }
}

/// Checks a route by itself: all but what it refers to.
///
/// # Errors
/// The first thing that is wrong.
pub fn route(name: &str, spec: &RouteSpec) -> Result<()> {
    object_name("route", name)?;
    check(spec).map_err(|e| e.within(format_args!("route {name}")))
}

fn check(spec: &RouteSpec) -> Result<()> {
    let prefix = spec.prefix;
    let network = prefix.network();
    if network.is_multicast() || network.is_loopback() {
        return Err(Error::invalid(format!("{prefix} cannot be routed to"))
            .hint("give a network of unicast addresses"));
    }
    if spec.gateway.is_some() && spec.uplink.is_some() {
        return Err(Error::invalid("gateway and uplink exclude each other")
            .hint("name the one that the route leads into"));
    }
    let Some(via) = spec.via else {
        if spec.gateway.is_none() && spec.uplink.is_none() {
            return Err(Error::invalid("it leads nowhere")
                .hint("give the next router with --via, or a gateway or uplink whose network it is"));
        }
        return Ok(());
    };
    if via.is_ipv4() != network.is_ipv4() {
        let family = |v4| if v4 { "IPv4" } else { "IPv6" };
        return Err(Error::invalid(format!(
            "{prefix} is {} and {via} is {}",
            family(network.is_ipv4()),
            family(via.is_ipv4())
        ))
        .hint("give a next router of the same family"));
    }
    if via.is_unspecified() || via.is_multicast() || via.is_loopback() {
        return Err(Error::invalid(format!("{via} is no router's address"))
            .hint("give the next router's own address"));
    }
    if is_link_local(via) && spec.gateway.is_none() && spec.uplink.is_none() {
        return Err(
            Error::invalid(format!("{via} is on every network")).hint("name the gateway or uplink too")
        );
    }
    Ok(())
}

fn is_link_local(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(a) if a.is_unicast_link_local())
}

/// Every network that is directly reached, with what it is reached by. Those of shared uplinks are the
/// host's and not known here.
pub(crate) fn connected(desired: &Desired) -> impl Iterator<Item = (Exit<'_>, &IpNet)> {
    let inside = desired.gateways.iter().flat_map(|(n, g)| g.addresses.iter().map(|a| (Exit::Gateway(n), a)));
    let outside =
        desired.uplinks.iter().flat_map(|(n, u)| own_addresses(u).iter().map(|a| (Exit::Uplink(n), a)));
    inside.chain(outside)
}

/// What a route leads into.
///
/// # Errors
/// When it names something that is not there, or its next router is not where it says, or nowhere, or in
/// several networks.
pub(crate) fn exit<'a>(desired: &'a Desired, spec: &'a RouteSpec) -> Result<Exit<'a>> {
    let named = match (&spec.gateway, &spec.uplink) {
        (Some(name), _) if !desired.gateways.contains_key(name) => {
            return Err(
                Error::not_found(format!("there is no gateway {name}")).hint("see: trunkline gateway list")
            );
        }
        (_, Some(name)) if !desired.uplinks.contains_key(name) => {
            return Err(
                Error::not_found(format!("there is no uplink {name}")).hint("see: trunkline uplink list")
            );
        }
        (Some(name), _) => Some(Exit::Gateway(name)),
        (_, Some(name)) => Some(Exit::Uplink(name)),
        (None, None) => None,
    };
    let Some(via) = spec.via else {
        return named.ok_or_else(|| Error::invalid("it leads nowhere"));
    };
    if connected(desired).any(|(_, net)| net.addr() == via) {
        return Err(Error::invalid(format!("{via} is the switch's own address"))
            .hint("give the next router's own address"));
    }
    match named {
        Some(exit) if is_link_local(via) || is_shared(desired, exit) => Ok(exit),
        Some(exit) => match connected(desired).any(|(e, net)| e == exit && net.contains(&via)) {
            true => Ok(exit),
            false => Err(Error::invalid(format!("{via} is outside the networks of {exit}"))
                .hint("give a next router in a network of it")),
        },
        None => {
            let mut exits: Vec<_> =
                connected(desired).filter(|(_, net)| net.contains(&via)).map(|(e, _)| e).collect();
            exits.sort_unstable();
            exits.dedup();
            match exits[..] {
                [exit] => Ok(exit),
                [] => Err(Error::invalid(format!("{via} is in no network of a gateway or uplink"))
                    .hint("name the gateway or uplink it is behind")),
                [a, b, ..] => Err(Error::invalid(format!("{via} may be behind {a} or {b}"))
                    .hint("name the one with --gateway or --uplink")),
            }
        }
    }
}

fn is_shared(desired: &Desired, exit: Exit<'_>) -> bool {
    let Exit::Uplink(name) = exit else { return false };
    desired.uplinks.get(name).is_some_and(|u| matches!(u.kind, UplinkKind::Shared(_)))
}

pub(super) fn check_all(old: &Desired, desired: &Desired) -> Result<()> {
    // The same prefix may be routed in two bridges, whose networks are zones of their own.
    let scope = |exit: Exit<'_>| match exit {
        Exit::Gateway(name) => Some(gateway_place(desired, name).0.to_owned()),
        Exit::Uplink(_) => None,
    };
    let mut seen = std::collections::BTreeMap::new();
    for (name, spec) in &desired.routes {
        route(name, spec)?;
        let exit = exit(desired, spec).map_err(|e| e.within(format_args!("route {name}")))?;
        let key = (spec.prefix, scope(exit), spec.metric.unwrap_or(0));
        if let Some(other) = seen.insert(key, name) {
            let new = old.routes.get(name) != Some(spec);
            let (bad, good) = blame(name, other, new);
            return Err(Error::conflict(format!(
                "route {bad}: {} is routed by route {good} already",
                spec.prefix
            ))
            .hint("give one of them another --metric: the lower one counts"));
        }
        if connected(desired).any(|(e, net)| e == exit && net.trunc() == spec.prefix) && spec.via.is_some() {
            return Err(Error::conflict(format!(
                "route {name}: {} is directly reached by {exit}",
                spec.prefix
            ))
            .hint("leave the route out"));
        }
    }
    Ok(())
}
