//! Compressed copies of weights in memory, between the cache and the disk.
//!
//! A [`CompressedTier`] wraps any [`WeightSource`](smoke_storage::WeightSource). What is read through it a second time it
//! keeps, compressed, as long as its share of the byte budget has room, and serves from there. It does so only where that
//! is quicker: the first bytes read are samples, and unless they are decoded faster than the source is read, nothing is
//! kept and the share is given back.
//!
//! Codecs are lossless: [`Codec`] is the trait, [`codec::by_name`] finds those that are built in.
//!
//! ```
//! use std::sync::Arc;
//!
//! use smoke_compress::{CompressedTier, Rule, codec};
//! use smoke_core::{Budget, Encoding};
//! use smoke_storage::{MemorySource, WeightSource};
//!
//! let source = MemorySource::new(vec![("w".to_owned(), Encoding::F32, vec![25_000], vec![0; 100_000])])?;
//! let share = Budget::new(1 << 30).try_acquire(4 << 20).expect("the budget is larger");
//! let codec = codec::by_name("lz4").expect("it is built in");
//! let tier = CompressedTier::new(Arc::new(source), codec, share).with_rule(Rule::Always);
//!
//! let extent = tier.index().get("w").expect("it was given").extent;
//! let mut bytes = vec![1; 100_000];
//! for _ in 0..3 {
//!     tier.read_at(extent, &mut bytes)?;
//! }
//! assert_eq!((bytes, tier.report().served_bytes), (vec![0; 100_000], 100_000));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod clock;
pub mod codec;
mod measurement;
mod pieces;
mod report;
mod tier;

pub use clock::{Clock, SystemClock};
pub use codec::{Codec, CodecError};
pub use measurement::{Measurement, Rule};
pub use report::TierReport;
pub use tier::CompressedTier;
