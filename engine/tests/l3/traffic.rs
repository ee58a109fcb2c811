//! Who gets where, translated or not.

use trunkline_packet::{Checksum, DropReason, Gso, GsoKind, Offload, PortId};
use trunkline_switch::{PortConfig, VlanMode};

use crate::kit::*;

#[test]
fn the_gateway_answers_pings_and_questions() {
    let w = World::new(1);
    for (src, dst) in [("10.77.0.9", "10.77.0.1"), ("fd77::9", "fd77::1"), ("10.77.0.9", "192.0.2.10")] {
        w.a.send(w.a.ping(src, dst, 5));
        let reply = w.a.next();
        assert_eq!((reply.src.ip(), reply.dst.ip()), (ip(dst), ip(src)));
        assert_eq!((reply.macs, reply.payload), ((w.a.mac, w.a.next), b"ping".to_vec()));
    }
    // Outside too.
    w.outside.send(w.outside.ping("198.51.100.1", "192.0.2.10", 5));
    assert_eq!(w.outside.next().icmp, Some((0, 0)));
    w.assert_conserved();
}

#[test]
fn packets_are_routed_between_open_bridges_and_vlans() {
    let mut w = World::new(1);
    w.a.send(w.a.udp("10.77.0.9:1000", "10.78.0.9:2000", 64, b"hello"));
    let got = w.b.next();
    assert_eq!((got.ends(), got.ttl), (ends("10.77.0.9:1000", "10.78.0.9:2000"), 63));
    assert_eq!(got.macs, (w.b.mac, w.b.next));
    w.b.send(w.b.udp("10.78.0.9:2000", "10.77.0.9:1000", 64, b"hi"));
    assert_eq!(w.a.next().payload, b"hi");
    // A VLAN of the first bridge, whose gateway is an access port.
    let access =
        || PortConfig { vlan_mode: VlanMode::Access, tag: vlan10(), ..PortConfig::new(PortId::NONE) };
    let port = w.engine.add_port(w.bridges[0], access(), 1500).unwrap();
    let first = w.config.gateways[0].clone();
    let addresses = vec!["10.79.0.1/24".parse().unwrap()];
    w.config.gateways.push(trunkline_engine::Gateway { port, mac: mac(4), addresses, ..first });
    w.engine.set_l3(w.config.clone()).unwrap();
    let c = {
        let wire = crate::memory::Wire::new(trunkline_ports::TxCaps::ALL);
        let port = w.engine.add_port(w.bridges[0], access(), 1500).unwrap();
        w.engine.attach_port(port, wire.io(), false).unwrap();
        Station { wire, port, mac: mac(29), next: mac(4), own: vec![ip("10.79.0.9")] }
    };
    w.a.send(w.a.udp("10.77.0.9:1000", "10.79.0.9:2000", 64, b"to the VLAN"));
    assert_eq!(c.next().payload, b"to the VLAN");
    c.send(c.udp("10.79.0.9:1", "10.77.0.9:2", 64, b"back"));
    assert_eq!(w.a.next().payload, b"back");
    // Closed bridges only reach what is published; routes to nowhere else are outside.
    w.config.gateways[1].open = false;
    w.engine.set_l3(w.config.clone()).unwrap();
    w.a.send(w.a.udp("10.77.0.9:5000", "10.78.0.9:2000", 64, b"no"));
    assert_eq!(w.outside.next().ends(), ends("192.0.2.10:5000", "10.78.0.9:2000"));
    w.b.is_quiet();
}

#[test]
fn masquerade_out_and_back() {
    let w = World::new(1);
    w.a.send(w.a.udp("10.77.0.9:4000", "198.51.100.1:53", 64, b"query"));
    let out = w.outside.next();
    assert_eq!(out.ends(), ends("192.0.2.10:4000", "198.51.100.1:53"));
    assert_eq!((out.macs, out.ttl), ((w.outside.mac, w.outside.next), 63));
    w.outside.send(w.outside.udp("198.51.100.1:53", "192.0.2.10:4000", 64, b"answer"));
    let back = w.a.next();
    assert_eq!((back.ends(), back.ttl), (ends("198.51.100.1:53", "10.77.0.9:4000"), 63));
    // Who was not asked gets no answer, nor a word.
    w.outside.send(w.outside.udp("198.51.100.2:53", "192.0.2.10:4000", 64, b"spam"));
    w.outside.send(w.outside.udp("198.51.100.2:53", "192.0.2.10:4001", 64, b"spam"));
    w.a.is_quiet();
    w.outside.is_quiet();
    assert_eq!(w.drops(w.outside.port, DropReason::NatFiltered), 1);
    assert_eq!(w.drops(w.outside.port, DropReason::RouterClosed), 1);
    // Pings of the world.
    w.a.send(w.a.ping("10.77.0.9", "198.51.100.1", 77));
    let ping = w.outside.next();
    assert_eq!((ping.icmp, ping.src.ip()), (Some((8, 0)), ip("192.0.2.10")));
    // IPv6 goes out as it is, and answers come in; nothing else does.
    w.a.send(w.a.udp("[fd77::9]:4000", "[2001:db8:1::1]:53", 64, b"query"));
    assert_eq!(w.outside.next().ends(), ends("[fd77::9]:4000", "[2001:db8:1::1]:53"));
    w.outside.send(w.outside.udp("[2001:db8:1::1]:53", "[fd77::9]:4000", 64, b"answer"));
    assert_eq!(w.a.next().payload, b"answer");
    w.outside.send(w.outside.udp("[2001:db8:1::1]:53", "[fd77::9]:4001", 64, b"spam"));
    w.a.is_quiet();
    assert_eq!(w.drops(w.outside.port, DropReason::NatUnsolicited), 1);
    w.assert_conserved();
}

#[test]
fn superframes_go_whole() {
    let w = World::new(1);
    let (c, s) = ("10.77.0.9:4000", "198.51.100.1:80");
    w.a.send(w.a.tcp(c, s, "S", (100, 0), b""));
    assert_eq!(w.outside.next().ends().0, "192.0.2.10:4000");
    w.outside.send(w.outside.tcp(s, "192.0.2.10:4000", "SA", (900, 101), b""));
    w.a.next();
    w.a.send(w.a.tcp(c, s, "A", (101, 901), b""));
    w.outside.next();
    let offload = Offload {
        csum: Checksum::Partial { start: 34, offset: 16 },
        gso: Gso { kind: GsoKind::TcpV4, ecn: false, size: 1448 },
    };
    let partial = |mut frame: Vec<u8>| {
        let h = trunkline_packet::Headers::of_frame(&frame).unwrap();
        let pseudo = h.pseudo(&frame, (frame.len() - 34) as u32).fold();
        frame[50..52].copy_from_slice(&pseudo.to_be_bytes());
        frame
    };
    let data: Vec<u8> = (0..60_000u32).map(|i| (i * 7) as u8).collect();
    w.a.wire.inject_with(partial(w.a.tcp(c, s, "A", (101, 901), &data)), offload);
    let (frame, out) = w.outside.next_with(std::time::Duration::from_secs(3)).unwrap();
    assert_eq!((frame.len(), out), (data.len() + 54, offload), "whole, with its metadata");
    // Finished, the checksums of all segments are right.
    let mut pool = trunkline_packet::Pool::new(4, 4);
    let mut packet = pool.get();
    packet.set_bytes(&frame, &mut pool).unwrap();
    packet.meta_mut().offload = out;
    let mut segments = Vec::new();
    trunkline_packet::segment(packet, &mut pool, &mut segments, true).unwrap();
    let mut got = Vec::new();
    for segment in &segments {
        let h = trunkline_packet::Headers::parse(segment).unwrap();
        assert!(trunkline_packet::checksum::transport_ok(segment, &h));
        got.extend_from_slice(&segment.to_vec()[54..]);
    }
    assert!(got == data);
    w.outside
        .wire
        .inject_with(partial(w.outside.tcp(s, "192.0.2.10:4000", "A", (901, 60_101), &data)), offload);
    let (frame, back) = w.a.next_with(std::time::Duration::from_secs(3)).unwrap();
    assert_eq!((frame.len(), back), (data.len() + 54, offload));
    assert_eq!(frame[30..34], [10, 77, 0, 9]);
    w.assert_conserved();
}

#[test]
fn published_ports_work_from_everywhere() {
    let w = World::new(1);
    let answer = |from: &Station, to: &str| {
        let got = w.a.next();
        assert_eq!(got.ends().1, "10.77.0.9:80");
        assert_eq!(got.payload, b"request");
        w.a.send(w.a.udp("10.77.0.9:80", &got.src.to_string(), 64, b"page"));
        let back = from.next();
        assert_eq!((back.ends(), &back.payload[..]), (ends("192.0.2.10:8080", to), &b"page"[..]));
        got.src.to_string()
    };
    // From outside, with the client's address.
    w.outside.send(w.outside.udp("198.51.100.7:555", "192.0.2.10:8080", 64, b"request"));
    assert_eq!(answer(&w.outside, "198.51.100.7:555"), "198.51.100.7:555");
    // From the same network, from the host itself, from another network.
    w.a2.send(w.a2.udp("10.77.0.8:1600", "192.0.2.10:8080", 64, b"request"));
    assert_eq!(answer(&w.a2, "10.77.0.8:1600"), "192.0.2.10:1600");
    w.b.send(w.b.udp("10.78.0.9:1700", "192.0.2.10:8080", 64, b"request"));
    assert_eq!(answer(&w.b, "10.78.0.9:1700"), "192.0.2.10:1700");
    w.a.send(w.a.udp("10.77.0.9:1800", "192.0.2.10:8080", 64, b"request"));
    let got = w.a.next();
    assert_eq!(got.ends(), ends("192.0.2.10:1800", "10.77.0.9:80"));
    w.a.send(w.a.udp("10.77.0.9:80", "192.0.2.10:1800", 64, b"page"));
    assert_eq!(w.a.next().ends(), ends("192.0.2.10:8080", "10.77.0.9:1800"));
    w.assert_conserved();
}

#[test]
fn clients_that_no_rule_translates_appear_as_the_gateway() {
    let w = World::with(1, |c| c.nat.retain(|(id, _)| *id == PUBLISH));
    w.a2.send(w.a2.udp("10.77.0.8:1600", "192.0.2.10:8080", 64, b"request"));
    let got = w.a.next();
    assert_eq!(got.ends(), ends("10.77.0.1:1600", "10.77.0.9:80"));
    w.a.send(w.a.udp("10.77.0.9:80", "10.77.0.1:1600", 64, b"page"));
    assert_eq!(w.a2.next().ends(), ends("192.0.2.10:8080", "10.77.0.8:1600"));
    // What nobody asked for is a closed port.
    w.a.send(w.a.udp("10.77.0.9:80", "10.77.0.1:1601", 64, b"page"));
    assert_eq!(w.a.next().icmp, Some((3, 3)));
    w.assert_conserved();
}

#[test]
fn a_shared_uplink_takes_only_what_is_its_own() {
    let mut w = World::with(1, |c| c.uplinks[0].shared = true);
    w.outside.send(w.outside.ping("198.51.100.1", "192.0.2.10", 5));
    w.outside.send(w.outside.udp("198.51.100.1:53", "192.0.2.10:22", 64, b"the host's"));
    w.outside.is_quiet();
    assert_eq!(w.drops(w.outside.port, DropReason::RouterNotOurs), 2);
    w.engine.set_neighbours(w.outside.port, &[(ip("192.0.2.1"), w.outside.mac)]);
    w.outside.own = vec![ip("203.0.113.1")];
    w.a.send(w.a.udp("10.77.0.9:4000", "198.51.100.1:53", 64, b"query"));
    assert_eq!(w.outside.next().ends(), ends("192.0.2.10:4000", "198.51.100.1:53"));
    w.outside.send(w.outside.udp("198.51.100.1:53", "192.0.2.10:4000", 64, b"answer"));
    assert_eq!(w.a.next().payload, b"answer");
    let all = w.engine.neighbours();
    assert!(all.iter().any(|n| n.addr == ip("192.0.2.1") && n.state.name() == "static"));
    w.assert_conserved();
}
