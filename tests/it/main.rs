//! Whole-system tests.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in what tests share, too")]

mod memory;
mod moe_traces;
mod smollm2;
mod tiny_models;
mod tokenizer_goldens;
#[cfg(feature = "wgpu")]
mod wgpu;
