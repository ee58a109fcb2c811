//! Routing: who gets where, and what happens to those who do not.

mod kit;

use kit::*;
use trunkline_packet::{Checksum, DropReason, Gso, GsoKind, MacAddr, Offload};
use trunkline_router::{Kind, Limits, Received, Route, TableError, Tables, Zone};

#[test]
fn pings_of_our_addresses_are_answered_v4_and_v6_whole_and_in_fragments() {
    let mut rig = Rig::new();
    let link_local = trunkline_router::link_local(MACS[0]).to_string();
    let cases = [
        ("10.77.0.9", "10.77.0.1"),
        ("fd77::9", "fd77::1"),
        ("10.77.0.9", "192.0.2.10"),
        ("fe80::9", &link_local),
    ];
    for (src, dst) in cases {
        for payload in [&b""[..], b"x", &[7; 1400], &[9; 3000]] {
            let frame = ping(A, src, dst, payload);
            let out = rig.receive(A, &frame);
            let (at, reply, made) = &out.sent[0];
            assert_eq!((*at, *made, &reply[..6], &reply[6..12]), (A, true, &HOST.0[..], &MACS[0].0[..]));
            assert_valid(reply);
            assert_eq!(reply[reply.len() - payload.len()..], *payload);
            assert_eq!(icmp(reply), if ip(src).is_ipv4() { (0, 0) } else { (129, 0) });
            assert_eq!(out.consumed, 1);
            rig.take();
        }
    }
    // Each fragment by itself: together they are the reply.
    let whole = ping(A, "10.77.0.9", "10.77.0.1", &[3; 3000]);
    let mut unfragmented = whole.clone();
    dont_fragment(&mut unfragmented, false);
    let mut parts = Vec::new();
    let packet = rig.packet(&unfragmented);
    trunkline_packet::fragment_v4(packet, 1500, &mut rig.pool, &mut parts).unwrap();
    for part in parts {
        rig.receive_packet(A, part);
    }
    let replies = rig.take().sent;
    assert_eq!(replies.len(), 3);
    let data: Vec<u8> = replies.iter().flat_map(|(_, f, _)| f[34..].to_vec()).collect();
    rig.receive(A, &whole);
    assert_eq!(data, rig.take().sent[0].1[34..]);
}

#[test]
fn a_partial_checksum_of_a_ping_stays_partial_and_right() {
    let mut rig = Rig::new();
    for (src, dst, l4) in [("10.77.0.9", "10.77.0.1", 34u16), ("fd77::9", "fd77::1", 54)] {
        let full = ping(A, src, dst, b"abc");
        let mut partial = full.clone();
        let at = usize::from(l4);
        let pseudo = match ip(src) {
            std::net::IpAddr::V4(_) => 0,
            std::net::IpAddr::V6(_) => {
                let h = trunkline_packet::Headers::of_frame(&full).unwrap();
                h.pseudo(&full, (full.len() - at) as u32).fold()
            }
        };
        partial[at + 2..at + 4].copy_from_slice(&pseudo.to_be_bytes());
        let mut packet = rig.packet(&partial);
        packet.meta_mut().offload.csum = Checksum::Partial { start: l4, offset: 2 };
        rig.receive_packet(A, packet);
        let out = rig.take();
        let mut reply = rig.packet(&out.sent[0].1);
        reply.meta_mut().offload = out.offloads[0];
        assert!(matches!(reply.meta().offload.csum, Checksum::Partial { .. }));
        trunkline_packet::checksum::complete(&mut reply).unwrap();
        assert_valid(&reply.to_vec());
    }
}

#[test]
fn forwarded_packets_lose_one_hop_and_get_new_link_headers() {
    let mut rig = Rig::new();
    rig.know(B, "10.78.0.5", PEER);
    rig.know(UP, "192.0.2.1", PEER);
    let out = rig.receive(A, &udp(A, "10.77.0.9", "10.78.0.5", 2, b"hello"));
    let (at, sent, made) = &out.sent[0];
    assert_eq!((*at, *made, &sent[..6], &sent[6..12], sent[22]), (B, false, &PEER.0[..], &MACS[1].0[..], 1));
    assert_valid(sent);
    let out = rig.receive(A, &udp(A, "10.77.0.9", "198.51.100.1", 64, b"out"));
    assert_eq!((out.sent[1].0, &out.sent[1].1[..6]), (UP, &PEER.0[..]));
    rig.know(B, "fd78::5", PEER);
    let out = rig.receive(A, &udp(A, "fd77::9", "fd78::5", 64, b"six"));
    assert_eq!(out.sent[2].1[21], 63);
    assert_valid(&out.sent[2].1);
    assert!(out.dropped.is_empty());
}

#[test]
fn a_superframe_goes_whole_with_its_metadata() {
    let mut rig = Rig::new();
    rig.know(B, "10.78.0.5", PEER);
    let mut frame = Vec::new();
    build(A, "10.77.0.9", "10.78.0.5", 64).tcp(1, 2, 3, 4).write(&mut frame, &vec![5; 60_000]).unwrap();
    let offload = Offload {
        csum: Checksum::Partial { start: 34, offset: 16 },
        gso: Gso { kind: GsoKind::TcpV4, ecn: false, size: 1448 },
    };
    let mut packet = rig.packet(&frame);
    packet.meta_mut().offload = offload;
    let out = rig.receive_packet(A, packet);
    assert_eq!((out.sent.len(), out.sent[0].1.len(), out.offloads[0]), (1, frame.len(), offload));
    // Segments larger than the way: the sender is told.
    let mut packet = rig.packet(&frame);
    packet.meta_mut().offload = Offload { gso: Gso { size: 1461, ..offload.gso }, ..offload };
    let out = rig.receive_packet(A, packet);
    assert_eq!((icmp(&out.sent[1].1), &out.dropped[..]), ((3, 4), &[(A, DropReason::RouterTooBig)][..]));
}

#[test]
fn the_last_hop_is_told_to_the_sender() {
    let mut rig = Rig::new();
    for (src, dst, error) in [("10.77.0.9", "198.51.100.1", (11, 0)), ("fd77::9", "2001:db8:1::1", (3, 0))] {
        for ttl in [0, 1] {
            let out = rig.receive(A, &udp(A, src, dst, ttl, b"late"));
            let (at, sent, made) = &out.sent[0];
            assert_eq!((*at, *made, icmp(sent), &sent[..6]), (A, true, error, &HOST.0[..]));
            assert_valid(sent);
            assert_eq!(rig.take().dropped, [(A, DropReason::RouterTtl)]);
        }
    }
}

#[test]
fn too_big_is_told_with_the_mtu_or_cut() {
    let mut all = ifaces();
    all[2].mtu = 1400;
    let mut rig = Rig::with(all, &routes(), Limits::default());
    rig.know(UP, "192.0.2.1", PEER);
    let payload = [1; 1400];
    let mut frame = udp(A, "10.77.0.9", "198.51.100.1", 64, &payload);
    dont_fragment(&mut frame, true);
    let out = rig.receive(A, &frame);
    assert_eq!((icmp(&out.sent[0].1), &out.sent[0].1[40..42]), ((3, 4), &1400u16.to_be_bytes()[..]));
    assert_valid(&out.sent[0].1);
    assert_eq!(rig.take().dropped, [(A, DropReason::RouterTooBig)]);
    let out = rig.receive(A, &udp(A, "fd77::9", "2001:db8:1::1", 64, &payload));
    assert_eq!((icmp(&out.sent[0].1), &out.sent[0].1[58..62]), ((2, 0), &1400u32.to_be_bytes()[..]));
    rig.take();
    dont_fragment(&mut frame, false);
    let out = rig.receive(A, &frame);
    assert_eq!(out.sent.iter().map(|s| s.2).collect::<Vec<_>>(), [false, true], "one came, one was made");
    let data: Vec<u8> = out.sent.iter().flat_map(|s| s.1[34..].to_vec()).collect();
    assert_eq!(data[8..], payload);
    out.sent.iter().for_each(|s| {
        assert!(s.1.len() <= 1414);
        assert_valid(&s.1);
    });
}

#[test]
fn translated_packets_that_cannot_go_on_are_complained_about_where_they_were_to_leave() {
    let mut rig = Rig::new();
    let (now, pool, out) = (rig.now, &mut rig.pool, &mut rig.out);
    let mut packet = pool.get();
    packet.set_bytes(&udp(UP, "198.51.100.1", "10.77.0.9", 1, b"in"), pool).unwrap();
    rig.router.inside(now, Zone(1), packet, pool, out);
    let (at, error) = out.injected.pop().unwrap();
    assert_eq!(
        (at, icmp(&error.to_vec()), &out.dropped[..]),
        (A, (11, 0), &[(A, DropReason::RouterTtl)][..])
    );
    assert_eq!(error.to_vec()[26..34], [10, 77, 0, 1, 198, 51, 100, 1]);
    // It goes the way of packets from inside, to be translated back.
    match rig.router.reroute(now, at, error, pool, out) {
        Received::Forward(_, hop) => assert_eq!((hop.iface, hop.next), (UP, ip("192.0.2.1"))),
        other => panic!("{other:?}"),
    }
}

#[test]
fn errors_on_their_way_inside_come_from_the_gateway_there() {
    let mut rig = Rig::new();
    for (from, to, gateway) in
        [("192.0.2.10", "10.77.0.9", "10.77.0.1"), ("2001:db8::10", "fd77::9", "fd77::1")]
    {
        let mut error = Vec::new();
        let b = build(UP, from, to, 64);
        match ip(from).is_ipv4() {
            true => b.icmpv4_raw(3, 1, [0; 4]).write(&mut error, b"about").unwrap(),
            false => b.icmpv6_raw(1, 3, [0; 4]).write(&mut error, b"about").unwrap(),
        }
        let mut packet = rig.packet(&error);
        rig.router.sign(Zone(1), &mut packet);
        let signed = packet.to_vec();
        assert_valid(&signed);
        let source: std::net::IpAddr = match ip(from).is_ipv4() {
            true => <[u8; 4]>::try_from(&signed[26..30]).unwrap().into(),
            false => <[u8; 16]>::try_from(&signed[22..38]).unwrap().into(),
        };
        assert_eq!(source, ip(gateway));
    }
}

#[test]
fn nobody_is_told_about_errors_fragments_or_groups_and_not_too_often() {
    let mut rig = Rig::new();
    let mut fragment = udp(A, "10.77.0.9", "198.51.100.1", 1, b"late");
    fragment[21] = 1;
    fix_v4(&mut fragment);
    assert!(rig.receive(A, &fragment).sent.is_empty());
    let mut error = Vec::new();
    let unreachable =
        etherparse::Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::Host);
    build(A, "10.77.0.9", "198.51.100.1", 1).icmpv4(unreachable).write(&mut error, &[0; 28]).unwrap();
    assert!(rig.receive(A, &error).sent.is_empty());
    for _ in 0..300 {
        rig.receive(A, &udp(A, "10.77.0.9", "198.51.100.1", 1, b"late"));
    }
    assert_eq!(rig.take().sent.len(), 50, "RFC 4443 §2.4(f)");
}

#[test]
fn hosts_inside_are_told_of_closed_ports_and_missing_routes_the_world_is_not() {
    let mut rig = Rig::with(ifaces(), &[], Limits::default());
    for (dst, v4, error, reason) in [
        ("10.77.0.1", true, (3, 3), DropReason::RouterClosed),
        ("198.51.100.1", true, (3, 0), DropReason::RouterNoRoute),
        ("fd77::1", false, (1, 4), DropReason::RouterClosed),
        ("2001:db8:1::1", false, (1, 0), DropReason::RouterNoRoute),
    ] {
        let out = rig.receive(A, &udp(A, if v4 { "10.77.0.9" } else { "fd77::9" }, dst, 64, b"x"));
        assert_eq!(out.sent.len(), 1, "{dst}");
        assert_eq!(icmp(&out.sent[0].1), error, "{dst}");
        assert_eq!(rig.take().dropped, [(A, reason)]);
    }
    let out = rig.receive(UP, &udp(UP, "192.0.2.77", "192.0.2.10", 64, b"x"));
    assert!(out.sent.is_empty());
    assert_eq!(out.dropped, [(UP, DropReason::RouterClosed)]);
}

#[test]
fn what_may_not_be_is_dropped_for_its_reason() {
    use DropReason as R;
    let mut rig = Rig::new();
    let good = || udp(A, "10.77.0.9", "10.78.0.5", 64, b"x");
    let v4 = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut f = good();
        change(&mut f);
        fix_v4(&mut f);
        f
    };
    let option = |bytes: [u8; 4]| {
        v4(&|f| {
            f.splice(34..34, bytes);
            f[14] = 0x46;
            let len = (f.len() - 14) as u16;
            f[16..18].copy_from_slice(&len.to_be_bytes());
        })
    };
    let mut sum = good();
    sum[24] ^= 1;
    let mut tagged = good();
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    let mut routing = udp(A, "fd77::9", "fd78::5", 64, b"x");
    routing[20] = 43;
    routing.splice(54..54, [17, 0, 4, 1, 0, 0, 0, 0]);
    let len = (routing.len() - 54) as u16;
    routing[18..20].copy_from_slice(&len.to_be_bytes());
    let cases: Vec<(&str, Vec<u8>, R)> = vec![
        ("another MAC", v4(&|f| f[5] = 77), R::RouterNotOurs),
        ("empty", vec![], R::RouterNotOurs),
        ("cut", good()[..30].to_vec(), R::RouterMalformed),
        ("longer than the frame", v4(&|f| f[16] = 9), R::RouterMalformed),
        ("checksum", sum, R::RouterChecksum),
        ("an inner tag", tagged, R::RouterNotIp),
        ("a PPPoE frame", v4(&|f| f[12..14].copy_from_slice(&[0x88, 0x64])), R::RouterNotIp),
        ("from loopback", v4(&|f| f[26] = 127), R::RouterMartian),
        ("from a group", v4(&|f| f[26] = 239), R::RouterMartian),
        ("from this network", v4(&|f| f[26] = 0), R::RouterMartian),
        ("to loopback", v4(&|f| f[30] = 127), R::RouterMartian),
        ("to class E", v4(&|f| f[30] = 241), R::RouterMartian),
        ("land", v4(&|f| f.copy_within(30..34, 26)), R::RouterMartian),
        ("loose source route", option([131, 4, 4, 0]), R::RouterSourceRoute),
        ("strict source route", option([137, 4, 4, 0]), R::RouterSourceRoute),
        ("a cut option", option([7, 9, 4, 0]), R::RouterMalformed),
        ("an option without length", option([1, 1, 7, 0]), R::RouterMalformed),
        ("another's broadcast", udp(A, "10.77.0.9", "10.78.0.255", 64, b"x"), R::RouterBroadcast),
        ("a link broadcast", v4(&|f| f[..6].fill(255)), R::RouterBroadcast),
        ("a routing header", routing, R::RouterSourceRoute),
        ("from nobody", udp(A, "::", "fd78::5", 64, b"x"), R::RouterMartian),
        ("from all", udp(A, "ff02::1", "fd78::5", 64, b"x"), R::RouterMartian),
        ("mapped", udp(A, "::ffff:10.77.0.9", "fd78::5", 64, b"x"), R::RouterMartian),
        ("to loopback v6", udp(A, "fd77::9", "::1", 64, b"x"), R::RouterMartian),
        ("from a link", udp(A, "fe80::9", "fd78::5", 64, b"x"), R::RouterScope),
        ("to a link", udp(A, "fd77::9", "fe80::9", 64, b"x"), R::RouterScope),
    ];
    for (what, frame, reason) in cases {
        rig.receive(A, &frame);
        let out = rig.take();
        assert_eq!(out.dropped, [(A, reason)], "{what}");
        assert!(out.sent.is_empty() && out.consumed == 0, "{what}");
    }
    // What is for everybody is no error.
    for (what, frame) in [
        ("multicast", v4(&|f| f[30] = 239)),
        ("broadcast", udp(A, "10.77.0.9", "255.255.255.255", 64, b"x")),
        ("our broadcast", udp(A, "10.77.0.9", "10.77.0.255", 64, b"x")),
        ("LLDP", v4(&|f| f[..14].copy_from_slice(&[1, 0x80, 0xc2, 0, 0, 14, 2, 0, 0, 0, 0, 9, 0x88, 0xcc]))),
        ("MLD", udp(A, "fe80::9", "ff02::16", 1, b"x")),
    ] {
        rig.receive(A, &frame);
        let out = rig.take();
        assert_eq!((out.consumed, out.dropped.len(), out.sent.len()), (1, 0, 0), "{what}");
    }
    for src in ["10.77.0.1", "192.0.2.10"] {
        let dst = if src == "10.77.0.1" { "192.0.2.10" } else { "10.77.0.1" };
        rig.receive(A, &ping(A, src, dst, b"x"));
        assert_eq!(rig.take().dropped, [(A, R::RouterMartian)], "our own address as the source");
    }
}

#[test]
fn padding_of_the_link_is_cut() {
    let mut rig = Rig::new();
    rig.know(B, "10.78.0.5", PEER);
    let frame = udp(A, "10.77.0.9", "10.78.0.5", 64, b"");
    let out = rig.receive(A, &[&frame[..], &[0xee; 18]].concat());
    assert_eq!(out.sent[0].1.len(), frame.len());
}

#[test]
fn closed_bridges_are_apart_and_overlapping_ones_see_their_own() {
    let closed = |zone| Kind::Gateway { zone: Zone(zone), open: false };
    let mut all = ifaces();
    all[1].kind = closed(2);
    let mut rig = Rig::with(all.clone(), &routes(), Limits::default());
    // Without a route inside, it goes where everything unknown goes: outside.
    rig.know(UP, "192.0.2.1", PEER);
    let out = rig.receive(A, &udp(A, "10.77.0.9", "10.78.0.5", 64, b"x"));
    assert_eq!(out.sent[0].0, UP);
    // The same addresses on both bridges.
    all[0].kind = closed(1);
    all[1].addresses = all[0].addresses.clone();
    let mut rig = Rig::with(all.clone(), &routes(), Limits::default());
    rig.neighbours.set_static(0, A, &[(ip("10.77.0.5"), HOST)]);
    rig.neighbours.set_static(0, B, &[(ip("10.77.0.5"), PEER)]);
    for (at, mac) in [(A, HOST), (B, PEER)] {
        let out = rig.receive(at, &udp(at, "10.77.0.9", "10.77.0.5", 64, b"x"));
        assert_eq!((out.sent[0].0, &out.sent[0].1[..6]), (at, &mac.0[..]));
        rig.take();
    }
    // Gateways of one bridge always see each other.
    let mut all = ifaces();
    (all[0].kind, all[1].kind) = (closed(1), closed(1));
    let mut rig = Rig::with(all, &routes(), Limits::default());
    rig.know(B, "10.78.0.5", PEER);
    assert_eq!(rig.receive(A, &udp(A, "10.77.0.9", "10.78.0.5", 64, b"x")).sent[0].0, B);
}

#[test]
fn routes_by_prefix_then_metric() {
    let mut all = routes();
    let to = |prefix, via, metric| Route { prefix: net(prefix), via: Some(ip(via)), iface: UP, metric };
    all.extend([to("198.51.100.0/24", "192.0.2.3", 20), to("198.51.100.0/24", "192.0.2.2", 10)]);
    all.push(Route { prefix: net("203.0.113.0/24"), via: None, iface: B, metric: 0 });
    let tables = Tables::new(ifaces(), &all).unwrap();
    let mut rig = Rig::new();
    rig.router.set_tables(rig.now, std::sync::Arc::new(tables));
    let mut next = |dst| {
        let packet = rig.packet(&udp(A, "10.77.0.9", dst, 64, b"x"));
        match rig.router.receive(rig.now, A, packet, &mut rig.pool, &mut rig.out) {
            Received::Forward(_, hop) => (hop.iface, hop.next),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(next("198.51.100.7"), (UP, ip("192.0.2.2")));
    assert_eq!(next("198.51.101.7"), (UP, ip("192.0.2.1")));
    assert_eq!(next("203.0.113.9"), (B, ip("203.0.113.9")));
    assert_eq!(next("192.0.2.10"), (UP, ip("192.0.2.10")), "the uplink's own address, for translation");
}

#[test]
fn tables_that_cannot_be_are_refused() {
    let refused = |change: &dyn Fn(&mut Vec<trunkline_router::Iface>)| {
        let mut all = ifaces();
        change(&mut all);
        Tables::new(all, &routes()).unwrap_err()
    };
    assert_eq!(refused(&|i| i[1].id = A), TableError::Twice(A));
    assert_eq!(refused(&|i| i[0].mac = MacAddr::BROADCAST), TableError::BadMac(A));
    assert_eq!(refused(&|i| i[0].mtu = 1279), TableError::BadMtu(A, 1279));
    assert_eq!(
        refused(&|i| i[0].addresses = vec![net("10.0.0.0/24")]),
        TableError::BadAddress(A, ip("10.0.0.0"))
    );
    assert_eq!(
        refused(&|i| i[0].addresses = vec![net("fe80::1/64")]),
        TableError::BadAddress(A, ip("fe80::1"))
    );
    assert_eq!(
        refused(&|i| i[0].proxies = vec![ip("192.0.2.10")]),
        TableError::SameAddress(ip("192.0.2.10"))
    );
    let bad = [
        Route { prefix: net("9.0.0.0/8"), via: Some(ip("10.9.0.1")), iface: UP, metric: 0 },
        Route { prefix: net("9.0.0.0/8"), via: Some(ip("192.0.2.10")), iface: UP, metric: 0 },
        Route { prefix: net("9.0.0.0/8"), via: Some(ip("2001:db8::1")), iface: UP, metric: 0 },
    ];
    for route in bad {
        let error = Tables::new(ifaces(), &[route]).unwrap_err();
        assert_eq!(error, TableError::OffLink(route.prefix, route.via.unwrap()));
        assert!(!error.to_string().contains('\n'));
    }
    let lost = Route { prefix: net("9.0.0.0/8"), via: None, iface: trunkline_router::IfaceId(9), metric: 0 };
    assert!(matches!(Tables::new(ifaces(), &[lost]), Err(TableError::NoIface(..))));
}

#[test]
fn hosts_that_are_not_to_talk_do_not_by_way_of_the_router() {
    let by_a_router =
        Route { prefix: net("203.0.113.0/24"), via: Some(ip("10.77.0.5")), iface: A, metric: 0 };
    let routes: Vec<Route> = routes().into_iter().chain([by_a_router]).collect();
    for (ifaces, apart) in [(isolated(), true), (ifaces(), false)] {
        let mut rig = Rig::with(ifaces, &routes, Limits::default());
        for (src, dst, prohibited) in [("10.77.0.9", "10.77.0.5", (3, 13)), ("fd77::9", "fd77::5", (1, 1))] {
            rig.know(A, dst, PEER);
            let out = rig.receive(A, &udp(A, src, dst, 64, b"sideways"));
            match apart {
                true => {
                    assert_eq!(out.dropped, [(A, DropReason::RouterIsolated)]);
                    assert_eq!(icmp(&out.sent[0].1), prohibited);
                }
                false => assert_eq!((out.dropped.len(), &out.sent[0].1[..6]), (0, &PEER.0[..])),
            }
            rig.take();
        }
        // Elsewhere, and where somebody has made a route to.
        for (at, next, dst) in [
            (B, "10.78.0.5", "10.78.0.5"),
            (UP, "192.0.2.1", "198.51.100.1"),
            (A, "10.77.0.5", "203.0.113.1"),
        ] {
            rig.know(at, next, PEER);
            let out = rig.receive(A, &udp(A, "10.77.0.9", dst, 64, b"out"));
            assert_eq!((out.dropped.len(), out.sent[0].0), (0, at), "{dst}");
            rig.take();
        }
    }
}

#[test]
fn nobody_sends_from_our_address() {
    let link_local = trunkline_router::link_local(MACS[0]).to_string();
    let mut rig = Rig::new();
    for (at, src, dst) in [
        (A, "10.77.0.1", "10.78.0.5"),
        (A, "10.77.0.1", "198.51.100.1"),
        (A, "fd77::1", "2001:db8:1::1"),
        (A, "fd77::1", "fd77::9"),
        (A, link_local.as_str(), "2001:db8:1::1"),
        (A, link_local.as_str(), "fe80::9"),
        (UP, "192.0.2.10", "10.77.0.9"),
        (UP, "2001:db8::10", "fd77::9"),
    ] {
        let out = rig.receive(at, &udp(at, src, dst, 64, b"as the gateway"));
        assert_eq!((&out.dropped[..], out.sent.len()), (&[(at, DropReason::RouterMartian)][..], 0), "{src}");
        rig.take();
    }
}
