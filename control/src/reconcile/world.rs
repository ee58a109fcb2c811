//! The real world: the engine, the kernel, the keeper.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use trunkline_engine::{BridgeId, Engine};
use trunkline_packet::{MacAddr, PortId, VlanId};
use trunkline_switch::{BridgeConfig, Fdb};

use super::adopted::Adopted;
use super::devices::identity;
use super::kernel_l3::L3State;
use super::observe::observe_table;
use super::tap::{DEFAULT_MTU, TapDevice, Wish, id_of, open_netns};
use super::tunnels::Tunnel;
use super::{Notice, World};
use crate::keeper::{Keeper, Kept, Launch};
use crate::model::{
    BridgeSpec, FdbCounters, FdbRow, Follow, PortKind, PortSpec, PortStats, PortStatus, StaticFdb,
};
use crate::net::explain;
use crate::{Error, ErrorKind, Result};

/// Largest L2 payload on ports without an interface, bytes.
pub(super) const NO_MTU: u32 = 65535;

/// Keepers are not replaced more often.
const PACE: Duration = Duration::from_millis(500);

/// The engine, the kernel and the keeper.
pub(crate) struct KernelWorld {
    pub(super) engine: Arc<Engine>,
    pub(super) bridges: BTreeMap<String, Bridge>,
    pub(super) ports: BTreeMap<String, Port>,
    pub(super) parked: BTreeMap<String, Port>,
    keeper: Option<Keeper>,
    /// When the keeper was last replaced.
    replaced: Option<Instant>,
    launch: Launch,
    pub(super) run_dir: PathBuf,
    /// What a daemon before left with the keeper and no port has claimed yet.
    pub(super) kept: BTreeMap<String, Kept>,
    /// Ports the keeper has not got yet.
    pub(super) unkept: BTreeSet<String>,
    /// Static entries by bridge, as last written.
    pub(super) statics: BTreeMap<String, Vec<StaticFdb>>,
    /// Ports that changed on their own since the last look.
    pub(super) news: BTreeSet<String>,
    /// Why what a port follows is not there.
    pub(super) away: BTreeMap<String, Error>,
    pub(super) notices: mpsc::Sender<Notice>,
    /// Gateways, uplinks, routes and NAT.
    pub(super) l3: L3State,
}

/// A bridge of the engine.
#[derive(Clone, Copy)]
pub(super) struct Bridge {
    pub(super) id: BridgeId,
    /// Seconds.
    pub(super) ageing: u32,
}

/// A port of the engine with what is behind it.
pub(super) struct Port {
    pub(super) id: PortId,
    pub(super) spec: PortSpec,
    pub(super) device: Option<Device>,
    /// Why it is down.
    pub(super) trouble: Option<Error>,
}

pub(super) enum Device {
    Tap(TapDevice),
    Adopted(Adopted),
    Tunnel(Tunnel),
    /// Replay and null ports: nothing of the kernel's.
    Memory,
}

impl Device {
    /// Leaves what is not ours as it was found: the edit that took it over has failed.
    fn put_back(&self, name: &str) {
        let done = match self {
            Device::Tap(tap) => tap.put_back(),
            Device::Adopted(adopted) => adopted.put_back(),
            Device::Memory | Device::Tunnel(_) => Ok(()),
        };
        if let Err(error) = done {
            tracing::error!(port = name, %error, "a failed edit could not be undone");
        }
    }

    /// What the engine takes for it. Tunnels look at the inner MTU themselves, and answer what is too large.
    pub(super) fn mtu(&self) -> u32 {
        match self {
            Device::Tap(tap) => tap.mtu,
            Device::Adopted(adopted) => adopted.mtu,
            Device::Memory | Device::Tunnel(_) => NO_MTU,
        }
    }
}

impl KernelWorld {
    /// Connects to the keeper and fetches what it holds. Failures of the keeper are reported to `notices`.
    pub(crate) fn new(
        engine: Arc<Engine>,
        run_dir: PathBuf,
        launch: Launch,
        notices: mpsc::Sender<Notice>,
    ) -> Result<KernelWorld> {
        let mut world = KernelWorld {
            engine,
            bridges: BTreeMap::new(),
            ports: BTreeMap::new(),
            parked: BTreeMap::new(),
            keeper: None,
            replaced: None,
            launch,
            run_dir,
            kept: BTreeMap::new(),
            unkept: BTreeSet::new(),
            statics: BTreeMap::new(),
            news: BTreeSet::new(),
            away: BTreeMap::new(),
            notices,
            l3: L3State::default(),
        };
        world.connect_keeper()?;
        if let Some(keeper) = &world.keeper {
            let fetched = keeper.fetch();
            let fetched = fetched.map_err(|e| explain("cannot take over what the keeper holds", &e))?;
            world.kept = fetched.into_iter().collect();
        }
        Ok(world)
    }

    /// Starts the keeper if there is none, and reports its end.
    fn connect_keeper(&mut self) -> Result<()> {
        let keeper = Keeper::connect(&self.run_dir, &self.launch)?;
        let watched = keeper.watch().map_err(|e| explain("cannot watch the keeper", &e))?;
        let notices = self.notices.clone();
        let watch = move || {
            use rustix::event::{PollFd, PollFlags, poll};
            // Only the end of the connection wakes this, not answers.
            let mut polled = [PollFd::new(&watched, PollFlags::empty())];
            while let Err(rustix::io::Errno::INTR) = poll(&mut polled, None) {}
            // Nobody listens any more when the daemon ends.
            let _ = notices.send(Notice::KeeperGone);
        };
        std::thread::Builder::new()
            .name("tl-keeper".into())
            .spawn(watch)
            .map_err(|e| explain("cannot watch the keeper", &e))?;
        tracing::debug!(pid = keeper.pid(), "connected to the keeper");
        self.keeper = Some(keeper);
        Ok(())
    }

    /// After its end: another one, with everything handed over again.
    fn replace_keeper(&mut self) {
        if let Some(keeper) = self.keeper.take() {
            keeper.reap();
        }
        // One that goes as soon as it comes is left to the timer of retries.
        if self.replaced.is_some_and(|at| at.elapsed() < PACE) {
            return;
        }
        self.replaced = Some(Instant::now());
        self.unkept = self.ports.keys().cloned().collect();
        match self.connect_keeper() {
            Ok(()) => {
                tracing::warn!("the keeper was lost; connected to one again, which gets the interfaces");
                self.drop_forgotten();
                self.hand_over();
            }
            Err(error) => tracing::error!(%error, "no keeper: interfaces do not survive this daemon"),
        }
    }

    /// The same keeper as before may hold what it was not reached for to let go of.
    fn drop_forgotten(&mut self) {
        let names = self.keeper.as_ref().map_or_else(|| Ok(Vec::new()), Keeper::names);
        match names {
            Ok(names) => {
                names.iter().filter(|n| !self.ports.contains_key(*n)).for_each(|n| self.drop_kept(n))
            }
            Err(error) => tracing::warn!(%error, "the keeper does not say what it holds"),
        }
    }

    /// Gives the keeper what it has not got yet.
    pub(super) fn hand_over(&mut self) {
        let Some(keeper) = &self.keeper else { return };
        for name in std::mem::take(&mut self.unkept) {
            let Some(port) = self.ports.get(&name) else { continue };
            let fds = match &port.device {
                Some(Device::Tap(tap)) => tap.fds(),
                Some(Device::Adopted(adopted)) => adopted.fds(),
                Some(Device::Memory | Device::Tunnel(_)) | None => continue,
            };
            if let Err(error) = fds.and_then(|fds| keeper.put(&name, &identity(&name, &port.spec), &fds)) {
                tracing::warn!(port = name, %error, "the keeper did not take an interface");
            }
        }
    }

    pub(super) fn forget_kept(&mut self, name: &str) {
        self.unkept.remove(name);
        self.drop_kept(name);
    }

    fn drop_kept(&self, name: &str) {
        if let Some(keeper) = &self.keeper
            && let Err(error) = keeper.release(name)
        {
            tracing::warn!(port = name, %error, "the keeper did not let go of an interface");
        }
    }

    /// A slot in the engine, without a device.
    pub(super) fn slot(&mut self, spec: &PortSpec, mtu: u32) -> Result<PortId> {
        let config = self.l3.role(spec)?;
        let bridge = self.bridges.get(&spec.bridge).map(|b| b.id);
        let bridge = bridge.ok_or_else(|| Error::not_found(format!("there is no bridge {}", spec.bridge)))?;
        let full = || Error::failed("the switch has no room for another port");
        self.engine.add_port(bridge, config, mtu).ok_or_else(full)
    }

    /// A bridge's table.
    pub(super) fn table(&self, bridge: &str) -> Option<Arc<Fdb>> {
        self.engine.fdb(self.bridges.get(bridge)?.id)
    }
}

impl World for KernelWorld {
    fn complete(&self, _name: &str, spec: &mut PortSpec) -> Result<()> {
        match &mut spec.kind {
            PortKind::Tap(tap) => {
                if let Some(Follow::Netns(netns)) = &tap.follow {
                    tap.netns = Some(netns.clone());
                }
                if let (Some(netns), None, Some(_)) = (&tap.netns, &tap.netns_id, &tap.follow) {
                    // One that is not there may come.
                    tap.netns_id = open_netns(netns).ok().map(|netns| id_of(&netns));
                } else if let (Some(netns), None) = (&tap.netns, &tap.netns_id)
                    && (netns.starts_with('/') || netns.bytes().all(|b| b.is_ascii_digit()))
                {
                    tap.netns_id = Some(id_of(&open_netns(netns)?));
                }
                if tap.link.mac.is_none() && !tap.adopt {
                    tap.link.mac = Some(draw_mac()?);
                }
            }
            PortKind::Host(host) if host.link.mac.is_none() => host.link.mac = Some(draw_mac()?),
            _ => {}
        }
        Ok(())
    }

    fn add_bridge(&mut self, name: &str, spec: &BridgeSpec) {
        let id = self.engine.add_bridge(bridge_config(spec));
        self.bridges.insert(name.to_owned(), Bridge { id, ageing: spec.ageing });
    }

    fn update_bridge(&mut self, name: &str, spec: &BridgeSpec) {
        if let Some(bridge) = self.bridges.get_mut(name) {
            self.engine.update_bridge(bridge.id, bridge_config(spec));
            bridge.ageing = spec.ageing;
        }
    }

    fn remove_bridge(&mut self, name: &str) {
        self.statics.remove(name);
        if let Some(bridge) = self.bridges.remove(name) {
            self.engine.remove_bridge(bridge.id);
        }
    }

    fn set_static(&mut self, bridge: &str, gone: &[StaticFdb], now: &[StaticFdb]) -> Result<()> {
        let Some(fdb) = self.table(bridge) else { return Ok(()) };
        let key = |e: &StaticFdb| Some((VlanId::new(e.vlan)?, e.mac.parse::<MacAddr>().ok()?));
        let kept: BTreeSet<_> = now.iter().map(|e| (e.vlan, &e.mac)).collect();
        for (vid, mac) in gone.iter().filter(|e| !kept.contains(&(e.vlan, &e.mac))).filter_map(key) {
            fdb.remove(vid, mac);
        }
        for entry in now {
            let port = self.ports.get(&entry.port);
            if let (Some((vid, mac)), Some(port)) = (key(entry), port)
                && !fdb.add_static(vid, mac, port.id)
            {
                let what = format!("bridge {bridge} has no room for another static FDB entry");
                return Err(Error::failed(what).hint("raise its --max-macs"));
            }
        }
        let told = self.set_static_remotes(bridge, now);
        self.statics.insert(bridge.to_owned(), now.to_vec());
        told
    }

    fn add_port(&mut self, name: &str, spec: &PortSpec) -> Result<()> {
        let within = |error: Error| error.within(format_args!("port {name}"));
        if spec.kind.tunnel().is_some() {
            return self.add_tunnel(name, spec).map_err(within);
        }
        if let Some(away) = Wish::of(name, spec).and_then(|w| w.waits()) {
            let id = self.slot(spec, DEFAULT_MTU).map_err(within)?;
            let port = Port { id, spec: spec.clone(), device: None, trouble: Some(away) };
            self.ports.insert(name.to_owned(), port);
            return Ok(());
        }
        let (device, io) = self.open(name, spec).map_err(within)?;
        let attached = self.slot(spec, device.mtu()).and_then(|id| {
            self.connect(id, spec, io).inspect_err(|_| self.engine.remove_port(id))?;
            Ok(id)
        });
        let id = attached.inspect_err(|_| device.put_back(name)).map_err(within)?;
        self.ports
            .insert(name.to_owned(), Port { id, spec: spec.clone(), device: Some(device), trouble: None });
        self.unkept.insert(name.to_owned());
        Ok(())
    }

    fn restore_port(&mut self, name: &str, spec: &PortSpec) {
        let id = match self.slot(spec, DEFAULT_MTU) {
            Ok(id) => id,
            Err(error) => {
                tracing::error!(port = name, %error, "port not restored");
                return;
            }
        };
        self.ports.insert(name.to_owned(), Port { id, spec: spec.clone(), device: None, trouble: None });
        if let Err(error) = self.bring_up(name) {
            tracing::warn!(port = name, reason = %error, "port down");
            if let Some(port) = self.ports.get_mut(name) {
                port.trouble = Some(error);
            }
        }
    }

    fn update_port(&mut self, name: &str, spec: &PortSpec) -> Result<()> {
        let Some(port) = self.ports.get_mut(name) else {
            return Err(Error::new(ErrorKind::Internal, format!("port {name} is not realised")));
        };
        let old = port.spec.clone();
        let (before, after) = (Wish::of(name, &old), Wish::of(name, spec));
        if let (Some(Device::Tap(tap)), Some(before), Some(after)) = (&mut port.device, &before, &after) {
            tap.update(before, after)?;
        }
        let revert = |world: &mut KernelWorld| {
            if let Some(port) = world.ports.get_mut(name) {
                port.spec = old.clone();
                if let (Some(Device::Tap(tap)), Some(before), Some(after)) =
                    (&mut port.device, &before, &after)
                    && let Err(error) = tap.update(after, before)
                {
                    tracing::error!(port = name, %error, "a failed edit could not be undone");
                }
            }
        };
        port.spec = spec.clone();
        let done = if old.bridge != spec.bridge {
            self.rehome(name, spec)
        } else if old.offload != spec.offload {
            self.reopen_io(name)
        } else if spec.kind.tunnel().is_some() {
            self.open_tunnel(name)
        } else {
            let mtu = port.device.as_ref().map_or(DEFAULT_MTU, Device::mtu);
            self.l3.role(spec).map(|config| self.engine.update_port(port.id, config, mtu))
        };
        done.map_err(|error| {
            revert(self);
            if old.kind.tunnel().is_some()
                && let Err(error) = self.open_tunnel(name)
            {
                tracing::error!(port = name, %error, "a failed edit could not be undone");
            }
            error.within(format_args!("port {name}"))
        })
    }

    fn park_port(&mut self, name: &str) {
        if let Some(port) = self.ports.remove(name) {
            self.engine.detach_port(port.id);
            self.parked.insert(name.to_owned(), port);
        }
    }

    fn unpark_port(&mut self, name: &str) {
        let Some(mut port) = self.parked.remove(name) else { return };
        let back = match (&mut port.device, Wish::of(name, &port.spec)) {
            (Some(Device::Tap(tap)), Some(wish)) if tap.aside => tap.step_back(&wish),
            _ => Ok(()),
        };
        self.ports.insert(name.to_owned(), port);
        if let Err(error) = back.and_then(|()| self.reopen_io(name)) {
            tracing::error!(port = name, %error, "a failed edit could not be undone");
            self.lose(name, error);
        }
    }

    fn remove_port(&mut self, name: &str) {
        if let Some(port) = self.ports.remove(name) {
            self.engine.remove_port(port.id);
            self.unkept.remove(name);
            if let Some(device) = &port.device {
                device.put_back(name);
            }
        }
    }

    fn commit(&mut self) {
        self.away.retain(|name, _| self.ports.contains_key(name));
        self.commit_l3();
        for (name, mut port) in std::mem::take(&mut self.parked) {
            self.engine.remove_port(port.id);
            if let Some(Device::Tap(tap)) = &mut port.device
                && let Err(error) = tap.let_go(&port.spec)
            {
                tracing::warn!(port = name, %error, "the interface keeps the MTU of the tunnels");
            }
            // One made anew under the same name replaces it there.
            if !self.unkept.contains(&name) {
                self.forget_kept(&name);
            }
        }
        for (name, _) in std::mem::take(&mut self.kept) {
            tracing::info!(port = name, "let go of an interface nobody asks for any more");
            self.forget_kept(&name);
        }
        self.hand_over();
        self.bind_leases();
        self.follow_uplinks();
        self.follow_mtus();
    }

    fn port_status(&self, name: &str) -> Option<PortStatus> {
        self.observe_port(name)
    }

    fn bridge_macs(&self, name: &str) -> (u64, FdbCounters) {
        self.table(name).map_or_else(Default::default, |fdb| observe_table(&fdb))
    }

    fn fdb(&self, bridge: &str) -> Option<Vec<FdbRow>> {
        self.observe_fdb(bridge)
    }

    fn fdb_flush(&mut self, bridge: &str, vlan: Option<u16>, port: Option<&str>) -> u64 {
        let Some(fdb) = self.table(bridge) else { return 0 };
        let port = port.map(|name| self.ports.get(name).map_or(PortId::NONE, |p| p.id));
        // Nothing is known in a VLAN that cannot be.
        let vid = match vlan.map(VlanId::new) {
            None => None,
            Some(Some(vid)) => Some(vid),
            Some(None) => return 0,
        };
        fdb.flush(vid, port) as u64
    }

    fn stats(&self) -> Vec<PortStats> {
        let ports = self.ports.iter().map(|(name, port)| self.observe_stats(name, port));
        ports.chain(self.observe_underlay()).chain(self.stats_l3()).collect()
    }

    fn port_stats(&self, name: &str) -> Option<PortStats> {
        let port = self.ports.get(name).map(|port| self.observe_stats(name, port));
        port.or_else(|| self.stats_l3().into_iter().find(|s| s.name == name))
    }

    fn workers(&self) -> u16 {
        self.engine.workers()
    }

    fn notice(&mut self, notice: Notice) -> Vec<String> {
        match notice {
            Notice::Engine(event) if self.uplink_event(&event) => Vec::new(),
            Notice::HostNetwork { changed } => {
                if changed {
                    self.follow_host();
                } else {
                    self.follow_neighbours(false);
                }
                self.keep_leases();
                Vec::new()
            }
            Notice::Engine(event) => {
                let mut changed: Vec<_> = self.engine_event(event).into_iter().collect();
                changed.extend(std::mem::take(&mut self.news));
                changed
            }
            Notice::Followed { port, away } => {
                let changed = self.followed(&port, away);
                changed.then_some(port).into_iter().collect()
            }
            Notice::KeeperGone => {
                self.replace_keeper();
                Vec::new()
            }
        }
    }

    fn has_down(&self) -> bool {
        let down = |p: &Port| p.trouble.is_some() && !matches!(p.device, Some(Device::Tunnel(_)));
        self.keeper.is_none() || self.ports.values().any(down)
    }

    fn retry(&mut self) -> Vec<String> {
        if self.keeper.is_none() {
            self.replace_keeper();
        }
        // Those of tunnels that are there see to it themselves.
        let tunnel = |p: &Port| matches!(p.device, Some(Device::Tunnel(_)));
        let down = self.ports.iter().filter(|(_, p)| p.trouble.is_some() && !tunnel(p));
        let down: Vec<String> = down.map(|(name, _)| name.clone()).collect();
        down.into_iter().filter(|name| self.revive(name)).collect()
    }

    fn needs_check(&self) -> bool {
        !self.news.is_empty() || self.ports.values().any(|p| matches!(p.device, Some(Device::Adopted(_))))
    }

    fn check(&mut self) -> Vec<String> {
        let adopted = self.ports.iter().filter(|(_, p)| matches!(p.device, Some(Device::Adopted(_))));
        let adopted: Vec<String> = adopted.map(|(name, _)| name.clone()).collect();
        let changed: Vec<String> = adopted.into_iter().filter(|name| self.look_at(name)).collect();
        self.news.extend(changed);
        for name in self.tunnels() {
            if self.tend_tunnel(&name) {
                self.news.insert(name);
            }
        }
        self.follow_mtus();
        std::mem::take(&mut self.news).into_iter().collect()
    }

    fn has_tunnels(&self) -> bool {
        self.ports.values().any(|p| matches!(p.device, Some(Device::Tunnel(_))))
    }

    fn is_own(&self, address: IpAddr) -> bool {
        self.owns(address)
    }

    fn stop(&mut self, release: bool) {
        if let Some(keeper) = self.keeper.take() {
            if release {
                if let Err(error) = keeper.quit() {
                    tracing::warn!(%error, "the keeper did not end");
                }
            } else {
                keeper.close();
            }
        }
        self.write_leases();
        if release && let Err(error) = self.engine.set_l3(trunkline_engine::L3Config::default()) {
            tracing::warn!(%error, "gateways went without a word");
        }
        self.engine.stop();
        self.l3 = L3State::default();
        self.ports.clear();
        self.parked.clear();
        self.kept.clear();
    }
}

fn bridge_config(spec: &BridgeSpec) -> BridgeConfig {
    BridgeConfig { ageing: spec.ageing, max_macs: spec.max_macs }
}

/// A locally administered unicast address (IEEE 802-2014, 8.4) that nobody else has, in all likelihood.
pub(super) fn draw_mac() -> Result<String> {
    use std::io::Read;
    let mut bytes = [0; 6];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut bytes))
        .map_err(|e| explain("cannot draw a MAC address", &e))?;
    bytes[0] = bytes[0] & !1 | 2;
    Ok(MacAddr(bytes).to_string())
}
