//! What the architectures are built from, each once.

mod activation;
mod attention;
mod host;
mod kv_cache;
mod lookahead;
mod mlp;
mod moe;
mod norm;
mod pre_norm;
mod relative;
mod rope_scaling;
mod rotary;
mod self_attention;

pub use activation::{Activation, softcap};
pub(crate) use attention::scratch_floats;
pub use attention::{DistanceBias, Mask, Scores, attend};
pub use kv_cache::{KvCache, KvEncoding, KvShape};
pub use lookahead::{ExpertLayers, Lookahead, RoutedLayer};
pub use mlp::{FeedForward, FusedGatedMlp, GatedMlp, Mlp};
pub use moe::{Expert, MixtureOfExperts, Router, Routes};
pub use norm::{LayerNorm, Norm, RmsNorm};
pub use pre_norm::PreNormLayer;
pub use relative::{Directions, RelativeBias};
pub use rope_scaling::RopeScaling;
pub use rotary::{Pairing, Rotary, Rotation};
pub use self_attention::{Qkv, SelfAttention};
