//! Registers from and to memory: the only place of this module that touches memory by pointer.

use std::arch::x86_64::*;

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_floats(from: &[f32; 8]) -> __m256 {
    // SAFETY: the reference covers the 32 bytes that are read; the instruction wants no alignment.
    unsafe { _mm256_loadu_ps(from.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store_floats(to: &mut [f32; 8], floats: __m256) {
    // SAFETY: the reference covers the 32 bytes that are written; the instruction wants no alignment.
    unsafe { _mm256_storeu_ps(to.as_mut_ptr(), floats) }
}

/// Adds to the first floats of `to`, at most four.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn add_to_floats(to: &mut [f32], floats: __m128) {
    match to.first_chunk_mut::<4>() {
        Some(to) => {
            // SAFETY: the reference covers the 16 bytes that are read and written; the instructions want no alignment.
            unsafe { _mm_storeu_ps(to.as_mut_ptr(), _mm_add_ps(_mm_loadu_ps(to.as_ptr()), floats)) }
        }
        None => {
            let mut sums = [0.0; 4];
            // SAFETY: the array has the 16 bytes that are written.
            unsafe { _mm_storeu_ps(sums.as_mut_ptr(), floats) };
            to.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_bytes(from: &[u8; 32]) -> __m256i {
    // SAFETY: the reference covers the 32 bytes that are read; the instruction wants no alignment.
    unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_half_bytes(from: &[u8; 16]) -> __m128i {
    // SAFETY: the reference covers the 16 bytes that are read; the instruction wants no alignment.
    unsafe { _mm_loadu_si128(from.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_quarter_bytes(from: &[u8; 8]) -> __m128i {
    _mm_cvtsi64_si128(i64::from_le_bytes(*from))
}

/// The sum of the eight lanes.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn sum(lanes: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// The sums of the eight lanes of each of four.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn sums(lanes: [__m256; 4]) -> __m128 {
    let pairs = _mm256_hadd_ps(_mm256_hadd_ps(lanes[0], lanes[1]), _mm256_hadd_ps(lanes[2], lanes[3]));
    _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps::<1>(pairs))
}

/// The f16 number with these bytes, in all lanes.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn broadcast_half(bytes: &[u8; 2]) -> __m256 {
    _mm256_cvtph_ps(_mm_set1_epi16(i16::from_le_bytes(*bytes)))
}

/// How far ahead of the block at hand its followers are asked for. The processor's own prefetcher stops at the end of a
/// page, and runs less far ahead than arithmetic of a few cycles per cache line can use.
const PREFETCH_BYTES: usize = 2048;

/// Asks for the memory that follows some way after `block`; where there is none, nothing happens.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn prefetch_after(block: &[u8]) {
    let ahead = block.as_ptr().wrapping_add(PREFETCH_BYTES);
    _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
}

/// Asks for all of `bytes` to be brought into the second-level cache.
pub(in crate::kernels) fn prefetch(bytes: &[u8]) {
    for line in bytes.chunks(64) {
        // SAFETY: every x86-64 processor has the instruction, and the program sees nothing of it.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::part;

    #[test]
    fn sums_of_lanes_are_added_to_no_more_floats_than_there_are() {
        let Some(_) = crate::kernels::Avx2::detect() else { return };
        let lanes = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        for len in 0..=5 {
            let mut to = [1.0; 6];
            // SAFETY: the machine has the instructions, as was just asked.
            unsafe {
                let lanes = load_floats(&lanes);
                add_to_floats(&mut to[..len], sums([lanes; 4]));
                assert_eq!(sum(lanes), 36.0);
            }
            let expected = std::array::from_fn(|i| if i < len.min(4) { 37.0 } else { 1.0 });
            assert_eq!(to, expected, "{len}");
        }
    }

    #[test]
    fn bytes_are_loaded_in_their_order() {
        let Some(_) = crate::kernels::Avx2::detect() else { return };
        let bytes: [u8; 32] = std::array::from_fn(|i| i as u8);
        let mut floats = [0.0; 8];
        // SAFETY: the machine has the instructions, as was just asked.
        unsafe {
            let whole = _mm256_castsi256_si128(load_bytes(&bytes));
            let half = load_half_bytes(part(&bytes, 0));
            assert_eq!(_mm_movemask_epi8(_mm_cmpeq_epi8(whole, half)), 0xffff);
            store_floats(&mut floats, _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(load_quarter_bytes(part(&bytes, 3)))));
            prefetch_after(&bytes);
        }
        prefetch(&bytes);
        assert_eq!(floats, std::array::from_fn(|i| (i + 3) as f32));
    }
}
