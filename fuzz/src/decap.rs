//! Tunnel packets with hostile outer and inner bytes, to the inner frames and what is done with those.

use std::time::Instant;

use trunkline_packet::headers::{Headers, proto};
use trunkline_packet::{
    Batch, Checksum, DropCounts, Packet, Pool, VnetHdr, checksum, l3_segment_len, push_tag, segment,
};
use trunkline_tunnel::mtu::icmp::{TokenBucket, too_big};
use trunkline_tunnel::mtu::{mss, report};
use trunkline_tunnel::{Arrival, Outer, decap_all, open};

use crate::input::{Input, fix_ipv4_checksum, received};
use crate::tunnels::{all_of_b, hosts};

/// The inner MTU that endpoints have by default.
const INNER_MTU: usize = 1450;

/// The input is how the packet came (1: a whole outer frame with its virtio header, else a datagram with
/// family and kind of tunnel), the outer traffic class, the length of merged datagrams (0 for one), and the
/// bytes.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    let (how, tos, size) = (input.u8(), input.u8(), input.u16());
    let mut pool = Pool::new(64, 8);
    let tunnels = all_of_b();
    let (packet, opened) = if how & 1 != 0 {
        let header = VnetHdr::from_bytes(&input.array());
        let Some(mut packet) = received(&header, input.0, &mut pool) else { return };
        if how & 2 != 0 {
            fix_ipv4_checksum(&mut packet);
        }
        let _ = report::parse(&packet, &tunnels);
        let len = packet.len();
        let Ok(opened) = open(&mut packet, how & 4 != 0) else { return };
        assert!(packet.len() < len);
        (packet, opened)
    } else {
        let Some(packet) = received(&VnetHdr::default(), input.0, &mut pool) else { return };
        (packet, lone(how, tos, size))
    };
    let len = packet.len();
    let datagrams = match opened.gro.map(usize::from) {
        Some(size) if size > 0 && len > size => len.div_ceil(size),
        _ => 1,
    };
    let (mut out, mut drops) = (Batch::new(), DropCounts::new());
    decap_all(packet, &opened, &tunnels, &mut pool, &mut out, &mut drops);
    // A train that became one superframe is as many as it was.
    let ended = out.iter().map(|p| u64::from(p.meta().frames)).sum::<u64>() + drops.total();
    assert!(ended == datagrams as u64 || out.is_empty() && ended == 1, "{ended} of {datagrams}");
    for packet in out {
        if how & 1 == 0 && packet.meta().offload.is_gso() {
            assert!(l3_segment_len(&packet) <= INNER_MTU, "what was found to be a superframe fits when cut");
        }
        inside(packet, &mut pool);
    }
}

fn lone(how: u8, tos: u8, size: u16) -> Arrival {
    let v6 = how & 2 != 0;
    let (src, dst) = hosts(v6);
    let (proto, dst_port) = match how >> 2 & 3 {
        0 => (proto::UDP, 4789),
        1 => (proto::UDP, 6081),
        2 => (proto::GRE, 0),
        _ => (proto::UDP, 9),
    };
    let outer = Outer { src, dst, src_port: 50000, dst_port, tos, ttl: 64, proto };
    Arrival { outer, gro: (size > 0).then_some(size) }
}

/// What the switch does with an inner frame.
fn inside(mut packet: Packet, pool: &mut Pool) {
    assert!(packet.head().len() >= 14);
    assert!(packet.meta().offload.check(packet.len()).is_ok(), "{:?}", packet.meta().offload);
    assert!((10..17).contains(&(packet.meta().in_port.0 % 100)));
    mss::clamp(&mut packet, INNER_MTU as u16);
    let mut limit = TokenBucket::new(Instant::now(), 1, 1);
    let _ = too_big(&packet, 1280, Instant::now(), &mut limit, pool);
    let ip = Headers::parse(&packet);
    // A superframe of a container's own tunnel repeats inner headers too.
    let plain = matches!((ip, packet.meta().offload.csum),
        (Some(ip), Checksum::Partial { start, .. }) if ip.l4 == start);
    let (superframe, longest) = (packet.meta().offload.is_gso() && plain, l3_segment_len(&packet));
    let before = payload(&packet);
    let mut out = Batch::new();
    // What a port hands in as a superframe may make no sense.
    if push_tag(&mut packet).is_err() || segment(packet, pool, &mut out, true).is_err() || !superframe {
        return;
    }
    let after: Vec<u8> = out.iter().flat_map(payload).collect();
    assert!(before == after, "no byte is lost or changed");
    for packet in &out {
        let ip = Headers::parse(packet).expect("a segment is IP");
        assert!(checksum::transport_ok(packet, &ip));
        assert!(l3_segment_len(packet) <= longest);
    }
}

/// What is behind the TCP or UDP header.
fn payload(packet: &Packet) -> Vec<u8> {
    let start = Headers::parse(packet)
        .and_then(|ip| Some(usize::from(ip.l4) + ip.transport_len(packet.head())?))
        .unwrap_or_default();
    packet.to_vec().split_off(start)
}
