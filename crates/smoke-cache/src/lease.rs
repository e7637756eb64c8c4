use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use smoke_core::UnitId;

use crate::cache::Shared;

/// A loaded unit in use: it is not evicted while this, or a clone of it, lives.
pub struct Lease<V> {
    hold: Arc<Hold<V>>,
}

/// What the clones of a lease share. The value goes before the hold is released, so whoever evicts the unit frees it.
struct Hold<V> {
    unit: UnitId,
    value: Option<Arc<V>>,
    cache: Arc<Shared<V>>,
}

impl<V> Lease<V> {
    pub(crate) fn new(unit: UnitId, value: Arc<V>, cache: Arc<Shared<V>>) -> Self {
        Self { hold: Arc::new(Hold { unit, value: Some(value), cache }) }
    }

    /// The unit that is held.
    pub fn unit(&self) -> UnitId {
        self.hold.unit
    }
}

impl<V> Deref for Lease<V> {
    type Target = V;

    fn deref(&self) -> &V {
        self.hold.value.as_deref().expect("the value is taken only on drop")
    }
}

impl<V> Drop for Hold<V> {
    fn drop(&mut self) {
        self.value = None;
        self.cache.release(self.unit);
    }
}

impl<V> Clone for Lease<V> {
    fn clone(&self) -> Self {
        Self { hold: Arc::clone(&self.hold) }
    }
}

impl<V> fmt::Debug for Lease<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("unit", &self.hold.unit).finish_non_exhaustive()
    }
}
