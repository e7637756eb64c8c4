//! Tokens as integers: see [`IntegerKernels::quantize`](crate::kernels::IntegerKernels::quantize).

use std::arch::x86_64::*;

use super::register::{load_floats, store_quarter};
use crate::kernels::integer::{GROUP, LARGEST, Layout, TOKEN_WORDS};

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn quantize(x: &[f32], layout: Layout, stride: usize, words: &mut [u32]) {
    for (x, words) in x.as_chunks::<GROUP>().0.iter().zip(words.chunks_mut(stride)) {
        let words: &mut [u32; TOKEN_WORDS] = words.first_chunk_mut().expect("a group has room");
        let halves = x.as_chunks::<16>().0;
        let [a, b] = [load_floats(&halves[0]), load_floats(&halves[1])];
        let largest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
        // The maximum passes over a NaN, which this product does not.
        let finite = _mm512_reduce_add_ps(_mm512_mul_ps(_mm512_add_ps(a, b), _mm512_setzero_ps())) == 0.0;
        let inverse = LARGEST / largest;
        // Without a finite inverse the elements are zeros, or next to it.
        let used = if finite && inverse.is_finite() { 0xffff } else { 0 };
        let scale = if finite { largest / LARGEST } else { f32::NAN };
        let [a, b] = [a, b].map(|half| _mm512_maskz_cvtps_epi32(used, _mm512_mul_ps(half, _mm512_set1_ps(inverse))));
        let high = |half| _mm512_srai_epi32::<8>(_mm512_add_epi32(half, _mm512_set1_epi32(128)));
        let quarters = words.as_chunks_mut::<4>().0;
        store_quarter(&mut quarters[0], _mm512_cvtepi32_epi8(high(a)));
        store_quarter(&mut quarters[1], _mm512_cvtepi32_epi8(high(b)));
        store_quarter(&mut quarters[2], _mm512_cvtepi32_epi8(a));
        store_quarter(&mut quarters[3], _mm512_cvtepi32_epi8(b));
        let sums = [a, b].map(|half| _mm512_reduce_add_epi32(half));
        words[16] = scale.to_bits();
        words[17] = (scale * (sums[0] + sums[1]) as f32).to_bits();
        let [first, second] = match layout {
            Layout::Offset(offset) => [-offset * (sums[0] + sums[1]), 0],
            Layout::HalfOffset(offset) => sums.map(|sum| -offset * sum),
            Layout::Bias => [0, 0],
        };
        words[18] = first.cast_unsigned();
        words[19] = second.cast_unsigned();
    }
}
