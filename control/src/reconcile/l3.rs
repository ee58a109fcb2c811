//! Layer 3 as the controller sees it: gateways, uplinks, routes, NAT and connections.
//!
//! It is realised as a whole from what is desired: [`L3World::set_l3`] makes the difference to what is
//! there, or leaves everything as it was. To undo an edit is to set what was desired before.

use super::tap::DEFAULT_MTU;
use super::uplinks::Published;
use crate::model::l3::{
    CtCount, CtFilter, CtRow, GatewayStatus, LeaseRow, NatKind, NatStatus, NeighbourRow, RouteOrigin,
    RouteStatus, UplinkKind, UplinkStatus,
};
use crate::model::{Desired, PortState};
use crate::validate::route::{Exit, connected, exit};
use crate::validate::uplink::{own_addresses, routers};
use crate::validate::{gateway_place, nat};
use crate::{Error, Result};

/// What the controller needs of the engine and the kernel for layer 3.
pub trait L3World {
    /// Fills in what new or changed gateways and uplinks leave to the daemon: MAC addresses.
    ///
    /// # Errors
    /// When none can be drawn.
    fn complete_l3(&self, desired: &mut Desired) -> Result<()>;

    /// Makes layer 3 as it is desired. What was accepted before and is down stays so, and is retried.
    ///
    /// # Errors
    /// When something that differs from before cannot be realised; everything is as before then.
    fn set_l3(&mut self, desired: &Desired) -> Result<()>;
    /// Makes layer 3 as it is desired, as far as it goes; the rest is down, and retried.
    fn restore_l3(&mut self, desired: &Desired);
    /// Whether [`L3World::retry_l3`] has anything to do.
    fn has_down_l3(&self) -> bool;
    /// Tries once more to bring up what is down; returns the uplinks whose status changed.
    fn retry_l3(&mut self) -> Vec<String>;

    /// Every gateway, by name.
    fn gateways(&self, desired: &Desired) -> Vec<GatewayStatus>;
    /// Every uplink, by name.
    fn uplinks(&self, desired: &Desired) -> Vec<UplinkStatus>;
    /// Every route, those that gateways and uplinks imply included.
    fn routes(&self, desired: &Desired) -> Vec<RouteStatus>;
    /// Every NAT rule, by name.
    fn nat_rules(&self, desired: &Desired) -> Vec<NatStatus>;
    /// The connections that the filter leaves.
    ///
    /// # Errors
    /// When the filter makes no sense.
    fn connections(&self, filter: &CtFilter) -> Result<Vec<CtRow>>;
    /// How many connections there are.
    ///
    /// # Errors
    /// When the filter makes no sense.
    fn count_connections(&self, filter: &CtFilter) -> Result<CtCount>;
    /// Forgets connections; returns how many.
    ///
    /// # Errors
    /// When the filter makes no sense.
    fn flush_connections(&mut self, filter: &CtFilter) -> Result<u64>;
    /// Neighbours of the switch.
    fn neighbours(&self) -> Vec<NeighbourRow>;
    /// DHCP leases, and reservations.
    fn leases(&self) -> Vec<LeaseRow>;
}

/// Whether two desired states have the same layer 3. Which tunnels go by an uplink is part of it: one that is
/// shared keeps their ports from the host.
pub(crate) fn same_l3(a: &Desired, b: &Desired) -> bool {
    (&a.gateways, &a.uplinks, &a.routes, &a.nat, &a.ct) == (&b.gateways, &b.uplinks, &b.routes, &b.nat, &b.ct)
        && a.uplinks.keys().all(|uplink| Published::of(a, uplink) == Published::of(b, uplink))
}

/// Gateways with nothing observed: as desired, and up.
pub(crate) fn plain_gateways(desired: &Desired) -> Vec<GatewayStatus> {
    let status = |(name, spec): (&String, &crate::model::l3::GatewaySpec)| {
        let (bridge, vlan) = gateway_place(desired, name);
        GatewayStatus {
            name: name.clone(),
            spec: spec.clone(),
            bridge: bridge.to_owned(),
            vlan,
            state: PortState::Up,
            reason: String::new(),
            mtu: spec.mtu.unwrap_or(DEFAULT_MTU),
            mtu_why: String::new(),
            leases: 0,
        }
    };
    desired.gateways.iter().map(status).collect()
}

/// Uplinks with nothing observed.
pub(crate) fn plain_uplinks(desired: &Desired) -> Vec<UplinkStatus> {
    let status = |(name, spec): (&String, &crate::model::l3::UplinkSpec)| {
        let (interface, mac, ports) = match &spec.kind {
            UplinkKind::Own(own) => (Some(own.interface.clone()), own.mac.clone(), vec![]),
            UplinkKind::Host(host) => {
                (Some(host.interface.clone().unwrap_or_else(|| name.clone())), host.mac.clone(), vec![])
            }
            UplinkKind::Shared(shared) => (shared.interface.clone(), None, vec![shared.ports()]),
        };
        UplinkStatus {
            name: name.clone(),
            spec: spec.clone(),
            state: PortState::Up,
            reason: String::new(),
            interface,
            mac,
            mtu: 0,
            addresses: own_addresses(spec).to_vec(),
            gateways: routers(spec),
            ports,
            warning: String::new(),
        }
    };
    desired.uplinks.iter().map(status).collect()
}

/// Routes, as far as what is desired implies them.
pub(crate) fn plain_routes(desired: &Desired) -> Vec<RouteStatus> {
    let row = |exit: Exit<'_>, prefix, via, origin| RouteStatus {
        name: None,
        owner: None,
        prefix,
        via,
        gateway: matches!(exit, Exit::Gateway(_)).then(|| exit.name().to_owned()),
        uplink: matches!(exit, Exit::Uplink(_)).then(|| exit.name().to_owned()),
        metric: 0,
        origin,
        state: PortState::Up,
        reason: String::new(),
    };
    let mut rows: Vec<_> =
        connected(desired).map(|(exit, net)| row(exit, net.trunc(), None, RouteOrigin::Connected)).collect();
    for (name, spec) in &desired.uplinks {
        let default = |via: std::net::IpAddr| {
            row(Exit::Uplink(name), default_prefix(via.is_ipv4()), Some(via), RouteOrigin::Default)
        };
        rows.extend(routers(spec).into_iter().map(default));
    }
    for (name, spec) in &desired.routes {
        // Validation has seen that it leads somewhere.
        let Ok(exit) = exit(desired, spec) else { continue };
        rows.push(RouteStatus {
            name: Some(name.clone()),
            owner: Some(spec.owner),
            metric: spec.metric.unwrap_or(0),
            ..row(exit, spec.prefix, spec.via, RouteOrigin::Static)
        });
    }
    rows
}

/// All destinations of a family.
pub(crate) fn default_prefix(v4: bool) -> ipnet::IpNet {
    match v4 {
        true => ipnet::IpNet::V4(ipnet::Ipv4Net::default()),
        false => ipnet::IpNet::V6(ipnet::Ipv6Net::default()),
    }
}

/// NAT rules with nothing observed.
pub(crate) fn plain_nat(desired: &Desired) -> Vec<NatStatus> {
    let status = |(name, spec): (&String, &crate::model::l3::NatSpec)| {
        let uplink = desired.uplinks.get(&spec.uplink);
        let first = |v4| uplink.and_then(|u| nat::first_address(u, v4)).into_iter().collect();
        let external = match &spec.kind {
            NatKind::Masquerade(m) => {
                m.pool.map_or_else(|| first(m.from.addr().is_ipv4()), |pool| pool.iter().collect())
            }
            NatKind::Publish(p) => p.external.map_or_else(|| first(p.to.addr.is_ipv4()), |addr| vec![addr]),
            NatKind::Static(s) => vec![s.external],
        };
        let bridges = nat::bridges(desired, spec).unwrap_or_default();
        NatStatus {
            name: name.clone(),
            spec: spec.clone(),
            state: PortState::Up,
            reason: String::new(),
            bridges: bridges.into_iter().map(str::to_owned).collect(),
            external,
            flows: 0,
            packets: 0,
            bytes: 0,
        }
    };
    desired.nat.iter().map(status).collect()
}

/// What is said of a filter that names what is not there.
pub(crate) fn no_such(kind: &str, name: &str) -> Error {
    Error::not_found(format!("there is no {kind} {name}")).hint(format!("see: trunkline {kind} list"))
}
