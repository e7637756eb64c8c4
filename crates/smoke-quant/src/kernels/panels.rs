use smoke_core::Encoding;

use super::Kernels;
use crate::output::Piece;
use crate::scratch::with_scratch;

/// The widest register of floats: rows of panels are padded to whole ones.
pub(super) const LANES: usize = 16;

/// Columns of a panel: a multiple of every block.
const DEPTH: usize = 512;
/// Tokens that share an unpacked panel, a multiple of what the kernels take at once. With their `DEPTH` elements
/// they fill about half of a second-level cache of 512 KiB.
const TOKENS: usize = 96;
/// Rows and columns of a panel of the transposed product: together 16 KiB, half of a first-level cache.
const TRANSPOSED_ROWS: usize = 16;
const TRANSPOSED_COLUMNS: usize = 256;

/// What is known of the rows of a matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) encoding: Encoding,
    pub(crate) columns: usize,
    pub(crate) row_bytes: usize,
}

impl Shape {
    /// The bytes of `width` columns from `first` on, within a row; both are whole blocks.
    pub(super) fn bytes_of(&self, first: usize, width: usize) -> std::ops::Range<usize> {
        let (elements, bytes) = (self.encoding.block_elements() as usize, self.encoding.block_bytes() as usize);
        first / elements * bytes..(first + width) / elements * bytes
    }
}

/// Multiplies many tokens by the rows in `bytes`; `y` has an element of each token for each row.
///
/// A panel of a few rows and [`DEPTH`] columns is unpacked into the first-level cache and multiplied by all tokens, of
/// which a dense copy lies in the second-level cache.
pub(crate) fn product(kernels: &dyn Kernels, shape: &Shape, bytes: &[u8], x: &[f32], y: &mut Piece<'_>) {
    let rows = bytes.len() / shape.row_bytes;
    let panel_rows = kernels.panel_rows().min(rows);
    let depth = DEPTH.min(shape.columns.next_multiple_of(LANES));
    let tokens = TOKENS.min(y.tokens());
    (0..y.tokens()).for_each(|t| y.token(t).fill(0.0));
    with_scratch((panel_rows + tokens) * depth, |scratch: &mut [f32]| {
        let (panel, dense) = scratch.split_at_mut(panel_rows * depth);
        for (i, x) in x.chunks(tokens * shape.columns).enumerate() {
            let first_token = i * tokens;
            for first in (0..shape.columns).step_by(DEPTH) {
                let width = DEPTH.min(shape.columns - first);
                let depth = width.next_multiple_of(LANES);
                for (x, dense) in x.chunks_exact(shape.columns).zip(dense.chunks_exact_mut(depth)) {
                    dense[..width].copy_from_slice(&x[first..first + width]);
                    dense[width..].fill(0.0);
                }
                let dense = &dense[..x.len() / shape.columns * depth];
                let within = shape.bytes_of(first, width);
                let mut panels = bytes.chunks(panel_rows * shape.row_bytes).enumerate().peekable();
                while let Some((i, bytes)) = panels.next() {
                    let bytes = bytes.chunks_exact(shape.row_bytes);
                    let panel = &mut panel[..bytes.len() * depth];
                    for (bytes, row) in bytes.zip(panel.chunks_exact_mut(depth)) {
                        kernels.decode(shape.encoding, &bytes[within.clone()], &mut row[..width]);
                        row[width..].fill(0.0);
                    }
                    if let Some((_, next)) = panels.peek() {
                        next.chunks_exact(shape.row_bytes).for_each(|row| kernels.prefetch(&row[within.clone()]));
                    }
                    kernels.panel_dot(panel, dense, depth, first_token, i * panel_rows, y);
                }
            }
        }
    });
}

/// Adds the product of tokens with the columns from `first` on of the transposed rows in `bytes`; `y` has as many elements
/// of each token as columns are meant.
pub(crate) fn transposed(
    kernels: &dyn Kernels,
    shape: &Shape,
    bytes: &[u8],
    first: usize,
    x: &[f32],
    x_stride: usize,
    y: &mut Piece<'_>,
) {
    let columns = y.width();
    with_scratch(TRANSPOSED_ROWS * TRANSPOSED_COLUMNS, |panel: &mut [f32]| {
        for first_row in (0..bytes.len() / shape.row_bytes).step_by(TRANSPOSED_ROWS) {
            for start in (0..columns).step_by(TRANSPOSED_COLUMNS) {
                let width = TRANSPOSED_COLUMNS.min(columns - start);
                let within = shape.bytes_of(first + start, width);
                let rows = bytes[first_row * shape.row_bytes..].chunks_exact(shape.row_bytes).take(TRANSPOSED_ROWS);
                let panel = &mut panel[..rows.len() * width];
                for (r, (row, out)) in rows.zip(panel.chunks_exact_mut(width)).enumerate() {
                    // The row of the next panel that takes this one's place.
                    let next = (first_row + r + TRANSPOSED_ROWS) * shape.row_bytes;
                    if let Some(next) = bytes.get(next + within.start..next + within.end) {
                        kernels.prefetch(next);
                    }
                    kernels.decode(shape.encoding, &row[within.clone()], out);
                }
                kernels.panel_scale(panel, width, &x[first_row..], x_stride, start, y);
            }
        }
    });
}
