use proptest::prelude::*;
use trunkline_packet::{Pool, pop_tag};

use super::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 9];
const ALL: [u8; 6] = [0xff; 6];
const V4: [u8; 4] = [10, 77, 0, 2];
const GATEWAY_V4: [u8; 4] = [10, 77, 0, 1];

fn v6(text: &str) -> [u8; 16] {
    text.parse::<Ipv6Addr>().unwrap().octets()
}

fn own_v6() -> [u8; 16] {
    v6("fd77::2")
}

fn link_local_v6() -> [u8; 16] {
    v6("fe80::ff:fe00:1")
}

fn allowed(nets: &[&str], dhcp: bool) -> Allowed {
    let nets = (!nets.is_empty()).then(|| nets.iter().map(|n| n.parse().unwrap()).collect());
    Allowed { macs: vec![MacAddr(MAC)], nets, dhcp }
}

fn guard() -> Guard {
    Guard::new(&allowed(&["10.77.0.2/32", "fd77::2/128"], false))
}

fn packet(frame: &[u8]) -> Packet {
    let mut pool = Pool::new(1, 1);
    let mut packet = pool.get();
    packet.set_bytes(frame, &mut pool).unwrap();
    // As ingress does.
    let _ = pop_tag(&mut packet);
    packet
}

#[track_caller]
fn says(guard: &Guard, frame: &[u8], want: Result<(), DropReason>) {
    assert_eq!(guard.check(100, &packet(frame)), want);
}

fn eth(src: [u8; 6], kind: u16, rest: &[u8]) -> Vec<u8> {
    [&ALL[..], &src, &kind.to_be_bytes(), rest].concat()
}

fn arp(kind: u16, operation: u8, mac: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    eth(MAC, kind, &[&[0, 1, 8, 0, 6, 4, 0, operation], &mac[..], &sender, &[0; 6], &target].concat())
}

fn ipv4(src: [u8; 4], dst: [u8; 4], proto: u8, flags: u16, payload: &[u8]) -> Vec<u8> {
    let len = (20 + payload.len()) as u16;
    let [f, g] = flags.to_be_bytes();
    let ip = [&[0x45, 0], &len.to_be_bytes()[..], &[0, 1, f, g, 64, proto, 0, 0], &src, &dst].concat();
    eth(MAC, 0x0800, &[&ip, payload].concat())
}

fn ipv6(src: [u8; 16], dst: [u8; 16], next: u8, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u16).to_be_bytes();
    let ip = [&[0x60, 0, 0, 0, len[0], len[1], next, 255][..], &src, &dst].concat();
    eth(MAC, 0x86dd, &[&ip, payload].concat())
}

fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let len = (8 + payload.len()) as u16;
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &len.to_be_bytes(), &[0, 0], payload].concat()
}

fn bootp(op: u8, chaddr: [u8; 6], yiaddr: [u8; 4], options: &[u8]) -> Vec<u8> {
    let mut m = vec![0; 240];
    (m[0], m[1], m[2]) = (op, 1, 6);
    m[16..20].copy_from_slice(&yiaddr);
    m[28..34].copy_from_slice(&chaddr);
    m[236..240].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
    m.extend(options);
    m
}

fn nd(kind: u8, target: [u8; 16], options: &[u8]) -> Vec<u8> {
    [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &target, options].concat()
}

fn ll_option(kind: u8, mac: [u8; 6]) -> Vec<u8> {
    [&[kind, 1][..], &mac].concat()
}

fn advertisement() -> Vec<u8> {
    vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]
}

const GROUP: &str = "ff02::1";

#[test]
fn its_own_traffic_passes() {
    let g = guard();
    let tcp = [0u8; 20];
    for fine in [
        ipv4(V4, [1, 1, 1, 1], 6, 0x4000, &tcp),
        ipv4(V4, [1, 1, 1, 1], 17, 0, &udp(5, 53, b"x")),
        ipv4(V4, [1, 1, 1, 1], 17, 0x2000, &udp(5, 53, &[0; 16])),
        ipv4(V4, [1, 1, 1, 1], 17, 2, b"the rest"),
        ipv4(V4, [1, 1, 1, 1], 1, 0, &[8, 0, 0, 0]),
        ipv4([0; 4], [255; 4], 17, 0, &udp(68, 67, &bootp(1, MAC, [0; 4], &[53, 1, 1, 255]))),
        ipv4([0; 4], [224, 0, 0, 22], 2, 0, &[0x22, 0, 0, 0]),
        arp(0x0806, 1, MAC, V4, GATEWAY_V4),
        arp(0x0806, 1, MAC, [0; 4], V4),
        arp(0x0806, 2, MAC, V4, V4),
        arp(0x8035, 3, MAC, [0; 4], [0; 4]),
        ipv6(own_v6(), v6("2001:db8::1"), 6, &tcp),
        ipv6(link_local_v6(), v6(GROUP), 17, &udp(546, 547, &[1, 0, 0, 0])),
        ipv6([0; 16], v6("ff02::1:ff00:2"), 58, &nd(135, own_v6(), &[14, 1, 1, 2, 3, 4, 5, 6])),
        ipv6([0; 16], v6("ff02::1:ff00:1"), 58, &nd(135, link_local_v6(), &[])),
        ipv6([0; 16], v6("ff02::2"), 58, &[133, 0, 0, 0, 0, 0, 0, 0]),
        ipv6(
            [0; 16],
            v6("ff02::16"),
            0,
            &[&[58, 0, 5, 2, 0, 0, 1, 0][..], &[143, 0, 0, 0, 0, 0, 0, 0]].concat(),
        ),
        ipv6(own_v6(), v6("ff02::1:ff00:9"), 58, &nd(135, v6("fd77::9"), &ll_option(1, MAC))),
        ipv6(own_v6(), v6("fd77::9"), 58, &nd(136, own_v6(), &ll_option(2, MAC))),
        ipv6(own_v6(), v6("fd77::9"), 58, &[128, 0, 0, 0]),
        ipv6(own_v6(), v6("fd77::9"), 44, &[17, 0, 0, 8, 0, 0, 0, 1, 1, 2, 3]),
        ipv6(own_v6(), v6("fd77::9"), 59, &[]),
    ] {
        says(&g, &fine, Ok(()));
    }
}

#[test]
fn what_is_not_its_own_is_refused_with_the_reason() {
    use DropReason::*;
    let g = guard();
    let gateway = v6("fd77::1");
    let offer = bootp(2, OTHER, V4, &[53, 1, 2, 255]);
    let mut relayed = bootp(1, MAC, [0; 4], &[53, 1, 1, 255]);
    relayed[24] = 10;
    for (frame, reason) in [
        (eth(OTHER, 0x0806, &[0; 28]), GuardMac),
        (arp(0x0806, 1, MAC, GATEWAY_V4, V4), GuardArp),
        (arp(0x0806, 2, MAC, GATEWAY_V4, GATEWAY_V4), GuardArp),
        (arp(0x0806, 2, OTHER, V4, V4), GuardArp),
        (arp(0x0806, 2, MAC, [0; 4], V4), GuardArp),
        (arp(0x8035, 3, OTHER, [0; 4], V4), GuardArp),
        (eth(MAC, 0x0806, &[0, 1, 8, 0, 6, 4, 0, 1, 2]), GuardArp),
        (
            eth(
                MAC,
                0x0806,
                &[0, 1, 8, 0, 8, 4, 0, 1, 2, 0, 0, 0, 0, 1, 0, 0, 10, 77, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0],
            ),
            GuardArp,
        ),
        (ipv4(GATEWAY_V4, V4, 6, 0, &[0; 20]), GuardIpv4),
        (ipv4(GATEWAY_V4, V4, 17, 2, b"the rest"), GuardIpv4),
        (ipv4([0; 4], V4, 17, 0, &udp(68, 67, &bootp(1, MAC, [0; 4], &[]))), GuardIpv4),
        (ipv4([0; 4], [255; 4], 17, 0, &udp(68, 69, &[])), GuardIpv4),
        (ipv4(V4, [255; 4], 17, 0, &udp(67, 68, &offer)), GuardDhcp),
        (ipv4(V4, [255; 4], 17, 0, &udp(999, 68, &offer)), GuardDhcp),
        (ipv4(V4, GATEWAY_V4, 17, 0, &udp(67, 67, &offer)), GuardDhcp),
        (ipv4(V4, GATEWAY_V4, 17, 0, &udp(68, 67, &bootp(1, OTHER, [0; 4], &[53, 1, 7, 255]))), GuardDhcp),
        (ipv4(V4, GATEWAY_V4, 17, 0, &udp(68, 67, &relayed)), GuardDhcp),
        (ipv4(V4, GATEWAY_V4, 17, 0x2000, &udp(68, 67, &bootp(1, MAC, [0; 4], &[]))), GuardDhcp),
        (ipv4(V4, [255; 4], 17, 0x2000, &[0, 67]), GuardHidden),
        (eth(MAC, 0x0800, &[0x60; 40]), GuardHidden),
        (eth(MAC, 0x86dd, &[0x45; 40]), GuardHidden),
        (ipv6(gateway, own_v6(), 6, &[0; 20]), GuardIpv6),
        (ipv6(v6("fe80::1"), own_v6(), 6, &[0; 20]), GuardIpv6),
        (ipv6([0; 16], v6("ff02::1"), 17, &udp(1, 2, &[])), GuardIpv6),
        (ipv6(own_v6(), v6(GROUP), 17, &udp(547, 546, &[7, 0, 0, 0])), GuardDhcp),
        (ipv6(own_v6(), v6(GROUP), 17, &udp(9, 547, &[12, 0, 0, 0])), GuardDhcp),
        (ipv6(link_local_v6(), v6(GROUP), 58, &advertisement()), GuardRa),
        (ipv6(link_local_v6(), v6(GROUP), 58, &[137; 40]), GuardRa),
        (ipv6([0; 16], v6("ff02::1:ff00:1"), 58, &nd(135, gateway, &[])), GuardNd),
        (ipv6([0; 16], v6("ff02::1:ff00:2"), 58, &nd(135, own_v6(), &ll_option(1, MAC))), GuardNd),
        (ipv6(own_v6(), v6("ff02::1:ff00:9"), 58, &nd(135, v6("fd77::9"), &ll_option(1, OTHER))), GuardNd),
        (ipv6(own_v6(), v6(GROUP), 58, &nd(136, gateway, &ll_option(2, MAC))), GuardNd),
        (ipv6(own_v6(), v6(GROUP), 58, &nd(136, v6("fe80::1"), &ll_option(2, MAC))), GuardNd),
        (ipv6(own_v6(), v6(GROUP), 58, &nd(136, own_v6(), &ll_option(2, OTHER))), GuardNd),
        (ipv6(own_v6(), v6(GROUP), 58, &nd(136, own_v6(), &[14, 0, 2, 1, 2, 0, 0, 0])), GuardNd),
        (
            ipv6(
                own_v6(),
                v6(GROUP),
                44,
                &[&[58, 0, 0, 0, 0, 0, 0, 1][..], &nd(136, own_v6(), &[])].concat(),
            ),
            GuardNd,
        ),
        (ipv6(own_v6(), v6(GROUP), 44, &[58, 0, 0, 1, 0, 0, 0, 1]), GuardHidden),
        (ipv6(own_v6(), v6(GROUP), 140, &[58, 0, 0, 0, 0, 0, 0, 0]), GuardHidden),
        (ipv6(own_v6(), v6(GROUP), 253, &[58, 0, 0, 0, 0, 0, 0, 0]), GuardHidden),
        (eth(MAC, 0x88cc, &[0; 60]), GuardType),
        (eth(MAC, 0x0040, &[0xaa, 0xaa, 3, 0, 0, 0, 8, 0]), GuardType),
    ] {
        says(&g, &frame, Err(reason));
    }
}

#[test]
fn held_to_mac_addresses_alone() {
    let g = Guard::new(&allowed(&[], false));
    for fine in [
        ipv4(GATEWAY_V4, V4, 6, 0, &[0; 20]),
        ipv6(v6("2001:db8::7"), own_v6(), 6, &[0; 20]),
        arp(0x0806, 2, MAC, GATEWAY_V4, GATEWAY_V4),
        eth(MAC, 0x88cc, &[0; 60]),
    ] {
        says(&g, &fine, Ok(()));
    }
    says(&g, &eth(OTHER, 0x88cc, &[0; 60]), Err(DropReason::GuardMac));
    says(&g, &ipv6(link_local_v6(), v6(GROUP), 58, &advertisement()), Err(DropReason::GuardRa));
    says(&g, &arp(0x0806, 2, OTHER, V4, V4), Err(DropReason::GuardArp));
    let any =
        Guard::new(&Allowed { nets: Some(vec!["10.77.0.0/24".parse().unwrap()]), ..Allowed::default() });
    says(&any, &ipv4(V4, GATEWAY_V4, 6, 0, &[0; 20]), Ok(()));
    says(&any, &arp(0x0806, 2, OTHER, V4, V4), Err(DropReason::GuardArp));
    says(&any, &ipv6(own_v6(), own_v6(), 6, &[0; 20]), Err(DropReason::GuardIpv6));
}

#[test]
fn a_lease_that_is_seen_may_be_used_until_it_ends() {
    let g = Guard::new(&allowed(&[], true));
    let frame = ipv4(V4, GATEWAY_V4, 6, 0, &[0; 20]);
    says(&g, &frame, Err(DropReason::GuardIpv4));
    let ack = bootp(2, MAC, V4, &[53, 1, 5, 51, 4, 0, 0, 0, 60, 255]);
    let answer = ipv4(GATEWAY_V4, [255; 4], 17, 0, &udp(67, 68, &ack));
    let (mac, address, seconds) = given(&packet(&answer)).unwrap();
    assert_eq!((mac, address.octets(), seconds), (MacAddr(MAC), V4, 60));
    g.lease(100, mac, address, seconds);
    says(&g, &frame, Ok(()));
    assert_eq!(g.check(159, &packet(&frame)), Ok(()));
    assert_eq!(g.check(160, &packet(&frame)), Err(DropReason::GuardIpv4));
    // A new version of the configuration knows it, too.
    let mut next = Guard::new(&allowed(&[], true));
    next.inherit(&g);
    assert_eq!(next.leases(100), [address]);
    says(&next, &frame, Ok(()));
    // Given to somebody else.
    g.lease(100, MacAddr(OTHER), address, 60);
    says(&g, &frame, Err(DropReason::GuardIpv4));
    // Given back.
    g.lease(100, mac, address, u32::MAX);
    says(&g, &frame, Ok(()));
    let mut release = bootp(1, MAC, [0; 4], &[53, 1, 7, 255]);
    release[12..16].copy_from_slice(&V4);
    says(&g, &ipv4(V4, GATEWAY_V4, 17, 0, &udp(68, 67, &release)), Err(DropReason::GuardIpv4));
    says(&g, &frame, Err(DropReason::GuardIpv4));
    for not in [
        bootp(2, MAC, V4, &[53, 1, 2, 51, 4, 0, 0, 0, 60, 255]),
        bootp(2, MAC, [0; 4], &[53, 1, 5, 51, 4, 0, 0, 0, 60, 255]),
        bootp(1, MAC, V4, &[53, 1, 5, 51, 4, 0, 0, 0, 60, 255]),
        bootp(2, MAC, V4, &[53, 1, 5, 51, 4, 0]),
        bootp(2, MAC, V4, &[53]),
    ] {
        assert_eq!(given(&packet(&ipv4(GATEWAY_V4, [255; 4], 17, 0, &udp(67, 68, &not)))), None);
    }
}

#[test]
fn leases_are_bounded_and_the_first_to_end_gives_way() {
    let g = Guard::new(&allowed(&[], true));
    let mac = MacAddr(MAC);
    for i in 0..=bindings::SLOTS as u32 {
        g.lease(0, mac, Ipv4Addr::from_bits(100 + i), 1000 - i);
    }
    let leases = g.leases(0);
    assert_eq!(leases.len(), bindings::SLOTS);
    assert!(!leases.contains(&Ipv4Addr::from_bits(100 + bindings::SLOTS as u32 - 1)), "it ended first");
    // Renewed, not doubled.
    g.lease(10, mac, Ipv4Addr::from_bits(100), 5000);
    assert_eq!(g.leases(4000), [Ipv4Addr::from_bits(100)]);
}

/// A message that no guarded port may send: its protocol and what follows the IPv6 header.
fn attack() -> impl Strategy<Value = (u8, Vec<u8>)> {
    prop_oneof![
        Just((58, advertisement())),
        Just((58, nd(137, own_v6(), &[0; 16]))),
        Just((58, nd(136, v6("fd77::1"), &ll_option(2, MAC)))),
        Just((58, nd(136, own_v6(), &ll_option(2, OTHER)))),
        Just((17, udp(547, 546, &[2, 0, 0, 1]))),
    ]
}

/// An extension header: its number, and its bytes with the next one's number to be filled in.
fn extension() -> impl Strategy<Value = (u8, Vec<u8>)> {
    prop_oneof![
        (0u8..3).prop_map(|n| (60, [&[0, n][..], &vec![0; 6 + 8 * usize::from(n)]].concat())),
        Just((0, vec![0, 0, 1, 4, 0, 0, 0, 0])),
        Just((43, vec![0, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
        Just((51, vec![0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
        Just((44, vec![0, 0, 0, 0, 0, 0, 0, 7])),
        Just((139, vec![0, 0, 0, 0, 0, 0, 0, 0])),
    ]
}

/// The chain of headers and what it ends with, and the number of its first.
fn chain(extensions: &[(u8, Vec<u8>)], last: (u8, Vec<u8>)) -> (u8, Vec<u8>) {
    extensions.iter().rev().fold(last, |(next, rest), (number, bytes)| {
        let mut bytes = bytes.clone();
        bytes[0] = next;
        (*number, [bytes, rest].concat())
    })
}

fn tagged(frame: &[u8], tags: &[(bool, u16)]) -> Vec<u8> {
    let mut out = frame[..12].to_vec();
    for (service, tci) in tags {
        out.extend(if *service { [0x88, 0xa8] } else { [0x81, 0] });
        out.extend(tci.to_be_bytes());
    }
    [&out, &frame[12..]].concat()
}

proptest! {
    /// RFC 7113, RFC 7610: neither tags, extension headers nor fragments carry an attack past the guard.
    #[test]
    fn nothing_hides_an_attack(
        attack in attack(),
        before in prop::collection::vec(extension(), 0..5),
        behind in prop::collection::vec(extension(), 0..3),
        tags in prop::collection::vec((any::<bool>(), any::<u16>()), 0..6),
        cuts in prop::collection::vec(1usize..20, 0..4),
        held in any::<bool>(),
    ) {
        let nets: &[&str] = if held { &["10.77.0.2/32", "fd77::2/128"] } else { &[] };
        let g = Guard::new(&allowed(nets, false));
        // Without IP addresses to hold it to, it may answer for any.
        prop_assume!(held || attack.1[0] != 136 || attack.1.ends_with(&OTHER));
        let (next, rest) = chain(&behind, attack);
        let mut pieces = Vec::new();
        let mut at = 0;
        for cut in cuts.iter().map(|c| c * 8) {
            if at + cut < rest.len() {
                pieces.push((at, at + cut));
                at += cut;
            }
        }
        pieces.push((at, rest.len()));
        let mut passed = 0;
        for &(from, to) in &pieces {
            let more = to < rest.len();
            let piece = rest[from..to].to_vec();
            let part = match pieces.len() {
                1 => (next, piece),
                _ => {
                    let word = (from as u16) | u16::from(more);
                    let [a, b] = word.to_be_bytes();
                    (44, [&[next, 0, a, b, 0, 0, 0, 7][..], &piece].concat())
                }
            };
            let (first, payload) = chain(&before, part);
            let frame = tagged(&ipv6(own_v6(), v6(GROUP), first, &payload), &tags);
            passed += usize::from(g.check(0, &packet(&frame)).is_ok());
        }
        prop_assert!(passed < pieces.len(), "all {} pieces passed", passed);
    }

    /// What passes and can be read without doubt is from an address of the port's own.
    #[test]
    fn what_passes_is_its_own(bytes in prop::collection::vec(any::<u8>(), 0..120), kind in 0usize..4) {
        let kind = [0x0800u16, 0x86dd, 0x0806, 0x8100][kind];
        let g = guard();
        let mut frame = eth(MAC, kind, &bytes);
        if kind == 0x0800 && frame.len() > 34 {
            (frame[14], frame[16], frame[17]) = (0x45, 0, 40);
        }
        if kind == 0x86dd && frame.len() > 54 {
            frame[14] = 0x60;
        }
        if g.check(0, &packet(&frame)).is_ok() {
            match kind {
                0x0800 => prop_assert!(frame[26..30] == V4 || frame[26..30] == [0; 4]),
                0x86dd => prop_assert!(frame[22..38] == own_v6() || frame[22..38] == link_local_v6() || frame[22..38] == [0; 16]),
                0x0806 => prop_assert!(frame[28..32] == V4 || frame[28..32] == [0; 4]),
                _ => {}
            }
        }
    }
}
