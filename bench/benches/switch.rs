//! The switch: looking up, learning, and whole batches through the bridge.
//!
//! `cargo bench -p trunkline-bench --bench switch`

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use trunkline_packet::{BATCH, Batch, DropReason, MacAddr, Packet, Pool, PortId, VlanId};
use trunkline_switch::{Bridge, BridgeConfig, Fdb, PortConfig, Sink};

const NOW: u32 = 1000;
const AGEING: u32 = 300;
const MAX_MACS: u32 = 131_072;
/// Table sizes: what fits the first cache, the second, and none.
const SIZES: [u64; 3] = [1, 1_000, 100_000];

fn station(n: u64) -> MacAddr {
    MacAddr::from_u64(0x0200_0000_0000 + n)
}

/// Visits numbers below `n` in no order that a prefetcher could guess.
fn scatter(i: &mut u64, n: u64) -> u64 {
    *i = i.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    ((*i >> 32) * n) >> 32
}

fn table(stations: u64) -> Fdb {
    let fdb = Fdb::new(MAX_MACS);
    (0..stations).for_each(|n| fdb.learn(NOW, VlanId::NONE, station(n), PortId(1), 0));
    fdb
}

fn fdb(c: &mut Criterion) {
    let mut group = c.benchmark_group("fdb");
    group.throughput(Throughput::Elements(1));
    for n in SIZES {
        let fdb = table(n);
        let mut i = 0;
        group.bench_function(BenchmarkId::new("hit", n), |b| {
            b.iter(|| fdb.lookup(NOW, AGEING, VlanId::NONE, black_box(station(scatter(&mut i, n)))));
        });
        group.bench_function(BenchmarkId::new("known", n), |b| {
            b.iter(|| fdb.learn(NOW, VlanId::NONE, black_box(station(scatter(&mut i, n))), PortId(1), 0));
        });
    }
    let fdb = table(1000);
    let mut i = 0;
    group.bench_function("miss", |b| {
        b.iter(|| {
            fdb.lookup(NOW, AGEING, VlanId::NONE, black_box(station(1_000_000 + scatter(&mut i, 1 << 20))))
        });
    });
    // A flood of sources: every address is new, the table is full, and one is evicted for each.
    let fdb = table(u64::from(MAX_MACS));
    let mut n = 1 << 24;
    group.bench_function("learn new, evict", |b| {
        b.iter(|| {
            n += 1;
            fdb.learn(NOW, VlanId::NONE, black_box(station(n)), PortId(1), 0);
        });
    });
    group.finish();
}

/// Takes every packet, and gives it back for the next batch.
#[derive(Default)]
struct Recycle {
    done: Batch,
    dropped: u64,
}

impl Sink for Recycle {
    fn send(&mut self, _: PortId, packet: Packet) {
        self.done.push(packet);
    }
    fn drop(&mut self, packet: Packet, _: DropReason) {
        self.dropped += 1;
        self.done.push(packet);
    }
    fn replicated(&mut self, _: u64) {}
}

struct Setup {
    bridge: Bridge,
    pool: Pool,
    batch: Batch,
    sink: Recycle,
    /// For `scatter`.
    random: u64,
}

impl Setup {
    fn new(ports: u16, stations: u64) -> Setup {
        let config = BridgeConfig { max_macs: MAX_MACS, ..BridgeConfig::default() };
        let ports = (0..ports).map(|i| PortConfig::new(PortId(i))).collect();
        let bridge = Bridge::new(config, Arc::new(table(stations)), ports);
        let mut pool = Pool::new(16 * BATCH, 0);
        let mut batch = Batch::with_capacity(16 * BATCH);
        for _ in 0..BATCH {
            let mut packet = pool.get();
            packet.set_bytes(&[0; 60], &mut pool).unwrap();
            batch.push(packet);
        }
        // A station on port 0 that sends everything.
        bridge.fdb().learn(NOW, VlanId::NONE, station(1 << 30), PortId(0), 0);
        Setup { bridge, pool, batch, sink: Recycle::default(), random: 0 }
    }

    /// Writes new destinations into the frames of the batch.
    fn address(&mut self, to: impl Fn(&mut u64) -> MacAddr) {
        for packet in &mut self.batch {
            let to = to(&mut self.random);
            let head = packet.head_mut();
            head[..6].copy_from_slice(&to.0);
            head[6..12].copy_from_slice(&station(1 << 30).0);
        }
    }

    fn forward(&mut self) {
        self.bridge.forward(NOW, PortId(0), &mut self.batch, &mut self.pool, &mut self.sink);
        std::mem::swap(&mut self.batch, &mut self.sink.done);
        assert_eq!(self.sink.dropped, 0);
    }
}

fn forward(c: &mut Criterion) {
    let mut group = c.benchmark_group("forward");
    group.throughput(Throughput::Elements(BATCH as u64));
    for n in SIZES {
        let mut s = Setup::new(2, n);
        s.address(|_| station(0));
        // Writing 64 addresses costs about 2 ns each and is part of the figure.
        group.bench_function(BenchmarkId::new("unicast", n), |b| {
            b.iter(|| {
                s.address(|random| station(scatter(random, n)));
                s.forward();
            });
        });
    }
    let mut s = Setup::new(9, 1);
    group.bench_function("flood to 8 ports", |b| {
        b.iter(|| {
            s.address(|_| MacAddr::BROADCAST);
            s.forward();
            s.batch.drain(BATCH..).for_each(|packet| s.pool.put(packet));
        });
    });
    group.finish();
}

criterion_group!(benches, fdb, forward);
criterion_main!(benches);
