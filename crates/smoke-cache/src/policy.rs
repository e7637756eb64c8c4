//! What to evict: the policies that come with the cache.
//!
//! | policy | evicts | good for |
//! |---|---|---|
//! | [`NextUse`] | what is used furthest in the future, by forecast (Belady 1966) | whatever can be forecast |
//! | [`Pinned`] | only what is not in a fixed set | a schedule that repeats: a dense model |
//! | [`Lru`] | what was not used for longest | accesses that cluster in time; never a scan |
//! | [`Lfu`] | what was used least | a few units that are used far more than others |
//! | [`Fifo`] | what was loaded first | comparison |

mod fifo;
mod lfu;
mod lru;
mod next_use;
mod pinned;

pub use fifo::Fifo;
pub use lfu::Lfu;
pub use lru::Lru;
pub use next_use::NextUse;
pub use pinned::{Pinned, PinnedUnits};

use crate::eviction::EvictionPolicy;

/// The names that [`by_name`] knows.
pub const NAMES: &[&str] = &["next-use", "lru", "lfu", "fifo"];

/// A fresh policy of a name in [`NAMES`]. [`Pinned`] has none here, since it needs to be told what is pinned.
pub fn by_name(name: &str) -> Option<Box<dyn EvictionPolicy>> {
    match name {
        "next-use" => Some(Box::new(NextUse)),
        "lru" => Some(Box::new(Lru::default())),
        "lfu" => Some(Box::new(Lfu::default())),
        "fifo" => Some(Box::new(Fifo::default())),
        _ => None,
    }
}
