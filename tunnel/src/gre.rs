//! The GRE header (RFC 2784, with the key and sequence number of RFC 2890).

use trunkline_packet::EtherType;
use trunkline_packet::headers::read32;

use crate::{DropReason, GreKey};

/// Protocol type of an Ethernet frame in a tunnel: Transparent Ethernet Bridging (RFC 7637 §3.2, RFC 8926
/// §3.4).
pub const TEB: EtherType = EtherType(0x6558);

/// Length of the longest header, bytes.
pub const MAX_LEN: usize = 16;

const C: u8 = 0x80;
const K: u8 = 0x20;
const S: u8 = 0x10;
/// Bits 1, 4 and 5 (RFC 2784 §2.3, less the bits that RFC 2890 gave a meaning).
const MUST_BE_ZERO: u8 = 0x4c;
const VERSION: u8 = 0x07;

/// A GRE header. The checksum itself is not in it: see [`CHECKSUM_AT`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GreHeader {
    /// Whether there is a checksum over the header and all that follows.
    pub checksum: bool,
    /// Which of several tunnels between the same hosts.
    pub key: Option<GreKey>,
    /// Position of the packet in the tunnel.
    pub sequence: Option<u32>,
    /// What is inside.
    pub protocol: EtherType,
}

/// Where the checksum is, if there is one, bytes from the start of the header.
pub const CHECKSUM_AT: usize = 4;

impl GreHeader {
    /// Reads a header and says how long it is. The checksum is not verified.
    ///
    /// # Errors
    /// [`DropReason::TunnelTruncated`], [`DropReason::GreFlags`], [`DropReason::TunnelVersion`].
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<(GreHeader, usize), DropReason> {
        let &[flags, version, p0, p1, ..] = bytes else { return Err(DropReason::TunnelTruncated) };
        if flags & MUST_BE_ZERO != 0 {
            return Err(DropReason::GreFlags);
        }
        if version & VERSION != 0 {
            return Err(DropReason::TunnelVersion);
        }
        let mut at = 4;
        let mut word = |flag: u8| {
            if flags & flag == 0 {
                return Ok(None);
            }
            let word = read32(bytes, at).ok_or(DropReason::TunnelTruncated)?;
            at += 4;
            Ok(Some(word))
        };
        let checksum = word(C)?.is_some();
        let key = word(K)?.map(GreKey);
        let sequence = word(S)?;
        let protocol = EtherType(u16::from_be_bytes([p0, p1]));
        Ok((GreHeader { checksum, key, sequence, protocol }, at))
    }

    /// How long it is, bytes.
    #[inline]
    pub const fn len(&self) -> usize {
        4 + 4 * (self.checksum as usize + self.key.is_some() as usize + self.sequence.is_some() as usize)
    }

    /// Never: a header has at least four bytes.
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// The header as bytes, of which the first [`GreHeader::len`] count; the checksum is 0.
    #[inline]
    pub fn to_bytes(&self) -> [u8; MAX_LEN] {
        let mut out = [0; MAX_LEN];
        let bit = |on: bool, flag: u8| if on { flag } else { 0 };
        out[0] = bit(self.checksum, C) | bit(self.key.is_some(), K) | bit(self.sequence.is_some(), S);
        out[2..4].copy_from_slice(&self.protocol.0.to_be_bytes());
        let mut at = if self.checksum { 8 } else { 4 };
        for word in [self.key.map(|key| key.0), self.sequence].into_iter().flatten() {
            out[at..at + 4].copy_from_slice(&word.to_be_bytes());
            at += 4;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = GreHeader> {
        (0..8).map(|bits| GreHeader {
            checksum: bits & 1 != 0,
            key: (bits & 2 != 0).then_some(GreKey(0xdead_beef)),
            sequence: (bits & 4 != 0).then_some(0x0102_0304),
            protocol: TEB,
        })
    }

    #[test]
    fn rfc2890_2_fields_follow_in_the_order_checksum_key_sequence() {
        let full = all().last().unwrap();
        assert_eq!(full.to_bytes(), [0xb0, 0, 0x65, 0x58, 0, 0, 0, 0, 0xde, 0xad, 0xbe, 0xef, 1, 2, 3, 4]);
        for header in all() {
            assert_eq!(GreHeader::parse(&header.to_bytes()), Ok((header, header.len())));
        }
    }

    #[test]
    fn truncated_at_every_byte() {
        for header in all() {
            for len in 0..header.len() {
                assert_eq!(
                    GreHeader::parse(&header.to_bytes()[..len]),
                    Err(DropReason::TunnelTruncated),
                    "{len}"
                );
            }
        }
    }

    #[test]
    fn rfc2784_2_3_discards_when_bit_1_4_or_5_is_set() {
        for bit in 0..8u8 {
            let mut bytes =
                GreHeader { checksum: false, key: None, sequence: None, protocol: TEB }.to_bytes();
            bytes[0] |= 0x80 >> bit;
            let refused = GreHeader::parse(&bytes) == Err(DropReason::GreFlags);
            assert_eq!(refused, matches!(bit, 1 | 4 | 5), "bit {bit}");
        }
    }

    #[test]
    fn rfc2784_2_3_ignores_bits_6_to_12_and_sends_them_as_zero() {
        let header = GreHeader { checksum: false, key: None, sequence: None, protocol: TEB };
        let mut bytes = header.to_bytes();
        assert_eq!((bytes[0] & 0x4f, bytes[1]), (0, 0));
        bytes[0] |= 0x03;
        bytes[1] |= 0xf8;
        assert_eq!(GreHeader::parse(&bytes), Ok((header, 4)));
    }

    #[test]
    fn rfc2784_2_3_1_version_must_be_zero() {
        for version in 1..8 {
            assert_eq!(GreHeader::parse(&[0, version, 0x65, 0x58]), Err(DropReason::TunnelVersion));
        }
    }
}
