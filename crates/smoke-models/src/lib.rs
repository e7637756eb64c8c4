//! Language models and text encoders built from streamed layers.
//!
//! A model here is a description: its layers name weights and hold none. [`AutoModel`] reads a checkpoint's
//! configuration, builds the architecture and gives every weight its place; a forward pass takes the weights from
//! [`smoke_burn::Weights`] when it needs them. [`text`] turns strings into tokens and back, and logits into tokens.
//!
//! To generate text within a memory budget in a few lines, see `smoke-runtime`. To stream a Burn module of your own,
//! unchanged, see `smoke-burn`.
#![forbid(unsafe_code)]

mod auto;
mod bert;
mod blueprint;
mod config;
mod decoder;
mod encoder;
mod error;
mod experts;
pub mod gemma;
mod gguf;
pub mod gpt2;
pub mod gpt_neox;
pub mod gptj;
mod layer_kinds;
pub mod llama;
pub mod mistral;
pub mod mixtral;
mod model;
pub mod parts;
pub mod phi3;
pub mod qwen;
pub mod qwen3_moe;
mod rope;
mod sentence;
mod seq2seq;
mod t5;
pub mod text;

pub use auto::{AutoModel, Model, Place};
pub use bert::Bert;
pub use blueprint::{Bias, Blueprint};
pub use config::Config;
pub use decoder::{Decoder, DecoderLayer, Pass, PassView, View};
pub use encoder::{EncoderInput, Keep, TextEncoder};
pub use error::ModelError;
pub use layer_kinds::LayerKind;
pub use model::{CausalLm, LmConfig, Output, Want};
pub use rope::RopeDefaults;
pub use sentence::{Length, Pooling, SentencePooling};
pub use seq2seq::{Seq2Seq, Source};
pub use t5::T5;
