//! What is, for people to read.

use std::collections::HashMap;

use trunkline_engine::PortCounters;
use trunkline_packet::DropReason;

use super::tap::mtu_is_given;
use super::world::{Device, KernelWorld, Port};
use crate::model::{FdbCounters, FdbRow, PortSpec, PortState, PortStats, PortStatus};
use crate::validate::vlan_mode;

impl KernelWorld {
    pub(super) fn observe_port(&self, name: &str) -> Option<PortStatus> {
        let port = self.ports.get(name)?;
        let fdb = self.table(&port.spec.bridge);
        let mut status = PortStatus {
            name: name.to_owned(),
            spec: port.spec.clone(),
            state: if port.trouble.is_some() { PortState::Down } else { PortState::Up },
            reason: port.trouble.as_ref().map(ToString::to_string).unwrap_or_default(),
            ifname: interface(name, &port.spec),
            mac: None,
            mtu: port.device.as_ref().map_or(0, Device::mtu),
            mtu_why: self.mtu_why(port),
            peers: Vec::new(),
            offloads: Vec::new(),
            queues: u16::from(port.device.is_some()),
            macs: fdb.map_or(0, |fdb| u64::from(fdb.learned_on(port.id))),
            vlan_mode: vlan_mode(&port.spec),
            leased: self.engine.guard_leases(port.id),
        };
        match &port.device {
            Some(Device::Tap(tap)) => {
                status.ifname = tap.name_now().ok();
                status.mac = tap.mac.map(|m| m.to_string());
                status.offloads = tap.offloads();
                status.queues = tap.place.queues;
            }
            Some(Device::Adopted(adopted)) => {
                status.mac = adopted.mac.map(|m| m.to_string());
                status.offloads = adopted.offloads();
            }
            Some(Device::Tunnel(tunnel)) => {
                status.mtu = tunnel.inner.mtu.into();
                status.peers = tunnel.peers(&self.engine.tunnel_peers(port.id));
                status.queues = 0;
            }
            Some(Device::Memory) | None => {}
        }
        Some(status)
    }

    /// Why the MTU is what it is, where that is not plain.
    fn mtu_why(&self, port: &Port) -> String {
        match &port.device {
            Some(Device::Tunnel(tunnel)) => tunnel.why.clone(),
            Some(Device::Tap(tap)) => {
                self.mtu_of_tunnels(&port.spec.bridge, tap.mtu, mtu_is_given(&port.spec))
            }
            // What the other end of it has, only its owner can say.
            Some(Device::Adopted(adopted)) => self.mtu_of_tunnels(&port.spec.bridge, adopted.mtu, true),
            _ => String::new(),
        }
    }

    /// What the tunnels of a bridge have to do with an MTU there, `given` by somebody or else theirs.
    pub(super) fn mtu_of_tunnels(&self, bridge: &str, mtu: u32, given: bool) -> String {
        match self.bridge_mtu(bridge) {
            (least, Some(name)) if least == mtu && !given => format!("what tunnel {name} carries"),
            (least, Some(name)) if least < mtu => {
                format!("tunnel {name} carries {least}: what is larger is answered with too-big errors")
            }
            _ => String::new(),
        }
    }

    pub(super) fn observe_fdb(&self, bridge: &str) -> Option<Vec<FdbRow>> {
        let fdb = self.table(bridge)?;
        let ageing = self.bridges.get(bridge)?.ageing;
        let statics = self.statics.get(bridge).map_or(&[][..], Vec::as_slice);
        let remotes: HashMap<_, _> =
            statics.iter().filter_map(|e| Some(((e.vlan, e.mac.as_str()), e.remote?))).collect();
        let learned = |e: &trunkline_switch::FdbEntry| match e.is_static {
            true => remotes.get(&(e.vid.get(), e.mac.to_string().as_str())).copied(),
            false => self.engine.tunnel_remote(e.port, e.vid, e.mac),
        };
        let gateways = self.l3.gateways.iter().map(|(name, id)| (*id, format!("gateway/{name}")));
        let ports = self.ports.iter().map(|(name, p)| (p.id, name.clone()));
        let names: HashMap<_, _> = ports.chain(gateways).collect();
        let mut entries = fdb.entries(self.engine.now(), ageing);
        entries.sort_by_key(|e| (e.vid.get(), e.mac.0));
        // A port that is being removed has no name any more.
        let row = |e: trunkline_switch::FdbEntry| {
            Some(FdbRow {
                vlan: e.vid.get(),
                remote: learned(&e),
                mac: e.mac.to_string(),
                port: (*names.get(&e.port)?).clone(),
                age: (!e.is_static).then_some(e.age),
                is_static: e.is_static,
            })
        };
        Some(entries.into_iter().filter_map(row).collect())
    }

    pub(super) fn observe_stats(&self, name: &str, port: &Port) -> PortStats {
        PortStats {
            bridge: port.spec.bridge.clone(),
            ring_drops: match &port.device {
                Some(Device::Tap(tap)) => tap.ring_drops(),
                Some(Device::Adopted(adopted)) => adopted.ring_drops(),
                Some(Device::Memory | Device::Tunnel(_)) | None => 0,
            },
            ..stats(name, &self.engine.counters(port.id))
        }
    }

    /// What came in from the underlay and belongs to no tunnel, once there was any.
    pub(super) fn observe_underlay(&self) -> Option<PortStats> {
        let counters = self.engine.underlay_counters();
        (counters.rx_packets > 0).then(|| stats(UNDERLAY, &counters))
    }
}

/// Stands for a port where there is none: no port can be called this.
const UNDERLAY: &str = "(underlay)";

pub(super) fn stats(name: &str, c: &PortCounters) -> PortStats {
    let drops = DropReason::ALL.iter().map(|r| (r.name().to_owned(), c.drops[r.index()]));
    PortStats {
        name: name.to_owned(),
        bridge: String::new(),
        rx_packets: c.rx_packets,
        rx_bytes: c.rx_bytes,
        tx_packets: c.tx_packets,
        tx_bytes: c.tx_bytes,
        tx_frames: c.tx_frames,
        generated: c.generated,
        replicated: c.replicated,
        absorbed: c.absorbed,
        drops: drops.filter(|(_, n)| *n > 0).collect(),
        ring_drops: 0,
    }
}

/// Addresses in a table, and what it has done.
pub(super) fn observe_table(fdb: &trunkline_switch::Fdb) -> (u64, FdbCounters) {
    let trunkline_switch::FdbCounters { learned, moved, evicted, refused, aged } = fdb.counters();
    (fdb.len() as u64, FdbCounters { learned, moved, evicted, refused, aged })
}

/// Name of the interface a port has or is to have.
fn interface(name: &str, spec: &PortSpec) -> Option<String> {
    match &spec.kind {
        crate::model::PortKind::Afpacket(adopted) => Some(adopted.interface.clone()),
        _ => super::tap::Wish::of(name, spec).map(|w| w.place.ifname),
    }
}
