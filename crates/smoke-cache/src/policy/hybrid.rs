use std::collections::HashMap;

use smoke_core::{ExpectedUse, NextUse, UnitId};

use super::worth::{self, Worth};
use crate::eviction::{EvictionPolicy, EvictionRequest};

/// Asks the forecast where it knows, and the past where it does not.
///
/// A unit that is certainly used in *d* steps is worth 1/*d* uses per step. One of which the forecast knows nothing is
/// worth the rate of its uses so far: a count that halves every [half-life](Self::with_half_life), and goes on while the
/// unit is not loaded. One that is expected with probability *p* is worth *p*/*d* and 1 − *p* of its rate. The least worth
/// goes, so a unit that came in for one use leaves before those that are used often.
///
/// Mixtures of experts use some weights with every token and choose among others. [`by_name`](super::by_name) pins the
/// first: it puts this policy [inside `Pinned`](super::Pinned::otherwise).
///
/// A use costs O(1), a victim one question about the horizon and, for each candidate, one about its next use.
#[derive(Debug)]
pub struct Hybrid {
    horizon: u64,
    half_life: Option<u64>,
    clock: u64,
    /// Units that were loaded or used at any time; what is evicted keeps its count.
    counts: HashMap<UnitId, Count>,
    upcoming: Vec<ExpectedUse>,
    expected: HashMap<UnitId, ExpectedUse>,
}

/// Uses, as they counted at some step.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    uses: f64,
    step: u64,
}

impl Count {
    fn at(self, step: u64, half_life: f64) -> f64 {
        self.uses * (-((step - self.step) as f64) / half_life).exp2()
    }
}

/// Half-lives, where none was set: so many uses for each unit that was seen.
const USES_PER_UNIT: u64 = 8;

impl Hybrid {
    /// A use counts half after `steps` more uses, of whatever units. Unless set, it is eight times the number of units that
    /// were seen.
    pub fn with_half_life(self, steps: u64) -> Self {
        Self { half_life: Some(steps.max(1)), ..self }
    }

    /// How many steps of the forecast are looked at for uses that are not certain; 1024 unless set.
    pub fn with_horizon(self, steps: u64) -> Self {
        Self { horizon: steps, ..self }
    }

    fn half_life(&self) -> f64 {
        self.half_life.unwrap_or(USES_PER_UNIT * self.counts.len() as u64).max(1) as f64
    }

    /// Uses per step so far.
    fn rate(&self, unit: UnitId) -> f64 {
        let half_life = self.half_life();
        let uses = self.counts.get(&unit).map_or(0.0, |count| count.at(self.clock, half_life));
        // A unit that is used at each step counts half-life / ln 2.
        (uses * std::f64::consts::LN_2 / half_life).min(1.0)
    }

    fn worth(&self, unit: UnitId, next_use: NextUse) -> Worth {
        let uses_per_step = match (self.expected.get(&unit), next_use) {
            (Some(expected), _) => {
                worth::uses_per_step(expected) + (1.0 - f64::from(expected.probability)) * self.rate(unit)
            }
            (None, NextUse::In(distance)) => 1.0 / distance.max(1) as f64,
            (None, NextUse::Unknown) => self.rate(unit),
            (None, NextUse::Never) => 0.0,
        };
        Worth { uses_per_step, distance: next_use.distance() }
    }
}

impl Default for Hybrid {
    fn default() -> Self {
        Self {
            horizon: 1024,
            half_life: None,
            clock: 0,
            counts: HashMap::new(),
            upcoming: Vec::new(),
            expected: HashMap::new(),
        }
    }
}

impl EvictionPolicy for Hybrid {
    fn on_insert(&mut self, unit: UnitId, _bytes: u64) {
        self.counts.entry(unit).or_default();
    }

    fn on_access(&mut self, unit: UnitId) {
        self.clock += 1;
        let (step, half_life) = (self.clock, self.half_life());
        let count = self.counts.entry(unit).or_default();
        *count = Count { uses: count.at(step, half_life) + 1.0, step };
    }

    fn on_remove(&mut self, _unit: UnitId) {}

    fn victim(&mut self, request: &EvictionRequest<'_>) -> Option<UnitId> {
        worth::ask(request.forecast, self.horizon, &mut self.upcoming, &mut self.expected);
        worth::least(request, |unit| self.worth(unit, request.forecast.next_use(unit)))
    }
}
