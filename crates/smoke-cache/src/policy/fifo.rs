use smoke_core::UnitId;

use super::ranking::Ranking;
use crate::eviction::{EvictionPolicy, EvictionRequest};

/// First in, first out.
#[derive(Debug, Default)]
pub struct Fifo {
    clock: u64,
    inserted: Ranking<u64>,
}

impl EvictionPolicy for Fifo {
    fn on_insert(&mut self, unit: UnitId, _bytes: u64) {
        self.clock += 1;
        self.inserted.set(unit, self.clock);
    }

    fn on_access(&mut self, _unit: UnitId) {}

    fn on_remove(&mut self, unit: UnitId) {
        self.inserted.remove(unit);
    }

    fn victim(&mut self, request: &EvictionRequest<'_>) -> Option<UnitId> {
        self.inserted.first(request)
    }
}
