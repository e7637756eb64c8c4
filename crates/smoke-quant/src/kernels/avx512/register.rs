//! Registers from and to memory: the only place of this module that touches memory by pointer.

use std::arch::asm;
use std::arch::x86_64::*;

use crate::blocks::part;

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

/// What comes in, but for the compiler it is not known before the words are: instructions that use it stay behind those
/// that make the words.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn known_after<T>(x: &T, words: [__m512i; 3]) -> &T {
    let mut known: *const T = x;
    let [a, b, c] = words;
    // SAFETY: there is no instruction in it, so nothing is touched, and the pointer is still that of the reference.
    unsafe {
        asm!("/* {0} {1} {2} {3} */", inout(reg) known, in(zmm_reg) a, in(zmm_reg) b, in(zmm_reg) c,
            options(pure, readonly, nostack, preserves_flags));
        &*known
    }
}

/// Asks for a line of memory to be brought into the second-level cache; where there is none, nothing happens.
#[inline(always)]
pub(super) fn prefetch<T>(line: *const T) {
    // SAFETY: every x86-64 processor has the instruction, and whatever the address, the program sees nothing of it.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) };
}

/// Bytes of a page, where pages are smallest.
pub(super) const PAGE: usize = 4096;

/// Has the address of a page looked up before [`prefetch`] comes there, which on Zen 4 does nothing where it is not at hand.
/// A prefetch into the first-level cache waits for it; the line that it brings will be wanted anyway.
#[inline(always)]
pub(super) fn look_up_page<T>(address: *const T) {
    // SAFETY: as in `prefetch`.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_line(from: &[u8; 64]) -> __m512i {
    // SAFETY: the reference covers the 64 bytes that are read; the instruction wants no alignment.
    unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_halves(from: &[u8; 32]) -> __m256i {
    // SAFETY: the reference covers the 32 bytes that are read; the instruction wants no alignment.
    unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
}

/// Sixteen doubles, rounded to floats.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn load_doubles(from: &[u8; 128]) -> __m512 {
    let [low, high] = [0, 64].map(|start| _mm512_cvtpd_ps(_mm512_castsi512_pd(load_line(part(from, start)))));
    _mm512_insertf32x8::<1>(_mm512_castps256_ps512(low), high)
}

/// Adds to the first floats of `to`, at most four.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
pub(super) fn add_to_floats(to: &mut [f32], floats: __m128) {
    if let Some(to) = to.first_chunk_mut::<4>() {
        // SAFETY: the reference covers the 16 bytes that are read and written; the instructions want no alignment.
        return unsafe { _mm_storeu_ps(to.as_mut_ptr(), _mm_add_ps(_mm_loadu_ps(to.as_ptr()), floats)) };
    }
    let mask = (1_u8 << to.len()) - 1;
    // SAFETY: the mask has a bit for each element of the slice that is read and written, and no more.
    unsafe {
        let sums = _mm_add_ps(_mm_maskz_loadu_ps(mask, to.as_ptr()), floats);
        _mm_mask_storeu_ps(to.as_mut_ptr(), mask, sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Avx512;

    #[test]
    fn what_is_stored_is_what_was_loaded() {
        let Some(_) = Avx512::detect() else { return };
        let words: [u32; 16] = std::array::from_fn(|i| 0x0102_0304 * i as u32);
        let floats: [f32; 16] = std::array::from_fn(|i| i as f32);
        let (mut words_back, mut floats_back, mut quarter) = ([0; 16], [0.0; 16], [0; 4]);
        // SAFETY: the machine has the instructions, as was just asked.
        unsafe {
            store_words(&mut words_back, load_words(&words));
            store_floats(&mut floats_back, load_floats(&floats));
            store_quarter(&mut quarter, load_quarter(&[7; 16]));
        }
        assert_eq!((words_back, floats_back), (words, floats));
        assert_eq!(quarter, [0x0707_0707; 4]);
    }

    #[test]
    fn what_is_known_later_is_the_same() {
        let Some(_) = Avx512::detect() else { return };
        let number = 7;
        // SAFETY: the machine has the instructions, as was just asked.
        let later = unsafe { known_after(&number, [_mm512_setzero_si512(); 3]) };
        assert!(std::ptr::eq(later, &number));
    }

    #[test]
    fn elements_of_other_sizes_are_widened() {
        let Some(_) = Avx512::detect() else { return };
        let doubles: Vec<u8> = (0..16).flat_map(|i| f64::from(i).to_le_bytes()).collect();
        let halves: Vec<u8> = (0..16_u16).flat_map(u16::to_le_bytes).collect();
        let (mut floats, mut words) = ([0.0; 16], [0; 16]);
        // SAFETY: the machine has the instructions, as was just asked.
        unsafe {
            store_floats(&mut floats, load_doubles(part(&doubles, 0)));
            store_words(&mut words, _mm512_cvtepu16_epi32(load_halves(part(&halves, 0))));
        }
        assert_eq!(floats, std::array::from_fn(|i| i as f32));
        assert_eq!(words, std::array::from_fn(|i| i as u32));
    }

    #[test]
    fn sums_are_added_to_no_more_floats_than_there_are() {
        let Some(_) = Avx512::detect() else { return };
        for len in 0..=5 {
            let mut to = [1.0; 6];
            // SAFETY: the machine has the instructions, as was just asked.
            unsafe { add_to_floats(&mut to[..len], _mm_set1_ps(2.0)) };
            let expected = std::array::from_fn(|i| if i < len.min(4) { 3.0 } else { 1.0 });
            assert_eq!(to, expected, "{len}");
        }
    }

    #[test]
    fn any_address_can_be_prefetched() {
        prefetch(std::ptr::null::<u8>());
        prefetch(&0_u8);
        look_up_page(std::ptr::null::<u8>());
    }
}
