//! In steady state routing and translation allocate nothing, on several workers neither.

mod memory;

use std::alloc::System;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use memory::{Sink, Source};
use rustix::event::{EventfdFlags, eventfd};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use trunkline_engine::{Engine, EngineConfig, Gateway, L3Config, PortIo, Route, Spin, Uplink};
use trunkline_nat::{Filtering, Prefix, Rule, RuleId, Zone};
use trunkline_packet::{MacAddr, PortId};
use trunkline_switch::{BridgeConfig, PortConfig};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Packets between two looks at the allocations.
const WINDOW: u64 = 20_000;

/// Allocations of the whole process.
fn allocated() -> usize {
    let stats = ALLOCATOR.stats();
    stats.allocations + stats.reallocations
}

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0x33, n])
}

/// A UDP packet in a frame to the MAC address `to`.
fn udp(to: u8, src: ([u8; 4], u16), dst: ([u8; 4], u16), len: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    let b = PacketBuilder::ethernet2(mac(9).0, mac(to).0).ipv4(src.0, dst.0, 64).udp(src.1, dst.1);
    b.write(&mut frame, &vec![7; len]).unwrap();
    frame
}

#[test]
fn routing_and_translation_allocate_nothing() {
    let e = Engine::start(EngineConfig { workers: 2, pin: false, spin: Spin::Micros(0) }).unwrap();
    let br = e.add_bridge(BridgeConfig::default());
    let go = Arc::new(AtomicBool::new(true));
    let io = |frames: Vec<Vec<u8>>| {
        let ready = eventfd(1, EventfdFlags::NONBLOCK).unwrap();
        let rx = Source { frames, next: 0, go: Arc::clone(&go), ready };
        PortIo { rx: vec![Box::new(rx)], tx: vec![Arc::new(Sink::default())] }
    };
    let host = e.add_port(br, PortConfig::new(PortId::NONE), 65535).unwrap();
    let gateway = e.add_port(br, PortConfig::new(PortId::NONE), 65535).unwrap();
    let up = e.add_l3_port(65535).unwrap();
    let uplink = trunkline_nat::Uplink(1);
    let config = L3Config {
        gateways: vec![Gateway {
            port: gateway,
            mac: mac(1),
            addresses: vec!["10.77.0.1/24".parse().unwrap()],
            mtu: 9000,
            zone: Zone(1),
            isolated: false,
            open: false,
            dhcp: None,
            ra: None,
        }],
        uplinks: vec![Uplink {
            port: up,
            uplink,
            mac: mac(2),
            addresses: vec!["192.0.2.10/24".parse().unwrap()],
            mtu: 9000,
            shared: false,
            nd_proxy: Vec::new(),
        }],
        routes: vec![Route {
            prefix: "0.0.0.0/0".parse().unwrap(),
            via: Some(ip("192.0.2.1")),
            port: up,
            metric: 0,
        }],
        nat: vec![
            (
                RuleId(1),
                Rule::Masquerade {
                    zone: Zone(1),
                    from: Prefix::new(ip("10.77.0.0"), 24).unwrap(),
                    uplink,
                    pool: vec![ip("192.0.2.10")],
                    ports: (1024, 65535),
                    filtering: Filtering::AddressAndPort,
                },
            ),
            (
                RuleId(2),
                Rule::Publish {
                    uplink,
                    proto: 17,
                    external: ip("192.0.2.10"),
                    ports: (8000, 8099),
                    zone: Zone(1),
                    to: ip("10.77.0.9"),
                    to_ports: (8000, 8099),
                },
            ),
        ],
        ct: trunkline_nat::Config::for_capacity(8192),
        ..L3Config::default()
    };
    e.set_l3(config).unwrap();
    e.set_neighbours(up, &[(ip("192.0.2.1"), mac(7))]);
    e.set_neighbours(gateway, &[(ip("10.77.0.9"), mac(8))]);
    let (inside, ours, world) = ([10, 77, 0, 9], [192, 0, 2, 10], [198, 51, 100, 1]);
    // Small and large, of flows of both workers; what is dropped and what is answered.
    let mut out: Vec<_> = (0..500).map(|i| udp(1, (inside, 2000 + i), (world, 53), 40)).collect();
    out.extend((0..50).map(|i| udp(1, (inside, 3000 + i), (world, 53), 3000)));
    out.push(udp(1, (inside, 2000), ([10, 77, 0, 1], 9), 40));
    let into: Vec<_> = (0..200)
        .map(|i| udp(2, (world, 1000 + i), (ours, 8000 + i % 100), 40 + 3000 * usize::from(i % 5 == 0)))
        .chain([udp(2, (world, 1), (ours, 7), 40)])
        .collect();
    e.attach_port(host, io(out), false).unwrap();
    e.attach_port(up, io(into), false).unwrap();

    // How many packets are under way at a time depends on the scheduler, and each new highest number makes
    // buffers: steady is what comes after.
    let count = || e.counters(host).tx_packets + e.counters(up).tx_packets;
    let mut windows = Vec::new();
    // A window lasts as long as so many packets take, whoever else wants the CPUs.
    let pass = |packets: u64| {
        let (start, until) = (count(), Instant::now() + Duration::from_secs(60));
        while count() - start < packets {
            assert!(Instant::now() < until, "only {} packets in a minute", count() - start);
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    pass(WINDOW);
    while windows.len() < 12 && !windows.contains(&0) {
        let allocations = allocated();
        pass(WINDOW);
        windows.push(allocated() - allocations);
    }
    go.store(false, Ordering::Relaxed);
    assert_eq!(windows.last(), Some(&0), "never without: {windows:?}");
}
