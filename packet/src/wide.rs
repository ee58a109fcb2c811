//! The sum under a checksum, by the widest adders that the processor has.
#![allow(unsafe_code)]

/// What is shorter gains nothing, and comes nearly always: headers and small packets.
#[cfg(target_arch = "x86_64")]
const LEAST: usize = 128;

/// Sums 32-bit words of the machine's own order; the last one is padded with zeros. No length that fits in memory
/// makes it overflow.
#[inline]
pub(crate) fn sum_words(data: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if data.len() >= LEAST && std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has what the function is compiled for, as was just asked.
        return unsafe { sum_avx2(data) };
    }
    sum::<8>(data)
}

/// The same code for 256-bit registers, twice as fast on a superframe's payload (Rust's baseline for x86-64 has registers
/// of 128 bits).
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(data: &[u8]) -> u64 {
    sum::<16>(data)
}

/// In independent 64-bit lanes, which the compiler turns into vector adds.
#[inline(always)]
fn sum<const LANES: usize>(data: &[u8]) -> u64 {
    let mut lanes = [0u64; LANES];
    let (words, rest) = data.as_chunks::<4>();
    let (rows, words) = words.as_chunks::<LANES>();
    for row in rows {
        for (lane, word) in lanes.iter_mut().zip(row) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let mut last = [0u8; 4];
    last[..rest.len()].copy_from_slice(rest);
    let ends = words.iter().chain([&last]).map(|word| u64::from(u32::from_ne_bytes(*word)));
    lanes.iter().sum::<u64>() + ends.sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_widths_sum_alike() {
        let data: Vec<u8> = (0..3000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for start in [0, 1, 2, 3, 5] {
            for len in (0..300).chain([1398, 2047, 2048, 2995]) {
                let slice = &data[start..][..len];
                assert_eq!(sum_words(slice), sum::<8>(slice), "{start} {len}");
                assert_eq!(sum::<8>(slice), sum::<1>(slice), "{start} {len}");
            }
        }
    }
}
