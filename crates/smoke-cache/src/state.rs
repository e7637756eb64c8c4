//! Every decision of the cache: pure, single-threaded, without values.

use smoke_core::{Forecast, NextUse, Purpose, UnitId};

use crate::error::ReserveError;
use crate::eviction::{Candidate, EvictionPolicy, EvictionRequest, Incoming};
use crate::stats::CacheStats;

/// What the cache knows of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Empty,
    Reserved,
    Loaded { bytes: u64, leases: u32, used: bool },
}

#[derive(Debug)]
pub(crate) struct State {
    /// By unit number, which is dense.
    slots: Vec<Slot>,
    policy: Box<dyn EvictionPolicy>,
    candidates: Vec<Candidate>,
    victims: Vec<UnitId>,
    pub(crate) stats: CacheStats,
}

impl State {
    pub(crate) fn new(policy: Box<dyn EvictionPolicy>) -> Self {
        Self { slots: Vec::new(), policy, candidates: Vec::new(), victims: Vec::new(), stats: CacheStats::default() }
    }

    fn slot(&mut self, unit: UnitId) -> &mut Slot {
        if self.slots.len() <= unit.index() {
            self.slots.resize(unit.index() + 1, Slot::Empty);
        }
        &mut self.slots[unit.index()]
    }

    pub(crate) fn is_loaded(&self, unit: UnitId) -> bool {
        matches!(self.slots.get(unit.index()), Some(Slot::Loaded { .. }))
    }

    /// Marks a unit as being loaded.
    pub(crate) fn begin(&mut self, unit: UnitId) -> Result<(), ReserveError> {
        match self.slot(unit) {
            Slot::Loaded { .. } => Err(ReserveError::AlreadyResident { unit }),
            Slot::Reserved => Err(ReserveError::InFlight { unit }),
            empty => {
                *empty = Slot::Reserved;
                Ok(())
            }
        }
    }

    /// The unit's load was given up.
    pub(crate) fn abandon(&mut self, unit: UnitId) {
        *self.slot(unit) = Slot::Empty;
    }

    /// The unit is loaded, and leased once.
    pub(crate) fn fill(&mut self, unit: UnitId, bytes: u64) {
        *self.slot(unit) = Slot::Loaded { bytes, leases: 1, used: false };
        self.stats.inserted_units += 1;
        self.stats.inserted_bytes += bytes;
        self.stats.resident_bytes += bytes;
        self.policy.on_insert(unit, bytes);
    }

    /// A use: counted and told to the policy. Whether the unit is loaded.
    pub(crate) fn lease(&mut self, unit: UnitId) -> bool {
        let Some(Slot::Loaded { bytes, leases, used }) = self.slots.get_mut(unit.index()) else { return false };
        let (bytes, hit) = (*bytes, *used);
        *leases += 1;
        *used = true;
        self.stats.accesses += 1;
        self.stats.accessed_bytes += bytes;
        if hit {
            self.stats.hits += 1;
            self.stats.hit_bytes += bytes;
        }
        self.policy.on_access(unit);
        true
    }

    /// A look that is no use. Whether the unit is loaded.
    pub(crate) fn peek(&mut self, unit: UnitId) -> bool {
        let Some(Slot::Loaded { leases, .. }) = self.slots.get_mut(unit.index()) else { return false };
        *leases += 1;
        true
    }

    pub(crate) fn release(&mut self, unit: UnitId) {
        if let Slot::Loaded { leases, .. } = self.slot(unit) {
            *leases -= 1;
        }
    }

    /// Units that may go, in the order of their ids.
    fn evictable(&self) -> impl Iterator<Item = Candidate> + '_ {
        self.slots.iter().zip(0..).filter_map(|(slot, unit)| match *slot {
            Slot::Loaded { bytes, leases: 0, .. } => Some(Candidate { unit: UnitId(unit), bytes }),
            _ => None,
        })
    }

    pub(crate) fn resident(&self) -> impl Iterator<Item = Candidate> + '_ {
        self.slots.iter().zip(0..).filter_map(|(slot, unit)| match *slot {
            Slot::Loaded { bytes, .. } => Some(Candidate { unit: UnitId(unit), bytes }),
            _ => None,
        })
    }

    pub(crate) fn leased_bytes(&self) -> u64 {
        let leased = self.slots.iter().map(|slot| match *slot {
            Slot::Loaded { bytes, leases: 1.., .. } => bytes,
            _ => 0,
        });
        leased.sum()
    }

    /// Evicts units of at least `shortfall_bytes`, or none; `evicted` is told each of them.
    pub(crate) fn evict(
        &mut self,
        incoming: Option<Incoming>,
        shortfall_bytes: u64,
        forecast: &dyn Forecast,
        mut evicted: impl FnMut(UnitId),
    ) -> Result<(), EvictError> {
        let mut candidates = std::mem::take(&mut self.candidates);
        let mut victims = std::mem::take(&mut self.victims);
        candidates.clear();
        victims.clear();
        candidates.extend(self.evictable());
        let chosen = self.choose(incoming, shortfall_bytes, forecast, &mut candidates, &mut victims);
        if chosen.is_ok() {
            for &unit in &victims {
                self.remove(unit);
                evicted(unit);
            }
        }
        (self.candidates, self.victims) = (candidates, victims);
        chosen
    }

    fn choose(
        &mut self,
        incoming: Option<Incoming>,
        mut shortfall_bytes: u64,
        forecast: &dyn Forecast,
        candidates: &mut Vec<Candidate>,
        victims: &mut Vec<UnitId>,
    ) -> Result<(), EvictError> {
        let sum = |candidates: &[Candidate]| candidates.iter().map(|candidate| candidate.bytes).sum::<u64>();
        if sum(candidates) < shortfall_bytes {
            return Err(EvictError::NotEnough);
        }
        if let Some(Incoming { unit, purpose: Purpose::Prefetch, .. }) = incoming {
            // Whatever the policy: to give up what is needed sooner would be to read it twice.
            let incoming_use = forecast.next_use(unit).distance();
            candidates.retain(|candidate| match forecast.next_use(candidate.unit) {
                NextUse::In(distance) => distance > incoming_use,
                NextUse::Unknown | NextUse::Never => true,
            });
            if sum(candidates) < shortfall_bytes {
                return Err(EvictError::Declined(unit));
            }
        }
        while shortfall_bytes > 0 {
            let request = EvictionRequest { incoming, shortfall_bytes, candidates, forecast };
            let Some(unit) = self.policy.victim(&request) else {
                return match incoming {
                    Some(Incoming { unit, purpose: Purpose::Prefetch, .. }) => Err(EvictError::Declined(unit)),
                    _ => Err(EvictError::NotACandidate(None)),
                };
            };
            let Some(at) = candidates.iter().position(|candidate| candidate.unit == unit) else {
                return Err(EvictError::NotACandidate(Some(unit)));
            };
            shortfall_bytes = shortfall_bytes.saturating_sub(candidates.remove(at).bytes);
            victims.push(unit);
        }
        Ok(())
    }

    fn remove(&mut self, unit: UnitId) {
        if let Slot::Loaded { bytes, used, .. } = std::mem::replace(self.slot(unit), Slot::Empty) {
            self.stats.evictions += 1;
            self.stats.evicted_bytes += bytes;
            self.stats.resident_bytes -= bytes;
            if !used {
                self.stats.unused_evicted_bytes += bytes;
            }
            self.policy.on_remove(unit);
        }
    }
}

/// Why nothing was evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EvictError {
    NotEnough,
    Declined(UnitId),
    NotACandidate(Option<UnitId>),
}
