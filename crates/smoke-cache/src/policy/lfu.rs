use smoke_core::UnitId;

use super::ranking::Ranking;
use crate::eviction::{EvictionPolicy, EvictionRequest};

/// Least frequently used since it was loaded; of equals, the least recently used.
#[derive(Debug, Default)]
pub struct Lfu {
    clock: u64,
    uses: Ranking<Uses>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Uses {
    count: u64,
    latest: u64,
}

impl Lfu {
    fn touch(&mut self, unit: UnitId, uses: u64) {
        self.clock += 1;
        let count = self.uses.key(unit).map_or(0, |before| before.count) + uses;
        self.uses.set(unit, Uses { count, latest: self.clock });
    }
}

impl EvictionPolicy for Lfu {
    fn on_insert(&mut self, unit: UnitId, _bytes: u64) {
        self.touch(unit, 0);
    }

    fn on_access(&mut self, unit: UnitId) {
        self.touch(unit, 1);
    }

    fn on_remove(&mut self, unit: UnitId) {
        self.uses.remove(unit);
    }

    fn victim(&mut self, request: &EvictionRequest<'_>) -> Option<UnitId> {
        self.uses.first(request)
    }
}
