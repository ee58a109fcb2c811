//! Packets made by Scapy (vectors/make.py): what we take off them, and what we make of the same frame.

mod common;

use common::*;
use trunkline_packet::checksum::update;
use trunkline_packet::{Batch, Checksum, Packet, Pool, checksum};
use trunkline_tunnel::{DropReason, TxState, decap, encap_frame, open};

struct Vector {
    name: &'static str,
    expect: &'static str,
    outer: Vec<u8>,
    inner: Option<Vec<u8>>,
}

fn vectors() -> Vec<Vector> {
    let hex =
        |s: &str| (0..s.len()).step_by(2).map(|i| u8::from_str_radix(&s[i..i + 2], 16).unwrap()).collect();
    include_str!("vectors/vectors.txt")
        .lines()
        .map(|line| {
            let [name, expect, outer, inner] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
            Vector { name, expect, outer: hex(outer), inner: (inner != "-").then(|| hex(inner)) }
        })
        .collect()
}

/// As it would leave a port that takes nothing unfinished, with its tag in the bytes.
fn bytes_of(mut packet: Packet) -> Vec<u8> {
    trunkline_packet::push_tag(&mut packet).unwrap();
    checksum::complete(&mut packet).unwrap();
    packet.to_vec()
}

fn refusal(result: Result<(), DropReason>) -> &'static str {
    match result {
        Ok(()) => "ok",
        Err(reason) => reason.name(),
    }
}

#[test]
fn what_scapy_made_is_taken_or_refused_for_the_right_reason() {
    let mut pool = Pool::new(8, 8);
    for v in vectors() {
        let here = tunnels(false, |_| ());
        let mut p = packet(&v.outer, &mut pool);
        let result = open(&mut p, false).and_then(|opened| decap(&mut p, &opened.outer, &here));
        assert_eq!(refusal(result), v.expect, "{}", v.name);
        if let Some(inner) = v.inner {
            assert_eq!(bytes_of(p), inner, "{}", v.name);
        }
    }
}

#[test]
fn every_truncation_of_the_outer_frame_is_refused() {
    let mut pool = Pool::new(8, 8);
    for v in vectors().iter().filter(|v| v.expect == "ok") {
        for len in 0..v.outer.len() {
            let here = tunnels(false, |_| ());
            let mut p = packet(&v.outer[..len], &mut pool);
            let result = open(&mut p, false).and_then(|opened| decap(&mut p, &opened.outer, &here));
            assert!(result.is_err(), "{} cut at {len}: {result:?}", v.name);
            pool.put(p);
        }
    }
}

/// A datagram cut behind the outer headers, as a socket might show it.
#[test]
fn every_truncation_of_the_tunnel_header_is_refused() {
    let mut pool = Pool::new(8, 8);
    for v in vectors().iter().filter(|v| v.expect == "ok") {
        let mut whole = packet(&v.outer, &mut pool);
        let outer = open(&mut whole, false).unwrap().outer;
        let payload = whole.to_vec();
        let header = payload.len() - v.inner.as_ref().unwrap().len();
        for len in 0..header + 14 {
            let mut p = packet(&payload[..len], &mut pool);
            let result = refusal(decap(&mut p, &outer, &tunnels(false, |_| ())));
            // A checksum covers the frame and is looked at first.
            let summed = v.name.starts_with("grekeycsum") || v.name.starts_with("greall");
            let right = match result {
                "tunnel-truncated" => len < header,
                "tunnel-checksum" => len >= header && summed,
                "inner-too-short" => len >= header,
                _ => false,
            };
            assert!(right, "{} cut at {len}: {result}", v.name);
        }
    }
}

#[test]
fn we_make_the_same_bytes_but_for_the_entropy() {
    let mut pool = Pool::new(8, 8);
    let kinds = [
        ("gre-", 0),
        ("grekey-", 1),
        ("grekeycsum-", 2),
        ("greall-", 3),
        ("nvgre-", 4),
        ("vxlan-", 5),
        ("geneve-", 6),
    ];
    let mut compared = 0;
    for v in vectors() {
        let Some(&(_, index)) = kinds.iter().find(|(prefix, _)| v.name.starts_with(prefix)) else { continue };
        let v6 = v.name.contains("-v6-");
        let there = tunnels(true, |_| ());
        let tunnel = there.of_port(port(index, v6)).unwrap();
        let to = tunnel.encaps(UNTAGGED).unwrap()[0];
        let mut out = Batch::new();
        let inner = packet(v.inner.as_ref().unwrap(), &mut pool);
        let state = TxState::default();
        encap_frame(inner, &to, &path(v6), &state, &mut pool, &mut out).unwrap();
        let ours = out[0].to_vec();

        let mut scapys = v.outer.clone();
        let l4 = if v6 { 54 } else { 34 };
        if v6 {
            scapys[15..18].copy_from_slice(&ours[15..18]);
        }
        match index {
            4 => scapys[l4 + 7] = ours[l4 + 7],
            5 | 6 => {
                let (old, new) = ([scapys[l4], scapys[l4 + 1]], [ours[l4], ours[l4 + 1]]);
                assert!(u16::from_be_bytes(new) >= 49152);
                scapys[l4..l4 + 2].copy_from_slice(&new);
                let check = u16::from_be_bytes([scapys[l4 + 6], scapys[l4 + 7]]);
                if check != 0 {
                    let check = update(check, u16::from_be_bytes(old), u16::from_be_bytes(new));
                    scapys[l4 + 6..l4 + 8].copy_from_slice(&check.to_be_bytes());
                }
            }
            _ => {}
        }
        assert_eq!(ours, scapys, "{}", v.name);
        assert_eq!(out[0].meta().outer.csum, Checksum::Valid);
        pool.put_all(&mut out);
        compared += 1;
    }
    assert_eq!(compared, 10 * 4 + 2);
}
