//! What the encodings with unsigned codes have in common: 32 codes of one byte in a register, and what makes weights of
//! them. An encoding says how to get these from its bytes; products and decoding follow.

use std::arch::x86_64::*;

use smoke_core::Encoding;

use super::register::store_floats;

/// Elements of a group.
pub(super) const ELEMENTS: usize = 32;

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

/// Whether an encoding is made of groups. Codes of eight bits are not: see [`dot`](super::dot).
pub(super) fn has_groups(encoding: Encoding) -> bool {
    matches!(
        encoding,
        Encoding::Q4_0
            | Encoding::Q4_1
            | Encoding::Q5_0
            | Encoding::Q5_1
            | Encoding::Q4_K
            | Encoding::Q5_K
            | Encoding::Q6_K
    )
}

/// Whether the biases of a block's groups come as the lanes of one register.
pub(super) fn share_biases(encoding: Encoding) -> bool {
    matches!(encoding, Encoding::Q4_K | Encoding::Q5_K)
}

/// Calls `$function` with the layout of `$encoding`: its groups per block, offset and the mask of a code as constants, then
/// functions for what the groups of a block share (and, in a register, the biases: of the one group in all lanes, or of
/// the eight groups in a lane each) and for one group. To be used in functions compiled for the instructions, so that the
/// closures are too.
macro_rules! with_groups {
    ($encoding:expr, $($function:ident)::+($($argument:expr),*)) => {{
        use $crate::kernels::avx2::{block32, block256};
        match $encoding {
            Encoding::Q4_0 => $($function)::+::<_, 1, 8, 0x0f, _>(|b| block32::scale(b), |b, h, _| block32::q4_0(b, *h), $($argument),*),
            Encoding::Q4_1 => $($function)::+::<_, 1, 0, 0x0f, _>(|b| block32::scale_and_bias(b), |b, h, _| block32::q4_1(b, *h), $($argument),*),
            Encoding::Q5_0 => $($function)::+::<_, 1, 16, 0x1f, _>(|b| block32::scale(b), |b, h, _| block32::q5_0(b, *h), $($argument),*),
            Encoding::Q5_1 => $($function)::+::<_, 1, 0, 0x1f, _>(|b| block32::scale_and_bias(b), |b, h, _| block32::q5_1(b, *h), $($argument),*),
            Encoding::Q4_K => $($function)::+::<_, 8, 0, 0x0f, _>(|b| block256::scales_and_biases(b), |b, h, g| block256::q4_k(b, h, g), $($argument),*),
            Encoding::Q5_K => $($function)::+::<_, 8, 0, 0x1f, _>(|b| block256::scales_and_biases(b), |b, h, g| block256::q5_k(b, h, g), $($argument),*),
            Encoding::Q6_K => $($function)::+::<_, 8, 32, 0x3f, _>(|b| block256::scales(b), |b, h, g| block256::q6_k(b, h, g), $($argument),*),
            other => unreachable!("{other} has no groups"),
        }
    }};
}
pub(super) use with_groups;

/// Runs the body for each of 1 or 8 groups, written out: shifts and addresses become constants.
macro_rules! for_each_group {
    ($groups:expr, $g:ident, $body:block) => {
        for_each_group!(@one $g, $body, 0);
        if $groups == 8 {
            for_each_group!(@one $g, $body, 1);
            for_each_group!(@one $g, $body, 2);
            for_each_group!(@one $g, $body, 3);
            for_each_group!(@one $g, $body, 4);
            for_each_group!(@one $g, $body, 5);
            for_each_group!(@one $g, $body, 6);
            for_each_group!(@one $g, $body, 7);
        }
    };
    (@one $g:ident, $body:block, $number:literal) => {{
        let $g: usize = $number;
        $body
    }};
}
pub(super) use for_each_group;

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
