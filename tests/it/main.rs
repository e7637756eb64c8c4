//! Whole-system tests.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in what tests share, too")]

mod attention;
mod compressed;
mod convert;
mod encoders;
mod expert_predictors;
mod experts;
mod gguf_twins;
mod golden_models;
mod memory;
mod minilm;
mod models_table;
mod moe_traces;
mod options;
mod placement;
mod seq2seq;
mod smollm2;
mod tiny_models;
mod tokenizer_goldens;
mod watched;
#[cfg(feature = "wgpu")]
mod wgpu;
