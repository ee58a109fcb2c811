//! A world of names, for tests of the controller and the API: it remembers what it was told, and fails on
//! purpose.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Notice, World};
use crate::model::{
    BridgeSpec, Desired, FdbCounters, FdbRow, PortKind, PortSpec, PortState, PortStats, PortStatus, StaticFdb,
};
use crate::{Error, Result};

/// What the fake world consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) bridges: BTreeMap<String, BridgeSpec>,
    pub(crate) ports: BTreeMap<String, PortSpec>,
    pub(crate) parked: BTreeMap<String, PortSpec>,
    pub(crate) statics: BTreeMap<String, Vec<StaticFdb>>,
    pub(crate) down: BTreeMap<String, String>,
    pub(crate) stopped: Option<bool>,
    /// Gateways, uplinks, routes, NAT rules and settings of connection tracking.
    pub(crate) l3: Desired,
}

/// Shared between the test and the actor.
#[derive(Clone, Default)]
pub(crate) struct FakeWorld {
    pub(crate) state: Arc<Mutex<State>>,
    /// Operations that fail, as `add NAME`, `update NAME`, `static BRIDGE`, `complete NAME`, `uplink NAME`.
    pub(crate) failing: Arc<Mutex<Vec<String>>>,
    /// Addresses of this host.
    pub(crate) own: Arc<Mutex<Vec<IpAddr>>>,
}

impl FakeWorld {
    pub(crate) fn fail_on(&self, what: &str) {
        self.failing.lock().push(what.to_owned());
    }

    pub(super) fn attempt(&self, what: &str, name: &str) -> Result<()> {
        let op = format!("{what} {name}");
        match self.failing.lock().contains(&op) {
            true => Err(Error::failed(format!("{op} fails on purpose"))),
            false => Ok(()),
        }
    }
}

/// A controller on a fake world, which keeps its state in memory.
pub(crate) fn controller() -> (crate::controller::Controller, FakeWorld) {
    let world = FakeWorld::default();
    let (controller, _) = crate::controller::Controller::start(
        Box::new(world.clone()),
        Desired::default(),
        Box::new(|_| Ok(())),
    )
    .unwrap();
    (controller, world)
}

impl World for FakeWorld {
    fn complete(&self, name: &str, spec: &mut PortSpec) -> Result<()> {
        self.attempt("complete", name)?;
        if let PortKind::Tap(tap) = &mut spec.kind {
            tap.link.mac.get_or_insert_with(|| "02:00:00:00:00:01".to_owned());
        }
        Ok(())
    }

    fn add_bridge(&mut self, name: &str, spec: &BridgeSpec) {
        let before = self.state.lock().bridges.insert(name.to_owned(), spec.clone());
        assert!(before.is_none(), "bridge {name} exists");
    }

    fn update_bridge(&mut self, name: &str, spec: &BridgeSpec) {
        *self.state.lock().bridges.get_mut(name).unwrap() = spec.clone();
    }

    fn remove_bridge(&mut self, name: &str) {
        let mut state = self.state.lock();
        assert!(state.ports.values().all(|p| p.bridge != name), "bridge {name} has ports");
        state.bridges.remove(name).unwrap();
        state.statics.remove(name);
    }

    fn set_static(&mut self, bridge: &str, gone: &[StaticFdb], now: &[StaticFdb]) -> Result<()> {
        let mut state = self.state.lock();
        let entries = state.statics.entry(bridge.to_owned()).or_default();
        entries.retain(|e| !gone.contains(e));
        let outcome = self.attempt("static", bridge);
        // A failing write stops half-way, as a table that is full does; undoing it makes room again.
        self.failing.lock().retain(|op| *op != format!("static {bridge}"));
        let written = if outcome.is_ok() { now.len() } else { now.len() / 2 };
        entries.extend_from_slice(&now[..written]);
        entries.sort();
        entries.dedup();
        outcome
    }

    fn add_port(&mut self, name: &str, spec: &PortSpec) -> Result<()> {
        self.attempt("add", name)?;
        let mut state = self.state.lock();
        assert!(state.bridges.contains_key(&spec.bridge), "no bridge for {name}");
        assert!(state.ports.insert(name.to_owned(), spec.clone()).is_none(), "port {name} exists");
        Ok(())
    }

    fn restore_port(&mut self, name: &str, spec: &PortSpec) {
        let outcome = self.add_port(name, spec);
        if let Err(error) = outcome {
            let mut state = self.state.lock();
            state.ports.insert(name.to_owned(), spec.clone());
            state.down.insert(name.to_owned(), error.to_string());
        }
    }

    fn update_port(&mut self, name: &str, spec: &PortSpec) -> Result<()> {
        self.attempt("update", name)?;
        *self.state.lock().ports.get_mut(name).unwrap() = spec.clone();
        Ok(())
    }

    fn park_port(&mut self, name: &str) {
        let mut state = self.state.lock();
        let port = state.ports.remove(name).unwrap();
        assert!(state.parked.insert(name.to_owned(), port).is_none());
    }

    fn unpark_port(&mut self, name: &str) {
        let mut state = self.state.lock();
        let port = state.parked.remove(name).unwrap();
        assert!(state.ports.insert(name.to_owned(), port).is_none());
    }

    fn remove_port(&mut self, name: &str) {
        self.state.lock().ports.remove(name).unwrap();
    }

    fn commit(&mut self) {
        self.state.lock().parked.clear();
    }

    fn port_status(&self, name: &str) -> Option<PortStatus> {
        let state = self.state.lock();
        let spec = state.ports.get(name)?;
        let reason = state.down.get(name).cloned().unwrap_or_default();
        Some(PortStatus {
            name: name.to_owned(),
            spec: spec.clone(),
            state: if reason.is_empty() { PortState::Up } else { PortState::Down },
            reason,
            ifname: None,
            mac: None,
            mtu: 1500,
            mtu_why: String::new(),
            peers: Vec::new(),
            offloads: Vec::new(),
            queues: 1,
            macs: 0,
            vlan_mode: crate::validate::vlan_mode(spec),
            leased: Vec::new(),
        })
    }

    fn bridge_macs(&self, name: &str) -> (u64, FdbCounters) {
        (self.state.lock().statics.get(name).map_or(0, |e| e.len() as u64), FdbCounters::default())
    }

    fn fdb(&self, bridge: &str) -> Option<Vec<FdbRow>> {
        let state = self.state.lock();
        state.bridges.get(bridge)?;
        let row = |e: &StaticFdb| FdbRow {
            vlan: e.vlan,
            mac: e.mac.clone(),
            port: e.port.clone(),
            remote: e.remote,
            age: None,
            is_static: true,
        };
        Some(state.statics.get(bridge).into_iter().flatten().map(row).collect())
    }

    fn fdb_flush(&mut self, _bridge: &str, _vlan: Option<u16>, _port: Option<&str>) -> u64 {
        0
    }

    fn stats(&self) -> Vec<PortStats> {
        let row = |(name, spec): (&String, &PortSpec)| PortStats {
            name: name.clone(),
            bridge: spec.bridge.clone(),
            ..PortStats::default()
        };
        self.state.lock().ports.iter().map(row).collect()
    }

    fn port_stats(&self, name: &str) -> Option<PortStats> {
        self.stats().into_iter().find(|s| s.name == name)
    }

    fn workers(&self) -> u16 {
        1
    }

    fn notice(&mut self, _notice: Notice) -> Vec<String> {
        Vec::new()
    }

    fn has_down(&self) -> bool {
        !self.state.lock().down.is_empty()
    }

    fn retry(&mut self) -> Vec<String> {
        let down: Vec<String> = self.state.lock().down.keys().cloned().collect();
        let (up, _): (Vec<_>, Vec<_>) = down.into_iter().partition(|n| self.attempt("add", n).is_ok());
        self.state.lock().down.retain(|n, _| !up.contains(n));
        up
    }

    fn needs_check(&self) -> bool {
        false
    }

    fn check(&mut self) -> Vec<String> {
        Vec::new()
    }

    fn has_tunnels(&self) -> bool {
        false
    }

    fn is_own(&self, address: IpAddr) -> bool {
        self.own.lock().contains(&address)
    }

    fn stop(&mut self, release: bool) {
        self.state.lock().stopped = Some(release);
    }
}
