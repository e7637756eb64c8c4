//! The words that the Smoke Runtime crates share.
//!
//! Smoke Runtime runs models larger than memory: weights lie on disk, flow into memory just before they are needed, and
//! are evicted by what is known of the future. This crate holds only the types that stand in the public signatures of
//! more than one crate: what is loaded ([`UnitId`]), when it is used ([`Step`], [`Access`]), what is expected
//! ([`Forecast`]), how weights are encoded ([`Encoding`]) and the ledger that every byte is drawn from ([`Budget`]).
//! It has no dependencies, does no I/O, starts no threads and reads no clocks.
//!
//! It is not where policies, predictors or readers live: see `smoke-cache`, `smoke-predict` and `smoke-storage`.
//!
//! ```
//! use smoke_core::Budget;
//!
//! let budget = Budget::new(1_000);
//! let permit = budget.try_acquire(600).expect("600 of 1000 bytes are free");
//! assert!(budget.try_acquire(600).is_none());
//! drop(permit);
//! assert_eq!(budget.used_bytes(), 0);
//! assert_eq!(budget.peak_bytes(), 600);
//! ```
#![forbid(unsafe_code)]

mod budget;
mod byte_size;
mod encoding;
mod forecast;
mod purpose;
mod step;
mod unit;

pub use budget::{Budget, Permit};
pub use byte_size::{ByteSize, ParseByteSizeError};
pub use encoding::Encoding;
pub use forecast::{ExpectedUse, Forecast, NextUse, NoForecast};
pub use purpose::Purpose;
pub use step::{Access, Step};
pub use unit::{UnitId, UnitInfo, UnitKind};
