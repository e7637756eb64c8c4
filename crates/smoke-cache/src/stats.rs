/// What a cache did since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStats {
    /// Uses of units.
    pub accesses: u64,
    /// Uses of units that were in memory since their last use.
    pub hits: u64,
    /// Bytes of the units used.
    pub accessed_bytes: u64,
    /// Bytes of the uses that hit: they were not read again.
    pub hit_bytes: u64,
    /// Units loaded.
    pub inserted_units: u64,
    /// Bytes loaded.
    pub inserted_bytes: u64,
    /// Units evicted.
    pub evictions: u64,
    /// Bytes evicted.
    pub evicted_bytes: u64,
    /// Bytes that were loaded and evicted without a use.
    pub unused_evicted_bytes: u64,
    /// The most bytes that the budget gave at any time, to this cache and to others.
    pub peak_bytes: u64,
    /// Bytes of the units that are loaded now.
    pub resident_bytes: u64,
}

impl CacheStats {
    /// The share of the bytes used that did not have to be read again; 0 before the first use.
    ///
    /// Compare it with [`min_bound`](crate::bound::min_bound): alone it proves nothing.
    pub fn byte_hit_rate(&self) -> f64 {
        if self.accessed_bytes == 0 { 0.0 } else { self.hit_bytes as f64 / self.accessed_bytes as f64 }
    }
}
