//! Tests of the whole crate against references that are not its own.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in what tests share, too")]

mod encode;
mod errors;
mod goldens;
mod products;
mod weights;
