//! What is of layer 3, for people to read; and word of what happens to the host's network.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use trunkline_router::dhcp::LeaseState;

use super::Notice;
use super::l3::{plain_gateways, plain_nat, plain_routes, plain_uplinks};
use super::l3config::external;
use super::observe::stats;
use super::uplinks::UplinkDevice;
use super::world::KernelWorld;
use crate::model::l3::{
    GatewayStatus, LeaseRow, NatStatus, NeighbourRow, RouteOrigin, RouteStatus, UplinkStatus,
};
use crate::model::{Desired, PortState, PortStats};
use crate::net::host::HostNews;

/// How often an uplink that shares the host's neighbours looks whether somebody asks for one.
const ASKING: Duration = Duration::from_millis(250);
/// How often leases are looked at without word of a change.
const SLOW: Duration = Duration::from_secs(1);

impl KernelWorld {
    pub(super) fn observe_gateways(&self, desired: &Desired) -> Vec<GatewayStatus> {
        let bound: HashMap<_, _> = self.engine.leases().into_iter().collect();
        let mut all = plain_gateways(desired);
        for status in &mut all {
            let given = status.spec.mtu.is_some();
            let mtu = if given { status.mtu } else { self.l3.bridge_mtu(&status.bridge) };
            (status.mtu, status.mtu_why) = (mtu, self.mtu_of_tunnels(&status.bridge, mtu, given));
            match self.l3.gateways.get(&status.name) {
                None => {
                    status.state = PortState::Down;
                    status.reason = "the gateway is not realised".to_owned();
                }
                Some(port) => {
                    let leases = bound.get(port).into_iter().flatten();
                    status.leases = leases.filter(|l| l.state == LeaseState::Bound).count() as u64;
                }
            }
        }
        all
    }

    pub(super) fn observe_uplinks(&self, desired: &Desired) -> Vec<UplinkStatus> {
        let mut all = plain_uplinks(desired);
        for status in &mut all {
            let Some(uplink) = self.l3.uplinks.get(&status.name) else {
                status.state = PortState::Down;
                let why = self.l3.trouble.get(&status.name);
                status.reason =
                    why.map_or_else(|| "the uplink is not realised".to_owned(), ToString::to_string);
                continue;
            };
            if let Some(why) = uplink.trouble() {
                status.state = PortState::Down;
                status.reason = why.to_string();
            }
            status.interface = Some(uplink.seen.interface.clone());
            status.mac = Some(uplink.seen.mac.to_string());
            status.mtu = uplink.seen.mtu;
            status.addresses.clone_from(&uplink.seen.addresses);
            let defaults = uplink.seen.routes.iter().filter(|r| r.prefix.prefix_len() == 0);
            status.gateways.extend(defaults.filter_map(|r| r.via));
            status.ports = uplink.ports();
            status.warning = uplink.warning();
        }
        all
    }

    pub(super) fn observe_routes(&self, desired: &Desired) -> Vec<RouteStatus> {
        let mut all = plain_routes(desired);
        for (name, uplink) in &self.l3.uplinks {
            if !matches!(uplink.device, UplinkDevice::Shared(_)) {
                continue;
            }
            let row = |prefix, via, metric, origin| RouteStatus {
                name: None,
                owner: None,
                prefix,
                via,
                gateway: None,
                uplink: Some(name.clone()),
                metric,
                origin,
                state: PortState::Up,
                reason: String::new(),
            };
            let nets: Vec<_> = uplink.seen.addresses.iter().map(ipnet::IpNet::trunc).collect();
            all.extend(nets.iter().map(|net| row(*net, None, 0, RouteOrigin::Connected)));
            let routes = uplink.seen.routes.iter().filter(|r| !nets.contains(&r.prefix));
            all.extend(routes.map(|r| row(r.prefix, r.via, r.metric, RouteOrigin::Host)));
        }
        for status in &mut all {
            let waiting = status.uplink.as_ref().filter(|u| !self.l3.uplinks.contains_key(*u));
            let named = status.name.as_ref().and_then(|name| self.l3.down.routes.get(name));
            let why = named.map(ToString::to_string).or(waiting.map(|u| format!("uplink {u} is down")));
            if let Some(why) = why {
                (status.state, status.reason) = (PortState::Down, why);
            }
        }
        all.sort_by_key(|r| (r.prefix.addr().is_ipv6(), r.prefix, r.metric));
        all
    }

    pub(super) fn observe_nat(&self, desired: &Desired) -> Vec<NatStatus> {
        let counters: HashMap<_, _> = self.engine.nat_counters().into_iter().collect();
        let mut all = plain_nat(desired);
        for status in &mut all {
            match (self.l3.down.nat.get(&status.name), self.l3.uplinks.get(&status.spec.uplink)) {
                (Some(why), _) => (status.state, status.reason) = (PortState::Down, why.to_string()),
                (None, Some(uplink)) => status.external = external(uplink, &status.spec).unwrap_or_default(),
                (None, None) => {}
            }
            for id in self.l3.numbers.rule_ids(&status.name) {
                if let Some(c) = counters.get(&id) {
                    status.flows += c.flows;
                    status.packets += c.packets;
                    status.bytes += c.bytes;
                }
            }
        }
        all
    }

    pub(super) fn observe_neighbours(&self) -> Vec<NeighbourRow> {
        let gateways: HashMap<_, _> = self.l3.gateways.iter().map(|(name, p)| (p.0, name)).collect();
        let uplinks: HashMap<_, _> = self.l3.uplinks.iter().map(|(name, u)| (u.id.0, name)).collect();
        let mut all: Vec<_> = self
            .engine
            .neighbours()
            .into_iter()
            .map(|n| NeighbourRow {
                address: n.addr,
                mac: n.mac.map(|m| m.to_string()),
                gateway: gateways.get(&n.iface.0).map(|name| (*name).clone()),
                uplink: uplinks.get(&n.iface.0).map(|name| (*name).clone()),
                state: n.state.name().to_owned(),
            })
            .collect();
        all.sort_by_key(|n| (n.gateway.clone(), n.uplink.clone(), n.address));
        all
    }

    pub(super) fn observe_leases(&self) -> Vec<LeaseRow> {
        let mut all = Vec::new();
        let mut by_port: HashMap<_, _> = self.engine.leases().into_iter().collect();
        for (name, port) in &self.l3.gateways {
            let Some(spec) = self.l3.desired.gateways.get(name) else { continue };
            let leases = by_port.remove(port).unwrap_or_default();
            for lease in leases.iter().filter(|l| l.state == LeaseState::Bound) {
                let mac = lease.mac.to_string();
                let address = IpAddr::V4(lease.address);
                all.push(LeaseRow {
                    gateway: name.clone(),
                    address,
                    reserved: spec.reservations.get(&mac) == Some(&address),
                    mac,
                    hostname: lease.host_name.clone().unwrap_or_default(),
                    expires: Some(lease.expires_in.div_ceil(1000)),
                });
            }
            for (mac, address) in &spec.reservations {
                if !all.iter().any(|l| l.gateway == *name && l.address == *address) {
                    all.push(LeaseRow {
                        gateway: name.clone(),
                        address: *address,
                        mac: mac.clone(),
                        hostname: String::new(),
                        expires: None,
                        reserved: true,
                    });
                }
            }
        }
        all.sort();
        all
    }

    /// Counters of gateways and uplinks, beside those of ports: `gateway/NAME` and `uplink/NAME`.
    pub(super) fn stats_l3(&self) -> Vec<PortStats> {
        let gateways = self.l3.gateways.iter().map(|(name, port)| PortStats {
            bridge: crate::validate::gateway_place(&self.l3.desired, name).0.to_owned(),
            ..stats(&format!("gateway/{name}"), &self.engine.counters(*port))
        });
        let uplinks = self.l3.uplinks.iter().map(|(name, uplink)| PortStats {
            ring_drops: uplink.ring_drops(),
            ..stats(&format!("uplink/{name}"), &self.engine.counters(uplink.id))
        });
        let loopbacks = self.l3.uplinks.iter().filter_map(|(name, uplink)| {
            Some(stats(&format!("uplink/{name}/lo"), &self.engine.counters(uplink.loopback?)))
        });
        gateways.chain(uplinks).chain(loopbacks).collect()
    }

    /// Starts the thread that tells of changes of the host's network, once there is something to follow.
    pub(super) fn watch_host(&mut self) {
        let leases = self.l3.desired.gateways.values().any(crate::model::l3::GatewaySpec::has_dhcp);
        if self.l3.watched || (self.l3.desired.uplinks.is_empty() && !leases) {
            return;
        }
        let news = match HostNews::open() {
            Ok(news) => news,
            Err(error) => return tracing::error!(%error, "cannot follow the host's network"),
        };
        let (notices, asking) = (self.notices.clone(), self.l3.asking.clone());
        let watch = move || {
            loop {
                let patience = if asking.load(std::sync::atomic::Ordering::Relaxed) { ASKING } else { SLOW };
                let Ok(changed) = news.wait(patience) else { return };
                if notices.send(Notice::HostNetwork { changed }).is_err() {
                    return;
                }
                // Changes come in crowds.
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        match std::thread::Builder::new().name("tl-host".into()).spawn(watch) {
            Ok(_) => self.l3.watched = true,
            Err(error) => tracing::error!(%error, "cannot follow the host's network"),
        }
    }
}
