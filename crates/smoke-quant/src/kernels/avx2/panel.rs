//! Products of unpacked panels, in tiles that fit the sixteen registers.

use std::arch::x86_64::*;

use super::register::{add_to_floats, load_floats, store_floats, sums};
use crate::output::Piece;

/// Rows of a panel: with the elements of three tokens they fill three quarters of a first-level cache of 32 KiB.
pub(super) const ROWS: usize = 8;
/// Rows of a tile, and tokens: 4 × 3 sums, 3 tokens and a row make 16 registers.
const TILE_ROWS: usize = 4;
const TILE_TOKENS: usize = 3;

/// See [`Kernels::panel_dot`](crate::kernels::Kernels::panel_dot).
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot(panel: &[f32], x: &[f32], depth: usize, first_token: usize, first_row: usize, y: &mut Piece<'_>) {
    for (t, x) in x.chunks(TILE_TOKENS * depth).enumerate() {
        let token = first_token + t * TILE_TOKENS;
        for (i, rows) in panel.chunks(TILE_ROWS * depth).enumerate() {
            let first = first_row + i * TILE_ROWS;
            let range = first..first + rows.len() / depth;
            match x.len() / depth {
                1 => dot_tile::<1>(rows, x, depth, range, y.tokens_from(token)),
                2 => dot_tile::<2>(rows, x, depth, range, y.tokens_from(token)),
                _ => dot_tile::<3>(rows, x, depth, range, y.tokens_from(token)),
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot_tile<const TOKENS: usize>(
    rows: &[f32],
    x: &[f32],
    depth: usize,
    range: std::ops::Range<usize>,
    y: [&mut [f32]; TOKENS],
) {
    // Where the panel ends within the tile, the last row is taken again and its sums are not written.
    let rows: [&[[f32; 8]]; TILE_ROWS] = std::array::from_fn(|r| eights(rows, r.min(range.len() - 1), depth));
    let x: [&[[f32; 8]]; TOKENS] = std::array::from_fn(|t| eights(x, t, depth));
    let mut products = [[_mm256_setzero_ps(); TILE_ROWS]; TOKENS];
    for i in 0..depth / 8 {
        let x = x.map(|x| load_floats(&x[i]));
        for r in 0..TILE_ROWS {
            let w = load_floats(&rows[r][i]);
            for t in 0..TOKENS {
                products[t][r] = _mm256_fmadd_ps(w, x[t], products[t][r]);
            }
        }
    }
    for (y, products) in y.into_iter().zip(products) {
        add_to_floats(&mut y[range.clone()], sums(products));
    }
}

/// Row `i` of rows that are `depth` long.
#[inline(always)]
fn eights(rows: &[f32], i: usize, depth: usize) -> &[[f32; 8]] {
    &rows[i * depth..][..depth / 8 * 8].as_chunks().0[..depth / 8]
}

/// See [`Kernels::panel_scale`](crate::kernels::Kernels::panel_scale).
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn scale(panel: &[f32], width: usize, x: &[f32], x_stride: usize, first_column: usize, y: &mut Piece<'_>) {
    for first in (0..y.tokens()).step_by(TILE_TOKENS) {
        let x = &x[first * x_stride..];
        match y.tokens() - first {
            1 => scale_tiles(panel, width, x, x_stride, first_column, y.tokens_from::<1>(first)),
            2 => scale_tiles(panel, width, x, x_stride, first_column, y.tokens_from::<2>(first)),
            _ => scale_tiles(panel, width, x, x_stride, first_column, y.tokens_from::<3>(first)),
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scale_tiles<const TOKENS: usize>(
    panel: &[f32],
    width: usize,
    x: &[f32],
    x_stride: usize,
    first_column: usize,
    y: [&mut [f32]; TOKENS],
) {
    const TILE: usize = 32;
    let rows = panel.len() / width;
    let x: [&[f32]; TOKENS] = std::array::from_fn(|t| &x[t * x_stride..][..rows]);
    let mut y = y.map(|y| &mut y[first_column..][..width]);
    let whole = width / TILE * TILE;
    for start in (0..whole).step_by(TILE) {
        let mut sums = [[_mm256_setzero_ps(); TILE / 8]; TOKENS];
        for (r, row) in panel.chunks_exact(width).enumerate() {
            let w = &row[start..][..TILE];
            let factors = x.map(|x| _mm256_set1_ps(x[r]));
            for (i, w) in w.as_chunks::<8>().0.iter().enumerate() {
                let w = load_floats(w);
                for t in 0..TOKENS {
                    sums[t][i] = _mm256_fmadd_ps(w, factors[t], sums[t][i]);
                }
            }
        }
        for (y, sums) in y.iter_mut().zip(sums) {
            for (y, sum) in y[start..][..TILE].as_chunks_mut::<8>().0.iter_mut().zip(sums) {
                let total = _mm256_add_ps(load_floats(y), sum);
                store_floats(y, total);
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
