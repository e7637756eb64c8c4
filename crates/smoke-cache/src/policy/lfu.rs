use std::collections::HashMap;

use smoke_core::UnitId;

use crate::eviction::{EvictionPolicy, EvictionRequest};

/// Least frequently used since it was loaded; of equals, the least recently used.
#[derive(Debug, Default)]
pub struct Lfu {
    clock: u64,
    uses: HashMap<UnitId, Uses>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Uses {
    count: u64,
    latest: u64,
}

impl Lfu {
    fn touch(&mut self, unit: UnitId, uses: u64) {
        self.clock += 1;
        let entry = self.uses.entry(unit).or_default();
        *entry = Uses { count: entry.count + uses, latest: self.clock };
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
        self.uses.remove(&unit);
    }

    fn victim(&mut self, request: &EvictionRequest<'_>) -> Option<UnitId> {
        let least = request.candidates.iter().min_by_key(|candidate| self.uses.get(&candidate.unit));
        least.map(|candidate| candidate.unit)
    }
}
