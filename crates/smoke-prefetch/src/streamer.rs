use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use smoke_cache::{Cache, EvictionPolicy, Lease};
use smoke_core::{Budget, ExpectedUse, Permit, UnitId};
use smoke_predict::AccessPredictor;
use smoke_storage::{AlignedBuffer, Extent, UnitMap, WeightSource};

use crate::ahead::Foresight;
use crate::arrivals::Arrivals;
use crate::builder::StreamerBuilder;
use crate::error::StreamError;
use crate::gate::Speculation;
use crate::lease::UnitLease;
use crate::leasing::Refusal;
use crate::loader::Loader;
use crate::observed::{Observed, Observer};
use crate::reader::Reader;
use crate::room::{Room, WhenStuck};
use crate::stats::StreamStats;

/// Units of a source that is larger than memory, brought in just before they are used, under one byte budget.
///
/// [`acquire`](Self::acquire) gives a lease of a unit: at once if it is in memory, else after loading it. After each
/// access the predictor is told, and what it expects next is read ahead on I/O threads while the caller computes.
/// Whatever is in memory or on its way there is charged to the [`Budget`] first.
///
/// Clones are handles of one streamer; any number of threads may use it. When the last one is dropped, loads in flight
/// are cancelled and the threads joined. Leases may outlive it.
///
/// A thread that takes a further lease while it holds others needs room for all of them; where there cannot be any, it
/// gets [`StreamError::NoRoom`] rather than waiting for itself.
#[derive(Clone)]
pub struct Streamer {
    inner: Arc<Inner>,
}

/// What the builder has settled.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) unit_bytes: Vec<u64>,
    pub(crate) io_threads: usize,
    pub(crate) read_ahead_bytes: Option<u64>,
    pub(crate) speculation: Speculation,
    pub(crate) record_trace: bool,
    pub(crate) patience: Duration,
}

pub(crate) struct Inner {
    pub(crate) setting: Setting,
    pub(crate) largest: Option<UnitId>,
    pub(crate) total_bytes: u64,
    pub(crate) reader: Arc<Reader>,
    pub(crate) cache: Cache<AlignedBuffer>,
    pub(crate) loader: Loader<Lease<AlignedBuffer>>,
    pub(crate) room: Arc<Room>,
    /// Held while reserving and submitting too, so that a unit is never reserved without being in flight.
    pub(crate) foresight: Mutex<Foresight>,
    /// What the counters stood at when the statistics were reset.
    stats_start: Mutex<StreamStats>,
}

impl Streamer {
    /// Streams `units` from `source`.
    pub fn builder(source: Arc<dyn WeightSource>, units: UnitMap) -> StreamerBuilder {
        StreamerBuilder::new(source, units)
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    pub(crate) fn start(
        setting: Setting,
        reader: Reader,
        budget: Budget,
        policy: Box<dyn EvictionPolicy>,
        predictor: Box<dyn AccessPredictor>,
    ) -> Result<Self, StreamError> {
        let largest = reader.units.units().max_by_key(|unit| setting.unit_bytes[unit.index()]);
        let room = Arc::new(Room::new(setting.patience));
        let announcer = Arc::clone(&room);
        let loader = Loader::new(setting.io_threads, move || announcer.load_ended())
            .map_err(|error| StreamError::Threads(Arc::new(error)))?;
        let inner = Inner {
            total_bytes: setting.unit_bytes.iter().sum(),
            setting,
            largest,
            reader: Arc::new(reader),
            cache: Cache::new(budget, policy),
            loader,
            room,
            foresight: Mutex::new(Foresight::new(predictor)),
            stats_start: Mutex::default(),
        };
        let budget = inner.cache.budget();
        inner.check_limit(budget.limit_bytes(), budget.used_bytes())?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Leases `unit`, loading it first if need be, and plans what to read ahead.
    ///
    /// # Errors
    ///
    /// If the unit cannot be read (after retrying what may pass), or there is no room for it because of leases and other
    /// memory that will not become free.
    pub fn acquire(&self, unit: UnitId) -> Result<UnitLease, StreamError> {
        let inner = &*self.inner;
        inner.check_unit(unit)?;
        let asked = inner.reader.clock.now();
        let _acquiring = inner.room.enter(WhenStuck::Fail);
        let there = inner.lease_now(unit);
        let on_time = u64::from(there.is_some());
        let lease = match there {
            Some(lease) => lease,
            None => inner.lease_late(unit, None, &mut inner.room.patience())?,
        };
        inner.observe(&[unit], on_time, asked);
        Ok(lease)
    }

    /// Leases `unit` as [`acquire`](Self::acquire) does, if everything is in memory; else it does nothing.
    ///
    /// For many units that are used together: where nothing has to be evicted, leases stand in nobody's way.
    pub fn acquire_resident(&self, unit: UnitId) -> Option<UnitLease> {
        let inner = &*self.inner;
        if !inner.is_all_resident() {
            return None;
        }
        let asked = inner.reader.clock.now();
        let lease = inner.lease_now(unit)?;
        inner.observe(&[unit], 1, asked);
        Some(lease)
    }

    /// Leases all of `units` or none, in their order; what is missing is loaded at once, not one after another.
    ///
    /// For a step that needs several units together: two threads that took half of theirs each would wait for one
    /// another.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire); then no lease is kept.
    pub fn acquire_all(&self, units: &[UnitId]) -> Result<Vec<UnitLease>, StreamError> {
        let inner = &*self.inner;
        units.iter().try_for_each(|&unit| inner.check_unit(unit))?;
        inner.check_sum(units)?;
        let when_stuck = if inner.room.own_leases() == 0 { WhenStuck::GiveWay } else { WhenStuck::Fail };
        let _acquiring = inner.room.enter(when_stuck);
        let mut patience = inner.room.patience();
        loop {
            match inner.lease_all(units, &mut patience) {
                Ok(leases) => return Ok(leases),
                // The others hold leases and wait as this did. What this held is free now, so one of them goes on.
                Err(Refusal { may_retry: true, .. }) if when_stuck == WhenStuck::GiveWay => {
                    inner.room.wait_for_the_others(&patience);
                }
                Err(refusal) => return Err(refusal.error),
            }
        }
    }

    /// Leases `units` one after another as they are there: those in memory first, the others in the order in which they
    /// arrive. All loads begin now, as far as there is room, so that their reads overlap one another and the use of what
    /// came first.
    ///
    /// For the experts of a layer, which a router has just named. They are used at the step of the latest unit that was
    /// acquired otherwise, and those that were expected at that step and are not among `units` are no longer read.
    ///
    /// # Errors
    ///
    /// If a unit does not exist. What cannot be loaded is an error when its turn comes.
    pub fn acquire_each(&self, units: &[UnitId]) -> Result<Arrivals<'_>, StreamError> {
        units.iter().try_for_each(|&unit| self.inner.check_unit(unit))?;
        Ok(Arrivals::begin(&self.inner, units))
    }

    /// Leases `unit` if it is in memory; neither counted nor observed as a use.
    pub fn peek(&self, unit: UnitId) -> Option<UnitLease> {
        let booking = self.inner.room.book();
        let lease = self.inner.cache.peek(unit)?;
        Some(UnitLease::new(lease, Arc::clone(&self.inner.reader), booking))
    }

    /// Whether a [`hint`](Self::hint) may lead to anything: not where everything is in memory, or nothing uncertain is read.
    pub fn wants_hints(&self) -> bool {
        let inner = &*self.inner;
        inner.setting.speculation != Speculation::Off && !inner.is_all_resident()
    }

    /// Tells the predictor what somebody outside expects, and reads ahead by what it makes of that.
    pub fn hint(&self, expected: &[ExpectedUse]) {
        let mut foresight = self.inner.foresight();
        if let Some(observer) = &mut foresight.observer {
            observer(Observed::Hints(expected));
        }
        foresight.predictor.hint(expected);
        self.inner.plan(&mut foresight);
    }

    /// Fills `buf` with the bytes of `extent`, past the cache and the budget: for a few bytes such as rows of an
    /// embedding. Transient errors are retried; the time counts as stall.
    ///
    /// # Errors
    ///
    /// If the source fails, as for an extent that is out of range.
    pub fn read_uncached(&self, extent: Extent, buf: &mut [u8]) -> Result<(), StreamError> {
        let reader = &*self.inner.reader;
        let start = reader.clock.now();
        let result = reader.read(extent, buf);
        reader.counters.add_stall(reader.clock.now().saturating_sub(start));
        result.map_err(|error| StreamError::Read(Arc::new(error)))
    }

    /// Takes `bytes` for other memory (a KV cache, activations), evicting units for it.
    ///
    /// # Errors
    ///
    /// If it does not fit even then, because of leases and other memory that will not become free.
    pub fn make_room(&self, bytes: u64) -> Result<Permit, StreamError> {
        let inner = &*self.inner;
        let _acquiring = inner.room.enter(WhenStuck::Fail);
        let mut patience = inner.room.patience();
        loop {
            let seen = inner.room.generation();
            let foresight = inner.foresight();
            let made = inner.cache.make_room(bytes, &foresight.predictor);
            drop(foresight);
            match made {
                Ok(permit) => return Ok(permit),
                Err(error) => inner.await_room(seen, error, bytes, &mut patience).map_err(|refusal| refusal.error)?,
            }
        }
    }

    /// Sets another limit to the budget, evicting and cancelling what no longer fits.
    ///
    /// When this returns, no more than `bytes` are used, unless leases and other memory hold more: then nothing is
    /// granted until enough of them are dropped.
    ///
    /// # Errors
    ///
    /// If the largest unit does not fit; the limit stays as it was.
    pub fn set_memory_limit(&self, bytes: u64) -> Result<(), StreamError> {
        let inner = &*self.inner;
        inner.check_limit(bytes, 0)?;
        let budget = inner.cache.budget();
        budget.set_limit_bytes(bytes);
        inner.room.announce();
        loop {
            let seen = inner.room.generation();
            inner.cache.evict_to_limit(&inner.foresight().predictor);
            let excess_bytes = budget.used_bytes().saturating_sub(budget.limit_bytes());
            inner.cancel_prefetches(excess_bytes);
            if excess_bytes == 0 || !inner.room.wait_for_a_load(seen) {
                break;
            }
        }
        inner.plan(&mut inner.foresight());
        Ok(())
    }

    /// What was done since the streamer was built or [`reset_stats`](Self::reset_stats) called.
    pub fn stats(&self) -> StreamStats {
        self.inner.total_stats().since(&self.inner.stats_start())
    }

    /// Counts from zero again, and begins a new trace.
    pub fn reset_stats(&self) {
        let now = self.inner.total_stats();
        *self.inner.stats_start() = now;
        self.inner.foresight().trace.clear();
    }

    /// Tells `observer` of every use and every hint from now on, in order, instead of whoever was told before. This is how
    /// traces are recorded.
    ///
    /// It is called under a lock, before the predictor is told, so it should be quick, and must not use the streamer.
    pub fn observe_with(&self, observer: impl FnMut(Observed<'_>) + Send + 'static) {
        self.set_observer(Some(Box::new(observer)));
    }

    /// Tells nobody any more.
    pub fn stop_observing(&self) {
        self.set_observer(None);
    }

    fn set_observer(&self, observer: Option<Observer>) {
        let before = std::mem::replace(&mut self.inner.foresight().observer, observer);
        // Outside the lock, for who knows what it holds.
        drop(before);
    }

    /// The units acquired since the streamer was built or its statistics were reset, in order, the first million of
    /// them; empty unless the builder was told to record.
    pub fn trace(&self) -> Vec<UnitId> {
        self.inner.foresight().trace.clone()
    }

    /// Which parts make which unit.
    pub fn units(&self) -> &UnitMap {
        &self.inner.reader.units
    }

    /// What units lie in, below what they may be read [through](StreamerBuilder::through). Reads of one's own are neither
    /// counted nor tried again.
    pub fn source(&self) -> &dyn WeightSource {
        &*self.inner.reader.disk
    }

    /// How many units are read at a time at most.
    pub fn io_threads(&self) -> usize {
        self.inner.setting.io_threads
    }

    /// The ledger that units are charged to.
    pub fn budget(&self) -> &Budget {
        self.inner.cache.budget()
    }

    /// The cache that holds the units. Leases taken from it directly are not waited for by those who find no room.
    pub fn cache(&self) -> &Cache<AlignedBuffer> {
        &self.inner.cache
    }
}

impl fmt::Debug for Streamer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streamer")
            .field("units", &self.inner.setting.unit_bytes.len())
            .field("budget", self.budget())
            .field("loader", &self.inner.loader)
            .finish_non_exhaustive()
    }
}

impl Inner {
    pub(crate) fn foresight(&self) -> MutexGuard<'_, Foresight> {
        self.foresight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stats_start(&self) -> MutexGuard<'_, StreamStats> {
        self.stats_start.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn total_stats(&self) -> StreamStats {
        let mut stats = self.reader.counters.read(self.cache.stats(), self.reader.clock.now());
        let gate_is_open = self.foresight().gate.is_open();
        stats.speculation.is_on = match self.setting.speculation {
            Speculation::Off => false,
            Speculation::Likely => true,
            Speculation::Gated => gate_is_open,
        };
        stats
    }

    pub(crate) fn unit_bytes(&self, unit: UnitId) -> u64 {
        self.setting.unit_bytes[unit.index()]
    }

    fn is_all_resident(&self) -> bool {
        self.cache.residency().bytes() == self.total_bytes
    }

    pub(crate) fn check_unit(&self, unit: UnitId) -> Result<(), StreamError> {
        let units = self.setting.unit_bytes.len();
        if unit.index() < units { Ok(()) } else { Err(StreamError::UnknownUnit { unit, units }) }
    }

    /// Whether the largest unit fits a limit of which `taken_bytes` are not to be had.
    fn check_limit(&self, limit_bytes: u64, taken_bytes: u64) -> Result<(), StreamError> {
        let Some(unit) = self.largest else { return Ok(()) };
        let unit_bytes = self.unit_bytes(unit);
        let smallest_bytes = unit_bytes.saturating_add(taken_bytes);
        if smallest_bytes <= limit_bytes {
            return Ok(());
        }
        Err(StreamError::BudgetTooSmall { limit_bytes, unit, unit_bytes, smallest_bytes })
    }

    /// Whether all of the units would fit if nothing else were there.
    fn check_sum(&self, units: &[UnitId]) -> Result<(), StreamError> {
        let distinct = units.iter().enumerate().filter(|(place, unit)| !units[..*place].contains(unit));
        let wanted_bytes: u64 = distinct.map(|(_, &unit)| self.unit_bytes(unit)).sum();
        let budget = self.cache.budget();
        let limit_bytes = budget.limit_bytes();
        if wanted_bytes <= limit_bytes {
            return Ok(());
        }
        Err(StreamError::NoRoom { wanted_bytes, free_bytes: budget.free_bytes(), leased_bytes: 0, limit_bytes })
    }
}
