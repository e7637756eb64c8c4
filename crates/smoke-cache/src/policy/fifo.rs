use std::collections::HashMap;

use smoke_core::UnitId;

use crate::eviction::{EvictionPolicy, EvictionRequest};

/// First in, first out.
#[derive(Debug, Default)]
pub struct Fifo {
    clock: u64,
    inserted: HashMap<UnitId, u64>,
}

impl EvictionPolicy for Fifo {
    fn on_insert(&mut self, unit: UnitId, _bytes: u64) {
        self.clock += 1;
        self.inserted.insert(unit, self.clock);
    }

    fn on_access(&mut self, _unit: UnitId) {}

    fn on_remove(&mut self, unit: UnitId) {
        self.inserted.remove(&unit);
    }

    fn victim(&mut self, request: &EvictionRequest<'_>) -> Option<UnitId> {
        let first = request.candidates.iter().min_by_key(|candidate| self.inserted.get(&candidate.unit));
        first.map(|candidate| candidate.unit)
    }
}
