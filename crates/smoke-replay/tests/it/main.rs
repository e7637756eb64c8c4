//! Traces as files, and replays beside known answers and brute force.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in what tests share, too")]

mod file;
mod known_answers;
mod laws;
