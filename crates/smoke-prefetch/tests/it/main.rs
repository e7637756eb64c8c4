//! Behaviour of the loader and the streamer, on sources in memory that do what a test tells them.

#![allow(clippy::unwrap_used, reason = "tests, and what they share")]

mod experts;
mod laws;
mod loader;
mod model;
mod reads;
mod room;
mod streamer;
mod warm;
