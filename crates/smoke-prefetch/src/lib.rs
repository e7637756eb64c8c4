//! Brings units of a model into memory just before they are needed, under one hard byte budget.
//!
//! This crate puts the others to work: a [`WeightSource`](smoke_storage::WeightSource) that holds the bytes, a
//! [`Cache`](smoke_cache::Cache) that holds what fits, an
//! [`AccessPredictor`](smoke_predict::AccessPredictor) that says what comes next. A [`Streamer`] hands out leases of
//! units, reads ahead on I/O threads while the caller computes, and charges every byte before it is read.
//!
//! The parts are there to be used alone: [`Loader`] (threads that load by priority, each unit once), and [`planner`]
//! (what to pin, what to read ahead: pure functions).
//!
//! It knows no tensors and no framework: a lease is bytes. For a model see `smoke-burn` and `smoke-runtime`.
//!
//! ```
//! use std::sync::Arc;
//! use smoke_core::{Budget, Encoding, UnitId};
//! use smoke_prefetch::Streamer;
//! use smoke_storage::{MemorySource, UnitMapBuilder, WeightSource};
//!
//! let tensors = (0..8).map(|i| (format!("layer.{i}"), Encoding::U8, vec![4096], vec![i as u8; 4096])).collect();
//! let source = MemorySource::new(tensors)?;
//! let mut map = UnitMapBuilder::new(1);
//! let mut parts = Vec::new();
//! for tensor in source.index().iter() {
//!     map.begin_unit();
//!     parts.push(map.push(tensor.extent));
//! }
//! let units = map.finish(source.index())?;
//!
//! // Room for three of the eight.
//! let streamer = Streamer::builder(Arc::new(source), units).budget(Budget::new(3 * 4096)).build()?;
//! for _pass in 0..2 {
//!     for (i, &part) in parts.iter().enumerate() {
//!         let lease = streamer.acquire(UnitId(i as u32))?;
//!         assert!(lease.part(part).iter().all(|&byte| byte == i as u8));
//!     }
//! }
//! assert!(streamer.budget().peak_bytes() <= 3 * 4096);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod ahead;
mod arrivals;
mod builder;
mod clock;
mod error;
mod gate;
mod lease;
mod leasing;
mod load;
mod loader;
mod observed;
pub mod planner;
mod queue;
mod reader;
mod retry;
mod room;
mod stats;
mod streamer;
mod warm;

pub use arrivals::Arrivals;
pub use builder::StreamerBuilder;
pub use clock::{Clock, SystemClock};
pub use error::StreamError;
pub use gate::Speculation;
pub use lease::UnitLease;
pub use load::{Load, LoadError};
pub use loader::Loader;
pub use observed::Observed;
pub use queue::Priority;
pub use retry::Retry;
pub use stats::{SpeculationStats, StreamStats};
pub use streamer::Streamer;
pub use warm::Warming;
