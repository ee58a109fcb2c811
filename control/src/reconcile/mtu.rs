//! The MTU of TAPs whose bridge has tunnels: what the narrowest tunnel carries, so that nothing a container
//! sends is too large for it.

use super::tap::DEFAULT_MTU;
use super::world::{Device, KernelWorld};

impl KernelWorld {
    /// The MTU of interfaces on a bridge for which none is given, and the tunnel that makes it so. It is never
    /// more than without tunnels: other ports of the bridge, here and on other hosts, have the default.
    pub(super) fn bridge_mtu(&self, bridge: &str) -> (u32, Option<&str>) {
        let tunnel = |(name, port): (&'_ String, &super::world::Port)| match &port.device {
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

    /// Gives the TAPs the MTU that their bridge's tunnels take now. What changed is told by the next
    /// [`super::World::check`].
    pub(super) fn follow_mtus(&mut self) {
        let taps = self.ports.iter().filter(|(_, p)| matches!(p.device, Some(Device::Tap(_))));
        let wanted: Vec<_> =
            taps.map(|(name, port)| (name.clone(), self.bridge_mtu(&port.spec.bridge).0)).collect();
        for (name, mtu) in wanted {
            let Some(port) = self.ports.get_mut(&name) else { continue };
            let Some(Device::Tap(tap)) = &mut port.device else { continue };
            match tap.set_default_mtu(&port.spec, mtu) {
                Ok(false) => {}
                Ok(true) => {
                    if let Ok(config) = self.l3.role(&port.spec) {
                        self.engine.update_port(port.id, config, mtu);
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
}
