//! Blocks of 32 elements: see `blocks::block32` for the layouts.

use std::arch::x86_64::*;

use super::groups::Group;
use super::register::{
    broadcast_half, load_floats, load_half_bytes, load_quarter_bytes, prefetch_after, store_floats, sum,
};
use crate::blocks::part;

/// Scale and bias of a block, in all lanes.
pub(super) type ScaleAndBias = (__m256, __m256);

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn scale(block: &[u8]) -> (ScaleAndBias, __m256) {
    let none = _mm256_setzero_ps();
    ((broadcast_half(part(block, 0)), none), none)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn scale_and_bias(block: &[u8]) -> (ScaleAndBias, __m256) {
    let bias = broadcast_half(part(block, 2));
    ((broadcast_half(part(block, 0)), bias), bias)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q4_0(block: &[u8; 18], (scale, bias): ScaleAndBias) -> Group {
    Group { codes: nibbles(part(block, 2)), scale, bias }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q4_1(block: &[u8; 20], (scale, bias): ScaleAndBias) -> Group {
    Group { codes: nibbles(part(block, 4)), scale, bias }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q5_0(block: &[u8; 22], (scale, bias): ScaleAndBias) -> Group {
    Group { codes: five_bits(part(block, 2), part(block, 6)), scale, bias }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q5_1(block: &[u8; 24], (scale, bias): ScaleAndBias) -> Group {
    Group { codes: five_bits(part(block, 4), part(block, 8)), scale, bias }
}

/// The low nibbles in the lower half, the high ones in the upper; above each nibble lies what was there.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn nibbles(bytes: &[u8; 16]) -> __m256i {
    let twice = _mm256_broadcastsi128_si256(load_half_bytes(bytes));
    _mm256_srlv_epi32(twice, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4))
}

/// Nibbles with the fifth bits above them: bit i belongs to nibble i.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn five_bits(fifth: &[u8; 4], low: &[u8; 16]) -> __m256i {
    let bits = _mm256_set1_epi32(i32::from_le_bytes(*fifth));
    // Eight copies of each byte, then a different bit of each copy.
    let source = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
    let single = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    let set = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(bits, source), single), single);
    let low = _mm256_and_si256(nibbles(low), _mm256_set1_epi8(15));
    _mm256_or_si256(low, _mm256_andnot_si256(_mm256_set1_epi8(15), set))
}

/// Q8_0 has signed codes, which cost one conversion more but need no offset; tokens stay as they are.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot_rows_q8_0(bytes: &[u8], x: &[f32], y: &mut [f32]) {
    let x = x.as_chunks::<32>().0;
    for (row, y) in bytes.chunks_exact(bytes.len() / y.len()).zip(y) {
        let mut products = _mm256_setzero_ps();
        for (block, x) in row.as_chunks::<34>().0.iter().zip(x) {
            prefetch_after(block);
            let mut dot = _mm256_setzero_ps();
            for (i, x) in x.as_chunks::<8>().0.iter().enumerate() {
                dot = _mm256_fmadd_ps(signed_codes(part(block, 2 + 8 * i)), load_floats(x), dot);
            }
            products = _mm256_fmadd_ps(broadcast_half(part(block, 0)), dot, products);
        }
        *y = sum(products);
    }
}

/// I8_1 has a minimum, which the sum of the token's elements is multiplied by.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot_rows_i8_1(bytes: &[u8], x: &[f32], y: &mut [f32]) {
    let x = x.as_chunks::<32>().0;
    for (row, y) in bytes.chunks_exact(bytes.len() / y.len()).zip(y) {
        let mut products = _mm256_setzero_ps();
        for (block, x) in row.as_chunks::<36>().0.iter().zip(x) {
            prefetch_after(block);
            let (mut dot, mut total) = (_mm256_setzero_ps(), _mm256_setzero_ps());
            for (i, x) in x.as_chunks::<8>().0.iter().enumerate() {
                let codes = _mm256_cvtepu8_epi32(load_quarter_bytes(part(block, 4 + 8 * i)));
                dot = _mm256_fmadd_ps(_mm256_cvtepi32_ps(codes), load_floats(x), dot);
                total = _mm256_add_ps(total, load_floats(x));
            }
            products = _mm256_fmadd_ps(broadcast_half(part(block, 0)), dot, products);
            products = _mm256_fmadd_ps(broadcast_half(part(block, 2)), total, products);
        }
        *y = sum(products);
    }
}

/// Decodes Q8_0.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn decode_q8_0(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.as_chunks::<34>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        let scale = broadcast_half(part(block, 0));
        for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            store_floats(out, _mm256_mul_ps(scale, signed_codes(part(block, 2 + 8 * i))));
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn signed_codes(bytes: &[u8; 8]) -> __m256 {
    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load_quarter_bytes(bytes)))
}
