//! Layer 3 of the real world: ports of gateways, uplinks, and what the engine is told of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use trunkline_engine::{EngineEvent, L3Config};
use trunkline_packet::PortId;
use trunkline_switch::{PortConfig, VlanMode};

use super::ct;
use super::l3::{L3World, same_l3};
use super::l3config::{Down, Numbers, build, explain_refusal};
use super::leases::Leases;
use super::tap::DEFAULT_MTU;
use super::uplinks::{Opened, Published, Uplink, UplinkDevice};
use super::world::{KernelWorld, draw_mac};
use crate::model::l3::{
    CtCount, CtFilter, CtRow, GatewayStatus, LeaseRow, NatStatus, NeighbourRow, RouteStatus, UplinkKind,
    UplinkStatus,
};
use crate::model::objects::differs;
use crate::model::{Desired, PortKind, PortSpec};
use crate::net::explain;
use crate::validate::{gateway_place, port_config};
use crate::{Error, Result};

/// Largest L2 payload that a gateway's port is given, bytes: the router keeps to its MTU itself.
const NO_MTU: u32 = 65535;

/// What there is of layer 3.
#[derive(Default)]
pub(super) struct L3State {
    /// As realised.
    pub(super) desired: Desired,
    /// What the tunnels of bridges carry, where that is less than without.
    pub(super) bridge_mtus: BTreeMap<String, u32>,
    /// Ports of gateways.
    pub(super) gateways: BTreeMap<String, PortId>,
    /// Uplinks that work.
    pub(super) uplinks: BTreeMap<String, Uplink>,
    /// Those that an edit has replaced, until it holds.
    parked: BTreeMap<String, Uplink>,
    /// Uplinks that do not work, and why.
    pub(super) trouble: BTreeMap<String, Error>,
    /// What waits for others.
    pub(super) down: Down,
    pub(super) numbers: Numbers,
    pub(super) leases: Leases,
    /// Uplinks whose status changed on their own since it was last told.
    news: Vec<String>,
    /// Whether a thread tells of changes of the host's network.
    pub(super) watched: bool,
    /// Whether that thread is to look often: neighbours are asked for.
    pub(super) asking: Arc<AtomicBool>,
}

/// What an edit has done, to be undone.
enum Step {
    Gateway(String),
    Opened(String),
    Parked(String),
    Updated(String),
}

impl L3State {
    /// A port's role for the bridge: isolated too where a gateway says that hosts do not talk to each other.
    pub(super) fn role(&self, spec: &PortSpec) -> Result<PortConfig> {
        let mut config = port_config(spec)?;
        config.isolated |= !matches!(spec.kind, PortKind::Host(_)) && self.is_cut_off(spec);
        Ok(config)
    }

    fn is_cut_off(&self, spec: &PortSpec) -> bool {
        let mut closed = self.desired.gateways.iter().filter(|(_, g)| !g.icc);
        closed.any(|(name, _)| gateway_place(&self.desired, name) == (spec.bridge.as_str(), spec.vlan))
    }

    /// The MTU of gateways for which none is given, on this bridge.
    pub(super) fn bridge_mtu(&self, bridge: &str) -> u32 {
        self.bridge_mtus.get(bridge).copied().unwrap_or(DEFAULT_MTU)
    }

    /// Whether an uplink is desired as it was.
    fn unchanged(&self, desired: &Desired, name: &str) -> bool {
        !differs(self.desired.uplinks.get(name), desired.uplinks.get(name))
    }
}

impl KernelWorld {
    /// The port of a gateway: in its VLAN alone, or untagged.
    fn gateway_port(&self, desired: &Desired, name: &str) -> Result<PortId> {
        let (bridge, vlan) = gateway_place(desired, name);
        let bridge = self.bridges.get(bridge).map(|b| b.id);
        let bridge =
            bridge.ok_or_else(|| Error::not_found(format!("there is no bridge for gateway {name}")))?;
        let mut config = PortConfig::new(PortId::NONE);
        config.learning = false;
        match vlan.and_then(trunkline_packet::VlanId::new) {
            Some(vid) => (config.vlan_mode, config.tag) = (VlanMode::Access, vid),
            None => {
                let mut untagged = trunkline_switch::VlanSet::empty();
                untagged.insert(trunkline_packet::VlanId::NONE);
                config.trunks = untagged;
            }
        }
        let full = || Error::failed("the switch has no room for another port");
        self.engine.add_port(bridge, config, NO_MTU).ok_or_else(full)
    }

    fn open_uplink(&mut self, desired: &Desired, name: &str) -> Result<Uplink> {
        let spec = desired.uplinks[name].clone();
        let published = Published::of(desired, name);
        let Opened { device, seen, io, loopback } = Uplink::open(name, &spec, &published, &self.run_dir)?;
        let full = || Error::failed("the switch has no room for another uplink");
        let id = self.engine.add_l3_port(seen.mtu).ok_or_else(full)?;
        if let Err(e) = self.engine.attach_port(id, io, false) {
            self.engine.remove_port(id);
            return Err(explain("cannot attach it to the switch", &e));
        }
        let loopback = loopback.and_then(|io| {
            let port = self.engine.add_l3_port(NO_MTU)?;
            if let Err(error) = self.engine.attach_port(port, io, false) {
                tracing::warn!(uplink = name, %error, "processes of this host do not reach what is published");
                self.engine.remove_port(port);
                return None;
            }
            Some(port)
        });
        Ok(Uplink { id, spec, device, seen, loopback })
    }

    fn close_uplink(&self, uplink: Uplink) {
        uplink.loopback.into_iter().for_each(|port| self.engine.remove_port(port));
        self.engine.remove_port(uplink.id);
    }

    /// Makes the difference between what is realised and what is desired, noting what was done.
    fn try_l3(&mut self, desired: &Desired, steps: &mut Vec<Step>) -> Result<Down> {
        let before = self.l3.desired.clone();
        for name in desired.gateways.keys().filter(|n| !before.gateways.contains_key(*n)) {
            let port = self.gateway_port(desired, name)?;
            self.l3.gateways.insert(name.clone(), port);
            steps.push(Step::Gateway(name.clone()));
        }
        let replaced = |(name, uplink): &(&String, &Uplink)| {
            desired.uplinks.get(*name).is_none_or(|spec| uplink.needs_new(name, spec))
        };
        let replaced: Vec<String> =
            self.l3.uplinks.iter().filter(replaced).map(|(name, _)| name.clone()).collect();
        for name in replaced {
            if let Some(uplink) = self.l3.uplinks.remove(&name) {
                self.l3.parked.insert(name.clone(), uplink);
                steps.push(Step::Parked(name));
            }
        }
        for (name, spec) in &desired.uplinks {
            let published = Published::of(desired, name);
            if matches!(spec.kind, UplinkKind::Shared(_)) {
                let old = Published::of(&before, name);
                published.check(&old).map_err(|e| e.within(format_args!("uplink {name}")))?;
            }
            if let Some(uplink) = self.l3.uplinks.get_mut(name) {
                uplink.update(name, spec, &published).map_err(|e| e.within(format_args!("uplink {name}")))?;
                steps.push(Step::Updated(name.clone()));
                continue;
            }
            if self.l3.trouble.contains_key(name) && self.l3.unchanged(desired, name) {
                continue;
            }
            // An edit that is undone finds what it had put aside.
            let aside = self.l3.parked.get(name).is_some_and(|u| !differs(Some(&u.spec), Some(spec)));
            let uplink = match aside.then(|| self.l3.parked.remove(name)).flatten() {
                Some(uplink) => uplink,
                None => {
                    self.open_uplink(desired, name).map_err(|e| e.within(format_args!("uplink {name}")))?
                }
            };
            self.l3.uplinks.insert(name.clone(), uplink);
            steps.push(Step::Opened(name.clone()));
        }
        let mut numbers = self.l3.numbers.clone();
        let (config, down) = build(&self.l3, &mut numbers, desired, Some(&before))?;
        self.hand_l3(config, &numbers)?;
        self.l3.numbers = numbers;
        Ok(down)
    }

    fn hand_l3(&self, config: L3Config, numbers: &Numbers) -> Result<()> {
        self.engine.set_l3(config).map_err(|e| explain_refusal(&self.l3, numbers, &e))
    }

    fn undo_l3(&mut self, steps: Vec<Step>) {
        for step in steps.into_iter().rev() {
            match step {
                Step::Gateway(name) => {
                    if let Some(port) = self.l3.gateways.remove(&name) {
                        self.engine.remove_port(port);
                    }
                }
                Step::Opened(name) => {
                    if let Some(uplink) = self.l3.uplinks.remove(&name) {
                        self.close_uplink(uplink);
                    }
                }
                Step::Parked(name) => {
                    if let Some(uplink) = self.l3.parked.remove(&name) {
                        self.l3.uplinks.insert(name, uplink);
                    }
                }
                Step::Updated(name) => {
                    let published = Published::of(&self.l3.desired, &name);
                    let spec = self.l3.desired.uplinks.get(&name).cloned();
                    if let (Some(uplink), Some(spec)) = (self.l3.uplinks.get_mut(&name), spec)
                        && let Err(error) = uplink.update(&name, &spec, &published)
                    {
                        tracing::error!(uplink = name, %error, "a failed edit could not be undone");
                    }
                }
            }
        }
    }

    /// What is desired is realised: lets go of what is not any more.
    fn settle_l3(&mut self, desired: &Desired, down: Down) {
        let gone = |(name, _): &(&String, &PortId)| !desired.gateways.contains_key(*name);
        let gone: Vec<String> = self.l3.gateways.iter().filter(gone).map(|(name, _)| name.clone()).collect();
        for name in gone {
            if let Some(port) = self.l3.gateways.remove(&name) {
                self.engine.remove_port(port);
            }
        }
        self.l3.trouble.retain(|name, _| desired.uplinks.contains_key(name));
        let cut = |d: &Desired| {
            let closed = d.gateways.iter().filter(|(_, g)| !g.icc);
            closed.map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        let renew = cut(&self.l3.desired) != cut(desired);
        let Desired { bridges, ports, gateways, uplinks, routes, nat, ct, .. } = desired.clone();
        let over_uplinks = |spec: &PortSpec| spec.kind.tunnel().is_some_and(|(_, t)| t.underlay.is_some());
        let ports = ports.into_iter().filter(|(_, spec)| over_uplinks(spec)).collect();
        self.l3.desired =
            Desired { bridges, ports, gateways, uplinks, routes, nat, ct, ..Desired::default() };
        self.l3.down = down;
        if renew {
            self.renew_roles();
        }
        let shared = self.l3.desired.uplinks.values().any(|u| matches!(u.kind, UplinkKind::Shared(_)));
        self.l3.asking.store(shared, Ordering::Relaxed);
        self.watch_host();
    }

    /// Tells the bridges about ports that became isolated, or no longer are.
    fn renew_roles(&self) {
        for port in self.ports.values() {
            if let Ok(config) = self.l3.role(&port.spec) {
                let mtu = port.device.as_ref().map_or(NO_MTU, super::world::Device::mtu);
                self.engine.update_port(port.id, config, mtu);
            }
        }
    }

    /// The engine is told again: an uplink came, went, or is another one now.
    pub(super) fn renew_l3(&mut self) {
        let desired = self.l3.desired.clone();
        let mut numbers = self.l3.numbers.clone();
        let done = build(&self.l3, &mut numbers, &desired, None).and_then(|(config, down)| {
            self.hand_l3(config, &numbers)?;
            Ok(down)
        });
        match done {
            Ok(down) => (self.l3.numbers, self.l3.down) = (numbers, down),
            Err(error) => tracing::error!(%error, "layer 3 cannot follow what changed"),
        }
    }

    /// An edit holds: what it replaced goes.
    pub(super) fn commit_l3(&mut self) {
        for (_, uplink) in std::mem::take(&mut self.l3.parked) {
            self.close_uplink(uplink);
        }
    }

    /// The uplink cannot go on; it is retried.
    fn lose_uplink(&mut self, name: &str, why: Error) {
        tracing::info!(uplink = name, reason = %why, "uplink down");
        if let Some(uplink) = self.l3.uplinks.remove(name) {
            self.close_uplink(uplink);
        }
        self.l3.trouble.insert(name.to_owned(), why);
        self.l3.news.push(name.to_owned());
    }

    /// The host's network changed: uplinks follow.
    pub(super) fn follow_host(&mut self) {
        let desired = self.l3.desired.clone();
        let names: Vec<String> = self.l3.uplinks.keys().cloned().collect();
        let mut renew = false;
        for name in names {
            let published = Published::of(&desired, &name);
            let Some(uplink) = self.l3.uplinks.get_mut(&name) else { continue };
            match uplink.refresh(&published) {
                Ok(false) => {}
                Ok(true) => {
                    renew = true;
                    self.l3.news.push(name.clone());
                }
                Err(why) => {
                    renew = true;
                    self.lose_uplink(&name, why);
                }
            }
        }
        if renew {
            self.renew_l3();
        }
        self.follow_neighbours(true);
    }

    /// What the host knows of neighbours is told to the engine, if it `changed` or somebody asks; what the engine
    /// asks for, to the host.
    pub(super) fn follow_neighbours(&mut self, changed: bool) {
        if !self.l3.uplinks.values().any(|u| matches!(u.device, UplinkDevice::Shared(_))) {
            return;
        }
        let all = self.engine.neighbours();
        for (name, uplink) in &mut self.l3.uplinks {
            let asked = all.iter().filter(|n| n.iface.0 == uplink.id.0 && n.mac.is_none());
            let asked: Vec<_> = asked.map(|n| n.addr).collect();
            if asked.is_empty() && !changed {
                continue;
            }
            match uplink.neighbours(&asked) {
                Ok(None) => {}
                Ok(Some(known)) => self.engine.set_neighbours(uplink.id, &known),
                Err(error) => tracing::warn!(uplink = name, %error, "cannot follow the host's neighbours"),
            }
        }
    }

    /// What the engine reports of an uplink's port. False when it is none.
    pub(super) fn uplink_event(&mut self, event: &EngineEvent) -> bool {
        let (port, failed) = match event {
            EngineEvent::PortFailed { port, error, fatal } => (*port, fatal.then(|| error.to_string())),
            EngineEvent::PortRecovered { port } => (*port, None),
            _ => return false,
        };
        let name = self.l3.uplinks.iter().find(|(_, u)| u.id == port).map(|(name, _)| name.clone());
        let Some(name) = name else { return false };
        if let Some(why) = failed {
            self.lose_uplink(&name, Error::failed(why));
            self.renew_l3();
        } else {
            self.follow_host();
        }
        true
    }
}

impl L3World for KernelWorld {
    fn complete_l3(&self, desired: &mut Desired) -> Result<()> {
        for gateway in desired.gateways.values_mut().filter(|g| g.mac.is_none()) {
            gateway.mac = Some(draw_mac()?);
        }
        for uplink in desired.uplinks.values_mut() {
            if let UplinkKind::Host(host) = &mut uplink.kind
                && host.mac.is_none()
            {
                host.mac = Some(draw_mac()?);
            }
        }
        Ok(())
    }

    fn set_l3(&mut self, desired: &Desired) -> Result<()> {
        let mut steps = Vec::new();
        match self.try_l3(desired, &mut steps) {
            Ok(down) => {
                self.settle_l3(desired, down);
                self.follow_neighbours(true);
                Ok(())
            }
            Err(error) => {
                self.undo_l3(steps);
                Err(error)
            }
        }
    }

    fn restore_l3(&mut self, desired: &Desired) {
        if same_l3(desired, &Desired::default()) {
            return;
        }
        for name in desired.gateways.keys() {
            match self.gateway_port(desired, name) {
                Ok(port) => drop(self.l3.gateways.insert(name.clone(), port)),
                Err(error) => tracing::error!(gateway = name, %error, "gateway not restored"),
            }
        }
        for name in desired.uplinks.keys() {
            match self.open_uplink(desired, name) {
                Ok(uplink) => drop(self.l3.uplinks.insert(name.clone(), uplink)),
                Err(why) => {
                    tracing::warn!(uplink = name, reason = %why, "uplink down");
                    self.l3.trouble.insert(name.clone(), why);
                }
            }
        }
        self.settle_l3(desired, Down::default());
        self.renew_l3();
        self.import_leases();
        self.follow_neighbours(true);
    }

    fn has_down_l3(&self) -> bool {
        !self.l3.trouble.is_empty() || !self.l3.news.is_empty()
    }

    fn retry_l3(&mut self) -> Vec<String> {
        let desired = self.l3.desired.clone();
        let mut news = std::mem::take(&mut self.l3.news);
        let down: Vec<String> = self.l3.trouble.keys().cloned().collect();
        let mut renew = false;
        for name in down {
            match self.open_uplink(&desired, &name) {
                Ok(uplink) => {
                    tracing::info!(uplink = name, "uplink up");
                    self.l3.uplinks.insert(name.clone(), uplink);
                    self.l3.trouble.remove(&name);
                    renew = true;
                    news.push(name);
                }
                Err(why) => {
                    if self.l3.trouble.insert(name.clone(), why.clone()).as_ref() != Some(&why) {
                        news.push(name);
                    }
                }
            }
        }
        if renew {
            self.renew_l3();
            self.follow_neighbours(true);
        }
        news
    }

    fn gateways(&self, desired: &Desired) -> Vec<GatewayStatus> {
        self.observe_gateways(desired)
    }

    fn uplinks(&self, desired: &Desired) -> Vec<UplinkStatus> {
        self.observe_uplinks(desired)
    }

    fn routes(&self, desired: &Desired) -> Vec<RouteStatus> {
        self.observe_routes(desired)
    }

    fn nat_rules(&self, desired: &Desired) -> Vec<NatStatus> {
        self.observe_nat(desired)
    }

    fn connections(&self, filter: &CtFilter) -> Result<Vec<CtRow>> {
        let Some(filter) = ct::filter(&self.l3, filter)? else { return Ok(Vec::new()) };
        let mut all: Vec<_> =
            filter.iter().flat_map(|f| self.engine.connections(*f)).map(|c| ct::row(&self.l3, &c)).collect();
        all.sort_by(|a, b| (&a.bridge, a.inside, a.remote).cmp(&(&b.bridge, b.inside, b.remote)));
        Ok(all)
    }

    fn count_connections(&self, filter: &CtFilter) -> Result<CtCount> {
        let matching = match ct::filter(&self.l3, filter)? {
            None => 0,
            Some(_) if *filter == CtFilter::default() => u64::MAX,
            Some(filter) => filter.iter().map(|f| self.engine.connections(*f).len() as u64).sum(),
        };
        let limit = self.l3.desired.ct.as_ref().and_then(|ct| ct.limit);
        Ok(ct::count(&self.engine.l3_stats(), matching, limit))
    }

    fn flush_connections(&mut self, filter: &CtFilter) -> Result<u64> {
        let filter = ct::filter(&self.l3, filter)?.unwrap_or_default();
        Ok(filter.iter().map(|f| self.engine.flush_connections(*f) as u64).sum())
    }

    fn neighbours(&self) -> Vec<NeighbourRow> {
        self.observe_neighbours()
    }

    fn leases(&self) -> Vec<LeaseRow> {
        self.observe_leases()
    }
}
