//! Blocks of 256 elements: see `blocks::block256` for the layouts.

use std::arch::x86_64::*;

use super::groups::Group;
use super::register::{broadcast_half, load_bytes, load_half_bytes, load_quarter_bytes, store_floats};
use crate::blocks::{part, scales_and_minima};

/// Scales and biases of the eight groups of a Q4_K or Q5_K block.
pub(super) struct ScalesAndBiases {
    scales: [f32; 8],
    biases: [f32; 8],
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn scales_and_biases(block: &[u8]) -> (ScalesAndBiases, __m256) {
    let (scales, minima) = scales_and_minima(part(block, 4));
    let scale = broadcast_half(part(block, 0));
    let minimum = _mm256_sub_ps(_mm256_setzero_ps(), broadcast_half(part(block, 2)));
    let widen = |bytes| _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(load_quarter_bytes(bytes)));
    let mut header = ScalesAndBiases { scales: [0.0; 8], biases: [0.0; 8] };
    let biases = _mm256_mul_ps(minimum, widen(&minima));
    store_floats(&mut header.scales, _mm256_mul_ps(scale, widen(&scales)));
    store_floats(&mut header.biases, biases);
    (in_memory(header), biases)
}

/// Keeps the compiler from taking scales out of a register by shuffles, of which the processor does one or two a cycle;
/// from memory they are broadcast for nothing.
#[inline(always)]
fn in_memory<T>(scales: T) -> T {
    std::hint::black_box(scales)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q4_k(block: &[u8; 144], header: &ScalesAndBiases, g: usize) -> Group {
    Group {
        codes: nibbles(load_bytes(part(block, 16 + g / 2 * 32)), g % 2 == 1),
        scale: _mm256_set1_ps(header.scales[g]),
        bias: _mm256_set1_ps(header.biases[g]),
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q5_k(block: &[u8; 176], header: &ScalesAndBiases, g: usize) -> Group {
    let low = _mm256_and_si256(nibbles(load_bytes(part(block, 48 + g / 2 * 32)), g % 2 == 1), _mm256_set1_epi8(15));
    // Bit g of each byte becomes bit 4; what crosses into the next byte is masked away.
    let fifth = _mm256_and_si256(shift(load_bytes(part(block, 16)), 4 - g as i32), _mm256_set1_epi8(16));
    Group {
        codes: _mm256_or_si256(low, fifth),
        scale: _mm256_set1_ps(header.scales[g]),
        bias: _mm256_set1_ps(header.biases[g]),
    }
}

/// The scales of the sixteen sub-blocks of a Q6_K block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn scales(block: &[u8; 210]) -> ([f32; 16], __m256) {
    let scale = broadcast_half(part(block, 208));
    let codes = load_half_bytes(part(block, 192));
    let mut scales = [0.0; 16];
    let halves = scales.as_chunks_mut::<8>().0;
    store_floats(&mut halves[0], _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes))));
    let upper = _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(codes, codes));
    store_floats(&mut halves[1], _mm256_mul_ps(scale, _mm256_cvtepi32_ps(upper)));
    (in_memory(scales), _mm256_setzero_ps())
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q6_k(block: &[u8; 210], scales: &[f32; 16], g: usize) -> Group {
    let (half, quarter) = (g / 4, g % 4);
    let low = nibbles(load_bytes(part(block, 64 * half + 32 * (quarter % 2))), quarter >= 2);
    let low = _mm256_and_si256(low, _mm256_set1_epi8(15));
    // Bits 2q and 2q + 1 of each byte become bits 4 and 5.
    let high = shift(load_bytes(part(block, 128 + 32 * half)), 4 - 2 * quarter as i32);
    Group {
        codes: _mm256_or_si256(low, _mm256_and_si256(high, _mm256_set1_epi8(0x30))),
        scale: _mm256_blend_ps::<0xf0>(_mm256_set1_ps(scales[2 * g]), _mm256_set1_ps(scales[2 * g + 1])),
        bias: _mm256_setzero_ps(),
    }
}

/// Each byte with its high or its low nibble in the lower four bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn nibbles(bytes: __m256i, high: bool) -> __m256i {
    if high { _mm256_srli_epi32::<4>(bytes) } else { bytes }
}

/// Shifts up by so many bits, or down by as many as the number is negative.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn shift(bits: __m256i, up: i32) -> __m256i {
    let by = _mm256_set1_epi32(up.abs());
    if up >= 0 { _mm256_sllv_epi32(bits, by) } else { _mm256_srlv_epi32(bits, by) }
}
