//! AVX2, FMA and F16C.
//!
//! [`Avx2`] is the proof that the machine has the three: it can only be had from [`Avx2::detect`], and only its methods
//! call what is compiled for them. Inside, everything is safe but loads and stores, which take references to arrays of
//! the right size.

mod block32;
mod block256;
mod dot;
mod float;
mod groups;
mod panel;
mod register;

use std::arch::is_x86_feature_detected;

use smoke_core::Encoding;

use super::Kernels;
use super::scalar::decode_blocks;
use crate::blocks;

/// Kernels for AVX2, FMA and F16C.
#[derive(Debug)]
pub(crate) struct Avx2 {
    _detected: (),
}

impl Avx2 {
    /// The kernels, if the machine can run them.
    pub(crate) fn detect() -> Option<&'static Self> {
        let detected = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        detected.then_some(&Self { _detected: () })
    }
}
