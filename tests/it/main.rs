//! Whole-system tests.

mod memory;
mod smollm2;
mod tiny_models;
mod tokenizer_goldens;
#[cfg(feature = "wgpu")]
mod wgpu;
