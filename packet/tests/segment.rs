//! Segmentation against frames written by etherparse.

mod kit;

use kit::*;
use proptest::prelude::*;
use trunkline_packet::{
    Batch, Checksum, DropReason, GsoKind, Offload, Packet, Pool, VnetHdr, checksum, hdr_len, l3_segment_len,
    segment,
};

fn spec() -> impl Strategy<Value = Spec> {
    let shape = (any::<bool>(), any::<bool>(), 0..3usize, 0..4usize, 0..3usize, 0..11usize);
    let values = (any::<u8>(), any::<u16>(), any::<u32>(), any::<u8>(), any::<bool>(), 0..20_000usize);
    (shape, values).prop_map(
        |((tcp, v6, tags, options, extensions, tcp_options), (tos, id, seq, flags, df, payload))| {
            Spec::new(tcp, v6, payload).with(|s| {
                s.tags = [(0x88a8, 0x3007), (0x8100, 0x0fff)][..tags].to_vec();
                s.ip_options = options * 4;
                s.extensions = extensions;
                (s.tos, s.id, s.seq, s.flags, s.df) = (tos, id, seq, flags, df);
                s.tcp_options = vec![1; tcp_options * 4];
            })
        },
    )
}

fn cut(packet: Packet, pool: &mut Pool, complete: bool) -> Result<Batch, DropReason> {
    let mut out = Batch::new();
    let count = segment(packet, pool, &mut out, complete)?;
    assert_eq!(count, out.len());
    Ok(out)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn segments_are_what_the_sender_would_have_sent(spec in spec(), size in 15..9000u16) {
        let mut pool = Pool::new(64, 4);
        let packet = spec.partial(size, &mut pool);
        let segments = cut(packet, &mut pool, true).unwrap();
        let expected = spec.segments(size.into());
        prop_assert_eq!(segments.len(), expected.len());
        let mut payload = vec![];
        for (got, want) in segments.iter().zip(&expected) {
            let got_bytes = got.to_vec();
            prop_assert_eq!(&got_bytes, &want.bytes());
            payload.extend(check_frame(&got_bytes));
            prop_assert_eq!(got.meta().offload, Offload { csum: Checksum::Valid, ..Offload::NONE });
        }
        prop_assert_eq!(payload, spec.payload);
    }

    #[test]
    fn partial_segments_completed_later_are_the_same(spec in spec(), size in 15..9000u16) {
        let mut pool = Pool::new(64, 4);
        let done = cut(spec.partial(size, &mut pool), &mut pool, true).unwrap();
        let mut later = cut(spec.partial(size, &mut pool), &mut pool, false).unwrap();
        for (now, later) in done.iter().zip(&mut later) {
            prop_assert!(!later.meta().offload.csum.is_full());
            checksum::complete(later).unwrap();
            prop_assert_eq!(now.to_vec(), later.to_vec());
        }
    }

    #[test]
    fn lengths_for_mtu_and_virtio_are_those_of_the_segments(spec in spec(), size in 15..9000u16) {
        let mut pool = Pool::new(64, 4);
        let packet = spec.partial(size, &mut pool);
        prop_assert_eq!(usize::from(hdr_len(&packet)), spec.header_len());
        let claimed = l3_segment_len(&packet);
        let segments = cut(packet, &mut pool, true).unwrap();
        let longest = segments.iter().map(|s| s.len() - spec.ip_offset()).max().unwrap();
        prop_assert_eq!(claimed, longest);
        prop_assert_eq!(segments.iter().map(l3_segment_len).max().unwrap(), longest);
    }

    #[test]
    fn ordinary_partial_frames_are_completed(spec in spec()) {
        let mut pool = Pool::new(64, 4);
        let mut packet = spec.partial(0, &mut pool);
        checksum::complete(&mut packet).unwrap();
        prop_assert_eq!(packet.to_vec(), spec.bytes());
    }
}

#[test]
fn an_ordinary_frame_passes_through() {
    let mut pool = Pool::new(4, 4);
    let spec = Spec::new(false, false, 3001);
    let out = cut(spec.partial(0, &mut pool), &mut pool, false).unwrap();
    assert!(matches!(out[0].meta().offload.csum, Checksum::Partial { .. }));
    let out = cut(spec.partial(0, &mut pool), &mut pool, true).unwrap();
    assert_eq!(out[0].to_vec(), spec.bytes());
}

#[test]
fn a_udp_checksum_that_comes_out_as_zero_is_sent_as_ones() {
    let mut pool = Pool::new(4, 4);
    // Two payload bytes chosen so that the sum is all ones.
    let plain = Spec::new(false, false, 0).with(|s| s.payload = vec![0, 0]);
    let bytes = plain.bytes();
    let check = [bytes[40], bytes[41]];
    let zero = plain.with(|s| s.payload = check.to_vec());
    let mut packet = zero.partial(0, &mut pool);
    checksum::complete(&mut packet).unwrap();
    assert_eq!(packet.head()[40..42], [0xff, 0xff]);
    assert_eq!(packet.to_vec(), zero.bytes());
}

#[test]
fn metadata_goes_with_the_segments_and_headroom_is_fresh() {
    let mut pool = Pool::new(64, 4);
    let mut packet = Spec::new(true, false, 5000).partial(1000, &mut pool);
    packet.meta_mut().frames = 3;
    packet.meta_mut().vlan = Some(Default::default());
    packet.meta_mut().in_port = trunkline_packet::PortId(7);
    let out = cut(packet, &mut pool, false).unwrap();
    assert_eq!(out.len(), 5);
    assert!(out.iter().all(|s| s.meta().vlan.is_some() && s.meta().in_port.0 == 7));
    assert!(out.iter().all(|s| s.headroom() == trunkline_packet::buf::HEADROOM));
    assert_eq!(out.iter().map(|s| s.meta().frames).sum::<u16>(), 3);
}

#[test]
fn nonsense_is_unsegmentable_and_leaks_nothing() {
    let good = Spec::new(true, false, 5000);
    let change = |f: &dyn Fn(&mut Packet)| {
        let mut pool = Pool::new(64, 4);
        let mut packet = good.partial(1000, &mut pool);
        f(&mut packet);
        let mut out = Batch::new();
        let result = segment(packet, &mut pool, &mut out, true);
        assert!(out.is_empty() || result.is_ok());
        if result.is_err() {
            assert_eq!(pool.free().1, 1, "the tail came back");
        }
        result
    };
    assert_eq!(change(&|_| ()), Ok(5));
    let refused = Err(DropReason::Unsegmentable);
    assert_eq!(change(&|p| p.meta_mut().offload.gso.kind = GsoKind::TcpV6), refused);
    assert_eq!(change(&|p| p.meta_mut().offload.gso.kind = GsoKind::UdpL4), refused);
    assert_eq!(change(&|p| p.meta_mut().offload.gso.size = 0), refused);
    assert_eq!(change(&|p| p.meta_mut().offload.gso.size = 3), refused, "1,667 segments");
    assert_eq!(change(&|p| p.meta_mut().offload.csum = Checksum::Partial { start: 35, offset: 16 }), refused);
    assert_eq!(change(&|p| p.meta_mut().offload.csum = Checksum::Partial { start: 34, offset: 6 }), refused);
    assert_eq!(change(&|p| p.meta_mut().offload.csum = Checksum::Valid), refused);
    assert_eq!(change(&|p| p.head_mut()[46] = 0x40), refused, "TCP header too short");
    assert_eq!(change(&|p| p.head_mut()[20] = 0x20), refused, "a fragment");
    assert_eq!(change(&|p| p.head_mut()[13] = 6), refused, "ARP");
}

/// Wraps an inner frame, or the IP packet in it, in outer headers; returns the bytes and the outer length.
fn encapsulate(kind: Outer, inner: &[u8], id: u16) -> (Vec<u8>, usize) {
    let ip_packet = &inner[14..];
    match kind {
        Outer::Vxlan { v6, check } => {
            let mut outer = Spec::new(false, v6, 0).with(|s| (s.dport, s.id) = (4789, id));
            outer.payload = [&[8, 0, 0, 0, 0, 0, 42, 0], inner].concat();
            let mut bytes = outer.bytes();
            if !check {
                bytes[outer.l4_offset() + 6..outer.l4_offset() + 8].fill(0);
            }
            (bytes, outer.header_len() + 8)
        }
        Outer::Gre { check } => {
            let ethertype = [inner[12], inner[13]];
            let mut gre = vec![if check { 0x80 } else { 0 }, 0];
            gre.extend(ethertype);
            if check {
                gre.extend([0; 4]);
                let sum = !naive_sum(&[&gre[..], ip_packet].concat());
                gre[4..6].copy_from_slice(&sum.to_be_bytes());
            }
            (ipv4_around(47, id, &[&gre[..], ip_packet].concat()), 34 + gre.len() - 14)
        }
        Outer::Ipip => {
            let protocol = if inner[12] == 8 { 4 } else { 41 };
            (ipv4_around(protocol, id, ip_packet), 34 - 14)
        }
    }
}

fn ipv4_around(protocol: u8, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut ip =
        etherparse::Ipv4Header::new(payload.len() as u16, 9, protocol.into(), [192, 0, 2, 1], [192, 0, 2, 2])
            .unwrap();
    ip.identification = id;
    ip.header_checksum = ip.calc_header_checksum();
    [&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0][..], &ip.to_bytes(), payload].concat()
}

#[derive(Clone, Copy, Debug)]
enum Outer {
    Vxlan { v6: bool, check: bool },
    Gre { check: bool },
    Ipip,
}

#[test]
fn inner_superframes_are_cut_with_their_outer_headers() {
    let outers = [
        Outer::Vxlan { v6: false, check: false },
        Outer::Vxlan { v6: false, check: true },
        Outer::Vxlan { v6: true, check: false },
        Outer::Vxlan { v6: true, check: true },
        Outer::Gre { check: false },
        Outer::Gre { check: true },
        Outer::Ipip,
    ];
    for outer in outers {
        for (tcp, v6, options, extensions) in [
            (true, false, 0, 0),
            (true, false, 8, 0),
            (true, true, 0, 0),
            (true, true, 0, 2),
            (false, false, 0, 0),
            (false, true, 0, 1),
        ] {
            let inner = Spec::new(tcp, v6, 4501)
                .with(|s| (s.ip_options, s.extensions, s.flags) = (options, extensions, ACK | PSH));
            let mut pool = Pool::new(64, 4);
            let shape = inner.partial(1448, &mut pool);
            let (mut bytes, outer_len) = encapsulate(outer, &shape.to_vec(), 500);
            if let Outer::Vxlan { check: true, v6 } = outer {
                // A sender leaves only a pseudo-header sum there: anything but 0.
                let at = if v6 { 14 + 40 + 6 } else { 14 + 20 + 6 };
                bytes[at..at + 2].copy_from_slice(&[0x12, 0x34]);
            }
            let mut packet = from_bytes(&bytes, &mut pool);
            packet.meta_mut().offload = shape.meta().offload;
            packet.meta_mut().offload.shift(outer_len as i16);
            let mtu = l3_segment_len(&packet);
            for complete in [true, false] {
                let copy = pool.duplicate(&packet);
                let got = cut(copy, &mut pool, complete).unwrap();
                let want = inner.segments(1448);
                assert_eq!(got.len(), want.len());
                assert_eq!(mtu, got[0].len() - 14);
                for (i, (mut got, want)) in got.into_iter().zip(want).enumerate() {
                    checksum::complete(&mut got).unwrap();
                    let want = encapsulate(outer, &want.bytes(), 500 + i as u16).0;
                    assert_eq!(
                        got.to_vec(),
                        want,
                        "{outer:?} tcp {tcp} v6 {v6} segment {i} complete {complete}"
                    );
                }
            }
        }
    }
}

#[test]
fn gre_with_sequence_numbers_cannot_be_cut() {
    let inner = Spec::new(true, false, 4000).partial(1000, &mut Pool::new(1, 1));
    let (mut bytes, outer_len) = encapsulate(Outer::Gre { check: true }, &inner.to_vec(), 1);
    let mut pool = Pool::new(16, 4);
    for (flags, ok) in [(0x80, true), (0x90, false), (0xc0, false)] {
        bytes[34] = flags;
        let mut packet = from_bytes(&bytes, &mut pool);
        packet.meta_mut().offload = inner.meta().offload;
        packet.meta_mut().offload.shift(outer_len as i16);
        assert_eq!(cut(packet, &mut pool, true).is_ok(), ok, "{flags:x}");
    }
}

/// A VXLAN superframe of a container.
fn vxlan(outer: &Spec, inner: &Spec, change: impl Fn(&mut Vec<u8>), pool: &mut Pool) -> Packet {
    let shape = inner.partial(1000, pool);
    let outer = outer.with(|s| s.payload = [&[8, 0, 0, 0, 0, 0, 42, 0], &shape.to_vec()[..]].concat());
    let mut bytes = outer.bytes();
    change(&mut bytes);
    let mut packet = from_bytes(&bytes, pool);
    packet.meta_mut().offload = shape.meta().offload;
    packet.meta_mut().offload.shift(outer.header_len() as i16 + 8);
    packet
}

#[test]
fn an_encapsulated_superframe_must_be_consistent() {
    let (outer, inner) = (Spec::new(false, false, 0), Spec::new(true, false, 4000));
    let mut pool = Pool::new(16, 4);
    let mut count = |change: &dyn Fn(&mut Vec<u8>)| {
        let packet = vxlan(&outer, &inner, change, &mut pool);
        cut(packet, &mut pool, true).map(|b| b.len())
    };
    let refused = Err(DropReason::Unsegmentable);
    assert_eq!(count(&|_| ()), Ok(4));
    assert_eq!(count(&|b| b[20] = 0x20), refused, "the outer packet is a fragment");
    assert_eq!(count(&|b| b[67] ^= 1), refused, "the inner length is not that of the frame");
    assert_eq!(count(&|b| b[23] = 132), refused, "SCTP outside");
    assert_eq!(count(&|b| b[73] = 17), refused, "UDP inside");
}

#[test]
fn an_outer_udp_checksum_that_comes_out_as_zero_is_sent_as_ones() {
    let inner = Spec::new(true, false, 1000);
    let mut outer = Spec::new(false, false, 0);
    outer.payload = [&[8, 0, 0, 0, 0, 0, 42, 0], &inner.bytes()[..]].concat();
    // The port that makes up for the rest of the sum.
    let bytes = outer.bytes();
    let rest = u16::from_be_bytes([bytes[40], bytes[41]]);
    outer.sport = naive_sum(&[outer.sport.to_be_bytes(), rest.to_be_bytes()].concat());
    let want = outer.bytes();
    assert_eq!(want[40..42], [0xff, 0xff]);
    let mut pool = Pool::new(16, 4);
    let packet = vxlan(&outer, &inner, |_| (), &mut pool);
    assert_eq!(cut(packet, &mut pool, true).unwrap()[0].to_vec(), want);
}

#[test]
fn headers_longer_than_a_fresh_head_are_unsegmentable() {
    for (extensions, want) in [(1, Ok(3)), (2, Err(DropReason::Unsegmentable))] {
        let mut pool = Pool::new(16, 4);
        let spec = Spec::new(true, true, 3000).with(|s| s.extensions = extensions);
        let shape = spec.partial(1000, &mut pool);
        // Make the first extension header 1,832 bytes long: all headers are 1,906 or 1,914.
        let mut bytes = shape.to_vec();
        bytes[55] = 228;
        bytes.splice(62..62, [0; 1824]);
        let mut packet = from_bytes(&bytes, &mut pool);
        packet.meta_mut().offload = shape.meta().offload;
        packet.meta_mut().offload.shift(1824);
        for _ in 0..2 {
            packet.meta_mut().vlan = Some(Default::default());
            trunkline_packet::push_tag(&mut packet).unwrap();
        }
        assert_eq!(cut(packet, &mut pool, true).map(|b| b.len()), want);
    }
}

#[test]
fn virtio_header_of_a_superframe_round_trips() {
    let mut pool = Pool::new(4, 4);
    let packet = Spec::new(true, true, 9000).partial(1428, &mut pool);
    let header = VnetHdr::from_offload(&packet.meta().offload, hdr_len(&packet));
    assert_eq!((header.hdr_len, header.csum_start, header.csum_offset), (74, 54, 16));
    assert_eq!(header.to_offload(packet.len()), Ok(packet.meta().offload));
    assert_eq!(hdr_len(&Spec::new(true, true, 9).partial(0, &mut pool)), 0);
}
