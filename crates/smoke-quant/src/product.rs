use smoke_core::Encoding;

use crate::kernels::{self, Kernels, Quantized};
use crate::output::{Output, Piece};
use crate::scratch::with_scratch;
use crate::{Isa, PackedMatrix, threads};

/// Below so many weights a product runs on the calling thread: waking another one costs more than it saves.
const SERIAL_WEIGHTS: usize = 1 << 15;
/// Pieces per thread, so that a thread that lost its core for a while does not hold up the others.
const PIECES_PER_THREAD: usize = 8;
/// The most bytes of a piece: what the last one to be done is waited for, where a job is large.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces are whole panels of every instruction set.
const PIECE_ROWS: usize = 16;
/// Packed bytes that a few tokens share while they are in the first-level cache.
const SHARED_BYTES: usize = 16 << 10;

/// Matrices that stand one below another, and where the results of their rows go.
pub struct Product<'a> {
    matrices: &'a [PackedMatrix<'a>],
    y: Output<'a>,
}

impl<'a> Product<'a> {
    /// Of so many tokens: `y[t * y_stride + r]` is to be the result of token `t` with row `r`, counted over all
    /// `matrices`.
    ///
    /// # Panics
    /// If `y` is shorter than `(tokens - 1) * y_stride` and all rows, or `y_stride` is less than all rows with more than
    /// one token.
    pub fn new(matrices: &'a [PackedMatrix<'a>], tokens: usize, y: &'a mut [f32], y_stride: usize) -> Self {
        let rows = matrices.iter().map(PackedMatrix::rows).sum();
        Self { matrices, y: Output::new(y, tokens, y_stride, rows) }
    }

    /// The matrices of an encoding, each with the number of its first row.
    fn of(&self, encoding: Encoding) -> impl Iterator<Item = (usize, &PackedMatrix<'a>)> {
        let starts = self.matrices.iter().scan(0, |next, matrix| {
            *next += matrix.rows();
            Some(*next - matrix.rows())
        });
        starts.zip(self.matrices).filter(move |(_, matrix)| matrix.encoding() == encoding)
    }
}

impl std::fmt::Debug for Product<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Product").field("matrices", &self.matrices).finish_non_exhaustive()
    }
}

/// Multiplies the same tokens, `x` of `[tokens, columns]`, by several matrices: with results, threads and scratch of
/// [`PackedMatrix::multiply`], to the bit, but what matrices of one encoding have in common is done once, and threads wait
/// for one another once.
///
/// # Panics
/// If matrices differ in their columns, or `x` has not the tokens of the products.
pub fn multiply_all(x: &[f32], products: &mut [Product<'_>]) {
    multiply_all_with(Isa::best(), x, products);
}

pub(crate) fn multiply_all_with(isa: Isa, x: &[f32], products: &mut [Product<'_>]) {
    let products = &*products;
    let Some(first) = matrices(products).next() else { return };
    let columns = first.columns();
    let tokens = x.len() / columns;
    for matrix in matrices(products) {
        assert_eq!(matrix.columns(), columns, "the matrices multiply tokens of different lengths");
    }
    for product in products {
        assert_eq!(product.y.tokens() * columns, x.len(), "x has not the tokens of the product");
    }
    if tokens == 0 {
        return;
    }
    let kernels = isa.kernels();
    for (i, matrix) in matrices(products).enumerate() {
        let encoding = matrix.encoding();
        if matrices(products).take(i).all(|before| before.encoding() != encoding) {
            // SAFETY: `products` is borrowed mutably, and each encoding, which are different matrices, comes once.
            unsafe { multiply_encoding(kernels, encoding, x, columns, products) };
        }
    }
}

/// # Safety
/// Nobody else may use the results of these matrices meanwhile.
unsafe fn multiply_encoding(
    kernels: &dyn Kernels,
    encoding: Encoding,
    x: &[f32],
    columns: usize,
    products: &[Product<'_>],
) {
    // SAFETY: the caller's promise is passed on.
    let run = |work: &(dyn Fn(&PackedMatrix<'_>, &[u8], &mut Piece<'_>) + Sync)| unsafe {
        for_each_piece(encoding, products, work);
    };
    if let Some(integers) = kernels.integer(encoding) {
        with_scratch(Quantized::words(x.len()), |words: &mut [u32]| {
            let x = Quantized::new(integers, encoding, x, columns, words);
            run(&|matrix, bytes, y| kernels::integer_product(integers, &matrix.shape(), bytes, x, y));
        });
    } else if x.len() / columns <= kernels.few() {
        with_arranged(kernels, encoding, columns, x, |x| {
            run(&|matrix, bytes, y| few_tokens(kernels, matrix, bytes, x, y));
        });
    } else {
        run(&|matrix, bytes, y| kernels::product(kernels, &matrix.shape(), bytes, x, y));
    }
}

fn matrices<'p, 'a>(products: &'p [Product<'a>]) -> impl Iterator<Item = &'p PackedMatrix<'a>> {
    products.iter().flat_map(|product| product.matrices)
}

/// Whether a product of so many weights is not worth a second thread.
pub(crate) fn is_serial(weights: usize) -> bool {
    weights < SERIAL_WEIGHTS || threads::count() == 1
}

/// Cuts the rows of an encoding and their results into pieces and runs `run` for each, on all threads. How many pieces
/// depends on the number of threads, the result of a row does not.
///
/// # Safety
/// Nobody else may use the results of these matrices meanwhile.
unsafe fn for_each_piece(
    encoding: Encoding,
    products: &[Product<'_>],
    run: &(dyn Fn(&PackedMatrix<'_>, &[u8], &mut Piece<'_>) + Sync),
) {
    let all = || products.iter().flat_map(|product| product.of(encoding).map(move |(first, m)| (&product.y, first, m)));
    let rows: usize = all().map(|(_, _, matrix)| matrix.rows()).sum();
    let Some((_, _, matrix)) = all().find(|(_, _, matrix)| matrix.rows() > 0) else { return };
    let is_serial = is_serial(rows.saturating_mul(matrix.columns()));
    let piece = if is_serial {
        rows
    } else {
        let least = (SERIAL_WEIGHTS / 4).div_ceil(matrix.columns());
        let most = PIECE_BYTES / matrix.row_bytes();
        rows.div_ceil(threads::count() * PIECES_PER_THREAD).min(most).max(least).next_multiple_of(PIECE_ROWS)
    };
    let pieces = all().map(|(_, _, matrix)| matrix.rows().div_ceil(piece)).sum();
    let run_piece = |mut i| {
        for (y, first, matrix) in all() {
            let pieces = matrix.rows().div_ceil(piece);
            if i < pieces {
                let rows = i * piece..matrix.rows().min((i + 1) * piece);
                // SAFETY: every piece is run once, pieces do not overlap, nor do the rows of matrices.
                let mut y = unsafe { y.piece(first + rows.start..first + rows.end) };
                return run(matrix, matrix.bytes_of(rows), &mut y);
            }
            i -= pieces;
        }
    };
    if is_serial { (0..pieces).for_each(run_piece) } else { threads::for_each(pieces, run_piece) }
}

/// Lends `run` the tokens of `x` in the order that the kernels of this encoding want.
fn with_arranged(kernels: &dyn Kernels, encoding: Encoding, columns: usize, x: &[f32], run: impl FnOnce(&[f32])) {
    let len = kernels.arranged_len(encoding, columns);
    if len == 0 {
        return run(x);
    }
    with_scratch(len * (x.len() / columns), |scratch: &mut [f32]| {
        kernels.arrange(encoding, x, columns, scratch);
        run(scratch);
    });
}

/// Multiplies a few tokens by the rows in `bytes`, some rows at a time.
fn few_tokens(kernels: &dyn Kernels, matrix: &PackedMatrix<'_>, bytes: &[u8], x: &[f32], y: &mut Piece<'_>) {
    let row_bytes = matrix.row_bytes();
    let rows = if y.tokens() == 1 { y.width() } else { (SHARED_BYTES / row_bytes).max(8) };
    for (i, bytes) in bytes.chunks(rows * row_bytes).enumerate() {
        let first = i * rows;
        kernels.dot_few(matrix.encoding(), bytes, x, first..first + bytes.len() / row_bytes, y);
    }
}
