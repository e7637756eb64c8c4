use std::collections::HashMap;

use smoke_core::UnitId;

use crate::eviction::{EvictionPolicy, EvictionRequest};

/// Least recently used. On a cyclic scan that does not fit it never hits: what it evicts is always what comes next.
#[derive(Debug, Default)]
pub struct Lru {
    clock: u64,
    used: HashMap<UnitId, u64>,
}

impl Lru {
    fn touch(&mut self, unit: UnitId) {
        self.clock += 1;
        self.used.insert(unit, self.clock);
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
        self.used.remove(&unit);
    }

    fn victim(&mut self, request: &EvictionRequest<'_>) -> Option<UnitId> {
        let oldest = request.candidates.iter().min_by_key(|candidate| self.used.get(&candidate.unit));
        oldest.map(|candidate| candidate.unit)
    }
}
