//! AVX-512: F, BW, DQ, VL and VNNI.
//!
//! [`Avx512`] is the proof that the machine has them, as [`Avx2`] is for its own: it can only be had from
//! [`Avx512::detect`], and only its methods call what is compiled for them. What gains nothing by wider registers is left
//! to [`Avx2`].

mod codes;
mod float;
mod panel;
mod quantize;
mod register;
mod rows;
mod tile;

use std::arch::is_x86_feature_detected;
use std::ops::Range;
use std::sync::OnceLock;

use smoke_core::Encoding;

use super::integer::{Layout, ROWS};
use super::{Avx2, IntegerKernels, Kernels};
use crate::output::Piece;

/// Kernels for AVX-512 F, BW, DQ, VL and VNNI.
#[derive(Debug)]
pub(crate) struct Avx512 {
    avx2: &'static Avx2,
}

impl Avx512 {
    /// The kernels, if the machine can run them.
    pub(crate) fn detect() -> Option<&'static Self> {
        static DETECTED: OnceLock<Option<Avx512>> = OnceLock::new();
        DETECTED.get_or_init(|| Avx2::detect().filter(|_| detected()).map(|avx2| Self { avx2 })).as_ref()
    }
}

fn detected() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
}

impl Kernels for Avx512 {
    fn decode(&self, encoding: Encoding, bytes: &[u8], out: &mut [f32]) {
        self.avx2.decode(encoding, bytes, out);
    }

    fn arranged_len(&self, encoding: Encoding, columns: usize) -> usize {
        if encoding.block_elements() > 1 {
            return self.avx2.arranged_len(encoding, columns);
        }
        columns.next_multiple_of(float::LANES)
    }

    fn arrange(&self, encoding: Encoding, x: &[f32], columns: usize, arranged: &mut [f32]) {
        if encoding.block_elements() > 1 {
            return self.avx2.arrange(encoding, x, columns, arranged);
        }
        float::arrange(x, columns, arranged);
    }

    fn few(&self) -> usize {
        float::MOST_TOKENS
    }

    fn dot_few(&self, encoding: Encoding, bytes: &[u8], x: &[f32], rows: Range<usize>, y: &mut Piece<'_>) {
        if encoding.block_elements() > 1 {
            return self.avx2.dot_few(encoding, bytes, x, rows, y);
        }
        // SAFETY: `self` proves that the machine has the instructions that the function is compiled for.
        unsafe { float::dot_few(encoding, bytes, x, rows, y) }
    }

    fn prefetch(&self, bytes: &[u8]) {
        self.avx2.prefetch(bytes);
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

    fn integer(&self, encoding: Encoding) -> Option<&dyn IntegerKernels> {
        Layout::of(encoding).map(|_| self as &dyn IntegerKernels)
    }
}

impl IntegerKernels for Avx512 {
    fn quantize(&self, x: &[f32], layout: Layout, stride: usize, words: &mut [u32]) {
        // SAFETY: `self` proves that the machine has the instructions that the function is compiled for.
        unsafe { quantize::quantize(x, layout, stride, words) }
    }

    fn unpack(&self, encoding: Encoding, rows: &[&[u8]; ROWS], ahead: usize, panel: &mut [u32]) {
        // SAFETY: `self` proves that the machine has the instructions that the function is compiled for.
        unsafe { rows::unpack(encoding, rows, ahead, panel) }
    }

    fn multiply_few(
        &self,
        encoding: Encoding,
        rows: &[&[u8]; ROWS],
        ahead: usize,
        tile: &[u32],
        sums: &mut [[f32; ROWS]],
    ) {
        // SAFETY: `self` proves that the machine has the instructions that the function is compiled for.
        unsafe { rows::multiply_few(encoding, rows, ahead, tile, sums) }
    }

    fn multiply(&self, layout: Layout, panel: &[u32], tile: &[u32], sums: &mut [[f32; ROWS]]) {
        // SAFETY: `self` proves that the machine has the instructions that the function is compiled for.
        unsafe { tile::multiply(layout, panel, tile, sums) }
    }
}
