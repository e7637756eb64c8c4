use std::collections::HashMap;

use smoke_core::{ExpectedUse, UnitId};

use super::worth::{self, Worth};
use crate::eviction::{EvictionPolicy, EvictionRequest};

/// Next use with probabilities: evicts what is least worth its bytes until it may be used.
///
/// A unit that the forecast expects within the horizon with probability *p* in *d* steps is worth *p*/*d*: to keep it
/// costs its bytes for *d* steps, and saves reading as many with probability *p* (what LHD estimates from the past, Beckmann,
/// Chen and Cidon, NSDI 2018, stands in the forecast here). So the size of a unit cancels out, and for certain uses the
/// order is that of [`NextUse`](super::NextUse). What is not expected within the horizon is worth less than what is, and
/// goes in the order of [`NextUse`](super::NextUse).
///
/// A victim costs one question about the horizon and, for each candidate, one about its next use.
#[derive(Debug)]
pub struct ProbableUse {
    horizon: u64,
    upcoming: Vec<ExpectedUse>,
    expected: HashMap<UnitId, ExpectedUse>,
}

impl ProbableUse {
    /// Looks so many steps ahead.
    pub fn within(horizon: u64) -> Self {
        Self { horizon, upcoming: Vec::new(), expected: HashMap::new() }
    }
}

impl Default for ProbableUse {
    /// Looks 1024 steps ahead.
    fn default() -> Self {
        Self::within(1024)
    }
}

impl EvictionPolicy for ProbableUse {
    fn on_insert(&mut self, _unit: UnitId, _bytes: u64) {}

    fn on_access(&mut self, _unit: UnitId) {}

    fn on_remove(&mut self, _unit: UnitId) {}

    fn victim(&mut self, request: &EvictionRequest<'_>) -> Option<UnitId> {
        worth::ask(request.forecast, self.horizon, &mut self.upcoming, &mut self.expected);
        worth::least(request, |unit| Worth {
            uses_per_step: self.expected.get(&unit).map_or(0.0, worth::uses_per_step),
            distance: request.forecast.next_use(unit).distance(),
        })
    }
}
