//! The adapter on modules in plain Burn style: the streamed module gives what the loaded one gives, on every backend.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in what tests share, too")]

mod attach;
mod foreign;
mod layout;
