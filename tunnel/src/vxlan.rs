//! The VXLAN header (RFC 7348 §5).

use crate::{DropReason, Vni};

/// Length of the header, bytes.
pub const LEN: usize = 8;

/// "The I flag MUST be set to 1 for a valid VXLAN Network ID."
const I: u8 = 0x08;

/// The header of a frame in this network. Reserved bits are zero, as the RFC demands of senders.
#[inline]
pub const fn header(vni: Vni) -> [u8; LEN] {
    let [a, b, c] = vni.to_bytes();
    [I, 0, 0, 0, a, b, c, 0]
}

/// Reads a header. Reserved bits are ignored, as the RFC demands of receivers.
///
/// # Errors
/// [`DropReason::TunnelTruncated`], and [`DropReason::VxlanNoVni`] without the I flag.
#[inline]
pub const fn parse(bytes: &[u8]) -> Result<Vni, DropReason> {
    match *bytes {
        [flags, _, _, _, a, b, c, _, ..] if flags & I != 0 => Ok(Vni::from_bytes([a, b, c])),
        [_, _, _, _, _, _, _, _, ..] => Err(DropReason::VxlanNoVni),
        _ => Err(DropReason::TunnelTruncated),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VNI: Vni = Vni::from_bytes([0x12, 0x34, 0x56]);

    #[test]
    fn rfc7348_5_layout() {
        assert_eq!(header(VNI), [0x08, 0, 0, 0, 0x12, 0x34, 0x56, 0]);
    }

    #[test]
    fn rfc7348_5_i_flag_must_be_set() {
        let mut bytes = header(VNI);
        bytes[0] = !I;
        assert_eq!(parse(&bytes), Err(DropReason::VxlanNoVni));
    }

    #[test]
    fn rfc7348_5_reserved_bits_are_ignored_on_receipt() {
        let mut bytes = header(VNI);
        (bytes[0], bytes[1], bytes[2], bytes[3], bytes[7]) = (0xff, 0xff, 0xff, 0xff, 0xff);
        assert_eq!(parse(&bytes), Ok(VNI));
    }

    #[test]
    fn truncated_at_every_byte() {
        for len in 0..LEN {
            assert_eq!(parse(&header(VNI)[..len]), Err(DropReason::TunnelTruncated));
        }
    }
}
