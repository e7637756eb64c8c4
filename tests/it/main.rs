//! Whole-system tests.

mod memory;
mod smollm2;
mod tiny_models;
#[cfg(feature = "wgpu")]
mod wgpu;
