use rayon::prelude::*;
use smoke_core::Encoding;

use crate::error::bytes_for;
use crate::kernels::{Kernels, Shape, product, transposed};
use crate::scratch::with_scratch;
use crate::{Isa, PackedError};

/// Below so many weights a product runs on the calling thread: waking another one costs more than it saves.
const SERIAL_WEIGHTS: usize = 1 << 15;
/// Pieces per thread, so that a thread that lost its core for a while does not hold up the others.
const PIECES_PER_THREAD: usize = 8;
/// Up to so many tokens are multiplied one by one, while the rows are in the cache; more share unpacked panels.
const SINGLE_TOKENS: usize = 2;
/// Packed bytes that single tokens share while they are in the first-level cache.
const SHARED_BYTES: usize = 16 << 10;

/// A matrix of packed weights: borrowed bytes, an encoding and a shape.
///
/// Row-major `[rows, columns]`, as PyTorch's `[out, in]`; each row is a whole number of blocks. The bytes may lie at any
/// address. Products are exact but for f32 rounding: weights are decoded as by [`decode`](crate::decode) and activations
/// stay f32. The order of summation, and so the last bits, depend on the [`Isa`] and on the number of tokens, but not on
/// the number of threads.
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
    /// matrices can write side by side into one output. Matrices from 32 Ki weights on use the threads of the current
    /// rayon pool. For one token nothing is allocated, but for a scratch of the size of `x` that each thread keeps; for
    /// many, each thread keeps up to 300 KiB, and the call a list of slices of `y`.
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
        let kernels = isa.kernels();
        assert!(x.len().is_multiple_of(self.columns), "x is no whole number of tokens of {} elements", self.columns);
        let tokens = x.len() / self.columns;
        if tokens == 0 || self.rows == 0 {
            return;
        }
        assert_strided(y.len(), tokens, y_stride, self.rows);
        if tokens == 1 {
            let rows = self.rows_per_piece(1);
            return self.arranged(kernels, x, |x| {
                self.for_each_piece(&mut y[..self.rows], rows, |bytes, y| kernels.dot_rows(self.encoding, bytes, x, y));
            });
        }
        let rows = self.rows_per_piece(kernels.panel_rows());
        let mut pieces = split_rows(y, tokens, y_stride, self.rows, rows);
        let bytes = self.bytes.chunks(rows * self.row_bytes);
        let shape = Shape { encoding: self.encoding, columns: self.columns, row_bytes: self.row_bytes };
        if tokens <= SINGLE_TOKENS {
            let shared_rows = (SHARED_BYTES / self.row_bytes).max(4);
            let run = |x: &[f32]| {
                let width = x.len() / tokens;
                self.in_parallel(pieces.chunks_mut(tokens).zip(bytes).collect(), |(y, bytes)| {
                    for (i, bytes) in bytes.chunks(shared_rows * self.row_bytes).enumerate() {
                        let rows = i * shared_rows..i * shared_rows + bytes.len() / self.row_bytes;
                        for (x, y) in x.chunks_exact(width).zip(y.iter_mut()) {
                            kernels.dot_rows(self.encoding, bytes, x, &mut y[rows.clone()]);
                        }
                    }
                });
            };
            self.arranged(kernels, x, run);
        } else {
            self.in_parallel(pieces.chunks_mut(tokens).zip(bytes).collect(), |(y, bytes)| {
                product(kernels, &shape, bytes, x, y);
            });
        }
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
        let shape = Shape { encoding: self.encoding, columns: self.columns, row_bytes: self.row_bytes };
        let width = self.columns_per_piece();
        let mut pieces = split_rows(y, tokens, self.columns, self.columns, width);
        self.in_parallel(pieces.chunks_mut(tokens).enumerate().collect(), |(i, y)| {
            transposed(kernels, &shape, self.bytes, i * width, x, x_stride, y);
        });
    }

    /// Lends `run` the tokens of `x` in the order that the kernels of this encoding want.
    fn arranged(&self, kernels: &dyn Kernels, x: &[f32], run: impl FnOnce(&[f32])) {
        let len = kernels.arranged_len(self.encoding, self.columns);
        if len == 0 {
            return run(x);
        }
        with_scratch(len * (x.len() / self.columns), |scratch| {
            for (x, arranged) in x.chunks_exact(self.columns).zip(scratch.chunks_exact_mut(len)) {
                kernels.arrange(self.encoding, x, arranged);
            }
            run(scratch);
        });
    }

    fn is_serial(&self) -> bool {
        self.rows.saturating_mul(self.columns) < SERIAL_WEIGHTS || rayon::current_num_threads() == 1
    }

    /// Rows that are one piece of work, a multiple of `multiple`. Depends on the number of threads, results do not.
    fn rows_per_piece(&self, multiple: usize) -> usize {
        if self.is_serial() {
            return self.rows;
        }
        let pieces = rayon::current_num_threads() * PIECES_PER_THREAD;
        let least = (SERIAL_WEIGHTS / 4).div_ceil(self.columns);
        self.rows.div_ceil(pieces).max(least).next_multiple_of(multiple)
    }

    /// Columns that are one piece of work: whole blocks, and whole cache lines of `y`.
    fn columns_per_piece(&self) -> usize {
        let multiple = (self.encoding.block_elements() as usize).max(64);
        let pieces = if self.is_serial() { 1 } else { rayon::current_num_threads() * 2 };
        self.columns.div_ceil(pieces).next_multiple_of(multiple)
    }

    /// Cuts the rows and their results into pieces of `rows` rows: the way of one token, without a list of the pieces.
    fn for_each_piece(&self, y: &mut [f32], rows: usize, run: impl Fn(&[u8], &mut [f32]) + Sync) {
        if rows >= self.rows {
            return run(self.bytes, y);
        }
        let bytes = self.bytes.par_chunks(rows * self.row_bytes);
        bytes.zip(y.par_chunks_mut(rows)).for_each(|(bytes, y)| run(bytes, y));
    }

    fn in_parallel<T: Send>(&self, pieces: Vec<T>, run: impl Fn(T) + Sync + Send) {
        if pieces.len() == 1 { pieces.into_iter().for_each(run) } else { pieces.into_par_iter().for_each(run) }
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

fn assert_strided(len: usize, tokens: usize, stride: usize, width: usize) {
    assert!(tokens == 1 || stride >= width, "a stride of {stride} is less than the {width} elements of a token");
    let needed = (tokens - 1).checked_mul(stride).and_then(|start| start.checked_add(width));
    assert!(needed.is_some_and(|needed| needed <= len), "{len} elements do not hold {tokens} tokens");
}

/// The first `width` elements of every token of `y`, cut into chunks of `chunk`: all tokens of the first chunk, then all
/// of the second, and so on. Threads can write to different chunks at once.
fn split_rows(y: &mut [f32], tokens: usize, stride: usize, width: usize, chunk: usize) -> Vec<&mut [f32]> {
    let mut parts: Vec<&mut [f32]> = Vec::new();
    parts.resize_with(tokens * width.div_ceil(chunk), Default::default);
    for (t, token) in y.chunks_mut(stride.max(width)).take(tokens).enumerate() {
        for (i, part) in token[..width].chunks_mut(chunk).enumerate() {
            parts[i * tokens + t] = part;
        }
    }
    parts
}
