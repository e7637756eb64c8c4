//! Groups in registers: 32 codes of one byte, and what makes weights of them. An encoding says how to get these from its
//! bytes; products and decoding follow.

use std::arch::x86_64::*;

use super::register::store_floats;
use crate::kernels::groups::{ELEMENTS, for_each_group};

/// The weights of 32 elements: `scale * (code - OFFSET)`, or `scale * code + bias` where the encoding has no offset.
#[derive(Clone, Copy)]
pub(super) struct Group {
    /// One code in each byte, in the order of the elements; bits outside `MASK` mean nothing.
    pub(super) codes: __m256i,
    /// The scale of elements 0..16 in the lower four lanes, that of 16..32 in the upper four.
    pub(super) scale: __m256,
    /// What is added, in the same lanes. Not used with an offset.
    pub(super) bias: __m256,
}

/// Decodes blocks.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn decode<const BYTES: usize, const GROUPS: usize, const OFFSET: i32, const MASK: i32, Header>(
    header: impl Fn(&[u8; BYTES]) -> (Header, __m256),
    group: impl Fn(&[u8; BYTES], &Header, usize) -> Group,
    bytes: &[u8],
    out: &mut [f32],
) {
    let blocks = bytes.as_chunks::<BYTES>().0;
    let groups = out.as_chunks_mut::<ELEMENTS>().0.as_chunks_mut::<GROUPS>().0;
    for (block, out) in blocks.iter().zip(groups) {
        let (header, _) = header(block);
        for_each_group!(GROUPS, g, {
            let Group { codes, scale, bias } = group(block, &header, g);
            let codes = _mm256_and_si256(codes, _mm256_set1_epi8(MASK as i8));
            let halves = [_mm256_castsi256_si128(codes), _mm256_extracti128_si256::<1>(codes)];
            let scales = [_mm256_permute2f128_ps::<0x00>(scale, scale), _mm256_permute2f128_ps::<0x11>(scale, scale)];
            let biases = [_mm256_permute2f128_ps::<0x00>(bias, bias), _mm256_permute2f128_ps::<0x11>(bias, bias)];
            for (i, out) in out[g].as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let half = halves[i / 2];
                let eight = if i % 2 == 0 { half } else { _mm_unpackhi_epi64(half, half) };
                let codes = _mm256_sub_epi32(_mm256_cvtepu8_epi32(eight), _mm256_set1_epi32(OFFSET));
                // Not fused: the result must be that of the formula in `blocks`.
                let scaled = _mm256_mul_ps(scales[i / 2], _mm256_cvtepi32_ps(codes));
                store_floats(out, if OFFSET == 0 { _mm256_add_ps(scaled, biases[i / 2]) } else { scaled });
            }
        });
    }
}
