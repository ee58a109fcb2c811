//! Replacing rules, and hosts that are reached untranslated.

mod kit;

use kit::*;
use trunkline_nat::{Config, DropReason, Filtering, Rule, RuleError, RuleId};

fn all() -> Vec<(RuleId, Rule)> {
    [
        masquerade(&["192.0.2.10"], (1024, 65535), Filtering::default()),
        publish(6, "192.0.2.10:8080", "10.77.0.2:80"),
        publish(6, "192.0.2.10:8443", "10.77.0.2:443"),
        Rule::Static { zone: ZONE, inside: ip("10.77.0.5"), uplink: UP, external: ip("192.0.2.50") },
    ]
    .into_iter()
    .enumerate()
    .map(|(i, rule)| (RuleId(i as u32), rule))
    .collect()
}

/// A world with these rules, and a connection under each.
fn world() -> World {
    let mut w = World::new(Config::for_capacity(64), &[]);
    w.nat.set_rules(&all(), &[]).unwrap();
    w.out(&udp("10.77.0.9:5000", "198.51.100.1:53", b"")).unwrap();
    w.back(&tcp("198.51.100.7:9", "192.0.2.10:8080", Seg::new(SYN, 5, 0))).unwrap();
    w.back(&tcp("198.51.100.7:9", "192.0.2.10:8443", Seg::new(SYN, 5, 0))).unwrap();
    w.back(&udp("198.51.100.7:9", "192.0.2.50:1000", b"")).unwrap();
    w
}

fn flows(w: &World) -> Vec<u64> {
    (0..5).map(|i| w.nat.counters(RuleId(i)).map_or(99, |c| c.flows)).collect()
}

/// Connections by rule, once what is to go has gone.
fn left(w: &mut World) -> Vec<u32> {
    w.nat.tick(w.now, 1000, &mut Sunk::default());
    let mut rules: Vec<u32> = w.nat.connections(w.now).filter_map(|c| Some(c.rule?.0)).collect();
    rules.sort_unstable();
    rules
}

#[test]
fn the_same_rules_change_nothing() {
    let mut w = world();
    w.nat.set_rules(&all(), &[]).unwrap();
    assert_eq!((left(&mut w), flows(&w)), (vec![0, 1, 2, 3], vec![1, 1, 1, 1, 99]));
}

#[test]
fn only_entries_of_changed_and_removed_rules_go() {
    let mut w = world();
    let mut rules = all();
    // Another target, one gone, and a new one before the others.
    rules[1].1 = publish(6, "192.0.2.10:8080", "10.77.0.3:80");
    rules.remove(2);
    rules.insert(0, (RuleId(4), publish(17, "192.0.2.10:99", "10.77.0.2:99")));
    w.nat.set_rules(&rules, &[]).unwrap();
    assert_eq!(left(&mut w), [0, 3]);
    assert_eq!(flows(&w), [1, 1, 99, 1, 0], "counters stay with the identifier");
    // What went on goes on under the same port, and the changed rule leads to the new target.
    assert_eq!(
        dst(&w.back(&udp("198.51.100.1:53", "192.0.2.10:5000", b"")).unwrap()),
        addr("10.77.0.9:5000")
    );
    let syn = tcp("198.51.100.7:9", "192.0.2.10:8080", Seg::new(SYN, 5, 0));
    assert_eq!(dst(&w.back(&syn).unwrap()), addr("10.77.0.3:80"));
    assert_eq!(flows(&w)[1], 2);
    let gone = tcp("198.51.100.7:9", "192.0.2.10:8443", Seg::new(SYN, 5, 0));
    assert_eq!(w.back(&gone), Err(DropReason::NatUnsolicited));
    w.nat.set_rules(&[], &[]).unwrap();
    assert!(left(&mut w).is_empty());
    assert_eq!(w.nat.stats().mappings, 0);
}

#[test]
fn a_bad_list_changes_nothing() {
    let mut w = world();
    let bad = [
        (RuleId(7), publish(6, "192.0.2.10:8443", "10.77.0.9:1"), RuleError::Conflict(RuleId(2))),
        (RuleId(1), publish(6, "192.0.2.10:1", "10.77.0.9:1"), RuleError::Exists(RuleId(1))),
        (RuleId(7), publish(1, "192.0.2.10:1", "10.77.0.9:1"), RuleError::BadProto),
        (
            RuleId(7),
            masquerade(&["192.0.2.50"], (1, 2), Filtering::default()),
            RuleError::Conflict(RuleId(3)),
        ),
    ];
    for (id, rule, error) in bad {
        let mut rules = all();
        // Would be a change by itself.
        rules[0].1 = masquerade(&["192.0.2.11"], (1024, 65535), Filtering::default());
        rules.push((id, rule));
        assert_eq!(w.nat.set_rules(&rules, &[]), Err((id, error)));
        assert_eq!(left(&mut w), [0, 1, 2, 3]);
    }
}

#[test]
fn the_first_masquerade_that_fits_counts_in_the_order_of_the_list() {
    let (a, b) = (
        (RuleId(1), masquerade(&["192.0.2.11"], (1024, 65535), Filtering::default())),
        (RuleId(2), masquerade(&["192.0.2.12"], (1024, 65535), Filtering::default())),
    );
    let mut w = World::new(Config::for_capacity(64), &[]);
    let from = |w: &mut World| src(&w.out(&udp("10.77.0.9:5000", "198.51.100.1:53", b"")).unwrap()).ip();
    w.nat.set_rules(&[a.clone(), b.clone()], &[]).unwrap();
    assert_eq!(from(&mut w), ip("192.0.2.11"));
    w.nat.set_rules(&[b.clone(), a.clone()], &[]).unwrap();
    assert_eq!(from(&mut w), ip("192.0.2.12"));
    w.nat.set_rules(&[b, a], &[]).unwrap();
    assert_eq!(left(&mut w), [2]);
}

#[test]
fn ipv6_without_nat_is_routed_and_filtered_statefully() {
    let permit = |proto, host: &str| publish(proto, host, host);
    let rules = [
        permit(6, "[2001:db8:77::2]:80"),
        Rule::Static { zone: ZONE, inside: ip("2001:db8:77::5"), uplink: UP, external: ip("2001:db8:77::5") },
    ];
    let mut w = World::new(Config::for_capacity(64), &rules);
    let (host, far) = ("[2001:db8:77::2]:5000", "[2001:db8:1::1]:443");
    // Out, and what answers.
    let syn = tcp(host, far, Seg::new(SYN, 1, 0));
    assert_eq!(w.out(&syn), Ok(syn.clone()), "untouched");
    let answer = tcp(far, host, Seg::new(SYN | ACK, 7, 2));
    assert_eq!(w.back(&answer), Ok(answer.clone()));
    assert_eq!(
        w.back(&tcp("[2001:db8:1::2]:443", host, Seg::new(SYN | ACK, 7, 2))),
        Err(DropReason::NatUnsolicited)
    );
    // Too big, about a packet that went out.
    let error = too_big("2001:db8:9::9", "2001:db8:77::2", &syn, 60);
    assert_eq!(w.back(&error), Ok(error.clone()));
    // In only what is allowed.
    let to_web = tcp(far, "[2001:db8:77::2]:80", Seg::new(SYN, 1, 0));
    assert_eq!(w.back(&to_web), Ok(to_web.clone()));
    for shut in ["[2001:db8:77::2]:81", "[2001:db8:77::3]:80"] {
        assert_eq!(w.back(&tcp(far, shut, Seg::new(SYN, 1, 0))), Err(DropReason::NatUnsolicited));
    }
    assert_eq!(w.back(&udp(far, "[2001:db8:77::2]:80", b"")), Err(DropReason::NatUnsolicited));
    assert_eq!(w.back(&ping("2001:db8:1::1", "2001:db8:77::2", 7, false)), Err(DropReason::NatUnsolicited));
    // A host that all may reach.
    let open = ping("2001:db8:1::1", "2001:db8:77::5", 7, false);
    assert_eq!(w.back(&open), Ok(open.clone()));
    let open = udp(far, "[2001:db8:77::5]:9", b"");
    assert_eq!(w.back(&open), Ok(open.clone()));
    // Without a rule nobody leaves, if that is asked for.
    let mut w = World::new(Config { route: false, ..Config::for_capacity(64) }, &[]);
    assert_eq!(w.out(&syn), Err(DropReason::NatNoRule));
}

#[test]
fn nat66_many_behind_one_and_one_to_one() {
    let rules = [
        masquerade(&["2001:db8::10"], (1024, 65535), Filtering::default()),
        Rule::Static { zone: ZONE, inside: ip("fd77::5"), uplink: UP, external: ip("2001:db8::50") },
    ];
    let mut w = World::new(Config::for_capacity(64), &rules);
    let far = "[2001:db8:1::1]:443";
    let a = src(&w.out(&tcp("[fd77::8]:5000", far, Seg::new(SYN, 1, 0))).unwrap());
    let b = src(&w.out(&tcp("[fd77::9]:5000", far, Seg::new(SYN, 1, 0))).unwrap());
    assert_eq!((a, b.ip()), (addr("[2001:db8::10]:5000"), ip("2001:db8::10")));
    assert_ne!(a, b);
    assert_eq!(src(&w.out(&ping("fd77::8", "2001:db8:1::1", 7, false)).unwrap()).ip(), ip("2001:db8::10"));
    let back = w.back(&ping("2001:db8:1::1", "2001:db8::50", 9, false)).unwrap();
    assert_eq!(dst(&back).ip(), ip("fd77::5"));
    assert_eq!(src(&w.out(&udp("[fd77::5]:7", far, b"")).unwrap()), addr("[2001:db8::50]:7"));
}
