use std::sync::Arc;

use smoke_cache::{Lease, Reservation};
use smoke_core::{Purpose, UnitId};
use smoke_storage::{AlignedBuffer, Extent, SourceError, SourceErrorKind, UnitMap, WeightSource};

use crate::clock::Clock;
use crate::load::LoadError;
use crate::retry::Retry;
use crate::stats::Counters;

/// Everything an I/O thread needs to load a unit.
///
/// It knows neither the streamer nor the loader, so that a load in flight keeps neither of them alive.
#[derive(Debug)]
pub(crate) struct Reader {
    /// Where units lie.
    pub(crate) disk: Arc<dyn WeightSource>,
    /// What is asked for them: the disk, counted, or a source around that.
    pub(crate) source: Arc<dyn WeightSource>,
    pub(crate) units: UnitMap,
    pub(crate) retry: Retry,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) counters: Arc<Counters>,
}

/// A reservation, and the memory that it is for: empty, or of a unit that was evicted for it.
#[derive(Debug)]
pub(crate) struct Staged {
    /// Goes before the bytes do.
    pub(crate) buffer: AlignedBuffer,
    pub(crate) reservation: Reservation<AlignedBuffer>,
}

impl Reader {
    /// Reads `unit` into the staged buffer and fills the reservation with it. Where that fails, the buffer is freed before
    /// the bytes are given back.
    pub(crate) fn load(
        &self,
        unit: UnitId,
        purpose: Purpose,
        staged: Staged,
        should_stop: &dyn Fn() -> bool,
    ) -> Result<Lease<AlignedBuffer>, LoadError> {
        // In this order: what is bound last goes first.
        let Staged { reservation, mut buffer } = staged;
        if should_stop() {
            return Err(LoadError::Cancelled);
        }
        let load = || self.units.load_into(unit, &*self.source, &mut buffer, should_stop);
        self.retry(should_stop, load).map_err(|error| {
            if error.kind() == SourceErrorKind::Cancelled {
                LoadError::Cancelled
            } else {
                LoadError::Source(Arc::new(error))
            }
        })?;
        self.counters.add_load(purpose);
        Ok(reservation.fill(buffer))
    }

    /// Reads bytes into a buffer of the caller.
    pub(crate) fn read(&self, extent: Extent, buf: &mut [u8]) -> Result<(), SourceError> {
        self.retry(&|| false, || self.source.read_at(extent, buf))
    }

    fn retry<T>(
        &self,
        should_stop: &dyn Fn() -> bool,
        attempt: impl FnMut() -> Result<T, SourceError>,
    ) -> Result<T, SourceError> {
        self.retry.run(&*self.clock, should_stop, || self.counters.add_retry(), attempt)
    }
}
