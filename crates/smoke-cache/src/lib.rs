//! A cache of variable-size units under a hard byte budget.
//!
//! [`Cache`] holds loaded units; what to evict is an [`EvictionPolicy`]'s choice, made from candidates and a forecast.
//! Bytes are reserved before anything is loaded ([`Reservation`]), a unit in use is held by a [`Lease`] and never
//! evicted, and the peak of the [`Budget`] is the truth about memory. [`bound`] tells how well any policy could have
//! done. The cache loads nothing itself and predicts nothing: see `smoke-prefetch` and `smoke-predict`.
//!
//! ```
//! use smoke_cache::{Budget, Cache, Incoming, policy::Lru};
//! use smoke_core::{NoForecast, Purpose, UnitId};
//!
//! let cache: Cache<Vec<u8>> = Cache::new(Budget::new(10), Lru::default());
//! for unit in [0, 1, 2].map(UnitId) {
//!     let incoming = Incoming { unit, bytes: 4, purpose: Purpose::Demand };
//!     let reservation = cache.reserve(incoming, &NoForecast)?;
//!     let lease = reservation.fill(vec![unit.0 as u8; 4]);
//!     assert_eq!(lease[0], unit.0 as u8);
//! }
//! assert!(!cache.contains(UnitId(0)), "the oldest made room");
//! assert_eq!(cache.budget().peak_bytes(), 8);
//! # Ok::<(), smoke_cache::ReserveError>(())
//! ```
//!
//! | feature | what it adds |
//! |---|---|
//! | `conformance` | rules that every policy must keep, to run against your own |
#![forbid(unsafe_code)]

pub mod bound;
mod cache;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod eviction;
mod lease;
pub mod policy;
mod reservation;
mod state;
mod stats;

pub use cache::{Cache, Residency};
pub use error::ReserveError;
pub use eviction::{Candidate, EvictionPolicy, EvictionRequest, Incoming};
pub use lease::Lease;
pub use reservation::{Reservation, Spare};
pub use smoke_core::{Budget, Permit};
pub use stats::CacheStats;
