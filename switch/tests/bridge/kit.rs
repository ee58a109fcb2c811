//! A bridge with frames as they are on the wire, tags in the bytes, in and out.

use std::sync::Arc;

use trunkline_packet::{
    Batch, DropReason, MacAddr, Offload, Packet, Pool, PortId, Tpid, VlanId, VlanTag, pop_tag, push_tag,
};
use trunkline_switch::{Bridge, BridgeConfig, Fdb, PortConfig, Sink, VlanMode, VlanSet};

/// Where one packet ended.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum End {
    Sent(u16, Vec<u8>),
    Dropped(&'static str),
}

pub(crate) fn dropped(reason: DropReason) -> Vec<End> {
    vec![End::Dropped(reason.name())]
}

pub(crate) struct Net {
    pub(crate) bridge: Bridge,
    pub(crate) now: u32,
    pool: Pool,
}

#[derive(Default)]
struct Collect {
    sent: Vec<(PortId, Packet)>,
    dropped: Vec<(Packet, DropReason)>,
    replicated: u64,
}

impl Sink for Collect {
    fn send(&mut self, port: PortId, packet: Packet) {
        self.sent.push((port, packet));
    }
    fn drop(&mut self, packet: Packet, reason: DropReason) {
        self.dropped.push((packet, reason));
    }
    fn replicated(&mut self, n: u64) {
        self.replicated += n;
    }
}

impl Net {
    pub(crate) fn new(ports: Vec<PortConfig>) -> Net {
        Net::with(BridgeConfig::default(), ports)
    }

    pub(crate) fn with(config: BridgeConfig, ports: Vec<PortConfig>) -> Net {
        let fdb = Arc::new(Fdb::new(config.max_macs));
        Net { bridge: Bridge::new(config, fdb, ports), now: 1000, pool: Pool::new(64, 8) }
    }

    /// Other ports, the same table.
    pub(crate) fn reconfigure(&mut self, ports: Vec<PortConfig>) {
        self.bridge = Bridge::new(self.bridge.config().clone(), Arc::clone(self.bridge.fdb()), ports);
    }

    /// One frame in; where it and its copies end, sorted.
    pub(crate) fn inject(&mut self, port: u16, wire: &[u8]) -> Vec<End> {
        self.inject_offload(port, wire, Offload::NONE).into_iter().map(|(end, _)| end).collect()
    }

    /// The same, with offload metadata on both sides as ports see it: tag in the bytes.
    pub(crate) fn inject_offload(&mut self, port: u16, wire: &[u8], offload: Offload) -> Vec<(End, Offload)> {
        self.inject_all(port, &[(wire, offload)])
    }

    /// Several frames in one batch.
    pub(crate) fn inject_all(&mut self, port: u16, frames: &[(&[u8], Offload)]) -> Vec<(End, Offload)> {
        let mut batch = Batch::new();
        for (wire, offload) in frames {
            let mut packet = self.pool.get();
            packet.set_bytes(wire, &mut self.pool).unwrap();
            packet.meta_mut().offload = *offload;
            packet.meta_mut().in_port = PortId(port);
            // The engine drops the others before the bridge; here they show that it need not.
            let _ = pop_tag(&mut packet);
            batch.push(packet);
        }
        let mut out = Collect::default();
        self.bridge.forward(self.now, PortId(port), &mut batch, &mut self.pool, &mut out);
        assert!(batch.is_empty());
        assert_eq!(
            frames.len() as u64 + out.replicated,
            (out.sent.len() + out.dropped.len()) as u64,
            "packets in and copies made, against packets out"
        );
        let mut ends = Vec::new();
        for (port, mut packet) in out.sent {
            push_tag(&mut packet).unwrap();
            ends.push((End::Sent(port.0, packet.to_vec()), packet.meta().offload));
            self.pool.put(packet);
        }
        for (packet, reason) in out.dropped {
            ends.push((End::Dropped(reason.name()), packet.meta().offload));
            self.pool.put(packet);
        }
        ends.sort_by(|a, b| a.0.cmp(&b.0));
        ends
    }

    pub(crate) fn learned(&self, vlan: u16, host: u8) -> Option<u16> {
        self.bridge.fdb().lookup(self.now, self.bridge.config().ageing, vid(vlan), mac(host)).map(|p| p.0)
    }
}

pub(crate) fn vid(v: u16) -> VlanId {
    VlanId::new(v).unwrap()
}

/// The address of a station; 255 stands for broadcast.
pub(crate) fn mac(host: u8) -> MacAddr {
    if host == 255 { MacAddr::BROADCAST } else { MacAddr([2, 0, 0, 0, 0, host]) }
}

pub(crate) const C: Tpid = Tpid::Customer;
pub(crate) const S: Tpid = Tpid::Service;

/// A tag of priority 0.
pub(crate) fn tag(tpid: Tpid, vid: u16) -> VlanTag {
    VlanTag { tpid, tci: vid }
}

/// A frame on the wire with a payload that tells frames apart, long enough to need no padding.
pub(crate) fn frame(to: u8, from: u8, tags: &[VlanTag]) -> Vec<u8> {
    frame_of(mac(to), mac(from), tags, 60)
}

pub(crate) fn frame_of(to: MacAddr, from: MacAddr, tags: &[VlanTag], payload: usize) -> Vec<u8> {
    let mut bytes = [to.0, from.0].concat();
    tags.iter().for_each(|t| bytes.extend(t.to_bytes()));
    bytes.extend([0x88, 0xb5]);
    bytes.extend((0..payload).map(|i| i as u8 | 1));
    bytes
}

pub(crate) fn sent(port: u16, wire: Vec<u8>) -> End {
    End::Sent(port, wire)
}

pub(crate) fn port(id: u16) -> PortConfig {
    PortConfig::new(PortId(id))
}

pub(crate) fn access(id: u16, vlan: u16) -> PortConfig {
    PortConfig { vlan_mode: VlanMode::Access, tag: vid(vlan), ..port(id) }
}

pub(crate) fn trunk(id: u16, vlans: &[u16]) -> PortConfig {
    PortConfig { trunks: set(vlans), ..port(id) }
}

pub(crate) fn native(id: u16, tagged: bool, vlan: u16, vlans: &[u16]) -> PortConfig {
    let vlan_mode = if tagged { VlanMode::NativeTagged } else { VlanMode::NativeUntagged };
    PortConfig { vlan_mode, tag: vid(vlan), trunks: set(vlans), ..port(id) }
}

pub(crate) fn tunnel(id: u16, service: u16) -> PortConfig {
    PortConfig { vlan_mode: VlanMode::Dot1qTunnel, tag: vid(service), ..port(id) }
}

pub(crate) fn set(vlans: &[u16]) -> VlanSet {
    vlans.iter().map(|&v| vid(v)).collect()
}
