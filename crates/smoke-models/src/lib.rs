//! Language models built from streamed layers.
//!
//! A model here is a description: its layers name weights and hold none. [`AutoModel`] reads a checkpoint's
//! configuration, builds the architecture and gives every weight its place; a forward pass takes the weights from
//! [`smoke_burn::Weights`] when it needs them. [`text`] turns strings into tokens and back, and logits into tokens.
//!
//! To generate text within a memory budget in a few lines, see `smoke-runtime`. To stream a Burn module of your own,
//! unchanged, see `smoke-burn`.
#![forbid(unsafe_code)]

mod auto;
mod config;
mod error;
mod gpt2;
mod llama;
mod model;
pub mod parts;
pub mod text;

pub use auto::{AutoModel, Place};
pub use config::Config;
pub use error::ModelError;
pub use gpt2::Gpt2;
pub use llama::Llama;
pub use model::{CausalLm, LmConfig, Output, Want};
