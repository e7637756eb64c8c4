//! Tokens as integers: see [`IntegerKernels::quantize`](crate::kernels::IntegerKernels::quantize).

use std::arch::x86_64::*;

use super::register::{load_floats, store_quarter};
use super::tile::{CORRECTIONS, LOW_CORRECTIONS, SCALE, SCALED_SUM};
use crate::kernels::integer::{GROUP, Layout, TOKEN_WORDS};

/// The largest magnitude of an element: with some room for rounding, its high byte is at most 127.
const LARGEST: f32 = 8_355_000.0;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn quantize(x: &[f32], layout: Layout, stride: usize, words: &mut [u32]) {
    for (x, words) in x.as_chunks::<GROUP>().0.iter().zip(words.chunks_mut(stride)) {
        let words: &mut [u32; TOKEN_WORDS] = words.first_chunk_mut().expect("a group has room");
        let halves = x.as_chunks::<16>().0;
        let [a, b] = [load_floats(&halves[0]), load_floats(&halves[1])];
        let largest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
        // The maximum passes over a NaN, which this product does not.
        let nothing = |half| _mm512_mul_ps(half, _mm512_setzero_ps());
        let finite = _mm512_reduce_add_ps(_mm512_add_ps(nothing(a), nothing(b))) == 0.0;
        let inverse = LARGEST / largest;
        // Without a finite inverse the elements are zeros, or next to it.
        let used = if finite && inverse.is_finite() { 0xffff } else { 0 };
        let scale = if finite { largest / LARGEST } else { f32::NAN };
        let [a, b] = [a, b].map(|half| _mm512_maskz_cvtps_epi32(used, _mm512_mul_ps(half, _mm512_set1_ps(inverse))));
        // The upper bytes that are left when the lowest one is signed.
        let upper = |half| _mm512_srai_epi32::<8>(_mm512_add_epi32(half, _mm512_set1_epi32(128)));
        let quarters = words.as_chunks_mut::<4>().0;
        for (i, half) in [a, b].into_iter().enumerate() {
            store_quarter(&mut quarters[i], _mm512_cvtepi32_epi8(upper(upper(half))));
            store_quarter(&mut quarters[2 + i], _mm512_cvtepi32_epi8(upper(half)));
            store_quarter(&mut quarters[4 + i], _mm512_cvtepi32_epi8(half));
        }
        let uppers = [a, b].map(|half| _mm512_reduce_add_epi32(upper(half)));
        let lows = [a, b].map(|half| _mm512_reduce_add_epi32(half));
        let lows = [lows[0] - 256 * uppers[0], lows[1] - 256 * uppers[1]];
        let total = 256 * (uppers[0] + uppers[1]) + lows[0] + lows[1];
        words[SCALE] = (256.0 * scale).to_bits();
        words[SCALED_SUM] = (scale * total as f32).to_bits();
        let corrections = |sums: [i32; 2]| match layout {
            Layout::Offset(offset) => [-offset * (sums[0] + sums[1]), 0],
            Layout::HalfOffset(offset) => sums.map(|sum| -offset * sum),
            Layout::Bias => [0, 0],
        };
        let [upper, low] = [corrections(uppers), corrections(lows)].map(|both| both.map(i32::cast_unsigned));
        words[CORRECTIONS..CORRECTIONS + 2].copy_from_slice(&upper);
        words[LOW_CORRECTIONS..LOW_CORRECTIONS + 2].copy_from_slice(&low);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{Avx512, IntegerKernels};

    fn quantized(x: &[f32; GROUP], layout: Layout) -> [u32; TOKEN_WORDS] {
        let mut words = [0; TOKEN_WORDS];
        Avx512::detect().expect("asked before").quantize(x, layout, TOKEN_WORDS, &mut words);
        words
    }

    fn integers(words: &[u32; TOKEN_WORDS]) -> Vec<i32> {
        let bytes = |start: usize| -> Vec<i32> {
            words[start..start + 8]
                .iter()
                .flat_map(|word| word.to_le_bytes())
                .map(|byte| i32::from(byte as i8))
                .collect()
        };
        let (high, middle, low) = (bytes(0), bytes(8), bytes(16));
        (0..GROUP).map(|i| 65_536 * high[i] + 256 * middle[i] + low[i]).collect()
    }

    /// The corrections of the upper bytes and of the low ones, put together.
    fn correction(words: &[u32; TOKEN_WORDS], half: usize) -> i32 {
        256 * words[CORRECTIONS + half].cast_signed() + words[LOW_CORRECTIONS + half].cast_signed()
    }

    #[test]
    fn elements_come_back_within_a_step() {
        if Avx512::detect().is_none() {
            return;
        }
        for largest in [1.0, -3.0e30, 1e-25] {
            let x: [f32; GROUP] =
                std::array::from_fn(|i| largest * (i as f32 / 31.0).powi(3) * if i % 3 == 0 { -1.0 } else { 1.0 });
            let words = quantized(&x, Layout::HalfOffset(4));
            let scale = f32::from_bits(words[SCALE]) / 256.0;
            let integers = integers(&words);
            for (x, integer) in x.iter().zip(&integers) {
                let back = f64::from(scale) * f64::from(*integer);
                // Half a step, and the rounding of the product by the inverse scale.
                assert!((f64::from(*x) - back).abs() <= 1.01 * f64::from(scale), "{x} became {integer} times {scale}");
            }
            let sums: Vec<i32> = integers.chunks(16).map(|half| half.iter().sum()).collect();
            assert_eq!(f32::from_bits(words[SCALED_SUM]), scale * (sums[0] + sums[1]) as f32);
            assert_eq!([0, 1].map(|half| correction(&words, half)), [-4 * sums[0], -4 * sums[1]]);
            let whole = quantized(&x, Layout::Offset(2));
            assert_eq!([0, 1].map(|half| correction(&whole, half)), [-2 * (sums[0] + sums[1]), 0]);
        }
    }

    #[test]
    fn the_largest_elements_fit_three_bytes() {
        if Avx512::detect().is_none() {
            return;
        }
        let x: [f32; GROUP] = std::array::from_fn(|i| if i % 2 == 0 { 5.0 } else { -5.0 });
        let expected: Vec<i32> = (0..32).map(|i| if i % 2 == 0 { 8_355_000 } else { -8_355_000 }).collect();
        assert_eq!(integers(&quantized(&x, Layout::Bias)), expected);
    }

    #[test]
    fn nothing_and_next_to_nothing_are_zeros_and_what_is_not_finite_is_not_hidden() {
        if Avx512::detect().is_none() {
            return;
        }
        for tiny in [0.0, 1e-40] {
            let words = quantized(&[tiny; GROUP], Layout::Bias);
            assert!(f32::from_bits(words[SCALE]).is_finite());
            assert_eq!(integers(&words), [0; GROUP]);
        }
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; GROUP];
            x[20] = bad;
            assert!(f32::from_bits(quantized(&x, Layout::Bias)[SCALE]).is_nan(), "{bad}");
        }
    }
}
