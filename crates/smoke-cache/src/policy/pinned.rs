use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use smoke_core::{Purpose, UnitId};

use super::NextUse;
use crate::eviction::{Candidate, EvictionPolicy, EvictionRequest};

/// A fixed set of units stays, the others stream through what memory is left.
///
/// For a schedule that repeats this is within one unit of MIN, and which units stream can be chosen: spread over the
/// pass, they keep the disk busy all the time. Of the others it evicts what is used furthest in the future, unless
/// [another policy](Self::otherwise) is to choose among them. A pinned unit goes only for a demand, or for other memory,
/// that nothing else can make room for.
#[derive(Debug)]
pub struct Pinned {
    pinned: PinnedUnits,
    rest: Box<dyn EvictionPolicy>,
    /// Scratch: the candidates that are not pinned.
    unpinned: Vec<Candidate>,
}

impl Pinned {
    /// Pins these units.
    pub fn new(pinned: impl IntoIterator<Item = UnitId>) -> Self {
        Self::following(PinnedUnits::new(pinned))
    }

    /// Pins whatever is in `pinned` at the time.
    pub fn following(pinned: PinnedUnits) -> Self {
        Self { pinned, rest: Box::new(NextUse), unpinned: Vec::new() }
    }

    /// Lets `policy` choose among the units that are not pinned.
    pub fn otherwise(self, policy: impl EvictionPolicy + 'static) -> Self {
        Self { rest: Box::new(policy), ..self }
    }
}

impl EvictionPolicy for Pinned {
    fn on_insert(&mut self, unit: UnitId, bytes: u64) {
        self.rest.on_insert(unit, bytes);
    }

    fn on_access(&mut self, unit: UnitId) {
        self.rest.on_access(unit);
    }

    fn on_remove(&mut self, unit: UnitId) {
        self.rest.on_remove(unit);
    }

    fn victim(&mut self, request: &EvictionRequest<'_>) -> Option<UnitId> {
        let pinned = self.pinned.units.read().unwrap_or_else(PoisonError::into_inner);
        self.unpinned.clear();
        self.unpinned.extend(request.candidates.iter().filter(|candidate| !pinned.contains(&candidate.unit)));
        if !self.unpinned.is_empty() {
            return self.rest.victim(&EvictionRequest { candidates: &self.unpinned, ..*request });
        }
        let is_prefetch = request.incoming.is_some_and(|incoming| incoming.purpose == Purpose::Prefetch);
        if is_prefetch { None } else { NextUse.victim(request) }
    }
}

/// The set of units that a [`Pinned`] policy keeps; clones share it, so that a plan can be changed while the cache is
/// in use.
#[derive(Clone, Debug, Default)]
pub struct PinnedUnits {
    units: Arc<RwLock<HashSet<UnitId>>>,
}

impl PinnedUnits {
    /// These units.
    pub fn new(units: impl IntoIterator<Item = UnitId>) -> Self {
        Self { units: Arc::new(RwLock::new(units.into_iter().collect())) }
    }

    /// Pins these units instead.
    pub fn set(&self, units: impl IntoIterator<Item = UnitId>) {
        *self.units.write().unwrap_or_else(PoisonError::into_inner) = units.into_iter().collect();
    }
}
