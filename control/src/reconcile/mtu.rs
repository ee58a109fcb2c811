//! The MTU of TAPs and gateways whose bridge has tunnels: what the narrowest tunnel carries, so that nothing a
//! container sends, or is sent by way of a gateway, is too large for it.
//!
//! Superframes follow, too: 64 KiB of TCP with a tunnel header on each segment are a little more than one datagram
//! with UDP_SEGMENT holds, and what is over would go on, be received and be merged as a small one of its own, at
//! the price of a large one.

use std::collections::BTreeMap;

use super::tap::DEFAULT_MTU;
use super::world::{Device, KernelWorld, Port};
use crate::model::l3::GatewaySpec;
use crate::net::GSO_MAX_SEGMENTS;
use crate::validate::gateway_place;

impl KernelWorld {
    /// The MTU of interfaces on a bridge for which none is given, and the tunnel that makes it so. It is never
    /// more than without tunnels: other ports of the bridge, here and on other hosts, have the default.
    pub(super) fn bridge_mtu(&self, bridge: &str) -> (u32, Option<&str>) {
        let tunnel = |(name, port): (&'_ String, &Port)| match &port.device {
            Some(Device::Tunnel(tunnel)) if port.spec.bridge == bridge => {
                Some((u32::from(tunnel.inner.mtu), name.clone()))
            }
            _ => None,
        };
        let least = self.ports.iter().filter_map(|(name, port)| tunnel((name, port))).min();
        match least {
            Some((mtu, name)) if mtu < DEFAULT_MTU => {
                (mtu, self.ports.get_key_value(&name).map(|(name, _)| name.as_str()))
            }
            _ => (DEFAULT_MTU, None),
        }
    }

    /// Gives TAPs and gateways the MTU that their bridge's tunnels take now. What changed is told by the next
    /// [`super::World::check`].
    pub(super) fn follow_mtus(&mut self) {
        self.gateways_follow_mtus();
        let taps = self.ports.iter().filter(|(_, p)| matches!(p.device, Some(Device::Tap(_))));
        let of_bridge = |bridge: &String| (self.bridge_mtu(bridge).0, self.bridge_segments(bridge));
        let limits: BTreeMap<_, _> = self.bridges.keys().map(|b| (b.clone(), of_bridge(b))).collect();
        let wanted: Vec<_> =
            taps.filter_map(|(name, port)| Some((name.clone(), *limits.get(&port.spec.bridge)?))).collect();
        for (name, (mtu, segments)) in wanted {
            let Some(port) = self.ports.get_mut(&name) else { continue };
            let Some(Device::Tap(tap)) = &mut port.device else { continue };
            if let Err(error) = tap.limit_segments(segments) {
                // They are cut in two, then.
                tracing::info!(port = name, %error, "superframes do not follow those of the tunnels");
            }
            match tap.set_default_mtu(&port.spec, mtu) {
                Ok(false) => {}
                Ok(true) => {
                    if let Ok(config) = self.l3.role(&port.spec) {
                        self.engine.update_port(port.id, config, tap.mtu);
                    }
                    self.news.insert(name);
                }
                // What is too large is answered with a too-big error all the same.
                Err(error) => {
                    tracing::warn!(port = name, %error, "the MTU does not follow that of the tunnels")
                }
            }
        }
    }

    /// Most segments of a superframe that all tunnels of a bridge pass on in one piece.
    fn bridge_segments(&self, bridge: &str) -> u32 {
        let tunnel = |port: &Port| match (&port.device, port.spec.kind.tunnel()) {
            (Some(Device::Tunnel(tunnel)), Some((kind, _))) if port.spec.bridge == bridge => {
                tunnel.segments(kind)
            }
            _ => None,
        };
        self.ports.values().filter_map(tunnel).min().unwrap_or(GSO_MAX_SEGMENTS)
    }

    fn gateways_follow_mtus(&mut self) {
        let narrow = |bridge: &String| match self.bridge_mtu(bridge) {
            (mtu, Some(_)) => Some((bridge.clone(), mtu)),
            _ => None,
        };
        let mtus: BTreeMap<String, u32> = self.bridges.keys().filter_map(narrow).collect();
        let before = std::mem::replace(&mut self.l3.bridge_mtus, mtus);
        let desired = &self.l3.desired;
        let follows = |(name, spec): (&String, &GatewaySpec)| {
            let (bridge, _) = gateway_place(desired, name);
            spec.mtu.is_none() && before.get(bridge) != self.l3.bridge_mtus.get(bridge)
        };
        if desired.gateways.iter().any(follows) {
            self.renew_l3();
        }
    }
}
