//! The engine from the outside: learning, flooding, failures, changes under load.

mod memory;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use memory::{Wire, assert_conserved, drops, frame, queues};
use trunkline_engine::{BridgeId, Engine, EngineConfig, EngineEvent, Spin};
use trunkline_packet::{DropReason, PortId, VlanId};
use trunkline_ports::TxCaps;
use trunkline_switch::{BridgeConfig, PortConfig, VlanMode};

fn engine(workers: u16) -> Engine {
    Engine::start(EngineConfig { workers, pin: false, spin: Spin::Micros(0) }).unwrap()
}

fn add(engine: &Engine, bridge: BridgeId, config: PortConfig) -> (PortId, Arc<Wire>) {
    let wire = Wire::new(TxCaps::ALL);
    let port = engine.add_port(bridge, config, 1500).unwrap();
    engine.attach_port(port, wire.io(), false).unwrap();
    (port, wire)
}

fn plain() -> PortConfig {
    PortConfig::new(PortId::NONE)
}

#[test]
fn floods_then_learns() {
    let e = engine(2);
    let br = e.add_bridge(BridgeConfig::default());
    let (a, wa) = add(&e, br, plain());
    let (b, wb) = add(&e, br, plain());
    let (c, wc) = add(&e, br, plain());
    wa.inject(frame(2, 1));
    assert_eq!(wb.take(), Some(frame(2, 1)));
    assert_eq!(wc.take(), Some(frame(2, 1)));
    wb.inject(frame(1, 2));
    assert_eq!(wa.take(), Some(frame(1, 2)));
    wa.inject(frame(2, 1));
    assert_eq!(wb.take(), Some(frame(2, 1)));
    wa.inject(frame(1, 1));
    std::thread::sleep(Duration::from_millis(50));
    assert!(wc.tx.is_empty(), "a known unicast frame was flooded");
    assert_eq!(drops(&e, a, DropReason::SamePort), 1);
    assert_eq!(e.counters(a).replicated, 1);
    assert_conserved(&e, &[a, b, c]);
}

#[test]
fn an_access_port_tags_towards_a_trunk() {
    let e = engine(1);
    let br = e.add_bridge(BridgeConfig::default());
    let vid = VlanId::new(10).unwrap();
    let (_, wa) = add(&e, br, PortConfig { vlan_mode: VlanMode::Access, tag: vid, ..plain() });
    let (_, wt) = add(&e, br, plain());
    wa.inject(frame(2, 1));
    let tagged = wt.take().unwrap();
    assert_eq!(tagged[12..16], [0x81, 0, 0, 10]);
    wt.inject([&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 0x81, 0, 0, 10][..], &[7; 60]].concat());
    let untagged = wa.take().unwrap();
    assert_eq!(untagged[12..], [7; 60]);
}

#[test]
fn a_cut_tag_is_dropped_and_the_rest_of_the_batch_goes_on() {
    let e = engine(1);
    let br = e.add_bridge(BridgeConfig::default());
    let (a, wa) = add(&e, br, plain());
    let (b, wb) = add(&e, br, plain());
    let mut cut = frame(2, 1);
    cut[12..14].copy_from_slice(&[0x81, 0]);
    cut.truncate(15);
    wa.inject(cut);
    wa.inject(vec![]);
    wa.inject(vec![1; 13]);
    wa.inject(frame(2, 1));
    assert_eq!(wb.take(), Some(frame(2, 1)));
    assert_eq!(drops(&e, a, DropReason::Truncated), 3);
    assert_conserved(&e, &[a, b]);
}

#[test]
fn too_big_for_the_egress() {
    let e = engine(1);
    let br = e.add_bridge(BridgeConfig::default());
    let (_, wa) = add(&e, br, plain());
    let (b, wb) = add(&e, br, plain());
    let sized = |len| [&frame(2, 1)[..14], &vec![0; len][..]].concat();
    wa.inject(sized(1501));
    wa.inject(sized(1500));
    assert_eq!(wb.take().map(|f| f.len()), Some(1514));
    assert_eq!(drops(&e, b, DropReason::Mtu), 1);
}

#[test]
fn a_broken_port_is_reported_and_comes_back() {
    let e = engine(1);
    let br = e.add_bridge(BridgeConfig::default());
    let (a, wa) = add(&e, br, plain());
    let (b, wb) = add(&e, br, plain());
    wb.inject(frame(255, 2));
    assert!(wa.take().is_some());
    wb.broken.store(true, Ordering::Relaxed);
    wb.kick();
    match e.events().recv_timeout(Duration::from_secs(1)).unwrap() {
        EngineEvent::PortFailed { port, fatal, .. } => assert_eq!((port, fatal), (b, true)),
        other => panic!("{other:?}"),
    }
    e.detach_port(b);
    assert_eq!(e.fdb(br).unwrap().learned_on(b), 0, "the addresses behind a dead port are flushed");
    wa.inject(frame(2, 1));
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(drops(&e, b, DropReason::EgressDown), 1);
    let again = Wire::new(TxCaps::ALL);
    e.attach_port(b, again.io(), false).unwrap();
    wa.inject(frame(2, 1));
    assert!(again.take().is_some());
    assert_conserved(&e, &[a, b]);
}

#[test]
fn ports_come_and_go_under_load() {
    let e = engine(2);
    let br = e.add_bridge(BridgeConfig::default());
    let (a, wa) = add(&e, br, plain());
    let (b, wb) = add(&e, br, plain());
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            for i in 0u32.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                wa.inject(frame(if i % 3 == 0 { 255 } else { 2 }, 1));
                wb.inject(frame(1, 2));
                if i % 64 == 0 {
                    std::thread::yield_now();
                }
            }
        });
        for _ in 0..100 {
            let (c, wc) = add(&e, br, plain());
            assert!(wc.take().is_some(), "a new port gets floods");
            e.remove_port(c);
            assert_eq!(Arc::strong_count(&wc), 1, "nobody refers to a removed port");
        }
        stop.store(true, Ordering::Relaxed);
    });
    let other = e.add_bridge(BridgeConfig { ageing: 1, max_macs: 64 });
    e.update_bridge(other, BridgeConfig { ageing: 2, max_macs: 4096 });
    e.remove_port(a);
    e.remove_port(b);
    e.remove_bridge(br);
    assert!(e.fdb(br).is_none() && e.fdb(other).is_some());
}

#[test]
fn a_bug_costs_the_port_whose_frames_met_it_and_nobody_else() {
    let e = engine(1);
    let br = e.add_bridge(BridgeConfig::default());
    let (a, wa) = add(&e, br, plain());
    let (_, wb) = add(&e, br, plain());
    let (_, wc) = add(&e, br, plain());
    wb.inject(frame(255, 2));
    assert!(wa.take().is_some() && wc.take().is_some());
    wb.buggy.store(true, Ordering::Relaxed);
    wa.inject(frame(2, 1));
    match e.events().recv_timeout(Duration::from_secs(1)).unwrap() {
        EngineEvent::PortFailed { port, fatal, error } => {
            assert_eq!((port, fatal), (a, true));
            assert!(error.to_string().contains("a test's bug"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    wb.buggy.store(false, Ordering::Relaxed);
    // The one worker goes on: with other ports, with the control plane, with frames that arrived meanwhile.
    wc.inject(frame(2, 3));
    assert_eq!(wb.take(), Some(frame(2, 3)), "and what was in hand is not sent late");
    wa.inject(frame(2, 1));
    e.attach_port(a, wa.io(), false).unwrap();
    assert_eq!(wb.take(), Some(frame(2, 1)));
    assert!(e.events().is_empty());
}

/// As the kernel does with a TAP's queues, each answer arrives on the queue the last frame was sent on.
#[test]
fn a_flow_between_ports_with_several_queues_settles_on_its_queues() {
    for (workers, between) in (2..5).flat_map(|w| (0..w).map(move |b| (w, b))) {
        let e = engine(workers);
        let br = e.add_bridge(BridgeConfig::default());
        let several = |n| {
            let wires: Vec<_> = (0..n).map(|_| Wire::new(TxCaps::ALL)).collect();
            let port = e.add_port(br, plain(), 1500).unwrap();
            e.attach_port(port, queues(&wires), false).unwrap();
            wires
        };
        let a = several(2);
        // These shift which worker is the least loaded.
        for _ in 0..between {
            add(&e, br, PortConfig { flood: false, ..plain() });
        }
        let b = several(3);
        let mut queue = 0;
        let mut seen = Vec::new();
        for _ in 0..6 {
            b[queue].inject(frame(1, 2));
            queue = arrival(&a);
            seen.push(queue);
            a[queue].inject(frame(2, 1));
            queue = arrival(&b);
            seen.push(queue);
        }
        assert_eq!(seen[8..10], seen[10..], "{workers} workers, {between} ports between: {seen:?}");
    }
}

/// The queue by which the next frame leaves.
fn arrival(wires: &[Arc<Wire>]) -> usize {
    for _ in 0..5000 {
        if let Some(queue) = wires.iter().position(|w| w.tx.pop().is_some()) {
            return queue;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    panic!("nothing arrived");
}
