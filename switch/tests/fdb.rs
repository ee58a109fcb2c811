//! The table by itself: limits, fairness, sweeping, resizing, threads.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use proptest::prelude::*;
use trunkline_packet::{MacAddr, PortId, VlanId};
use trunkline_switch::{Fdb, FdbCounters};

const AGEING: u32 = 300;
const V: VlanId = VlanId::NONE;

fn vid(v: u16) -> VlanId {
    VlanId::new(v).unwrap()
}

fn mac(n: u64) -> MacAddr {
    MacAddr::from_u64(0x0200_0000_0000 + n)
}

fn found(fdb: &Fdb, now: u32, n: u64) -> Option<u16> {
    fdb.lookup(now, AGEING, V, mac(n)).map(|p| p.0)
}

/// Every address up to the capacity is learned: no bucket overflows before the table is full.
#[test]
fn a_table_takes_as_many_as_it_promises() {
    for max in [16, 1000, 16384, 100_000] {
        let fdb = Fdb::new(max);
        (0..u64::from(max)).for_each(|n| fdb.learn(1, V, mac(n), PortId((n % 7) as u16), 0));
        assert_eq!(fdb.len(), max as usize);
        assert_eq!(fdb.counters(), FdbCounters { learned: u64::from(max), ..FdbCounters::default() });
        (0..u64::from(max)).for_each(|n| assert_eq!(found(&fdb, 1, n), Some((n % 7) as u16)));
        fdb.learn(2, V, mac(u64::from(max)), PortId(0), 0);
        assert_eq!((fdb.len(), fdb.counters().evicted), (max as usize, 1));
    }
}

/// The rule of `mac-learning.h`: a million invented sources cost the two quiet ports nothing.
#[test]
fn a_flood_of_sources_evicts_only_its_own() {
    let fdb = Fdb::new(16384);
    let quiet = |fdb: &Fdb, now| {
        (0..50).all(|n| found(fdb, now, n) == Some(1)) && (50..55).all(|n| found(fdb, now, n) == Some(2))
    };
    (0..50).for_each(|n| fdb.learn(0, V, mac(n), PortId(1), 0));
    (50..55).for_each(|n| fdb.learn(0, V, mac(n), PortId(2), 0));
    for n in 0..1_000_000u64 {
        fdb.learn((n / 10_000) as u32, V, mac(1_000_000 + n), PortId(3), 0);
        if n % 50_000 == 0 {
            assert!(quiet(&fdb, 0), "after {n}");
        }
    }
    assert!(quiet(&fdb, 0));
    assert_eq!((fdb.len(), fdb.learned_on(PortId(3))), (16384, 16384 - 55));
    // The flooder's newest are there, its oldest went.
    assert_eq!((found(&fdb, 99, 1_999_999), found(&fdb, 99, 1_000_000)), (Some(3), None));
    // A full table takes new stations of the quiet ports, too.
    (100..200).for_each(|n| fdb.learn(100, V, mac(n), PortId(2), 0));
    assert!((100..200).all(|n| found(&fdb, 100, n) == Some(2)) && quiet(&fdb, 0));
    assert_eq!(fdb.counters().refused, 0);
}

/// Two flooders end with equal shares, and neither takes from the third port.
#[test]
fn flooders_share_what_is_left() {
    let fdb = Fdb::new(1024);
    (0..100).for_each(|n| fdb.learn(0, V, mac(n), PortId(1), 0));
    (0..5000).for_each(|n| fdb.learn(1, V, mac(10_000 + n), PortId(2), 0));
    for n in 0..5000 {
        fdb.learn(2, V, mac(20_000 + n), PortId(3), 0);
        fdb.learn(2, V, mac(30_000 + n), PortId(2), 0);
    }
    let counts = [1, 2, 3].map(|p| fdb.learned_on(PortId(p)));
    assert_eq!((counts[0], counts.iter().sum::<u32>()), (100, 1024));
    assert!(counts[1].abs_diff(counts[2]) <= 2, "{counts:?}");
}

/// What is remembered of the heaviest port is put right when that has lost its entries: here by port 2,
/// which has gained none since.
#[test]
fn the_heaviest_port_is_found_again() {
    let fdb = Fdb::new(1024);
    (0..600).for_each(|n| fdb.learn(0, V, mac(n), PortId(1), 0));
    (1000..1300).for_each(|n| fdb.learn(0, V, mac(n), PortId(2), 0));
    assert_eq!(fdb.flush(None, Some(PortId(1))), 600);
    (0..724).for_each(|n| fdb.learn(0, V, mac(2000 + n), PortId(1000 + n as u16), 0));
    (0..40).for_each(|n| fdb.learn(0, V, mac(5000 + n), PortId(50), 0));
    // With some seeds a few addresses meet two full buckets, where only what is in them can give way.
    let (learned, left) = (fdb.learned_on(PortId(50)), fdb.learned_on(PortId(2)));
    assert!((36..=40).contains(&learned) && (256..=268).contains(&left), "{learned} learned, {left} left");
    assert!((1020..=1024).contains(&fdb.len()), "{} entries", fdb.len());
}

/// Stations that are heard from outlive those that are not, however long ago they were learned.
#[test]
fn active_stations_survive_the_flood_of_their_own_port() {
    let fdb = Fdb::new(1024);
    (0..6).for_each(|n| fdb.learn(0, V, mac(n), PortId(1), 0));
    for n in 0..10_000u64 {
        let now = (n / 100) as u32;
        if n % 100 == 0 {
            (0..6).for_each(|n| fdb.learn(now, V, mac(n), PortId(1), 0));
        }
        fdb.learn(now, V, mac(1000 + n), PortId(1), 0);
    }
    assert!((0..6).all(|n| found(&fdb, 100, n) == Some(1)));
}

/// A port at its own limit loses its own oldest, judged by when it was last seen.
#[test]
fn the_limit_of_a_port_is_its_own_affair() {
    let fdb = Fdb::new(1024);
    fdb.learn(0, V, mac(500), PortId(9), 0);
    (0..4).for_each(|n| fdb.learn(n as u32, V, mac(n), PortId(1), 4));
    fdb.learn(10, V, mac(0), PortId(1), 4);
    fdb.learn(11, V, mac(4), PortId(1), 4);
    assert_eq!(
        [0, 1, 2, 3, 4, 500].map(|n| found(&fdb, 11, n)),
        [Some(1), None, Some(1), Some(1), Some(1), Some(9)]
    );
    fdb.learn(11, V, mac(5), PortId(1), 4);
    assert_eq!([0, 2, 3, 4, 5].map(|n| found(&fdb, 11, n)), [Some(1), None, Some(1), Some(1), Some(1)]);
    // Moving in counts, moving out makes room.
    fdb.learn(12, V, mac(500), PortId(1), 4);
    assert_eq!((fdb.learned_on(PortId(1)), fdb.learned_on(PortId(9)), fdb.len()), (4, 0, 4));
    // A lowered limit is reached with the next few addresses.
    (600..604).for_each(|n| fdb.learn(13, V, mac(n), PortId(1), 2));
    assert_eq!(fdb.learned_on(PortId(1)), 2);
    assert_eq!(fdb.counters().refused, 0);
}

#[test]
fn static_entries_count_but_are_never_evicted() {
    let fdb = Fdb::new(16);
    (0..15).for_each(|n| assert!(fdb.add_static(V, mac(n), PortId(1))));
    fdb.learn(0, V, mac(100), PortId(2), 0);
    fdb.learn(0, V, mac(101), PortId(2), 0);
    assert_eq!((found(&fdb, 0, 100), found(&fdb, 0, 101), fdb.len()), (None, Some(2), 16));
    // The last learned one makes room for a static one, which then has no room to give.
    assert!(fdb.add_static(V, mac(15), PortId(1)));
    assert!(!fdb.add_static(V, mac(16), PortId(1)));
    assert!(fdb.add_static(V, mac(15), PortId(3)), "replacing needs no room");
    fdb.learn(0, V, mac(102), PortId(2), 0);
    assert_eq!((found(&fdb, 0, 102), fdb.counters().refused, fdb.len()), (None, 1, 16));
    assert_eq!(found(&fdb, u32::MAX, 15), Some(3));
    assert_eq!(fdb.flush(None, None), 0);
    assert!(fdb.remove(V, mac(15)) && !fdb.remove(V, mac(15)));
    fdb.forget_port(PortId(1));
    assert!(fdb.is_empty());
}

#[test]
fn a_static_entry_takes_over_a_learned_one() {
    let fdb = Fdb::new(16);
    fdb.learn(0, V, mac(1), PortId(1), 0);
    assert!(fdb.add_static(V, mac(1), PortId(2)));
    assert_eq!((fdb.len(), fdb.learned_on(PortId(1)), fdb.learned_on(PortId(2))), (1, 0, 0));
    fdb.learn(5, V, mac(1), PortId(1), 0);
    let e = fdb.entries(5, AGEING)[0];
    assert_eq!((e.port, e.age, e.is_static), (PortId(2), 0, true));
}

#[test]
fn a_sweep_looks_at_its_budget_only_and_goes_on_from_there() {
    let fdb = Fdb::new(16384);
    (0..1000).for_each(|n| fdb.learn(0, V, mac(n), PortId(1), 0));
    (1000..1100).for_each(|n| fdb.learn(50, V, mac(n), PortId(1), 0));
    fdb.add_static(V, mac(5000), PortId(1));
    fdb.sweep(AGEING, AGEING, usize::MAX);
    assert_eq!(fdb.len(), 1101, "old enough, but not too old");
    let before = fdb.len();
    fdb.sweep(AGEING + 1, AGEING, 64);
    // 64 of 4096 buckets.
    assert!((before - 60..before).contains(&fdb.len()), "{}", fdb.len());
    (0..63).for_each(|_| fdb.sweep(AGEING + 1, AGEING, 64));
    assert_eq!((fdb.len(), fdb.learned_on(PortId(1)), fdb.counters().aged), (101, 100, 1000));
}

#[test]
fn flushing_is_by_vlan_and_by_port() {
    let fdb = Fdb::new(1024);
    for v in 1..=2 {
        for p in 1..=2 {
            (0..10).for_each(|n| fdb.learn(0, vid(v), mac(u64::from(p) * 100 + n), PortId(p), 0));
        }
        fdb.add_static(vid(v), mac(999), PortId(1));
    }
    assert_eq!(fdb.flush(Some(vid(1)), Some(PortId(1))), 10);
    assert_eq!(fdb.flush(Some(vid(1)), Some(PortId(1))), 0);
    assert_eq!(fdb.flush(None, Some(PortId(1))), 10);
    assert_eq!((fdb.flush(Some(vid(2)), None), fdb.len()), (10, 12));
    fdb.forget_port(PortId(1));
    assert_eq!((fdb.flush(None, None), fdb.len()), (10, 0));
}

#[test]
fn resizing_keeps_entries_and_counters() {
    let fdb = Fdb::new(64);
    fdb.add_static(V, mac(1000), PortId(7));
    (0..70).for_each(|n| fdb.learn(n as u32, V, mac(n), PortId((n % 3) as u16), 0));
    let counters = fdb.counters();
    assert_eq!((counters.learned, counters.evicted), (70, 7));
    let sorted = |fdb: &Fdb| {
        let mut all = fdb.entries(100, AGEING);
        all.sort_unstable_by_key(|e| e.mac);
        all
    };
    let large = fdb.resized(100_000);
    assert_eq!((sorted(&large), large.counters()), (sorted(&fdb), counters));
    assert_eq!((0..3).map(|p| large.learned_on(PortId(p))).sum::<u32>(), 63);
    // Too small for all: the static one stays, and the newest of the others.
    let small = large.resized(16);
    assert_eq!((small.len(), found(&small, 100, 1000), small.max_macs()), (16, Some(7), 16));
    assert!((58..70).all(|n| found(&small, 100, n).is_some()));
    assert_eq!(small.counters().learned, 70);
}

/// Stamps are renewed, but a clock that another worker read a second ago does not turn them back.
#[test]
fn ages_follow_the_clock() {
    let fdb = Fdb::new(16);
    fdb.learn(100, V, mac(1), PortId(1), 0);
    fdb.learn(99, V, mac(1), PortId(1), 0);
    let age = |now| fdb.entries(now, AGEING)[0].age;
    assert_eq!((age(99), age(100), age(103)), (0, 0, 3));
    fdb.learn(103, V, mac(1), PortId(1), 0);
    assert_eq!(age(104), 1);
    assert!(fdb.entries(104 + AGEING, AGEING).is_empty());
    assert_eq!(fdb.len(), 1, "unseen until swept");
}

/// Readers and writers at once, on a table so small that slots change hands all the time: an answer is
/// always of the key that was asked for. Ports are derived from VLAN and address.
#[test]
fn no_key_gets_anothers_port_under_contention() {
    let port_of = |v: u64, n: u64| PortId((v * 1000 + n % 1000) as u16);
    let fdb = Fdb::new(16);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seed in 0..2u64 {
            let (fdb, done) = (&fdb, &done);
            scope.spawn(move || {
                let mut x = seed * 7919 + 1;
                for _ in 0..300_000 {
                    x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let (v, n) = (1 + (x >> 33) % 4, (x >> 40) % 64);
                    match x >> 60 {
                        0 => fdb.sweep(400, 100, 4),
                        1 => drop(fdb.remove(vid(v as u16), mac(n))),
                        _ => fdb.learn(1 + (x >> 50) as u32 % 500, vid(v as u16), mac(n), port_of(v, n), 0),
                    }
                }
                done.store(true, Relaxed);
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                let (mut hits, mut n) = (0u64, 0u64);
                while !done.load(Relaxed) {
                    n += 1;
                    let (v, n) = (1 + n % 4, n / 4 % 64);
                    if let Some(port) = fdb.lookup(500, u32::MAX, vid(v as u16), mac(n)) {
                        assert_eq!(port, port_of(v, n));
                        hits += 1;
                    }
                    for e in fdb.entries(500, u32::MAX) {
                        let n = e.mac.to_u64() - mac(0).to_u64();
                        assert_eq!(e.port, port_of(u64::from(e.vid.get()), n));
                    }
                }
                assert!(hits > 0);
            });
        }
    });
    assert_eq!(fdb.len(), fdb.entries(500, u32::MAX).len());
    let ports: u32 = (0..=u16::MAX).map(|p| fdb.learned_on(PortId(p))).sum();
    assert_eq!((ports as usize, fdb.len() <= 16), (fdb.len(), true));
}

proptest! {
    /// Whatever happens, the limits hold, the counts agree, and a learning port never costs a lighter one
    /// an entry.
    #[test]
    fn limits_and_fairness_hold(
        max in 16u32..40,
        steps in prop::collection::vec((0u16..6, 0u64..200, 0u32..3, 0u8..40), 1..400),
    ) {
        let fdb = Fdb::new(max);
        let (mut now, limits) = (0, [0, 0, 0, 5, 1, 20]);
        let counts = |fdb: &Fdb| (0..6).map(|p| fdb.learned_on(PortId(p))).collect::<Vec<_>>();
        for (port, n, wait, what) in steps {
            now += wait;
            let before = counts(&fdb);
            let was = found(&fdb, now, n);
            match what {
                0 => { fdb.add_static(V, mac(n), PortId(port)); }
                1 => { fdb.remove(V, mac(n)); }
                2 => { fdb.flush(None, Some(PortId(port))); }
                3 => fdb.sweep(now, 20, 1),
                _ => {
                    fdb.learn(now, V, mac(n), PortId(port), limits[usize::from(port)]);
                    let after = counts(&fdb);
                    for p in 0..6u16 {
                        let i = usize::from(p);
                        if after[i] < before[i] && p != port && was != Some(p) {
                            prop_assert!(before[i] > before[usize::from(port)], "{} took from {}", port, p);
                        }
                    }
                    let limit = limits[usize::from(port)];
                    prop_assert!(limit == 0 || after[usize::from(port)] <= limit);
                }
            }
            let entries = fdb.entries(now, u32::MAX);
            prop_assert!(fdb.len() <= max as usize && entries.len() == fdb.len());
            let learned = entries.iter().filter(|e| !e.is_static).count();
            prop_assert_eq!(counts(&fdb).iter().sum::<u32>() as usize, learned);
        }
    }
}
