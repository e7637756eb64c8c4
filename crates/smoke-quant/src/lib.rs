//! Packed weight encodings, and products that multiply by the packed bytes.
//!
//! A decode step of a language model touches every weight once, so it runs at the speed at which bytes reach the
//! processor. This crate keeps the bytes few: [`PackedMatrix::multiply`] reads the weights as they lie in the file
//! (half floats, or the block-quantised `Q…` encodings of GGUF) and unpacks them in registers, for one token, or into a
//! scratch of cache size that all tokens share, for many. Unpacked weights are never written to memory.
//!
//! - [`PackedMatrix`]: borrowed bytes with a shape; products with f32 activations, in f32, on as many threads as the
//!   current rayon pool has;
//! - [`decode`]: bytes to floats, bit for bit the same on every machine;
//! - [`encode`]: floats to bytes, for making test models and small files;
//! - [`Isa`]: which instructions the kernels use, found at run time.
//!
//! Decoding follows the encodings exactly, and activations are not quantised: a product differs from one in exact
//! arithmetic by rounding of f32 only.
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
mod scratch;
mod threads;

pub use decode::{decode, decode_with};
pub use encode::encode;
pub use error::PackedError;
pub use isa::Isa;
pub use matrix::PackedMatrix;
