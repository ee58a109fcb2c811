//! Several workers: each packet reaches the one that owns its connection.

use std::time::{Duration, Instant};

use trunkline_nat::ConnFilter;
use trunkline_packet::{DropReason, Pool};

use crate::kit::*;

/// Everything that comes to a station until it is quiet.
fn drain(station: &Station, wanted: usize) -> Vec<Seen> {
    let end = Instant::now() + Duration::from_secs(10);
    let mut all = Vec::new();
    while all.len() < wanted && Instant::now() < end {
        all.extend(station.next_with(Duration::from_millis(20)).map(|(frame, _)| Seen::new(&frame)));
    }
    all
}

#[test]
fn flows_of_all_ports_go_out_and_come_back() {
    let w = World::new(3);
    // The neighbours are known before many packets would wait for them.
    w.a.send(w.a.udp("10.77.0.9:1999", "198.51.100.1:54", 64, b"first"));
    w.outside.next();
    w.outside.send(w.outside.udp("198.51.100.1:54", "192.0.2.10:1999", 64, b"first"));
    w.a.next();
    const FLOWS: usize = 400;
    let source = |i: usize| format!("10.77.0.9:{}", 2000 + i);
    for round in 0..3 {
        for i in 0..FLOWS {
            w.a.send(w.a.udp(&source(i), "198.51.100.1:53", 64, &[round, 1, 2, 3]));
            if i % 50 == 49 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let out = drain(&w.outside, FLOWS);
        let flows = tally(out.iter().map(|s| s.src));
        assert_eq!((flows.len(), flows.values().max()), (FLOWS, Some(&1)));
        for seen in &out {
            let back =
                w.outside.udp("198.51.100.1:53", &seen.src.to_string(), 64, &seen.src.port().to_be_bytes());
            w.outside.send(back);
        }
        let back = drain(&w.a, FLOWS);
        assert_eq!(tally(back.iter().map(|s| s.dst)).len(), FLOWS);
        assert!(back.iter().all(|s| s.payload == s.dst.port().to_be_bytes()), "each to its own");
    }
    assert_eq!(w.engine.connections(ConnFilter { port: Some(53), ..ConnFilter::default() }).len(), FLOWS);
    w.assert_conserved();
}

#[test]
fn fragments_in_any_order_meet_on_one_worker() {
    let w = World::new(3);
    w.a.send(w.a.ping("10.77.0.9", "198.51.100.1", 1));
    w.outside.next();
    let mut pool = Pool::new(16, 2);
    for n in 0..20u16 {
        let mut whole = w.a.udp(&format!("10.77.0.9:{}", 3000 + n), "198.51.100.1:53", 64, &[n as u8; 3000]);
        whole[18..20].copy_from_slice(&n.to_be_bytes());
        whole[20..26].copy_from_slice(&[0, 0, 64, 17, 0, 0]);
        let sum = trunkline_packet::checksum::Sum::ZERO.bytes(&whole[14..34]).finish();
        whole[24..26].copy_from_slice(&sum.to_be_bytes());
        let mut packet = pool.get();
        packet.set_bytes(&whole, &mut pool).unwrap();
        let mut parts = Vec::new();
        trunkline_packet::fragment_v4(packet, 1500, &mut pool, &mut parts).unwrap();
        parts.rotate_left(usize::from(n) % 3);
        parts.iter().for_each(|p| w.a.send(p.to_vec()));
        let mut pieces: Vec<Vec<u8>> = Vec::new();
        for _ in 0..3 {
            pieces.push(w.outside.next_with(Duration::from_secs(2)).expect("a fragment").0);
        }
        pieces.sort_by_key(|p| u16::from_be_bytes([p[20], p[21]]) & 0x1fff);
        let data: Vec<u8> = pieces.iter().flat_map(|p| p[34..].to_vec()).collect();
        assert_eq!(data[..2], (3000 + n).to_be_bytes(), "the port is kept");
        assert_eq!(data[8..], [n as u8; 3000]);
        assert!(pieces.iter().all(|p| p[26..30] == [192, 0, 2, 10]));
    }
    w.assert_conserved();
}

#[test]
fn a_flood_for_one_worker_is_dropped_and_counted() {
    let w = World::new(2);
    w.a.send(w.a.ping("10.77.0.9", "198.51.100.1", 1));
    w.outside.next();
    let frame = |port: u16| w.a.udp(&format!("10.77.0.9:{port}"), "198.51.100.1:53", 64, b"flood");
    for i in 0..20_000u16 {
        w.a.send(frame(2000 + i % 2));
    }
    let end = Instant::now() + Duration::from_secs(10);
    while w.engine.counters(w.a.port).rx_packets < 20_000 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    w.assert_conserved();
    let lost: u64 = w.ports().iter().map(|&p| w.drops(p, DropReason::RouterWorkerFull)).sum();
    let sent = w.engine.counters(w.outside.port);
    assert!(sent.tx_packets + sent.absorbed + lost >= 20_000, "{sent:?}");
}
