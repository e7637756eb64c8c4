use std::ops::Range;

use smoke_core::Encoding;

use super::Kernels;
use crate::blocks::with_block;
use crate::output::Piece;

/// Kernels in portable code: sums run in eight lanes, which the compiler makes vectors of where the target has them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalar;

/// Partial sums that run side by side.
type Lanes = [f32; 8];

impl Kernels for Scalar {
    fn decode(&self, encoding: Encoding, bytes: &[u8], out: &mut [f32]) {
        with_block!(encoding, decode_blocks(bytes, out));
    }

    fn few(&self) -> usize {
        2
    }

    fn dot_few(&self, encoding: Encoding, bytes: &[u8], x: &[f32], rows: Range<usize>, y: &mut Piece<'_>) {
        for (t, x) in x.chunks_exact(x.len() / y.tokens()).enumerate() {
            let bytes = bytes.chunks_exact(bytes.len() / rows.len());
            for (row, y) in bytes.zip(&mut y.token(t)[rows.clone()]) {
                *y = dot_row(encoding, row, x);
            }
        }
    }

    fn panel_rows(&self) -> usize {
        8
    }

    fn panel_dot(
        &self,
        panel: &[f32],
        x: &[f32],
        depth: usize,
        first_token: usize,
        first_row: usize,
        y: &mut Piece<'_>,
    ) {
        for (r, rows) in panel.chunks(4 * depth).enumerate() {
            let rows = rows.chunks_exact(depth);
            for (t, x) in x.chunks_exact(depth).enumerate() {
                let y = &mut y.token(first_token + t)[first_row + 4 * r..][..rows.len()];
                for (row, y) in rows.clone().zip(y) {
                    *y += dot(row, x);
                }
            }
        }
    }

    fn panel_scale(
        &self,
        panel: &[f32],
        width: usize,
        x: &[f32],
        x_stride: usize,
        first_column: usize,
        y: &mut Piece<'_>,
    ) {
        for t in 0..y.tokens() {
            let y = &mut y.token(t)[first_column..][..width];
            for (row, x) in panel.chunks_exact(width).zip(&x[t * x_stride..]) {
                for (y, w) in y.iter_mut().zip(row) {
                    *y += w * x;
                }
            }
        }
    }
}

/// Decodes with a block function. Always inlined, so that it is compiled anew for the instructions of its caller.
#[inline(always)]
pub(super) fn decode_blocks<const BYTES: usize, const ELEMENTS: usize>(
    block: impl Fn(&[u8; BYTES], &mut [f32; ELEMENTS]),
    bytes: &[u8],
    out: &mut [f32],
) {
    for (bytes, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        block(bytes, out);
    }
}

/// The product of one row with a token. Always inlined, as [`decode_blocks`] is.
#[inline(always)]
pub(super) fn dot_row(encoding: Encoding, row: &[u8], x: &[f32]) -> f32 {
    if encoding.block_elements() == 1 {
        with_block!(encoding, dot_elements(row, x))
    } else {
        with_block!(encoding, dot_blocks(row, x))
    }
}

/// The product of one row of blocks with a token.
#[inline(always)]
fn dot_blocks<const BYTES: usize, const ELEMENTS: usize>(
    block: impl Fn(&[u8; BYTES], &mut [f32; ELEMENTS]),
    bytes: &[u8],
    x: &[f32],
) -> f32 {
    let mut lanes = [0.0; 8];
    let mut values = [0.0; ELEMENTS];
    for (bytes, x) in bytes.as_chunks().0.iter().zip(x.as_chunks::<ELEMENTS>().0) {
        block(bytes, &mut values);
        add_products(&mut lanes, &values, x);
    }
    lanes.iter().sum()
}

/// The product of one row of single elements with a token.
#[inline(always)]
fn dot_elements<const BYTES: usize, const ELEMENTS: usize>(
    element: impl Fn(&[u8; BYTES], &mut [f32; ELEMENTS]),
    bytes: &[u8],
    x: &[f32],
) -> f32 {
    let mut lanes = [0.0; 8];
    let value = |bytes: &[u8; BYTES]| {
        let mut value = [0.0; ELEMENTS];
        element(bytes, &mut value);
        value[0]
    };
    let elements = bytes.as_chunks::<BYTES>().0;
    let (groups, rest) = elements.as_chunks::<8>();
    let (x_groups, x_rest) = x.as_chunks::<8>();
    for (group, x) in groups.iter().zip(x_groups) {
        for i in 0..8 {
            lanes[i] += value(&group[i]) * x[i];
        }
    }
    for ((element, x), lane) in rest.iter().zip(x_rest).zip(&mut lanes) {
        *lane += value(element) * x;
    }
    lanes.iter().sum()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; 8];
    add_products(&mut lanes, a, b);
    lanes.iter().sum()
}

/// Adds the products of a multiple of eight elements.
#[inline(always)]
fn add_products(lanes: &mut Lanes, a: &[f32], b: &[f32]) {
    for (a, b) in a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0) {
        for i in 0..8 {
            lanes[i] += a[i] * b[i];
        }
    }
}
