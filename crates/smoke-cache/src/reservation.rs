use std::fmt;
use std::sync::Arc;

use smoke_core::{Permit, UnitId};

use crate::cache::Shared;
use crate::lease::Lease;

/// Bytes that are taken for a unit that is not loaded yet. Dropping it gives the load up and the bytes back.
#[must_use = "the bytes are given back when the reservation is dropped"]
pub struct Reservation<V> {
    unit: UnitId,
    permit: Option<Permit>,
    cache: Arc<Shared<V>>,
}

impl<V> Reservation<V> {
    pub(crate) fn new(unit: UnitId, permit: Permit, cache: Arc<Shared<V>>) -> Self {
        Self { unit, permit: Some(permit), cache }
    }

    /// The unit that will be loaded.
    pub fn unit(&self) -> UnitId {
        self.unit
    }

    /// The bytes that are taken.
    pub fn bytes(&self) -> u64 {
        self.permit.as_ref().map_or(0, Permit::bytes)
    }

    /// Puts the loaded unit into the cache, and holds it. `value` must take no more than the reserved bytes.
    pub fn fill(mut self, value: V) -> Lease<V> {
        let permit = self.permit.take().expect("a reservation is filled once");
        Arc::clone(&self.cache).fill(self.unit, value, permit)
    }
}

impl<V> Drop for Reservation<V> {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            // The bytes first: whoever finds the unit absent finds its room, too.
            drop(permit);
            self.cache.abandon(self.unit);
        }
    }
}

/// A value that was evicted for a [`Reservation`], whose memory is used again: see
/// [`Cache::reserve_reusing`](crate::Cache::reserve_reusing).
///
/// The reservation's bytes are charged for the value's memory now; what it has beyond them is charged to `surplus`.
pub struct Spare<V> {
    /// The value; to be dropped before anything else is made for the reservation.
    pub value: V,
    /// To be dropped when the value takes no more than the reserved bytes.
    pub surplus: Permit,
}

impl<V> fmt::Debug for Spare<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spare").field("surplus", &self.surplus).finish_non_exhaustive()
    }
}

impl<V> fmt::Debug for Reservation<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation").field("unit", &self.unit).field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}
