//! Packed weight encodings, and products that multiply by the packed bytes.
//!
//! A decode step of a language model touches every weight once, so it runs at the speed at which bytes reach the
//! processor. This crate keeps the bytes few: [`PackedMatrix::multiply`] reads the weights as they lie in the file
//! (half floats, or the block-quantised encodings of GGUF files) and unpacks them in registers, or, for many tokens, into a
//! scratch of cache size that all of them share. Unpacked weights are never written to memory.
//!
//! - [`PackedMatrix`]: borrowed bytes with a shape; products with f32 activations, on several threads; its documentation
//!   says how exact they are;
//! - [`multiply_all`]: products of several matrices with the same activations, at once;
//! - [`decode`](decode()): bytes to floats, bit for bit the same on every machine;
//! - [`encode`](encode()): floats to bytes, for making test models and small files;
//! - [`Isa`]: which instructions the kernels use, found at run time.
//!
//! | bits | symmetric about zero | with a minimum |
//! |---|---|---|
//! | 8 | `Q8_0` | `I8_1` |
//! | 6 | `Q6_K` | |
//! | 5 | `Q5_0` | `Q5_1`, `Q5_K` |
//! | 4 | `Q4_0`, `IQ4_NL`, `IQ4_XS` | `Q4_1`, `Q4_K` |
//! | 3 | `Q3_K` | |
//! | 2 | | `Q2_K` |
//!
//! and the plain floats `F64`, `F32`, `F16`, `BF16`. `I8_1` is this project's own, the others are what GGUF files have.
//! There are kernels for AVX-512, AVX2 and NEON, but none for `Q2_K`, `Q3_K` and the `IQ…` encodings, whose blocks are
//! decoded by portable code. Other processors run portable code. The kernels for NEON are tested in an emulator; nobody
//! has measured them yet.
//!
//! It is not a quantiser (nothing here searches for good scales), knows no file format (see `smoke-storage`) and no
//! tensor framework (see `smoke-burn`).
//!
//! ```
//! use smoke_core::Encoding;
//! use smoke_quant::{PackedMatrix, encode};
//!
//! let weights: Vec<f32> = (0..2 * 32).map(|i| i as f32 / 10.0).collect();
//! let mut bytes = Vec::new();
//! encode(Encoding::Q8_0, &weights, &mut bytes)?;
//!
//! let matrix = PackedMatrix::new(Encoding::Q8_0, 2, 32, &bytes)?;
//! let mut y = [0.0; 2];
//! matrix.multiply(&[1.0; 32], &mut y, 2);
//! assert!((y[0] - 49.6).abs() < 0.5 && (y[1] - 152.0).abs() < 0.5);
//! # Ok::<(), smoke_quant::PackedError>(())
//! ```

mod blocks;
mod decode;
mod encode;
mod error;
mod isa;
mod kernels;
mod matrix;
mod output;
mod pool;
mod product;
mod scratch;
mod threads;

pub use decode::{decode, decode_with};
pub use encode::encode;
pub use error::PackedError;
pub use isa::Isa;
pub use matrix::PackedMatrix;
pub use product::{Product, multiply_all};
