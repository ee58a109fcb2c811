//! Explicit congestion notification through tunnels (RFC 6040).

use crate::DropReason;

/// Where the field is in a traffic class.
pub(crate) const MASK: u8 = 3;
const NOT_ECT: u8 = 0;
const ECT1: u8 = 1;
const CE: u8 = 3;

/// The outer traffic class: DSCP of `dscp`, ECN of the inner packet in normal mode (RFC 6040 §4.1): copied.
/// Traffic classes are whole bytes, DSCP in the high six bits.
#[inline]
pub const fn encap(dscp: u8, inner: u8) -> u8 {
    dscp & !MASK | inner & MASK
}

/// The inner traffic class after decapsulation (RFC 6040 §4.2, figure 4). The DSCP stays the inner one.
///
/// # Errors
/// [`DropReason::TunnelEcn`] when the outer header says "congestion experienced" and the inner packet's transport
/// is not capable of ECN.
#[inline]
pub const fn decap(outer: u8, inner: u8) -> Result<u8, DropReason> {
    let ecn = match (inner & MASK, outer & MASK) {
        (NOT_ECT, CE) => return Err(DropReason::TunnelEcn),
        (NOT_ECT, _) => NOT_ECT,
        (CE, _) | (_, CE) => CE,
        (_, ECT1) => ECT1,
        (inner, _) => inner,
    };
    Ok(inner & !MASK | ecn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc6040_4_1_normal_mode_copies_the_inner_field() {
        for inner in 0..=255 {
            assert_eq!(encap(0xb8 | 3, inner), 0xb8 | inner & 3);
        }
    }

    #[test]
    fn rfc6040_4_2_figure_4() {
        const ECT0: u8 = 2;
        // Rows: inner; columns: outer Not-ECT, ECT(0), ECT(1), CE.
        let table = [
            (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
            (ECT0, [Some(ECT0), Some(ECT0), Some(ECT1), Some(CE)]),
            (ECT1, [Some(ECT1), Some(ECT1), Some(ECT1), Some(CE)]),
            (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
        ];
        for (inner, row) in table {
            for (outer, expected) in [NOT_ECT, ECT0, ECT1, CE].into_iter().zip(row) {
                let expected = expected.map(|ecn| 0x28 | ecn).ok_or(DropReason::TunnelEcn);
                assert_eq!(decap(0xb8 | outer, 0x28 | inner), expected, "{inner} in {outer}");
            }
        }
    }
}
