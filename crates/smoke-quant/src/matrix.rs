use smoke_core::Encoding;

use crate::error::bytes_for;
use crate::kernels::{self, Shape};
use crate::output::{Output, assert_strided};
use crate::product::{Product, is_serial, multiply_all_with};
use crate::{Isa, PackedError, threads};

/// A matrix of packed weights: borrowed bytes, an encoding and a shape.
///
/// Row-major `[rows, columns]`, as PyTorch's `[out, in]`; each row is a whole number of blocks. The bytes may lie at any
/// address.
///
/// # Accuracy
/// Weights are those that [`decode`](crate::decode()) gives, and products are exact but for f32 rounding. Where the order of
/// summation is that of floats it depends on the [`Isa`] and on the number of tokens, never on the number of threads. For
/// the block encodings that have kernels [`Isa::Avx512`] rounds a token to 24-bit integers with a scale for every 32 elements: an element moves
/// by about as much as rounding to f32 moves the largest of its 32. Sums of those integers are exact, so there a token gives
/// the same bits alone as among others.
#[derive(Clone, Copy)]
pub struct PackedMatrix<'a> {
    encoding: Encoding,
    rows: usize,
    columns: usize,
    row_bytes: usize,
    bytes: &'a [u8],
}

impl<'a> PackedMatrix<'a> {
    /// A matrix over `bytes`.
    ///
    /// # Errors
    /// [`PackedError`] if the encoding holds no weights, a row is no whole number of blocks or has no elements, or `bytes`
    /// is not exactly as long as the rows.
    pub fn new(encoding: Encoding, rows: usize, columns: usize, bytes: &'a [u8]) -> Result<Self, PackedError> {
        if columns == 0 {
            return Err(PackedError::NoColumns { rows });
        }
        let row_bytes = bytes_for(encoding, columns)?;
        let too_large = PackedError::TooLarge { rows, columns };
        let (Some(expected_bytes), Some(elements)) = (rows.checked_mul(row_bytes), rows.checked_mul(columns)) else {
            return Err(too_large);
        };
        if bytes.len() != expected_bytes {
            return Err(PackedError::WrongLength { encoding, elements, expected_bytes, bytes: bytes.len() });
        }
        Ok(Self { encoding, rows, columns, row_bytes, bytes })
    }

    /// How the elements are encoded.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// The number of rows: outputs of [`multiply`](Self::multiply).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns: inputs of [`multiply`](Self::multiply).
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Multiplies every token by the matrix: `y[t * y_stride + r]` = Σ over `c` of `w[r, c] * x[t * columns + c]`.
    ///
    /// `x` is dense, `[tokens, columns]`. What lies in `y` between the rows of two tokens is left as it is, so several
    /// matrices can write side by side into one output. Matrices from 32 Ki weights on use threads of this
    /// crate, as many as the current rayon pool has, the calling one among them. Nothing is allocated but scratch that each thread keeps for
    /// the next call: some 300 KiB, and on the calling thread three times the size of `x`.
    ///
    /// # Panics
    /// If `x` is no whole number of tokens, `y` is shorter than `(tokens - 1) * y_stride + rows`, or `y_stride` is less
    /// than `rows` with more than one token.
    pub fn multiply(&self, x: &[f32], y: &mut [f32], y_stride: usize) {
        self.multiply_with(Isa::best(), x, y, y_stride);
    }

    /// [`multiply`](Self::multiply) with the instructions of `isa`.
    ///
    /// # Panics
    /// As [`multiply`](Self::multiply), and if the machine does not have `isa`.
    pub fn multiply_with(&self, isa: Isa, x: &[f32], y: &mut [f32], y_stride: usize) {
        assert!(x.len().is_multiple_of(self.columns), "x is no whole number of tokens of {} elements", self.columns);
        let matrices = [*self];
        multiply_all_with(isa, x, &mut [Product::new(&matrices, x.len() / self.columns, y, y_stride)]);
    }

    /// Multiplies by the transposed matrix and adds: `y[t * columns + c]` += Σ over `r` of `w[r, c] * x[t * x_stride + r]`.
    ///
    /// For weights that are stored as `[in, out]`, as GPT-2's are. `y` is dense, `[tokens, columns]`, and says how many
    /// tokens there are; that it is added to lets a matrix be multiplied in pieces of rows. Threads and scratch as for
    /// [`multiply`](Self::multiply).
    ///
    /// # Panics
    /// If `y` is no whole number of tokens, `x` is shorter than `(tokens - 1) * x_stride + rows`, or `x_stride` is less
    /// than `rows` with more than one token.
    pub fn multiply_transposed(&self, x: &[f32], x_stride: usize, y: &mut [f32]) {
        self.multiply_transposed_with(Isa::best(), x, x_stride, y);
    }

    /// [`multiply_transposed`](Self::multiply_transposed) with the instructions of `isa`.
    ///
    /// # Panics
    /// As [`multiply_transposed`](Self::multiply_transposed), and if the machine does not have `isa`.
    pub fn multiply_transposed_with(&self, isa: Isa, x: &[f32], x_stride: usize, y: &mut [f32]) {
        let kernels = isa.kernels();
        assert!(y.len().is_multiple_of(self.columns), "y is no whole number of tokens of {} elements", self.columns);
        let tokens = y.len() / self.columns;
        if tokens == 0 || self.rows == 0 {
            return;
        }
        assert_strided(x.len(), tokens, x_stride, self.rows);
        let y = Output::new(y, tokens, self.columns, self.columns);
        let shape = self.shape();
        let width = self.columns_per_piece();
        threads::for_each(self.columns.div_ceil(width), |i| {
            let columns = i * width..self.columns.min((i + 1) * width);
            // SAFETY: `for_each` gives every piece once, and pieces do not overlap.
            let mut y = unsafe { y.piece(columns.clone()) };
            kernels::transposed(kernels, &shape, self.bytes, columns.start, x, x_stride, &mut y);
        });
    }

    pub(crate) fn shape(&self) -> Shape {
        Shape { encoding: self.encoding, columns: self.columns, row_bytes: self.row_bytes }
    }

    pub(crate) fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// The bytes of some rows.
    pub(crate) fn bytes_of(&self, rows: std::ops::Range<usize>) -> &'a [u8] {
        &self.bytes[rows.start * self.row_bytes..rows.end * self.row_bytes]
    }

    fn is_serial(&self) -> bool {
        is_serial(self.rows.saturating_mul(self.columns))
    }

    /// Columns that are one piece of work: whole blocks, and whole cache lines of `y`.
    fn columns_per_piece(&self) -> usize {
        let multiple = (self.encoding.block_elements() as usize).max(64);
        let pieces = if self.is_serial() { 1 } else { threads::count() * 2 };
        self.columns.div_ceil(pieces).next_multiple_of(multiple)
    }
}

impl std::fmt::Debug for PackedMatrix<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { encoding, rows, columns, .. } = self;
        f.debug_struct("PackedMatrix")
            .field("encoding", encoding)
            .field("rows", rows)
            .field("columns", columns)
            .finish_non_exhaustive()
    }
}
