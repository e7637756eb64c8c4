//! Behaviour of the loader and the streamer, on sources in memory that do what a test tells them.

mod loader;
mod model;
mod streamer;
