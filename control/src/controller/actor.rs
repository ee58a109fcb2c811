//! The actor: everything here runs on its thread, one command after the other.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::l3::inherit_l3;
use super::plan::Plan;
use super::{Command, Persist, Shared, gone};
use crate::model::tunnel::{member_name, member_of, mesh_peer};
use crate::model::{
    BridgeSpec, BridgeStatus, DaemonStatus, Desired, Event, FdbRow, MeshSpec, MeshStatus, PortSpec,
    PortStats, PortStatus,
};
use crate::reconcile::{Notice, World, down_status, inherit};
use crate::validate::validate_edit;
use crate::{Error, Result, error::no_bridge};

/// How long after a port went down, or the last attempt, it is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often adopted interfaces are looked at.
const CHECK: Duration = Duration::from_secs(5);
/// How often they are, and the paths of tunnels.
const CHECK_TUNNELS: Duration = Duration::from_secs(1);

pub(super) struct Actor {
    pub(super) world: Box<dyn World>,
    persist: Persist,
    shared: Arc<Shared>,
    /// What is desired, with the ports of meshes in place of the meshes: what is realised, by name.
    realised: Arc<Desired>,
    started: Instant,
    retry_at: Option<Instant>,
    check_at: Option<Instant>,
    stopped: bool,
}

/// What one step of an edit takes to be undone.
enum Undo {
    AddBridge(String),
    UpdateBridge(String),
    ParkPort(String),
    UpdatePort(String),
    AddPort(String),
    StaticFdb(String),
    L3,
}

impl Actor {
    pub(super) fn new(world: Box<dyn World>, persist: Persist, shared: Arc<Shared>) -> Actor {
        Actor {
            world,
            persist,
            shared,
            realised: Arc::default(),
            started: Instant::now(),
            retry_at: None,
            check_at: None,
            stopped: false,
        }
    }

    /// Makes the world as the state file says, as far as it goes.
    pub(super) fn load(&mut self) {
        let desired = Arc::new(self.expand(&self.desired()));
        self.realised = desired.clone();
        for (name, spec) in &desired.bridges {
            self.world.add_bridge(name, spec);
        }
        // Tunnels say what MTU the others get.
        let (tunnels, others): (Vec<_>, Vec<_>) =
            desired.ports.iter().partition(|(_, spec)| spec.kind.tunnel().is_some());
        for (name, spec) in tunnels.into_iter().chain(others) {
            self.world.restore_port(name, spec);
        }
        for (name, spec) in &desired.bridges {
            if let Err(error) = self.world.set_static(name, &[], &spec.static_fdb) {
                tracing::error!(bridge = name, %error, "static FDB entries not restored");
            }
        }
        self.world.restore_l3(&desired);
        self.world.commit();
        self.arm();
    }

    /// Carries out commands until it is stopped or nobody is left to send any.
    pub(super) fn run(&mut self, inbox: &Receiver<Command>) {
        while !self.stopped {
            let due = [self.retry_at, self.check_at].into_iter().flatten().min();
            let command = match due {
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => inbox.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            match command {
                Ok(command) => command(self),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.stop(false);
                    return;
                }
            }
            self.tick();
        }
    }

    /// Does what is due and sets the timers.
    fn tick(&mut self) {
        if self.stopped {
            return;
        }
        let now = Instant::now();
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            let changed = self.world.retry();
            self.announce_ports(&changed);
            let changed = self.world.retry_l3();
            self.announce_uplinks(&changed);
        }
        if self.check_at.is_some_and(|at| at <= now) {
            self.check_at = None;
            let changed = self.world.check();
            self.announce_ports(&changed);
            self.follow_addresses();
        }
        self.arm();
    }

    fn arm(&mut self) {
        arm(&mut self.retry_at, self.world.has_down() || self.world.has_down_l3(), RETRY);
        let meshes = !self.shared.current.read().1.meshes.is_empty();
        let often = self.world.has_tunnels() || meshes;
        let period = if often { CHECK_TUNNELS } else { CHECK };
        arm(&mut self.check_at, often || self.world.needs_check(), period);
    }

    /// With the ports of meshes.
    fn expand(&self, desired: &Desired) -> Desired {
        desired.expanded(|address| self.world.is_own(address))
    }

    /// This host's own addresses came or went since its meshes were made.
    fn follow_addresses(&mut self) {
        let desired = self.desired();
        if desired.meshes.is_empty() {
            return;
        }
        let (old, new) = (self.realised.clone(), self.expand(&desired));
        if *old == new {
            return;
        }
        let mut journal = Vec::new();
        if let Err(error) = self.realise(&Plan::new(&old, &new), &old, &new, &mut journal) {
            tracing::warn!(%error, "meshes do not follow the addresses of this host");
            return self.undo(journal, &old, &new);
        }
        self.world.commit();
        self.realised = Arc::new(new);
        self.announce(&old, &desired, &desired);
    }

    pub(super) fn edit<T>(&mut self, f: impl FnOnce(&mut Desired) -> Result<T>) -> Result<T> {
        if self.stopped {
            return Err(gone());
        }
        let old = self.desired();
        let mut new = (*old).clone();
        let answer = f(&mut new)?;
        for (name, spec) in &mut new.ports {
            if let Some(before) = old.ports.get(name) {
                inherit(before, spec);
            }
        }
        inherit_l3(&old, &mut new);
        if new == *old {
            return Ok(answer);
        }
        validate_edit(&old, &new)?;
        for (name, spec) in &mut new.ports {
            if old.ports.get(name) != Some(spec) {
                self.world.complete(name, spec).map_err(|e| e.within(format_args!("port {name}")))?;
            }
        }
        self.world.complete_l3(&mut new)?;
        let (before, after) = (self.realised.clone(), self.expand(&new));
        let plan = Plan::new(&before, &after);
        let mut journal = Vec::new();
        let done = self.realise(&plan, &before, &after, &mut journal).and_then(|()| (self.persist)(&new));
        if let Err(error) = done {
            self.undo(journal, &before, &after);
            return Err(error);
        }
        self.world.commit();
        for name in &plan.remove_bridges {
            self.world.remove_bridge(name);
        }
        self.realised = Arc::new(after);
        self.publish(&before, &old, new);
        Ok(answer)
    }

    /// Carries out the plan's steps that can fail, and notes how to undo those that succeeded.
    fn realise(&mut self, plan: &Plan, old: &Desired, new: &Desired, journal: &mut Vec<Undo>) -> Result<()> {
        for name in &plan.add_bridges {
            self.world.add_bridge(name, &new.bridges[name]);
            journal.push(Undo::AddBridge(name.clone()));
        }
        for name in &plan.update_bridges {
            self.world.update_bridge(name, &new.bridges[name]);
            journal.push(Undo::UpdateBridge(name.clone()));
        }
        for name in &plan.park_ports {
            self.world.park_port(name);
            journal.push(Undo::ParkPort(name.clone()));
        }
        for name in &plan.update_ports {
            self.world.update_port(name, &new.ports[name])?;
            journal.push(Undo::UpdatePort(name.clone()));
        }
        for name in &plan.add_ports {
            self.world.add_port(name, &new.ports[name])?;
            journal.push(Undo::AddPort(name.clone()));
        }
        for name in &plan.static_fdb {
            // Noted first: a table that is full may have taken some of the entries.
            journal.push(Undo::StaticFdb(name.clone()));
            self.world.set_static(name, &statics(old, name).static_fdb, &new.bridges[name].static_fdb)?;
        }
        if plan.l3 {
            self.world.set_l3(new)?;
            journal.push(Undo::L3);
        }
        Ok(())
    }

    fn undo(&mut self, journal: Vec<Undo>, old: &Desired, new: &Desired) {
        let mut rewrite = Vec::new();
        for step in journal.into_iter().rev() {
            match step {
                Undo::AddBridge(name) => self.world.remove_bridge(&name),
                Undo::UpdateBridge(name) => self.world.update_bridge(&name, &old.bridges[&name]),
                Undo::ParkPort(name) => self.world.unpark_port(&name),
                Undo::UpdatePort(name) => {
                    if let Err(error) = self.world.update_port(&name, &old.ports[&name]) {
                        tracing::error!(port = name, %error, "a failed edit could not be undone");
                    }
                }
                Undo::AddPort(name) => self.world.remove_port(&name),
                Undo::StaticFdb(name) => rewrite.push(name),
                Undo::L3 => {
                    if let Err(error) = self.world.set_l3(old) {
                        tracing::error!(%error, "a failed edit of layer 3 could not be undone");
                    }
                }
            }
        }
        // Only now do the ports of the old entries exist again.
        for name in rewrite {
            let (gone, now) = (statics(new, &name), statics(old, &name));
            if old.bridges.contains_key(&name)
                && let Err(error) = self.world.set_static(&name, &gone.static_fdb, &now.static_fdb)
            {
                tracing::error!(bridge = name, %error, "a failed edit of static entries could not be undone");
            }
        }
    }

    fn publish(&mut self, realised: &Desired, old: &Desired, new: Desired) {
        let new = Arc::new(new);
        let revision = {
            let mut current = self.shared.current.write();
            current.0 += 1;
            current.1 = new.clone();
            current.0
        };
        self.shared.emit(Event::Revision { revision });
        self.announce(realised, old, &new);
    }

    /// Tells what became of `realised`, and of the meshes of `desired_before`.
    fn announce(&mut self, old: &Desired, desired_before: &Desired, desired: &Desired) {
        let new = self.realised.clone();
        for name in new.bridges.keys() {
            if old.bridges.get(name) != new.bridges.get(name) || members(old, name).ne(members(&new, name)) {
                let status = self.bridge_status(&new, name);
                self.shared.emit(Event::Bridge(Box::new(status)));
            }
        }
        let changed: Vec<_> =
            new.ports.iter().filter(|(n, s)| old.ports.get(*n) != Some(s)).map(|(n, _)| n.clone()).collect();
        self.announce_ports(&changed);
        for (name, spec) in &desired.meshes {
            let of = |port: &String| member_of(port).is_some_and(|(mesh, _)| mesh == name);
            let gone = old.ports.keys().any(|port| of(port) && !new.ports.contains_key(port));
            if gone || desired_before.meshes.get(name) != Some(spec) || changed.iter().any(of) {
                self.shared.emit(Event::Mesh(Box::new(self.mesh_status(name, spec))));
            }
        }
        for name in old.ports.keys().filter(|n| !new.ports.contains_key(*n)) {
            self.shared.emit(Event::PortGone { name: name.clone() });
        }
        for name in desired_before.meshes.keys().filter(|n| !desired.meshes.contains_key(*n)) {
            self.shared.emit(Event::MeshGone { name: name.clone() });
        }
        self.announce_l3(old, &new);
        for name in old.bridges.keys().filter(|n| !new.bridges.contains_key(*n)) {
            self.shared.emit(Event::BridgeGone { name: name.clone() });
        }
    }

    fn announce_ports(&self, names: &[String]) {
        for name in names {
            if let Some(status) = self.world.port_status(name) {
                self.shared.emit(Event::Port(Box::new(status)));
            }
        }
    }

    /// Tells what an edit made of gateways and uplinks.
    fn announce_l3(&self, old: &Desired, new: &Desired) {
        for status in self.world.gateways(new) {
            if old.gateways.get(&status.name) != new.gateways.get(&status.name) {
                self.shared.emit(Event::Gateway(Box::new(status)));
            }
        }
        let changed = new.uplinks.iter().filter(|(n, s)| old.uplinks.get(*n) != Some(s));
        self.announce_uplinks(&changed.map(|(n, _)| n.clone()).collect::<Vec<_>>());
        for name in old.gateways.keys().filter(|n| !new.gateways.contains_key(*n)) {
            self.shared.emit(Event::GatewayGone { name: name.clone() });
        }
        for name in old.uplinks.keys().filter(|n| !new.uplinks.contains_key(*n)) {
            self.shared.emit(Event::UplinkGone { name: name.clone() });
        }
    }

    fn announce_uplinks(&self, names: &[String]) {
        if names.is_empty() {
            return;
        }
        for status in self.world.uplinks(&self.desired()).into_iter().filter(|s| names.contains(&s.name)) {
            self.shared.emit(Event::Uplink(Box::new(status)));
        }
    }

    pub(super) fn notice(&mut self, notice: Notice) {
        if !self.stopped {
            let changed = self.world.notice(notice);
            self.announce_ports(&changed);
        }
    }

    pub(super) fn meshes(&self) -> Vec<MeshStatus> {
        self.desired().meshes.iter().map(|(name, spec)| self.mesh_status(name, spec)).collect()
    }

    fn mesh_status(&self, name: &str, spec: &MeshSpec) -> MeshStatus {
        let mut addresses = spec.peers.clone();
        addresses.sort_unstable();
        let mut status =
            MeshStatus { name: name.to_owned(), spec: spec.clone(), own: Vec::new(), peers: Vec::new() };
        for address in addresses {
            let port = member_name(name, address);
            match self.realised.ports.get(&port) {
                Some(member) => {
                    status.peers.push(mesh_peer(address, self.status_of(&port, member)));
                }
                None => status.own.push(address),
            }
        }
        status
    }

    pub(super) fn bridges(&self) -> Vec<BridgeStatus> {
        let desired = self.realised.clone();
        desired.bridges.keys().map(|name| self.bridge_status(&desired, name)).collect()
    }

    fn bridge_status(&self, desired: &Desired, name: &str) -> BridgeStatus {
        let (macs, fdb) = self.world.bridge_macs(name);
        BridgeStatus {
            name: name.to_owned(),
            spec: statics(desired, name),
            ports: members(desired, name).cloned().collect(),
            macs,
            fdb,
        }
    }

    pub(super) fn ports(&self) -> Vec<PortStatus> {
        self.realised.ports.iter().map(|(name, spec)| self.status_of(name, spec)).collect()
    }

    fn status_of(&self, name: &str, spec: &PortSpec) -> PortStatus {
        let unknown = || down_status(name, spec, &Error::failed("the port is not realised"));
        self.world.port_status(name).unwrap_or_else(unknown)
    }

    pub(super) fn fdb(&self, bridge: &str) -> Result<Vec<FdbRow>> {
        self.world.fdb(bridge).ok_or_else(|| no_bridge(bridge))
    }

    pub(super) fn fdb_flush(&mut self, bridge: &str, vlan: Option<u16>, port: Option<&str>) -> Result<u64> {
        let desired = self.realised.clone();
        if !desired.bridges.contains_key(bridge) {
            return Err(no_bridge(bridge));
        }
        if let Some(port) = port
            && desired.ports.get(port).is_none_or(|spec| spec.bridge != bridge)
        {
            return Err(Error::not_found(format!("bridge {bridge} has no port {port}"))
                .hint(format!("see: trunkline bridge show {bridge}")));
        }
        Ok(self.world.fdb_flush(bridge, vlan, port))
    }

    pub(super) fn stats(&self) -> Vec<PortStats> {
        self.world.stats()
    }

    pub(super) fn port_stats(&self, name: &str) -> Option<PortStats> {
        self.world.port_stats(name)
    }

    pub(super) fn status(&self) -> DaemonStatus {
        DaemonStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime: self.started.elapsed().as_secs(),
            workers: self.world.workers(),
            revision: self.shared.current.read().0,
        }
    }

    pub(super) fn stop(&mut self, release: bool) {
        if !self.stopped {
            self.stopped = true;
            self.world.stop(release);
        }
    }

    pub(super) fn desired(&self) -> Arc<Desired> {
        self.shared.current.read().1.clone()
    }
}

/// A timer that keeps running while it is wanted, and is off while it is not.
fn arm(timer: &mut Option<Instant>, wanted: bool, period: Duration) {
    *timer = wanted.then(|| timer.unwrap_or_else(|| Instant::now() + period));
}

/// Names of a bridge's ports.
fn members<'a>(desired: &'a Desired, bridge: &'a str) -> impl Iterator<Item = &'a String> {
    desired.ports.iter().filter(move |(_, spec)| spec.bridge == bridge).map(|(name, _)| name)
}

fn statics(desired: &Desired, bridge: &str) -> BridgeSpec {
    desired.bridges.get(bridge).cloned().unwrap_or_default()
}
