//! What is read in the background before anybody asks.

use proptest::prelude::*;
use smoke_core::{Budget, UnitId};
use smoke_prefetch::StreamError;
use smoke_storage::SourceErrorKind;

use crate::model::{Model, PAGE, units};

#[test]
fn memory_is_filled_in_order_and_a_use_of_it_reads_nothing() {
    let mut model = Model::of_pages(8);
    let budget = Budget::new(3 * PAGE);
    model.source.watch(&budget);
    let streamer = model.builder().budget(budget).read_ahead_bytes(0).build().unwrap();
    streamer.warm(units([6, 1, 4, 2, 0])).unwrap().wait();
    let held = |unit| streamer.cache().contains(UnitId(unit));
    assert_eq!((0..8).filter(|&unit| held(unit)).collect::<Vec<_>>(), [1, 4, 6], "the first that there is room for");
    let before = streamer.stats();
    assert_eq!((before.prefetch_loads, before.demand_loads, before.accesses), (3, 0, 0));
    for unit in [4, 6, 1] {
        model.check(&streamer.acquire(UnitId(unit)).unwrap());
    }
    assert_eq!((streamer.stats().demand_loads, streamer.stats().on_time), (0, 3));
    drop(streamer.acquire(UnitId(5)).unwrap());
    assert!(streamer.budget().peak_bytes() <= 3 * PAGE && model.source.take_most_used_bytes() <= 3 * PAGE);
}

#[test]
fn a_demand_does_not_wait_for_it() {
    let mut model = Model::of_pages(12);
    let streamer = model.builder().budget(Budget::new(12 * PAGE)).read_ahead_bytes(0).io_threads(4).build().unwrap();
    model.source.close_gate();
    let warming = streamer.warm(units(0..11)).unwrap();
    // Half of the threads; the others are left to whoever asks.
    model.source.wait_for_reads_at_the_gate(2);
    let asking = std::thread::spawn({
        let streamer = streamer.clone();
        move || drop(streamer.acquire(UnitId(11)).unwrap())
    });
    model.source.wait_for_reads_at_the_gate(3);
    assert!(!warming.is_over());
    model.source.open_gate();
    asking.join().unwrap();
    warming.wait();
    assert_eq!(model.source.reads()[2], 11);
    assert!((0..12).all(|unit| streamer.cache().contains(UnitId(unit)) && model.source.reads_of(unit) == 1));
}

#[test]
fn once_units_are_acquired_one_is_read_at_a_time() {
    let mut model = Model::of_pages(12);
    let streamer = model.builder().budget(Budget::new(12 * PAGE)).read_ahead_bytes(0).io_threads(8).build().unwrap();
    drop(streamer.acquire(UnitId(0)).unwrap());
    streamer.warm(units(0..12)).unwrap().wait();
    assert_eq!((model.source.reads().len(), model.source.most_reads_at_once()), (12, 1));
}

#[test]
fn what_is_full_or_fails_or_is_gone_ends_it() {
    let mut model = Model::of_pages(4);
    let streamer = model.builder().budget(Budget::new(4 * PAGE)).read_ahead_bytes(0).build().unwrap();
    let error = streamer.warm(units([3, 4])).unwrap_err();
    assert!(matches!(error, StreamError::UnknownUnit { .. }), "{error}");
    model.source.fail(1, [SourceErrorKind::OutOfRange]);
    let room = streamer.make_room(2 * PAGE).unwrap();
    streamer.warm(units([1, 2, 3, 0])).unwrap().wait();
    assert!(streamer.cache().contains(UnitId(2)) && !streamer.cache().contains(UnitId(1)));
    drop(room);
    model.source.close_gate();
    let warming = streamer.warm(units([0, 1])).unwrap();
    model.source.wait_for_reads_at_the_gate(1);
    let ending = std::thread::spawn(move || drop(streamer));
    model.source.open_gate();
    ending.join().unwrap();
    warming.wait();
}

proptest! {
    /// While units are used in any order and the limit changes.
    #[test]
    fn the_budget_holds_whatever_happens_meanwhile(
        sizes in prop::collection::vec(1..6_u64, 8),
        list in prop::collection::vec(0..8_u32, 1..12),
        uses in prop::collection::vec(0..8_u32, 1..20),
        room in 6..20_u64,
    ) {
        let mut model = Model::new(&sizes.iter().map(|size| size * 700).collect::<Vec<_>>());
        let bytes = model.unit_bytes().iter().max().unwrap() * room / 6;
        let budget = Budget::new(bytes);
        model.source.watch(&budget);
        let streamer = model.builder().budget(budget).build().unwrap();
        let warming = streamer.warm(units(list)).unwrap();
        for unit in uses {
            model.check(&streamer.acquire(UnitId(unit)).unwrap());
        }
        warming.wait();
        prop_assert!(streamer.budget().peak_bytes() <= bytes && model.source.take_most_used_bytes() <= bytes);
    }
}
