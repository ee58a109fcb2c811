//! ARP and neighbour discovery: what is answered, what is learned, what is not believed.

mod kit;

use kit::*;
use trunkline_packet::{DropReason, MacAddr};
use trunkline_router::{Kind, Limits, NeighbourState};

const NOBODY: MacAddr = MacAddr([0; 6]);

#[test]
fn arp_requests_for_our_addresses_are_answered() {
    let mut rig = Rig::new();
    let request = arp(ARP_REQUEST, MacAddr::BROADCAST, (HOST, "10.77.0.9"), (NOBODY, "10.77.0.1"));
    let out = rig.receive(A, &request);
    assert_eq!(out.sent, [(A, arp(ARP_REPLY, HOST, (MACS[0], "10.77.0.1"), (HOST, "10.77.0.9")), true)]);
    assert_eq!(out.consumed, 1);
    // A probe too: whoever wants the address learns that it is taken (RFC 5227 §2.1.1).
    rig.take();
    let probe = arp(ARP_REQUEST, MacAddr::BROADCAST, (HOST, "0.0.0.0"), (NOBODY, "10.77.0.1"));
    assert_eq!(rig.receive(A, &probe).sent.len(), 1);
    rig.take();
    for (at, target) in [(A, "10.77.0.2"), (B, "10.77.0.1"), (A, "192.0.2.10")] {
        let other = arp(ARP_REQUEST, MacAddr::BROADCAST, (HOST, "10.77.0.9"), (NOBODY, target));
        assert!(rig.receive(at, &other).sent.is_empty(), "{target} is not on that link");
    }
    assert!(rig.neighbours.list(rig.now).is_empty(), "nobody is remembered for asking");
}

#[test]
fn translated_addresses_are_answered_for() {
    let mut all = ifaces();
    all[2].proxies = vec![ip("192.0.2.20"), ip("2001:db8::20")];
    all[2].nd_proxy = vec!["2001:db8::77:0/112".parse().unwrap()];
    let mut rig = Rig::with(all, &routes(), Limits::default());
    let request = arp(ARP_REQUEST, MacAddr::BROADCAST, (HOST, "192.0.2.1"), (NOBODY, "192.0.2.20"));
    assert_eq!(rig.receive(UP, &request).sent.len(), 1);
    for (target, flags) in [("2001:db8::20", 0x60), ("2001:db8::77:5", 0x40)] {
        let group = format!("ff02::1:ff{}", if flags == 0x60 { "00:20" } else { "77:5" });
        let m = nd_body(135, 0, target, Some(HOST));
        rig.take();
        let out = rig
            .receive(UP, &nd((HOST, MacAddr([0x33, 0x33, 0xff, 0, 0, 1])), "2001:db8::1", &group, 255, &m));
        let (_, answer, _) = &out.sent[0];
        assert_valid(answer);
        assert_eq!((icmp(answer), answer[58]), ((136, 0), flags), "{target}");
    }
    let ping = ping(UP, "198.51.100.1", "192.0.2.20", b"x");
    rig.take();
    assert!(rig.receive(UP, &ping).sent.is_empty(), "a translated address is not ours to answer for");
}

#[test]
fn conflicts_are_answered_by_one_announcement() {
    let mut rig = Rig::new();
    let claim = arp(ARP_REQUEST, MacAddr::BROADCAST, (HOST, "10.77.0.1"), (NOBODY, "10.77.0.1"));
    let out = rig.receive(A, &claim);
    let announcement = arp(ARP_REQUEST, MacAddr::BROADCAST, (MACS[0], "10.77.0.1"), (NOBODY, "10.77.0.1"));
    assert_eq!(out.sent, [(A, announcement, true)]);
    rig.take();
    assert!(rig.receive(A, &claim).sent.is_empty(), "not again at once");
    assert!(rig.neighbours.list(rig.now).is_empty());
}

#[test]
fn new_addresses_are_announced_twice() {
    let mut rig = Rig::new();
    let mut all = ifaces();
    all[0].addresses = vec![net("10.77.0.2/24"), net("fd77::2/64")];
    let tables = trunkline_router::Tables::new(all, &routes()).unwrap();
    rig.router.set_tables(rig.now, std::sync::Arc::new(tables));
    for _ in 0..2 {
        assert!(rig.router.next_due() <= rig.now);
        rig.tick();
        let out = rig.take();
        assert_eq!(out.sent.len(), 2);
        assert!(out.sent.iter().all(|(at, f, made)| *at == A && *made && f[0] & 1 == 1));
        assert_valid(&out.sent[1].1);
        rig.now += 2000;
    }
    rig.tick();
    assert!(rig.out.sent.is_empty());
}

#[test]
fn a_first_packet_is_held_until_its_neighbour_answers() {
    let mut rig = Rig::new();
    let frame = udp(A, "10.77.0.9", "10.78.0.5", 64, b"held");
    let out = rig.receive(A, &frame);
    let question = arp(ARP_REQUEST, MacAddr::BROADCAST, (MACS[1], "10.78.0.1"), (NOBODY, "10.78.0.5"));
    assert_eq!(out.sent, [(B, question, true)]);
    assert_eq!(rig.router.held(), 1);
    rig.take();
    // A second one asks no second question.
    assert!(rig.receive(A, &frame).sent.is_empty());
    let answer = arp(ARP_REPLY, MACS[1], (PEER, "10.78.0.5"), (MACS[1], "10.78.0.1"));
    let out = rig.receive(B, &answer);
    assert_eq!((out.sent.len(), out.resolved), (2, 1));
    let (at, sent, made) = &out.sent[0];
    assert_eq!((*at, *made, &sent[..6], &sent[6..12]), (B, false, &PEER.0[..], &MACS[1].0[..]));
    assert_eq!(sent[22], 63);
    assert_valid(sent);
    assert_eq!(rig.router.held(), 0);
    let list = rig.neighbours.list(rig.now);
    assert_eq!((list.len(), list[0].state, list[0].mac), (1, NeighbourState::Reachable, Some(PEER)));
}

#[test]
fn solicitations_go_to_the_group_of_the_address() {
    let mut rig = Rig::new();
    let out = rig.receive(A, &udp(A, "fd77::9", "fd78::1234:5678", 64, b"held"));
    let (at, frame, _) = &out.sent[0];
    assert_eq!((*at, &frame[..6], icmp(frame)), (B, &[0x33, 0x33, 0xff, 0x34, 0x56, 0x78][..], (135, 0)));
    assert_valid(frame);
    rig.take();
    let m = nd_body(136, 0x60, "fd78::1234:5678", Some(PEER));
    let out = rig.receive(B, &nd((PEER, MACS[1]), "fd78::1234:5678", "fd78::1", 255, &m));
    assert_eq!(out.sent.len(), 1);
    assert_eq!(out.sent[0].1[..6], PEER.0);
    assert_valid(&out.sent[0].1);
}

#[test]
fn who_does_not_answer_is_asked_thrice_and_the_sender_told() {
    let mut rig = Rig::new();
    let start = rig.now;
    rig.receive(A, &udp(A, "10.77.0.9", "10.78.0.5", 64, b"lost"));
    rig.run_until(start + 6000);
    let out = rig.take();
    assert_eq!(out.sent.len(), 3, "RFC 4861 §10: MAX_MULTICAST_SOLICIT");
    assert_eq!(out.dropped, [(B, DropReason::RouterUnreachable)]);
    let (at, error) = &out.injected[0];
    assert_eq!((*at, icmp(&error.to_vec())), (B, (3, 1)));
    assert_valid(&error.to_vec());
    // Gone from the table after a while; the next packet asks anew.
    rig.run_until(start + 20_000);
    assert_eq!(rig.receive(A, &udp(A, "10.77.0.9", "10.78.0.5", 64, b"again")).sent.len(), 1);
}

#[test]
fn few_packets_wait_for_one_neighbour_and_the_latest_stay() {
    let mut rig = Rig::new();
    for i in 0..35u8 {
        rig.receive(A, &udp(A, "10.77.0.9", "10.78.0.5", 64, &[i]));
    }
    assert_eq!(rig.router.held(), 32);
    assert_eq!(rig.out.dropped, [(B, DropReason::RouterUnresolved); 3]);
    rig.take();
    let answer = arp(ARP_REPLY, MACS[1], (PEER, "10.78.0.5"), (MACS[1], "10.78.0.1"));
    let out = rig.receive(B, &answer);
    let last: Vec<u8> = out.sent.iter().map(|s| *s.1.last().unwrap()).collect();
    assert_eq!(last, (3..35).collect::<Vec<u8>>(), "in order");
}

#[test]
fn a_changed_mac_address_is_believed_at_once_of_those_known() {
    let mut rig = Rig::new();
    rig.receive(A, &udp(A, "10.77.0.9", "10.78.0.5", 64, b"1"));
    rig.receive(B, &arp(ARP_REPLY, MACS[1], (PEER, "10.78.0.5"), (MACS[1], "10.78.0.1")));
    rig.take();
    // Gratuitous: it has moved.
    rig.receive(B, &arp(ARP_REQUEST, MacAddr::BROADCAST, (HOST, "10.78.0.5"), (NOBODY, "10.78.0.5")));
    let out = rig.receive(A, &udp(A, "10.77.0.9", "10.78.0.5", 64, b"2"));
    assert_eq!(out.sent[0].1[..6], HOST.0);
    for op in [ARP_REPLY, ARP_REQUEST] {
        rig.receive(B, &arp(op, MACS[1], (PEER, "10.78.0.6"), (MACS[1], "10.78.0.1")));
    }
    assert_eq!(rig.neighbours.list(rig.now).len(), 1, "nobody is remembered unasked");
}

#[test]
fn advertisements_obey_their_flags() {
    let mut rig = Rig::new();
    let advert = |flags, mac| {
        nd((mac, MACS[1]), "fd78::5", "fd78::1", 255, &nd_body(136, flags, "fd78::5", Some(mac)))
    };
    let state = |rig: &Rig| rig.neighbours.list(rig.now).first().map(|n| (n.state, n.mac.unwrap()));
    rig.receive(A, &udp(A, "fd77::9", "fd78::5", 64, b"1"));
    rig.receive(B, &advert(0x40, PEER));
    assert_eq!(state(&rig), Some((NeighbourState::Reachable, PEER)));
    // RFC 4861 §7.2.5: without the override flag another address only makes it stale.
    rig.receive(B, &advert(0x40, HOST));
    assert_eq!(state(&rig), Some((NeighbourState::Stale, PEER)));
    rig.receive(B, &advert(0x40, HOST));
    assert_eq!(state(&rig), Some((NeighbourState::Stale, PEER)));
    rig.receive(B, &advert(0x20, HOST));
    assert_eq!(state(&rig), Some((NeighbourState::Stale, HOST)));
    rig.receive(B, &advert(0x60, HOST));
    assert_eq!(state(&rig), Some((NeighbourState::Reachable, HOST)));
}

#[test]
fn discovery_that_breaks_its_rules_is_dropped() {
    let mut rig = Rig::new();
    let group = MacAddr([0x33, 0x33, 0xff, 0, 0, 1]);
    let ask = nd_body(135, 0, "fd77::1", Some(HOST));
    let good = nd((HOST, group), "fd77::9", "ff02::1:ff00:1", 255, &ask);
    assert_eq!(rig.receive(A, &good).sent.len(), 1);
    let (_, answer, _) = rig.take().sent.remove(0);
    assert_valid(&answer);
    assert_eq!((icmp(&answer), answer[58], &answer[..6]), ((136, 0), 0xe0, &HOST.0[..]));
    // DAD (RFC 4862 §5.4.3): the answer is for everybody.
    let probe = nd((HOST, group), "::", "ff02::1:ff00:1", 255, &nd_body(135, 0, "fd77::1", None));
    assert_eq!(rig.receive(A, &probe).sent.len(), 1);
    let (_, answer, _) = rig.take().sent.remove(0);
    assert_eq!((&answer[..6], answer[58]), (&[0x33, 0x33, 0, 0, 0, 1][..], 0xa0));

    let mut code = ask.clone();
    code[1] = 1;
    let mut empty_option = ask.clone();
    empty_option[25] = 0;
    let mut cut_option = ask.clone();
    cut_option[25] = 2;
    let bad = [
        nd((HOST, group), "fd77::9", "ff02::1:ff00:1", 254, &ask),
        nd((HOST, group), "fd77::9", "ff02::1:ff00:1", 255, &code),
        nd((HOST, group), "fd77::9", "ff02::1:ff00:1", 255, &empty_option),
        nd((HOST, group), "fd77::9", "ff02::1:ff00:1", 255, &cut_option),
        nd((HOST, group), "fd77::9", "ff02::1:ff00:1", 255, &ask[..20]),
        nd((HOST, group), "::", "ff02::1:ff00:1", 255, &ask),
        nd((HOST, group), "::", "ff02::1", 255, &nd_body(135, 0, "fd77::1", None)),
        nd((HOST, group), "fd77::9", "ff02::1", 255, &nd_body(135, 0, "ff02::1", Some(HOST))),
        nd((HOST, group), "fd77::9", "ff02::1", 255, &nd_body(136, 0x40, "fd77::9", Some(HOST))),
        nd((HOST, group), "::", "ff02::1", 255, &nd_body(136, 0, "fd77::9", Some(HOST))),
    ];
    for (i, frame) in bad.iter().enumerate() {
        let out = rig.receive(A, frame);
        assert!(out.sent.is_empty(), "{i}");
        assert_eq!(rig.take().dropped, [(A, DropReason::RouterMalformed)], "{i}");
    }
    let mut sum = good.clone();
    sum[60] ^= 1;
    rig.receive(A, &sum);
    assert_eq!(rig.take().dropped, [(A, DropReason::RouterChecksum)]);
}

#[test]
fn a_shared_uplink_is_silent_and_learns_only_what_it_asked_for() {
    let mut all = ifaces();
    all[2].kind = Kind::Uplink { shared: true };
    let mut rig = Rig::with(all, &routes(), Limits::default());
    let request = arp(ARP_REQUEST, MacAddr::BROADCAST, (HOST, "192.0.2.1"), (NOBODY, "192.0.2.10"));
    assert!(rig.receive(UP, &request).sent.is_empty());
    assert!(rig.receive(UP, &ping(UP, "198.51.100.1", "192.0.2.10", b"x")).sent.is_empty());
    assert_eq!(rig.take().dropped, [(UP, DropReason::RouterNotOurs)]);
    let m = nd_body(135, 0, "2001:db8::10", Some(HOST));
    let ask = nd((HOST, MacAddr([0x33, 0x33, 0xff, 0, 0, 0x10])), "2001:db8::1", "ff02::1:ff00:10", 255, &m);
    assert!(rig.receive(UP, &ask).sent.is_empty());
    rig.receive(A, &udp(A, "10.77.0.9", "198.51.100.1", 64, b"out"));
    let out = rig.receive(UP, &arp(ARP_REPLY, MACS[2], (PEER, "192.0.2.1"), (MACS[2], "192.0.2.10")));
    assert_eq!(out.sent.last().unwrap().1[..6], PEER.0);
}
