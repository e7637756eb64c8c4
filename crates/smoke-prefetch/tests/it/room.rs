//! Room in the budget: who gets it, who waits for it, and what happens when there is none.

use std::sync::Barrier;

use smoke_core::{Budget, UnitId};
use smoke_prefetch::StreamError;

use crate::model::{Model, PAGE, units};
use crate::streamer::until_loaded;

#[test]
fn a_budget_too_small_is_an_error_that_says_what_would_do() {
    let mut model = Model::new(&[PAGE, 3 * PAGE, PAGE]);
    let budget = Budget::new(4 * PAGE);
    let _other = budget.try_acquire(2 * PAGE).unwrap();
    let error = model.builder().budget(budget).build().unwrap_err();
    match &error {
        StreamError::BudgetTooSmall { smallest_bytes, unit, .. } => {
            assert_eq!((*smallest_bytes, unit.0), (5 * PAGE, 1))
        }
        other => panic!("{other:?}"),
    }
    assert!(error.to_string().contains("20480"), "{error}");

    let mut model = Model::new(&[PAGE, 3 * PAGE, PAGE]);
    let streamer = model.builder().budget(Budget::new(3 * PAGE)).build().unwrap();
    for unit in units([0, 1, 2, 1, 0]) {
        model.check(&streamer.acquire(unit).unwrap());
    }
    assert!(matches!(streamer.acquire(UnitId(3)), Err(StreamError::UnknownUnit { units: 3, .. })));
}

#[test]
fn a_caller_who_holds_all_memory_gets_an_error_not_a_deadlock() {
    let mut model = Model::of_pages(4);
    let streamer = model.builder().budget(Budget::new(2 * PAGE)).read_ahead_bytes(PAGE).build().unwrap();
    let first = streamer.acquire(UnitId(0)).unwrap();
    let second = streamer.acquire(UnitId(3)).unwrap();
    match streamer.acquire(UnitId(1)) {
        Err(StreamError::NoRoom { wanted_bytes, leased_bytes, limit_bytes, .. }) => {
            assert_eq!((wanted_bytes, leased_bytes, limit_bytes), (PAGE, 2 * PAGE, 2 * PAGE));
        }
        other => panic!("{other:?}"),
    }
    drop(first);
    model.check(&streamer.acquire(UnitId(1)).unwrap());
    model.check(&second);
    assert!(matches!(streamer.acquire_all(&units(0..3)), Err(StreamError::NoRoom { .. })));
}

#[test]
fn a_demand_takes_the_room_of_prefetches_in_flight() {
    let mut model = Model::new(&[PAGE, PAGE, PAGE, 3 * PAGE]);
    let streamer = model.builder().budget(Budget::new(3 * PAGE)).read_ahead_bytes(2 * PAGE).build().unwrap();
    drop(streamer.acquire(UnitId(0)).unwrap());
    until_loaded(&streamer, 1);
    until_loaded(&streamer, 2);
    drop(streamer.acquire(UnitId(3)).unwrap());
    // Now 0 and 1 are read ahead, and stay at the gate.
    model.source.close_gate();
    drop(streamer.acquire(UnitId(3)).unwrap());
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| streamer.acquire(UnitId(3)).unwrap());
        model.source.open_gate();
        model.check(&waiter.join().unwrap());
    });
    assert!(streamer.budget().peak_bytes() <= 3 * PAGE);
}

#[test]
fn a_demand_waits_for_a_lease_of_another_thread() {
    let mut model = Model::of_pages(2);
    let streamer = model.builder().budget(Budget::new(PAGE)).read_ahead_bytes(0).build().unwrap();
    let both_hold = Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let lease = streamer.acquire(UnitId(0)).unwrap();
            both_hold.wait();
            model.check(&lease);
        });
        both_hold.wait();
        model.check(&streamer.acquire(UnitId(1)).unwrap());
    });
}

#[test]
fn other_memory_gets_the_room_of_units() {
    let mut model = Model::of_pages(4);
    let streamer = model.builder().budget(Budget::new(4 * PAGE)).build().unwrap();
    for unit in units(0..4) {
        drop(streamer.acquire(unit).unwrap());
    }
    let permit = streamer.make_room(3 * PAGE).unwrap();
    assert_eq!(permit.bytes(), 3 * PAGE);
    model.check(&streamer.acquire(UnitId(2)).unwrap());
    let _lease = streamer.acquire(UnitId(3)).unwrap();
    assert!(matches!(streamer.make_room(PAGE), Err(StreamError::NoRoom { .. })));
    assert!(matches!(streamer.make_room(5 * PAGE), Err(StreamError::NoRoom { .. })));
    assert!(streamer.budget().peak_bytes() <= 4 * PAGE);
}

#[test]
fn the_limit_can_be_lowered_and_raised_while_running() {
    let mut model = Model::of_pages(12);
    let streamer = model.builder().budget(Budget::new(12 * PAGE)).read_ahead_bytes(2 * PAGE).build().unwrap();
    model.source.watch(streamer.budget());
    for (pass, pages) in [12, 5, 2, 9, 1, 12].into_iter().enumerate() {
        streamer.set_memory_limit(pages * PAGE).unwrap();
        assert!(streamer.budget().used_bytes() <= pages * PAGE, "after lowering to {pages} pages");
        model.source.take_most_used_bytes();
        for unit in units(0..12) {
            model.check(&streamer.acquire(unit).unwrap());
            assert!(streamer.budget().used_bytes() <= pages * PAGE);
        }
        let most_pages = model.source.take_most_used_bytes() / PAGE;
        assert!(most_pages <= pages, "{most_pages} pages used of {pages} in pass {pass}");
    }
    let error = streamer.set_memory_limit(PAGE - 1).unwrap_err();
    assert!(matches!(error, StreamError::BudgetTooSmall { smallest_bytes: PAGE, .. }));
    assert_eq!(streamer.budget().limit_bytes(), 12 * PAGE);
}

#[test]
fn lowering_the_limit_below_what_is_leased_takes_effect_when_the_leases_drop() {
    let mut model = Model::of_pages(8);
    let streamer = model.builder().read_ahead_bytes(0).build().unwrap();
    let leases = streamer.acquire_all(&units(0..6)).unwrap();
    streamer.set_memory_limit(2 * PAGE).unwrap();
    assert_eq!(streamer.budget().used_bytes(), 6 * PAGE);
    drop(leases);
    // A hit reserves nothing, and must bring the use down all the same.
    drop(streamer.acquire(UnitId(5)).unwrap());
    assert!(streamer.budget().used_bytes() <= 2 * PAGE);
}

#[test]
fn the_limit_may_change_while_others_use_units() {
    let mut model = Model::of_pages(10);
    let streamer = model.builder().budget(Budget::new(10 * PAGE)).build().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..2_u32 {
            let (streamer, model) = (&streamer, &model);
            scope.spawn(move || {
                for round in 0..200 {
                    model.check(&streamer.acquire(UnitId((round * (thread + 1)) % 10)).unwrap());
                }
            });
        }
        for pages in [3, 8, 4, 10, 3, 5].repeat(5) {
            streamer.set_memory_limit(pages * PAGE).unwrap();
        }
    });
    assert!(streamer.budget().peak_bytes() <= 10 * PAGE);
}
