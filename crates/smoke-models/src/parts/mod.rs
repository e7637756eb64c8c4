//! What the architectures are built from, each once.

mod activation;
mod attention;
mod host;
mod kv_cache;
mod mlp;
mod norm;
mod relative;
mod rotary;

pub use activation::Activation;
pub(crate) use attention::scratch_floats;
pub use attention::{DistanceBias, Mask, Scores, attend};
pub use kv_cache::{KvCache, KvEncoding, KvShape};
pub use mlp::{GatedMlp, Mlp};
pub use norm::{LayerNorm, RmsNorm};
pub use relative::{Directions, RelativeBias};
pub use rotary::{Pairing, RopeScaling, Rotary, Rotation};
