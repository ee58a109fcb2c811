//! What is behind ports: opening it, taking it over, losing it, getting it back.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;

use serde_json::{Value, json};
use trunkline_engine::{EngineEvent, PortIo};
use trunkline_packet::PortId;
use trunkline_ports::null::{NullRx, NullTx};
use trunkline_ports::replay::{Replay, ReplayConfig};

use super::adopted::Adopted;
use super::tap::{DEFAULT_MTU, TapDevice, Wish, why_gone};
use super::world::{Device, KernelWorld, Port};
use crate::model::{OffloadMode, PortKind, PortSpec, ReplaySpec};
use crate::net::explain;
use crate::{Error, ErrorKind, Result};

impl KernelWorld {
    /// Makes what is behind a port. A parked port whose interface is in the way steps aside.
    pub(super) fn open(&mut self, name: &str, spec: &PortSpec) -> Result<(Device, PortIo)> {
        let offload = spec.offload == OffloadMode::Auto;
        let no_io = |e| explain(format!("port {name}"), &e);
        match &spec.kind {
            PortKind::Tap(_) | PortKind::Host(_) => {
                let Some(mut wish) = Wish::of(name, spec) else { unreachable!("taps and hosts are TAPs") };
                wish.default_mtu = self.bridge_mtu(&spec.bridge).0;
                let in_the_way = |p: &&mut Port| match &p.device {
                    Some(Device::Tap(tap)) => {
                        !tap.aside
                            && (&tap.place.netns, &tap.place.ifname)
                                == (&wish.place.netns, &wish.place.ifname)
                    }
                    _ => false,
                };
                if !wish.place.adopt
                    && let Some(Port { device: Some(Device::Tap(tap)), .. }) =
                        self.parked.values_mut().find(in_the_way)
                {
                    tap.step_aside()?;
                }
                let tap = TapDevice::make(&wish)?;
                let io = tap.io(offload).map_err(no_io)?;
                Ok((Device::Tap(tap), io))
            }
            PortKind::Afpacket(adopt) => {
                let other =
                    self.ports.iter().find(|(n, p)| n.as_str() != name && p.uses(&adopt.interface, n));
                if let Some((other, _)) = other {
                    let what = format!("interface {} is in use by port {other}", adopt.interface);
                    return Err(Error::conflict(what));
                }
                let kept = self.kept.remove(name).filter(|k| k.meta == identity(name, spec));
                let kept = kept.and_then(|mut k| k.fds.pop());
                let (adopted, io) = Adopted::make(adopt, offload, kept)?;
                Ok((Device::Adopted(adopted), io))
            }
            PortKind::Replay(replay) => Ok((Device::Memory, open_replay(replay)?)),
            PortKind::Null {} => {
                let rx = NullRx::new().map_err(no_io)?;
                Ok((Device::Memory, PortIo { rx: vec![Box::new(rx)], tx: vec![Arc::new(NullTx)] }))
            }
            PortKind::Gre(_) | PortKind::Nvgre(_) | PortKind::Vxlan(_) | PortKind::Geneve(_) => {
                unreachable!("tunnels have no queues")
            }
        }
    }

    /// The interface of the daemon before, if the keeper has it and it is still the one asked for.
    pub(super) fn take_over(&mut self, name: &str, spec: &PortSpec) -> Option<(Device, PortIo)> {
        let mut wish = Wish::of(name, spec)?;
        wish.default_mtu = self.bridge_mtu(&spec.bridge).0;
        let kept = self.kept.remove(name)?;
        let taken = match kept.meta == identity(name, spec) {
            true => TapDevice::take_over(&wish, kept.fds),
            false => Err(Error::failed("another interface is asked for now")),
        };
        let taken = taken.and_then(|tap| {
            let io = tap.io(wish.offload).map_err(|e| explain(format!("port {name}"), &e))?;
            Ok((Device::Tap(tap), io))
        });
        match taken {
            Ok(taken) => Some(taken),
            Err(error) => {
                tracing::warn!(port = name, %error, "made anew instead of taken over");
                // Else its name would be taken.
                self.forget_kept(name);
                None
            }
        }
    }

    /// Starts the flow of frames.
    pub(super) fn attach(&self, id: PortId, spec: &PortSpec, device: &Device, io: PortIo) -> Result<()> {
        self.engine.update_port(id, self.l3.role(spec)?, device.mtu());
        self.connect(id, spec, io)
    }

    /// The same for a slot made a moment ago for this very port.
    pub(super) fn connect(&self, id: PortId, spec: &PortSpec, io: PortIo) -> Result<()> {
        self.engine
            .attach_port(id, io, spec.offload == OffloadMode::Off)
            .map_err(|e| explain("cannot attach the port to the switch", &e))
    }

    /// Makes the device of a port that has none, and attaches it.
    pub(super) fn bring_up(&mut self, name: &str) -> Result<()> {
        let Some(port) = self.ports.get(name) else { return Ok(()) };
        let (id, spec) = (port.id, port.spec.clone());
        if spec.kind.tunnel().is_some() {
            return self.open_tunnel(name);
        }
        let (device, io) = match self.take_over(name, &spec) {
            Some(taken) => taken,
            None if matches!(&spec.kind, PortKind::Tap(tap) if tap.handed_over) => {
                return Err(Error::not_found("its interface went with the container it was handed over to"));
            }
            None => self.open(name, &spec)?,
        };
        if let Err(error) = self.attach(id, &spec, &device, io) {
            drop(device);
            // Else an interface taken over would stay, and its name be taken at the next attempt.
            self.forget_kept(name);
            return Err(error);
        }
        if let Some(port) = self.ports.get_mut(name) {
            port.device = Some(device);
            port.trouble = None;
        }
        self.unkept.insert(name.to_owned());
        Ok(())
    }

    /// The device is gone: the port is down until [`World::retry`] brings it back.
    pub(super) fn lose(&mut self, name: &str, why: Error) {
        if let Some(port) = self.ports.get_mut(name) {
            self.engine.detach_port(port.id);
            port.device = None;
            tracing::info!(port = name, reason = %why, "port down");
            port.trouble = Some(why);
        }
        self.forget_kept(name);
    }

    /// The engine's descriptors again, from those kept beside.
    pub(super) fn reattach(&self, port: &Port) -> Result<()> {
        let io = match &port.device {
            Some(Device::Tap(tap)) => tap
                .io(port.spec.offload == OffloadMode::Auto)
                .map_err(|e| explain("cannot attach the port", &e))?,
            _ => return Err(Error::failed("the interface is gone")),
        };
        match &port.device {
            Some(device) => self.attach(port.id, &port.spec, device, io),
            None => Ok(()),
        }
    }

    pub(super) fn engine_event(&mut self, event: EngineEvent) -> Option<String> {
        let (id, error, fatal) = match event {
            EngineEvent::PortFailed { port, error, fatal } => (port, Some(error), fatal),
            EngineEvent::PortRecovered { port } => (port, None, false),
            EngineEvent::PeerChanged { port, .. } | EngineEvent::PathMtu { port, .. } => {
                let (name, _) = self.ports.iter().find(|(_, p)| p.id == port)?;
                let name = name.clone();
                self.tend_tunnel(&name);
                self.follow_mtus();
                return Some(name);
            }
        };
        // Slots are used again: what is reported may be over, so the device itself is asked.
        let (name, port) = self.ports.iter().find(|(_, p)| p.id == id)?;
        let name = name.clone();
        match &port.device {
            Some(Device::Tap(tap)) if !tap.is_alive() => {
                let why = Wish::of(&name, &port.spec).map(|w| why_gone(&w))?;
                let why = self.away.get(&name).cloned().unwrap_or(why);
                self.lose(&name, why);
                // Deleted by somebody while its namespace lives: it is back at once.
                self.revive(&name);
                Some(name)
            }
            Some(Device::Adopted(_)) => {
                let changed = self.look_at(&name);
                let port = self.ports.get(&name)?;
                if fatal && port.device.is_some() {
                    let why = error.map_or_else(String::new, |e| e.to_string());
                    self.lose(&name, Error::failed(why));
                    return Some(name);
                }
                changed.then_some(name)
            }
            // What it receives by has failed: set up again, it gets new sockets.
            Some(Device::Tunnel(_)) if fatal => {
                if let Err(error) = self.open_tunnel(&name) {
                    self.lose(&name, error);
                }
                Some(name)
            }
            Some(_) if fatal => {
                let why = error.map_or_else(String::new, |e| e.to_string());
                let port = self.ports.get_mut(&name)?;
                port.trouble = Some(Error::failed(why));
                Some(name)
            }
            _ => None,
        }
    }

    /// Looks at an adopted interface; true when its status changed.
    pub(super) fn look_at(&mut self, name: &str) -> bool {
        let Some(port) = self.ports.get_mut(name) else { return false };
        let Some(Device::Adopted(adopted)) = &mut port.device else { return false };
        match adopted.refresh() {
            Ok(changed) => {
                let before = port.trouble.take();
                port.trouble = adopted.trouble();
                if changed && let Ok(config) = self.l3.role(&port.spec) {
                    self.engine.update_port(port.id, config, adopted.mtu);
                }
                changed || before != port.trouble
            }
            Err(why) => {
                self.lose(name, why);
                true
            }
        }
    }

    /// What a port follows is there, or is not; true when the port's status changed.
    pub(super) fn followed(&mut self, name: &str, away: Option<Error>) -> bool {
        let Some(port) = self.ports.get_mut(name) else { return false };
        let dead = match &port.device {
            Some(Device::Tap(tap)) => !tap.is_alive(),
            device => device.is_none(),
        };
        let why = match away {
            Some(why) => {
                self.away.insert(name.to_owned(), why.clone());
                why
            }
            None => {
                self.away.remove(name);
                return dead && self.revive_anew(name);
            }
        };
        // The interface may still be there for a moment; its end is reported then.
        let changed = dead && port.trouble.as_ref() != Some(&why);
        if changed {
            self.lose(name, why);
        }
        changed
    }

    /// Gets a port up whose interface is gone.
    fn revive_anew(&mut self, name: &str) -> bool {
        if let Some(port) = self.ports.get_mut(name)
            && port.device.take().is_some()
        {
            self.engine.detach_port(port.id);
            self.forget_kept(name);
        }
        self.revive(name)
    }

    /// One attempt to get a port up; true when its status changed.
    pub(super) fn revive(&mut self, name: &str) -> bool {
        let Some(port) = self.ports.get(name) else { return false };
        let attempt = match &port.device {
            None => self.bring_up(name),
            Some(Device::Adopted(_)) => return self.look_at(name),
            Some(Device::Tap(tap)) if !tap.is_alive() => Err(Error::failed("the interface is gone")),
            Some(_) => self.reattach(port),
        };
        let before = self.ports.get(name).and_then(|p| p.trouble.clone());
        match attempt {
            Ok(()) => {
                tracing::info!(port = name, "port up");
                if let Some(port) = self.ports.get_mut(name) {
                    port.trouble = None;
                }
                self.hand_over();
                true
            }
            Err(error) => {
                // What is missing has been said, and better: "it is gone".
                let again = |b: &Error| b.kind == ErrorKind::NotFound && error.kind == ErrorKind::NotFound;
                let error = before.clone().filter(again).unwrap_or(error);
                let changed = before.as_ref() != Some(&error);
                if let Some(port) = self.ports.get_mut(name) {
                    if matches!(&port.device, Some(Device::Tap(tap)) if !tap.is_alive()) {
                        port.device = None;
                    }
                    port.trouble = Some(error);
                }
                changed
            }
        }
    }

    /// Puts a running port into another bridge: another slot, the same device.
    pub(super) fn rehome(&mut self, name: &str, spec: &PortSpec) -> Result<()> {
        let Some(port) = self.ports.get(name) else { return Ok(()) };
        let old = port.id;
        let id = self.slot(spec, port.device.as_ref().map_or(DEFAULT_MTU, Device::mtu))?;
        // No queue may be read twice: the old slot lets go first.
        self.engine.detach_port(old);
        let moved = match self.ports.get_mut(name) {
            Some(port) => {
                port.id = id;
                self.reopen_io(name)
            }
            None => Ok(()),
        };
        let (gone, outcome) = match moved {
            Ok(()) => (old, Ok(())),
            Err(error) => {
                if let Some(port) = self.ports.get_mut(name) {
                    port.id = old;
                }
                if let Err(error) = self.reopen_io(name) {
                    tracing::error!(port = name, %error, "a failed edit could not be undone");
                    self.lose(name, error);
                }
                (id, Err(error))
            }
        };
        self.engine.remove_port(gone);
        outcome
    }

    /// Attaches a port's device to its slot once more.
    pub(super) fn reopen_io(&mut self, name: &str) -> Result<()> {
        let Some(port) = self.ports.get(name) else { return Ok(()) };
        match &port.device {
            None => Ok(()),
            Some(Device::Tunnel(_)) => self.open_tunnel(name),
            Some(Device::Tap(_)) => self.reattach(port),
            Some(Device::Adopted(_) | Device::Memory) => {
                let (id, spec) = (port.id, port.spec.clone());
                let (device, io) = self.open(name, &spec)?;
                self.attach(id, &spec, &device, io)?;
                if let Some(port) = self.ports.get_mut(name) {
                    port.device = Some(device);
                }
                self.unkept.insert(name.to_owned());
                Ok(())
            }
        }
    }
}

impl Port {
    /// Whether its interface is that one of the daemon's own namespace.
    fn uses(&self, interface: &str, name: &str) -> bool {
        match &self.spec.kind {
            PortKind::Afpacket(spec) => spec.interface == interface,
            _ => Wish::of(name, &self.spec).is_some_and(|w| {
                w.place.netns.is_none() && w.waits().is_none() && w.place.ifname == interface
            }),
        }
    }
}

fn open_replay(spec: &ReplaySpec) -> Result<PortIo> {
    let config = ReplayConfig {
        count: spec.count.and_then(NonZeroU64::new),
        rate: spec.rate.and_then(|r| NonZeroU32::new(u32::try_from(r).unwrap_or(u32::MAX))),
    };
    // Reading anything else may never end.
    if std::fs::metadata(&spec.file).is_ok_and(|m| !m.is_file()) {
        return Err(Error::invalid(format!("cannot replay {}: it is not a file", spec.file)));
    }
    let replay = Replay::open(spec.file.as_ref(), config).map_err(|e| explain("cannot replay", &e))?;
    Ok(PortIo { rx: vec![Box::new(replay)], tx: vec![Arc::new(NullTx)] })
}

/// What makes the keeper's descriptors those of this port. `null` for ports it holds nothing of.
pub(super) fn identity(name: &str, spec: &PortSpec) -> Value {
    match (&spec.kind, Wish::of(name, spec)) {
        (PortKind::Afpacket(adopted), _) => json!({ "interface": adopted.interface }),
        (_, Some(wish)) => json!(wish.place),
        _ => Value::Null,
    }
}
