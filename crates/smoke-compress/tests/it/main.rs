//! The codecs and the tier, seen from outside.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in what tests share, too")]

mod codecs;
mod tier;
