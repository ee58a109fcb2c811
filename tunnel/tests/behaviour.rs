//! What the options and rules of a tunnel do, one at a time.

mod common;

use std::net::IpAddr;

use common::*;
use trunkline_packet::{
    Batch, Checksum, DropReason, GsoKind, Offload, Packet, Pool, PortId, Tpid, VlanTag, pop_tag, push_tag,
    segment,
};
use trunkline_tunnel::{
    Arrival, DropCounts, Encap, Endpoint, InnerVlan, Kind, NetId, SendInfo, Tos, Ttl, TunnelHeader, Tunnels,
    TxState, UdpRuns, decap, decap_all, encap_datagrams, encap_frame, fragment, open, segment_for_udp, udp,
};

fn vxlan() -> Encap {
    Encap::new(TunnelHeader::vxlan(vni()), hosts(false).1)
}

fn sent(frame: &Frame, to: &Encap) -> Result<(SendInfo, Vec<u8>), DropReason> {
    let mut pool = Pool::new(64, 4);
    let mut p = frame.build(&mut pool);
    pop_tag(&mut p).unwrap();
    let mut out = Batch::new();
    encap_datagrams(p, to, &TxState::default(), &mut pool, &mut out).map(|info| (info, out[0].to_vec()))
}

fn tos_of_ip(frame: &[u8]) -> u8 {
    if frame[14] >> 4 == 4 { frame[15] } else { frame[14] << 4 | frame[15] >> 4 }
}

#[test]
fn tos_and_ttl_are_fixed_or_inherited_and_ecn_always_is() {
    for v6 in [false, true] {
        let frame = Frame { tos: 0xb9, v6, ..Frame::SMALL };
        let (info, _) = sent(&frame, &vxlan()).unwrap();
        assert_eq!((info.tos, info.ttl, info.df), (1, 64, true));
        let to = Encap { tos: Tos::Inherit, ttl: Ttl::Inherit, df: false, ..vxlan() };
        let (info, _) = sent(&frame, &to).unwrap();
        assert_eq!((info.tos, info.ttl, info.df), (0xb9, 63, false));
        let to = Encap { tos: Tos::Fixed(0x23), ttl: Ttl::Fixed(9), ..vxlan() };
        let (info, _) = sent(&frame, &to).unwrap();
        assert_eq!((info.tos, info.ttl), (0x21, 9));
    }
    let mut pool = Pool::new(4, 1);
    let arp = packet(&[&[2; 12][..], &[8, 6], &[0; 28]].concat(), &mut pool);
    let to = Encap { tos: Tos::Inherit, ttl: Ttl::Inherit, ..vxlan() };
    let info = encap_datagrams(arp, &to, &TxState::default(), &mut pool, &mut Batch::new()).unwrap();
    assert_eq!((info.tos, info.ttl), (0, 64), "not IP");
}

#[test]
fn rfc6040_4_2_the_outer_mark_comes_inside_and_the_header_checksum_stays_right() {
    let mut pool = Pool::new(4, 1);
    let b = tunnels(false, |_| ());
    for v6 in [false, true] {
        for (inner, outer, wanted) in [(0x22, 3, Some(0x23)), (0x22, 1, Some(0x21)), (0x20, 3, None)] {
            let (_, bytes) = sent(&Frame { tos: inner, v6, ..Frame::SMALL }, &vxlan()).unwrap();
            let mut p = packet(&bytes, &mut pool);
            let result = decap(&mut p, &vxlan_from_a(outer), &b);
            match wanted {
                None => assert_eq!(result, Err(DropReason::TunnelEcn)),
                Some(tos) => {
                    assert_eq!((result, tos_of_ip(p.head())), (Ok(()), tos));
                    let ip = trunkline_packet::headers::Headers::parse(&p).unwrap();
                    assert!(trunkline_packet::checksum::ipv4_header_ok(p.head(), &ip));
                }
            }
        }
    }
}

#[test]
fn rfc7348_5_source_ports_are_dynamic_and_follow_the_inner_flow() {
    let mut seen = std::collections::HashSet::new();
    for port in 0..200 {
        let frame = Frame { ports: (port, 80), ..Frame::SMALL };
        let (info, _) = sent(&frame, &vxlan()).unwrap();
        let (again, _) = sent(&Frame { payload: 7, ..frame }, &vxlan()).unwrap();
        assert_eq!(info.source_port(), again.source_port());
        assert!(info.source_port() >= 49152);
        seen.insert(info.source_port());
    }
    assert!(seen.len() > 190, "{}", seen.len());
}

#[test]
fn rfc7348_6_1_the_inner_tag_is_stripped_or_kept_as_configured() {
    let tagged = Frame { tags: 1, ..Frame::SMALL };
    let (_, stripped) = sent(&tagged, &vxlan()).unwrap();
    assert_eq!(stripped[8 + 12..8 + 14], [8, 0]);
    let (_, kept) = sent(&tagged, &Encap { inner_vlan: InnerVlan::Keep, ..vxlan() }).unwrap();
    assert_eq!(kept[8 + 12..8 + 16], [0x81, 0, 0x60, 5]);
    assert_eq!(
        sent(&Frame { tags: 2, ..Frame::SMALL }, &vxlan()).err(),
        Some(DropReason::InnerTag),
        "a second tag is the customer's"
    );
    let mut pool = Pool::new(4, 1);
    for (mode, wanted) in [(InnerVlan::Strip, Err(DropReason::InnerTag)), (InnerVlan::Keep, Ok(()))] {
        let b = tunnels(false, |e| {
            if e.kind != Kind::Nvgre {
                e.inner_vlan = mode;
            }
        });
        let mut p = packet(&kept, &mut pool);
        assert_eq!(decap(&mut p, &vxlan_from_a(0), &b), wanted);
        if wanted.is_ok() {
            assert_eq!(p.meta().vlan, Some(VlanTag { tpid: Tpid::Customer, tci: 0x6005 }));
        }
    }
}

#[test]
fn a_tunnels_own_packet_does_not_enter_it_again() {
    let (a, b) = hosts(false);
    let from = tunnels(true, |_| ());
    let mut pool = Pool::new(8, 1);
    for index in 0..ENDPOINTS {
        let tunnel = from.of_port(port(index, false)).unwrap();
        let to = tunnel.encaps(UNTAGGED).unwrap()[0];
        assert_eq!((to.local, to.remote), (Some(a), b));
        let mut out = Batch::new();
        let state = TxState::default();
        encap_frame(Frame::SMALL.build(&mut pool), &to, &path(false), &state, &mut pool, &mut out).unwrap();
        let p = out.remove(0);
        let result = encap_datagrams(p, &to, &state, &mut pool, &mut out);
        assert_eq!(result, Err(DropReason::TunnelLoop), "{index}");
        assert!(out.is_empty());
    }
}

#[test]
fn the_kernels_unfinished_superframes_become_superframes() {
    let mut pool = Pool::new(128, 8);
    let b = tunnels(false, |e| e.inner_mtu = 1450);
    for v6 in [false, true] {
        let built = Frame { v6, payload: 60_000, offload: 1000, ..Frame::SMALL };
        let inner = built.build(&mut pool).to_vec();
        let datagram = [&[8, 0, 0, 0, 0, 0, 77, 0][..], &inner].concat();
        let mut p = packet(&datagram, &mut pool);
        decap(&mut p, &vxlan_from_a(0), &b).unwrap();
        let (kind, l4) = if v6 { (GsoKind::TcpV6, 54) } else { (GsoKind::TcpV4, 34) };
        let offload = p.meta().offload;
        assert_eq!(offload.csum, Checksum::Partial { start: l4, offset: 16 });
        assert_eq!((offload.gso.kind, offload.gso.size), (kind, 1450 + 14 - l4 - 20));
        let mut out = Batch::new();
        segment(p, &mut pool, &mut out, true).unwrap();
        assert!(out.iter().all(|s| s.len() <= 1464));
        // A finished checksum is believed only if it is right.
        let mut whole = inner.clone();
        let at = usize::from(l4) + 16;
        let sum = trunkline_packet::checksum::Sum::ZERO.bytes(&whole[l4.into()..]).finish();
        for (check, kind) in [(sum, kind), (sum ^ 1, GsoKind::None)] {
            whole[at..at + 2].copy_from_slice(&check.to_be_bytes());
            let mut p = packet(&[&datagram[..8], &whole].concat(), &mut pool);
            decap(&mut p, &vxlan_from_a(0), &b).unwrap();
            assert_eq!(p.meta().offload.gso.kind, kind);
        }
    }
}

#[test]
fn an_unfinished_checksum_is_partial_and_padding_goes() {
    let mut pool = Pool::new(8, 1);
    let b = tunnels(false, |_| ());
    for tcp in [false, true] {
        let inner = Frame { tcp, payload: 3, offload: 1, ..Frame::SMALL }.build(&mut pool).to_vec();
        let padded = [&[8, 0, 0, 0, 0, 0, 77, 0][..], &inner, &[0xaa; 5]].concat();
        let mut p = packet(&padded, &mut pool);
        decap(&mut p, &vxlan_from_a(0), &b).unwrap();
        assert_eq!(p.meta().offload.csum, Checksum::Partial { start: 34, offset: if tcp { 16 } else { 6 } });
        assert_eq!(p.to_vec(), inner);
    }
}

#[test]
fn runs_of_datagrams_stay_within_the_kernels_limits() {
    let mut pool = Pool::new(2048, 4);
    let (mut out, mut runs, state) = (Batch::new(), UdpRuns::new(16), TxState::default());
    let big = Frame { payload: 64_000, offload: 500, ..Frame::SMALL };
    let small = Frame { payload: 10, ..Frame::SMALL };
    let other = Frame { ports: (7, 7), ..small.clone() };
    for frame in [&big, &big, &small, &small, &other, &other, &small] {
        segment_for_udp(frame.build(&mut pool), &vxlan(), &state, &mut pool, &mut out, &mut runs).unwrap();
    }
    let mut next = 0;
    for run in runs.runs() {
        assert_eq!(run.first, next);
        next += run.count;
        assert!(run.count <= udp::MAX_SEGMENTS && run.bytes <= udp::MAX_BYTES);
        let lens: Vec<usize> = out[run.first..next].iter().map(Packet::len).collect();
        assert_eq!(run.bytes, lens.iter().sum::<usize>());
        assert!(lens[..run.count - 1].iter().all(|&l| l == run.size) && lens[run.count - 1] <= run.size);
    }
    assert_eq!(next, out.len());
    assert!(runs.runs().iter().any(|run| run.count == udp::MAX_SEGMENTS));
    assert!(runs.runs().len() <= 8, "{}", runs.runs().len());
    runs.clear();
    assert!(runs.runs().is_empty());
}

#[test]
fn what_merged_datagrams_lose_is_counted_one_by_one() {
    let mut pool = Pool::new(8, 2);
    let b = tunnels(false, |_| ());
    let (_, good) = sent(&Frame::SMALL, &vxlan()).unwrap();
    let mut bad = good.clone();
    bad[0] = 0;
    let merged = [&good[..], &bad, &good, &good[..9]].concat();
    let (mut out, mut drops) = (Batch::new(), DropCounts::new());
    let opened = Arrival { outer: vxlan_from_a(0), gro: Some(good.len() as u16) };
    decap_all(packet(&merged, &mut pool), &opened, &b, &mut pool, &mut out, &mut drops);
    assert_eq!(out.len(), 2);
    assert_eq!(drops.get(DropReason::VxlanNoVni), 1);
    assert_eq!(drops.get(DropReason::InnerTooShort), 1);
    assert_eq!(drops.total(), 2);
    let opened = Arrival { gro: Some(0), ..opened };
    decap_all(packet(&merged, &mut pool), &opened, &b, &mut pool, &mut out, &mut drops);
    assert_eq!(drops.get(DropReason::BadOffload), 1);
}

#[test]
fn a_merged_outer_udp_frame_from_a_port_comes_apart() {
    let mut pool = Pool::new(64, 2);
    let b = tunnels(false, |_| ());
    let (_, good) = sent(&Frame::SMALL, &vxlan()).unwrap();
    let udp = Frame { tcp: false, offload: good.len(), ports: (50000, 4789), ..Frame::SMALL };
    let mut p = udp.build_with(&good.repeat(5), &mut pool);
    let (src, dst) = hosts(false);
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (src, dst) else { unreachable!() };
    p.head_mut()[26..30].copy_from_slice(&src.octets());
    p.head_mut()[30..34].copy_from_slice(&dst.octets());
    let h = &mut p.head_mut()[14..34];
    h[10..12].fill(0);
    let check = trunkline_packet::checksum::Sum::ZERO.bytes(h).finish();
    h[10..12].copy_from_slice(&check.to_be_bytes());
    let opened = open(&mut p, false).unwrap();
    assert_eq!(opened.gro, Some(good.len() as u16));
    let (mut out, mut drops) = (Batch::new(), DropCounts::new());
    decap_all(p, &opened, &b, &mut pool, &mut out, &mut drops);
    assert_eq!((out.len(), drops.total()), (5, 0));
}

#[test]
fn outer_packets_without_df_are_numbered_and_fragmented() {
    let mut pool = Pool::new(64, 2);
    for v6 in [false, true] {
        let state = TxState::default();
        let to = Encap { df: false, ..Encap::new(TunnelHeader::vxlan(vni()), hosts(v6).1) };
        let mut whole = Batch::new();
        let inner = Frame { payload: 1300, offload: 1, ..Frame::SMALL };
        encap_frame(inner.build(&mut pool), &to, &path(v6), &state, &mut pool, &mut whole).unwrap();
        let mut copy = pool.duplicate(&whole[0]);
        trunkline_packet::checksum::complete(&mut copy).unwrap();
        let (front, extra) = if v6 { (54, 8) } else { (34, 0) };
        let payload = copy.to_vec()[front..].to_vec();
        let mut out = Batch::new();
        let n = fragment(whole.remove(0), 600, &state, &mut pool, &mut out).unwrap();
        assert_eq!((n, out.len()), (3, 3));
        let mut joined: Vec<u8> = Vec::new();
        let id = |b: &[u8]| if v6 { b[58..62].to_vec() } else { b[18..20].to_vec() };
        let ids: std::collections::HashSet<_> = out.iter().map(|p| id(p.head())).collect();
        assert_eq!(ids.len(), 1, "fragments of one packet have one identification");
        let mut next = Batch::new();
        encap_frame(inner.build(&mut pool), &to, &path(v6), &state, &mut pool, &mut whole).unwrap();
        fragment(whole.remove(0), 600, &state, &mut pool, &mut next).unwrap();
        assert!(!ids.contains(&id(next[0].head())), "the next packet's have another");
        for (index, part) in out.iter().enumerate() {
            let b = part.to_vec();
            assert!(b.len() <= 614);
            let ip = trunkline_packet::headers::Headers::of_frame(&b).unwrap();
            assert!(ip.is_whole(b.len()) && trunkline_packet::checksum::ipv4_header_ok(&b, &ip));
            let (offset, more) = if v6 {
                let w = u16::from_be_bytes([b[56], b[57]]);
                (usize::from(w & !7), w & 1 != 0)
            } else {
                let w = u16::from_be_bytes([b[20], b[21]]);
                (usize::from(w & 0x1fff) * 8, w & 0x2000 != 0)
            };
            assert_eq!((offset, more), (joined.len(), index < 2));
            assert_eq!(part.meta().frames, u16::from(index == 0));
            joined.extend(&b[front + extra..]);
        }
        assert_eq!(joined, payload);
    }
    // With DF it is not ours to do.
    let mut out = Batch::new();
    encap_frame(
        Frame { payload: 1300, ..Frame::SMALL }.build(&mut pool),
        &vxlan(),
        &path(false),
        &TxState::default(),
        &mut pool,
        &mut out,
    )
    .unwrap();
    let p = out.remove(0);
    assert_eq!(fragment(p, 600, &TxState::default(), &mut pool, &mut out), Err(DropReason::Mtu));
    assert!(out.is_empty());
}

#[test]
fn nested_superframes_are_segmented_before_a_second_tunnel() {
    let mut pool = Pool::new(64, 4);
    let (a, b) = (tunnels(true, |_| ()), tunnels(false, |_| ()));
    let frame = Frame { payload: 5000, offload: 1000, ..Frame::SMALL };
    let mut expected = Batch::new();
    segment(frame.build(&mut pool), &mut pool, &mut expected, true).unwrap();
    let outer_to = a.of_port(port(6, false)).unwrap().encaps(UNTAGGED).unwrap()[0];
    let inner_to = Encap::new(TunnelHeader::vxlan(vni()), IpAddr::from([10, 9, 9, 9]));
    let inner_path = trunkline_tunnel::OuterPath { src: IpAddr::from([10, 9, 9, 8]), ..path(false) };
    let (mut once, mut twice, state) = (Batch::new(), Batch::new(), TxState::default());
    encap_frame(frame.build(&mut pool), &inner_to, &inner_path, &state, &mut pool, &mut once).unwrap();
    assert_eq!(once.len(), 1);
    encap_frame(once.remove(0), &outer_to, &path(false), &state, &mut pool, &mut twice).unwrap();
    assert_eq!(twice.len(), 5);
    let far = {
        let mut e = Endpoint::new(PortId(1), Kind::Vxlan, NetId::Vni(vni()));
        e.local = Some(IpAddr::from([10, 9, 9, 9]));
        Tunnels::new(vec![e]).unwrap()
    };
    for (mut p, wanted) in twice.drain(..).zip(&expected) {
        trunkline_packet::checksum::complete(&mut p).unwrap();
        p.meta_mut().offload = Offload::NONE;
        for table in [&b, &far] {
            let opened = open(&mut p, false).unwrap();
            decap(&mut p, &opened.outer, table).unwrap();
        }
        push_tag(&mut p).unwrap();
        assert_eq!(p.to_vec(), wanted.to_vec());
    }
}

#[test]
fn a_frame_too_large_for_any_ip_packet_is_refused() {
    let mut pool = Pool::new(8, 4);
    let p = packet(&vec![2; 65_530], &mut pool);
    let mut out = Batch::new();
    let result = encap_frame(p, &vxlan(), &path(false), &TxState::default(), &mut pool, &mut out);
    assert_eq!(result, Err(DropReason::Oversize));
    assert!(out.is_empty());
}

#[test]
fn runs_of_large_datagrams_stay_within_one_ip_packet() {
    let mut pool = Pool::new(256, 4);
    let (mut out, mut runs, state) = (Batch::new(), UdpRuns::new(1), TxState::default());
    let even = Frame { payload: 8900 * 7, offload: 8900, ..Frame::SMALL };
    for _ in 0..3 {
        segment_for_udp(even.build(&mut pool), &vxlan(), &state, &mut pool, &mut out, &mut runs).unwrap();
    }
    let counts: Vec<usize> = runs.runs().iter().map(|run| run.count).collect();
    assert_eq!(counts, [7, 7, 7], "an eighth of 8,962 bytes would exceed 65,507");
    assert!(runs.runs().iter().all(|run| run.bytes <= udp::MAX_BYTES));
}

#[test]
fn a_superframe_within_the_limit_is_one_run_and_one_segment_more_is_two() {
    let mut pool = Pool::new(256, 4);
    for (mtu, segments) in [(1450usize, 44), (1430, 45), (8950, 7), (1280, 50), (576, 64)] {
        assert_eq!(udp::most_segments(mtu as u16), segments, "{mtu}");
        for (segments, want) in [(segments, 1), (segments + 1, 2)] {
            // IPv4 and TCP.
            let offload = mtu - 40;
            let frame = Frame { payload: offload * segments, offload, ..Frame::SMALL };
            if frame.payload > 65_000 {
                continue;
            }
            let (mut out, mut runs, state) = (Batch::new(), UdpRuns::new(1), TxState::default());
            let frame = frame.build(&mut pool);
            segment_for_udp(frame, &vxlan(), &state, &mut pool, &mut out, &mut runs).unwrap();
            assert_eq!(runs.runs().len(), want, "{segments} segments of {mtu}");
        }
    }
}

/// Ethernet pads short frames, and IP may carry more than UDP says; neither belongs to the inner frame.
#[test]
fn what_lies_behind_the_outer_packet_is_cut_off() {
    let mut pool = Pool::new(8, 1);
    let b = tunnels(false, |_| ());
    // ARP has no length of its own that would show where it ends.
    let inner = [&[2; 12][..], &[8, 6], &[3; 28]].concat();
    for index in [0, 5] {
        let to = tunnels(true, |_| ()).of_port(port(index, false)).unwrap().encaps(UNTAGGED).unwrap()[0];
        let mut out = Batch::new();
        let p = packet(&inner, &mut pool);
        encap_frame(p, &to, &path(false), &TxState::default(), &mut pool, &mut out).unwrap();
        let mut padded = [&out[0].to_vec()[..], &[0xaa; 6]].concat();
        for ip_grows in [false, true] {
            if ip_grows && index == 0 {
                continue;
            }
            if ip_grows {
                let old = u16::from_be_bytes([padded[16], padded[17]]);
                let check = u16::from_be_bytes([padded[24], padded[25]]);
                let check = trunkline_packet::checksum::update(check, old, old + 6);
                padded[16..18].copy_from_slice(&(old + 6).to_be_bytes());
                padded[24..26].copy_from_slice(&check.to_be_bytes());
            }
            let mut p = packet(&padded, &mut pool);
            let opened = open(&mut p, false).unwrap();
            decap(&mut p, &opened.outer, &b).unwrap();
            assert_eq!(p.to_vec(), inner, "{index} {ip_grows}");
        }
    }
}

/// A guest or a container on this machine sends what its NIC would have finished on the way.
#[test]
fn a_gre_checksum_that_was_left_to_the_nic_is_taken_and_a_wrong_one_is_not() {
    let (a, b) = hosts(false);
    let (mut endpoint, mut pool) = (Endpoint::new(PortId(1), Kind::Gre, NetId::None), Pool::new(4, 1));
    (endpoint.remotes, endpoint.gre_checksum) = (vec![a], true);
    let table = Tunnels::new(vec![endpoint]).unwrap();
    let to = Encap::new(TunnelHeader::gre(None, true, false), b);
    let (_, good) = sent(&Frame::SMALL, &to).unwrap();
    let outer =
        trunkline_tunnel::Outer { src: a, dst: b, src_port: 0, dst_port: 0, tos: 0, ttl: 64, proto: 47 };
    let mut end = |check: [u8; 2]| {
        let mut bytes = good.clone();
        bytes[4..6].copy_from_slice(&check);
        decap(&mut packet(&bytes, &mut pool), &outer, &table)
    };
    assert!(good[4..6] != [0, 0]);
    assert_eq!(end([good[4], good[5]]), Ok(()));
    assert_eq!(end([0, 0]), Ok(()));
    assert_eq!(end([good[4] ^ 1, good[5]]), Err(DropReason::TunnelChecksum));
    // The sender has counted the inner checksum as finished, and it is not.
    let (l4, check) = (8 + 14 + 20, 8 + 14 + 20 + 16);
    let ip = trunkline_packet::headers::Headers::of_frame(&good[8..]).unwrap();
    assert_eq!((usize::from(ip.l4) + 8, ip.proto), (l4, 6));
    let pseudo = ip.pseudo(&good[8..], (good.len() - l4) as u32).fold().to_be_bytes();
    let mut bytes = good.clone();
    bytes[check..check + 2].copy_from_slice(&pseudo);
    let mut p = packet(&bytes, &mut pool);
    assert_eq!(decap(&mut p, &outer, &table), Ok(()));
    assert_eq!(p.meta().offload.csum, Checksum::Partial { start: 34, offset: 16 });
    bytes[4] ^= 1;
    assert_eq!(decap(&mut packet(&bytes, &mut pool), &outer, &table), Err(DropReason::TunnelChecksum));
}
