//! Whatever the bytes and the metadata are, nothing panics, and the checked values stay in the frame.

mod kit;

use kit::Spec;
use proptest::prelude::*;
use trunkline_packet::{
    Batch, Checksum, Gso, GsoKind, Headers, Offload, Packet, Pool, Tpid, VlanTag, checksum, coalesce,
    hdr_len, l3_segment_len, pop_tag, push_tag, segment,
};

/// Random bytes, or a good frame with some bytes changed and its end cut off.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let random = prop::collection::vec(any::<u8>(), 0..200);
    let changes = prop::collection::vec((0..120usize, any::<u8>()), 0..6);
    let shape = (any::<bool>(), any::<bool>(), 0..4usize, 0..10usize, 0..12usize, 0..3000usize);
    let spoiled = (shape, changes, 0..4000usize).prop_map(
        |((tcp, v6, tags, options, extensions, payload), changes, cut)| {
            let mut bytes = Spec::new(tcp, v6, payload)
                .with(|s| {
                    s.tags = vec![(0x8100, 1); tags];
                    s.ip_options = options * 4;
                    s.extensions = extensions;
                })
                .bytes();
            for (at, value) in changes {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            bytes.truncate(cut.max(bytes.len().min(20)));
            bytes
        },
    );
    prop_oneof![1 => random, 4 => spoiled]
}

fn offload() -> impl Strategy<Value = Offload> {
    let near = prop::sample::select(vec![0, 14, 18, 22, 34, 38, 54, 58, 62, 94]);
    let start = prop_oneof![4 => near, 1 => any::<u16>()];
    let offset = prop_oneof![4 => prop::sample::select(vec![6u16, 16]), 1 => any::<u16>()];
    let partial = (start, offset).prop_map(|(start, offset)| Checksum::Partial { start, offset });
    let csum = prop_oneof![4 => partial, 1 => Just(Checksum::Unknown), 1 => Just(Checksum::Valid)];
    let kind = prop::sample::select(vec![GsoKind::None, GsoKind::TcpV4, GsoKind::TcpV6, GsoKind::UdpL4]);
    let size = prop_oneof![1..2000u16, any::<u16>()];
    (csum, kind, any::<bool>(), size)
        .prop_map(|(csum, kind, ecn, size)| Offload { csum, gso: Gso { kind, ecn, size } })
}

fn packet(bytes: &[u8], offload: Offload, tagged: bool, pool: &mut Pool) -> Packet {
    let mut packet = kit::from_bytes(bytes, pool);
    packet.meta_mut().offload = offload;
    packet.meta_mut().vlan = tagged.then_some(VlanTag { tpid: Tpid::Service, tci: 0xffff });
    packet
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn one_frame(bytes in frame(), offload in offload(), tagged: bool, complete: bool) {
        let mut pool = Pool::new(64, 4);
        let mut p = packet(&bytes, offload, tagged, &mut pool);
        if let Some(ip) = Headers::parse(&p) {
            prop_assert!(ip.l3 < ip.l4 && usize::from(ip.l4) <= p.head().len());
            if let Some(len) = ip.transport_len(p.head()) {
                prop_assert!(usize::from(ip.l4) + len <= p.head().len());
            }
            let _ = (ip.flow(p.head()), checksum::transport_ok(&p, &ip), checksum::ipv4_header_ok(p.head(), &ip));
        }
        prop_assert!(usize::from(hdr_len(&p)) <= p.head().len());
        prop_assert!(l3_segment_len(&p) <= p.len());
        if pop_tag(&mut p).is_ok() && push_tag(&mut p).is_ok() && !tagged {
            prop_assert_eq!(p.to_vec(), bytes.clone());
        }
        let mut p = packet(&bytes, offload, tagged, &mut pool);
        let _ = checksum::complete(&mut p);
        prop_assert_eq!(p.len(), bytes.len());
        let p = packet(&bytes, offload, tagged, &mut pool);
        let mut out = Batch::new();
        match segment(p, &mut pool, &mut out, complete) {
            Ok(count) => prop_assert!(count == out.len() && count > 0),
            Err(_) => prop_assert!(out.is_empty()),
        }
    }

    #[test]
    fn a_batch(frames in prop::collection::vec((frame(), offload(), any::<bool>()), 0..20)) {
        let mut pool = Pool::new(64, 4);
        let mut batch: Batch = vec![];
        for (bytes, offload, tagged) in &frames {
            // Twice in a row, so that much of it may merge.
            batch.push(packet(bytes, *offload, *tagged, &mut pool));
            batch.push(packet(bytes, *offload, *tagged, &mut pool));
        }
        let before = batch.len();
        let absorbed = coalesce(&mut batch, &mut pool);
        prop_assert_eq!(absorbed + batch.len(), before);
        prop_assert_eq!(batch.iter().map(|p| usize::from(p.meta().frames)).sum::<usize>(), before);
        for packet in batch {
            let _ = segment(packet, &mut pool, &mut Batch::new(), true);
        }
    }
}
