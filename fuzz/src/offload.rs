//! A frame from a port to an egress that takes nothing: virtio header, tag, segmentation, checksums.

use trunkline_packet::{Batch, Checksum, Pool, VnetHdr, hdr_len, l3_segment_len, pop_tag, push_tag, segment};

use crate::input::{Input, received};

/// The input is a virtio header and a frame.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    let header = VnetHdr::from_bytes(&input.array());
    let mut pool = Pool::new(64, 4);
    let Some(mut packet) = received(&header, input.0, &mut pool) else { return };
    let offload = packet.meta().offload;
    assert_eq!(VnetHdr::from_offload(&offload, hdr_len(&packet)).to_offload(packet.len()), Ok(offload));
    if pop_tag(&mut packet).is_err() || push_tag(&mut packet).is_err() {
        return;
    }
    assert!(usize::from(hdr_len(&packet)) <= packet.head().len());
    let (longest, total, gso) = (l3_segment_len(&packet), packet.len(), packet.meta().offload.gso);
    let mut out = Batch::new();
    let Ok(count) = segment(packet, &mut pool, &mut out, true) else {
        assert!(out.is_empty());
        return;
    };
    assert_eq!(count, out.len());
    let mut bytes = 0;
    for (i, frame) in out.iter().enumerate() {
        assert!(!frame.meta().offload.is_gso());
        assert!(!matches!(frame.meta().offload.csum, Checksum::Partial { .. }));
        let len = l3_segment_len(frame);
        assert!(if i == 0 { len == longest } else { len <= longest });
        bytes += frame.len();
    }
    let headers = (bytes - total).checked_div(count - 1).unwrap_or(0);
    assert!(headers == 0 || bytes - total == headers * (count - 1));
    assert!(count == 1 || out[0].len() == headers + usize::from(gso.size));
}
