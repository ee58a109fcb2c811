//! Clients whom a published host could not answer through us: they appear to it as its gateway.

mod kit;

use kit::*;
use trunkline_nat::{
    Config, ConnFilter, DropReason, Endpoint, Filtering, Gateway, Path, Prefix, Rule, RuleId, Toward, Zone,
};

const LOCAL: Path = Path::Local(UP);
const ANSWER: Path = Path::Answer(ZONE);

fn gateway(zone: Zone, addr: &str, network: &str, len: u8) -> Gateway {
    Gateway { zone, addr: ip(addr), network: Prefix::new(ip(network), len).unwrap() }
}

/// Published, with gateways, without a masquerade.
fn world() -> World {
    let rules = [
        publish(6, "192.0.2.10:8080", "10.77.0.2:80"),
        publish(17, "192.0.2.10:53", "10.77.0.2:53"),
        publish(17, "[2001:db8::10]:53", "[fd77::2]:53"),
    ];
    let mut w = World::new(Config::for_capacity(4096), &rules);
    w.nat.set_gateways(&[
        gateway(ZONE, "10.78.0.1", "10.78.0.0", 16),
        gateway(ZONE, "10.77.0.1", "10.77.0.0", 16),
        gateway(ZONE, "fd77::1", "fd77::", 64),
    ]);
    w
}

fn toward(w: &mut World, path: Path, frame: &[u8]) -> (Vec<u8>, Toward) {
    let mut sunk = w.all(path, frame);
    let (packet, toward) = sunk.sent.pop().unwrap_or_else(|| panic!("{:?}", sunk.dropped));
    verify(&packet.to_vec());
    (packet.to_vec(), toward)
}

#[test]
fn the_host_itself_appears_as_the_gateway() {
    for (own, ext, server, gw) in [
        ("192.0.2.10:5000", "192.0.2.10:53", "10.77.0.2:53", "10.77.0.1:5000"),
        ("[2001:db8::10]:5000", "[2001:db8::10]:53", "[fd77::2]:53", "[fd77::1]:5000"),
    ] {
        let mut w = world();
        let (there, to) = toward(&mut w, LOCAL, &udp(own, ext, b"query"));
        assert_eq!((ends(&there), to), ((addr(gw), addr(server)), Toward::Inside(ZONE)));
        let (back, to) = toward(&mut w, ANSWER, &udp(server, gw, b"answer"));
        assert_eq!((ends(&back), to), ((addr(ext), addr(own)), Toward::Client(UP)));
        // Nobody outside may pose as the host.
        let posing = w.back(&udp(own, ext, b"query"));
        assert!(matches!(posing, Err(DropReason::NatLand | DropReason::NatMartian)), "{posing:?}");
        // The gateway answers to nobody who did not ask.
        let stray =
            udp(server, &format!("{}:77", if ext.starts_with('[') { "[fd77::1]" } else { "10.77.0.1" }), b"");
        assert_eq!(w.send(ANSWER, &stray), Err(DropReason::NatUnsolicited));
    }
}

#[test]
fn a_container_reaches_its_own_and_its_siblings_port_without_a_masquerade() {
    let mut w = world();
    for client in ["10.77.0.2:4000", "10.77.0.3:4001"] {
        let shown = format!("10.77.0.1:{}", addr(client).port());
        let ext = "192.0.2.10:8080";
        let (syn, to) = toward(&mut w, OUT, &tcp(client, ext, Seg::new(SYN, 5, 0)));
        assert_eq!((ends(&syn), to), ((addr(&shown), addr("10.77.0.2:80")), Toward::Inside(ZONE)));
        let (answer, to) = toward(&mut w, ANSWER, &tcp("10.77.0.2:80", &shown, Seg::new(SYN | ACK, 9, 6)));
        assert_eq!((ends(&answer), to), ((addr(ext), addr(client)), Toward::Client(UP)));
        w.out(&tcp(client, ext, Seg::new(ACK, 6, 10))).unwrap();
        w.out(&tcp(client, ext, Seg::new(ACK, 6, 10).len(1400))).unwrap();
    }
    // One entry each.
    let all: Vec<_> = w.nat.connections(w.now).collect();
    assert_eq!(all.len(), 2);
    assert!(all.iter().all(|c| c.shown.ip() == ip("10.77.0.1") && c.remote != c.shown));
    // A client from outside keeps its address.
    let far = w.back(&tcp("198.51.100.7:4000", "192.0.2.10:8080", Seg::new(SYN, 5, 0))).unwrap();
    assert_eq!(src(&far), addr("198.51.100.7:4000"));
}

#[test]
fn a_masqueraded_client_needs_no_gateway() {
    let mut w = World::usual();
    let syn = w.out(&tcp("10.77.0.3:4000", "192.0.2.10:8080", Seg::new(SYN, 5, 0))).unwrap();
    assert_eq!(src(&syn), addr("192.0.2.10:4000"));
    assert_eq!(w.send(LOCAL, &udp("192.0.2.10:5000", "192.0.2.10:53", b"")), Err(DropReason::NatNoRule));
}

#[test]
fn two_clients_with_one_port_are_told_apart() {
    let mut w = world();
    let a = src(&w.out(&udp("10.77.0.3:4000", "192.0.2.10:53", b"")).unwrap());
    let b = src(&w.out(&udp("10.77.0.4:4000", "192.0.2.10:53", b"")).unwrap());
    assert_eq!((a, b.ip()), (addr("10.77.0.1:4000"), ip("10.77.0.1")));
    assert_ne!(a, b);
    for (shown, client) in [(a, "10.77.0.3:4000"), (b, "10.77.0.4:4000")] {
        let back = w.send(ANSWER, &udp_to(addr("10.77.0.2:53"), shown, b"")).unwrap();
        assert_eq!(ends(&back), (addr("192.0.2.10:53"), addr(client)));
    }
}

#[test]
fn icmp_errors_and_fragments_pass_both_ways() {
    let mut w = world();
    let sent = udp("10.77.0.3:4000", "192.0.2.10:53", &[1; 100]);
    let arrived = w.out(&sent).unwrap();
    // The server refuses: the client hears it from the published address, about its own packet.
    let error = w.send(ANSWER, &too_big("10.77.0.2", "10.77.0.1", &arrived, 60)).unwrap();
    assert_eq!((src(&error).ip(), dst(&error).ip()), (ip("192.0.2.10"), ip("10.77.0.3")));
    assert_eq!(&error[42..42 + 60], &sent[14..74]);
    // The client refuses the answer.
    let answer = udp("10.77.0.2:53", "10.77.0.1:4000", &[2; 100]);
    let delivered = w.send(ANSWER, &answer).unwrap();
    let error = w.out(&too_big("10.77.0.3", "192.0.2.10", &delivered, 60)).unwrap();
    assert_eq!((src(&error).ip(), dst(&error).ip()), (ip("10.77.0.1"), ip("10.77.0.2")));
    assert_eq!(&error[42..42 + 60], &answer[14..74]);
    // Pieces, the last one first.
    let whole = udp("10.77.0.3:4000", "192.0.2.10:53", &[3; 3000]);
    let mut pieces = fragments(&whole, 1000);
    pieces.reverse();
    let got: Vec<_> = pieces.iter().flat_map(|p| w.all(OUT, p).sent).map(|(p, _)| p.to_vec()).collect();
    let got = reassemble(&got);
    verify(&got);
    assert_eq!(ends(&got), (addr("10.77.0.1:4000"), addr("10.77.0.2:53")));
}

#[test]
fn static_hosts_can_be_pinged_by_the_host_itself() {
    let rule = Rule::Static { zone: ZONE, inside: ip("10.77.0.5"), uplink: UP, external: ip("192.0.2.50") };
    let mut w = World::new(Config::for_capacity(64), &[rule]);
    w.nat.set_gateways(&[gateway(ZONE, "10.77.0.1", "10.77.0.0", 16)]);
    let there = w.send(LOCAL, &ping("192.0.2.10", "192.0.2.50", 77, false)).unwrap();
    assert_eq!((src(&there).ip(), dst(&there)), (ip("10.77.0.1"), addr("10.77.0.5:77")));
    let back = w.send(ANSWER, &ping("10.77.0.5", "10.77.0.1", 77, true)).unwrap();
    assert_eq!((src(&back).ip(), dst(&back)), (ip("192.0.2.50"), addr("192.0.2.10:77")));
}

#[test]
fn entries_go_when_the_gateway_does() {
    let mut w = world();
    w.out(&udp("10.77.0.3:4000", "192.0.2.10:53", b"")).unwrap();
    w.nat.set_gateways(&[gateway(ZONE, "10.77.0.1", "10.77.0.0", 16)]);
    assert_eq!(w.nat.connections(w.now).count(), 1);
    let back = udp("10.77.0.2:53", "10.77.0.1:4000", b"");
    assert!(w.send(ANSWER, &back).is_ok(), "it is the same gateway");
    w.nat.set_gateways(&[gateway(ZONE, "10.77.0.254", "10.77.0.0", 16)]);
    assert_eq!(w.send(ANSWER, &back), Err(DropReason::NatUnsolicited));
    let again = w.out(&udp("10.77.0.3:4000", "192.0.2.10:53", b"")).unwrap();
    assert_eq!(src(&again), addr("10.77.0.254:4000"));
    w.nat.set_gateways(&[]);
    assert_eq!(w.out(&udp("10.77.0.3:4000", "192.0.2.10:53", b"")), Err(DropReason::NatNoRule));
}

#[test]
fn connections_are_found_by_what_is_asked_for() {
    let mut w = World::usual();
    w.out(&udp("10.77.0.3:4000", "198.51.100.1:53", b"")).unwrap();
    w.out(&tcp("10.77.0.4:4000", "198.51.100.1:80", Seg::new(SYN, 1, 0))).unwrap();
    w.back(&tcp("198.51.100.9:999", "192.0.2.10:8080", Seg::new(SYN, 1, 0))).unwrap();
    w.out(&ping("10.77.0.3", "198.51.100.1", 8, false)).unwrap();
    let net = |a: &str, len| Prefix::new(ip(a), len);
    let any = ConnFilter::default();
    for (filter, count) in [
        (any, 4),
        (ConnFilter { proto: Some(6), ..any }, 2),
        (ConnFilter { zone: Some(Zone(9)), ..any }, 0),
        (ConnFilter { uplink: Some(UP), ..any }, 4),
        (ConnFilter { local: net("10.77.0.3", 32), ..any }, 2),
        (ConnFilter { remote: net("198.51.100.0", 30), ..any }, 3),
        (ConnFilter { address: net("192.0.2.10", 32), ..any }, 4),
        (ConnFilter { port: Some(4000), ..any }, 2),
        // Not the type of the ping, but its identifier.
        (ConnFilter { port: Some(8), ..any }, 1),
        (ConnFilter { rule: Some(RuleId(2)), ..any }, 1),
    ] {
        let found = w.nat.connections(w.now).filter(|c| filter.matches(c)).count();
        assert_eq!(found, count, "{filter:?}");
    }
    let tcp = ConnFilter { proto: Some(6), ..any };
    assert_eq!(w.nat.flush(w.now, |c| tcp.matches(c)), 2);
    assert_eq!(w.nat.connections(w.now).count(), 2);
    let first = w.nat.connections(w.now).next().unwrap();
    assert_eq!(first.shown, first.remote);
    assert_eq!(first.remote, Endpoint::new(ip("198.51.100.1"), first.remote.port));
}

#[test]
fn filtering_is_per_rule_and_the_gateway_is_not_for_mappings() {
    let mut w = World::with(Filtering::EndpointIndependent);
    w.nat.set_gateways(&[gateway(ZONE, "10.77.0.1", "10.77.0.0", 16)]);
    w.out(&udp("10.77.0.9:5000", "198.51.100.1:53", b"")).unwrap();
    let own = udp("192.0.2.10:7", "192.0.2.10:5000", b"");
    assert_eq!(w.send(LOCAL, &own), Err(DropReason::NatUnsolicited));
}

#[test]
fn hosts_inside_reach_the_services_of_the_host_itself() {
    let mut w = World::usual();
    let syn = tcp("10.77.0.9:4000", "192.0.2.10:22", Seg::new(SYN, 5, 0));
    assert_eq!(w.out(&syn), Err(DropReason::NatUnsolicited), "the address is ours alone");
    w.nat.set_hosts(&[UP]);
    let (there, to) = toward(&mut w, OUT, &syn);
    assert_eq!((ends(&there), to), ((addr("192.0.2.10:4000"), addr("192.0.2.10:22")), Toward::Host(UP)));
    let (back, to) =
        toward(&mut w, LOCAL, &tcp("192.0.2.10:22", "192.0.2.10:4000", Seg::new(SYN | ACK, 9, 6)));
    assert_eq!((ends(&back), to), ((addr("192.0.2.10:22"), addr("10.77.0.9:4000")), Toward::Inside(ZONE)));
    let (more, to) = toward(&mut w, OUT, &tcp("10.77.0.9:4000", "192.0.2.10:22", Seg::new(ACK, 6, 10)));
    assert_eq!((ends(&more).0, to), (addr("192.0.2.10:4000"), Toward::Host(UP)));
    assert_eq!(w.nat.connections(w.now).count(), 1);
    // What is published is still for whom it is published to, and nobody else comes in so.
    let (there, _) = toward(&mut w, OUT, &tcp("10.77.0.9:4000", "192.0.2.10:8080", Seg::new(SYN, 5, 0)));
    assert_eq!(dst(&there), addr("10.77.0.2:80"));
    assert_eq!(
        w.back(&tcp("198.51.100.7:9", "192.0.2.10:22", Seg::new(SYN, 5, 0))),
        Err(DropReason::NatUnsolicited)
    );
    // In fragments, and refused.
    let whole = udp("10.77.0.9:4000", "192.0.2.10:99", &[3; 3000]);
    let got: Vec<_> = fragments(&whole, 1000).iter().rev().flat_map(|p| w.all(OUT, p).sent).collect();
    assert!(got.len() == 4 && got.iter().all(|(_, to)| *to == Toward::Host(UP)));
    let arrived = reassemble(&got.iter().map(|(p, _)| p.to_vec()).collect::<Vec<_>>());
    let error = w.send(LOCAL, &too_big("192.0.2.10", "192.0.2.10", &arrived, 60)).unwrap();
    assert_eq!(dst(&error).ip(), ip("10.77.0.9"));
}

#[test]
fn one_client_talks_to_one_host_by_two_published_ports() {
    let rules = [publish(17, "192.0.2.10:53", "10.77.0.2:53"), publish(17, "192.0.2.10:54", "10.77.0.2:53")];
    let mut w = World::new(Config::for_capacity(64), &rules);
    let far = "198.51.100.1:5353";
    assert_eq!(src(&w.back(&udp(far, "192.0.2.10:53", b"")).unwrap()), addr(far));
    let second = udp(far, "192.0.2.10:54", b"");
    assert_eq!(w.back(&second), Err(DropReason::NatConflict));
    w.nat.set_gateways(&[gateway(ZONE, "10.77.0.1", "10.77.0.0", 16)]);
    for _ in 0..2 {
        let (there, to) = toward(&mut w, IN, &second);
        assert_eq!(
            (ends(&there), to),
            ((addr("10.77.0.1:5353"), addr("10.77.0.2:53")), Toward::Inside(ZONE))
        );
        let (back, to) = toward(&mut w, ANSWER, &udp("10.77.0.2:53", "10.77.0.1:5353", b""));
        assert_eq!((ends(&back), to), ((addr("192.0.2.10:54"), addr(far)), Toward::Client(UP)));
        let back = w.out(&udp("10.77.0.2:53", far, b"")).unwrap();
        assert_eq!(ends(&back), (addr("192.0.2.10:53"), addr(far)));
    }
}
