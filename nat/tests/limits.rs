//! Capacity, floods and fairness, shards.

mod kit;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use kit::*;
use trunkline_nat::{Config, DropReason, Filtering, RuleId};
use trunkline_packet::checksum::Sum;

fn host(n: u32, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(0x0a4d_0000 + n)), port)
}

fn remote(n: u32, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(0xc633_6400 + n)), port)
}

/// Opens a TCP connection and returns its external endpoint.
fn connect(w: &mut World, a: SocketAddr, r: SocketAddr) -> Result<SocketAddr, DropReason> {
    let ext = src(&w.out(&tcp_to(a, r, Seg::new(SYN, 1, 0)))?);
    w.back(&tcp_to(r, ext, Seg::new(SYN | ACK, 1, 2)))?;
    w.out(&tcp_to(a, r, Seg::new(ACK, 2, 2)))?;
    Ok(ext)
}

fn alive(w: &mut World, a: SocketAddr, r: SocketAddr, ext: SocketAddr) -> bool {
    src_of(w.out(&tcp_to(a, r, Seg::new(ACK, 2, 2)))) == Some(ext)
        && w.back(&tcp_to(r, ext, Seg::new(ACK, 2, 2))).is_ok()
}

fn src_of(got: Outcome) -> Option<SocketAddr> {
    got.ok().map(|p| src(&p))
}

fn world(capacity: usize, config: impl Fn(Config) -> Config) -> World {
    let rule = masquerade(&["192.0.2.10"], (1024, 65535), Filtering::default());
    World::new(config(Config::for_capacity(capacity)), &[rule])
}

#[test]
fn a_flood_from_one_source_neither_breaks_nor_hinders_another() {
    let mut w = world(2000, |c| Config { source_limit: 5000, source_ports: 5000, ..c });
    let old: Vec<_> = (0..50).map(|i| (host(9, 3000 + i), remote(1, 80))).collect();
    let ext: Vec<_> = old.iter().map(|&(a, r)| connect(&mut w, a, r).unwrap()).collect();
    // An entry of somebody else that is only being opened.
    let waiting = src(&w.out(&tcp_to(host(8, 5), remote(2, 80), Seg::new(SYN, 1, 0))).unwrap());
    for i in 0..50_000u32 {
        w.out(&tcp_to(host(7, (i % 60_000) as u16 + 1), remote(i % 1000, 80), Seg::new(SYN, 1, 0))).unwrap();
        if i % 5000 == 4999 {
            connect(&mut w, host(9, 10_000 + (i / 5000) as u16), remote(3, 80)).unwrap();
        }
    }
    assert_eq!(w.nat.stats().connections, 2000);
    for (&(a, r), &ext) in old.iter().zip(&ext) {
        assert!(alive(&mut w, a, r, ext));
    }
    assert!(w.back(&tcp_to(remote(2, 80), waiting, Seg::new(SYN | ACK, 1, 2))).is_ok());
}

#[test]
fn a_flood_from_outside_costs_only_its_target() {
    let rules = [
        masquerade(&["192.0.2.10"], (1024, 65535), Filtering::default()),
        publish(6, "192.0.2.10:80", "10.77.0.2:80"),
    ];
    let config = Config { source_limit: 5000, ..Config::for_capacity(1000) };
    let mut w = World::new(config, &rules);
    let (a, r) = (host(9, 3000), remote(1, 80));
    let ext = connect(&mut w, a, r).unwrap();
    for i in 0..20_000u32 {
        let from = SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(0x0100_0000 + i * 77)), 999);
        w.back(&tcp_to(from, addr("192.0.2.10:80"), Seg::new(SYN, i, 0))).unwrap();
    }
    assert!(alive(&mut w, a, r, ext));
    assert!(connect(&mut w, host(9, 3001), r).is_ok());
}

#[test]
fn open_connections_never_give_way() {
    let mut w = world(100, |c| Config { source_limit: 1000, source_ports: 1000, ..c });
    for i in 0..100 {
        connect(&mut w, host(i % 5 + 1, 2000 + i as u16), remote(1, 80)).unwrap();
    }
    let syn = tcp_to(host(77, 1), remote(1, 80), Seg::new(SYN, 1, 0));
    assert_eq!(w.out(&syn), Err(DropReason::NatTableFull));
    w.out(&tcp_to(host(1, 2000), remote(1, 80), Seg::new(RST, 2, 0))).unwrap();
    assert!(w.out(&syn).is_ok(), "a reset one does");
    let mut w = world(100, |c| Config { source_limit: 3, ..c });
    for i in 0..3 {
        connect(&mut w, host(1, 2000 + i), remote(1, 80)).unwrap();
    }
    assert_eq!(
        w.out(&tcp_to(host(1, 9), remote(1, 80), Seg::new(SYN, 1, 0))),
        Err(DropReason::NatSourceLimit)
    );
}

#[test]
fn tcp_timers_follow_the_state() {
    let mut w = world(100, |c| c);
    let (a, r) = (host(9, 3000), remote(1, 80));
    let ext = connect(&mut w, a, r).unwrap();
    w.pass(7_439_000);
    assert!(alive(&mut w, a, r, ext), "RFC 5382 REQ-5");
    w.out(&tcp_to(a, r, Seg::new(RST, 2, 0))).unwrap();
    w.pass(239_000);
    assert_eq!(w.nat.connections(w.now).count(), 1);
    w.pass(2_000);
    assert_eq!(w.nat.connections(w.now).count(), 0);
    w.nat.tick(w.now + 2000, 1 << 14, &mut Sunk::default());
    assert_eq!(w.nat.stats().connections, 0, "and the wheel finds it in its new, earlier slot");
    assert_eq!(w.back(&tcp_to(r, ext, Seg::new(ACK, 2, 2))), Err(DropReason::NatUnsolicited));
}

/// Frames of one shape whose endpoints change: etherparse would take most of the time of a million.
struct Template(Vec<u8>);

impl Template {
    fn with(&mut self, src: SocketAddr, dst: SocketAddr) -> &[u8] {
        for (at, end) in [(0, src), (4, dst)] {
            let IpAddr::V4(ip) = end.ip() else { panic!("IPv4") };
            self.0[26 + at..30 + at].copy_from_slice(&ip.octets());
            self.0[34 + at / 2..36 + at / 2].copy_from_slice(&end.port().to_be_bytes());
        }
        self.0[24..26].fill(0);
        let sum = Sum::ZERO.bytes(&self.0[14..34]).finish();
        self.0[24..26].copy_from_slice(&sum.to_be_bytes());
        &self.0
    }
}

#[test]
fn a_million_syns_from_one_source_while_another_connects() {
    let mut w = world(100_000, |c| c);
    let (a, r) = (host(9, 3000), remote(1, 80));
    let ext = connect(&mut w, a, r).unwrap();
    let mut syn = Template(tcp_to(host(7, 1), r, Seg::new(SYN, 1, 0)));
    let mut sunk = Sunk::default();
    for i in 0..1_000_000u32 {
        let frame = syn.with(host(7, (i % 64_000) as u16 + 1), remote(i / 64_000, 80));
        let packet = w.packet(frame);
        w.nat.process(w.now, OUT, packet, &mut sunk);
        sunk.sent.clear();
        sunk.dropped.clear();
        // 200,000 a second.
        w.pass(u64::from(i % 200 == 0));
        if i % 50_000 == 0 {
            let (a, r) = (host(9, 10_000 + (i / 50_000) as u16), remote(3, 80));
            let ext = connect(&mut w, a, r).unwrap();
            assert!(alive(&mut w, a, r, ext));
        }
    }
    assert!(alive(&mut w, a, r, ext));
    let stats = w.nat.stats();
    assert!(stats.connections <= 100_000 && stats.early_drops > 500_000, "{stats:?}");
}

#[test]
fn a_hundred_thousand_concurrent_flows() {
    // Where nothing may be shared it takes two addresses.
    for (pool, strict) in [(&["192.0.2.10"][..], false), (&["192.0.2.10", "192.0.2.11"], true)] {
        let config = Config {
            source_limit: 2000,
            source_ports: 2000,
            strict_eim: strict,
            ..Config::for_capacity(1 << 17)
        };
        let mut w = World::new(config, &[masquerade(pool, (1024, 65535), Filtering::default())]);
        let mut all = std::collections::HashMap::new();
        let [mut syn, mut answer, mut ack] = [(SYN, 1, 0), (SYN | ACK, 9, 2), (ACK, 2, 10)]
            .map(|(flags, seq, ack)| Template(tcp_to(host(1, 1), remote(1, 80), Seg::new(flags, seq, ack))));
        let sent = |w: &mut World, path, frame: &[u8]| {
            let mut sunk = w.all(path, frame);
            sunk.sent.pop().map(|(p, _)| ends(&p.to_vec()))
        };
        for i in 0..100_000u32 {
            let (a, r) = (host(i % 1000 + 1, (i / 1000) as u16 + 2000), remote(i % 10, 80));
            let (ext, to) = sent(&mut w, OUT, syn.with(a, r)).unwrap();
            assert_eq!(to, r);
            assert!(all.insert((ext, r), a).is_none(), "{ext} twice towards {r}");
            assert_eq!(sent(&mut w, IN, answer.with(r, ext)), Some((r, a)));
            assert_eq!(sent(&mut w, OUT, ack.with(a, r)), Some((ext, r)));
        }
        let stats = w.nat.stats();
        assert_eq!((stats.connections, stats.early_drops), (100_000, 0));
        assert_eq!(stats.shared_ports == 0, strict);
        // Each still has its own.
        for (&(ext, r), &a) in &all {
            assert_eq!(sent(&mut w, IN, answer.with(r, ext)), Some((r, a)));
        }
    }
}

#[test]
fn a_million_flows_come_and_go() {
    let mut w = world(20_000, |c| Config { source_limit: 1 << 30, source_ports: 1 << 30, ..c });
    let mut datagram = Template(udp_to(host(1, 1), remote(1, 53), b""));
    for i in 0..1_000_000u32 {
        let packet = w.packet(datagram.with(host(i % 3000 + 1, (i / 3000) as u16 + 1), remote(i % 7, 53)));
        let mut sunk = Sunk::default();
        w.nat.process(w.now, OUT, packet, &mut sunk);
        assert_eq!(sunk.sent.len(), 1, "{i}: {:?}", sunk.dropped);
        w.pass(u64::from(i % 20 == 0));
    }
    w.pass(400_000);
    w.nat.tick(w.now, 1 << 20, &mut Sunk::default());
    let stats = w.nat.stats();
    assert_eq!((stats.connections, stats.mappings), (0, 0));
}

#[test]
fn rules_can_come_and_go_for_ever() {
    let mut w = world(100, |c| c);
    for i in 0..2000u32 {
        let rule = masquerade(&["198.51.100.200"], (1024, 65535), Filtering::default());
        assert!(w.nat.remove_rule(RuleId(0)));
        w.nat.add_rule(RuleId(0), rule).unwrap();
        let got = src(&w.out(&udp_to(host(1, 7), remote(i % 5, 53), b"")).unwrap());
        assert_eq!(got.ip(), ip("198.51.100.200"));
    }
    assert_eq!(w.nat.stats().connections, 5);
}

#[test]
fn nobody_outside_may_send_as_one_of_our_own_addresses() {
    let rules = [
        masquerade(&["192.0.2.10"], (1024, 65535), Filtering::EndpointIndependent),
        publish(17, "192.0.2.11:53", "10.77.0.2:53"),
    ];
    let mut w = World::new(Config::for_capacity(100), &rules);
    let spoofed = udp("192.0.2.11:53", "192.0.2.10:5000", b"");
    w.out(&udp("10.77.0.9:5000", "198.51.100.1:53", b"")).unwrap();
    assert_eq!(w.back(&spoofed), Err(DropReason::NatMartian));
    w.out(&udp("10.77.0.9:5000", "192.0.2.11:53", b"")).unwrap();
    assert_eq!(w.back(&spoofed), Err(DropReason::NatMartian), "nor in a hairpinned connection");
    assert!(w.out(&udp("10.77.0.2:53", "192.0.2.10:5000", b"")).is_ok());
}

#[test]
fn flush_and_list() {
    let mut w = world(100, |c| c);
    for i in 1..=10 {
        w.out(&udp_to(host(i, 7), remote(1, 53), b"")).unwrap();
    }
    let first = w.nat.connections(w.now).find(|c| c.local.0.ip() == host(3, 7).ip()).unwrap();
    assert_eq!((first.proto, first.from_outside, first.remote.ip()), (17, false, remote(1, 53).ip()));
    assert!((299_000..=300_500).contains(&first.expires_in));
    assert_eq!(w.nat.flush(w.now, |c| c.local.0.ip() == host(3, 7).ip()), 1);
    assert_eq!(w.nat.flush(w.now, |_| true), 9);
    assert_eq!((w.nat.stats().connections, w.nat.stats().mappings), (0, 0));
}
