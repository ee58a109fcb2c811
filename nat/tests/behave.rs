//! NAT behaviour, by RFC clause.

mod kit;

use kit::*;
use trunkline_nat::{Config, DropReason, Filtering, Path, Rule, RuleError, RuleId, Toward};

#[test]
fn udp_out_and_back_in_both_families() {
    for (a, ext, r) in [
        ("10.77.0.9:5000", "192.0.2.10:5000", "198.51.100.1:53"),
        ("[fd77::9]:5000", "[2001:db8::10]:5000", "[2001:db8:1::1]:53"),
    ] {
        let mut w = World::usual();
        let out = w.out(&udp(a, r, b"hello")).unwrap();
        assert_eq!(ends(&out), (addr(ext), addr(r)));
        let back = w.back(&udp(r, ext, b"you")).unwrap();
        assert_eq!(ends(&back), (addr(r), addr(a)));
    }
}

#[test]
fn rfc4787_req1_mapping_is_endpoint_independent() {
    let mut w = World::usual();
    let first = src(&w.out(&udp("10.77.0.9:700", "198.51.100.1:53", b"")).unwrap());
    for to in ["198.51.100.1:54", "198.51.100.2:53", "203.0.113.9:1"] {
        assert_eq!(src(&w.out(&udp("10.77.0.9:700", to, b"")).unwrap()), first);
    }
    assert_ne!(src(&w.out(&udp("10.77.0.8:700", "198.51.100.1:53", b"")).unwrap()), first);
}

#[test]
fn rfc4787_req2_pooling_is_paired() {
    let pool = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"];
    let rule = masquerade(&pool, (1024, 65535), Filtering::default());
    let mut w = World::new(Config::for_capacity(1 << 16), &[rule]);
    let mut seen = std::collections::HashSet::new();
    for host in 1..60 {
        let of = |w: &mut World, port| {
            src(&w.out(&udp(&format!("10.77.0.{host}:{port}"), "198.51.100.1:53", b"")).unwrap()).ip()
        };
        let first = of(&mut w, 2000);
        assert!((2001..2020).all(|port| of(&mut w, port) == first));
        seen.insert(first);
    }
    assert_eq!(seen.len(), 4, "all addresses of the pool are used");
}

#[test]
fn hosts_are_spread_over_the_pool_and_overflow_into_the_rest_of_it() {
    let pool = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
    for strict_eim in [false, true] {
        let rule = masquerade(&pool, (5000, 5099), Filtering::default());
        let mut w =
            World::new(Config { strict_eim, ..Config::for_capacity(1 << 12) }, std::slice::from_ref(&rule));
        let mut of = |host: u8, port: u16| {
            Some(src(&w.out(&udp(&format!("10.77.0.{host}:{port}"), "198.51.100.1:53", b"")).ok()?))
        };
        // Any three in a row have three addresses.
        let first: Vec<_> = (2..32).map(|host| of(host, 5000).unwrap().ip()).collect();
        assert!(first.windows(3).all(|w| w[0] != w[1] && w[1] != w[2] && w[0] != w[2]), "{first:?}");
        // One host alone has all of the pool, its own address first.
        let got: Vec<_> = (0..270).map(|i| of(2, 6000 + i).unwrap()).collect();
        assert!(got[..90].iter().all(|e| e.ip() == first[0]), "{got:?}");
        assert_eq!(got.iter().collect::<std::collections::HashSet<_>>().len(), 270);
        // Still one external endpoint for each inside (REQ-1).
        for (i, external) in got.iter().enumerate() {
            assert_eq!(of(2, 6000 + i as u16), Some(*external));
        }
    }
}

#[test]
fn rfc4787_req3_ports_are_preserved_and_not_overloaded_while_they_last() {
    let rule = masquerade(&["192.0.2.10"], (2000, 2009), Filtering::default());
    let mut w = World::new(Config { strict_eim: true, ..Config::for_capacity(64) }, &[rule]);
    let mut seen = std::collections::HashSet::new();
    for host in 1..=10 {
        // An answer and one more packet make it worth keeping.
        let a = format!("10.77.0.{host}:2003");
        let ext = src(&w.out(&udp(&a, "198.51.100.1:53", b"")).unwrap());
        w.back(&udp("198.51.100.1:53", &ext.to_string(), b"")).unwrap();
        w.out(&udp(&a, "198.51.100.1:53", b"")).unwrap();
        assert!(host != 1 || ext.port() == 2003);
        assert!((2000..=2009).contains(&ext.port()) && seen.insert(ext));
    }
    assert_eq!(w.out(&udp("10.77.0.11:2003", "198.51.100.9:53", b"")), Err(DropReason::NatNoPort));
    assert_eq!(w.nat.stats().early_drops, 0);
}

#[test]
fn transitory_mappings_give_way_before_ports_are_shared() {
    let rule = masquerade(&["192.0.2.10"], (2000, 2003), Filtering::default());
    let mut w = World::new(Config::for_capacity(64), &[rule]);
    for host in 1..=4 {
        let a = format!("10.77.0.{host}:9");
        let ext = src(&w.out(&udp(&a, "198.51.100.1:53", b"")).unwrap());
        if host != 3 {
            w.back(&udp("198.51.100.1:53", &ext.to_string(), b"")).unwrap();
            w.out(&udp(&a, "198.51.100.1:53", b"")).unwrap();
        }
    }
    w.out(&udp("10.77.0.5:9", "198.51.100.1:53", b"")).unwrap();
    assert_eq!((w.nat.stats().early_drops, w.nat.stats().shared_ports), (1, 0));
    assert!(w.nat.connections(w.now).all(|c| c.local.0.ip() != ip("10.77.0.3")));
}

#[test]
fn shared_ports_are_told_apart_by_destination() {
    let rule = masquerade(&["192.0.2.10"], (2000, 2000), Filtering::default());
    let mut w = World::new(Config::for_capacity(64), &[rule]);
    w.out(&udp("10.77.0.1:2000", "198.51.100.1:53", b"")).unwrap();
    w.back(&udp("198.51.100.1:53", "192.0.2.10:2000", b"")).unwrap();
    w.out(&udp("10.77.0.1:2000", "198.51.100.1:53", b"")).unwrap();
    let second = w.out(&udp("10.77.0.2:2000", "198.51.100.2:53", b"")).unwrap();
    assert_eq!((src(&second), w.nat.stats().shared_ports), (addr("192.0.2.10:2000"), 1));
    let back = w.back(&udp("198.51.100.2:53", "192.0.2.10:2000", b"")).unwrap();
    assert_eq!(dst(&back), addr("10.77.0.2:2000"));
    let back = w.back(&udp("198.51.100.1:53", "192.0.2.10:2000", b"")).unwrap();
    assert_eq!(dst(&back), addr("10.77.0.1:2000"));
    assert_eq!(w.out(&udp("10.77.0.3:2000", "198.51.100.1:53", b"")), Err(DropReason::NatNoPort));
}

#[test]
fn rfc4787_req5_and_req6_timers() {
    let mut w = World::usual();
    let (a, r, ext) = ("10.77.0.9:5000", "198.51.100.1:53", "192.0.2.10:5000");
    w.out(&udp(a, r, b"")).unwrap();
    w.pass(299_999);
    w.back(&udp(r, ext, b"")).unwrap();
    w.pass(299_999);
    w.out(&udp(a, r, b"")).unwrap();
    w.pass(299_999);
    assert!(w.back(&udp(r, ext, b"")).is_ok(), "outbound packets refresh");
    w.pass(301_000);
    assert_eq!(w.back(&udp(r, ext, b"")), Err(DropReason::NatUnsolicited));
}

#[test]
fn rfc4787_req8_filtering() {
    use Filtering::{Address, AddressAndPort, EndpointIndependent};
    for filtering in [EndpointIndependent, Address, AddressAndPort] {
        let mut w = World::with(filtering);
        w.out(&udp("10.77.0.9:5000", "198.51.100.1:53", b"")).unwrap();
        let ext = "192.0.2.10:5000";
        let other_port = w.back(&udp("198.51.100.1:54", ext, b""));
        let stranger = w.back(&udp("203.0.113.1:53", ext, b""));
        assert_eq!(other_port.is_ok(), filtering != AddressAndPort);
        assert_eq!(stranger.is_ok(), filtering == EndpointIndependent);
        for got in [other_port, stranger] {
            match got {
                Ok(frame) => assert_eq!(dst(&frame), addr("10.77.0.9:5000")),
                Err(reason) => assert_eq!(reason, DropReason::NatFiltered),
            }
        }
        w.pass(400_000);
        w.nat.tick(w.now, 1 << 20, &mut Sunk::default());
        assert_eq!((w.nat.stats().connections, w.nat.stats().mappings), (0, 0));
    }
}

#[test]
fn rfc4787_req9_hairpin_with_the_external_source() {
    for (a, b, a_ext, b_ext) in [
        ("10.77.0.9:5000", "10.77.0.8:6000", "192.0.2.10:5000", "192.0.2.10:6000"),
        ("[fd77::9]:5000", "[fd77::8]:6000", "[2001:db8::10]:5000", "[2001:db8::10]:6000"),
    ] {
        let mut w = World::with(Filtering::EndpointIndependent);
        let r = if a.starts_with('[') { "[2001:db8:1::1]:3478" } else { "198.51.100.1:3478" };
        w.out(&udp(a, r, b"")).unwrap();
        w.out(&udp(b, r, b"")).unwrap();
        let there = w.all(OUT, &udp(a, b_ext, b"x"));
        assert_eq!(there.sent[0].1, Toward::Inside(ZONE));
        let there = there.sent[0].0.to_vec();
        verify(&there);
        assert_eq!(ends(&there), (addr(a_ext), addr(b)));
        let back = w.out(&udp(b, a_ext, b"y")).unwrap();
        assert_eq!(ends(&back), (addr(b_ext), addr(a)));
        // Nobody outside may pretend to be us.
        assert_eq!(w.back(&udp(b_ext, a_ext, b"z")), Err(DropReason::NatLand));
    }
}

#[test]
fn published_ports_from_outside_from_inside_and_from_the_container_itself() {
    let (ext, server) = ("192.0.2.10:8080", "10.77.0.2:80");
    let mut w = World::usual();
    let syn = w.back(&tcp("198.51.100.7:999", ext, Seg::new(SYN, 5, 0))).unwrap();
    assert_eq!(ends(&syn), (addr("198.51.100.7:999"), addr(server)), "the client's address is kept");
    let answer = w.out(&tcp(server, "198.51.100.7:999", Seg::new(SYN | ACK, 9, 6))).unwrap();
    assert_eq!(src(&answer), addr(ext));
    for client in ["10.77.0.9:4000", "10.77.0.2:4001"] {
        let syn = w.out(&tcp(client, ext, Seg::new(SYN, 5, 0))).unwrap();
        let seen = format!("192.0.2.10:{}", addr(client).port());
        assert_eq!(ends(&syn), (addr(&seen), addr(server)));
        let answer = w.out(&tcp(server, &seen, Seg::new(SYN | ACK, 9, 6))).unwrap();
        assert_eq!(ends(&answer), (addr(ext), addr(client)));
    }
    assert_eq!(
        w.back(&tcp("198.51.100.7:999", "192.0.2.10:8081", Seg::new(SYN, 5, 0))),
        Err(DropReason::NatUnsolicited)
    );
}

#[test]
fn a_published_range_keeps_its_order_and_masquerade_keeps_off_it() {
    let range = |ports, to_ports| Rule::Publish {
        uplink: UP,
        proto: 17,
        external: ip("192.0.2.10"),
        ports,
        zone: ZONE,
        to: ip("10.77.0.2"),
        to_ports,
    };
    let m = masquerade(&["192.0.2.10"], (8000, 8020), Filtering::default());
    let mut w = World::new(Config::for_capacity(64), &[m, range((8000, 8010), (80, 90))]);
    for (i, port) in (8000..=8010).enumerate() {
        let got = w.back(&udp("198.51.100.7:9", &format!("192.0.2.10:{port}"), b"")).unwrap();
        assert_eq!(dst(&got).port(), 80 + i as u16);
    }
    for port in 8000..=8010 {
        let got = w.out(&udp(&format!("10.77.0.9:{port}"), "198.51.100.1:53", b""));
        assert!(got.map_or(true, |p| src(&p).port() > 8010));
    }
    let bad = [
        (range((8005, 8006), (1, 2)), RuleError::Conflict(RuleId(1))),
        (range((9000, 9010), (1, 2)), RuleError::RangeLength),
        (range((0, 10), (1, 11)), RuleError::BadRange),
        (masquerade(&["192.0.2.10", "2001:db8::1"], (1, 2), Filtering::default()), RuleError::Family),
        (masquerade(&["127.0.0.1"], (1, 2), Filtering::default()), RuleError::BadAddress),
    ];
    for (rule, error) in bad {
        assert_eq!(w.nat.add_rule(RuleId(9), rule), Err(error));
    }
}

#[test]
fn static_one_to_one_both_ways_and_for_every_protocol() {
    let rule = Rule::Static { zone: ZONE, inside: ip("10.77.0.5"), uplink: UP, external: ip("192.0.2.50") };
    let mut w = World::new(Config::for_capacity(64), &[rule]);
    let got = w.back(&tcp("198.51.100.7:9", "192.0.2.50:22", Seg::new(SYN, 5, 0))).unwrap();
    assert_eq!(dst(&got), addr("10.77.0.5:22"));
    assert_eq!(src(&w.out(&udp("10.77.0.5:7", "198.51.100.7:9", b"")).unwrap()), addr("192.0.2.50:7"));
    assert_eq!(dst(&w.back(&ping("198.51.100.7", "192.0.2.50", 77, false)).unwrap()), addr("10.77.0.5:77"));
    let answer = w.out(&ping("10.77.0.5", "198.51.100.7", 77, true)).unwrap();
    assert_eq!(src(&answer), addr("192.0.2.50:77"));
    let mut gre = udp("10.77.0.5:7", "198.51.100.7:9", b"");
    gre[23] = 47;
    fix_ipv4(&mut gre);
    assert_eq!(src(&w.out(&gre).unwrap()).ip(), ip("192.0.2.50"));
}

fn fix_ipv4(frame: &mut [u8]) {
    let h = etherparse::Ipv4Header::from_slice(&frame[14..]).unwrap().0;
    frame[24..26].copy_from_slice(&h.calc_header_checksum().to_be_bytes());
}

#[test]
fn protocols_without_ports_are_told_apart_by_address() {
    let mut w = World::usual();
    let esp = |from: &str, to: &str| {
        let mut b = udp(from, to, b"12345678");
        b[23] = 50;
        fix_ipv4(&mut b);
        b
    };
    assert_eq!(src(&w.out(&esp("10.77.0.9:1", "198.51.100.1:1")).unwrap()).ip(), ip("192.0.2.10"));
    assert_eq!(dst(&w.back(&esp("198.51.100.1:1", "192.0.2.10:1")).unwrap()).ip(), ip("10.77.0.9"));
    assert_eq!(w.out(&esp("10.77.0.8:1", "198.51.100.1:1")), Err(DropReason::NatNoPort));
    assert!(w.out(&esp("10.77.0.8:1", "198.51.100.2:1")).is_ok());
}

#[test]
fn rfc5508_queries_and_their_timer() {
    for (a, b, ext, r) in [
        ("10.77.0.9", "10.77.0.8", "192.0.2.10", "198.51.100.1"),
        ("fd77::9", "fd77::8", "2001:db8::10", "2001:db8:1::1"),
    ] {
        let mut w = World::usual();
        let first = src(&w.out(&ping(a, r, 3000, false)).unwrap());
        assert_eq!(first, std::net::SocketAddr::new(ip(ext), 3000));
        let second = src(&w.out(&ping(b, r, 3000, false)).unwrap());
        assert_ne!(second.port(), 3000, "one identifier, two hosts");
        let back = w.back(&ping(r, ext, second.port(), true)).unwrap();
        assert_eq!(dst(&back), std::net::SocketAddr::new(ip(b), 3000));
        assert_eq!(w.back(&ping(r, ext, 3000, false)), Err(DropReason::NatUnsolicited), "we are pinged");
        w.pass(59_999);
        assert!(w.back(&ping(r, ext, 3000, true)).is_ok());
        w.pass(61_000);
        assert_eq!(w.back(&ping(r, ext, 3000, true)), Err(DropReason::NatUnsolicited));
        assert_eq!(w.out(&ping(a, r, 4000, true)), Err(DropReason::NatIcmpType));
    }
}

#[test]
fn zones_keep_equal_addresses_apart() {
    let rule = |zone| match masquerade(&["192.0.2.10"], (1024, 65535), Filtering::default()) {
        Rule::Masquerade { from, uplink, pool, ports, filtering, .. } => {
            Rule::Masquerade { zone, from, uplink, pool, ports, filtering }
        }
        other => other,
    };
    let zones = [trunkline_nat::Zone(1), trunkline_nat::Zone(2)];
    let mut w = World::new(Config::for_capacity(64), &zones.map(rule));
    let p = udp("10.77.0.9:5000", "198.51.100.1:53", b"");
    let ext = zones.map(|z| src(&w.send(Path::Out(z, UP), &p).unwrap()));
    assert_ne!(ext[0], ext[1]);
    for (zone, ext) in zones.into_iter().zip(ext) {
        let sunk = w.all(IN, &udp("198.51.100.1:53", &ext.to_string(), b""));
        assert_eq!(sunk.sent[0].1, Toward::Inside(zone));
    }
}

#[test]
fn routed_connections_are_tracked_untranslated() {
    let mut w = World::new(Config::for_capacity(64), &[]);
    let (a, r) = ("[fd99::9]:5000", "[2001:db8:1::1]:53");
    assert_eq!(w.back(&udp(r, a, b"")), Err(DropReason::NatUnsolicited));
    let p = udp(a, r, b"");
    assert_eq!(w.out(&p), Ok(p));
    let p = udp(r, a, b"");
    assert_eq!(w.back(&p), Ok(p));
    let mut w = World::new(Config { route: false, ..Config::for_capacity(64) }, &[]);
    assert_eq!(w.out(&udp(a, r, b"")), Err(DropReason::NatNoRule));
}

#[test]
fn a_rule_that_goes_takes_its_entries_with_it() {
    let mut w = World::usual();
    let (client, ext) = ("198.51.100.7:999", "192.0.2.10:53");
    assert_eq!(dst(&w.back(&udp(client, ext, b"")).unwrap()), addr("10.77.0.2:53"));
    w.out(&udp("10.77.0.9:5000", "198.51.100.1:53", b"")).unwrap();
    assert!(w.nat.remove_rule(RuleId(3)) && !w.nat.remove_rule(RuleId(3)));
    w.nat.add_rule(RuleId(3), publish(17, ext, "10.77.0.3:53")).unwrap();
    let moved = w.back(&udp(client, ext, b"")).unwrap();
    assert_eq!(dst(&moved), addr("10.77.0.3:53"), "not to the container that is gone");
    assert_eq!(w.nat.counters(RuleId(3)).unwrap().flows, 1);
    assert!(w.back(&udp("198.51.100.1:53", "192.0.2.10:5000", b"")).is_ok(), "others stay");
    assert!(w.nat.remove_rule(RuleId(0)) && w.nat.remove_rule(RuleId(3)));
    w.nat.tick(w.now, 1000, &mut Sunk::default());
    assert_eq!((w.nat.stats().connections, w.nat.stats().mappings), (0, 0), "even if no packet meets them");
}

#[test]
fn a_port_that_becomes_published_is_taken_from_its_mapping() {
    let mut w = World::usual();
    w.out(&udp("10.77.0.9:5000", "198.51.100.1:53", b"")).unwrap();
    w.nat.add_rule(RuleId(9), publish(17, "192.0.2.10:5000", "10.77.0.3:53")).unwrap();
    assert_eq!(dst(&w.back(&udp("198.51.100.1:53", "192.0.2.10:5000", b"")).unwrap()), addr("10.77.0.3:53"));
    let again = w.out(&udp("10.77.0.9:5000", "198.51.100.1:53", b"")).unwrap();
    assert_ne!(src(&again).port(), 5000);
}

#[test]
fn rfc6888_req4_limits_per_source() {
    let rule = masquerade(&["192.0.2.10"], (1024, 65535), Filtering::default());
    let config = Config { source_limit: 10, source_ports: 5, ..Config::for_capacity(1000) };
    let mut w = World::new(config, &[rule]);
    for port in 1..=5 {
        let a = format!("10.77.0.9:{port}");
        let ext = src(&w.out(&udp(&a, "198.51.100.1:53", b"")).unwrap());
        w.back(&udp("198.51.100.1:53", &ext.to_string(), b"")).unwrap();
        w.out(&udp(&a, "198.51.100.1:53", b"")).unwrap();
    }
    assert_eq!(w.out(&udp("10.77.0.9:6", "198.51.100.1:53", b"")), Err(DropReason::NatSourcePorts));
    for port in 1..=5 {
        w.out(&udp("10.77.0.9:1", &format!("198.51.100.2:{port}"), b"")).unwrap();
    }
    assert_eq!(w.nat.stats().connections, 10);
    w.out(&udp("10.77.0.9:1", "198.51.100.2:6", b"")).unwrap();
    assert_eq!((w.nat.stats().connections, w.nat.stats().early_drops), (10, 1), "its own oldest gave way");
    assert!(w.out(&udp("10.77.0.8:1", "198.51.100.1:53", b"")).is_ok(), "others are not concerned");
}

#[test]
fn nobody_inside_leaves_under_an_address_of_ours() {
    let mut w = World::usual();
    for own in ["192.0.2.10:9", "[2001:db8::10]:9"] {
        let to = if own.starts_with('[') { "[2001:db8:1::1]:53" } else { "198.51.100.1:53" };
        assert_eq!(w.out(&udp(own, to, b"")), Err(DropReason::NatMartian));
    }
}

#[test]
fn martians_land_attacks_and_source_routes() {
    let mut w = World::usual();
    for src in ["127.0.0.1:1", "224.0.0.1:1", "0.0.0.0:1", "255.255.255.255:1"] {
        assert_eq!(w.out(&udp(src, "198.51.100.1:53", b"")), Err(DropReason::NatMartian));
        assert_eq!(w.back(&udp(src, "192.0.2.10:53", b"")), Err(DropReason::NatMartian));
    }
    assert_eq!(w.out(&udp("[::ffff:10.77.0.9]:1", "[2001:db8::1]:53", b"")), Err(DropReason::NatMartian));
    assert_eq!(w.back(&udp("192.0.2.10:53", "192.0.2.10:53", b"")), Err(DropReason::NatLand));
    let mut routed = udp("10.77.0.9:1", "198.51.100.1:53", b"12345678");
    routed.splice(34..34, [131, 7, 4, 1, 2, 3, 4, 0]);
    routed[14] = 0x47;
    routed[17] += 8;
    fix_ipv4(&mut routed);
    assert_eq!(w.out(&routed), Err(DropReason::NatSourceRoute));
}
