use smoke_core::UnitId;

use super::ranking::Ranking;
use crate::eviction::{EvictionPolicy, EvictionRequest};

/// Least recently used. On a cyclic scan that does not fit it never hits: what it evicts is always what comes next.
#[derive(Debug, Default)]
pub struct Lru {
    clock: u64,
    used: Ranking<u64>,
}

impl Lru {
    fn touch(&mut self, unit: UnitId) {
        self.clock += 1;
        self.used.set(unit, self.clock);
    }
}

impl EvictionPolicy for Lru {
    fn on_insert(&mut self, unit: UnitId, _bytes: u64) {
        self.touch(unit);
    }

    fn on_access(&mut self, unit: UnitId) {
        self.touch(unit);
    }

    fn on_remove(&mut self, unit: UnitId) {
        self.used.remove(unit);
    }

    fn victim(&mut self, request: &EvictionRequest<'_>) -> Option<UnitId> {
        self.used.first(request)
    }
}
