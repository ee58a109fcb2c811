//! Taking up a new configuration of the network layer: all or nothing.

use std::net::IpAddr;
use std::sync::Arc;

use crossbeam::channel;
use ipnet::IpNet;
use parking_lot::Mutex;
use trunkline_nat::{Nat, Prefix, Rule};
use trunkline_packet::{MacAddr, PortId, VlanId};
use trunkline_router::{Iface, IfaceId, Kind, Neighbours, Services, Tables, Zone, dhcp, ra};
use trunkline_switch::{PortConfig, VlanMode};

use super::view::{L3View, Role};
use super::{Gateway, L3, L3Config, L3Error, Links, Route, Uplink};
use crate::Engine;
use crate::engine::State;
use crate::worker::Command;

/// What the engine keeps of the network layer.
#[derive(Default)]
pub(crate) struct L3State {
    config: L3Config,
    /// Of the last view.
    version: u64,
    view: Option<Arc<L3View>>,
    neighbours: Option<Arc<Neighbours>>,
    /// Connections that each worker's table has room for, while the workers have tables.
    capacity: Option<usize>,
    /// MAC addresses of gateways in the tables of their bridges.
    statics: Vec<Static>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Static {
    vid: VlanId,
    mac: MacAddr,
    port: PortId,
}

impl L3State {
    /// What workers run on; `None` without interfaces.
    pub(crate) fn view(&self) -> Option<Arc<L3View>> {
        self.view.clone()
    }

    pub(crate) fn neighbours(&self) -> Option<&Neighbours> {
        self.neighbours.as_deref()
    }

    /// The DHCP servers, by port.
    pub(crate) fn dhcp(&self) -> impl Iterator<Item = (PortId, &Mutex<dhcp::Server>)> {
        let ifaces = self.view.iter().flat_map(|v| v.tables.ifaces());
        ifaces.filter_map(|i| Some((PortId(i.id.0), i.services.dhcp.as_ref()?)))
    }

    /// The services of a gateway: those it has while their configuration is the same, with its leases anyway.
    fn services(&self, now: u64, gateway: &Gateway) -> Arc<Services> {
        let tables = self.view.as_ref().map(|v| &v.tables);
        let old = tables.and_then(|t| t.iface(IfaceId(gateway.port.0))).map(|i| Arc::clone(&i.services));
        let before = self.config.gateways.iter().find(|g| g.port == gateway.port);
        if let (Some(old), Some(before)) = (&old, before)
            && (&before.dhcp, &before.ra) == (&gateway.dhcp, &gateway.ra)
            && before.addresses == gateway.addresses
        {
            return Arc::clone(old);
        }
        let dhcp = gateway.dhcp.clone().map(|config| {
            let mut server = dhcp::Server::new(config);
            if let Some(before) = old.as_ref().and_then(|o| o.dhcp.as_ref()) {
                server.import(now, &before.lock().leases(now));
            }
            Mutex::new(server)
        });
        let ra = gateway.ra.clone().map(|config| Mutex::new(ra::Advertiser::new(config)));
        Arc::new(Services { dhcp, ra })
    }
}

impl Engine {
    /// Adds a port that belongs to no bridge, for an uplink; then [`Engine::attach_port`], and name it in
    /// [`Engine::set_l3`]. Until then what it brings is dropped. `mtu`: largest L2 payload sent there, bytes.
    /// `None` when all slots are taken.
    pub fn add_l3_port(&self, mtu: u32) -> Option<PortId> {
        let state = &mut *self.state.lock();
        let id = self.new_port(state, None, PortConfig::new(PortId::NONE), mtu)?;
        self.publish(state);
        Some(id)
    }

    /// Replaces the whole network layer. Connections that the new rules would translate as they are stay, and
    /// so do neighbours and leases. When it returns, every worker runs on it.
    ///
    /// # Errors
    /// [`L3Error`]; nothing has changed then.
    pub fn set_l3(&self, config: L3Config) -> Result<(), L3Error> {
        let state = &mut *self.state.lock();
        let statics = self.check_ports(state, &config)?;
        let view = self.view(state, &config)?;
        try_rules(&view)?;
        renew_statics(state, statics)?;
        let view = if self.cease(state, &config) { self.view(state, &config)? } else { view };
        let empty = config.gateways.is_empty() && config.uplinks.is_empty();
        let l3 = &mut state.l3;
        l3.neighbours.get_or_insert_with(|| Arc::new(Neighbours::new(config.neighbours)));
        let capacity = Some(view.ct.capacity).filter(|_| !empty);
        if capacity != l3.capacity {
            l3.capacity = capacity;
            self.install(state, capacity.map(|_| &view.ct));
        }
        let l3 = &mut state.l3;
        let gone = |i: &&Iface| view.tables.iface(i.id).is_none();
        let old = l3.view.as_ref().map(|v| Arc::clone(&v.tables)).unwrap_or_default();
        let gone: Vec<IfaceId> = old.ifaces().iter().filter(gone).map(|i| i.id).collect();
        l3.version = view.version;
        l3.view = Some(Arc::new(view)).filter(|_| !empty);
        l3.config = config;
        self.publish_and_wait(state);
        if let Some(neighbours) = state.l3.neighbours() {
            gone.into_iter().for_each(|id| neighbours.forget(id));
        }
        Ok(())
    }

    /// Has gateways that advertise themselves, and are not to in this configuration, say so while they are still
    /// there. Whether there were any.
    fn cease(&self, state: &mut State, next: &L3Config) -> bool {
        let stays = |g: &Gateway| {
            next.gateways.iter().any(|n| (n.port, n.mac, n.ra.is_some()) == (g.port, g.mac, true))
        };
        let mut config = state.l3.config.clone();
        let mut going: Vec<_> = config.gateways.iter_mut().filter(|g| g.ra.is_some() && !stays(g)).collect();
        if going.is_empty() || state.l3.view.is_none() {
            return false;
        }
        going.iter_mut().for_each(|g| g.ra = None);
        // With less of what was fine nothing new can be wrong.
        let Ok(view) = self.view(state, &config) else { return false };
        state.l3.version = view.version;
        state.l3.view = Some(Arc::new(view));
        state.l3.config = config;
        self.publish_and_wait(state);
        self.let_cease();
        true
    }

    /// A port is about to go: the network layer forgets it, if it knows it.
    pub(crate) fn forget_l3_port(&self, state: &mut State, port: PortId) {
        let Some(view) = &state.l3.view else { return };
        if view.role(port) == Role::None {
            return;
        }
        let mut config = state.l3.config.clone();
        config.gateways.retain(|g| g.port != port);
        config.uplinks.retain(|u| u.port != port);
        config.loopbacks.retain(|l| l.0 != port);
        config.routes.retain(|r| r.port != port);
        state.l3.statics.retain(|s| s.port != port);
        // With less of what was fine nothing new can be wrong.
        if let Ok(view) = self.view(state, &config) {
            state.l3.version = view.version;
            state.l3.view = Some(Arc::new(view));
            state.l3.config = config;
        }
        if let Some(neighbours) = state.l3.neighbours() {
            neighbours.forget(IfaceId(port.0));
        }
    }

    /// Whether the ports are what they are said to be; the static entries that belong to them.
    fn check_ports(&self, state: &mut State, config: &L3Config) -> Result<Vec<Static>, L3Error> {
        let mut statics = Vec::new();
        for g in &config.gateways {
            let port =
                state.port(g.port).filter(|p| p.may_be_gateway()).ok_or(L3Error::NotGateway(g.port))?;
            let untagged = matches!(port.config.vlan_mode, VlanMode::Trunk);
            let vid = if untagged { VlanId::NONE } else { port.config.tag };
            statics.push(Static { vid, mac: g.mac, port: g.port });
            let Some(dhcp) = &g.dhcp else { continue };
            let v4 = g.addresses.iter().find_map(|a| if let IpNet::V4(a) = a { Some(*a) } else { None });
            let v4 = v4.ok_or(L3Error::DhcpAddress(g.port))?;
            dhcp.check(v4).map_err(|e| L3Error::Dhcp(g.port, e))?;
        }
        for (at, u) in config.uplinks.iter().enumerate() {
            if state.port(u.port).is_none_or(|p| p.bridge.is_some()) {
                return Err(L3Error::NotUplink(u.port));
            }
            if config.uplinks[..at].iter().any(|other| other.uplink == u.uplink) {
                return Err(L3Error::UplinkTwice(u.uplink));
            }
        }
        let mut outside = |port: PortId| state.port(port).is_some_and(|p| p.bridge.is_none());
        match config.loopbacks.iter().find(|l| !outside(l.0)) {
            Some((port, _)) => Err(L3Error::NotUplink(*port)),
            None => Ok(statics),
        }
    }

    /// Makes what the workers run on.
    fn view(&self, state: &State, config: &L3Config) -> Result<L3View, L3Error> {
        let now = self.millis();
        let gateways = config.gateways.iter().map(|g| Iface {
            id: IfaceId(g.port.0),
            kind: Kind::Gateway { zone: Zone(g.zone.0), open: g.open },
            mac: g.mac,
            mtu: g.mtu,
            addresses: g.addresses.clone(),
            proxies: Vec::new(),
            nd_proxy: Vec::new(),
            isolated: g.isolated,
            services: state.l3.services(now, g),
        });
        let uplinks = config.uplinks.iter().map(|u| Iface {
            id: IfaceId(u.port.0),
            kind: Kind::Uplink { shared: u.shared },
            mac: u.mac,
            mtu: u.mtu,
            addresses: u.addresses.clone(),
            proxies: proxies(config, u),
            nd_proxy: u.nd_proxy.clone(),
            isolated: false,
            services: Arc::default(),
        });
        let route = |r: &Route| trunkline_router::Route {
            prefix: r.prefix,
            via: r.via,
            iface: IfaceId(r.port.0),
            metric: r.metric,
        };
        let routes: Vec<_> = config.routes.iter().map(route).collect();
        let tables = Tables::new(gateways.chain(uplinks).collect(), &routes).map_err(L3Error::Table)?;
        let mut roles = vec![Role::None; state.ports.len()];
        for g in &config.gateways {
            roles[g.port.index()] = Role::Gateway(g.zone);
        }
        for u in &config.uplinks {
            roles[u.port.index()] = Role::Uplink(u.uplink);
        }
        for (port, uplink) in &config.loopbacks {
            roles[port.index()] = Role::Loopback(*uplink);
        }
        let own = config.gateways.iter().flat_map(|g| g.addresses.iter().map(|a| (g.zone, *a)));
        let gateways = own.filter_map(|(zone, net)| {
            let network = Prefix::new(net.addr(), net.prefix_len())?;
            Some(trunkline_nat::Gateway { zone, addr: net.addr(), network })
        });
        // Of one worker, which owns its part of every source's ports.
        let workers = self.workers.len();
        let part = |n: u32| n.div_ceil(workers as u32).max(1);
        let ct = trunkline_nat::Config {
            capacity: config.ct.capacity.div_ceil(workers),
            source_limit: part(config.ct.source_limit),
            source_ports: part(config.ct.source_ports),
            ..config.ct.clone()
        };
        Ok(L3View {
            version: state.l3.version + 1,
            tables: Arc::new(tables),
            roles,
            uplinks: config.uplinks.iter().map(|u| (u.uplink, IfaceId(u.port.0))).collect(),
            loopbacks: config.loopbacks.clone(),
            rules: config.nat.clone(),
            gateways: gateways.collect(),
            ct,
        })
    }

    /// Gives every worker its part, or takes it away, and waits until that is done.
    fn install(&self, state: &State, ct: Option<&trunkline_nat::Config>) {
        let wakers: Vec<_> = self.workers.iter().map(|w| Arc::clone(&w.lock().waker)).collect();
        let links = Links::new(&wakers);
        let (sender, old) = channel::unbounded();
        let count = self.workers.len() as u16;
        for (index, links) in links.into_iter().enumerate() {
            let l3 = ct.zip(state.l3.neighbours.as_ref()).map(|(ct, neighbours)| {
                let neighbours = Arc::clone(neighbours);
                Box::new(L3::new((index as u16, count), self.clock, neighbours, ct.clone(), links))
            });
            self.command(index, Command::InstallL3 { l3, old: sender.clone() });
            let _ = self.workers[index].lock().waker.wake();
        }
        drop(sender);
        // Large tables are freed here rather than by a worker.
        old.iter().for_each(drop);
    }
}

/// Addresses that the rules have on an uplink, besides its own; and its own that lead to one host as a whole. What
/// has the same address inside and outside is routed to, not answered for.
fn proxies(config: &L3Config, uplink: &Uplink) -> Vec<IpAddr> {
    let owns = |addr: &IpAddr| uplink.addresses.iter().any(|own| own.addr() == *addr);
    let mut all: Vec<IpAddr> = Vec::new();
    for (_, rule) in &config.nat {
        match rule {
            Rule::Masquerade { uplink: u, pool, .. } if *u == uplink.uplink => {
                all.extend(pool.iter().filter(|addr| !owns(addr)));
            }
            Rule::Publish { uplink: u, external, to, .. }
                if *u == uplink.uplink && to != external && !owns(external) =>
            {
                all.push(*external);
            }
            Rule::Static { uplink: u, external, inside, .. } if *u == uplink.uplink && inside != external => {
                all.push(*external);
            }
            _ => {}
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// Tries the rules where they do no harm.
fn try_rules(view: &L3View) -> Result<(), L3Error> {
    let mut nat = Nat::new(trunkline_nat::Config::for_capacity(1));
    nat.set_rules(&view.rules, &view.gateways).map_err(|(id, error)| L3Error::Rule(id, error))
}

/// Makes these the gateways' static entries in place of those before.
fn renew_statics(state: &mut State, new: Vec<Static>) -> Result<(), L3Error> {
    let added: Vec<Static> = new.iter().filter(|n| !state.l3.statics.contains(n)).copied().collect();
    let remove = |state: &State, s: &Static| {
        if let Some(fdb) = state.fdb_of(s.port) {
            fdb.remove(s.vid, s.mac);
        }
    };
    for (at, s) in added.iter().enumerate() {
        if !state.fdb_of(s.port).is_some_and(|fdb| fdb.add_static(s.vid, s.mac, s.port)) {
            added[..at].iter().for_each(|s| remove(state, s));
            return Err(L3Error::BridgeFull(s.port));
        }
    }
    // An address that moved from one gateway to another of the bridge is there already.
    for s in &state.l3.statics {
        let taken = |n: &&Static| (n.vid, n.mac) == (s.vid, s.mac) && state.same_bridge(n.port, s.port);
        if !new.iter().any(|n| taken(&n)) {
            remove(state, s);
        }
    }
    state.l3.statics = new;
    Ok(())
}
