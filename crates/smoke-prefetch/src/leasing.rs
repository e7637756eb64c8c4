//! How units are leased: what is there at once, what is not by a load that others may share.

use std::sync::Arc;

use smoke_cache::{Incoming, Lease, ReserveError, Spare};
use smoke_core::{Purpose, UnitId};
use smoke_predict::AccessPredictor;
use smoke_storage::AlignedBuffer;

use crate::error::StreamError;
use crate::lease::UnitLease;
use crate::load::{Load, LoadError};
use crate::queue::Priority;
use crate::reader::Staged;
use crate::room::{Booking, Patience, Waited};
use crate::streamer::Inner;

/// What a step has of one of its units so far.
pub(crate) enum Taken {
    Nothing,
    /// A load that ended holds its unit, which others must know before they wait for this thread: it is booked, and the
    /// booking dropped after it.
    Load(Load<Lease<AlignedBuffer>>, Booking),
    Lease(UnitLease),
}

/// Why leases were refused.
pub(crate) struct Refusal {
    pub(crate) error: StreamError,
    /// Whether there may be room after others, who wait too, got what this call lets go of.
    pub(crate) may_retry: bool,
}

impl From<StreamError> for Refusal {
    fn from(error: StreamError) -> Self {
        Self { error, may_retry: false }
    }
}

impl From<Refusal> for StreamError {
    fn from(refusal: Refusal) -> Self {
        refusal.error
    }
}

impl Inner {
    /// A lease of what is in memory.
    pub(crate) fn lease_now(&self, unit: UnitId) -> Option<UnitLease> {
        self.cache.lease(unit).map(|lease| self.booked(lease))
    }

    pub(crate) fn booked(&self, lease: Lease<AlignedBuffer>) -> UnitLease {
        UnitLease::new(lease, Arc::clone(&self.reader), self.room.book())
    }

    /// A lease of what was not in memory; `load` if it is in flight for this caller already. All of it is stall.
    pub(crate) fn lease_late(
        &self,
        unit: UnitId,
        load: Option<Load<Lease<AlignedBuffer>>>,
        patience: &mut Patience,
    ) -> Result<UnitLease, Refusal> {
        let clock = &*self.reader.clock;
        let start = clock.now();
        let result = self.wait_for(unit, load, patience);
        self.reader.counters.add_stall(clock.now().saturating_sub(start));
        Ok(self.booked(result?))
    }

    fn wait_for(
        &self,
        unit: UnitId,
        mut load: Option<Load<Lease<AlignedBuffer>>>,
        patience: &mut Patience,
    ) -> Result<Lease<AlignedBuffer>, Refusal> {
        loop {
            let seen = self.room.generation();
            // Held until the use is counted, so that nobody evicts the unit in between.
            let mut _pinned = None;
            if let Some(load) = load.take() {
                match load.wait() {
                    Ok(lease) => _pinned = Some(lease),
                    // Its room was wanted, or it failed before anybody asked: that is no answer to this demand.
                    Err(LoadError::Cancelled) => {}
                    Err(_) if load.submitted_as() != Priority::Demand => {}
                    Err(LoadError::Source(error)) => return Err(StreamError::Load { unit, error }.into()),
                    Err(LoadError::Panicked) => return Err(StreamError::Panicked { unit }.into()),
                    // The caller borrows the streamer, so the loader lives.
                    Err(LoadError::Stopped) => unreachable!("the loader has stopped while in use"),
                }
            }
            if let Some(lease) = self.cache.lease(unit) {
                return Ok(lease);
            }
            match self.demand(unit) {
                Ok(begun) => load = Some(begun),
                // Loaded in this very moment.
                Err(ReserveError::AlreadyResident { .. }) => {}
                Err(error) => self.await_room(seen, error, self.unit_bytes(unit), patience)?,
            }
        }
    }

    /// All leases, or the first refusal. What is there is leased before anything is evicted for what is not, and all
    /// loads begin before the first is waited for.
    pub(crate) fn lease_all(&self, units: &[UnitId], patience: &mut Patience) -> Result<Vec<UnitLease>, Refusal> {
        let asked = self.reader.clock.now();
        let mut taken: Vec<Taken> =
            units.iter().map(|&unit| self.lease_now(unit).map_or(Taken::Nothing, Taken::Lease)).collect();
        let mut on_time = 0;
        for (taken, &unit) in taken.iter_mut().zip(units) {
            match taken {
                Taken::Lease(_) => on_time += 1,
                // What is refused now is asked for again when its turn comes.
                _ => *taken = self.demand(unit).map_or(Taken::Nothing, |load| Taken::Load(load, self.room.book())),
            }
        }
        let lease = |(taken, &unit): (Taken, &UnitId)| match taken {
            Taken::Lease(lease) => Ok(lease),
            Taken::Load(load, _booking) => self.lease_late(unit, Some(load), patience),
            Taken::Nothing => self.lease_late(unit, None, patience),
        };
        let leases = taken.into_iter().zip(units).map(lease).collect::<Result<Vec<_>, Refusal>>()?;
        self.observe(units, on_time, asked);
        Ok(leases)
    }

    /// Joins the load of `unit` or begins one, for somebody who waits.
    pub(crate) fn demand(&self, unit: UnitId) -> Result<Load<Lease<AlignedBuffer>>, ReserveError> {
        let foresight = self.foresight();
        match self.loader.join(unit, Priority::Demand) {
            Some(load) => Ok(load),
            None => self.begin(unit, Priority::Demand, &*foresight.predictor),
        }
    }

    /// Reserves, then submits. The caller holds the lock on the foresight.
    pub(crate) fn begin(
        &self,
        unit: UnitId,
        priority: Priority,
        predictor: &dyn AccessPredictor,
    ) -> Result<Load<Lease<AlignedBuffer>>, ReserveError> {
        let purpose = match priority {
            Priority::Demand => Purpose::Demand,
            Priority::Prefetch { .. } => Purpose::Prefetch,
        };
        let incoming = Incoming { unit, bytes: self.unit_bytes(unit), purpose };
        let (reservation, spare) = self.cache.reserve_reusing(incoming, &predictor)?;
        // What was evicted becomes the buffer: its pages are there already. It takes no more than its bytes from here on.
        let mut buffer = AlignedBuffer::zeroed(0);
        if let Some(Spare { value, surplus }) = spare {
            buffer = value;
            buffer.resize(incoming.bytes as usize);
            drop(surplus);
        }
        let staged = Staged { buffer, reservation };
        self.room.load_begun();
        let reader = Arc::clone(&self.reader);
        // Not in flight yet, or it could not have been reserved: the load is a new one, and will be counted out.
        Ok(self.loader.submit(unit, priority, move |should_stop| reader.load(unit, purpose, staged, should_stop)))
    }

    pub(crate) fn cancel_prefetches(&self, wanted_bytes: u64) {
        self.loader.cancel_least_urgent(wanted_bytes, |unit| self.unit_bytes(unit));
    }

    /// After the cache has refused: frees what is being read ahead and waits for a change, or says that there will be
    /// none. `seen` is the generation from before the attempt.
    pub(crate) fn await_room(
        &self,
        seen: u64,
        error: ReserveError,
        wanted_bytes: u64,
        patience: &mut Patience,
    ) -> Result<(), Refusal> {
        let (free_bytes, leased_bytes) = match error {
            ReserveError::NoRoom { free_bytes, leased_bytes, .. } => {
                self.cancel_prefetches(wanted_bytes.saturating_sub(free_bytes));
                (free_bytes, leased_bytes)
            }
            // A load of it was cancelled and has not given back its bytes yet.
            ReserveError::InFlight { .. } => (self.cache.budget().free_bytes(), 0),
            ReserveError::TooLarge { .. } => (self.cache.budget().free_bytes(), 0),
            other => return Err(StreamError::Policy(Arc::new(other)).into()),
        };
        let limit_bytes = self.cache.budget().limit_bytes();
        let no_room = StreamError::NoRoom { wanted_bytes, free_bytes, leased_bytes, limit_bytes };
        if wanted_bytes > limit_bytes {
            return Err(no_room.into());
        }
        match self.room.wait(seen, patience) {
            Waited::Changed => Ok(()),
            Waited::Stuck { others_wait } => Err(Refusal { error: no_room, may_retry: others_wait }),
        }
    }
}
