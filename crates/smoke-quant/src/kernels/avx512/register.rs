//! Registers from and to memory: the only place of this module that touches memory by pointer.

use std::arch::x86_64::*;

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_words(from: &[u32; 16]) -> __m512i {
    // SAFETY: the reference covers the 64 bytes that are read; the instruction wants no alignment.
    unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store_words(to: &mut [u32; 16], words: __m512i) {
    // SAFETY: the reference covers the 64 bytes that are written; the instruction wants no alignment.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), words) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_floats(from: &[f32; 16]) -> __m512 {
    // SAFETY: the reference covers the 64 bytes that are read; the instruction wants no alignment.
    unsafe { _mm512_loadu_ps(from.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store_floats(to: &mut [f32; 16], floats: __m512) {
    // SAFETY: the reference covers the 64 bytes that are written; the instruction wants no alignment.
    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), floats) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_quarter(from: &[u8; 16]) -> __m128i {
    // SAFETY: the reference covers the 16 bytes that are read; the instruction wants no alignment.
    unsafe { _mm_loadu_si128(from.as_ptr().cast()) }
}

/// Stores sixteen bytes as four words.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store_quarter(to: &mut [u32; 4], bytes: __m128i) {
    // SAFETY: the reference covers the 16 bytes that are written; the instruction wants no alignment.
    unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), bytes) }
}

/// The word in all lanes.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn broadcast(word: u32) -> __m512i {
    _mm512_set1_epi32(word.cast_signed())
}

/// The bits of a float, in all lanes.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn broadcast_float(bits: u32) -> __m512 {
    _mm512_castsi512_ps(broadcast(bits))
}

/// Asks for a line of memory to be brought into the second-level cache; where there is none, nothing happens.
#[inline(always)]
pub(super) fn prefetch<T>(line: *const T) {
    // SAFETY: every x86-64 processor has the instruction, and whatever the address, the program sees nothing of it.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) };
}
