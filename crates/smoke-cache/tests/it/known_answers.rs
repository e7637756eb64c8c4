//! N equal units in turn, room for C of them: what the policies hit is known.

use smoke_cache::EvictionPolicy;
use smoke_cache::bound::{ByteHits, min_bound, replay};
use smoke_cache::policy::{Fifo, Lru, NextUse, Pinned};
use smoke_core::UnitId;

const UNITS: usize = 12;
const BYTES: [u64; UNITS] = [5; UNITS];

fn passes(count: usize) -> Vec<UnitId> {
    (0..UNITS as u32).map(UnitId).cycle().take(UNITS * count).collect()
}

/// Hits per use once the first pass, which misses all, is long over.
fn steady(measure: impl Fn(&[UnitId]) -> ByteHits) -> f64 {
    // MIN's pattern repeats after N − 1 passes.
    let (some, more) = (measure(&passes(UNITS)), measure(&passes(2 * UNITS - 1)));
    (more.hit_bytes - some.hit_bytes) as f64 / (more.accessed_bytes - some.accessed_bytes) as f64
}

fn steady_of<P: EvictionPolicy>(make: impl Fn() -> P, capacity: usize) -> f64 {
    steady(|trace| replay(trace, &BYTES, 5 * capacity as u64, &mut make()))
}

#[test]
fn lru_never_hits_a_cyclic_scan_that_does_not_fit() {
    for capacity in 1..UNITS {
        assert_eq!(steady_of(Lru::default, capacity), 0.0, "room for {capacity} of {UNITS}");
        assert_eq!(steady_of(Fifo::default, capacity), 0.0, "room for {capacity} of {UNITS}");
    }
    assert_eq!(steady_of(Lru::default, UNITS), 1.0);
}

#[test]
fn next_use_hits_as_often_as_min() {
    for capacity in 1..=UNITS {
        let expected = (capacity - 1) as f64 / (UNITS - 1) as f64;
        assert!((steady_of(|| NextUse, capacity) - expected).abs() < 1e-12, "room for {capacity} of {UNITS}");
    }
}

#[test]
fn pinning_is_one_unit_from_it() {
    for capacity in 1..UNITS {
        let pinned = move || Pinned::new((0..capacity as u32 - 1).map(UnitId));
        let expected = (capacity - 1) as f64 / UNITS as f64;
        assert!((steady_of(pinned, capacity) - expected).abs() < 1e-12, "room for {capacity} of {UNITS}");
    }
}

#[test]
fn so_does_the_bound() {
    for capacity in 1..=UNITS {
        let hits = steady(|trace| min_bound(trace.chunks(1), &BYTES, 5 * capacity as u64));
        let expected = (capacity - 1) as f64 / (UNITS - 1) as f64;
        assert!((hits - expected).abs() < 1e-12, "room for {capacity} of {UNITS}");
    }
}
