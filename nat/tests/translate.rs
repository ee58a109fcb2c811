//! What translation does to the bytes: checksums, offload metadata, ICMP errors, fragments, garbage.

mod kit;

use kit::*;
use proptest::prelude::*;
use trunkline_nat::{DropReason, Filtering, Path};
use trunkline_packet::headers::Headers;
use trunkline_packet::{Checksum, Gso, GsoKind, Offload, checksum};

/// Address families: host, its external endpoint, remote.
const PEERS: [(&str, &str, &str); 2] = [
    ("10.77.0.9:5000", "192.0.2.10:5000", "198.51.100.1:53"),
    ("[fd77::9]:5000", "[2001:db8::10]:5000", "[2001:db8:1::1]:53"),
];

/// Leaves the checksum to the egress.
fn partial(w: &mut World, frame: &[u8], gso: Gso) -> trunkline_packet::Packet {
    let mut packet = w.packet(frame);
    let h = Headers::parse(&packet).unwrap();
    let offset = if h.proto == 6 { 16 } else { 6 };
    let pseudo = h.pseudo(packet.head(), h.end - u32::from(h.l4)).fold();
    let at = usize::from(h.l4 + offset);
    packet.head_mut()[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
    packet.meta_mut().offload = Offload { csum: Checksum::Partial { start: h.l4, offset }, gso };
    packet
}

#[test]
fn partial_checksums_finish_right() {
    for (a, ext, r) in PEERS {
        let frames = [udp(a, r, &[9; 333]), tcp(a, r, Seg::new(SYN, 1, 0))];
        for (i, frame) in frames.iter().enumerate() {
            let mut w = World::usual();
            let packet = partial(&mut w, frame, Gso::default());
            let mut sunk = Sunk::default();
            w.nat.process(w.now, OUT, packet, &mut sunk);
            let mut packet = sunk.sent.pop().unwrap().0;
            checksum::complete(&mut packet).unwrap();
            verify(&packet.to_vec());
            assert_eq!(src(&packet.to_vec()), addr(ext));
            let answer = if i == 0 { udp(r, ext, b"abc") } else { tcp(r, ext, Seg::new(SYN | ACK, 7, 2)) };
            let packet = partial(&mut w, &answer, Gso::default());
            w.nat.process(w.now, IN, packet, &mut sunk);
            let mut packet = sunk.sent.pop().unwrap().0;
            checksum::complete(&mut packet).unwrap();
            verify(&packet.to_vec());
            assert_eq!(dst(&packet.to_vec()), addr(a));
        }
    }
}

#[test]
fn superframes_pass_whole_and_count_their_whole_payload() {
    for (a, ext, r) in PEERS {
        let mut w = World::usual();
        w.out(&tcp(a, r, Seg::new(SYN, 100, 0).scale(7))).unwrap();
        w.back(&tcp(r, ext, Seg::new(SYN | ACK, 900, 101).scale(7))).unwrap();
        w.out(&tcp(a, r, Seg::new(ACK, 101, 901).win(2000))).unwrap();
        let frame = tcp(a, r, Seg::new(ACK, 101, 901).len(60_000).win(2000));
        let kind = if a.starts_with('[') { GsoKind::TcpV6 } else { GsoKind::TcpV4 };
        let gso = Gso { kind, ecn: false, size: 1400 };
        let packet = partial(&mut w, &frame, gso);
        let mut sunk = Sunk::default();
        w.nat.process(w.now, OUT, packet, &mut sunk);
        let mut packet = sunk.sent.pop().unwrap().0;
        assert_eq!((packet.len(), packet.meta().offload.gso), (frame.len(), gso));
        packet.meta_mut().offload.gso = Gso::default();
        checksum::complete(&mut packet).unwrap();
        verify(&packet.to_vec());
        // An acknowledgement of all of it is in the window, one of a byte more is not.
        assert_eq!(w.back(&tcp(r, ext, Seg::new(ACK, 901, 60_102))), Err(DropReason::NatTcpWindow));
        w.back(&tcp(r, ext, Seg::new(ACK, 901, 60_101))).unwrap();
    }
}

#[test]
fn udp_without_checksum_stays_without() {
    let mut w = World::usual();
    let mut frame = udp(PEERS[0].0, PEERS[0].2, b"abc");
    frame[40..42].fill(0);
    let out = w.out(&frame).unwrap();
    assert_eq!((src(&out), &out[40..42]), (addr(PEERS[0].1), &[0u8, 0][..]));
}

#[test]
fn icmp_errors_are_translated_inside_and_out() {
    for (a, ext, r) in PEERS {
        let router = if a.starts_with('[') { "2001:db8:5::1" } else { "203.0.113.1" };
        let (local, external) = (addr(a).ip().to_string(), addr(ext).ip().to_string());
        let remote = addr(r).ip().to_string();
        let l3 = if a.starts_with('[') { 40 } else { 20 };
        let flows =
            [udp(a, r, &[1; 100]), tcp(a, r, Seg::new(SYN, 1, 0)), ping(&local, &remote, 5000, false)];
        for sent in &flows {
            for keep in [l3 + 8, l3 + 12, 1000] {
                let mut w = World::usual();
                let out = w.out(sent).unwrap();
                // From a router on the way.
                let got = w.back(&too_big(router, &external, &out, keep)).unwrap();
                assert_eq!((src(&got).ip(), dst(&got).ip()), (ip(router), ip(&local)));
                let inner = &got[14 + l3 + 8..];
                assert_eq!(inner, &sent[14..(14 + keep).min(sent.len())], "as the host sent it");
                // To somebody else, or about something else.
                let mut other = out.clone();
                other[14 + l3 + 4 + 1] ^= 1;
                other[14 + l3 + 1] ^= 1;
                assert_eq!(
                    w.back(&too_big(router, &external, &other, keep)),
                    Err(DropReason::NatIcmpUnmatched)
                );
                let mut bad = too_big(router, &external, &out, keep);
                bad[14 + l3 + 7] ^= 1;
                assert_eq!(w.back(&bad), Err(DropReason::NatIcmpChecksum), "RFC 5508 REQ-3");
                assert_eq!(
                    w.back(&too_big(router, &external, sent, keep)),
                    Err(DropReason::NatIcmpUnmatched)
                );
            }
        }
    }
}

#[test]
fn icmp_errors_from_inside_leave_under_the_external_address() {
    for (server, ext, client, via) in [
        ("10.77.0.2:53", "192.0.2.10:53", "198.51.100.1:999", "10.77.0.1"),
        ("[fd77::2]:53", "[2001:db8::10]:53", "[2001:db8:1::1]:999", "fd77::1"),
    ] {
        let mut w = World::usual();
        let asked = udp(client, ext, &[1; 64]);
        let got = w.back(&asked).unwrap();
        let client = addr(client).ip().to_string();
        for from in [addr(server).ip().to_string(), via.to_string()] {
            let error = w.out(&too_big(&from, &client, &got, 1000)).unwrap();
            assert_eq!((src(&error).ip(), dst(&error).ip()), (addr(ext).ip(), ip(&client)));
            assert_eq!(error[error.len() - (asked.len() - 14)..], asked[14..]);
        }
    }
}

#[test]
fn icmp_errors_pass_a_hairpin() {
    let mut w = World::with(Filtering::EndpointIndependent);
    let sent = udp("10.77.0.9:5000", "192.0.2.10:53", &[1; 64]);
    let got = w.out(&sent).unwrap();
    let error = w.out(&too_big("10.77.0.2", "192.0.2.10", &got, 1000)).unwrap();
    assert_eq!((src(&error).ip(), dst(&error).ip()), (ip("192.0.2.10"), ip("10.77.0.9")));
    assert_eq!(error[error.len() - (sent.len() - 14)..], sent[14..]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn fragments_in_any_order_are_translated(len in 100usize..4000, size in 1usize..60, seed in any::<u64>(), hairpin: bool) {
        let to = if hairpin { "192.0.2.10:53" } else { "198.51.100.1:53" };
        let whole = udp("10.77.0.9:5000", to, &vec![0x5a; len]);
        let mut pieces = fragments(&whole, (size * 8).max(len.div_ceil(20).next_multiple_of(8)));
        let mut s = seed | 1;
        for i in (1..pieces.len()).rev() {
            s = s.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            pieces.swap(i, (s >> 33) as usize % (i + 1));
        }
        let mut w = World::usual();
        let mut out = Vec::new();
        for p in &pieces {
            let sunk = w.all(OUT, p);
            prop_assert!(sunk.dropped.is_empty());
            out.extend(sunk.sent.iter().map(|(p, _)| p.to_vec()));
        }
        prop_assert_eq!(out.len(), pieces.len());
        out.iter().for_each(|p| verify(p));
        let got = reassemble(&out);
        verify(&got);
        prop_assert_eq!(src(&got), addr("192.0.2.10:5000"));
        prop_assert_eq!(dst(&got), addr(if hairpin { "10.77.0.2:53" } else { to }));
        prop_assert_eq!(w.nat.stats().held, 0);
    }
}

#[test]
fn rfc5722_overlapping_fragments_condemn_their_packet() {
    let whole = udp("10.77.0.9:5000", "198.51.100.1:53", &[0x5a; 1000]);
    let pieces = fragments(&whole, 400);
    let mut w = World::usual();
    w.out(&pieces[0]).unwrap();
    let overlap = piece(&whole, 392, &[0; 400], true);
    assert_eq!(w.out(&overlap), Err(DropReason::NatFragmentOverlap));
    assert_eq!(w.out(&pieces[1]), Err(DropReason::NatFragmentLost));
    // The rest of a packet whose end is known already; a piece past the largest packet.
    for (first, bad) in [(2, piece(&whole, 1200, &[0; 8], true)), (0, piece(&whole, 65_528, &[0; 16], true))]
    {
        let mut w = World::usual();
        w.all(OUT, &pieces[first]);
        assert_eq!(w.all(OUT, &bad).dropped[0].1, DropReason::NatFragmentOverlap);
        assert_eq!(w.nat.stats().held, 0);
    }
}

#[test]
fn rfc1858_tiny_first_fragments() {
    let whole = tcp("10.77.0.9:5000", "198.51.100.1:53", Seg::new(SYN, 1, 0).len(100));
    let mut w = World::usual();
    let pieces = fragments(&whole, 16);
    assert_eq!(w.out(&pieces[0]), Err(DropReason::NatFragmentTiny));
    assert_eq!(w.all(OUT, &pieces[1]).dropped.len(), 1, "its packet is lost");
}

#[test]
fn held_fragments_are_bounded_in_number_and_time() {
    let mut w = World::usual();
    for id in 0..5000u16 {
        let whole = udp(&format!("10.77.{}.{}:5000", id % 7, id % 250 + 1), "198.51.100.1:53", &[1; 1000]);
        let mut p = fragments(&whole, 400).remove(1);
        p[18..20].copy_from_slice(&id.to_be_bytes());
        let h = etherparse::Ipv4Header::from_slice(&p[14..]).unwrap().0;
        p[24..26].copy_from_slice(&h.calc_header_checksum().to_be_bytes());
        w.all(OUT, &p);
    }
    assert!(w.nat.stats().held <= 64 * 64);
    let held = w.nat.stats().held;
    w.pass(30_001);
    let mut sunk = Sunk::default();
    w.nat.tick(w.now, 1 << 12, &mut sunk);
    assert_eq!((w.nat.stats().held, sunk.dropped.len()), (0, held));
}

#[test]
fn ipv6_fragments_follow_their_first() {
    let whole = udp("[fd77::9]:5000", "[2001:db8:1::1]:53", &[3; 100]);
    let frag = |from: usize, to: usize, more: u16| {
        let mut b = whole[..54].to_vec();
        b[20] = 44;
        b[18..20].copy_from_slice(&((to - from + 8) as u16).to_be_bytes());
        b.extend([17, 0]);
        b.extend((from as u16 | more).to_be_bytes());
        b.extend([0, 0, 0, 9]);
        b.extend(&whole[54 + from..54 + to]);
        b
    };
    let mut w = World::usual();
    assert_eq!(w.all(OUT, &frag(64, 108, 0)).sent.len(), 0);
    let sunk = w.all(OUT, &frag(0, 64, 1));
    assert_eq!(sunk.sent.len(), 2);
    let parts: Vec<Vec<u8>> = sunk.sent.iter().map(|(p, _)| p.to_vec()).collect();
    let mut got = parts[0][..54].to_vec();
    got[20] = 17;
    got[18..20].copy_from_slice(&108u16.to_be_bytes());
    got.extend([&parts[0][62..], &parts[1][62..]].concat());
    verify(&got);
    assert_eq!(src(&got), addr("[2001:db8::10]:5000"));
}

fn seeds() -> Vec<(Path, Vec<u8>)> {
    let mut all = Vec::new();
    for (a, ext, r) in PEERS {
        let (l, e, h) = (addr(a).ip().to_string(), addr(ext).ip().to_string(), addr(r).ip().to_string());
        let out = udp(a, r, &[1; 64]);
        all.push((OUT, out.clone()));
        all.push((OUT, tcp(a, r, Seg::new(SYN, 1, 0).scale(3))));
        all.push((OUT, ping(&l, &h, 5, false)));
        all.push((IN, udp(r, ext, &[2; 40])));
        all.push((IN, tcp(r, ext, Seg::new(SYN | ACK, 1, 2).scale(3))));
        all.push((IN, too_big(&h, &e, &udp(ext, r, &[1; 64]), 1000)));
        all.push((OUT, too_big(&l, &h, &udp(r, a, &[2; 40]), 1000)));
        all.push((OUT, udp(a, ext, b"self")));
    }
    all.extend(fragments(&udp(PEERS[0].0, PEERS[0].2, &[7; 200]), 64).into_iter().map(|p| (OUT, p)));
    all
}

#[test]
fn frames_cut_at_any_byte_are_survived() {
    let mut w = World::with(Filtering::EndpointIndependent);
    for (path, frame) in seeds() {
        for len in 0..=frame.len() {
            let sunk = w.all(path, &frame[..len]);
            assert!(len >= frame.len() || sunk.sent.is_empty());
        }
    }
}

proptest! {
    #[test]
    fn garbage_is_survived_and_every_packet_ends_once(
        picks in prop::collection::vec((0usize..22, prop::collection::vec((any::<u16>(), any::<u8>()), 0..6), any::<u16>()), 1..60),
    ) {
        let mut w = World::with(Filtering::Address);
        let seeds = seeds();
        let (mut given, mut ended) = (0usize, 0);
        for (pick, edits, ms) in picks {
            let (path, mut frame) = seeds[pick % seeds.len()].clone();
            for (at, value) in edits {
                let at = usize::from(at) % frame.len();
                frame[at] = value;
            }
            w.pass(u64::from(ms));
            let sunk = w.all(path, &frame);
            given += 1;
            ended += sunk.sent.len() + sunk.dropped.len();
            prop_assert_eq!(given, ended + w.nat.stats().held);
        }
    }
}
