use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smoke_core::{Budget, Forecast, Permit, UnitId};

use crate::error::ReserveError;
use crate::eviction::{Candidate, EvictionPolicy, Incoming};
use crate::lease::Lease;
use crate::reservation::{Reservation, Spare};
use crate::state::{EvictError, State};
use crate::stats::CacheStats;

/// The units that are in memory in one tier.
///
/// Clones are handles of one cache. Operations take one short lock; values are dropped outside it, and their bytes are
/// given back to the budget only after that.
pub struct Cache<V> {
    shared: Arc<Shared<V>>,
}

pub(crate) struct Shared<V> {
    budget: Budget,
    inner: Mutex<Inner<V>>,
}

struct Inner<V> {
    state: State,
    /// By unit number, as in the state: what it says is loaded is here.
    values: Vec<Option<Entry<V>>>,
}

/// A loaded unit. The fields are dropped in this order: memory is freed before its bytes are.
struct Entry<V> {
    value: Arc<V>,
    permit: Permit,
}

/// What is loaded, from [`Cache::residency`]. Nothing changes while it lives, for it holds the cache's lock: ask, and drop
/// it before calling the cache again.
pub struct Residency<'a, V> {
    inner: MutexGuard<'a, Inner<V>>,
}

impl<V> Residency<'_, V> {
    /// Whether a unit is loaded; one that is only reserved is not.
    pub fn contains(&self, unit: UnitId) -> bool {
        self.inner.state.is_loaded(unit)
    }

    /// The bytes of all units that are loaded.
    pub fn bytes(&self) -> u64 {
        self.inner.state.stats.resident_bytes
    }
}

impl<V> fmt::Debug for Residency<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Residency").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

impl<V> Cache<V> {
    /// An empty cache that draws on `budget`, which others may draw on, too.
    pub fn new(budget: Budget, policy: impl EvictionPolicy + 'static) -> Self {
        let inner = Inner { state: State::new(Box::new(policy)), values: Vec::new() };
        Self { shared: Arc::new(Shared { budget, inner: Mutex::new(inner) }) }
    }

    /// Uses a unit: counts an access, tells the policy and holds the unit. `None` if it is not loaded.
    ///
    /// The first use after a load counts as a miss of the unit's bytes, since they were read for it; later uses are
    /// hits.
    pub fn lease(&self, unit: UnitId) -> Option<Lease<V>> {
        let mut inner = self.shared.lock();
        inner.state.lease(unit).then(|| self.hold(&inner, unit))
    }

    /// Holds a unit without counting a use. `None` if it is not loaded.
    pub fn peek(&self, unit: UnitId) -> Option<Lease<V>> {
        let mut inner = self.shared.lock();
        inner.state.peek(unit).then(|| self.hold(&inner, unit))
    }

    fn hold(&self, inner: &Inner<V>, unit: UnitId) -> Lease<V> {
        let entry = inner.values[unit.index()].as_ref().expect("a loaded unit has a value");
        Lease::new(unit, Arc::clone(&entry.value), Arc::clone(&self.shared))
    }

    /// Whether a unit is loaded; one that is only reserved is not.
    pub fn contains(&self, unit: UnitId) -> bool {
        self.shared.lock().state.is_loaded(unit)
    }

    /// A look at what is loaded, for many questions under one lock.
    pub fn residency(&self) -> Residency<'_, V> {
        Residency { inner: self.shared.lock() }
    }

    /// Takes the bytes of a unit that will be loaded, evicting others if need be.
    ///
    /// Evicting costs a scan over all units and one of the candidates for each victim: 5 to 20 ns for every resident unit
    /// (`cargo run --release -p smoke-cache --example lease_speed`).
    ///
    /// # Errors
    /// [`ReserveError`] if it is loaded or reserved already, or gets no room; nothing was evicted then.
    pub fn reserve(&self, incoming: Incoming, forecast: &dyn Forecast) -> Result<Reservation<V>, ReserveError> {
        self.reserve_reusing(incoming, forecast).map(|(reservation, _)| reservation)
    }

    /// [`reserve`](Self::reserve), and the largest of the victims, if units were evicted: memory that is made already.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve).
    pub fn reserve_reusing(
        &self,
        incoming: Incoming,
        forecast: &dyn Forecast,
    ) -> Result<(Reservation<V>, Option<Spare<V>>), ReserveError> {
        self.shared.lock().state.begin(incoming.unit)?;
        match self.acquire(Some(incoming), incoming.bytes, forecast) {
            Ok((permit, spare)) => Ok((Reservation::new(incoming.unit, permit, Arc::clone(&self.shared)), spare)),
            Err(error) => {
                self.shared.lock().state.abandon(incoming.unit);
                Err(error)
            }
        }
    }

    /// Takes bytes for other memory, such as keys and values, evicting units if need be.
    ///
    /// # Errors
    /// [`ReserveError`] if units that are not in use do not free enough; nothing was evicted then.
    pub fn make_room(&self, bytes: u64, forecast: &dyn Forecast) -> Result<Permit, ReserveError> {
        self.acquire(None, bytes, forecast).map(|(permit, _)| permit)
    }

    /// Evicts units until the budget's use is within its limit again, after the limit was lowered, or until nothing
    /// more can go. Returns the bytes freed.
    pub fn evict_to_limit(&self, forecast: &dyn Forecast) -> u64 {
        let budget = &self.shared.budget;
        let mut evicted = Vec::new();
        let mut inner = self.shared.lock();
        let Inner { state, values } = &mut *inner;
        let excess_bytes = budget.used_bytes().saturating_sub(budget.limit_bytes());
        // Under the same lock as the eviction: what a lease takes in between would leave too little, and nothing would go.
        let evictable_bytes = state.stats.resident_bytes - state.leased_bytes();
        let evict = |unit: UnitId| evicted.extend(values[unit.index()].take());
        // Less than all that can go is always granted, so there is no error to report.
        let _ = state.evict(None, excess_bytes.min(evictable_bytes), forecast, evict);
        drop(inner);
        evicted.iter().map(|entry| entry.permit.bytes()).sum()
    }

    /// The ledger that this cache draws on.
    pub fn budget(&self) -> &Budget {
        &self.shared.budget
    }

    /// What was done so far.
    pub fn stats(&self) -> CacheStats {
        CacheStats { peak_bytes: self.budget().peak_bytes(), ..self.shared.lock().state.stats }
    }

    /// The units that are loaded, in the order of their ids.
    pub fn resident(&self) -> Vec<Candidate> {
        self.shared.lock().state.resident().collect()
    }

    /// Bytes, and where a unit was evicted for an incoming one, what became of it.
    fn acquire(
        &self,
        incoming: Option<Incoming>,
        bytes: u64,
        forecast: &dyn Forecast,
    ) -> Result<(Permit, Option<Spare<V>>), ReserveError> {
        let budget = &self.shared.budget;
        loop {
            let limit_bytes = budget.limit_bytes();
            if bytes > limit_bytes {
                return Err(ReserveError::TooLarge { bytes, limit_bytes });
            }
            if let Some(permit) = budget.try_acquire(bytes) {
                return Ok((permit, None));
            }
            // More may be used than a lowered limit allows: that must go as well.
            let shortfall_bytes = (budget.used_bytes() + bytes).saturating_sub(limit_bytes);
            // Somebody else may take what is freed here before we do: then try again with what is left to evict.
            let evicted = self.evict(incoming, shortfall_bytes, forecast).map_err(|error| match error {
                EvictError::Declined(unit) => ReserveError::Declined { unit },
                EvictError::NotACandidate(unit) => ReserveError::NotACandidate { unit },
                EvictError::NotEnough => {
                    let leased_bytes = self.shared.lock().state.leased_bytes();
                    ReserveError::NoRoom { bytes, free_bytes: budget.free_bytes(), leased_bytes }
                }
            })?;
            if let Some(granted) = incoming.and_then(|_| self.recycle(evicted, bytes)) {
                return Ok(granted);
            }
        }
    }

    /// Makes a permit for `bytes` of that of the largest victim, which is kept; the others are freed. The bytes never go
    /// back to the ledger in between, for the victim's memory is there all the time.
    fn recycle(&self, evicted: Vec<Entry<V>>, bytes: u64) -> Option<(Permit, Option<Spare<V>>)> {
        let Entry { value, permit: mut surplus } = evicted.into_iter().max_by_key(|entry| entry.permit.bytes())?;
        let value = Arc::into_inner(value)?;
        let mut permit = surplus.split(bytes);
        if permit.bytes() < bytes {
            let missing = self.shared.budget.try_acquire(bytes - permit.bytes());
            let Some(missing) = missing else {
                // The memory first, then its bytes.
                drop(value);
                return None;
            };
            permit.merge(missing);
        }
        Some((permit, Some(Spare { value, surplus })))
    }

    /// What was evicted; it is freed, which can be slow, when the caller drops it, and so not under the lock.
    fn evict(
        &self,
        incoming: Option<Incoming>,
        shortfall_bytes: u64,
        forecast: &dyn Forecast,
    ) -> Result<Vec<Entry<V>>, EvictError> {
        let mut evicted = Vec::new();
        let mut inner = self.shared.lock();
        let Inner { state, values } = &mut *inner;
        state.evict(incoming, shortfall_bytes, forecast, |unit| evicted.extend(values[unit.index()].take()))?;
        Ok(evicted)
    }
}

impl<V> Shared<V> {
    fn lock(&self) -> MutexGuard<'_, Inner<V>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn release(&self, unit: UnitId) {
        self.lock().state.release(unit);
    }

    /// For a clone of a lease.
    pub(crate) fn hold_again(&self, unit: UnitId) {
        self.lock().state.peek(unit);
    }

    pub(crate) fn abandon(&self, unit: UnitId) {
        self.lock().state.abandon(unit);
    }

    pub(crate) fn fill(self: Arc<Self>, unit: UnitId, value: V, permit: Permit) -> Lease<V> {
        let value = Arc::new(value);
        let mut inner = self.lock();
        inner.state.fill(unit, permit.bytes());
        if inner.values.len() <= unit.index() {
            inner.values.resize_with(unit.index() + 1, || None);
        }
        inner.values[unit.index()] = Some(Entry { value: Arc::clone(&value), permit });
        drop(inner);
        Lease::new(unit, value, self)
    }
}

impl<V> Clone for Cache<V> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<V> fmt::Debug for Cache<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("budget", self.budget()).field("stats", &self.stats()).finish_non_exhaustive()
    }
}
