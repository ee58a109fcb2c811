//! The per-packet work of `trunkline-tunnel`: encapsulation and decapsulation of small frames and
//! superframes.
//!
//! `cargo bench -p trunkline-bench --bench tunnel`
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::hint::black_box;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement};
use trunkline_packet::checksum::Sum;
use trunkline_packet::{Batch, Checksum, Gso, GsoKind, MacAddr, Offload, Packet, Pool, PortId, VlanId};
use trunkline_tunnel::{
    Arrival, DropCounts, Endpoint, GreKey, Kind, NetId, Outer, OuterPath, Tunnels, UdpRuns, Vni, decap_all,
    encap_datagrams, encap_frame, open, segment_for_udp,
};

const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));
const PATH: OuterPath = OuterPath { src_mac: MacAddr([2; 6]), dst_mac: MacAddr([4; 6]), vlan: None, src: A };

/// A TCP frame with a partial checksum; a superframe when it exceeds `size`.
fn frame(payload: usize, size: u16, pool: &mut Pool) -> Packet {
    let mut b = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0];
    b.extend((40 + payload as u16).to_be_bytes());
    b.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let check = Sum::ZERO.bytes(&b[14..34]).finish();
    b[24..26].copy_from_slice(&check.to_be_bytes());
    b.extend([0, 1, 0x13, 0x89, 0, 0, 0, 0, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    let pseudo = Sum::ZERO.bytes(&b[26..34]).add(6).add(20 + payload as u32).fold();
    b[50..52].copy_from_slice(&pseudo.to_be_bytes());
    b.resize(54 + payload, 0x5a);
    let mut packet = pool.get();
    packet.set_bytes(&b, pool).expect("it fits");
    let gso = if payload > usize::from(size) {
        Gso { kind: GsoKind::TcpV4, ecn: false, size }
    } else {
        Gso::default()
    };
    packet.meta_mut().offload = Offload { csum: Checksum::Partial { start: 34, offset: 16 }, gso };
    packet
}

/// GRE on port 1, VXLAN on port 2, among a hundred others.
fn tunnels(local: IpAddr, remote: IpAddr) -> Tunnels {
    let vni = |n| NetId::Vni(Vni::new(n).expect("24 bits"));
    let mut all = vec![
        Endpoint::new(PortId(1), Kind::Gre, NetId::Key(GreKey(7))),
        Endpoint::new(PortId(2), Kind::Vxlan, vni(7)),
    ];
    all.extend((0..100u16).map(|n| Endpoint::new(PortId(10 + n), Kind::Vxlan, vni(1000 + u32::from(n)))));
    for e in &mut all {
        (e.local, e.remotes) = (Some(local), vec![remote]);
    }
    Tunnels::new(all).expect("no conflict")
}

fn outer(kind: Kind) -> Outer {
    let udp = kind.is_udp();
    let (src_port, dst_port) = if udp { (50000, 4789) } else { (0, 0) };
    Outer { src: A, dst: B, src_port, dst_port, tos: 0, ttl: 64, proto: if udp { 17 } else { 47 } }
}

const SIZES: [(&str, usize); 2] = [("64 byte frame", 10), ("60 kB superframe", 60_000)];

fn size(group: &mut BenchmarkGroup<'_, measurement::WallTime>, payload: usize) {
    if payload < 1000 {
        group.throughput(Throughput::Elements(1));
    } else {
        group.throughput(Throughput::Bytes(payload as u64));
    }
}

fn encap(c: &mut Criterion) {
    let table = tunnels(A, B);
    let mut pool = Pool::new(256, 16);
    let (mut out, mut runs) = (Batch::with_capacity(128), UdpRuns::new(16));
    let mut group = c.benchmark_group("encap");
    for (name, payload) in SIZES {
        let template = frame(payload, 1396, &mut pool);
        size(&mut group, payload);
        for (kind, port) in [("gre", PortId(1)), ("vxlan", PortId(2))] {
            let tunnel = table.of_port(port).expect("it is there");
            let state = &tunnel.endpoint().state.tx;
            let to = tunnel.encaps(VlanId::NONE).expect("no map")[0];
            group.bench_function(format!("{kind}, {name}, socket"), |b| {
                b.iter(|| {
                    let p = pool.duplicate(&template);
                    runs.clear();
                    let sent = if to.header.kind().is_udp() {
                        segment_for_udp(p, &to, state, &mut pool, &mut out, &mut runs)
                    } else {
                        encap_datagrams(p, &to, state, &mut pool, &mut out).map(drop)
                    };
                    black_box(sent).expect("it is sent");
                    pool.put_all(&mut out);
                });
            });
            group.bench_function(format!("{kind}, {name}, port"), |b| {
                b.iter(|| {
                    let p = pool.duplicate(&template);
                    black_box(encap_frame(p, &to, &PATH, state, &mut pool, &mut out)).expect("it is sent");
                    pool.put_all(&mut out);
                });
            });
        }
    }
}

fn decap(c: &mut Criterion) {
    let (from, table) = (tunnels(A, B), tunnels(B, A));
    let mut pool = Pool::new(256, 16);
    let (mut out, mut inside, mut drops) =
        (Batch::with_capacity(128), Batch::with_capacity(128), DropCounts::new());
    let mut group = c.benchmark_group("decap");
    for (name, payload) in SIZES {
        size(&mut group, payload);
        for (kind, port) in [("gre", PortId(1)), ("vxlan", PortId(2))] {
            let tunnel = from.of_port(port).expect("it is there");
            let to = tunnel.encaps(VlanId::NONE).expect("no map")[0];
            let state = &tunnel.endpoint().state.tx;
            // What a UDP_GRO socket would hand over; GRE has no such thing, so its datagrams come singly.
            encap_datagrams(frame(payload, 1396, &mut pool), &to, state, &mut pool, &mut out)
                .expect("it is sent");
            let gro = (out.len() > 1).then(|| out[0].len() as u16);
            let udp = to.header.kind().is_udp();
            let mut received: Vec<Vec<u8>> = out.iter().map(Packet::to_vec).collect();
            if udp {
                received = vec![received.concat()];
            }
            pool.put_all(&mut out);
            let opened = Arrival { outer: outer(to.header.kind()), gro: gro.filter(|_| udp) };
            group.bench_function(format!("{kind}, {name}, socket"), |b| {
                b.iter_custom(|n| {
                    let mut took = Duration::ZERO;
                    for _ in 0..n {
                        // As received: nobody else has a part in their bytes. Copying these is not what is measured.
                        for bytes in &received {
                            let mut p = pool.get();
                            p.set_bytes(bytes, &mut pool).expect("it fits");
                            out.push(p);
                        }
                        let start = Instant::now();
                        for p in out.drain(..) {
                            decap_all(p, &opened, &table, &mut pool, &mut inside, &mut drops);
                        }
                        took += start.elapsed();
                        pool.put_all(&mut inside);
                    }
                    took
                });
            });
            encap_frame(frame(payload, 1396, &mut pool), &to, &PATH, state, &mut pool, &mut out)
                .expect("it is sent");
            let template = out.remove(0);
            group.bench_function(format!("{kind}, {name}, port"), |b| {
                b.iter(|| {
                    let mut p = pool.duplicate(&template);
                    let opened = open(&mut p, false).expect("it is a tunnel's");
                    decap_all(p, &opened, &table, &mut pool, &mut inside, &mut drops);
                    pool.put_all(&mut inside);
                });
            });
        }
    }
    assert_eq!(drops.total(), 0);
}

criterion_group!(benches, encap, decap);
criterion_main!(benches);
