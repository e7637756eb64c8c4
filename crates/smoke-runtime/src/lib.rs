//! Runs language models larger than memory.
//!
//! A thin facade: [`Runtime`] opens a model, plans what stays in memory under a byte budget and what streams from the
//! disk, and generates tokens, or embeds texts. The parts are crates of their own, re-exported here under short names.
#![forbid(unsafe_code)]

mod builder;
mod compressed;
mod embedder;
mod error;
mod experts;
mod generation;
mod held;
mod placement;
mod plan;
mod probe;
mod runtime;
mod session;
mod state;
mod statistics;
mod threads;

pub use builder::{POLICY_NAMES, RuntimeBuilder};
pub use compressed::{Compression, ParseCompressionError, Weighed};
pub use embedder::{EmbedOptions, Embedder, TooLong};
pub use error::RuntimeError;
pub use experts::{EXPERT_PREDICTOR_NAMES, ExpertScore};
pub use generation::{AtEnd, GenerateOptions, Generation, Token};
pub use placement::{ParsePlaceError, PlaceRule};
pub use plan::Plan;
pub use probe::{Limit, Prediction, Probe};
pub use runtime::{Prompt, Runtime};
pub use smoke_burn::DeviceKind;
pub use smoke_core::ByteSize;
pub use smoke_models::parts::KvEncoding;
pub use smoke_models::text::{Message, Sampling};
pub use smoke_models::{Length, Pooling};
pub use smoke_prefetch::Speculation;
pub use state::StateError;
pub use statistics::{Achieved, Statistics};
pub use threads::set_threads;

pub use smoke_burn as burn;
pub use smoke_cache as cache;
pub use smoke_compress as compress;
pub use smoke_convert as convert;
pub use smoke_core as core;
pub use smoke_models as models;
pub use smoke_predict as predict;
pub use smoke_prefetch as prefetch;
pub use smoke_quant as quant;
pub use smoke_storage as storage;
