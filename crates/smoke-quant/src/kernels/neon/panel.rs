//! Products of unpacked panels, in tiles that fit the thirty-two registers.

use std::arch::aarch64::*;
use std::ops::Range;

use super::register::{add_to_floats, load_floats, store_floats, sums};
use crate::output::Piece;

/// Rows of a panel: with the elements of a tile's tokens they fill three quarters of a first-level cache of 32 KiB.
pub(super) const ROWS: usize = 8;
/// Rows of a tile, and tokens: 4 × 4 sums, 4 tokens and a row make 21 registers.
const TILE_ROWS: usize = 4;
const TILE_TOKENS: usize = 4;
/// Elements of a register.
const LANES: usize = 4;

/// See [`Kernels::panel_dot`](crate::kernels::Kernels::panel_dot).
#[target_feature(enable = "neon")]
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
                _ => dot_tile::<4>(rows, x, depth, range, y.tokens_from(token)),
            }
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn dot_tile<const TOKENS: usize>(rows: &[f32], x: &[f32], depth: usize, range: Range<usize>, y: [&mut [f32]; TOKENS]) {
    // Where the panel ends within the tile, the last row is taken again and its sums are not written.
    let rows: [&[[f32; LANES]]; TILE_ROWS] = std::array::from_fn(|r| fours(rows, r.min(range.len() - 1), depth));
    let x: [&[[f32; LANES]]; TOKENS] = std::array::from_fn(|t| fours(x, t, depth));
    let mut products = [[vdupq_n_f32(0.0); TILE_ROWS]; TOKENS];
    for i in 0..depth / LANES {
        let x = x.map(|x| load_floats(&x[i]));
        for r in 0..TILE_ROWS {
            let w = load_floats(&rows[r][i]);
            for t in 0..TOKENS {
                products[t][r] = vfmaq_f32(products[t][r], w, x[t]);
            }
        }
    }
    for (y, products) in y.into_iter().zip(products) {
        add_to_floats(&mut y[range.clone()], sums(products));
    }
}

/// Row `i` of rows that are `depth` long.
#[inline(always)]
fn fours(rows: &[f32], i: usize, depth: usize) -> &[[f32; LANES]] {
    &rows[i * depth..][..depth / LANES * LANES].as_chunks().0[..depth / LANES]
}

/// See [`Kernels::panel_scale`](crate::kernels::Kernels::panel_scale).
#[target_feature(enable = "neon")]
pub(super) fn scale(panel: &[f32], width: usize, x: &[f32], x_stride: usize, first_column: usize, y: &mut Piece<'_>) {
    for first in (0..y.tokens()).step_by(TILE_TOKENS) {
        let x = &x[first * x_stride..];
        match y.tokens() - first {
            1 => scale_tiles(panel, width, x, x_stride, first_column, y.tokens_from::<1>(first)),
            2 => scale_tiles(panel, width, x, x_stride, first_column, y.tokens_from::<2>(first)),
            3 => scale_tiles(panel, width, x, x_stride, first_column, y.tokens_from::<3>(first)),
            _ => scale_tiles(panel, width, x, x_stride, first_column, y.tokens_from::<4>(first)),
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
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
        let mut sums = [[vdupq_n_f32(0.0); REGISTERS]; TOKENS];
        for (r, row) in panel.chunks_exact(width).enumerate() {
            let row = row[start..][..TILE].as_chunks::<LANES>().0;
            for i in 0..REGISTERS {
                let w = load_floats(&row[i]);
                for t in 0..TOKENS {
                    sums[t][i] = vfmaq_n_f32(sums[t][i], w, x[t][r]);
                }
            }
        }
        for (y, sums) in y.iter_mut().zip(sums) {
            for (y, sum) in y[start..][..TILE].as_chunks_mut::<LANES>().0.iter_mut().zip(sums) {
                let total = vaddq_f32(load_floats(y), sum);
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
