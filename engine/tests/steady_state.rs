//! In steady state a worker allocates nothing.

mod memory;

use std::alloc::System;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use memory::{Sink, Source, Wire, frame};
use rustix::event::{EventfdFlags, eventfd};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use trunkline_engine::{Engine, EngineConfig, OpenSockets, Opened, PortIo, Spin, TunnelConfig};
use trunkline_packet::checksum::Sum;
use trunkline_packet::{Batch, MacAddr, Pool, PortId, VlanId};
use trunkline_ports::underlay::{Arrival, DatagramRx, DatagramTx, Datagrams, Family, Outer, UdpOptions};
use trunkline_ports::{RecvEnd, RecvStats, SendStats, TxCaps};
use trunkline_switch::{BridgeConfig, PortConfig};
use trunkline_tunnel::{Endpoint, Kind, NetId, Vni};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Allocations of the whole process.
fn allocated() -> usize {
    let stats = ALLOCATOR.stats();
    stats.allocations + stats.reallocations
}

/// Allocations are counted for the whole process: one test at a time.
static TURN: Mutex<()> = Mutex::new(());

/// Waits until so many packets more have passed a port, however long that takes where others want the CPUs, too.
fn pass(e: &Engine, port: PortId, packets: u64) {
    let (start, until) = (e.counters(port).rx_packets, Instant::now() + Duration::from_secs(60));
    while e.counters(port).rx_packets - start < packets {
        assert!(Instant::now() < until, "only {} packets in a minute", e.counters(port).rx_packets - start);
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How many allocations there are while 60,000 packets pass a port, after half as many.
fn observe(e: &Engine, port: PortId) -> usize {
    pass(e, port, 30_000);
    let before = allocated();
    pass(e, port, 60_000);
    allocated() - before
}

/// Unicast, floods, superframe-sized frames and drops, through learning, for a few hundred thousand packets.
#[test]
fn forwarding_allocates_nothing() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let e = Engine::start(EngineConfig { workers: 1, pin: false, spin: Spin::Micros(0) }).unwrap();
    let br = e.add_bridge(BridgeConfig::default());
    let config = || PortConfig::new(PortId::NONE);
    let sinks: Vec<Arc<Sink>> = (0..3).map(|_| Arc::default()).collect();
    let answer = Wire::new(TxCaps::ALL);
    for sink in &sinks {
        let port = e.add_port(br, config(), 65535).unwrap();
        let rx = answer.io().rx;
        e.attach_port(port, PortIo { rx, tx: vec![Arc::clone(sink) as _] }, false).unwrap();
    }
    // Station 2 is behind one of the sinks.
    answer.inject(frame(255, 2));
    let mut frames: Vec<_> = (10..200).map(|src| frame(2, src)).collect();
    frames.push(frame(255, 10));
    frames.push(frame(77, 10));
    frames.push(frame(10, 10));
    frames.push([&frame(2, 10)[..], &[0; 9000][..]].concat());
    frames.push([&frame(255, 10)[..], &[0; 60000][..]].concat());
    let ready = eventfd(1, EventfdFlags::NONBLOCK).unwrap();
    let go = Arc::new(AtomicBool::new(true));
    let source = e.add_port(br, config(), 65535).unwrap();
    let rx = Source { frames, next: 0, go: Arc::clone(&go), ready };
    e.attach_port(source, PortIo { rx: vec![Box::new(rx)], tx: vec![Arc::new(Sink::default())] }, false)
        .unwrap();

    let allocations = observe(&e, source);
    go.store(false, Ordering::Relaxed);
    assert_eq!(allocations, 0);
}

/// Sockets that take everything, and bring the same datagrams for ever.
struct Loop {
    datagrams: Vec<(Vec<u8>, Arrival)>,
    ready: Arc<OwnedFd>,
}

struct LoopRx {
    datagrams: Vec<(Vec<u8>, Arrival)>,
    next: usize,
    ready: Arc<OwnedFd>,
}

struct LoopTx;

impl OpenSockets for Loop {
    fn udp(&self, _: &UdpOptions) -> io::Result<Opened> {
        let rx = LoopRx { datagrams: self.datagrams.clone(), next: 0, ready: Arc::clone(&self.ready) };
        Ok(Opened { rx: vec![Box::new(rx)], tx: Arc::new(LoopTx), groups: None })
    }

    fn gre(&self, _: Family) -> io::Result<Opened> {
        self.udp(&UdpOptions { family: Family::V4, port: 0, queues: 1, groups: Vec::new(), checksum6: false })
    }

    fn path_mtu(&self, _: IpAddr, _: Option<IpAddr>) -> io::Result<u32> {
        Ok(1500)
    }
}

impl DatagramRx for LoopRx {
    fn poll_fd(&self) -> RawFd {
        self.ready.as_raw_fd()
    }

    fn recv(
        &mut self,
        pool: &mut Pool,
        out: &mut Batch,
        arrivals: &mut Vec<Arrival>,
        budget: usize,
        _: &mut RecvStats,
    ) -> RecvEnd {
        for _ in 0..budget {
            let (bytes, arrival) = &self.datagrams[self.next];
            self.next = (self.next + 1) % self.datagrams.len();
            let mut packet = pool.get();
            packet.set_bytes(bytes, pool).unwrap();
            out.push(packet);
            arrivals.push(*arrival);
        }
        RecvEnd::More
    }
}

impl DatagramTx for LoopTx {
    fn sockets(&self) -> usize {
        16
    }

    fn send(&self, pool: &mut Pool, batch: &mut Batch, _: &[Datagrams], stats: &mut SendStats) {
        stats.packets += batch.len() as u64;
        pool.put_all(batch);
    }
}

/// A TCP segment of station 10, as one of many.
fn segment(number: u32) -> Vec<u8> {
    let mut f = frame(2, 10);
    f.truncate(12);
    f.extend([8, 0, 0x45, 0, 5, 160, 0, number as u8, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let check = Sum::ZERO.bytes(&f[14..]).finish();
    f[24..26].copy_from_slice(&check.to_be_bytes());
    f.extend([0, 7, 0, 9]);
    f.extend((number * 1400).to_be_bytes());
    f.extend([0, 0, 0, 0, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    f.resize(34 + 20 + 1400, 7);
    let pseudo = Sum::ZERO.bytes(&f[26..34]).add(6).add(1420);
    let check = pseudo.bytes(&f[34..]).finish();
    f[50..52].copy_from_slice(&check.to_be_bytes());
    f
}

/// In by one tunnel, merged datagrams and single ones, some of them refused; out by a TAP and by tunnels with
/// one and with several remotes, some of it too big.
#[test]
fn tunnels_allocate_nothing() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let address = |n: u8| IpAddr::from([192, 0, 2, n]);
    let header = |vni: u8| vec![8, 0, 0, 0, 0, 0, vni, 0];
    let single = Arrival {
        outer: Outer {
            src: address(2),
            dst: address(1),
            src_port: 50000,
            dst_port: 4789,
            tos: 0,
            ttl: 64,
            proto: 17,
        },
        gro: None,
    };
    let train: Vec<u8> = (0..40).flat_map(|n| [header(1), segment(n)].concat()).collect();
    let merged = Arrival { gro: Some(8 + 1454), ..single };
    // A reserved bit in one of the headers: not merged as a train, but at the TAP.
    let mut long_way = train.clone();
    long_way[20 * (8 + 1454) + 7] = 1;
    let mut datagrams = vec![(train, merged), (long_way, merged)];
    for dst in [255, 3, 4, 77, 2] {
        datagrams.push(([header(1), frame(dst, 10)].concat(), single));
    }
    let mut big = segment(1);
    big[..6].copy_from_slice(&frame(4, 10)[..6]);
    datagrams.push(([header(1), big].concat(), single));
    datagrams.push(([header(9), frame(2, 10)].concat(), single));
    let ready = Arc::new(eventfd(1, EventfdFlags::NONBLOCK).unwrap());
    let opener = Arc::new(Loop { datagrams, ready: Arc::clone(&ready) });
    let e =
        Engine::start_with(EngineConfig { workers: 1, pin: false, spin: Spin::Micros(0) }, opener).unwrap();
    let br = e.add_bridge(BridgeConfig::default());
    let fdb = e.fdb(br).unwrap();
    let add = || e.add_port(br, PortConfig::new(PortId::NONE), 65535).unwrap();
    let station = |n: u8| MacAddr([2, 0, 0, 0, 0, n]);
    let tap = add();
    e.attach_port(tap, PortIo { rx: Vec::new(), tx: vec![Arc::new(Sink::default())] }, false).unwrap();
    fdb.add_static(VlanId::NONE, station(2), tap);
    for (vni, remotes, behind) in [(2, &[3, 4][..], 3), (3, &[5], 4), (1, &[2], 10)] {
        let net = NetId::Vni(Vni::new(vni).unwrap());
        let mut endpoint = Endpoint::new(PortId::NONE, Kind::Vxlan, net);
        endpoint.remotes = remotes.iter().map(|&n| address(n)).collect();
        endpoint.inner_mtu = if vni == 3 { 1400 } else { 1450 };
        let port = add();
        fdb.add_static(VlanId::NONE, station(behind), port);
        e.set_tunnel(port, TunnelConfig::new(endpoint)).unwrap();
    }
    let source = PortId(3);
    let allocations = observe(&e, source);
    let out = e.counters(PortId(1));
    assert!(out.replicated > 500, "{out:?}");
    assert!(e.counters(source).absorbed > 12_000 && e.counters(tap).absorbed > 12_000);
    assert!(e.counters(PortId(2)).generated > 50);
    assert_eq!(allocations, 0);
}
