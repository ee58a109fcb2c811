//! The bridge beside a model of it: tables as maps, VLAN rules written down once more from the manual, on
//! lists of tags instead of bytes. Random ports, frames, commands and time.

use std::collections::HashMap;

use proptest::prelude::*;
use trunkline_packet::{DropReason, PortId, Tpid, VlanTag};
use trunkline_switch::{BridgeConfig, PortConfig, VlanMode, VlanSet};

use crate::kit::*;

const AGEING: u32 = 100;

#[derive(Clone, Debug)]
enum Step {
    Frames { port: u16, frames: Vec<(u8, u8, Vec<VlanTag>)> },
    Wait(u32),
    AddStatic { vlan: u16, host: u8, port: u16 },
    Remove { vlan: u16, host: u8 },
    Flush { vlan: Option<u16>, port: Option<u16> },
    Sweep,
}

#[derive(Clone, Copy)]
struct Entry {
    port: u16,
    seen: u32,
    is_static: bool,
}

struct Model {
    ports: Vec<PortConfig>,
    table: HashMap<(u16, u8), Entry>,
    floods: HashMap<(u16, u32), u32>,
    now: u32,
}

/// A frame inside the bridge: its VLAN, and the tags it has besides.
struct Inside {
    vlan: u16,
    /// Kind and priority of the VLAN's tag.
    kind: Tpid,
    priority: u16,
    more: Vec<VlanTag>,
}

impl Model {
    fn port(&self, id: u16) -> Option<&PortConfig> {
        self.ports.iter().find(|p| p.id.0 == id)
    }

    fn enter(p: &PortConfig, tags: &[VlanTag]) -> Result<Inside, DropReason> {
        let number = |t: &VlanTag| t.tci % 4096;
        let first = tags.first();
        if first.is_some_and(|t| number(t) == 4095) {
            return Err(DropReason::BadVlan);
        }
        let vlan = first.map_or(0, number);
        let (kind, priority) = first.map_or((C, 0), |t| (t.tpid, t.tci - number(t)));
        let more = tags.get(1..).unwrap_or(&[]).to_vec();
        let listed = p.trunks.contains(vid(vlan));
        match p.vlan_mode {
            VlanMode::Access if vlan != 0 || !more.is_empty() => Err(DropReason::VlanFiltered),
            VlanMode::Access => Ok(Inside { vlan: p.tag.get(), kind, priority, more }),
            VlanMode::Dot1qTunnel if !listed => Err(DropReason::VlanFiltered),
            VlanMode::Dot1qTunnel => Ok(Inside { vlan: p.tag.get(), kind: S, priority, more: tags.to_vec() }),
            _ if vlan == 0 && !more.is_empty() => Err(DropReason::BadVlan),
            VlanMode::Trunk if listed => Ok(Inside { vlan, kind, priority, more }),
            VlanMode::Trunk => Err(DropReason::VlanFiltered),
            VlanMode::NativeTagged | VlanMode::NativeUntagged => {
                let vlan = if vlan == 0 { p.tag.get() } else { vlan };
                let allowed = vlan == p.tag.get() || listed;
                if allowed {
                    Ok(Inside { vlan, kind, priority, more })
                } else {
                    Err(DropReason::VlanFiltered)
                }
            }
        }
    }

    fn leave(p: &PortConfig, f: &Inside) -> Option<Vec<VlanTag>> {
        let listed = p.trunks.contains(vid(f.vlan));
        let all = || [vec![VlanTag { tpid: f.kind, tci: f.priority + f.vlan }], f.more.clone()].concat();
        match p.vlan_mode {
            VlanMode::Access => (f.vlan == p.tag.get() && f.more.is_empty()).then(Vec::new),
            VlanMode::Dot1qTunnel => {
                let customer = f.more.first().map_or(0, |t| t.tci % 4096);
                let ok = f.vlan == p.tag.get() && customer != 4095 && p.trunks.contains(vid(customer));
                ok.then(|| f.more.clone())
            }
            VlanMode::Trunk if !listed => None,
            VlanMode::Trunk if f.vlan == 0 => f.more.is_empty().then(Vec::new),
            VlanMode::Trunk => Some(all()),
            _ if f.vlan != p.tag.get() && !listed => None,
            _ if f.vlan == 0 => f.more.is_empty().then(Vec::new),
            VlanMode::NativeUntagged if f.vlan == p.tag.get() && f.more.is_empty() => Some(vec![]),
            _ => Some(all()),
        }
    }

    fn separated(a: &PortConfig, b: &PortConfig) -> Option<DropReason> {
        match (a.split_horizon_group, b.split_horizon_group) {
            _ if a.isolated && b.isolated => Some(DropReason::Isolated),
            (Some(x), Some(y)) if x == y => Some(DropReason::SplitHorizon),
            _ => None,
        }
    }

    fn frame(&mut self, port: u16, to: u8, from: u8, tags: &[VlanTag]) -> Vec<End> {
        let Some(p) = self.port(port).cloned() else { return dropped(DropReason::NoBridge) };
        if from == 255 {
            return dropped(DropReason::BadSource);
        }
        let f = match Model::enter(&p, tags) {
            Ok(f) => f,
            Err(reason) => return dropped(reason),
        };
        let now = self.now;
        if p.learning && !self.table.get(&(f.vlan, from)).is_some_and(|e| e.is_static) {
            self.table.insert((f.vlan, from), Entry { port, seen: now, is_static: false });
        }
        let known =
            self.table.get(&(f.vlan, to)).filter(|e| to != 255 && (e.is_static || now - e.seen <= AGEING));
        if let Some(out) = known.and_then(|e| self.port(e.port)) {
            if out.id == p.id {
                return dropped(DropReason::SamePort);
            }
            let Some(tags) = Model::leave(out, &f) else { return dropped(DropReason::VlanEgress) };
            return match Model::separated(&p, out) {
                Some(reason) => dropped(reason),
                None => vec![sent(out.id.0, frame(to, from, &tags))],
            };
        }
        let others =
            self.ports.iter().filter(|o| o.id != p.id && o.flood && Model::separated(&p, o).is_none());
        let mut ends: Vec<_> = others
            .filter_map(|o| Model::leave(o, &f).map(|tags| sent(o.id.0, frame(to, from, &tags))))
            .collect();
        if ends.is_empty() {
            return dropped(DropReason::NoDestination);
        }
        if p.flood_limit > 0 {
            let used = self.floods.entry((port, now)).or_default();
            if *used == p.flood_limit {
                return dropped(DropReason::FloodLimit);
            }
            *used += 1;
        }
        ends.sort();
        ends
    }
}

const VLANS: [u16; 5] = [0, 1, 2, 3, 4094];

fn a_vlan() -> impl Strategy<Value = u16> {
    prop::sample::select(&VLANS[..])
}

fn a_port(id: u16) -> impl Strategy<Value = PortConfig> {
    let mode = prop::sample::select(vec![
        VlanMode::Access,
        VlanMode::Trunk,
        VlanMode::NativeTagged,
        VlanMode::NativeUntagged,
        VlanMode::Dot1qTunnel,
    ]);
    let trunks = prop_oneof![
        Just(VlanSet::all()),
        prop::sample::subsequence(&VLANS[..], 0..=VLANS.len()).prop_map(|v| set(&v)),
    ];
    let group = prop_oneof![3 => Just(None), 1 => (0u32..2).prop_map(Some)];
    let limit = prop_oneof![3 => Just(0u32), 1 => 1u32..4];
    let flags = (prop::bool::weighted(0.2), prop::bool::weighted(0.85), prop::bool::weighted(0.85));
    (mode, a_vlan(), trunks, group, limit, flags).prop_map(
        move |(vlan_mode, tag, trunks, split_horizon_group, flood_limit, (isolated, learning, flood))| {
            PortConfig {
                vlan_mode,
                // As the configuration has it: a trunk has no VLAN of its own.
                tag: vid(if vlan_mode == VlanMode::Trunk { 0 } else { tag }),
                trunks,
                isolated,
                split_horizon_group,
                learning,
                flood,
                flood_limit,
                ..port(id)
            }
        },
    )
}

fn ports() -> impl Strategy<Value = Vec<PortConfig>> {
    (a_port(0), a_port(1), a_port(2), a_port(7), a_port(65534))
        .prop_map(|(a, b, c, d, e)| vec![a, b, c, d, e])
}

fn a_tag() -> impl Strategy<Value = VlanTag> {
    let number = prop_oneof![20 => a_vlan(), 1 => Just(4095)];
    (any::<bool>(), number, 0u16..16)
        .prop_map(|(s, number, prio)| VlanTag { tpid: if s { S } else { C }, tci: prio << 12 | number })
}

fn a_host() -> impl Strategy<Value = u8> {
    prop_oneof![8 => 1u8..6, 1 => Just(255)]
}

fn an_id() -> impl Strategy<Value = u16> {
    prop::sample::select(vec![0u16, 1, 2, 7, 65534])
}

fn step() -> impl Strategy<Value = Step> {
    let tags = prop_oneof![
        2 => Just(vec![]),
        4 => prop::collection::vec(a_tag(), 1),
        2 => prop::collection::vec(a_tag(), 2..4),
    ];
    // Several of one kind in a row, as traffic is.
    let row = (a_host(), a_host(), tags, 1usize..4).prop_map(|(to, from, tags, n)| vec![(to, from, tags); n]);
    let frames = prop::collection::vec(row, 1..20).prop_map(|rows| rows.concat());
    prop_oneof![
        12 => (an_id(), frames).prop_map(|(port, frames)| Step::Frames { port, frames }),
        3 => (0u32..80).prop_map(Step::Wait),
        1 => (a_vlan(), 1u8..6, an_id()).prop_map(|(vlan, host, port)| Step::AddStatic { vlan, host, port }),
        1 => (a_vlan(), 1u8..6).prop_map(|(vlan, host)| Step::Remove { vlan, host }),
        1 => (prop::option::of(a_vlan()), prop::option::of(an_id()))
            .prop_map(|(vlan, port)| Step::Flush { vlan, port }),
        1 => Just(Step::Sweep),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_bridge_does_what_the_model_does(ports in ports(), steps in prop::collection::vec(step(), 1..60)) {
        let mut net = Net::with(BridgeConfig { ageing: AGEING, max_macs: 1024 }, ports.clone());
        let mut model = Model { ports, table: HashMap::new(), floods: HashMap::new(), now: net.now };
        for step in steps {
            match step {
                Step::Frames { port, frames } => {
                    let wires: Vec<_> = frames.iter().map(|(to, from, tags)| frame(*to, *from, tags)).collect();
                    let batch: Vec<_> = wires.iter().map(|w| (&w[..], Default::default())).collect();
                    let ends: Vec<_> = net.inject_all(port, &batch).into_iter().map(|(end, _)| end).collect();
                    let mut expected: Vec<_> =
                        frames.iter().flat_map(|(to, from, tags)| model.frame(port, *to, *from, tags)).collect();
                    expected.sort();
                    prop_assert_eq!(ends, expected);
                }
                Step::Wait(seconds) => {
                    net.now += seconds;
                    model.now += seconds;
                }
                Step::AddStatic { vlan, host, port } => {
                    prop_assert!(net.bridge.fdb().add_static(vid(vlan), mac(host), PortId(port)));
                    model.table.insert((vlan, host), Entry { port, seen: 0, is_static: true });
                }
                Step::Remove { vlan, host } => {
                    net.bridge.fdb().remove(vid(vlan), mac(host));
                    model.table.remove(&(vlan, host));
                }
                Step::Flush { vlan, port } => {
                    net.bridge.fdb().flush(vlan.map(vid), port.map(PortId));
                    model.table.retain(|(v, _), e| {
                        e.is_static || vlan.is_some_and(|vlan| vlan != *v) || port.is_some_and(|port| port != e.port)
                    });
                }
                Step::Sweep => {
                    net.bridge.fdb().sweep(net.now, AGEING, usize::MAX);
                    let now = model.now;
                    model.table.retain(|_, e| e.is_static || now - e.seen <= AGEING);
                }
            }
            let mut entries: Vec<_> = net.bridge.fdb().entries(net.now, AGEING).into_iter()
                .map(|e| (e.vid.get(), e.mac.0[5], e.port.0, e.age, e.is_static)).collect();
            entries.sort_unstable();
            let valid = model.table.iter().filter(|(_, e)| e.is_static || model.now - e.seen <= AGEING);
            let mut expected: Vec<_> = valid
                .map(|(&(v, h), e)| (v, h, e.port, if e.is_static { 0 } else { model.now - e.seen }, e.is_static))
                .collect();
            expected.sort_unstable();
            prop_assert_eq!(entries, expected);
            prop_assert_eq!(net.bridge.fdb().len(), model.table.len());
            for p in &model.ports {
                let learned = model.table.values().filter(|e| !e.is_static && e.port == p.id.0).count();
                prop_assert_eq!(net.bridge.fdb().learned_on(p.id) as usize, learned);
            }
        }
    }
}
