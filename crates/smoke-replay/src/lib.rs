//! Traces of which weights a model used, and a laboratory that replays them against any policy, predictor and budget.
//!
//! A hit rate alone proves nothing: [`Laboratory`] puts policies beside one another and beside Belady's MIN, which no
//! policy passes, on the same trace. A [`Trace`] is recorded while a model runs ([`TraceWriter`]), read from a file
//! ([`Trace::open`], or [`TraceReader`] record by record), or made up ([`synthetic`]). [`chart`] draws the result.
//!
//! Nothing is read from a model here, and nothing is computed: only the cache and the predictors run, as they do beneath a
//! model, but for reading ahead. To stream weights see `smoke-prefetch`.
//!
//! ```
//! use smoke_replay::{Laboratory, synthetic};
//!
//! // Ten units in turn, and room for six: what was used last is what is needed last.
//! let trace = synthetic::dense(10, 1000, 50);
//! let mut laboratory = Laboratory::new(&trace);
//! let comparison = laboratory.named_policy("next-use")?.named_policy("lru")?.at(6000)?;
//! assert_eq!(comparison.outcomes[1].1.byte_hit_rate(), 0.0);
//! assert_eq!(comparison.outcomes[0].1.hit_bytes, comparison.min.hit_bytes);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The format
#![doc = include_str!("format.md")]
#![forbid(unsafe_code)]

pub mod chart;
mod format;
mod laboratory;
pub mod predictors;
mod reader;
mod recorder;
mod replay;
pub mod synthetic;
mod trace;
mod writer;

pub use laboratory::{Comparison, Laboratory, UnknownName};
pub use reader::{Record, TraceError, TraceReader};
pub use recorder::Recorder;
pub use replay::{Outcome, ReplayError, replay};
pub use trace::Trace;
pub use writer::{RecordError, TraceWriter};
