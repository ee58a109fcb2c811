//! The Geneve header and its options (RFC 8926 §3.4, §3.5).

use trunkline_packet::EtherType;

use crate::gre::TEB;
use crate::{DropReason, Vni};

/// Length of the fixed header, bytes.
pub const LEN: usize = 8;

/// The longest option block a header can announce: 63 words, bytes.
pub const MAX_OPTIONS: usize = 252;

const VERSION: u8 = 0xc0;
const OPT_LEN: u8 = 0x3f;
const O: u8 = 0x80;
const C: u8 = 0x40;
const CRITICAL: u8 = 0x80;

/// What a header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GeneveHeader<'a> {
    /// Which network.
    pub vni: Vni,
    /// A control packet (O bit).
    pub control: bool,
    /// There are critical options (C bit).
    pub critical: bool,
    /// What is inside.
    pub protocol: EtherType,
    /// The option block, a multiple of four bytes.
    options: &'a [u8],
}

/// One option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GeneveOption<'a> {
    /// Namespace of the type.
    pub class: u16,
    /// Type, with the critical bit in front (0x80).
    pub kind: u8,
    /// Content: a multiple of four bytes, 124 at most.
    pub data: &'a [u8],
}

impl GeneveOption<'_> {
    /// Whether a receiver that does not know it must drop the packet.
    #[inline]
    pub const fn is_critical(&self) -> bool {
        self.kind & CRITICAL != 0
    }
}

impl<'a> GeneveHeader<'a> {
    /// Reads a header and says how long it is with its options, which are not looked at.
    ///
    /// # Errors
    /// [`DropReason::TunnelTruncated`], and [`DropReason::TunnelVersion`] for any version but 0 (RFC 8926 §3.4:
    /// "Packets received by a tunnel endpoint with an unknown version MUST be dropped").
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<(GeneveHeader<'a>, usize), DropReason> {
        let Some(&[first, flags, p0, p1, a, b, c, _]) = bytes.first_chunk::<LEN>() else {
            return Err(DropReason::TunnelTruncated);
        };
        if first & VERSION != 0 {
            return Err(DropReason::TunnelVersion);
        }
        let len = LEN + 4 * usize::from(first & OPT_LEN);
        let header = GeneveHeader {
            vni: Vni::from_bytes([a, b, c]),
            control: flags & O != 0,
            critical: flags & C != 0,
            protocol: EtherType(u16::from_be_bytes([p0, p1])),
            options: bytes.get(LEN..len).ok_or(DropReason::TunnelTruncated)?,
        };
        Ok((header, len))
    }

    /// The options in order. Ends after an error.
    #[inline]
    pub fn options(&self) -> Options<'a> {
        Options(self.options)
    }

    /// Whether an endpoint that knows no options may take the packet.
    ///
    /// # Errors
    /// [`DropReason::GeneveBadOptions`] when the options overrun their block; [`DropReason::GeneveCriticalOption`] for a
    /// critical one, or the C bit that announces one.
    #[inline]
    pub fn check_options(&self) -> Result<(), DropReason> {
        for option in self.options() {
            if option?.is_critical() {
                return Err(DropReason::GeneveCriticalOption);
            }
        }
        if self.critical { Err(DropReason::GeneveCriticalOption) } else { Ok(()) }
    }
}

/// Iterates over an option block.
#[derive(Clone, Debug)]
pub struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = Result<GeneveOption<'a>, DropReason>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let option = self.0.split_first_chunk::<4>().and_then(|(&[c0, c1, kind, len], rest)| {
            let (data, rest) = rest.split_at_checked(4 * usize::from(len & 0x1f))?;
            self.0 = rest;
            Some(GeneveOption { class: u16::from_be_bytes([c0, c1]), kind, data })
        });
        if option.is_none() {
            self.0 = &[];
        }
        Some(option.ok_or(DropReason::GeneveBadOptions))
    }
}

/// Writes a header for Ethernet with these options into `out` and returns its length; `None` when it does
/// not fit, or an option's content is no multiple of four bytes or over 124.
pub fn write(vni: Vni, options: &[GeneveOption<'_>], out: &mut [u8]) -> Option<usize> {
    let mut at = LEN;
    for option in options {
        let words = option.data.len() / 4;
        if option.data.len() % 4 != 0 || words > 0x1f {
            return None;
        }
        let [c0, c1] = option.class.to_be_bytes();
        out.get_mut(at..at + 4)?.copy_from_slice(&[c0, c1, option.kind, words as u8]);
        out.get_mut(at + 4..at + 4 + option.data.len())?.copy_from_slice(option.data);
        at += 4 + option.data.len();
    }
    if at > LEN + MAX_OPTIONS {
        return None;
    }
    let flags = if options.iter().any(GeneveOption::is_critical) { C } else { 0 };
    let ([p0, p1], [a, b, c]) = (TEB.0.to_be_bytes(), vni.to_bytes());
    out.get_mut(..LEN)?.copy_from_slice(&[((at - LEN) / 4) as u8, flags, p0, p1, a, b, c, 0]);
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VNI: Vni = Vni::from_bytes([0x12, 0x34, 0x56]);

    fn bytes(options: &[GeneveOption<'_>]) -> Vec<u8> {
        let mut out = vec![0xee; 300];
        let len = write(VNI, options, &mut out).unwrap();
        out.truncate(len);
        out
    }

    const PLAIN: GeneveOption<'_> = GeneveOption { class: 0x0102, kind: 3, data: &[1, 2, 3, 4] };
    const EMPTY: GeneveOption<'_> = GeneveOption { class: 0xffff, kind: 0x7f, data: &[] };
    const CRIT: GeneveOption<'_> = GeneveOption { class: 0x0102, kind: 0x83, data: &[1, 2, 3, 4] };

    #[test]
    fn rfc8926_3_4_layout() {
        assert_eq!(bytes(&[]), [0, 0, 0x65, 0x58, 0x12, 0x34, 0x56, 0]);
        assert_eq!(bytes(&[PLAIN]), [2, 0, 0x65, 0x58, 0x12, 0x34, 0x56, 0, 1, 2, 3, 1, 1, 2, 3, 4]);
        assert_eq!(bytes(&[EMPTY, CRIT])[1], 0x40, "the C bit announces a critical option");
    }

    #[test]
    fn options_round_trip() {
        let wire = bytes(&[PLAIN, EMPTY, CRIT]);
        let (header, len) = GeneveHeader::parse(&wire).unwrap();
        assert_eq!(len, wire.len());
        assert_eq!(header.options().collect::<Result<Vec<_>, _>>(), Ok(vec![PLAIN, EMPTY, CRIT]));
    }

    #[test]
    fn truncated_at_every_byte() {
        let wire = bytes(&[PLAIN, EMPTY]);
        for len in 0..wire.len() {
            assert_eq!(GeneveHeader::parse(&wire[..len]), Err(DropReason::TunnelTruncated), "{len}");
        }
    }

    #[test]
    fn rfc8926_3_4_an_unknown_version_must_be_dropped() {
        for version in 1..4u8 {
            let mut wire = bytes(&[]);
            wire[0] |= version << 6;
            assert_eq!(GeneveHeader::parse(&wire), Err(DropReason::TunnelVersion));
        }
    }

    #[test]
    fn rfc8926_3_4_reserved_bits_must_be_ignored_on_receipt() {
        let mut wire = bytes(&[PLAIN]);
        wire[1] |= 0x3f;
        wire[7] = 0xff;
        wire[LEN + 3] |= 0xe0;
        let (header, _) = GeneveHeader::parse(&wire).unwrap();
        assert_eq!((header.vni, header.control, header.critical), (VNI, false, false));
        assert_eq!(header.check_options(), Ok(()));
    }

    #[test]
    fn rfc8926_3_4_unknown_critical_options_must_be_dropped() {
        let wire = bytes(&[PLAIN, CRIT]);
        let (header, _) = GeneveHeader::parse(&wire).unwrap();
        assert_eq!(header.check_options(), Err(DropReason::GeneveCriticalOption));
        // The C bit alone says that there is one.
        let mut wire = bytes(&[PLAIN]);
        wire[1] |= C;
        assert_eq!(
            GeneveHeader::parse(&wire).unwrap().0.check_options(),
            Err(DropReason::GeneveCriticalOption)
        );
    }

    #[test]
    fn rfc8926_3_5_options_that_overrun_their_block_must_be_dropped() {
        let mut wire = bytes(&[PLAIN]);
        wire[LEN + 3] = 2;
        assert_eq!(GeneveHeader::parse(&wire).unwrap().0.check_options(), Err(DropReason::GeneveBadOptions));
        let header = GeneveHeader::parse(&wire).unwrap().0;
        assert_eq!(header.options().count(), 1, "the iterator ends after an error");
    }

    #[test]
    fn what_does_not_fit_is_not_written() {
        let mut out = [0; 300];
        assert_eq!(write(VNI, &[GeneveOption { data: &[0; 3], ..PLAIN }], &mut out), None);
        assert_eq!(write(VNI, &[GeneveOption { data: &[0; 128], ..PLAIN }], &mut out), None);
        let big = GeneveOption { data: &[0; 124], ..PLAIN };
        assert_eq!(write(VNI, &[big, GeneveOption { data: &[0; 120], ..PLAIN }], &mut out), Some(260));
        assert_eq!(write(VNI, &[big, big], &mut out), None);
        assert_eq!(write(VNI, &[PLAIN], &mut out[..15]), None);
        assert_eq!(write(VNI, &[], &mut out[..7]), None);
    }
}
