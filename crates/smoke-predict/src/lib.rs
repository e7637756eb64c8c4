//! Predictors of which weights a model will use next.
//!
//! Whoever streams weights needs to know the future twice: prefetch asks what comes next
//! ([`Forecast::upcoming`]), eviction asks how far away a resident unit's next use is ([`Forecast::next_use`]). A
//! predictor answers both and learns from the accesses that it is told of ([`AccessPredictor::observe`]).
//!
//! | predictor | knows | for |
//! |---|---|---|
//! | [`CyclicPredictor`] | the order of one pass, which repeats, and what comes once before | dense models: the architecture tells the order |
//! | [`RoutedPredictor`] | the order of the shared weights; learns how often each expert is used, and listens to hints | mixtures of experts |
//! | [`experts::ExpertForecast`] | the same; predicts the experts of the next layers from those of this one | mixtures of experts whose routers cannot be asked |
//! | [`MarkovPredictor`] | nothing at first; learns which unit follows which | models whose order nobody told |
//! | [`OraclePredictor`] | a recording of what will happen | measuring how good the others are |
//!
//! [`experts`] has what predicts experts from what their routers saw. [`Scored`] wraps any of them and counts how often it was right, beside two baselines that cost nothing.
//!
//! This crate knows no bytes and no budget: what is worth loading is decided by `smoke-prefetch`, what is evicted by the
//! policies of `smoke-cache`.
//!
//! ```
//! use smoke_predict::{AccessPredictor, Access, CyclicPredictor, Forecast, NextUse, Step, UnitId};
//!
//! let mut predictor = CyclicPredictor::new((0..4).map(UnitId).collect::<Vec<_>>());
//! predictor.observe(Access { step: Step(0), unit: UnitId(0) });
//! assert_eq!(predictor.next_use(UnitId(1)), NextUse::In(1));
//! assert_eq!(predictor.next_use(UnitId(0)), NextUse::In(4));
//!
//! let mut soon = Vec::new();
//! predictor.upcoming(2, &mut soon);
//! assert_eq!(soon.iter().map(|expected| expected.unit).collect::<Vec<_>>(), [UnitId(1), UnitId(2)]);
//! ```
//!
//! # Features
//!
//! | feature | adds |
//! |---|---|
//! | `conformance` | the rules of [`AccessPredictor`], as checks to run on your own |
#![forbid(unsafe_code)]

#[cfg(feature = "conformance")]
pub mod conformance;
mod cyclic;
pub mod experts;
mod markov;
mod oracle;
mod predictor;
mod routed;
mod scored;

pub use cyclic::{CyclicPredictor, Schedule};
pub use markov::MarkovPredictor;
pub use oracle::OraclePredictor;
pub use predictor::AccessPredictor;
pub use routed::{RoutedPredictor, RoutedUnit};
pub use scored::{Accuracy, Scored};
pub use smoke_core::{Access, ExpectedUse, Forecast, NextUse, NoForecast, Step, UnitId};
