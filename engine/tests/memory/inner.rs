//! Frames of stations with TCP or UDP in them, and what their senders leave undone.

use trunkline_packet::checksum::{Sum, transport_ok};
use trunkline_packet::headers::Headers;
use trunkline_packet::{Checksum, Gso, GsoKind, Offload, Pool};

use super::frame;

/// A TCP or UDP frame from station `src` to `dst`, with its checksum left open.
pub(crate) struct Inner {
    pub(crate) v6: bool,
    pub(crate) tcp: bool,
    pub(crate) payload: usize,
    /// Segment size; 0 for an ordinary frame.
    pub(crate) size: u16,
    pub(crate) df: bool,
    pub(crate) syn: bool,
}

pub(crate) const TCP: Inner = Inner { v6: false, tcp: true, payload: 100, size: 0, df: true, syn: false };

impl Inner {
    pub(crate) fn build(&self, dst: u8, src: u8) -> (Vec<u8>, Offload) {
        let mut b = frame(dst, src)[..12].to_vec();
        let options: &[u8] = if self.syn { &[2, 4, 5, 0xb4] } else { &[] };
        let header = if self.tcp { 20 + options.len() } else { 8 };
        let len = header + self.payload;
        let protocol = if self.tcp { 6 } else { 17 };
        let addresses = match self.v6 {
            true => [[0xfd, src].repeat(8), [0xfd, dst].repeat(8)].concat(),
            false => vec![10, 0, 0, src, 10, 0, 0, dst],
        };
        if self.v6 {
            b.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            b.extend((len as u16).to_be_bytes());
            b.extend([protocol, 64]);
        } else {
            b.extend([8, 0, 0x45, 0]);
            b.extend((len as u16 + 20).to_be_bytes());
            b.extend([0, 1, if self.df { 0x40 } else { 0 }, 0, 64, protocol, 0, 0]);
        }
        b.extend(&addresses);
        if !self.v6 {
            let check = Sum::ZERO.bytes(&b[14..]).finish();
            b[24..26].copy_from_slice(&check.to_be_bytes());
        }
        let l4 = b.len();
        b.extend([0, 7, 0, 9]);
        let offset = if self.tcp {
            let flags = if self.syn { 2 } else { 0x10 };
            b.extend([0, 0, 0, 0, 0, 0, 0, 0, (header as u8 / 4) << 4, flags, 1, 0, 0, 0, 0, 0]);
            b.extend(options);
            16
        } else {
            b.extend((len as u16).to_be_bytes());
            b.extend([0, 0]);
            6
        };
        b.extend((0..self.payload).map(|i| (i * 31 + i / 251) as u8));
        let check = Sum::ZERO.bytes(&addresses).add(protocol.into()).add(len as u32).fold();
        b[l4 + offset..l4 + offset + 2].copy_from_slice(&check.to_be_bytes());
        let kind = match (self.size, self.tcp, self.v6) {
            (0, ..) => GsoKind::None,
            (_, false, _) => GsoKind::UdpL4,
            (_, _, false) => GsoKind::TcpV4,
            (_, _, true) => GsoKind::TcpV6,
        };
        let csum = Checksum::Partial { start: l4 as u16, offset: offset as u16 };
        (b, Offload { csum, gso: Gso { kind, ecn: false, size: self.size } })
    }
}

/// The frame with its checksum finished, whatever state it is in.
pub(crate) fn finished(bytes: &[u8], offload: Offload) -> Vec<u8> {
    let mut pool = Pool::new(4, 4);
    let mut packet = pool.get();
    packet.set_bytes(bytes, &mut pool).unwrap();
    packet.meta_mut().offload = Offload { csum: offload.csum, ..Offload::NONE };
    trunkline_packet::checksum::complete(&mut packet).unwrap();
    assert!(transport_ok(&packet, &Headers::parse(&packet).unwrap()));
    packet.to_vec()
}
