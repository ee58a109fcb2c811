//! The bridge's decision on any frame, with any port roles.

use std::sync::Arc;

use trunkline_packet::{Batch, DropReason, Packet, Pool, PortId, VlanId, pop_tag};
use trunkline_switch::{Bridge, BridgeConfig, Fdb, PortConfig, Sink, VlanMode, VlanSet};

use crate::input::Input;

const PORTS: u16 = 4;

/// The input is the roles of four ports, then a list of ingress port, time, and frame with its virtio
/// header.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    let ports: Vec<PortConfig> = (0..PORTS).map(|i| port(i, &mut input)).collect();
    let config = BridgeConfig { ageing: 10, max_macs: 8 };
    let bridge = Bridge::new(config, Arc::new(Fdb::new(8)), ports);
    let mut pool = Pool::new(16, 4);
    let mut now = 0;
    while !input.is_empty() {
        let from = PortId(u16::from(input.u8()) % (PORTS + 1));
        now += u32::from(input.u8() % 16);
        let Some(mut packet) = input.frame(&mut pool) else { continue };
        packet.meta_mut().in_port = from;
        if pop_tag(&mut packet).is_err() {
            continue;
        }
        let mut sink = Counts { bridge: &bridge, from, sent: 0, dropped: 0, replicated: 0 };
        let mut batch: Batch = vec![packet];
        bridge.forward(now, from, &mut batch, &mut pool, &mut sink);
        assert!(batch.is_empty());
        assert_eq!(1 + sink.replicated, sink.sent + sink.dropped, "every packet ends in one place");
    }
    assert!(bridge.fdb().len() <= 8);
}

fn port(i: u16, input: &mut Input<'_>) -> PortConfig {
    let (role, flags) = (input.u8(), input.u8());
    let vlan_mode = match role % 5 {
        0 => VlanMode::Trunk,
        1 => VlanMode::Access,
        2 => VlanMode::NativeTagged,
        3 => VlanMode::NativeUntagged,
        _ => VlanMode::Dot1qTunnel,
    };
    let vid = VlanId::new(1 + u16::from(role >> 5)).unwrap_or_default();
    PortConfig {
        vlan_mode,
        tag: if vlan_mode == VlanMode::Trunk { VlanId::NONE } else { vid },
        trunks: if flags & 1 == 0 { VlanSet::all() } else { VlanSet::from_iter([vid]) },
        isolated: flags & 2 != 0,
        split_horizon_group: (flags & 4 != 0).then_some(u32::from(flags >> 7)),
        learning: flags & 8 == 0,
        flood: flags & 16 == 0,
        max_macs: u32::from(flags >> 5 & 1) * 2,
        flood_limit: u32::from(flags >> 6 & 1) * 3,
        ..PortConfig::new(PortId(i))
    }
}

struct Counts<'a> {
    bridge: &'a Bridge,
    from: PortId,
    sent: u64,
    dropped: u64,
    replicated: u64,
}

impl Sink for Counts<'_> {
    fn send(&mut self, port: PortId, packet: Packet) {
        self.sent += 1;
        assert_ne!(port, self.from);
        assert!(self.bridge.ports().iter().any(|p| p.id == port));
        assert!(packet.meta().vlan.is_none_or(|tag| tag.vid().is_some()));
        assert!(packet.len() >= 14);
    }

    fn drop(&mut self, _: Packet, _: DropReason) {
        self.dropped += 1;
    }

    fn replicated(&mut self, n: u64) {
        self.replicated += n;
    }
}
