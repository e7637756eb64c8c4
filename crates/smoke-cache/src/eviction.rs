use std::fmt::Debug;

use smoke_core::{Forecast, Purpose, UnitId};

/// Chooses what leaves a cache that is full.
///
/// # Contract
/// The cache calls it under its lock, so it must not call the cache. [`on_insert`](Self::on_insert) follows the end of
/// every load, [`on_access`](Self::on_access) every use, [`on_remove`](Self::on_remove) every eviction; between them a
/// unit is known. [`victim`](Self::victim) only chooses: the cache asks until the new unit fits and then evicts all or,
/// if it cannot fit, nothing, so a unit that was named must not be forgotten before `on_remove`.
pub trait EvictionPolicy: Debug + Send {
    /// `unit`, of `bytes` bytes, was loaded.
    fn on_insert(&mut self, unit: UnitId, bytes: u64);

    /// `unit` is used.
    fn on_access(&mut self, unit: UnitId);

    /// `unit` was evicted: the only moment to forget it.
    fn on_remove(&mut self, unit: UnitId);

    /// Names one of the request's candidates. `None` says that what comes in is worth less than what is here: allowed
    /// for a prefetch only; for a demand, or for memory other than units, an answer is required while there are
    /// candidates.
    fn victim(&mut self, request: &EvictionRequest<'_>) -> Option<UnitId>;
}

macro_rules! forward {
    () => {
        fn on_insert(&mut self, unit: UnitId, bytes: u64) {
            (**self).on_insert(unit, bytes);
        }
        fn on_access(&mut self, unit: UnitId) {
            (**self).on_access(unit);
        }
        fn on_remove(&mut self, unit: UnitId) {
            (**self).on_remove(unit);
        }
        fn victim(&mut self, request: &EvictionRequest<'_>) -> Option<UnitId> {
            (**self).victim(request)
        }
    };
}

impl<P: EvictionPolicy + ?Sized> EvictionPolicy for Box<P> {
    forward!();
}

impl<P: EvictionPolicy + ?Sized> EvictionPolicy for &mut P {
    forward!();
}

/// What a policy is asked.
#[derive(Clone, Copy, Debug)]
pub struct EvictionRequest<'a> {
    /// The unit that needs room; `None` when other memory does, such as keys and values.
    pub incoming: Option<Incoming>,
    /// Bytes that are still missing.
    pub shortfall_bytes: u64,
    /// Units that may go: loaded, not leased, not named before in this request's round and, for a prefetch, not
    /// forecast to be needed as soon as what comes in. In the order of their ids.
    pub candidates: &'a [Candidate],
    /// What is known of the future.
    pub forecast: &'a dyn Forecast,
}

impl EvictionRequest<'_> {
    /// Whether `unit` is one of the candidates, in O(log n).
    pub fn is_candidate(&self, unit: UnitId) -> bool {
        self.candidates.binary_search_by_key(&unit, |candidate| candidate.unit).is_ok()
    }

    /// Whether nobody waits for what comes in.
    pub fn is_prefetch(&self) -> bool {
        self.incoming.is_some_and(|incoming| incoming.purpose == Purpose::Prefetch)
    }
}

/// A unit that may be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The unit.
    pub unit: UnitId,
    /// Its size.
    pub bytes: u64,
}

/// A unit that wants to come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// The unit.
    pub unit: UnitId,
    /// Its size.
    pub bytes: u64,
    /// Whether somebody waits for it.
    pub purpose: Purpose,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Lru;

    #[test]
    fn policies_are_object_safe_and_forwarded() {
        let mut boxed: Box<dyn EvictionPolicy> = Box::new(Lru::default());
        let forwarded: &mut dyn EvictionPolicy = &mut &mut boxed;
        forwarded.on_insert(UnitId(1), 1);
    }
}
