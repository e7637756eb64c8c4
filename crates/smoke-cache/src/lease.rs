use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use smoke_core::UnitId;

use crate::cache::Shared;

/// A loaded unit in use: it is not evicted while this, or a clone of it, lives.
///
/// Taking and cloning one costs the cache's short lock and allocates nothing.
pub struct Lease<V> {
    unit: UnitId,
    /// Goes before the hold is released, so that whoever evicts the unit frees it.
    value: Option<Arc<V>>,
    cache: Arc<Shared<V>>,
}

impl<V> Lease<V> {
    /// The caller has counted this lease in the cache's state.
    pub(crate) fn new(unit: UnitId, value: Arc<V>, cache: Arc<Shared<V>>) -> Self {
        Self { unit, value: Some(value), cache }
    }

    /// The unit that is held.
    pub fn unit(&self) -> UnitId {
        self.unit
    }
}

impl<V> Deref for Lease<V> {
    type Target = V;

    fn deref(&self) -> &V {
        self.value.as_deref().expect("the value is taken only on drop")
    }
}

impl<V> Drop for Lease<V> {
    fn drop(&mut self) {
        self.value = None;
        self.cache.release(self.unit);
    }
}

impl<V> Clone for Lease<V> {
    fn clone(&self) -> Self {
        self.cache.hold_again(self.unit);
        Self { unit: self.unit, value: self.value.clone(), cache: Arc::clone(&self.cache) }
    }
}

impl<V> fmt::Debug for Lease<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("unit", &self.unit).finish_non_exhaustive()
    }
}
