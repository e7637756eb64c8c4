//! Conversion as the users of this crate see it.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in what tests share, too")]

mod files;
mod formats;
mod refusals;
mod source;
