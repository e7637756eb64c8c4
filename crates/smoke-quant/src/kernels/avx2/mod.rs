//! AVX2, FMA and F16C.
//!
//! [`Avx2`] is the proof that the machine has the three: it can only be had from [`Avx2::detect`], and only its methods
//! call what is compiled for them. Inside, everything is safe but loads and stores, which take references to arrays of
//! the right size.
//!
//! Products of many tokens stay in floats here: without VNNI, integer products of 16-bit elements take two instructions
//! for sixteen of them, as FMA does.

mod block256;
mod block32;
mod dot;
mod float;
mod groups;
mod panel;
mod register;

use std::arch::is_x86_feature_detected;
use std::ops::Range;

use smoke_core::Encoding;

use super::Kernels;
use super::groups::{ARRANGED, ELEMENTS, has_groups, with_groups};
use super::scalar::{decode_blocks, dot_row};
use crate::blocks::{self, with_block};
use crate::output::Piece;

/// Kernels for AVX2, FMA and F16C.
#[derive(Debug)]
pub(crate) struct Avx2 {
    _detected: (),
}

impl Avx2 {
    /// The kernels, if the machine can run them.
    pub(crate) fn detect() -> Option<&'static Self> {
        let detected =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        detected.then_some(&Self { _detected: () })
    }
}

impl Kernels for Avx2 {
    fn decode(&self, encoding: Encoding, bytes: &[u8], out: &mut [f32]) {
        // SAFETY: `self` proves that the machine has the instructions that the function is compiled for.
        unsafe { decode(encoding, bytes, out) }
    }

    fn arranged_len(&self, encoding: Encoding, columns: usize) -> usize {
        if has_groups(encoding) { columns / ELEMENTS * ARRANGED } else { 0 }
    }

    fn arrange(&self, encoding: Encoding, x: &[f32], columns: usize, arranged: &mut [f32]) {
        let len = self.arranged_len(encoding, columns);
        for (x, arranged) in x.chunks_exact(columns).zip(arranged.chunks_exact_mut(len)) {
            // SAFETY: `self` proves that the machine has the instructions that the function is compiled for.
            unsafe { dot::arrange(encoding, x, arranged) }
        }
    }

    fn few(&self) -> usize {
        4
    }

    fn dot_few(&self, encoding: Encoding, bytes: &[u8], x: &[f32], rows: Range<usize>, y: &mut Piece<'_>) {
        for (t, x) in x.chunks_exact(x.len() / y.tokens()).enumerate() {
            let y = &mut y.token(t)[rows.clone()];
            // SAFETY: `self` proves that the machine has the instructions that the function is compiled for.
            unsafe { dot_rows(encoding, bytes, x, y) }
        }
    }

    fn prefetch(&self, bytes: &[u8]) {
        register::prefetch(bytes);
    }

    fn panel_rows(&self) -> usize {
        panel::ROWS
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
        // SAFETY: `self` proves that the machine has the instructions that the function is compiled for.
        unsafe { panel::dot(panel, x, depth, first_token, first_row, y) }
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
        // SAFETY: `self` proves that the machine has the instructions that the function is compiled for.
        unsafe { panel::scale(panel, width, x, x_stride, first_column, y) }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn decode(encoding: Encoding, bytes: &[u8], out: &mut [f32]) {
    match encoding {
        Encoding::F64 => decode_blocks(blocks::f64, bytes, out),
        Encoding::F32 => decode_blocks(blocks::f32, bytes, out),
        Encoding::F16 => float::decode_f16(bytes, out),
        Encoding::BF16 => decode_blocks(blocks::bf16, bytes, out),
        Encoding::Q8_0 => block32::decode_q8_0(bytes, out),
        Encoding::I8_1 => decode_blocks(blocks::i8_1, bytes, out),
        _ if has_groups(encoding) => with_groups!(avx2, encoding, groups::decode(bytes, out)),
        _ => with_block!(encoding, decode_blocks(bytes, out)),
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn dot_rows(encoding: Encoding, bytes: &[u8], x: &[f32], y: &mut [f32]) {
    match encoding {
        Encoding::F64 | Encoding::F32 | Encoding::F16 | Encoding::BF16 => float::dot_rows(encoding, bytes, x, y),
        Encoding::Q8_0 => block32::dot_rows_q8_0(bytes, x, y),
        Encoding::I8_1 => block32::dot_rows_i8_1(bytes, x, y),
        _ if has_groups(encoding) => with_groups!(avx2, encoding, dot::dot_rows(bytes, x, y)),
        // Encodings without kernels of their own: portable code, compiled for these instructions.
        _ => {
            for (row, y) in bytes.chunks_exact(bytes.len() / y.len()).zip(y) {
                *y = dot_row(encoding, row, x);
            }
        }
    }
}
