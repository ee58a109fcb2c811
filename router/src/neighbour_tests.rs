use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

const IF: IfaceId = IfaceId(3);

fn mac(n: u64) -> MacAddr {
    MacAddr::from_u64(0x0200_0000_0000 | n)
}

fn addr(n: u32) -> IpAddr {
    IpAddr::V4((0x0a00_0000 | n).into())
}

const ANSWER: Word = Word::Answer { solicited: true, replaces: true };

fn requests(table: &Neighbours, now: u64) -> Vec<Request> {
    let mut all = Vec::new();
    table.tick(now, |r| all.push(r));
    all
}

#[test]
fn the_life_of_an_entry() {
    let t = Neighbours::new(Limits::default());
    let a = addr(1);
    assert_eq!(t.resolve(0, IF, a), Lookup::Ask);
    assert_eq!(t.resolve(1, IF, a), Lookup::Wait);
    assert!(requests(&t, 999).is_empty());
    assert_eq!(requests(&t, 1000), [Request { iface: IF, addr: a, mac: None }]);
    let generation = t.generation();
    assert!(t.learn(1100, IF, a, mac(1), ANSWER));
    assert_ne!(t.generation(), generation);
    assert_eq!(t.resolve(31_100, IF, a), Lookup::Mac(mac(1)));
    assert_eq!(t.next_due(), 2000, "of what was due before");
    assert!(requests(&t, 31_100).is_empty());
    assert_eq!(t.next_due(), u64::MAX);
    // Not heard of for 30 seconds: used, and asked after five more.
    assert_eq!(t.resolve(31_101, IF, a), Lookup::Mac(mac(1)));
    assert_eq!(t.next_due(), 36_101);
    for now in [36_101, 37_101, 38_101] {
        assert_eq!(requests(&t, now), [Request { iface: IF, addr: a, mac: Some(mac(1)) }]);
        assert_eq!(t.resolve(now, IF, a), Lookup::Mac(mac(1)));
    }
    assert!(requests(&t, 39_101).is_empty());
    assert!(t.list(39_101).is_empty());
    assert_eq!(t.resolve(39_102, IF, a), Lookup::Ask);
    for now in [40_102, 41_102, 42_102] {
        requests(&t, now);
    }
    assert_eq!(t.resolve(42_103, IF, a), Lookup::Unreachable);
    assert_eq!(t.resolve(43_200, IF, a), Lookup::Ask);
}

#[test]
fn one_interface_leaves_room_for_others_and_a_scan_for_who_answers() {
    let limits = Limits { total: 64, per_iface: 32, unresolved: 8 };
    let t = Neighbours::new(limits);
    let mut known = 0;
    for n in 0..100 {
        if t.resolve(0, IF, addr(n)) == Lookup::Ask {
            known += u32::from(t.learn(0, IF, addr(n), mac(u64::from(n)), ANSWER));
        }
    }
    assert!((16..=32).contains(&known), "{known}");
    let scan = (1000..3000).filter(|&n| t.resolve(10, IF, addr(n)) == Lookup::Ask).count();
    assert!(scan <= 8);
    let answering = t.list(10).iter().filter(|n| n.state == State::Reachable).count() as u32;
    assert_eq!(answering, known, "nobody who answers gave way");
    let other = (0..100).filter(|&n| t.resolve(0, IfaceId(4), addr(n)) == Lookup::Ask).count();
    assert_eq!(other, 8);
    // What nobody has heard of for long gives way.
    requests(&t, 1);
    for now in 0..10 {
        requests(&t, 100_000 + now * 1000);
    }
    assert_eq!(t.resolve(120_000, IF, addr(9999)), Lookup::Ask);
}

#[test]
fn static_entries_obey_only_who_made_them() {
    let t = Neighbours::new(Limits::default());
    t.set_static(0, IF, &[(addr(1), mac(1)), (addr(2), mac(2))]);
    assert!(!t.learn(1, IF, addr(1), mac(9), ANSWER));
    assert_eq!(t.resolve(1_000_000, IF, addr(1)), Lookup::Mac(mac(1)));
    t.set_static(0, IF, &[(addr(2), mac(3))]);
    assert_eq!(t.resolve(0, IF, addr(1)), Lookup::Ask);
    assert_eq!(t.resolve(0, IF, addr(2)), Lookup::Mac(mac(3)));
    t.forget(IF);
    assert!(t.list(0).is_empty());
    assert_eq!(t.resolve(0, IfaceId(9), addr(2)), Lookup::Ask, "counts are right again");
}

#[test]
fn a_reader_never_sees_another_s_address() {
    let t = Arc::new(Neighbours::new(Limits { total: 8, per_iface: 64, unresolved: 64 }));
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..2)
        .map(|w| {
            let (t, stop) = (Arc::clone(&t), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut now = 0;
                while !stop.load(Ordering::Relaxed) {
                    now += 40_000;
                    for n in 0..64 {
                        let n = n * 2 + w;
                        t.resolve(now, IF, addr(n));
                        t.learn(now, IF, addr(n), mac(u64::from(n)), ANSWER);
                    }
                    t.tick(now, |_| ());
                }
            })
        })
        .collect();
    for _ in 0..20_000 {
        for n in 0..8 {
            if let Some((_, value)) = t.find(IF, bits(addr(n)))
                && matches!(value.state(), State::Reachable | State::Stale)
            {
                assert_eq!(value.mac(), mac(u64::from(n)));
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    writers.into_iter().for_each(|w| w.join().unwrap());
}
