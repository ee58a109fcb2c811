//! Making, changing and taking away tunnels, for the control plane. All or nothing: whatever may fail comes
//! before anything that workers could notice.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use trunkline_packet::{MacAddr, PortId, VlanId};
use trunkline_ports::link;
use trunkline_tunnel::{Endpoint, TableError, Tunnels};

use super::remotes::Remotes;
use super::sockets::{Fresh, Key, Wants};
use super::view::{Carrier, Parts, Peer, TunnelView};
use super::{PeerStatus, TunnelConfig, TunnelError, Underlay};
use crate::engine::{Engine, PortState, State};
use crate::snapshot::Backend;
use crate::worker::{Command, Source};

/// What the engine keeps of a tunnel port.
pub(crate) struct TunnelState {
    config: TunnelConfig,
    peers: Vec<Arc<Peer>>,
    remotes: Option<Arc<Remotes>>,
    /// Index of the group's interface; 0 for none.
    interface: u32,
}

impl Engine {
    /// Makes a port without descriptors a tunnel's, or changes its tunnel while it runs: counters, liveness
    /// sessions of remotes that stay and all other tunnels go on, and so do sequence numbers and learned
    /// addresses unless it is another virtual network now. Opens and closes sockets
    /// as needed, in the calling thread's namespace. When this returns the tunnel is in force.
    ///
    /// # Errors
    /// [`TunnelError`]; nothing has changed then.
    pub fn set_tunnel(&self, port: PortId, mut config: TunnelConfig) -> Result<(), TunnelError> {
        let state = &mut *self.state.lock();
        let p = state.port(port).ok_or(TunnelError::Port)?;
        if matches!(p.view.backend, Backend::Queues(_)) {
            return Err(TunnelError::Port);
        }
        let before = p.tunnel.as_ref().map(|t| Key::of(&t.config));
        let moved = p.tunnel.as_ref().is_some_and(|t| !same_network(&t.config, &config.endpoint));
        normalise(&mut config, port, p.tunnel.as_ref().map(|t| &t.config));
        let interface = match &config.group_interface {
            Some(name) => link::index(name)
                .map_err(|error| TunnelError::Socket { what: format!("group interface {name}"), error })?,
            None => 0,
        };
        if let Underlay::Uplink(uplink) = config.underlay {
            let why = "a group needs the kernel's sockets under the tunnel";
            if config.endpoint.group.is_some() || config.endpoint.remotes.iter().any(IpAddr::is_multicast) {
                return Err(TableError::Invalid { port, why }.into());
            }
            if !state.is_l3_port(uplink) {
                return Err(TunnelError::Port);
            }
        }
        let others = || state.ports.iter().flatten().filter(|p| p.config.id != port);
        let configs = || others().filter_map(|p| Some(&p.tunnel.as_ref()?.config));
        let tables = TunnelTables::new(configs().chain([&config]))?;
        let key = Key::of(&config);
        let wants = key.map(|key| Wants::of(key, configs().chain([&config])));
        match key.zip(wants) {
            None => {}
            Some((key, wants)) if state.sockets.suffices(key, &wants) => state.sockets.adapt(key, wants)?,
            Some((key, wants)) => self.reopen(state, key, wants)?,
        }
        state.tunnels = tables;
        let (now, ageing) = (self.now(), state.ageing_of(port));
        if let Some(p) = state.port(port) {
            let made = TunnelState::new(config, interface, p.tunnel.as_ref(), now, ageing);
            let mut liveness = self.liveness.lock();
            let started = if key.is_none() { liveness.start() } else { Ok(()) };
            if let Err(error) = started.and_then(|()| liveness.set(port, made.config.bfd, &made.peers)) {
                // Without the thread the tunnel works all the same, its remotes are taken to live.
                tracing::error!(%error, "no liveness of tunnels");
            }
            p.tunnel = Some(made);
        }
        state.refresh(port);
        match before {
            Some(Some(before)) => self.close_unused(state, before),
            Some(None) => self.publish_and_wait(state),
            None => self.publish(state),
        }
        if moved {
            // Who was there may not be here.
            let snapshot = self.snapshot.load();
            if let Some(bridge) = snapshot.port(port).and_then(|view| snapshot.bridge_of(view)) {
                bridge.fdb().flush(None, Some(port));
            }
        }
        Ok(())
    }

    /// What is known of the far ends of a tunnel port, in the order of its remotes.
    pub fn tunnel_peers(&self, port: PortId) -> Vec<PeerStatus> {
        let snapshot = self.snapshot.load();
        let tunnel = snapshot.port(port).and_then(|view| view.tunnel());
        tunnel.map_or_else(Vec::new, |tunnel| tunnel.peers.iter().map(|peer| *peer.status.lock()).collect())
    }

    /// The remote that an address on a tunnel port is behind, as far as is known.
    pub fn tunnel_remote(&self, port: PortId, vlan: VlanId, mac: MacAddr) -> Option<IpAddr> {
        let snapshot = self.snapshot.load();
        let view = snapshot.port(port)?;
        let tunnel = view.tunnel()?;
        let Some(remotes) = &tunnel.remotes else { return tunnel.endpoint().remotes.first().copied() };
        let ageing = snapshot.bridge_of(view).map_or(0, |bridge| bridge.config().ageing);
        remotes.list().get(remotes.find(self.now(), ageing, vlan, mac)?)
    }

    /// Takes the tunnel of a port away, if it has one. When it returns no worker refers to it.
    pub(crate) fn release_tunnel(&self, state: &mut State, port: PortId) {
        let Some(p) = state.port(port) else { return };
        let Some(tunnel) = p.tunnel.take() else { return };
        p.view.backend = Backend::Down;
        self.liveness.lock().forget(port);
        // What was a table without conflicts is one with an endpoint less.
        let tables = TunnelTables::new(state.tunnel_configs()).unwrap_or_default();
        state.tunnels = tables;
        match Key::of(&tunnel.config) {
            Some(key) => self.close_unused(state, key),
            None => self.publish_and_wait(state),
        }
    }

    /// Opens the sockets of a key anew, in place of those it has, and tells their tunnels.
    fn reopen(&self, state: &mut State, key: Key, wants: Wants) -> Result<(), TunnelError> {
        // The port can be bound again only when it is free.
        let old = self.close(state, key);
        let fresh = match (state.sockets.open(key, wants, self.workers.len()), old) {
            (Err(error), Some(old)) => {
                // As before, then.
                let again = state.sockets.open(key, old, self.workers.len());
                if let Ok(fresh) = again {
                    self.give(state, fresh);
                    state.refresh_all(key);
                    self.publish(state);
                }
                return Err(error);
            }
            (result, _) => result?,
        };
        self.give(state, fresh);
        state.refresh_all(key);
        Ok(())
    }

    /// Spreads the receivers of a set over the workers.
    fn give(&self, state: &mut State, fresh: Fresh) {
        let Fresh { mut set, rx } = fresh;
        for rx in rx {
            let worker = crate::engine::least_loaded(&state.load);
            state.load[worker] += 1;
            set.owners.push(worker);
            let source = Source::Underlay { id: set.id, rx, broken: set.broken() };
            self.command(worker, Command::Add { source });
        }
        state.sockets.sets.push(set);
    }

    /// Closes the sockets of a key, if there are any, and says what they were to do.
    fn close(&self, state: &mut State, key: Key) -> Option<Wants> {
        let at = state.sockets.sets.iter().position(|set| set.key == key)?;
        let set = state.sockets.sets.remove(at);
        for &worker in &set.owners {
            state.load[worker] -= 1;
            self.command(worker, Command::RemoveUnderlay { id: set.id });
        }
        self.publish_and_wait(state);
        Some(set.into_wants())
    }

    /// Publishes, and closes the sockets of a key that no tunnel has any more.
    fn close_unused(&self, state: &mut State, key: Key) {
        if state.tunnel_configs().any(|config| Key::of(config) == Some(key)) {
            let wants = Wants::of(key, state.tunnel_configs());
            // Leaving groups does not fail.
            let _ = state.sockets.adapt(key, wants);
            self.publish_and_wait(state);
        } else if self.close(state, key).is_none() {
            self.publish_and_wait(state);
        }
    }
}

/// Puts what the engine decides into a configuration.
fn normalise(config: &mut TunnelConfig, port: PortId, before: Option<&TunnelConfig>) {
    let endpoint = &mut config.endpoint;
    endpoint.port = port;
    endpoint.df &= config.fragment.is_none();
    endpoint.mss_clamp = config.mss_clamp;
    // Another network has sequence numbers of its own.
    if let Some(before) = before.filter(|before| same_network(before, endpoint)) {
        endpoint.state = Arc::clone(&before.endpoint.state);
    }
    // Floods go to the group, and anyone may send when there is one.
    endpoint.remotes.extend(endpoint.group.filter(|group| !endpoint.remotes.contains(group)));
}

/// Whether a tunnel that is changed stays in its virtual network.
fn same_network(before: &TunnelConfig, now: &Endpoint) -> bool {
    let before = &before.endpoint;
    (before.kind, before.dst_port, &before.nets) == (now.kind, now.dst_port, &now.nets)
}

impl TunnelState {
    fn new(
        config: TunnelConfig,
        interface: u32,
        before: Option<&TunnelState>,
        now: u32,
        ageing: u32,
    ) -> TunnelState {
        let endpoint = &config.endpoint;
        let old = |remote| before.and_then(|b| b.peers.iter().find(|peer| peer.remote == remote).cloned());
        let peers = endpoint.remotes.iter().map(|&r| old(r).unwrap_or_else(|| Peer::new(endpoint.port, r)));
        let peers = peers.collect();
        let one = matches!(endpoint.remotes.as_slice(), [only] if !only.is_multicast());
        let remotes = (!one || !config.static_remotes.is_empty()).then(|| {
            let before = before.filter(|b| same_network(&b.config, endpoint));
            let before = before.and_then(|b| b.remotes.as_deref());
            Arc::new(Remotes::new(&endpoint.remotes, &config.static_remotes, before, now, ageing))
        });
        TunnelState { config, peers, remotes, interface }
    }
}

/// Which tunnel a packet belongs to, by what brought it.
#[derive(Default)]
pub(crate) struct TunnelTables {
    /// The kernel's sockets.
    pub(crate) sockets: Arc<Tunnels>,
    /// Uplinks that carry any.
    pub(crate) uplinks: Vec<(PortId, Arc<Tunnels>)>,
}

impl TunnelTables {
    fn new<'a>(configs: impl Iterator<Item = &'a TunnelConfig>) -> Result<TunnelTables, TableError> {
        let mut sockets = Vec::new();
        let mut uplinks: BTreeMap<PortId, Vec<Endpoint>> = BTreeMap::new();
        for config in configs {
            match config.underlay {
                Underlay::Sockets => sockets.push(config.endpoint.clone()),
                Underlay::Uplink(port) => uplinks.entry(port).or_default().push(config.endpoint.clone()),
            }
        }
        let table = |(port, endpoints)| Ok((port, Arc::new(Tunnels::new(endpoints)?)));
        let uplinks = uplinks.into_iter().map(table).collect::<Result<_, TableError>>()?;
        Ok(TunnelTables { sockets: Arc::new(Tunnels::new(sockets)?), uplinks })
    }
}

impl State {
    fn tunnel_configs(&self) -> impl Iterator<Item = &TunnelConfig> {
        self.ports.iter().flatten().filter_map(|p| Some(&p.tunnel.as_ref()?.config))
    }

    /// Has a port's view say what its configuration does.
    pub(crate) fn refresh(&mut self, port: PortId) {
        let State { ports, sockets, .. } = self;
        let Some(p) = ports.get_mut(port.index()).and_then(Option::as_mut) else { return };
        let PortState { tunnel: Some(tunnel), config, view, .. } = p else { return };
        let c = &tunnel.config;
        let carrier = match c.underlay {
            Underlay::Uplink(port) => Some(Carrier::Uplink(port)),
            Underlay::Sockets => Key::of(c)
                .and_then(|key| sockets.of(key))
                .map(|set| Carrier::Sockets { id: set.id, tx: Arc::clone(&set.tx) }),
        };
        let made = carrier.and_then(|carrier| {
            TunnelView::new(
                c.endpoint.clone(),
                Parts {
                    carrier,
                    peers: tunnel.peers.clone(),
                    remotes: tunnel.remotes.clone(),
                    learns: c.learn_remotes,
                    fragment: c.fragment,
                    bfd: c.bfd.is_some(),
                    untagged: config.tag,
                    interface: tunnel.interface,
                },
            )
        });
        view.backend = made.map_or(Backend::Down, |made| Backend::Tunnel(Arc::new(made)));
    }

    /// The same for all tunnels that share sockets.
    fn refresh_all(&mut self, key: Key) {
        let ports = self.ports.iter().flatten();
        let ports = ports.filter(|p| p.tunnel.as_ref().is_some_and(|t| Key::of(&t.config) == Some(key)));
        for port in ports.map(|p| p.config.id).collect::<Vec<_>>() {
            self.refresh(port);
        }
    }
}
