//! Offload metadata: what the sender left for later (checksums, segmentation), carried with the packet
//! from ingress to egress. The vocabulary is virtio's (virtio 1.2 §5.1.6, `struct virtio_net_hdr`).

use crate::DropReason;

/// State of the transport checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Checksum {
    /// Nothing is known: the checksum in the frame is what the sender put there.
    #[default]
    Unknown,
    /// The kernel has verified it (VIRTIO_NET_HDR_F_DATA_VALID).
    Valid,
    /// The checksum field holds only the pseudo-header sum; the sum over `start..` is to be completed
    /// and stored at `start + offset` (VIRTIO_NET_HDR_F_NEEDS_CSUM).
    Partial {
        /// Bytes from the start of the frame (destination MAC at 0, outermost VLAN tag not counted
        /// while it is in the metadata).
        start: u16,
        /// Bytes from `start`.
        offset: u16,
    },
}

impl Checksum {
    /// Whether the field holds a finished checksum, right or wrong.
    #[inline]
    pub const fn is_full(&self) -> bool {
        !matches!(self, Checksum::Partial { .. })
    }
}

/// What kind of superframe.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum GsoKind {
    /// An ordinary frame.
    #[default]
    None,
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP, cut into datagrams of equal size (VIRTIO_NET_HDR_GSO_UDP_L4).
    UdpL4,
}

/// Generic segmentation offload.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Gso {
    /// Which protocol to segment.
    pub kind: GsoKind,
    /// The sender set ECN CWR handling (VIRTIO_NET_HDR_GSO_ECN): CWR goes on the first segment only.
    pub ecn: bool,
    /// Payload bytes per segment; not 0 unless `kind` is `None`.
    pub size: u16,
}

/// All that travels with one layer of headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offload {
    /// The transport checksum.
    pub csum: Checksum,
    /// Segmentation.
    pub gso: Gso,
}

impl Offload {
    /// An ordinary frame with a complete checksum.
    pub const NONE: Offload =
        Offload { csum: Checksum::Unknown, gso: Gso { kind: GsoKind::None, ecn: false, size: 0 } };

    /// Whether the frame is a superframe.
    #[inline]
    pub const fn is_gso(&self) -> bool {
        !matches!(self.gso.kind, GsoKind::None)
    }

    /// Moves the checksum start by `delta` bytes, when headers in front of it grow or shrink.
    /// Saturates: a start that would leave the frame is caught by [`Offload::check`].
    #[inline]
    pub fn shift(&mut self, delta: i16) {
        if let Checksum::Partial { start, .. } = &mut self.csum {
            *start = start.saturating_add_signed(delta);
        }
    }

    /// Whether the metadata makes sense for a frame of `len` bytes.
    ///
    /// # Errors
    /// [`DropReason::BadOffload`] when the checksum field lies outside the frame, a superframe has
    /// segment size 0, or a superframe comes without a partial checksum.
    #[inline]
    pub fn check(&self, len: usize) -> Result<(), DropReason> {
        match self.csum {
            Checksum::Partial { start, offset }
                if usize::from(start) < crate::ether::ETH_HLEN
                    || usize::from(start) + usize::from(offset) + 2 > len =>
            {
                return Err(DropReason::BadOffload);
            }
            Checksum::Partial { .. } => {}
            _ if self.is_gso() => return Err(DropReason::BadOffload),
            _ => {}
        }
        if self.is_gso() && self.gso.size == 0 { Err(DropReason::BadOffload) } else { Ok(()) }
    }
}

/// `struct virtio_net_hdr` (10 bytes, host byte order as TAP and AF_PACKET use it by default).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VnetHdr {
    /// Flags: 1 needs checksum, 2 data valid.
    pub flags: u8,
    /// Type of superframe, with 0x80 for ECN.
    pub gso_type: u8,
    /// Length of all headers, a hint.
    pub hdr_len: u16,
    /// Payload bytes per segment.
    pub gso_size: u16,
    /// Where to start summing.
    pub csum_start: u16,
    /// Where to store the sum, from `csum_start`.
    pub csum_offset: u16,
}

const F_NEEDS_CSUM: u8 = 1;
const F_DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

impl VnetHdr {
    /// Size on the wire, bytes.
    pub const LEN: usize = 10;

    /// Reads the ten bytes.
    #[inline]
    pub fn from_bytes(b: &[u8; Self::LEN]) -> VnetHdr {
        let u16_at = |i: usize| u16::from_ne_bytes([b[i], b[i + 1]]);
        VnetHdr {
            flags: b[0],
            gso_type: b[1],
            hdr_len: u16_at(2),
            gso_size: u16_at(4),
            csum_start: u16_at(6),
            csum_offset: u16_at(8),
        }
    }

    /// The ten bytes.
    #[inline]
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut b = [0; Self::LEN];
        b[0] = self.flags;
        b[1] = self.gso_type;
        b[2..4].copy_from_slice(&self.hdr_len.to_ne_bytes());
        b[4..6].copy_from_slice(&self.gso_size.to_ne_bytes());
        b[6..8].copy_from_slice(&self.csum_start.to_ne_bytes());
        b[8..10].copy_from_slice(&self.csum_offset.to_ne_bytes());
        b
    }

    /// What the header says about a frame of `len` bytes.
    ///
    /// # Errors
    /// [`DropReason::BadOffload`] for an unknown type and as [`Offload::check`].
    #[inline]
    pub fn to_offload(self, len: usize) -> Result<Offload, DropReason> {
        let kind = match self.gso_type & !GSO_ECN {
            GSO_NONE => GsoKind::None,
            GSO_TCPV4 => GsoKind::TcpV4,
            GSO_TCPV6 => GsoKind::TcpV6,
            GSO_UDP_L4 => GsoKind::UdpL4,
            _ => return Err(DropReason::BadOffload),
        };
        let csum = if self.flags & F_NEEDS_CSUM != 0 {
            Checksum::Partial { start: self.csum_start, offset: self.csum_offset }
        } else if self.flags & F_DATA_VALID != 0 {
            Checksum::Valid
        } else {
            Checksum::Unknown
        };
        let gso = match kind {
            GsoKind::None => Gso::default(),
            _ => Gso { kind, ecn: self.gso_type & GSO_ECN != 0, size: self.gso_size },
        };
        let offload = Offload { csum, gso };
        offload.check(len)?;
        Ok(offload)
    }

    /// The header for a frame with this metadata. `hdr_len` is the length of all headers up to and
    /// including the transport header, a hint that the kernel uses for the linear part of a superframe.
    #[inline]
    pub fn from_offload(o: &Offload, hdr_len: u16) -> VnetHdr {
        let mut h = VnetHdr::default();
        match o.csum {
            Checksum::Partial { start, offset } => {
                h.flags = F_NEEDS_CSUM;
                h.csum_start = start;
                h.csum_offset = offset;
            }
            Checksum::Valid => h.flags = F_DATA_VALID,
            Checksum::Unknown => {}
        }
        if o.is_gso() {
            h.gso_type = match o.gso.kind {
                GsoKind::None => GSO_NONE,
                GsoKind::TcpV4 => GSO_TCPV4,
                GsoKind::TcpV6 => GSO_TCPV6,
                GsoKind::UdpL4 => GSO_UDP_L4,
            } | if o.gso.ecn { GSO_ECN } else { 0 };
            h.gso_size = o.gso.size;
            h.hdr_len = hdr_len;
        }
        h
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vnet_round_trip() {
        let h = VnetHdr {
            flags: 1,
            gso_type: 0x81,
            hdr_len: 54,
            gso_size: 1460,
            csum_start: 34,
            csum_offset: 16,
        };
        assert_eq!(VnetHdr::from_bytes(&h.to_bytes()), h);
        let o = h.to_offload(3000).unwrap();
        assert_eq!(VnetHdr::from_offload(&o, 54), h);
    }

    #[test]
    fn nonsense_is_refused() {
        let ok =
            VnetHdr { flags: 1, gso_type: 1, hdr_len: 54, gso_size: 1460, csum_start: 34, csum_offset: 16 };
        assert!(ok.to_offload(60).is_ok());
        for bad in [
            VnetHdr { gso_type: 3, ..ok },
            VnetHdr { gso_type: 0x7f, ..ok },
            VnetHdr { gso_size: 0, ..ok },
            VnetHdr { flags: 0, ..ok },
            VnetHdr { csum_start: 13, ..ok },
            VnetHdr { csum_start: 65535, ..ok },
            VnetHdr { csum_offset: 65535, ..ok },
        ] {
            assert_eq!(bad.to_offload(60), Err(DropReason::BadOffload), "{bad:?}");
        }
        // A stale segment size or ECN without a type is ignored, as the kernel does.
        let stale = VnetHdr { gso_size: 9, gso_type: 0x80, ..Default::default() };
        assert_eq!(stale.to_offload(60), Ok(Offload::NONE));
    }
}
