//! Any frame into a tunnel of any kind and out at the other end: it is the same frame.

use std::time::Instant;

use trunkline_packet::headers::{Fragment, Headers, proto, read16, write16};
use trunkline_packet::{Batch, DropCounts, Packet, Pool, pop_tag, push_tag, segment};
use trunkline_tunnel::config::InnerVlan;
use trunkline_tunnel::{
    Arrival, Endpoint, Outer, Reassembler, SendInfo, Tunnels, TxState, decap_all, encap_datagrams,
    encap_frame, fragment, open,
};

use crate::input::Input;
use crate::tunnels::{KINDS, endpoint, hosts, path};

const V6: u8 = 1;
/// By a port as the underlay, else by a socket.
const FRAMES: u8 = 2;
const KEEP_TAG: u8 = 4;
/// The underlay takes no superframes.
const CUT: u8 = 8;
const UDP_CHECKSUM: u8 = 16;
/// The path takes 600 bytes.
const FRAGMENTS: u8 = 32;

/// The input is the kind of tunnel, how it is sent (the bits above), and a frame with its virtio header.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    let (kind, how) = (input.u8(), input.u8());
    let mut pool = Pool::new(64, 8);
    let Some(mut packet) = input.frame(&mut pool) else { return };
    if pop_tag(&mut packet).is_err() {
        return;
    }
    let (near, far) = (one(kind, how, true), one(kind, how, false));
    let Some(from) = near.iter().next() else { return };
    let vlan = from.endpoint().inner_vlan;
    let Some(expected) = finished(&packet, vlan, &mut pool) else { return };
    let to = from.encaps(Default::default()).expect("there is no VLAN map")[0];
    let state = &from.endpoint().state.tx;

    let (mut out, mut inside, mut drops) = (Batch::new(), Batch::new(), DropCounts::new());
    let mut arrive = |packet: Packet, opened: &Arrival, pool: &mut Pool| {
        decap_all(packet, opened, &far, pool, &mut inside, &mut drops);
    };
    if how & FRAMES == 0 {
        let Ok(info) = encap_datagrams(packet, &to, state, &mut pool, &mut out) else { return };
        let outer = outer(from.endpoint(), how & V6 != 0, &info);
        if outer.proto == proto::UDP {
            let mut merged = pool.get();
            let bytes: Vec<u8> = out.iter().flat_map(Packet::to_vec).collect();
            if merged.set_bytes(&bytes, &mut pool).is_err() {
                return;
            }
            arrive(merged, &Arrival { outer, gro: Some(out[0].len() as u16) }, &mut pool);
        } else {
            for packet in out {
                arrive(packet, &Arrival { outer, gro: None }, &mut pool);
            }
        }
    } else {
        if encap_frame(packet, &to, &path(how & V6 != 0), state, &mut pool, &mut out).is_err() {
            return;
        }
        let Some(arrived) = wire(out, how, state, &mut pool) else { return };
        for mut packet in arrived {
            let opened = open(&mut packet, true).expect("we made it");
            arrive(packet, &opened, &mut pool);
        }
    }
    assert_eq!(drops.total(), 0, "nothing is refused");
    let got: Option<Vec<_>> = inside.iter().map(|p| finished(p, vlan, &mut pool)).collect();
    let got: Vec<_> = got.expect("what comes out can be cut").into_iter().flatten().collect();
    assert!(got == expected, "{} frames for {}", got.len(), expected.len());
}

fn one(kind: u8, how: u8, from_a: bool) -> Tunnels {
    let mut endpoint = endpoint(kind, how & V6 != 0, from_a);
    const NVGRE: u8 = 4;
    if how & KEEP_TAG != 0 && kind % KINDS != NVGRE {
        endpoint.inner_vlan = InnerVlan::Keep;
    }
    endpoint.udp_checksum = Some(how & UDP_CHECKSUM != 0);
    endpoint.df = how & FRAGMENTS == 0;
    // No frame is taken for a superframe because it is long.
    endpoint.inner_mtu = u16::MAX;
    Tunnels::new(vec![endpoint]).expect("one endpoint has no conflicts")
}

fn outer(endpoint: &Endpoint, v6: bool, info: &SendInfo) -> Outer {
    let (src, dst) = hosts(v6);
    let proto = if endpoint.kind.is_udp() { proto::UDP } else { proto::GRE };
    let (src_port, dst_port) = (info.source_port(), endpoint.dst_port);
    Outer { src, dst, src_port, dst_port, tos: info.tos, ttl: info.ttl, proto }
}

/// Outer frames as the other host's port receives them; `None` when one cannot be sent.
fn wire(out: Batch, how: u8, state: &TxState, pool: &mut Pool) -> Option<Batch> {
    if how & (CUT | FRAGMENTS) == 0 {
        return Some(out);
    }
    let mtu = if how & FRAGMENTS != 0 { 600 } else { u16::MAX };
    let (mut parts, mut arrived) = (Batch::new(), Batch::new());
    for packet in out {
        fragment(packet, mtu, state, pool, &mut parts).ok()?;
    }
    let (mut table, mut drops) = (Reassembler::new(Default::default()), DropCounts::new());
    for part in parts {
        let fragment = Headers::parse(&part).is_some_and(|ip| ip.fragment != Fragment::None);
        if fragment {
            assert!(part.len() - 14 <= usize::from(mtu));
            arrived.extend(table.push(Instant::now(), part, pool, &mut drops));
        } else {
            segment(part, pool, &mut arrived, true).ok()?;
        }
    }
    assert_eq!((drops.total(), table.held()), (0, 0), "all fragments meet");
    Some(arrived)
}

/// The frame as its receiver must see it in the end: cut, checksums finished. `None` when it cannot be.
fn finished(packet: &Packet, vlan: InnerVlan, pool: &mut Pool) -> Option<Vec<Vec<u8>>> {
    let mut copy = pool.duplicate(packet);
    match vlan {
        InnerVlan::Keep => push_tag(&mut copy).ok()?,
        InnerVlan::Strip => copy.meta_mut().vlan = None,
    }
    let mut out = Batch::new();
    segment(copy, pool, &mut out, true).ok()?;
    Some(out.iter_mut().map(forget_what_may_change).collect())
}

/// A checksum that is the bare sum of the pseudo-header is taken for unfinished (KERNEL-FACTS), and what is
/// behind such a packet for padding.
fn forget_what_may_change(packet: &mut Packet) -> Vec<u8> {
    let head = packet.head();
    if let Some(ip) = Headers::of_frame(head).filter(|ip| ip.transport_len(head).is_some())
        && let (l4, end) = (usize::from(ip.l4), ip.end as usize)
        && end <= packet.len()
        && end >= l4
    {
        packet.truncate(end);
        let head = packet.head();
        let field = l4 + if ip.proto == proto::TCP { 16 } else { 6 };
        let bare = read16(head, field) == Some(ip.pseudo(head, (end - l4) as u32).fold());
        if bare || trunkline_packet::checksum::transport_ok(packet, &ip) {
            write16(packet.head_mut(), field, 0);
        }
    }
    packet.to_vec()
}
