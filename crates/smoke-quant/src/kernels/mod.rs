//! The arithmetic, one file or folder for each instruction set.
//!
//! An instruction set implements [`Kernels`], and [`IntegerKernels`] where its integer arithmetic is faster for many
//! tokens; what is common (cutting matrices into panels, threads, scratch) is written once above it. To add one: a file
//! here, a variant of [`Isa`](crate::Isa), and the tests run on it by themselves. To add an encoding: a function in
//! [`blocks`](crate::blocks); an instruction set without own code for it can go by that.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod groups;
mod integer;
#[cfg(target_arch = "aarch64")]
mod neon;
mod panels;
mod scalar;

use std::ops::Range;

use smoke_core::Encoding;

use crate::output::Piece;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use integer::{IntegerKernels, Quantized, product as integer_product};
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;
pub(crate) use panels::{Shape, product, transposed};
pub(crate) use scalar::Scalar;

/// What an instruction set must be able to do. Lengths and encodings were checked by the caller; an implementation may
/// panic where they do not fit, but not misbehave.
pub(crate) trait Kernels: Sync {
    /// Decodes whole blocks to as many elements as `out` has, with the results of [`blocks`](crate::blocks) to the bit.
    fn decode(&self, encoding: Encoding, bytes: &[u8], out: &mut [f32]);

    /// Up to so many tokens are multiplied by [`dot_few`](Self::dot_few), more share panels.
    fn few(&self) -> usize;

    /// Floats that [`arrange`](Self::arrange) needs for a token of `columns` elements; 0 if [`dot_few`](Self::dot_few)
    /// takes tokens as they are.
    fn arranged_len(&self, _encoding: Encoding, _columns: usize) -> usize {
        0
    }

    /// Puts tokens of `columns` elements into the order in which [`dot_few`](Self::dot_few) meets the weights.
    fn arrange(&self, _encoding: Encoding, _x: &[f32], _columns: usize, _arranged: &mut [f32]) {}

    /// `y.token(t)[rows]` = rows in `bytes` · `x[t]`, for a few (arranged) tokens.
    fn dot_few(&self, encoding: Encoding, bytes: &[u8], x: &[f32], rows: Range<usize>, y: &mut Piece<'_>);

    /// Asks for bytes that will be decoded soon.
    fn prefetch(&self, _bytes: &[u8]) {}

    /// Rows of a panel for [`panel_dot`](Self::panel_dot) that stay in the first-level cache.
    fn panel_rows(&self) -> usize;

    /// `y.token(first_token + t)[first_row + r]` += `panel[r]` · `x[t]` for all rows of the panel and all tokens of `x`.
    /// The rows of both are `depth` long, a multiple of [`LANES`](panels::LANES), and dense.
    fn panel_dot(
        &self,
        panel: &[f32],
        x: &[f32],
        depth: usize,
        first_token: usize,
        first_row: usize,
        y: &mut Piece<'_>,
    );

    /// `y.token(t)[first_column + c]` += Σ over rows `r` of the panel of `panel[r * width + c] * x[t * x_stride + r]`,
    /// for all tokens.
    fn panel_scale(
        &self,
        panel: &[f32],
        width: usize,
        x: &[f32],
        x_stride: usize,
        first_column: usize,
        y: &mut Piece<'_>,
    );

    /// Integer arithmetic for many tokens, if it is faster than floats are.
    fn integer(&self, _encoding: Encoding) -> Option<&dyn IntegerKernels> {
        None
    }
}
