//! NEON.
//!
//! [`Neon`] is the proof that the machine has it, as `Avx2` is for its own: it can only be had from [`Neon::detect`], and
//! only its methods call what is compiled for it. Inside, everything is safe but loads and stores, which take references to
//! arrays of the right size.
//!
//! Decoding is left to the compiler, which makes NEON of the loops in [`blocks`](crate::blocks). Products are in floats:
//! without the dot product of Armv8.2, for which stable Rust has no intrinsics (as of 1.95), multiplying three bytes of an
//! element takes as many instructions as a conversion and a multiplication of floats does.
//!
//! Nobody has measured these kernels; what is known is how many instructions the compiler makes (rustc 1.95, release). For
//! 32 weights and one token:
//!
//! | | all | loads | unpacking | conversions | multiplications |
//! |---|---|---|---|---|---|
//! | `Q8_0` | 43 | 7 | 12 | 9 | 10 |
//! | `Q4_0` | 42 | 7 | 9 | 9 | 12 |
//! | `Q4_K` (an eighth of a block) | 38 | 5.9 | 9.8 | 8.8 | 10.8 |
//! | `F16` | 29 | 8 | | 8 | 8 |
//!
//! The rest are addresses, loop counters and, in blocks of 256, the scales. A load is often one of two registers.

mod block256;
mod block32;
mod dot;
mod float;
mod panel;
mod register;

use std::arch::is_aarch64_feature_detected;
use std::ops::Range;

use smoke_core::Encoding;

use super::groups::{ARRANGED, ELEMENTS, has_groups, with_groups};
use super::scalar::dot_row;
use super::{Kernels, Scalar};
use crate::output::Piece;

/// Kernels for NEON.
#[derive(Debug)]
pub(crate) struct Neon {
    _detected: (),
}

impl Neon {
    /// The kernels, if the machine can run them.
    pub(crate) fn detect() -> Option<&'static Self> {
        // Codes are taken out of words that were loaded as bytes.
        let detected = cfg!(target_endian = "little") && is_aarch64_feature_detected!("neon");
        detected.then_some(&Self { _detected: () })
    }
}

impl Kernels for Neon {
    fn decode(&self, encoding: Encoding, bytes: &[u8], out: &mut [f32]) {
        match encoding {
            // SAFETY: `self` proves that the machine has the instructions that the function is compiled for.
            Encoding::F16 => unsafe { float::decode_f16(bytes, out) },
            _ => Scalar.decode(encoding, bytes, out),
        }
    }

    fn arranged_len(&self, encoding: Encoding, columns: usize) -> usize {
        if is_arranged(encoding) { columns / ELEMENTS * ARRANGED } else { 0 }
    }

    fn arrange(&self, encoding: Encoding, x: &[f32], columns: usize, arranged: &mut [f32]) {
        let len = self.arranged_len(encoding, columns);
        for (x, arranged) in x.chunks_exact(columns).zip(arranged.chunks_exact_mut(len)) {
            super::groups::arrange(encoding, x, arranged);
        }
    }

    /// A third token would cost about as many instructions as unpacking into a panel does.
    fn few(&self) -> usize {
        2
    }

    fn dot_few(&self, encoding: Encoding, bytes: &[u8], x: &[f32], rows: Range<usize>, y: &mut Piece<'_>) {
        for (t, x) in x.chunks_exact(x.len() / y.tokens()).enumerate() {
            let y = &mut y.token(t)[rows.clone()];
            // SAFETY: `self` proves that the machine has the instructions that the function is compiled for.
            unsafe { dot_rows(encoding, bytes, x, y) }
        }
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

/// Whether tokens are arranged for an encoding. Words are converted as unsigned ones here, so that codes of eight bits can
/// be taken out of them, too.
fn is_arranged(encoding: Encoding) -> bool {
    has_groups(encoding) || encoding == Encoding::I8_1
}

#[target_feature(enable = "neon")]
fn dot_rows(encoding: Encoding, bytes: &[u8], x: &[f32], y: &mut [f32]) {
    match encoding {
        Encoding::F64 | Encoding::F32 | Encoding::F16 | Encoding::BF16 => float::dot_rows(encoding, bytes, x, y),
        Encoding::Q8_0 => block32::dot_rows_q8_0(bytes, x, y),
        Encoding::I8_1 => dot::dot_rows::<_, 1, 0, 0xff, _>(
            |block| block32::scale_and_bias(block),
            |block, scales, _| block32::i8_1(block, *scales),
            bytes,
            x,
            y,
        ),
        _ if has_groups(encoding) => with_groups!(neon, encoding, dot::dot_rows(bytes, x, y)),
        // Encodings without kernels of their own: portable code.
        _ => {
            for (row, y) in bytes.chunks_exact(bytes.len() / y.len()).zip(y) {
                *y = dot_row(encoding, row, x);
            }
        }
    }
}
