//! What a full table takes.

mod kit;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use allocation_counter::measure;
use kit::*;
use trunkline_nat::{Config, Filtering, Nat, RuleId, Sink, Toward};
use trunkline_packet::checksum::Sum;
use trunkline_packet::{Packet, Pool};

struct Count(Pool, usize);

impl Sink for Count {
    fn forward(&mut self, packet: Packet, _: Toward) {
        self.0.put(packet);
        self.1 += 1;
    }
    fn drop(&mut self, packet: Packet, reason: trunkline_nat::DropReason) {
        self.0.put(packet);
        panic!("dropped: {reason:?}");
    }
}

#[test]
fn a_million_entries_take_256_mib() {
    const MILLION: usize = 1_000_000;
    let mut nat = None;
    let allocated = measure(|| nat = Some(full(MILLION)));
    assert_eq!(nat.map(|nat| nat.stats().connections), Some(MILLION));
    assert!(allocated.bytes_max <= 256 << 20, "{allocated:?}");
}

/// A table with so many connections, every one with a mapping of its own, under 32 addresses.
fn full(entries: usize) -> Nat {
    let mut nat = Nat::new(Config::for_capacity(entries));
    let pool: Vec<String> = (1..=32).map(|i| format!("192.0.2.{i}")).collect();
    let pool: Vec<&str> = pool.iter().map(String::as_str).collect();
    nat.add_rule(RuleId(0), masquerade(&pool, (1024, 65535), Filtering::default())).unwrap();
    let mut sink = Count(Pool::new(16, 4), 0);
    let far = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 53);
    let mut frame = udp_to(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1)), 1), far, b"");
    // No checksum, which need not be right then.
    frame[40..42].fill(0);
    for i in 0..entries as u32 {
        frame[28..30].copy_from_slice(&((i % 2000 + 1) as u16).to_be_bytes());
        frame[34..36].copy_from_slice(&((i / 2000 + 2000) as u16).to_be_bytes());
        frame[24..26].fill(0);
        let sum = Sum::ZERO.bytes(&frame[14..34]).finish();
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        let mut packet = sink.0.get();
        packet.set_bytes(&frame, &mut sink.0).unwrap();
        nat.process(1000, OUT, packet, &mut sink);
    }
    let stats = nat.stats();
    assert_eq!(
        (sink.1, stats.connections, stats.mappings, stats.early_drops),
        (entries, entries, entries, 0)
    );
    nat
}
