use std::fmt;
use std::sync::Arc;

use smoke_cache::Lease;
use smoke_core::UnitId;
use smoke_storage::{AlignedBuffer, PartId};

use crate::reader::Reader;
use crate::room::Booking;

/// A unit in memory, held there for as long as this or a clone of it lives.
///
/// Owns what it needs: it may outlive the streamer, and go to another thread. Drop it as soon as the unit has been used,
/// for what is leased is not evicted.
#[derive(Clone)]
pub struct UnitLease {
    // Dropped in this order: the book says that memory may be free once it is.
    lease: Lease<AlignedBuffer>,
    reader: Arc<Reader>,
    _booking: Booking,
}

impl UnitLease {
    pub(crate) fn new(lease: Lease<AlignedBuffer>, reader: Arc<Reader>, booking: Booking) -> Self {
        Self { lease, reader, _booking: booking }
    }

    /// The unit.
    pub fn unit(&self) -> UnitId {
        self.lease.unit()
    }

    /// What the unit occupies, in bytes: what the budget is charged for it.
    pub fn bytes(&self) -> u64 {
        self.reader.units.buffer_bytes(self.unit())
    }

    /// The bytes of one part.
    ///
    /// # Panics
    ///
    /// If the part belongs to another unit, or to another map.
    pub fn part(&self, part: PartId) -> &[u8] {
        assert_eq!(part.unit, self.unit(), "the part belongs to another unit");
        &self.lease[self.reader.units.locate(part)]
    }

    /// The whole buffer, as it was read.
    pub fn buffer(&self) -> &AlignedBuffer {
        &self.lease
    }
}

impl fmt::Debug for UnitLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnitLease").field("unit", &self.unit()).field("bytes", &self.bytes()).finish()
    }
}
