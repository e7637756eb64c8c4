//! Products of panels with tiles of tokens: see [`IntegerKernels::multiply`](crate::kernels::IntegerKernels::multiply).

use std::arch::x86_64::*;

use super::register::{broadcast, broadcast_float, load_floats, load_words, store_floats};
use crate::blocks::part;
use crate::kernels::integer::{Layout, ROWS, TOKEN_WORDS};

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn multiply(layout: Layout, panel: &[u32], tile: &[u32], sums: &mut [[f32; ROWS]]) {
    match sums.len() {
        1 => multiply_tokens::<1>(layout, panel, tile, sums),
        2 => multiply_tokens::<2>(layout, panel, tile, sums),
        3 => multiply_tokens::<3>(layout, panel, tile, sums),
        4 => multiply_tokens::<4>(layout, panel, tile, sums),
        5 => multiply_tokens::<5>(layout, panel, tile, sums),
        6 => multiply_tokens::<6>(layout, panel, tile, sums),
        7 => multiply_tokens::<7>(layout, panel, tile, sums),
        8 => multiply_tokens::<8>(layout, panel, tile, sums),
        other => unreachable!("a tile has one to eight tokens, not {other}"),
    }
}

/// A group of a tile of tokens.
type Tokens<const TOKENS: usize> = [[u32; TOKEN_WORDS]; TOKENS];
/// A vector of a panel: a word of every row.
type Vector = [u32; ROWS];

/// Where the parts of a group of a token lie.
const HIGH: usize = 0;
const LOW: usize = 8;
const SCALE: usize = 16;
const SCALED_SUM: usize = 17;
const CORRECTION: usize = 18;
const SECOND_CORRECTION: usize = 19;

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn multiply_tokens<const TOKENS: usize>(layout: Layout, panel: &[u32], tile: &[u32], sums: &mut [[f32; ROWS]]) {
    let sums: &mut [[f32; ROWS]; TOKENS] = sums.first_chunk_mut().expect("there are so many tokens");
    let tile = tile.as_chunks::<TOKEN_WORDS>().0.as_chunks::<TOKENS>().0;
    let panel = panel.as_chunks::<ROWS>().0;
    let mut totals: [__m512; TOKENS] = std::array::from_fn(|t| load_floats(&sums[t]));
    match layout {
        Layout::Offset(_) => {
            for (group, x) in panel.as_chunks::<9>().0.iter().zip(tile) {
                let dots = dots::<8, TOKENS>(part(group, 0), x, 0);
                add_scaled(&mut totals, &group[8], dots, x, |x| x[CORRECTION]);
            }
        }
        Layout::HalfOffset(_) => {
            for (group, x) in panel.as_chunks::<10>().0.iter().zip(tile) {
                let first = dots::<4, TOKENS>(part(group, 0), x, 0);
                // The correction of the first half is what the second half's leaves of the whole group's.
                add_scaled(&mut totals, &group[8], first, x, |x| x[CORRECTION].wrapping_sub(x[SECOND_CORRECTION]));
                let second = dots::<4, TOKENS>(part(group, 4), x, 4);
                add_scaled(&mut totals, &group[9], second, x, |x| x[SECOND_CORRECTION]);
            }
        }
        Layout::Bias => {
            for (group, x) in panel.as_chunks::<10>().0.iter().zip(tile) {
                let dots = dots::<8, TOKENS>(part(group, 0), x, 0);
                add_scaled(&mut totals, &group[8], dots, x, |_| 0);
                let biases = _mm512_castsi512_ps(load_words(&group[9]));
                for t in 0..TOKENS {
                    totals[t] = _mm512_fmadd_ps(biases, broadcast_float(x[t][SCALED_SUM]), totals[t]);
                }
            }
        }
    }
    for (sum, total) in sums.iter_mut().zip(totals) {
        store_floats(sum, total);
    }
}

/// The products of four elements for each of `N` vectors of codes with the words of every token from `first` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn dots<const N: usize, const TOKENS: usize>(
    codes: &[Vector; N],
    x: &Tokens<TOKENS>,
    first: usize,
) -> [__m512i; TOKENS] {
    let codes: [__m512i; N] = std::array::from_fn(|i| load_words(&codes[i]));
    let mut high = [_mm512_setzero_si512(); TOKENS];
    let mut low = [_mm512_setzero_si512(); TOKENS];
    for i in 0..N {
        for t in 0..TOKENS {
            high[t] = _mm512_dpbusd_epi32(high[t], codes[i], broadcast(x[t][HIGH + first + i]));
        }
    }
    if TOKENS > 4 {
        // One sum for both saves registers: there are enough tokens to fill the time until it is there.
        for t in 0..TOKENS {
            low[t] = _mm512_slli_epi32::<8>(high[t]);
        }
    }
    for i in 0..N {
        for t in 0..TOKENS {
            low[t] = _mm512_dpbusd_epi32(low[t], codes[i], broadcast(x[t][LOW + first + i]));
        }
    }
    if TOKENS > 4 {
        return low;
    }
    std::array::from_fn(|t| _mm512_add_epi32(_mm512_slli_epi32::<8>(high[t]), low[t]))
}

/// Adds integer products, put right, times the scales of the rows and that of the token.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn add_scaled<const TOKENS: usize>(
    totals: &mut [__m512; TOKENS],
    scales: &Vector,
    dots: [__m512i; TOKENS],
    x: &Tokens<TOKENS>,
    correction: impl Fn(&[u32; TOKEN_WORDS]) -> u32,
) {
    let scales = _mm512_castsi512_ps(load_words(scales));
    for t in 0..TOKENS {
        let dot = _mm512_cvtepi32_ps(_mm512_add_epi32(dots[t], broadcast(correction(&x[t]))));
        totals[t] = _mm512_fmadd_ps(_mm512_mul_ps(dot, scales), broadcast_float(x[t][SCALE]), totals[t]);
    }
}
