//! Products of unpacked panels, in tiles that fit the thirty-two registers.

use std::arch::x86_64::*;
use std::ops::Range;

use super::register::{add_to_floats, load_floats, store_floats};
use crate::output::Piece;

/// Rows of a panel: with the elements of a tile's tokens they fill a first-level cache of 32 KiB but for an eighth.
pub(super) const ROWS: usize = 8;
/// Rows of a tile, and tokens: 4 × 6 sums, 4 rows and a token make 29 registers.
const TILE_ROWS: usize = 4;
const TILE_TOKENS: usize = 6;
/// Elements of a register.
const LANES: usize = 16;

/// See [`Kernels::panel_dot`](crate::kernels::Kernels::panel_dot).
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn dot(panel: &[f32], x: &[f32], depth: usize, first_token: usize, first_row: usize, y: &mut Piece<'_>) {
    for (t, x) in x.chunks(TILE_TOKENS * depth).enumerate() {
        let token = first_token + t * TILE_TOKENS;
        for (i, rows) in panel.chunks(TILE_ROWS * depth).enumerate() {
            let first = first_row + i * TILE_ROWS;
            let range = first..first + rows.len() / depth;
            match x.len() / depth {
                1 => dot_tile::<1>(rows, x, depth, range, y.tokens_from(token)),
                2 => dot_tile::<2>(rows, x, depth, range, y.tokens_from(token)),
                3 => dot_tile::<3>(rows, x, depth, range, y.tokens_from(token)),
                4 => dot_tile::<4>(rows, x, depth, range, y.tokens_from(token)),
                5 => dot_tile::<5>(rows, x, depth, range, y.tokens_from(token)),
                _ => dot_tile::<6>(rows, x, depth, range, y.tokens_from(token)),
            }
        }
    }
}

#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn dot_tile<const TOKENS: usize>(rows: &[f32], x: &[f32], depth: usize, range: Range<usize>, y: [&mut [f32]; TOKENS]) {
    // Where the panel ends within the tile, the last row is taken again and its sums are not written.
    let rows: [&[[f32; LANES]]; TILE_ROWS] = std::array::from_fn(|r| lines(rows, r.min(range.len() - 1), depth));
    let x: [&[[f32; LANES]]; TOKENS] = std::array::from_fn(|t| lines(x, t, depth));
    let mut sums = [[_mm512_setzero_ps(); TILE_ROWS]; TOKENS];
    for i in 0..depth / LANES {
        let mut w = [_mm512_setzero_ps(); TILE_ROWS];
        for r in 0..TILE_ROWS {
            w[r] = load_floats(&rows[r][i]);
        }
        for t in 0..TOKENS {
            let x = load_floats(&x[t][i]);
            for r in 0..TILE_ROWS {
                sums[t][r] = _mm512_fmadd_ps(w[r], x, sums[t][r]);
            }
        }
    }
    for t in 0..TOKENS {
        add_to_floats(&mut y[t][range.clone()], sums_of_lanes(sums[t]));
    }
}

/// Row `i` of rows that are `depth` long.
#[inline(always)]
fn lines(rows: &[f32], i: usize, depth: usize) -> &[[f32; LANES]] {
    &rows[i * depth..][..depth / LANES * LANES].as_chunks().0[..depth / LANES]
}

/// The sums of the sixteen lanes of each of four registers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn sums_of_lanes([a, b, c, d]: [__m512; 4]) -> __m128 {
    let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    let low = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
    let abcd = _mm512_add_ps(low, _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
    let halves = _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps::<1>(abcd));
    _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves))
}

/// See [`Kernels::panel_scale`](crate::kernels::Kernels::panel_scale).
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn scale(panel: &[f32], width: usize, x: &[f32], x_stride: usize, first_column: usize, y: &mut Piece<'_>) {
    for first in (0..y.tokens()).step_by(TILE_TOKENS) {
        let x = &x[first * x_stride..];
        match y.tokens() - first {
            1 => scale_tiles(panel, width, x, x_stride, first_column, y.tokens_from::<1>(first)),
            2 => scale_tiles(panel, width, x, x_stride, first_column, y.tokens_from::<2>(first)),
            3 => scale_tiles(panel, width, x, x_stride, first_column, y.tokens_from::<3>(first)),
            4 => scale_tiles(panel, width, x, x_stride, first_column, y.tokens_from::<4>(first)),
            5 => scale_tiles(panel, width, x, x_stride, first_column, y.tokens_from::<5>(first)),
            _ => scale_tiles(panel, width, x, x_stride, first_column, y.tokens_from::<6>(first)),
        }
    }
}

#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn scale_tiles<const TOKENS: usize>(
    panel: &[f32],
    width: usize,
    x: &[f32],
    x_stride: usize,
    first_column: usize,
    y: [&mut [f32]; TOKENS],
) {
    const REGISTERS: usize = 4;
    const TILE: usize = REGISTERS * LANES;
    let rows = panel.len() / width;
    let x: [&[f32]; TOKENS] = std::array::from_fn(|t| &x[t * x_stride..][..rows]);
    let mut y = y.map(|y| &mut y[first_column..][..width]);
    let whole = width / TILE * TILE;
    for start in (0..whole).step_by(TILE) {
        let mut sums = [[_mm512_setzero_ps(); REGISTERS]; TOKENS];
        for (r, row) in panel.chunks_exact(width).enumerate() {
            let row = row[start..][..TILE].as_chunks::<LANES>().0;
            let mut w = [_mm512_setzero_ps(); REGISTERS];
            for i in 0..REGISTERS {
                w[i] = load_floats(&row[i]);
            }
            for t in 0..TOKENS {
                let factor = _mm512_set1_ps(x[t][r]);
                for i in 0..REGISTERS {
                    sums[t][i] = _mm512_fmadd_ps(w[i], factor, sums[t][i]);
                }
            }
        }
        for t in 0..TOKENS {
            let y = y[t][start..][..TILE].as_chunks_mut::<LANES>().0;
            for i in 0..REGISTERS {
                let total = _mm512_add_ps(load_floats(&y[i]), sums[t][i]);
                store_floats(&mut y[i], total);
            }
        }
    }
    for (r, row) in panel.chunks_exact(width).enumerate() {
        for (y, x) in y.iter_mut().zip(x) {
            for (y, w) in y[whole..].iter_mut().zip(&row[whole..]) {
                *y += w * x[r];
            }
        }
    }
}
