//! Whole-system tests.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in what tests share, too")]

mod attention;
mod experts;
mod gguf_twins;
mod golden_models;
mod memory;
mod models_table;
mod options;
mod smollm2;
mod tiny_models;
mod tokenizer_goldens;
#[cfg(feature = "wgpu")]
mod wgpu;
