//! What the streamer allocates per access, counted by an allocator: nothing for a unit that is in memory, and besides
//! its buffer a few small things for one that is loaded. A binary of its own, with one test, for the count is global.

#![allow(clippy::unwrap_used, reason = "a test, and what it is made of")]

#[path = "../../../tests/counting_allocator.rs"]
mod counting_allocator;

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use smoke_core::{Budget, Encoding, UnitId};
use smoke_prefetch::Streamer;
use smoke_storage::{MemorySource, UnitMapBuilder, WeightSource};

use counting_allocator::Counting;

/// Small enough to come from the allocator; larger buffers are mapped and would escape the count.
const UNIT_BYTES: u64 = 32 << 10;
const UNITS: u32 = 24;
const PASSES: u64 = 4;

/// What one load may allocate besides its buffer: the closure that reads it, its outcome, the shared value and the list
/// of what is evicted for it; and, now and then, a table that grows.
const SMALL_PER_LOAD: u64 = 5;
/// No one of them, nor any table of a few dozen units, comes near to a unit.
const SMALL_BYTES: u64 = 4096;

static SMALL: AtomicU64 = AtomicU64::new(0);
static LARGE: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// By this thread alone. One of those that read may begin so late that what its start allocates comes into a count.
    static HERE: Cell<u64> = const { Cell::new(0) };
}

fn count(size: usize) {
    HERE.set(HERE.get() + 1);
    let counter = if size as u64 > SMALL_BYTES { &LARGE } else { &SMALL };
    counter.fetch_add(1, Ordering::SeqCst);
}

#[global_allocator]
static ALLOCATOR: Counting = Counting(count);

fn streamer(room: u64) -> Streamer {
    let tensor = |unit| (format!("{unit:02}"), Encoding::U8, vec![UNIT_BYTES], vec![unit as u8; UNIT_BYTES as usize]);
    let source = MemorySource::new((0..UNITS).map(tensor).collect()).unwrap();
    let mut map = UnitMapBuilder::new(1);
    for tensor in source.index().iter() {
        map.begin_unit();
        map.push(tensor.extent);
    }
    let units = map.finish(source.index()).unwrap();
    Streamer::builder(Arc::new(source), units).budget(Budget::new(room * UNIT_BYTES)).build().unwrap()
}

fn pass(streamer: &Streamer) {
    for unit in 0..UNITS {
        let lease = streamer.acquire(UnitId(unit)).unwrap();
        assert!(lease.buffer().iter().all(|&byte| byte == unit as u8));
    }
}

fn loads(streamer: &Streamer) -> u64 {
    let stats = streamer.stats();
    stats.demand_loads + stats.prefetch_loads
}

/// What this thread allocates in passes that follow one to warm up, and the units loaded meanwhile.
fn resident(streamer: &Streamer) -> (u64, u64) {
    pass(streamer);
    let before = (HERE.get(), loads(streamer));
    (0..PASSES).for_each(|_| pass(streamer));
    (HERE.get() - before.0, loads(streamer) - before.1)
}

/// What all threads allocate, small and large, and the units loaded meanwhile.
fn streaming(streamer: &Streamer) -> (u64, u64, u64) {
    // Who takes all room waits for what is in flight, so that every load is on one side of the count.
    let quiet = || drop(streamer.make_room(streamer.budget().limit_bytes()).unwrap());
    pass(streamer);
    quiet();
    let before = (SMALL.load(Ordering::SeqCst), LARGE.load(Ordering::SeqCst), loads(streamer));
    (0..PASSES).for_each(|_| pass(streamer));
    quiet();
    (SMALL.load(Ordering::SeqCst) - before.0, LARGE.load(Ordering::SeqCst) - before.1, loads(streamer) - before.2)
}

#[test]
fn a_resident_pass_allocates_nothing_and_a_streaming_one_its_buffers() {
    assert_eq!(resident(&streamer(u64::from(UNITS))), (0, 0));

    let (small, large, loads) = streaming(&streamer(8));
    println!("{loads} loads: {large} buffers and {small} small allocations");
    assert!(loads >= PASSES * u64::from(UNITS - 7), "{loads} loads do not stream");
    // Whoever takes all room at the end may cancel the one load that is read ahead, which has a buffer and counts as none.
    assert!(large <= loads + 1, "{large} large allocations for {loads} loads");
    assert!(small <= loads * SMALL_PER_LOAD, "{small} small allocations for {loads} loads");
}
