//! Coalescing any batch, against cutting the same frames without it.

use std::collections::HashMap;

use trunkline_packet::headers::{FlowKey, Headers, IpVersion, proto, read16, read32, write16, write32};
use trunkline_packet::{Batch, Packet, Pool, coalesce, segment};

use crate::input::{Input, fix_ipv4_checksum};

/// Frames in a batch, at most.
const FRAMES: usize = 200;

/// The input is a list of how often, and a frame with its virtio header. A frame that comes several times
/// has identification and sequence number counted on, as a sender would.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    let mut pool = Pool::new(512, 64);
    let mut batch = Batch::new();
    while !input.is_empty() && batch.len() < FRAMES {
        let (count, fix) = (input.u8(), input.u8());
        let Some(mut packet) = input.frame(&mut pool) else { continue };
        for _ in 0..1 + count % 80 {
            if fix & 1 != 0 {
                fix_ipv4_checksum(&mut packet);
            }
            // A copy of the bytes: a shared tail would not be written to.
            let mut copy = pool.get();
            copy.set_bytes(&packet.to_vec(), &mut pool).expect("it fitted before");
            *copy.meta_mut() = *packet.meta();
            batch.push(copy);
            count_on(&mut packet);
        }
    }
    let frames = batch.len();
    let mut copies: Batch = batch.iter().map(|p| pool.duplicate(p)).collect();
    let want = cut(&mut copies, &mut pool);

    let absorbed = coalesce(&mut batch, &mut pool);
    assert_eq!(absorbed + batch.len(), frames);
    assert_eq!(batch.iter().map(|p| usize::from(p.meta().frames)).sum::<usize>(), frames);
    for packet in &batch {
        assert!(packet.meta().offload.check(packet.len()).is_ok());
    }
    let got = cut(&mut batch, &mut pool);
    assert!(got == want, "{}", difference(&got, &want));
}

/// The frames of each flow in order, and how many cannot be cut.
type Flows = (HashMap<Option<FlowKey>, Vec<Vec<u8>>>, usize);

fn cut(batch: &mut Batch, pool: &mut Pool) -> Flows {
    let (mut flows, mut refused, mut out) = (Flows::default(), 0, Batch::new());
    for packet in batch.drain(..) {
        if segment(packet, pool, &mut out, true).is_err() {
            refused += 1;
        }
    }
    for mut packet in out.drain(..) {
        let flow = Headers::parse(&packet).and_then(|ip| ip.flow(packet.head()));
        forget_what_may_change(&mut packet);
        flows.0.entry(flow).or_default().push(packet.to_vec());
        pool.put(packet);
    }
    flows.1 = refused;
    flows
}

/// The identification of frames with DF means nothing (RFC 6864 §4.1). A transport checksum that the sender
/// started wrong, or that somebody vouched for, comes out right.
fn forget_what_may_change(packet: &mut Packet) {
    const DF: u16 = 0x4000;
    let head = packet.head_mut();
    let Some(ip) = Headers::of_frame(head) else { return };
    let (l3, l4) = (usize::from(ip.l3), usize::from(ip.l4));
    if ip.version == IpVersion::V4 && read16(head, l3 + 6).is_some_and(|flags| flags & DF != 0) {
        write16(head, l3 + 4, 0);
        write16(head, l3 + 10, 0);
    }
    match ip.proto {
        proto::TCP => write16(head, l4 + 16, 0),
        proto::UDP => write16(head, l4 + 6, 0),
        _ => {}
    }
}

fn count_on(packet: &mut Packet) {
    let (len, head) = (packet.len(), packet.head_mut());
    let Some(ip) = Headers::of_frame(head) else { return };
    let (l3, l4) = (usize::from(ip.l3), usize::from(ip.l4));
    if ip.version == IpVersion::V4 {
        let id = read16(head, l3 + 4).unwrap_or_default();
        write16(head, l3 + 4, id.wrapping_add(1));
    }
    if let (proto::TCP, Some(transport)) = (ip.proto, ip.transport_len(head)) {
        let sequence = read32(head, l4 + 4).unwrap_or_default();
        write32(head, l4 + 4, sequence.wrapping_add((len - l4 - transport) as u32));
    }
}

fn difference(got: &Flows, want: &Flows) -> String {
    let describe = |flows: &Flows| {
        let lengths: Vec<_> = flows.0.values().map(|f| f.iter().map(Vec::len).collect::<Vec<_>>()).collect();
        format!("{} refused, frames of {lengths:?} bytes", flows.1)
    };
    format!("with coalescing: {}; without: {}", describe(got), describe(want))
}
