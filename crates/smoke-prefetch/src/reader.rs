use std::sync::Arc;

use smoke_cache::{Lease, Reservation};
use smoke_core::{Purpose, UnitId};
use smoke_storage::{AlignedBuffer, Extent, SourceError, SourceErrorKind, UnitMap, WeightSource};

use crate::clock::Clock;
use crate::load::LoadError;
use crate::retry::Retry;
use crate::stats::{Counted, Counters};

/// Everything an I/O thread needs to load a unit.
///
/// It knows neither the streamer nor the loader, so that a load in flight keeps neither of them alive.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) source: Arc<dyn WeightSource>,
    pub(crate) units: UnitMap,
    pub(crate) retry: Retry,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) counters: Counters,
}

impl Reader {
    /// Reads `unit` into a buffer of its own and fills the reservation with it. Where that fails, the buffer is freed
    /// before the bytes are given back.
    pub(crate) fn load(
        &self,
        unit: UnitId,
        purpose: Purpose,
        reservation: Reservation<AlignedBuffer>,
        should_stop: &dyn Fn() -> bool,
    ) -> Result<Lease<AlignedBuffer>, LoadError> {
        if should_stop() {
            return Err(LoadError::Cancelled);
        }
        let source = self.counted();
        let buffer = self.retry(should_stop, || self.units.load(unit, &source, should_stop)).map_err(|error| {
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
        let source = self.counted();
        self.retry(&|| false, || source.read_at(extent, buf))
    }

    fn counted(&self) -> Counted<'_> {
        Counted { source: &*self.source, counters: &self.counters }
    }

    fn retry<T>(
        &self,
        should_stop: &dyn Fn() -> bool,
        attempt: impl FnMut() -> Result<T, SourceError>,
    ) -> Result<T, SourceError> {
        self.retry.run(&*self.clock, should_stop, || self.counters.add_retry(), attempt)
    }
}
