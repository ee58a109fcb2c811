//! In steady state nothing is allocated, for established flows, new ones, expiry and early drops.

mod kit;

use allocation_counter::measure;
use kit::*;
use trunkline_nat::{Config, DropReason, Filtering, Nat, RuleId, Sink, Toward};
use trunkline_packet::{Batch, Packet, Pool};

/// Keeps the packets for their pool.
struct Back(Vec<Packet>, u64);

impl Sink for Back {
    fn forward(&mut self, packet: Packet, _: Toward) {
        self.0.push(packet);
        self.1 += 1;
    }
    fn drop(&mut self, packet: Packet, _: DropReason) {
        self.0.push(packet);
    }
}

#[test]
fn nothing_is_allocated_per_packet() {
    let mut nat = Nat::new(Config { source_limit: 300, ..Config::for_capacity(500) });
    nat.add_rule(RuleId(0), masquerade(&["192.0.2.10"], (1024, 2000), Filtering::Address)).unwrap();
    let mut frames: Vec<Vec<u8>> = (0..2000u16)
        .map(|i| udp(&format!("10.77.0.{}:{}", i % 9 + 1, i), &format!("198.51.100.1:{}", i % 7 + 1), b"x"))
        .collect();
    frames.extend((1..500).map(|i| tcp(&format!("10.77.0.20:{i}"), "198.51.100.1:80", Seg::new(SYN, 1, 0))));
    frames.push(too_big("10.77.0.1", "198.51.100.1", &frames[0].clone(), 100));
    // A fragment that waits for its first, which never comes.
    let mut fragment = udp("10.77.0.9:7", "198.51.100.1:9", &[0; 64]);
    fragment[20..22].copy_from_slice(&[0x20, 8]);
    let h = etherparse::Ipv4Header::from_slice(&fragment[14..]).unwrap().0;
    fragment[24..26].copy_from_slice(&h.calc_header_checksum().to_be_bytes());
    frames.push(fragment);
    let mut pool = Pool::new(256, 4);
    let mut batch = Batch::with_capacity(64);
    let mut sink = Back(Vec::with_capacity(256), 0);
    let mut run = |start: u64, rounds: u64| {
        for round in 0..rounds {
            for (i, chunk) in frames.chunks(64).enumerate() {
                for frame in chunk {
                    let mut packet = pool.get();
                    packet.set_bytes(frame, &mut pool).unwrap();
                    batch.push(packet);
                }
                let now = start + round * 20_000 + i as u64;
                nat.begin(now, batch.len(), &mut sink);
                nat.process_batch(now, OUT, &mut batch, &mut sink);
                sink.0.drain(..).for_each(|p| pool.put(p));
            }
        }
        sink.1
    };
    run(0, 20);
    let mut sent = 0;
    let allocated = measure(|| sent = run(1_000_000, 20));
    assert_eq!(allocated.count_total, 0);
    assert!(sent > 10_000);
}
