//! What it is worth to keep a unit.

use std::cmp::Ordering;
use std::collections::HashMap;

use smoke_core::{ExpectedUse, Forecast, UnitId};

use crate::eviction::EvictionRequest;

/// What keeping a byte of a unit is worth.
#[derive(Clone, Copy, Debug)]
pub(super) struct Worth {
    /// How many uses are expected for each step that it is kept.
    pub(super) uses_per_step: f64,
    /// Steps to its next use, which decides between equals: the nearer is worth more.
    pub(super) distance: u64,
}

impl Worth {
    fn order(&self, other: &Self) -> Ordering {
        self.uses_per_step.total_cmp(&other.uses_per_step).then(other.distance.cmp(&self.distance))
    }
}

/// The uses that pay for keeping a unit until an expected one.
pub(super) fn uses_per_step(expected: &ExpectedUse) -> f64 {
    f64::from(expected.probability) / expected.distance.max(1) as f64
}

/// What a forecast expects within a horizon, by unit; `upcoming` is scratch.
pub(super) fn ask(
    forecast: &dyn Forecast,
    horizon: u64,
    upcoming: &mut Vec<ExpectedUse>,
    expected: &mut HashMap<UnitId, ExpectedUse>,
) {
    upcoming.clear();
    expected.clear();
    forecast.upcoming(horizon, upcoming);
    expected.extend(upcoming.iter().map(|use_| (use_.unit, *use_)));
}

/// The candidate that is worth least, of equals the first; `None` where a prefetch is worth no more.
pub(super) fn least(request: &EvictionRequest<'_>, worth: impl Fn(UnitId) -> Worth) -> Option<UnitId> {
    let candidates = request.candidates.iter().map(|candidate| (candidate.unit, worth(candidate.unit)));
    let (unit, least) = candidates.min_by(|(_, a), (_, b)| a.order(b))?;
    match request.incoming {
        Some(incoming) if request.is_prefetch() && worth(incoming.unit).order(&least).is_le() => None,
        _ => Some(unit),
    }
}
