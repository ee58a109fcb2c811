//! Tunnel ports: from what is asked for, and what the paths to the remotes take, to what the engine does.

use std::io;
use std::net::IpAddr;

use trunkline_engine::{BfdOptions, PeerStatus as EnginePeer, TunnelConfig, TunnelError, Underlay};
use trunkline_packet::{MacAddr, PortId, VlanId};
use trunkline_ports::link::{self, Link};
use trunkline_ports::underlay::{Path, path};
use trunkline_tunnel::mtu::{InnerMtu, Why, inner_mtu, overhead};
use trunkline_tunnel::udp::most_segments;
use trunkline_tunnel::{Endpoint, Kind, Nets, Tunnels, bfd};

use super::tap::DEFAULT_MTU;
use super::uplinks::Uplink;
use super::world::{Device, KernelWorld, NO_MTU, Port};
use crate::model::tunnel::Liveness;
use crate::model::{PeerStatus, PortSpec, StaticFdb, TunnelSpec};
use crate::net::explain;
use crate::validate::endpoint;
use crate::{Error, ErrorKind, Result};

/// A tunnel in force.
pub(super) struct Tunnel {
    /// What carries it; `None` while its uplink is down: the engine has no tunnel then.
    carrier: Option<Underlay>,
    /// The way to each remote, and to the group.
    paths: Vec<(IpAddr, io::Result<Path>)>,
    /// What the path to the remote takes that takes least, bytes of outer IP.
    outer: u16,
    /// The inner MTU: what fits there.
    pub(super) inner: InnerMtu,
    /// Why it is that.
    pub(super) why: String,
}

impl Tunnel {
    /// Looks at the paths. `before` is what is in force where no path is known; `peers`: what probing found.
    ///
    /// # Errors
    /// When the spec makes no sense; it was validated before.
    fn look(
        spec: &PortSpec,
        (kind, t): (Kind, &TunnelSpec),
        by: &By<'_>,
        before: Option<&Tunnel>,
        peers: &[EnginePeer],
    ) -> Result<Tunnel> {
        let endpoint = endpoint(PortId::NONE, kind, t, spec)?;
        let overheads = overheads(&endpoint)?;
        let configured = t.mtu.and_then(|mtu| u16::try_from(mtu).ok());
        let mut least: Option<(u16, InnerMtu, String)> = None;
        let mut paths = Vec::new();
        for (remote, overhead) in overheads {
            let found = match (&t.group_interface, by) {
                (Some(interface), By::Sockets) if Some(remote) == t.group => on_link(remote, interface),
                (_, By::Sockets) => path(remote, t.local),
                (_, By::Uplink(name, uplink)) => by_uplink(remote, t.local, name, *uplink),
            };
            let probed = peers.iter().find(|p| p.remote == remote).and_then(|p| p.path_mtu);
            let found = found.map(|p| Path { mtu: p.mtu.min(probed.map_or(p.mtu, u32::from)), ..p });
            if let Ok(path) = &found {
                let mtu = u16::try_from(path.mtu).unwrap_or(u16::MAX);
                let inner = inner_mtu(mtu, overhead, true, configured);
                let narrower = |(outer, least, _): &(u16, InnerMtu, String)| {
                    (inner.mtu, !inner.fragment, mtu) < (least.mtu, !least.fragment, *outer)
                };
                if least.as_ref().is_none_or(narrower) {
                    least = Some((mtu, inner, why(inner.why, remote, path.mtu, overhead)));
                }
            }
            paths.push((remote, found));
        }
        let (outer, inner, why) = match (least, before) {
            (Some(found), _) => found,
            (None, Some(before)) => (before.outer, before.inner, before.why.clone()),
            (None, None) => {
                let overhead = overheads_most(&endpoint)?;
                let inner = inner_mtu(DEFAULT_MTU as u16, overhead, true, configured);
                let why = format!("the path is not known; as if it took {DEFAULT_MTU}");
                (DEFAULT_MTU as u16, inner, why)
            }
        };
        Ok(Tunnel { carrier: by.carrier(), paths, outer, inner, why })
    }

    /// Most full segments of a superframe that one `sendmsg` takes; `None` where none are sent so (GRE, uplinks).
    pub(super) fn segments(&self, kind: Kind) -> Option<u32> {
        let datagrams = kind.is_udp() && matches!(self.carrier, Some(Underlay::Sockets));
        datagrams.then(|| most_segments(self.inner.mtu) as u32)
    }

    /// Why no frames pass, if none do: there is no way to any remote, or none of them lives.
    fn trouble(&self, peers: &[EnginePeer]) -> Option<Error> {
        let dead = |remote: IpAddr| peers.iter().find(|p| p.remote == remote && !p.alive);
        let passes = |(remote, path): &(IpAddr, io::Result<Path>)| path.is_ok() && dead(*remote).is_none();
        if self.paths.iter().any(passes) {
            return None;
        }
        let more = match self.paths.len() {
            0 | 1 => String::new(),
            n => format!(", nor to any of {} others", n - 1),
        };
        let (remote, path) = self.paths.first()?;
        Some(match path {
            Err(error) => Error::failed(format!("{error}{more}")),
            Ok(_) => {
                let more = more.replace("to any", "any");
                let diag = dead(*remote).map_or("none", |p| p.diag.name());
                let why = if diag == "none" { String::new() } else { format!(" ({diag})") };
                Error::failed(format!("{remote} does not answer by BFD{why}{more}"))
            }
        })
    }

    /// The far ends as they are.
    pub(super) fn peers(&self, engine: &[EnginePeer]) -> Vec<PeerStatus> {
        let status = |(remote, path): &(IpAddr, io::Result<Path>)| {
            let known = engine.iter().find(|p| p.remote == *remote);
            let diag = known.filter(|p| p.state.is_some_and(|s| s != bfd::State::Up)).map(|p| p.diag.name());
            PeerStatus {
                remote: *remote,
                liveness: known.and_then(|p| p.state).map_or(Liveness::Unknown, liveness),
                diag: diag.filter(|d| *d != "none").unwrap_or_default().to_owned(),
                rtt_us: known.and_then(|p| u32::try_from(p.round_trip?.as_micros()).ok()),
                loss_permille: known.and_then(|p| p.loss).map(|l| (l.ratio() * 1000.0) as u16),
                path_mtu: path.as_ref().ok().map(|p| p.mtu),
                local: path.as_ref().ok().map(|p| p.source),
                since: known.and_then(|p| Some(p.changed?.elapsed().unwrap_or_default().as_secs())),
            }
        };
        self.paths.iter().map(status).collect()
    }
}

fn liveness(state: bfd::State) -> Liveness {
    match state {
        bfd::State::AdminDown => Liveness::AdminDown,
        bfd::State::Down => Liveness::Down,
        bfd::State::Init => Liveness::Init,
        bfd::State::Up => Liveness::Up,
    }
}

/// What the tunnel adds towards each remote, in the order of the remotes.
fn overheads(endpoint: &Endpoint) -> Result<Vec<(IpAddr, u16)>> {
    let vlan = match &endpoint.nets {
        Nets::Map(map) => map.first().map_or(VlanId::NONE, |&(vlan, _)| vlan),
        Nets::One(_) => VlanId::NONE,
    };
    let table = Tunnels::new(vec![endpoint.clone()]).map_err(|e| Error::invalid(e.to_string()))?;
    let encaps = table.iter().next().and_then(|tunnel| tunnel.encaps(vlan).ok());
    Ok(encaps.unwrap_or_default().iter().map(|to| (to.remote, overhead(to))).collect())
}

fn overheads_most(endpoint: &Endpoint) -> Result<u16> {
    Ok(overheads(endpoint)?.into_iter().map(|(_, bytes)| bytes).max().unwrap_or_default())
}

/// The way to a group is its interface, whatever the routes say.
fn on_link(group: IpAddr, interface: &str) -> io::Result<Path> {
    let index = link::index(interface)?;
    let mtu = Link::get(index)?.mtu;
    let unspecified = if group.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    Ok(Path { mtu, source: path(group, None).map_or(unspecified, |p| p.source), interface: index })
}

fn why(why: Why, remote: IpAddr, path: u32, overhead: u16) -> String {
    match why {
        Why::Path => format!("path MTU {path} to {remote} less {overhead} of headers"),
        Why::Configured => "configured".to_owned(),
        Why::ConfiguredFragmented => {
            format!("configured; outer packets are fragmented, as the path to {remote} takes {path}")
        }
        Why::Least => {
            format!("the least for IPv6; outer packets are fragmented, as the path to {remote} takes {path}")
        }
    }
}

/// What carries a tunnel.
enum By<'a> {
    /// The kernel's sockets.
    Sockets,
    /// An uplink by name, if it is up.
    Uplink(&'a str, Option<&'a Uplink>),
}

impl By<'_> {
    fn carrier(&self) -> Option<Underlay> {
        match self {
            By::Sockets => Some(Underlay::Sockets),
            By::Uplink(_, uplink) => uplink.map(|u| Underlay::Uplink(u.id)),
        }
    }
}

/// The way to a remote by an uplink, as far as the uplink itself tells.
fn by_uplink(remote: IpAddr, local: Option<IpAddr>, name: &str, uplink: Option<&Uplink>) -> io::Result<Path> {
    let error = |kind, text: String| Err(io::Error::new(kind, text));
    let Some(uplink) = uplink else {
        return error(io::ErrorKind::NetworkDown, format!("uplink {name} is down"));
    };
    let own = || uplink.seen.addresses.iter().filter(|net| net.addr().is_ipv4() == remote.is_ipv4());
    if let Some(local) = local.filter(|local| own().all(|net| net.addr() != *local)) {
        return error(io::ErrorKind::AddrNotAvailable, format!("{local} is not an address of uplink {name}"));
    }
    let near = own().find(|net| net.contains(&remote)).or_else(|| own().next());
    let Some(source) = local.or(near.map(ipnet::IpNet::addr)) else {
        return error(
            io::ErrorKind::NetworkUnreachable,
            format!("uplink {name} has no address to reach {remote} from"),
        );
    };
    Ok(Path { mtu: uplink.seen.mtu, source, interface: 0 })
}

/// Static entries that name a remote of a port.
fn static_remotes(port: &str, entries: &[StaticFdb]) -> Vec<(VlanId, MacAddr, IpAddr)> {
    let remote = |e: &StaticFdb| Some((VlanId::new(e.vlan)?, e.mac.parse().ok()?, e.remote?));
    entries.iter().filter(|e| e.port == port).filter_map(remote).collect()
}

impl KernelWorld {
    /// Has the engine do what the tunnel asks for. `statics` are the entries of its bridge.
    fn set_tunnel(
        &self,
        id: PortId,
        name: &str,
        spec: &PortSpec,
        tunnel: &Tunnel,
        statics: &[StaticFdb],
    ) -> Result<()> {
        let Some((kind, t)) = spec.kind.tunnel() else { return Ok(()) };
        let Some(underlay) = tunnel.carrier else {
            self.engine.detach_port(id);
            return Ok(());
        };
        let default = BfdOptions::default();
        let interval = t.bfd_interval.unwrap_or(default.min_tx_ms);
        let bfd = BfdOptions {
            min_tx_ms: interval,
            min_rx_ms: interval,
            multiplier: t.bfd_multiplier.unwrap_or(default.multiplier),
        };
        let endpoint = Endpoint { inner_mtu: tunnel.inner.mtu, ..endpoint(id, kind, t, spec)? };
        let config = TunnelConfig {
            endpoint,
            underlay,
            mss_clamp: t.mss_clamp,
            bfd: t.bfd.unwrap_or_default().then_some(bfd),
            learn_remotes: t.learn_remotes,
            static_remotes: static_remotes(name, statics),
            group_interface: t.group_interface.clone(),
            fragment: tunnel.inner.fragment.then_some(tunnel.outer),
        };
        self.engine.set_tunnel(id, config).map_err(refused)
    }

    /// Makes a tunnel port.
    ///
    /// # Errors
    /// When it makes no sense beside the others, its sockets cannot be opened, or `local` is not ours. A remote
    /// that cannot be reached is no error: the port is down then.
    pub(super) fn add_tunnel(&mut self, name: &str, spec: &PortSpec) -> Result<()> {
        let Some(kind) = spec.kind.tunnel() else { return Ok(()) };
        let tunnel = Tunnel::look(spec, kind, &self.by(kind.1), None, &[])?;
        not_ours(&tunnel)?;
        let id = self.slot(spec, NO_MTU)?;
        let set = self.set_tunnel(id, name, spec, &tunnel, self.statics(&spec.bridge));
        set.inspect_err(|_| self.engine.remove_port(id))?;
        let trouble = tunnel.trouble(&[]);
        let device = Some(Device::Tunnel(tunnel));
        self.ports.insert(name.to_owned(), Port { id, spec: spec.clone(), device, trouble });
        Ok(())
    }

    /// Makes the tunnel of a port that has none yet, or has it again in the port's slot.
    pub(super) fn open_tunnel(&mut self, name: &str) -> Result<()> {
        let Some(Port { id, spec, device, .. }) = self.ports.get(name) else { return Ok(()) };
        let Some(kind) = spec.kind.tunnel() else { return Ok(()) };
        let before = match device {
            Some(Device::Tunnel(tunnel)) => Some(tunnel),
            _ => None,
        };
        let peers = self.engine.tunnel_peers(*id);
        let tunnel = Tunnel::look(spec, kind, &self.by(kind.1), before, &peers)?;
        not_ours(&tunnel)?;
        self.engine.update_port(*id, self.l3.role(spec)?, NO_MTU);
        self.set_tunnel(*id, name, spec, &tunnel, self.statics(&spec.bridge))?;
        let trouble = tunnel.trouble(&self.engine.tunnel_peers(*id));
        if let Some(port) = self.ports.get_mut(name) {
            port.device = Some(Device::Tunnel(tunnel));
            port.trouble = trouble;
        }
        Ok(())
    }

    /// Looks at the paths and the far ends of a tunnel, and has the MTU follow; true when its status changed.
    pub(super) fn tend_tunnel(&mut self, name: &str) -> bool {
        let Some(Port { id, spec, device: Some(Device::Tunnel(before)), .. }) = self.ports.get(name) else {
            return false;
        };
        let Some(kind) = spec.kind.tunnel() else { return false };
        let peers = self.engine.tunnel_peers(*id);
        let Ok(now) = Tunnel::look(spec, kind, &self.by(kind.1), Some(before), &peers) else { return false };
        let trouble = now.trouble(&peers);
        let in_force = |t: &Tunnel| (t.inner.mtu, t.inner.fragment.then_some(t.outer));
        if in_force(&now) != in_force(before) {
            tracing::info!(
                port = name,
                mtu = now.inner.mtu,
                why = now.why,
                "the inner MTU of a tunnel changed"
            );
            if let Err(error) = self.set_tunnel(*id, name, spec, &now, self.statics(&spec.bridge)) {
                // What is in force stays, so that the next look tries again.
                let Some(port) = self.ports.get_mut(name) else { return false };
                return port.trouble.replace(error.clone()) != Some(error);
            }
        }
        let Some(port) = self.ports.get_mut(name) else { return false };
        let changed = port.trouble != trouble
            || !matches!(&port.device, Some(Device::Tunnel(t)) if t.inner == now.inner && t.why == now.why);
        match (&port.trouble, &trouble) {
            (None, Some(why)) => tracing::info!(port = name, reason = %why, "port down"),
            (Some(_), None) => tracing::info!(port = name, "port up"),
            _ => {}
        }
        port.trouble = trouble;
        port.device = Some(Device::Tunnel(now));
        changed
    }

    /// Tells the tunnels of a bridge which of their remotes static entries are behind.
    pub(super) fn set_static_remotes(&self, bridge: &str, entries: &[StaticFdb]) -> Result<()> {
        let before = self.statics(bridge);
        for (name, port) in self.ports.iter().filter(|(_, port)| port.spec.bridge == bridge) {
            if let Some(Device::Tunnel(tunnel)) = &port.device
                && static_remotes(name, before) != static_remotes(name, entries)
            {
                self.set_tunnel(port.id, name, &port.spec, tunnel, entries)?;
            }
        }
        Ok(())
    }

    fn by<'a>(&'a self, t: &'a TunnelSpec) -> By<'a> {
        match &t.underlay {
            None => By::Sockets,
            Some(name) => By::Uplink(name, self.l3.uplinks.get(name)),
        }
    }

    /// Whether an address is this host's, or one of its uplinks'. To its own the kernel sends from itself.
    pub(super) fn owns(&self, address: IpAddr) -> bool {
        let uplinks = self.l3.uplinks.values().flat_map(|u| &u.seen.addresses);
        path(address, None).is_ok_and(|p| p.source == address)
            || uplinks.into_iter().any(|n| n.addr() == address)
    }

    /// Uplinks may have come, gone or changed: their tunnels follow at once.
    pub(super) fn follow_uplinks(&mut self) {
        for name in self.tunnels() {
            let by_uplink = |p: &Port| p.spec.kind.tunnel().is_some_and(|(_, t)| t.underlay.is_some());
            if self.ports.get(&name).is_some_and(by_uplink) && self.tend_tunnel(&name) {
                self.news.insert(name);
            }
        }
    }

    fn statics(&self, bridge: &str) -> &[StaticFdb] {
        self.statics.get(bridge).map_or(&[], Vec::as_slice)
    }

    /// Names of the tunnel ports.
    pub(super) fn tunnels(&self) -> Vec<String> {
        let tunnels = self.ports.iter().filter(|(_, p)| matches!(p.device, Some(Device::Tunnel(_))));
        tunnels.map(|(name, _)| name.clone()).collect()
    }
}

/// A local address that is another host's is a mistake, where a missing route may come.
fn not_ours(tunnel: &Tunnel) -> Result<()> {
    let not_ours = |error: &&io::Error| error.kind() == io::ErrorKind::AddrNotAvailable;
    match tunnel.paths.iter().filter_map(|(_, path)| path.as_ref().err()).find(not_ours) {
        Some(error) => {
            Err(Error::failed(format!("local {error}")).hint("use one of its addresses, or leave local out"))
        }
        None => Ok(()),
    }
}

fn refused(error: TunnelError) -> Error {
    match error {
        TunnelError::Port => Error::new(ErrorKind::Internal, error.to_string()),
        TunnelError::Table(error) => Error::conflict(error.to_string()),
        TunnelError::Socket { what, error } if error.kind() == io::ErrorKind::AddrInUse => {
            Error::conflict(format!("{what} is taken by another program"))
                .hint("'ss -lunp' says by which; a kernel vxlan device takes it too; or use another dst-port")
        }
        TunnelError::Socket { what, error } => explain(format!("cannot open {what}"), &error),
    }
}
