//! What to evict: the policies that come with the cache.
//!
//! | policy | evicts | good for |
//! |---|---|---|
//! | [`NextUse`] | what is used furthest in the future, by forecast (Belady 1966) | whatever can be forecast |
//! | [`ProbableUse`] | what is least likely used soon, by forecast | forecasts that are not certain |
//! | [`Pinned`] | only what is not in a fixed set | a schedule that repeats: a dense model |
//! | [`Hybrid`] | by forecast, and by frequency where there is none | a mixture of experts |
//! | [`PerLayer`] | within the layer that is above its share | a mixture of experts that nobody can forecast |
//! | [`Lru`] | what was not used for longest | accesses that cluster in time; never a scan |
//! | [`Lfu`] | what was used least | a few units that are used far more than others |
//! | [`S3Fifo`] | what was not used again soon after loading (2023) | a few favourites among many that are used once |
//! | [`Sieve`] | the same, with one queue (2024) | the same |
//! | [`Fifo`] | what was loaded first | comparison |
//!
//! [`by_name`] makes each of them. `docs/policies.md` has what they hit on synthetic traces.

mod fifo;
mod hybrid;
mod lfu;
mod lru;
mod next_use;
mod per_layer;
mod pinned;
mod probable_use;
mod ranking;
mod s3_fifo;
mod sieve;
mod worth;

pub use fifo::Fifo;
pub use hybrid::Hybrid;
pub use lfu::Lfu;
pub use lru::Lru;
pub use next_use::NextUse;
pub use per_layer::{PerLayer, Within};
pub use pinned::{Pinned, PinnedUnits};
pub use probable_use::ProbableUse;
pub use s3_fifo::S3Fifo;
pub use sieve::Sieve;
use smoke_core::UnitInfo;

use crate::eviction::EvictionPolicy;

/// The names that [`by_name`] knows.
pub const NAMES: &[&str] = &[
    "pinned",
    "hybrid",
    "next-use",
    "probable-use",
    "per-layer-lru",
    "per-layer-lfu",
    "lru",
    "lfu",
    "s3-fifo",
    "sieve",
    "fifo",
];

/// What is known of the units before a policy is made; nothing by default.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// All units, by number.
    pub units: Vec<UnitInfo>,
    /// Those that stay, for the policies `pinned` and `hybrid`.
    pub pinned: PinnedUnits,
}

/// A fresh policy of a name in [`NAMES`].
///
/// ```
/// use smoke_cache::policy::{self, Known};
/// assert!(policy::by_name("s3-fifo", &Known::default()).is_some());
/// assert!(policy::by_name("clairvoyant", &Known::default()).is_none());
/// ```
pub fn by_name(name: &str, known: &Known) -> Option<Box<dyn EvictionPolicy>> {
    let pinned = || Pinned::following(known.pinned.clone());
    Some(match name {
        "pinned" => Box::new(pinned()),
        "hybrid" => Box::new(pinned().otherwise(Hybrid::default())),
        "next-use" => Box::new(NextUse),
        "probable-use" => Box::new(ProbableUse::default()),
        "per-layer-lru" => Box::new(PerLayer::new(&known.units, Within::Recency)),
        "per-layer-lfu" => Box::new(PerLayer::new(&known.units, Within::Frequency)),
        "lru" => Box::new(Lru::default()),
        "lfu" => Box::new(Lfu::default()),
        "s3-fifo" => Box::new(S3Fifo::default()),
        "sieve" => Box::new(Sieve::default()),
        "fifo" => Box::new(Fifo::default()),
        _ => return None,
    })
}
