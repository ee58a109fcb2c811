//! Reading structure out of fuzzer input.

use trunkline_packet::checksum::Sum;
use trunkline_packet::headers::{Headers, write16};
use trunkline_packet::{Packet, Pool, VnetHdr};

/// What is left of the input. Past its end everything is zero.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// Whether all is read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// The next two bytes, big endian.
    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let bytes = self.bytes(N);
        out[..bytes.len()].copy_from_slice(bytes);
        out
    }

    /// The next `n` bytes, or fewer.
    pub fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A frame as a port hands it in: virtio header, length, bytes. `None` when the port would refuse it.
    pub fn frame(&mut self, pool: &mut Pool) -> Option<Packet> {
        let header = VnetHdr::from_bytes(&self.array());
        let len = usize::from(self.u16());
        received(&header, self.bytes(len), pool)
    }
}

/// A frame with its virtio header; `None` when the port would refuse it.
pub fn received(header: &VnetHdr, bytes: &[u8], pool: &mut Pool) -> Option<Packet> {
    let mut packet = pool.get();
    packet.set_bytes(bytes, pool).ok()?;
    packet.meta_mut().offload = header.to_offload(bytes.len()).ok()?;
    Some(packet)
}

/// Makes the IPv4 header checksum right, which a fuzzer does not guess.
pub fn fix_ipv4_checksum(packet: &mut Packet) {
    let head = packet.head_mut();
    if let Some(ip) = Headers::of_frame(head)
        && let (l3, l4) = (usize::from(ip.l3), usize::from(ip.l4))
        && head[l3] >> 4 == 4
    {
        write16(head, l3 + 10, 0);
        let check = Sum::ZERO.bytes(&head[l3..l4]).finish();
        write16(head, l3 + 10, check);
    }
}
