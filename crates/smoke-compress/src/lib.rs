//! Compressed copies of weights in memory, between the cache and the disk.
//!
//! A [`CompressedTier`] wraps any [`WeightSource`](smoke_storage::WeightSource). It is told what to keep, and serves that
//! from copies in a share of the byte budget. Whether that is quicker than reading depends on the disk, the processor and
//! the weights: a [`Sample`] says what a codec makes of them, and [`Pass::offer`] weighs it: the memory that copies take
//! holds no weights, and decoding takes processor time.
//!
//! Codecs are lossless: [`Codec`] is the trait, [`codec::by_name`] finds those that are built in.
//!
//! ```
//! use std::sync::Arc;
//!
//! use smoke_compress::{CompressedTier, codec};
//! use smoke_core::{Budget, Encoding};
//! use smoke_storage::{MemorySource, WeightSource};
//!
//! let source = MemorySource::new(vec![("w".to_owned(), Encoding::F32, vec![25_000], vec![0; 100_000])])?;
//! let tier = CompressedTier::new(Arc::new(source), codec::by_name("lz4").expect("it is built in"));
//!
//! let extent = tier.index().get("w").expect("it was given").extent;
//! let share = Budget::new(1 << 30).try_acquire(4 << 20).expect("the budget is larger");
//! tier.keep([extent], share);
//! let mut bytes = vec![1; 100_000];
//! for _ in 0..2 {
//!     tier.read_at(extent, &mut bytes)?;
//! }
//! assert_eq!((bytes, tier.report().served_bytes), (vec![0; 100_000], 100_000));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod codec;
mod pieces;
mod rule;
mod sample;
mod tier;

pub use codec::{Codec, CodecError};
pub use rule::{MAX_RATIO, Offer, Pass};
pub use sample::Sample;
pub use tier::{CompressedTier, TierReport};
