use std::collections::HashMap;

use smoke_core::UnitId;

use super::ranking::Ranking;
use crate::eviction::{EvictionPolicy, EvictionRequest};

/// SIEVE (Zhang, Yang, Yue, Vigfusson and Rashmi, NSDI 2024): a queue in the order of loading and a hand that goes from
/// the oldest unit to the newest and round again.
///
/// A unit that was used again is marked. The hand takes the mark off what it passes, and evicts the first unit without
/// one; units keep their places, so what came in lately and is not used again goes soon. The use that a unit was loaded
/// for does not mark it. A unit that may not go is passed by and keeps its mark.
///
/// O(log n) for a use; a victim costs as much for each unit that the hand passes, which a use has paid for by its mark.
#[derive(Debug, Default)]
pub struct Sieve {
    clock: u64,
    queue: Ranking<u64>,
    marks: HashMap<UnitId, Mark>,
    /// The hand points at the first unit that was loaded at this time or later, else at the oldest.
    hand: u64,
}

/// What became of a unit since it was loaded, or since the hand passed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Unused,
    Used,
    UsedAgain,
}

impl EvictionPolicy for Sieve {
    fn on_insert(&mut self, unit: UnitId, _bytes: u64) {
        self.clock += 1;
        self.queue.set(unit, self.clock);
        self.marks.insert(unit, Mark::Unused);
    }

    fn on_access(&mut self, unit: UnitId) {
        if let Some(mark) = self.marks.get_mut(&unit) {
            *mark = if *mark == Mark::Unused { Mark::Used } else { Mark::UsedAgain };
        }
    }

    fn on_remove(&mut self, unit: UnitId) {
        self.queue.remove(unit);
        self.marks.remove(&unit);
    }

    fn victim(&mut self, request: &EvictionRequest<'_>) -> Option<UnitId> {
        // One round takes all marks off, the next finds a unit, if there is one.
        for _ in 0..2 * self.queue.len() {
            let (place, unit) = self.queue.at_least(self.hand).or_else(|| self.queue.at_least(0))?;
            // At the newest unit the hand goes back to the oldest, whatever is loaded in the meantime.
            self.hand = self.queue.at_least(place + 1).map_or(0, |(next, _)| next);
            if !request.is_candidate(unit) {
                continue;
            }
            match self.marks.get_mut(&unit) {
                Some(mark @ Mark::UsedAgain) => *mark = Mark::Used,
                _ => return Some(unit),
            }
        }
        None
    }
}
