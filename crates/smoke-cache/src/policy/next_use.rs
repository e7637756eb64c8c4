use std::cmp::Reverse;

use smoke_core::{Purpose, UnitId};

use crate::eviction::{Candidate, EvictionPolicy, EvictionRequest};

/// Evicts what is used furthest in the future: Belady's MIN (1966) with a forecast in the place of the future.
///
/// It remembers nothing; the forecast comes with each question. For a prefetch it never gives up a unit that is needed
/// before, or as soon as, the one that comes in.
#[derive(Clone, Copy, Debug, Default)]
pub struct NextUse;

impl EvictionPolicy for NextUse {
    fn on_insert(&mut self, _unit: UnitId, _bytes: u64) {}

    fn on_access(&mut self, _unit: UnitId) {}

    fn on_remove(&mut self, _unit: UnitId) {}

    fn victim(&mut self, request: &EvictionRequest<'_>) -> Option<UnitId> {
        let distance = |unit| request.forecast.next_use(unit).distance();
        // Of equals the first, so that the same question has the same answer.
        let by_distance = request.candidates.iter().map(|&Candidate { unit, .. }| (distance(unit), Reverse(unit)));
        let (furthest, Reverse(unit)) = by_distance.max()?;
        match request.incoming {
            Some(incoming) if incoming.purpose == Purpose::Prefetch && furthest <= distance(incoming.unit) => None,
            _ => Some(unit),
        }
    }
}
