//! The per-packet work of `trunkline-packet`: parsing, checksums, tags, segmentation, coalescing.
//!
//! `cargo bench -p trunkline-bench --bench packet`
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use trunkline_packet::checksum::Sum;
use trunkline_packet::{
    Batch, Checksum, Gso, GsoKind, Headers, Offload, Packet, Pool, Tpid, VlanId, VlanTag, coalesce, pop_tag,
    push_tag, segment,
};

/// An IPv4 frame with a partial checksum, as a TAP hands it in.
fn frame(tcp: bool, flow: u16, index: u16, payload: usize, pool: &mut Pool) -> Packet {
    let transport = if tcp { 20 } else { 8 };
    let mut b = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0];
    b.extend((20 + transport + payload as u16).to_be_bytes());
    b.extend(index.to_be_bytes());
    b.extend([0x40, 0, 64, if tcp { 6 } else { 17 }, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let check = Sum::ZERO.bytes(&b[14..34]).finish();
    b[24..26].copy_from_slice(&check.to_be_bytes());
    b.extend(flow.to_be_bytes());
    b.extend([0x13, 0x89]);
    if tcp {
        b.extend((u32::from(index) * payload as u32).to_be_bytes());
        b.extend([0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    } else {
        b.extend((8 + payload as u16).to_be_bytes());
        b.extend([0, 0]);
    }
    b.resize(34 + usize::from(transport) + payload, 0x5a);
    let mut packet = pool.get();
    packet.set_bytes(&b, pool).expect("it fits");
    packet.meta_mut().offload.csum = Checksum::Partial { start: 34, offset: if tcp { 16 } else { 6 } };
    packet
}

fn parse(c: &mut Criterion) {
    let mut pool = Pool::new(4, 4);
    let packet = frame(true, 1, 0, 100, &mut pool);
    let mut group = c.benchmark_group("parse");
    group.throughput(Throughput::Elements(1));
    group.bench_function("headers", |b| b.iter(|| Headers::parse(black_box(&packet))));
    group.bench_function("headers and flow hash", |b| {
        b.iter(|| {
            let packet = black_box(&packet);
            Headers::parse(packet).and_then(|h| h.flow(packet.head())).map(|f| f.hash32())
        })
    });
    group.finish();
}

fn checksum(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum");
    for len in [64, 1500, 65536] {
        let data = vec![0xa5u8; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_with_input(BenchmarkId::from_parameter(len), &data, |b, data| {
            b.iter(|| Sum::ZERO.bytes(black_box(data)).finish())
        });
    }
    group.finish();
}

fn tags(c: &mut Criterion) {
    let mut pool = Pool::new(4, 4);
    let mut packet = frame(true, 1, 0, 100, &mut pool);
    let mut group = c.benchmark_group("tag");
    group.throughput(Throughput::Elements(1));
    group.bench_function("pop from an untagged frame", |b| b.iter(|| pop_tag(black_box(&mut packet))));
    packet.meta_mut().vlan = Some(VlanTag::new(Tpid::Customer, VlanId::MAX, 0));
    group.bench_function("push and pop", |b| {
        b.iter(|| push_tag(black_box(&mut packet)).and_then(|()| pop_tag(black_box(&mut packet))))
    });
    group.finish();
}

fn segmentation(c: &mut Criterion) {
    let mut pool = Pool::new(128, 4);
    let mut out = Batch::with_capacity(64);
    let mut group = c.benchmark_group("segment 64 KiB");
    let mut superframe = frame(true, 1, 0, 65_160, &mut pool);
    superframe.meta_mut().offload.gso = Gso { kind: GsoKind::TcpV4, ecn: false, size: 1448 };
    group.throughput(Throughput::Bytes(65_160));
    for (name, complete) in [("partial checksums", false), ("full checksums", true)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let copy = pool.duplicate(&superframe);
                let count = segment(copy, &mut pool, &mut out, complete);
                pool.put_all(&mut out);
                count
            })
        });
    }
    group.finish();
}

fn coalescing(c: &mut Criterion) {
    let mut group = c.benchmark_group("coalesce 64 frames");
    group.throughput(Throughput::Elements(64));
    let cases: [(&str, bool, u16, usize, bool); 7] = [
        ("UDP 64 B, 1 flow", false, 1, 64, true),
        ("UDP 64 B, 1 flow, checksums to verify", false, 1, 64, false),
        ("UDP 64 B, 8 flows interleaved", false, 8, 64, true),
        ("UDP 64 B, 64 flows, nothing merges", false, 64, 64, true),
        ("UDP 1400 B, 1 flow", false, 1, 1400, true),
        ("TCP 1400 B, 1 flow", true, 1, 1400, true),
        ("TCP 1400 B, 64 flows, nothing merges", true, 64, 1400, true),
    ];
    for (name, tcp, flows, payload, partial) in cases {
        let mut pool = Pool::new(256, 32);
        let mut sources: Vec<_> =
            (0..64).map(|i| frame(tcp, i % flows, i / flows, payload, &mut pool)).collect();
        if !partial {
            for packet in &mut sources {
                let ip = Headers::parse(packet).expect("it is IP");
                let len = (packet.len() - usize::from(ip.l4)) as u32;
                let pseudo = ip.pseudo(packet.head(), len).fold();
                packet.head_mut()[40..42].copy_from_slice(&pseudo.to_be_bytes());
                trunkline_packet::checksum::complete(packet).expect("it is partial");
                packet.meta_mut().offload = Offload::NONE;
            }
        }
        // Both sides of the criterion batch need the pool, one after the other.
        let pool = std::cell::RefCell::new(pool);
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || {
                    let mut pool = pool.borrow_mut();
                    sources.iter().map(|p| pool.duplicate(p)).collect::<Batch>()
                },
                |batch| {
                    let mut pool = pool.borrow_mut();
                    let absorbed = coalesce(batch, &mut pool);
                    pool.put_all(batch);
                    absorbed
                },
                BatchSize::PerIteration,
            )
        });
    }
    group.finish();
}

criterion_group!(benches, parse, checksum, tags, segmentation, coalescing);
criterion_main!(benches);
