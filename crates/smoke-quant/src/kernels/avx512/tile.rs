//! Products with tiles of tokens: of panels, see [`IntegerKernels::multiply`](crate::kernels::IntegerKernels::multiply), and
//! the arithmetic of a group, which products without a panel share.

use std::arch::x86_64::*;

use super::register::{broadcast, broadcast_float, load_floats, load_words, store_floats};
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

/// Where the parts of a group of a token lie.
pub(super) const HIGH: usize = 0;
pub(super) const MIDDLE: usize = 8;
pub(super) const LOW: usize = 16;
pub(super) const SCALE: usize = 24;
pub(super) const SCALED_SUM: usize = 25;
/// Of the whole group, or of each half.
pub(super) const CORRECTIONS: usize = 26;
pub(super) const LOW_CORRECTIONS: usize = 28;

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn multiply_tokens<const TOKENS: usize>(layout: Layout, panel: &[u32], tile: &[u32], sums: &mut [[f32; ROWS]]) {
    let panel = panel.as_chunks::<ROWS>().0;
    match layout {
        Layout::Offset(_) => multiply_groups::<9, 8, false, TOKENS>(panel, tile, sums),
        Layout::HalfOffset(_) => multiply_groups::<10, 4, false, TOKENS>(panel, tile, sums),
        Layout::Bias => multiply_groups::<10, 8, true, TOKENS>(panel, tile, sums),
    }
}

/// Adds the products of a group of sixteen rows with that of `TOKENS` tokens to their totals. `WORDS` words of the codes
/// share a scale; `BIASED` says whether biases follow. A macro, because a function so large would not be inlined, and
/// registers would go through memory.
macro_rules! add_group {
    ($tokens:ident, $words:ident, $biased:ident, $codes:expr, $scales:expr, $x:expr, $totals:ident) => {{
        use $crate::kernels::avx512::tile::{CORRECTIONS, HIGH, LOW, LOW_CORRECTIONS, MIDDLE, SCALE, SCALED_SUM};
        let (codes, scales, x): ([__m512i; 8], [__m512; 2], &[[u32; TOKEN_WORDS]; $tokens]) = ($codes, $scales, $x);
        for part in 0..8 / $words {
            let words = part * $words;
            let mut high = [_mm512_setzero_si512(); $tokens];
            let mut middle = [_mm512_setzero_si512(); $tokens];
            let mut low = [_mm512_setzero_si512(); $tokens];
            if !$biased {
                for t in 0..$tokens {
                    middle[t] = broadcast(x[t][CORRECTIONS + part]);
                    low[t] = broadcast(x[t][LOW_CORRECTIONS + part]);
                }
            }
            // With few tokens the bytes take turns, which keeps one instruction from waiting for another.
            for i in words..words + $words {
                for t in 0..$tokens {
                    high[t] = _mm512_dpbusd_epi32(high[t], codes[i], broadcast(x[t][HIGH + i]));
                    if $tokens <= 4 {
                        middle[t] = _mm512_dpbusd_epi32(middle[t], codes[i], broadcast(x[t][MIDDLE + i]));
                    }
                    if $tokens <= 2 {
                        low[t] = _mm512_dpbusd_epi32(low[t], codes[i], broadcast(x[t][LOW + i]));
                    }
                }
            }
            for t in 0..$tokens {
                middle[t] = _mm512_add_epi32(middle[t], _mm512_slli_epi32::<8>(high[t]));
            }
            for i in words..words + $words {
                for t in 0..$tokens {
                    if $tokens > 4 {
                        middle[t] = _mm512_dpbusd_epi32(middle[t], codes[i], broadcast(x[t][MIDDLE + i]));
                    }
                }
            }
            let mut upper = [_mm512_setzero_ps(); $tokens];
            for t in 0..$tokens {
                upper[t] = _mm512_cvtepi32_ps(middle[t]);
            }
            for i in words..words + $words {
                for t in 0..$tokens {
                    if $tokens > 2 {
                        low[t] = _mm512_dpbusd_epi32(low[t], codes[i], broadcast(x[t][LOW + i]));
                    }
                }
            }
            for t in 0..$tokens {
                let sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(low[t]), _mm512_set1_ps(1.0 / 256.0), upper[t]);
                let scaled = _mm512_mul_ps(sum, scales[part]);
                $totals[t] = _mm512_fmadd_ps(scaled, broadcast_float(x[t][SCALE]), $totals[t]);
            }
        }
        if $biased {
            for t in 0..$tokens {
                $totals[t] = _mm512_fmadd_ps(scales[1], broadcast_float(x[t][SCALED_SUM]), $totals[t]);
            }
        }
    }};
}
pub(super) use add_group;

/// Groups of `VECTORS` vectors: eight of codes, scales, and what goes with them.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn multiply_groups<const VECTORS: usize, const WORDS: usize, const BIASED: bool, const TOKENS: usize>(
    panel: &[[u32; ROWS]],
    tile: &[u32],
    sums: &mut [[f32; ROWS]],
) {
    let sums: &mut [[f32; ROWS]; TOKENS] = sums.first_chunk_mut().expect("there are so many tokens");
    let tile = tile.as_chunks::<TOKEN_WORDS>().0.as_chunks::<TOKENS>().0;
    let mut totals = [_mm512_setzero_ps(); TOKENS];
    for t in 0..TOKENS {
        totals[t] = load_floats(&sums[t]);
    }
    for (group, x) in panel.as_chunks::<VECTORS>().0.iter().zip(tile) {
        let mut codes = [_mm512_setzero_si512(); 8];
        for i in 0..8 {
            codes[i] = load_words(&group[i]);
        }
        let mut scales = [_mm512_setzero_ps(); 2];
        for i in 8..VECTORS {
            scales[i - 8] = _mm512_castsi512_ps(load_words(&group[i]));
        }
        add_group!(TOKENS, WORDS, BIASED, codes, scales, x, totals);
    }
    for t in 0..TOKENS {
        store_floats(&mut sums[t], totals[t]);
    }
}
