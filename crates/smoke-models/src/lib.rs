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
mod config;
mod encoder;
mod error;
mod gpt2;
mod llama;
mod model;
pub mod parts;
mod sentence;
mod seq2seq;
mod t5;
pub mod text;

pub use auto::{AutoModel, Model, Place};
pub use bert::Bert;
pub use config::Config;
pub use encoder::{EncoderInput, Keep, TextEncoder};
pub use error::ModelError;
pub use gpt2::Gpt2;
pub use llama::Llama;
pub use model::{CausalLm, LmConfig, Output, Want};
pub use sentence::{Length, Pooling, SentencePooling};
pub use seq2seq::{Seq2Seq, Source};
pub use t5::T5;
