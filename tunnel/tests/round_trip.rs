//! Decapsulation undoes encapsulation, for every kind, option, family and offload state, and nothing that
//! comes in can panic.

mod common;

use common::*;
use proptest::prelude::*;
use trunkline_packet::{Batch, Checksum, Offload, Packet, Pool, pop_tag, segment};
use trunkline_tunnel::{
    Arrival, DropCounts, Endpoint, Outer, SendInfo, UdpRuns, decap, decap_all, encap_datagrams, encap_frame,
    open, segment_for_udp,
};

fn frames() -> impl Strategy<Value = Frame> {
    let offload = prop_oneof![Just(0usize), Just(1), 200usize..1300];
    (any::<bool>(), any::<bool>(), 0usize..2, 1usize..5000, any::<u8>(), offload, any::<(u16, u16)>())
        .prop_map(|(v6, tcp, tags, payload, tos, offload, ports)| {
            // Without a superframe, no more than an inner MTU.
            let payload = if offload > 1 { payload } else { payload % 1300 + 1 };
            Frame { v6, tcp, tags, payload, tos, offload, ports }
        })
}

/// As single frames with finished checksums: what the receiver must see in the end.
fn finished(packet: Packet, pool: &mut Pool) -> Vec<Vec<u8>> {
    let mut out = Batch::new();
    segment(packet, pool, &mut out, true).unwrap();
    let all = out.iter().map(Packet::to_vec).collect();
    pool.put_all(&mut out);
    all
}

fn finished_all(batch: &mut Batch, pool: &mut Pool) -> Vec<Vec<u8>> {
    batch
        .drain(..)
        .flat_map(|mut p| {
            trunkline_packet::push_tag(&mut p).unwrap();
            finished(p, pool)
        })
        .collect()
}

fn outer_of(tunnel: usize, v6: bool, info: &SendInfo, endpoint: &Endpoint) -> Outer {
    let (src, dst) = hosts(v6);
    let udp = tunnel > 4;
    Outer {
        src,
        dst,
        src_port: if udp { info.source_port() } else { 0 },
        dst_port: endpoint.dst_port,
        tos: info.tos,
        ttl: info.ttl,
        proto: if udp { 17 } else { 47 },
    }
}

/// VXLAN and NVGRE carry no tags by default.
fn allowed(frame: &Frame, index: usize) -> Frame {
    Frame { tags: if matches!(index, 4 | 5) { 0 } else { frame.tags }, ..frame.clone() }
}

proptest! {
    #[test]
    fn datagrams_come_out_as_they_went_in(frame in frames(), index in 0..ENDPOINTS, v6: bool) {
        let frame = allowed(&frame, index);
        let mut pool = Pool::new(64, 8);
        let expected = finished(frame.build(&mut pool), &mut pool);
        let (a, b) = (tunnels(true, |_| ()), tunnels(false, |_| ()));
        let from = a.of_port(port(index, v6)).unwrap();
        let mut out = Batch::new();
        let mut p = frame.build(&mut pool);
        pop_tag(&mut p).unwrap();
        let to = from.encaps(UNTAGGED).unwrap()[0];
        let info = encap_datagrams(p, &to, &from.endpoint().state.tx, &mut pool, &mut out).unwrap();
        prop_assert_eq!(info.tos & 3, frame.tos & 3);
        let outer = outer_of(index, v6, &info, from.endpoint());
        let mut inside = Batch::new();
        for mut p in out.drain(..) {
            prop_assert_eq!(p.meta().offload, Offload::NONE);
            prop_assert_eq!(decap(&mut p, &outer, &b), Ok(()));
            prop_assert_eq!(p.meta().in_port, port(index, v6));
            inside.push(p);
        }
        prop_assert_eq!(finished_all(&mut inside, &mut pool), expected);
    }

    #[test]
    fn frames_come_out_as_they_went_in(
        frame in frames(), index in 0..ENDPOINTS, v6: bool, csum: bool, cut: bool, finish: bool,
    ) {
        let frame = allowed(&frame, index);
        let mut pool = Pool::new(64, 8);
        let expected = finished(frame.build(&mut pool), &mut pool);
        let change = |e: &mut Endpoint| e.udp_checksum = Some(csum);
        let (a, b) = (tunnels(true, change), tunnels(false, change));
        let from = a.of_port(port(index, v6)).unwrap();
        let mut out = Batch::new();
        let mut p = frame.build(&mut pool);
        pop_tag(&mut p).unwrap();
        let to = from.encaps(UNTAGGED).unwrap()[0];
        encap_frame(p, &to, &path(v6), &from.endpoint().state.tx, &mut pool, &mut out).unwrap();
        // The egress may cut superframes and finish checksums, or leave that to the far end.
        let mut wire = Batch::new();
        for p in out.drain(..) {
            prop_assert_eq!(p.meta().outer.csum, Checksum::Valid);
            if cut || finish {
                segment(p, &mut pool, &mut wire, finish).unwrap();
            } else {
                wire.push(p);
            }
        }
        let mut inside = Batch::new();
        for mut p in wire.drain(..) {
            if finish {
                // What a wire carries has no metadata.
                p.meta_mut().offload = Offload::NONE;
            }
            let opened = open(&mut p, true);
            prop_assert!(opened.is_ok(), "{:?} {:?}", opened, p);
            let opened = opened.unwrap();
            prop_assert_eq!(decap(&mut p, &opened.outer, &b), Ok(()));
            inside.push(p);
        }
        prop_assert_eq!(finished_all(&mut inside, &mut pool), expected);
    }

    #[test]
    fn what_udp_gro_merges_comes_apart_again(frame in frames(), index in 5..ENDPOINTS, v6: bool) {
        let frame = allowed(&frame, index);
        let mut pool = Pool::new(64, 8);
        let expected = finished(frame.build(&mut pool), &mut pool);
        let (a, b) = (tunnels(true, |_| ()), tunnels(false, |_| ()));
        let from = a.of_port(port(index, v6)).unwrap();
        let (mut out, mut runs) = (Batch::new(), UdpRuns::new(16));
        let mut p = frame.build(&mut pool);
        pop_tag(&mut p).unwrap();
        let to = from.encaps(UNTAGGED).unwrap()[0];
        segment_for_udp(p, &to, &from.endpoint().state.tx, &mut pool, &mut out, &mut runs).unwrap();
        let (mut inside, mut drops) = (Batch::new(), DropCounts::new());
        for run in runs.runs() {
            let datagrams = &out[run.first..run.first + run.count];
            prop_assert!(datagrams[..run.count - 1].iter().all(|d| d.len() == run.size));
            prop_assert_eq!(datagrams.iter().map(Packet::len).sum::<usize>(), run.bytes);
            let merged: Vec<u8> = datagrams.iter().flat_map(Packet::to_vec).collect();
            let opened = Arrival {
                outer: outer_of(index, v6, &run.info, from.endpoint()),
                gro: (run.count > 1).then_some(run.size as u16),
            };
            let p = packet(&merged, &mut pool);
            decap_all(p, &opened, &b, &mut pool, &mut inside, &mut drops);
        }
        prop_assert_eq!(drops.total(), 0);
        prop_assert_eq!(finished_all(&mut inside, &mut pool), expected);
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300), index in 0..ENDPOINTS, v6: bool) {
        let mut pool = Pool::new(8, 8);
        let b = tunnels(false, |_| ());
        let _ = open(&mut packet(&bytes, &mut pool), false);
        let (src, dst) = hosts(v6);
        let outer = Outer { src, dst, src_port: 1, dst_port: [0, 0, 0, 0, 0, 4789, 6081][index], tos: 3, ttl: 1,
            proto: if index > 4 { 17 } else { 47 } };
        let _ = decap(&mut packet(&bytes, &mut pool), &outer, &b);
        let mut bytes = bytes;
        // Far enough to get inside.
        let start: &[u8] = match index {
            0 => &[0, 0, 0x65, 0x58],
            1..=3 => &[0x20, 0, 0x65, 0x58, 0, 0, 0, 7],
            4 => &[0x20, 0, 0x65, 0x58, 0, 0, 77, 7],
            5 => &[8, 0, 0, 0, 0, 0, 77, 0],
            _ => &[1, 0, 0x65, 0x58, 0, 0, 77, 0],
        };
        bytes.splice(0..0, start.iter().copied());
        if let Some(at) = bytes.get_mut(start.len() + 12..start.len() + 14) {
            at.copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[8, 0] });
        }
        let _ = decap(&mut packet(&bytes, &mut pool), &outer, &b);
        let opened = Arrival { outer, gro: Some(bytes.len() as u16 / 3) };
        let (mut out, mut drops) = (Batch::new(), DropCounts::new());
        decap_all(packet(&bytes, &mut pool), &opened, &b, &mut pool, &mut out, &mut drops);
        let to = tunnels(true, |_| ()).of_port(port(index, v6)).unwrap().encaps(UNTAGGED).unwrap()[0];
        let _ = encap_datagrams(packet(&bytes, &mut pool), &to, &Default::default(), &mut pool, &mut out);
        let _ = encap_frame(packet(&bytes, &mut pool), &to, &path(v6), &Default::default(), &mut pool, &mut out);
    }

    /// A valid outer packet with any bytes changed.
    #[test]
    fn damage_never_panics(frame in frames(), index in 0..ENDPOINTS, v6: bool, hits in prop::collection::vec((0usize..200, any::<u8>()), 1..4)) {
        let frame = allowed(&frame, index);
        let mut pool = Pool::new(64, 8);
        let (a, b) = (tunnels(true, |_| ()), tunnels(false, |_| ()));
        let from = a.of_port(port(index, v6)).unwrap();
        let mut out = Batch::new();
        let to = from.encaps(UNTAGGED).unwrap()[0];
        encap_frame(frame.build(&mut pool), &to, &path(v6), &Default::default(), &mut pool, &mut out).unwrap();
        for p in &mut out {
            for &(at, value) in &hits {
                if let Some(byte) = p.head_mut().get_mut(at) { *byte = value; }
            }
            if let Ok(opened) = open(p, false) {
                let _ = decap(p, &opened.outer, &b);
            }
        }
    }
}
