use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use smoke_cache::CacheStats;
use smoke_core::Purpose;
use smoke_storage::{Extent, SourceError, TensorIndex, WeightSource};

use crate::clock::Clock;

/// What a [`Streamer`](crate::Streamer) has done since it was built or its statistics were reset.
///
/// Of the three rates that can be had from it only the stall is speed: the byte hit rate says how little was read, the
/// on-time rate how well reading overlapped, the stall what it cost.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StreamStats {
    /// Hits, evictions and residency of the cache. The peak is that of the cache's whole life.
    pub cache: CacheStats,
    /// Units acquired.
    pub accesses: u64,
    /// Units that were in memory when they were asked for.
    pub on_time: u64,
    /// Time that callers waited, for units and for uncached reads.
    pub stall: Duration,
    /// Time in which at least one read was in flight: `bytes_read` over it is the rate that the source gave.
    pub reading: Duration,
    /// Bytes read from the source. A load that failed or was cancelled counts the runs that it finished.
    pub bytes_read: u64,
    /// Reads that the source answered.
    pub reads: u64,
    /// Reads tried again after a transient error.
    pub retries: u64,
    /// Units loaded because somebody waited.
    pub demand_loads: u64,
    /// Units loaded ahead.
    pub prefetch_loads: u64,
    /// Reads of what was likely and not certain to be used.
    pub speculation: SpeculationStats,
}

/// What became of reads ahead whose use was not certain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpeculationStats {
    /// Loads begun.
    pub issued: u64,
    /// Their bytes.
    pub issued_bytes: u64,
    /// How many of the units were used when they were expected.
    pub used: u64,
    /// How often the gate was closed because stall had not fallen with it open.
    pub switched_off: u64,
    /// Whether such reads are made now.
    pub is_on: bool,
}

impl StreamStats {
    /// The share of accesses that found their unit in memory, in [0, 1]; 1 before the first.
    pub fn on_time_rate(&self) -> f64 {
        if self.accesses == 0 { 1.0 } else { self.on_time as f64 / self.accesses as f64 }
    }

    /// What happened since `start`, an earlier reading.
    pub(crate) fn since(mut self, start: &Self) -> Self {
        for (now, before) in [
            (&mut self.accesses, start.accesses),
            (&mut self.on_time, start.on_time),
            (&mut self.bytes_read, start.bytes_read),
            (&mut self.reads, start.reads),
            (&mut self.retries, start.retries),
            (&mut self.demand_loads, start.demand_loads),
            (&mut self.prefetch_loads, start.prefetch_loads),
            (&mut self.speculation.issued, start.speculation.issued),
            (&mut self.speculation.issued_bytes, start.speculation.issued_bytes),
            (&mut self.speculation.used, start.speculation.used),
            (&mut self.speculation.switched_off, start.speculation.switched_off),
            (&mut self.cache.accesses, start.cache.accesses),
            (&mut self.cache.hits, start.cache.hits),
            (&mut self.cache.accessed_bytes, start.cache.accessed_bytes),
            (&mut self.cache.hit_bytes, start.cache.hit_bytes),
            (&mut self.cache.inserted_units, start.cache.inserted_units),
            (&mut self.cache.inserted_bytes, start.cache.inserted_bytes),
            (&mut self.cache.evictions, start.cache.evictions),
            (&mut self.cache.evicted_bytes, start.cache.evicted_bytes),
            (&mut self.cache.unused_evicted_bytes, start.cache.unused_evicted_bytes),
        ] {
            *now = now.saturating_sub(before);
        }
        for (now, before) in [(&mut self.stall, start.stall), (&mut self.reading, start.reading)] {
            *now = now.saturating_sub(before);
        }
        self
    }
}

/// The counts behind [`StreamStats`]; they only grow.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    accesses: AtomicU64,
    on_time: AtomicU64,
    stall_nanos: AtomicU64,
    bytes_read: AtomicU64,
    reads: AtomicU64,
    retries: AtomicU64,
    demand_loads: AtomicU64,
    prefetch_loads: AtomicU64,
    speculated: AtomicU64,
    speculated_bytes: AtomicU64,
    speculated_used: AtomicU64,
    switched_off: AtomicU64,
    reading: Mutex<Reading>,
}

/// The time in which something was being read.
#[derive(Debug, Default)]
struct Reading {
    in_flight: u32,
    since: Duration,
    total: Duration,
}

impl Counters {
    /// Units acquired so far.
    pub(crate) fn accesses(&self) -> u64 {
        self.accesses.load(Ordering::Relaxed)
    }

    pub(crate) fn add_accesses(&self, accesses: u64, on_time: u64) {
        self.accesses.fetch_add(accesses, Ordering::Relaxed);
        self.on_time.fetch_add(on_time, Ordering::Relaxed);
    }

    pub(crate) fn add_stall(&self, stall: Duration) {
        self.stall_nanos.fetch_add(u64::try_from(stall.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// A read begins at `now`.
    pub(crate) fn begin_reading(&self, now: Duration) {
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        if reading.in_flight == 0 {
            reading.since = now;
        }
        reading.in_flight += 1;
    }

    /// A read has ended at `now`, in whatever way.
    pub(crate) fn end_reading(&self, now: Duration) {
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        reading.in_flight -= 1;
        if reading.in_flight == 0 {
            let since = reading.since;
            reading.total += now.saturating_sub(since);
        }
    }

    /// Time in which something was being read, up to `now`.
    fn reading(&self, now: Duration) -> Duration {
        let reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let open = if reading.in_flight > 0 { now.saturating_sub(reading.since) } else { Duration::ZERO };
        reading.total + open
    }

    /// `None` before anything was read.
    pub(crate) fn seconds_per_byte(&self, now: Duration) -> Option<f64> {
        let bytes = self.bytes_read.load(Ordering::Relaxed);
        (bytes > 0).then(|| self.reading(now).as_secs_f64() / bytes as f64)
    }

    pub(crate) fn add_retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn stall(&self) -> Duration {
        Duration::from_nanos(self.stall_nanos.load(Ordering::Relaxed))
    }

    pub(crate) fn add_speculation(&self, bytes: u64) {
        self.speculated.fetch_add(1, Ordering::Relaxed);
        self.speculated_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn add_speculation_used(&self) {
        self.speculated_used.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_switched_off(&self) {
        self.switched_off.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_load(&self, purpose: Purpose) {
        let counter = match purpose {
            Purpose::Demand => &self.demand_loads,
            Purpose::Prefetch => &self.prefetch_loads,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self, cache: CacheStats, now: Duration) -> StreamStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StreamStats {
            cache,
            accesses: count(&self.accesses),
            on_time: count(&self.on_time),
            stall: self.stall(),
            reading: self.reading(now),
            bytes_read: count(&self.bytes_read),
            reads: count(&self.reads),
            retries: count(&self.retries),
            demand_loads: count(&self.demand_loads),
            prefetch_loads: count(&self.prefetch_loads),
            speculation: SpeculationStats {
                issued: count(&self.speculated),
                issued_bytes: count(&self.speculated_bytes),
                used: count(&self.speculated_used),
                switched_off: count(&self.switched_off),
                is_on: false,
            },
        }
    }
}

/// A source that counts what is read through it, and how long that takes.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) source: Arc<dyn WeightSource>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) clock: Arc<dyn Clock>,
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

impl Counted {
    fn count(
        &self,
        reads: usize,
        bytes: usize,
        read: impl FnOnce() -> Result<(), SourceError>,
    ) -> Result<(), SourceError> {
        self.counters.begin_reading(self.clock.now());
        // Also when a source of somebody else's panics.
        let _ended = OnDrop(|| self.counters.end_reading(self.clock.now()));
        read()?;
        self.counters.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
        self.counters.reads.fetch_add(reads as u64, Ordering::Relaxed);
        Ok(())
    }
}

impl WeightSource for Counted {
    fn index(&self) -> &TensorIndex {
        self.source.index()
    }

    fn read_at(&self, extent: Extent, buf: &mut [u8]) -> Result<(), SourceError> {
        self.count(1, buf.len(), || self.source.read_at(extent, buf))
    }

    /// Forwarded, so that the source may keep many blocks of a unit in flight.
    fn read_cancellable(
        &self,
        extent: Extent,
        buf: &mut [u8],
        should_stop: &dyn Fn() -> bool,
    ) -> Result<(), SourceError> {
        self.count(1, buf.len(), || self.source.read_cancellable(extent, buf, should_stop))
    }

    fn read_all_cancellable(
        &self,
        reads: &mut [(Extent, &mut [u8])],
        should_stop: &dyn Fn() -> bool,
    ) -> Result<(), SourceError> {
        let bytes = reads.iter().map(|(_, buf)| buf.len()).sum();
        self.count(reads.len(), bytes, || self.source.read_all_cancellable(reads, should_stop))
    }

    fn alignment(&self) -> u64 {
        self.source.alignment()
    }
}
