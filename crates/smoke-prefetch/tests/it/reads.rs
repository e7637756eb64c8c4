//! How much is read: N equal units in turn, room for C of them, and the known answers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use smoke_cache::EvictionPolicy;
use smoke_cache::policy::{Fifo, Lfu, Lru, NextUse, Pinned};
use smoke_core::{Budget, Encoding, UnitId};
use smoke_prefetch::Streamer;
use smoke_prefetch::planner::pin_plan;
use smoke_storage::conformance::CountingSource;
use smoke_storage::{Extent, MemorySource, SourceError, TensorIndex, UnitMapBuilder, WeightSource};

use crate::model::{Model, PAGE, byte, units};

const UNITS: u32 = 12;
/// MIN's pattern repeats after so many passes.
const PERIOD: usize = UNITS as usize - 1;

/// How often each unit was read in `passes` passes, from nothing in memory.
fn reads(policy: impl EvictionPolicy + 'static, capacity: u64, ahead: u64, passes: usize) -> Vec<usize> {
    let mut model = Model::of_pages(UNITS as usize);
    let builder = model.builder().budget(Budget::new(capacity * PAGE)).policy(policy).read_ahead_bytes(ahead * PAGE);
    let streamer = builder.build().unwrap();
    for _ in 0..passes {
        for unit in units(0..UNITS) {
            model.check(&streamer.acquire(unit).unwrap());
        }
    }
    assert!(streamer.budget().peak_bytes() <= capacity * PAGE);
    drop(streamer);
    (0..UNITS).map(|unit| model.source.reads_of(unit)).collect()
}

/// Pins what the planner says, with room for the unit in use and `ahead` more to stream through.
fn plan(capacity: u64, ahead: u64) -> Vec<UnitId> {
    let bytes = [PAGE; UNITS as usize];
    pin_plan(&units(0..UNITS), &bytes, capacity * PAGE, (1 + ahead) * PAGE).pinned
}

#[test]
fn next_use_reads_what_min_reads() {
    let total = |capacity, passes| reads(NextUse, capacity, 0, passes).iter().sum::<usize>();
    for capacity in 1..=u64::from(UNITS) {
        let later = total(capacity, 2 * PERIOD) - total(capacity, PERIOD);
        let (n, c) = (UNITS as usize, capacity as usize);
        // (C − 1) / (N − 1) of all uses hit, which is no less than C − 1 in a pass.
        assert_eq!(later, n * (n - c), "room for {capacity} of {UNITS}");
        assert!(later <= PERIOD * (n - (c - 1)));
    }
}

#[test]
fn a_pinned_plan_reads_the_streamed_units_only() {
    for capacity in 1..u64::from(UNITS) {
        let pinned = plan(capacity, 0);
        assert_eq!(pinned.len() as u64, capacity - 1);
        // What streams may stay once, before the plan's last unit has come.
        let reads = |passes| reads(Pinned::new(pinned.clone()), capacity, 0, passes);
        for (unit, (two, five)) in (0..).map(UnitId).zip(reads(2).into_iter().zip(reads(5))) {
            let expected = if pinned.contains(&unit) { (1, 1) } else { (five - 3, five) };
            assert_eq!((two, five), expected, "{unit}, room for {capacity} of {UNITS}");
        }
    }
}

#[test]
fn policies_that_look_back_read_everything() {
    for capacity in 1..u64::from(UNITS) {
        assert_eq!(reads(Lru::default(), capacity, 0, 4), [4; UNITS as usize], "LRU, room for {capacity}");
        assert_eq!(reads(Fifo::default(), capacity, 0, 4), [4; UNITS as usize], "FIFO, room for {capacity}");
    }
    assert_eq!(reads(Lru::default(), u64::from(UNITS), 0, 4), [1; UNITS as usize], "everything fits");
}

/// Reading ahead costs the room that it takes, and nothing more: what was read ahead is used before it is evicted.
#[test]
fn reading_ahead_reads_nothing_twice() {
    const PASSES: usize = 8;
    for capacity in 2..u64::from(UNITS) {
        for ahead in 1..capacity {
            let room = format!("room for {capacity} of {UNITS}, {ahead} ahead");
            let pinned = plan(capacity, ahead);
            for (unit, count) in (0..).map(UnitId).zip(reads(Pinned::new(pinned.clone()), capacity, ahead, PASSES)) {
                // When the last pass ends, the first units of the next one may have been read.
                let expected = if pinned.contains(&unit) { 1..=1 } else { 1..=PASSES + 1 };
                assert!(expected.contains(&count), "{unit} was read {count} times with a plan: {room}");
            }
            for counts in
                [reads(Lru::default(), capacity, ahead, PASSES), reads(Fifo::default(), capacity, ahead, PASSES)]
            {
                assert!(counts.iter().all(|&count| count <= PASSES + 1), "{counts:?}: {room}");
            }
            let next_use: usize = reads(NextUse, capacity, ahead, PASSES).iter().sum();
            let stay = (capacity - 1 - ahead) as usize;
            let most = UNITS as usize + (PASSES - 1) * (UNITS as usize - stay) + ahead as usize;
            assert!(next_use <= most, "{next_use} reads, {most} are enough: {room}");
        }
    }
}

#[test]
fn what_fits_is_read_once_whatever_the_policy() {
    let policies: [Box<dyn EvictionPolicy>; 4] =
        [Box::new(NextUse), Box::new(Lru::default()), Box::new(Lfu::default()), Box::new(Fifo::default())];
    for policy in policies {
        assert_eq!(reads(policy, u64::from(UNITS), 3, 4), [1; UNITS as usize]);
    }
}

/// Three tensors make a unit, as they lie: one read, and no byte that is not wanted.
#[test]
fn a_unit_is_one_contiguous_read() {
    const LENS: [u64; 3] = [700, 4096, 5];
    let name = |unit: u32, part: usize| format!("unit.{unit:02}.part.{part}");
    let tensors = (0..UNITS).flat_map(|unit| {
        (0..).zip(LENS).map(move |(part, len)| {
            let bytes = (0..len as usize).map(|offset| byte(unit, offset * 3 + part)).collect();
            (name(unit, part), Encoding::U8, vec![len], bytes)
        })
    });
    let source = Arc::new(CountingSource::new(MemorySource::new(tensors.collect()).unwrap()));
    let mut map = UnitMapBuilder::new(1);
    let mut parts = Vec::new();
    for unit in 0..UNITS {
        map.begin_unit();
        for part in 0..LENS.len() {
            parts.push(map.push(source.index().get(&name(unit, part)).unwrap().extent));
        }
    }
    let map = map.finish(source.index()).unwrap();
    let unit_bytes = map.buffer_bytes(UnitId(0));
    let shared: Arc<dyn WeightSource> = source.clone();
    let streamer = Streamer::builder(shared, map).budget(Budget::new(4 * unit_bytes)).build().unwrap();
    for _ in 0..3 {
        for unit in 0..UNITS {
            let lease = streamer.acquire(UnitId(unit)).unwrap();
            for part in 0..LENS.len() {
                let there = lease.part(parts[unit as usize * LENS.len() + part]);
                assert_eq!(there.len() as u64, LENS[part]);
                assert!(there.iter().enumerate().all(|(at, &there)| there == byte(unit, at * 3 + part)));
            }
        }
    }
    // Nothing more is submitted now, and what is in flight is waited for by whoever wants all room.
    drop(streamer.make_room(4 * unit_bytes).unwrap());
    let stats = streamer.stats();
    assert_eq!(stats.reads, source.calls());
    assert_eq!(source.bytes(), source.calls() * LENS.iter().sum::<u64>());
    assert!(source.calls() >= stats.demand_loads + stats.prefetch_loads);
    assert_eq!(stats.cache.inserted_units, stats.demand_loads + stats.prefetch_loads);
    assert!(source.calls() >= u64::from(3 * UNITS) - 2 * 3, "the cache is too small for more than three to stay");
}

#[test]
fn all_who_ask_share_the_read_of_a_prefetch() {
    let mut model = Model::of_pages(4);
    let streamer = model.builder().read_ahead_bytes(PAGE).build().unwrap();
    model.source.close_gate();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| streamer.acquire(UnitId(0)).unwrap());
        model.source.wait_for_reads_at_the_gate(1);
        model.source.open_gate();
        drop(first.join().unwrap());
        let waiters: Vec<_> = (0..4).map(|_| scope.spawn(|| streamer.acquire(UnitId(1)).unwrap())).collect();
        waiters.into_iter().for_each(|waiter| model.check(&waiter.join().unwrap()));
    });
    assert_eq!((model.source.reads_of(0), model.source.reads_of(1)), (1, 1));
    assert_eq!(model.source.most_reads_at_once(), 1);
}

#[test]
fn a_cancelled_prefetch_is_read_again_once() {
    let mut model = Model::of_pages(4);
    let builder = model.builder().budget(Budget::new(3 * PAGE)).read_ahead_bytes(2 * PAGE).io_threads(1);
    let streamer = builder.build().unwrap();
    drop(streamer.acquire_all(&units([0, 1, 2])).unwrap());
    let before: Vec<_> = (0..4).map(|unit| model.source.reads_of(unit)).collect();
    model.source.close_gate();
    std::thread::scope(|scope| {
        // Reads 3 ahead, which stays at the gate.
        drop(streamer.acquire(UnitId(2)).unwrap());
        model.source.wait_for_reads_at_the_gate(1);
        let waiter = scope.spawn(|| streamer.make_room(3 * PAGE).map(drop));
        model.source.open_gate();
        waiter.join().unwrap().unwrap();
    });
    for unit in units(0..4) {
        model.check(&streamer.acquire(unit).unwrap());
    }
    for (unit, before) in (0..4).zip(before) {
        let count = model.source.reads_of(unit) - before;
        assert!((1..=2).contains(&count), "unit {unit} was read {count} times");
    }
}

/// Knows what it was once asked for.
#[derive(Debug)]
struct Remembering {
    source: Arc<dyn WeightSource>,
    known: Mutex<HashMap<Extent, Vec<u8>>>,
}

impl WeightSource for Remembering {
    fn index(&self) -> &TensorIndex {
        self.source.index()
    }
    fn read_at(&self, extent: Extent, buf: &mut [u8]) -> Result<(), SourceError> {
        if let Some(known) = self.known.lock().unwrap().get(&extent) {
            buf.copy_from_slice(known);
            return Ok(());
        }
        self.source.read_at(extent, buf)?;
        self.known.lock().unwrap().insert(extent, buf.to_vec());
        Ok(())
    }
}

#[test]
fn what_a_source_around_the_disk_answers_is_not_counted_as_read() {
    let mut model = Model::of_pages(UNITS as usize);
    let builder = model.builder().budget(Budget::new(3 * PAGE)).policy(Lru::default());
    let around = Remembering { source: builder.counted_source(), known: Mutex::default() };
    let streamer = builder.through(Arc::new(around)).build().unwrap();
    for _ in 0..3 {
        units(0..UNITS).into_iter().for_each(|unit| model.check(&streamer.acquire(unit).unwrap()));
    }
    streamer.read_uncached(model.extent(0), &mut [0; PAGE as usize]).unwrap();
    let stats = streamer.stats();
    assert_eq!((stats.reads, stats.bytes_read), (u64::from(UNITS), u64::from(UNITS) * PAGE));
    assert!(stats.cache.inserted_bytes > stats.bytes_read);
}
