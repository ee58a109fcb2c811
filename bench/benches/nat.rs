//! Connection tracking with NAT on 64-byte UDP frames: one worker, batches of 64, packets from memory to
//! nowhere. Copying the frames into the batch is outside the measure.
//!
//! `cargo bench -p trunkline-bench --bench nat`
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use trunkline_nat::{
    Config, DropReason, Filtering, Nat, Path, Prefix, Rule, RuleId, Sink, Toward, Uplink, Zone,
};
use trunkline_packet::{BATCH, Batch, Packet, Pool};

const OUT: Path = Path::Out(Zone(1), Uplink(1));

/// Keeps what comes out, for the pool.
struct Back(Vec<Packet>);

impl Sink for Back {
    fn forward(&mut self, packet: Packet, toward: Toward) {
        black_box(toward);
        self.0.push(packet);
    }
    fn drop(&mut self, _: Packet, reason: DropReason) {
        panic!("dropped: {}", reason.name());
    }
}

/// A 64-byte (with FCS) UDP frame of host `flow / 50_000` with its own port; the checksum is 0.
fn frame(flow: u32) -> [u8; 60] {
    let mut b = [0u8; 60];
    b[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
    b[17] = 46;
    b[22..24].copy_from_slice(&[64, 17]);
    b[26..30].copy_from_slice(&[10, 77, (flow / 50_000) as u8, 9]);
    b[30..34].copy_from_slice(&[198, 51, 100, 1]);
    b[34..36].copy_from_slice(&((flow % 50_000) as u16 + 2000).to_be_bytes());
    b[36..38].copy_from_slice(&53u16.to_be_bytes());
    b[39] = 26;
    let sum = trunkline_packet::checksum::Sum::ZERO.bytes(&b[14..34]).finish();
    b[24..26].copy_from_slice(&sum.to_be_bytes());
    b
}

fn nat(capacity: usize) -> Nat {
    let limit = u32::MAX;
    let mut nat =
        Nat::new(Config { source_limit: limit, source_ports: limit, ..Config::for_capacity(capacity) });
    let rule = Rule::Masquerade {
        zone: Zone(1),
        from: Prefix::new([10, 77, 0, 0].into(), 16).expect("a prefix"),
        uplink: Uplink(1),
        pool: (1..=32).map(|i| [192, 0, 2, i].into()).collect(),
        ports: (1024, 65535),
        filtering: Filtering::default(),
    };
    nat.add_rule(RuleId(0), rule).expect("a good rule");
    nat
}

/// Sends `count` frames of `flow(i)` and returns the time that the table took.
fn run(nat: &mut Nat, now: u64, count: u64, flow: impl Fn(u64) -> u32) -> Duration {
    let mut pool = Pool::new(2 * BATCH, 1);
    let (mut batch, mut sink) = (Batch::with_capacity(BATCH), Back(Vec::with_capacity(2 * BATCH)));
    let mut time = Duration::ZERO;
    let mut sent = 0;
    while sent < count {
        while batch.len() < BATCH && sent < count {
            let mut packet = pool.get();
            packet.set_bytes(&frame(flow(sent)), &mut pool).expect("it is small");
            batch.push(packet);
            sent += 1;
        }
        let start = Instant::now();
        nat.begin(now, batch.len(), &mut sink);
        nat.process_batch(now, OUT, &mut batch, &mut sink);
        time += start.elapsed();
        sink.0.drain(..).for_each(|packet| pool.put(packet));
    }
    time
}

fn established(c: &mut Criterion) {
    let mut group = c.benchmark_group("nat/established");
    group.throughput(Throughput::Elements(1));
    for flows in [1u32, 10_000, 1_000_000] {
        let mut nat = nat(flows as usize + 1000);
        run(&mut nat, 0, u64::from(flows), |i| i as u32);
        // A stride that is coprime to the number of flows: no flow is near the one before.
        let order = |i: u64| (i.wrapping_mul(7_919) % u64::from(flows)) as u32;
        group.bench_function(flows.to_string(), |b| b.iter_custom(|n| run(&mut nat, 1000, n, order)));
    }
    group.finish();
}

fn new_flows(c: &mut Criterion) {
    let mut group = c.benchmark_group("nat/new");
    group.throughput(Throughput::Elements(1));
    // A full table: every new flow displaces an old one.
    let mut nat = nat(500_000);
    let mut next = 0u64;
    group.bench_function("displacing", |b| {
        b.iter_custom(|n| {
            let from = next;
            next += n;
            run(&mut nat, 0, n, |i| ((from + i) % 1_500_000) as u32)
        });
    });
    group.finish();
}

criterion_group!(benches, established, new_flows);
criterion_main!(benches);
