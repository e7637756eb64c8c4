//! Streams the weights of any Burn module, so that it runs in less memory than its weights take.
//!
//! Two ways, for two kinds of models:
//! - **Any module, unchanged**: [`Stream::stream`] replaces the parameters of a `#[derive(Module)]` model by
//!   placeholders; whenever one is used, its values come from a checkpoint through a cache under a byte budget.
//! - **Models written for streaming**: [`layers`] hold names instead of weights and, on the host, multiply by the packed
//!   bytes in the cache; quantised weights are never unpacked to memory. `smoke-models` is built from them.
//!
//! | feature | backend |
//! |---|---|
//! | `flex` (default) | pure Rust on the processor; `f32` weights are views of the cache, without a copy |
//! | `wgpu` | GPUs through wgpu; weights are uploaded when they are used |
//! | `cuda` | NVIDIA GPUs; building downloads an LLVM bundle |
//! | `autodiff` | not a backend: gradients on any of them, through streamed parameters to what is trained |
//!
//! What to evict, what to load ahead and how bytes are read is not decided here: see `smoke-cache`, `smoke-predict`,
//! `smoke-storage` and `smoke-prefetch`.
#![forbid(unsafe_code)]

mod activations;
mod attach;
mod device;
pub mod layers;
mod layout;
mod mapping;
mod parameter;
mod survey;
mod weights;

pub use activations::{Activations, Floats, Place};
pub use attach::{AttachError, Stream, StreamOptions, Streamed};
pub use device::{DeviceError, DeviceKind};
pub use layout::{Cut, Layout, LayoutError, Phase, Piece, PlacedTensor, Residence};
pub use parameter::StreamedParameter;
pub use weights::{WeightError, Weights};
