//! Units that a router names: leased as they arrive, and read before by what hints say.

use smoke_core::{Budget, ExpectedUse, UnitId};
use smoke_predict::{RoutedPredictor, RoutedUnit};
use smoke_prefetch::{Speculation, Streamer};

use crate::model::{Model, PAGE, units};

/// Shared units 0 and 1, each followed by the use of some of three experts: 2, 3, 4, and 5, 6, 7.
fn streamer(model: &mut Model, pages: u64, speculation: Speculation) -> Streamer {
    let expert = |unit| RoutedUnit { unit: UnitId(unit), place: usize::from(unit > 4), share: 0.5 };
    let experts: Vec<_> = (2..8).map(expert).collect();
    let builder = model.builder().budget(Budget::new(pages * PAGE)).speculation(speculation).record_trace(true);
    builder.predictor(RoutedPredictor::new(units([0, 1]), &experts)).read_ahead_bytes(3 * PAGE).build().unwrap()
}

fn hint(streamer: &Streamer, unit: u32) {
    streamer.hint(&[ExpectedUse { unit: UnitId(unit), distance: 1, probability: 0.9 }]);
}

fn arrive(model: &Model, streamer: &Streamer, wanted: &[u32]) -> Vec<usize> {
    let arrivals = streamer.acquire_each(&units(wanted.iter().copied())).unwrap();
    let arrived = arrivals.map(|arrival| {
        let (place, lease) = arrival.unwrap();
        assert_eq!(lease.unit().0, wanted[place]);
        model.check(&lease);
        place
    });
    arrived.collect()
}

#[test]
fn what_is_there_comes_first_while_all_others_are_read_at_once() {
    let mut model = Model::of_pages(8);
    let streamer = streamer(&mut model, 20, Speculation::Off);
    drop(streamer.acquire(UnitId(0)).unwrap());
    arrive(&model, &streamer, &[4]);
    model.source.close_gate();
    let mut arrivals = streamer.acquire_each(&units([2, 3, 4])).unwrap();
    // Both reads have begun before anything was asked for, and do not hold up what is there.
    model.source.wait_for_reads_at_the_gate(2);
    assert_eq!(arrivals.next().unwrap().unwrap().0, 2);
    model.source.open_gate();
    let mut rest: Vec<usize> = arrivals.map(|arrival| arrival.unwrap().0).collect();
    rest.sort_unstable();
    assert_eq!(rest, [0, 1]);
}

#[test]
fn more_than_fits_at_once_comes_one_by_one() {
    let mut model = Model::of_pages(8);
    let streamer = streamer(&mut model, 1, Speculation::Off);
    drop(streamer.acquire(UnitId(0)).unwrap());
    assert_eq!(arrive(&model, &streamer, &[2, 3, 4]).len(), 3);
    assert_eq!(streamer.budget().peak_bytes(), PAGE);
}

#[test]
fn the_trace_has_every_unit_of_a_group_once() {
    let mut model = Model::of_pages(8);
    let streamer = streamer(&mut model, 20, Speculation::Off);
    drop(streamer.acquire(UnitId(0)).unwrap());
    arrive(&model, &streamer, &[3, 2]);
    drop(streamer.acquire(UnitId(1)).unwrap());
    arrive(&model, &streamer, &[7]);
    assert_eq!(streamer.trace(), units([0, 3, 2, 1, 7]));
    assert_eq!(streamer.stats().accesses, 5);
}

#[test]
fn a_hint_that_comes_true_is_a_read_less_to_wait_for() {
    let mut model = Model::of_pages(8);
    let streamer = streamer(&mut model, 20, Speculation::Likely);
    drop(streamer.acquire(UnitId(0)).unwrap());
    hint(&streamer, 5);
    while !streamer.cache().contains(UnitId(5)) {
        std::thread::yield_now();
    }
    drop(streamer.acquire(UnitId(1)).unwrap());
    let before = streamer.stats();
    arrive(&model, &streamer, &[5]);
    let stats = streamer.stats();
    assert_eq!((stats.speculation.issued, stats.speculation.issued_bytes, stats.speculation.used), (1, PAGE, 1));
    assert_eq!(stats.demand_loads, before.demand_loads);
}

#[test]
fn what_was_not_chosen_is_no_longer_read() {
    let mut model = Model::of_pages(8);
    let streamer = streamer(&mut model, 20, Speculation::Likely);
    drop(streamer.acquire(UnitId(0)).unwrap());
    drop(streamer.acquire(UnitId(1)).unwrap());
    drop(streamer.acquire(UnitId(0)).unwrap());
    model.source.close_gate();
    hint(&streamer, 5);
    model.source.wait_for_reads_at_the_gate(1);
    drop(streamer.acquire(UnitId(1)).unwrap());
    let arrivals = streamer.acquire_each(&units([6])).unwrap();
    model.source.open_gate();
    assert_eq!(arrivals.map(|arrival| arrival.unwrap().0).collect::<Vec<_>>(), [0]);
    let stats = streamer.stats().speculation;
    assert_eq!((stats.issued, stats.used), (1, 0));
}

/// Time does not pass in these tests, so that no read fits into it.
#[test]
fn the_gate_reads_nothing_for_which_the_disk_has_no_time() {
    let mut model = Model::of_pages(8);
    let streamer = streamer(&mut model, 20, Speculation::Gated);
    for token in 0..400 {
        drop(streamer.acquire(UnitId(0)).unwrap());
        hint(&streamer, 5);
        drop(streamer.acquire(UnitId(1)).unwrap());
        arrive(&model, &streamer, &[5 + token % 3]);
    }
    let stats = streamer.stats();
    assert_eq!(stats.speculation.issued, 0);
    assert!(!stats.speculation.is_on && stats.speculation.switched_off > 0, "{stats:?}");
}
