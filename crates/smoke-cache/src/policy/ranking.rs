use std::collections::{BTreeSet, HashMap};

use smoke_core::UnitId;

use crate::eviction::EvictionRequest;

/// Units in the order of a key, the smallest first; of equal keys the unit of the smaller number.
///
/// Changing a key and finding the first both take O(log n) for n units; what stands before the first and may not go, such
/// as units in use, is stepped over.
#[derive(Debug)]
pub(super) struct Ranking<K> {
    keys: HashMap<UnitId, K>,
    order: BTreeSet<(K, UnitId)>,
}

impl<K> Default for Ranking<K> {
    fn default() -> Self {
        Self { keys: HashMap::new(), order: BTreeSet::new() }
    }
}

impl<K: Copy + Ord> Ranking<K> {
    pub(super) fn set(&mut self, unit: UnitId, key: K) {
        if let Some(old) = self.keys.insert(unit, key) {
            self.order.remove(&(old, unit));
        }
        self.order.insert((key, unit));
    }

    pub(super) fn remove(&mut self, unit: UnitId) {
        if let Some(key) = self.keys.remove(&unit) {
            self.order.remove(&(key, unit));
        }
    }

    pub(super) fn key(&self, unit: UnitId) -> Option<K> {
        self.keys.get(&unit).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The first unit that may go.
    pub(super) fn first(&self, request: &EvictionRequest<'_>) -> Option<UnitId> {
        self.order.iter().map(|&(_, unit)| unit).find(|&unit| request.is_candidate(unit))
    }

    /// The first unit whose key is at least `key`.
    pub(super) fn at_least(&self, key: K) -> Option<(K, UnitId)> {
        self.order.range((key, UnitId(0))..).next().copied()
    }
}
