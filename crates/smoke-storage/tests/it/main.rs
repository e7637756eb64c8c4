//! Formats, readers and unit maps against independent readings, damaged files and random cuts.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in what tests share, too")]

mod allocations;
mod conformance;
mod damage;
mod files;
mod gguf;
mod hostile;
mod memory;
mod messages;
mod pack;
mod page_cache;
mod pickles;
mod pytorch;
mod readers;
mod safetensors;
mod shrinking;
mod unit_map;
