//! The streamer, one behaviour a test.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use smoke_core::{Budget, ExpectedUse, UnitId};
use smoke_predict::{CyclicPredictor, MarkovPredictor, NoForecast};
use smoke_prefetch::{Retry, StreamError, Streamer};
use smoke_storage::{Extent, SourceErrorKind};

use crate::model::{Model, PAGE, byte, units};

/// Waits until `unit` is in memory, which a prefetch is bringing it to.
pub(crate) fn until_loaded(streamer: &Streamer, unit: u32) {
    while !streamer.cache().contains(UnitId(unit)) {
        std::thread::yield_now();
    }
}

#[test]
fn a_streamer_can_be_shared() {
    fn shared<T: Send + Sync + Clone + std::fmt::Debug + 'static>() {}
    shared::<Streamer>();
    shared::<smoke_prefetch::UnitLease>();
}

#[test]
fn it_runs_with_no_settings() {
    let mut model = Model::new(&[1, 5000, PAGE, 100_000]);
    let streamer = model.builder().build().unwrap();
    for unit in units([0, 1, 2, 3, 0, 1, 2, 3]) {
        model.check(&streamer.acquire(unit).unwrap());
    }
    let stats = streamer.stats();
    assert_eq!((stats.accesses, stats.demand_loads + stats.prefetch_loads), (8, 4));
    assert_eq!(stats.cache.evictions, 0);
}

#[test]
fn a_unit_asked_for_by_two_is_read_once() {
    let mut model = Model::of_pages(2);
    let streamer = model.builder().predictor(NoForecast).build().unwrap();
    model.source.close_gate();
    let leases: Vec<_> = std::thread::scope(|scope| {
        let waiters: Vec<_> = (0..4).map(|_| scope.spawn(|| streamer.acquire(UnitId(1)).unwrap())).collect();
        model.source.wait_for_reads_at_the_gate(1);
        model.source.open_gate();
        waiters.into_iter().map(|waiter| waiter.join().unwrap()).collect()
    });
    leases.iter().for_each(|lease| model.check(lease));
    assert_eq!(model.source.reads(), [1]);
    assert_eq!(streamer.budget().used_bytes(), PAGE);
}

#[test]
fn what_comes_next_is_loaded_while_the_lease_is_held() {
    let mut model = Model::of_pages(4);
    let streamer = model.builder().budget(Budget::new(3 * PAGE)).read_ahead_bytes(2 * PAGE).build().unwrap();
    let lease = streamer.acquire(UnitId(0)).unwrap();
    until_loaded(&streamer, 1);
    until_loaded(&streamer, 2);
    assert!(!streamer.cache().contains(UnitId(3)));
    drop(lease);
    model.check(&streamer.acquire(UnitId(1)).unwrap());
    let stats = streamer.stats();
    assert_eq!((stats.accesses, stats.on_time), (2, 1));
    assert_eq!((stats.demand_loads, stats.on_time_rate()), (1, 0.5));
}

#[test]
fn no_more_is_read_ahead_than_allowed() {
    let mut model = Model::of_pages(50);
    let streamer = model.builder().read_ahead_bytes(5 * PAGE).build().unwrap();
    let _lease = streamer.acquire(UnitId(0)).unwrap();
    (1..=5).for_each(|unit| until_loaded(&streamer, unit));
    assert_eq!(streamer.budget().used_bytes(), 6 * PAGE);
    assert_eq!(streamer.stats().prefetch_loads, 5);
}

#[test]
fn a_demand_joins_the_prefetch_in_flight() {
    let mut model = Model::of_pages(4);
    let streamer = model.builder().read_ahead_bytes(PAGE).build().unwrap();
    drop(streamer.acquire(UnitId(0)).unwrap());
    until_loaded(&streamer, 1);
    model.source.close_gate();
    drop(streamer.acquire(UnitId(1)).unwrap());
    model.source.wait_for_reads_at_the_gate(1);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| streamer.acquire(UnitId(2)).unwrap());
        model.source.open_gate();
        model.check(&waiter.join().unwrap());
    });
    assert_eq!(model.source.reads_of(2), 1);
}

/// A set of completed units that never forgets would leave an evicted one unloaded for ever.
#[test]
fn an_evicted_unit_is_loaded_again_and_ahead_again() {
    let mut model = Model::of_pages(6);
    let streamer = model.builder().budget(Budget::new(3 * PAGE)).read_ahead_bytes(PAGE).build().unwrap();
    let mut prefetched = 0;
    for pass in 0..4 {
        for unit in units(0..6) {
            model.check(&streamer.acquire(unit).unwrap());
        }
        let stats = streamer.stats();
        assert!(stats.prefetch_loads > prefetched, "pass {pass} read nothing ahead: {stats:?}");
        prefetched = stats.prefetch_loads;
    }
    assert!((0..6).all(|unit| model.source.reads_of(unit) >= 2), "{:?}", model.source.reads());
    assert!(streamer.budget().peak_bytes() <= 3 * PAGE);
}

#[test]
fn a_failed_prefetch_does_not_poison_the_demand() {
    let mut model = Model::of_pages(3);
    let streamer = model.builder().read_ahead_bytes(PAGE).build().unwrap();
    model.source.fail(1, [SourceErrorKind::Other]);
    drop(streamer.acquire(UnitId(0)).unwrap());
    // Whether it joins the prefetch that fails or comes after it.
    model.check(&streamer.acquire(UnitId(1)).unwrap());
    assert_eq!(model.source.reads_of(1), 2);
}

#[test]
fn transient_errors_are_tried_again_with_growing_pauses() {
    let mut model = Model::of_pages(1);
    let retry = Retry { attempts: 4, backoff: Duration::from_millis(3) };
    let streamer = model.builder().retry(retry).build().unwrap();
    model.source.fail(0, [SourceErrorKind::Transient; 3]);
    model.check(&streamer.acquire(UnitId(0)).unwrap());
    let stats = streamer.stats();
    assert_eq!((stats.retries, stats.stall), (3, Duration::from_millis(3 + 6 + 12)));
    assert_eq!((stats.bytes_read, stats.reads), (PAGE, 1), "only answered reads count");
}

#[test]
fn an_error_names_the_unit_and_a_later_demand_tries_again() {
    let mut model = Model::of_pages(2);
    let streamer = model.builder().predictor(NoForecast).build().unwrap();
    for kinds in [vec![SourceErrorKind::Truncated], vec![SourceErrorKind::Transient; 4]] {
        let last = kinds[kinds.len() - 1];
        model.source.fail(1, kinds);
        match streamer.acquire(UnitId(1)) {
            Err(StreamError::Load { unit: UnitId(1), error }) => assert_eq!(error.kind(), last),
            other => panic!("{other:?}"),
        }
        assert_eq!(streamer.budget().used_bytes(), 0, "what a failed load had reserved is given back");
    }
    model.check(&streamer.acquire(UnitId(1)).unwrap());
}

#[test]
fn an_error_reaches_all_who_wait() {
    let mut model = Model::of_pages(1);
    let streamer = model.builder().build().unwrap();
    model.source.fail(0, [SourceErrorKind::PermissionDenied; 9]);
    model.source.close_gate();
    std::thread::scope(|scope| {
        let waiters: Vec<_> = (0..3).map(|_| scope.spawn(|| streamer.acquire(UnitId(0)))).collect();
        model.source.wait_for_reads_at_the_gate(1);
        model.source.open_gate();
        for waiter in waiters {
            assert!(matches!(waiter.join().unwrap(), Err(StreamError::Load { .. })));
        }
    });
}

#[test]
fn all_of_a_step_or_none() {
    let mut model = Model::of_pages(6);
    let streamer = model.builder().budget(Budget::new(3 * PAGE)).read_ahead_bytes(0).build().unwrap();
    let wanted = units([4, 0, 4, 2]);
    let leases = streamer.acquire_all(&wanted).unwrap();
    assert_eq!(leases.iter().map(smoke_prefetch::UnitLease::unit).collect::<Vec<_>>(), wanted);
    leases.iter().for_each(|lease| model.check(lease));
    drop(leases);

    model.source.fail(5, [SourceErrorKind::Truncated]);
    assert!(streamer.acquire_all(&units([0, 5, 2])).is_err());
    // Nothing is held, so all memory can be had.
    drop(streamer.make_room(3 * PAGE).unwrap());
    assert_eq!(streamer.stats().accesses, 4);
}

/// With room for three, three threads that take two each cannot hold a half each for ever.
#[test]
fn steps_of_several_threads_do_not_wait_for_one_another() {
    let mut model = Model::of_pages(8);
    let streamer = model.builder().budget(Budget::new(3 * PAGE)).read_ahead_bytes(PAGE).build().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..3_u32 {
            let (streamer, model) = (&streamer, &model);
            scope.spawn(move || {
                for round in 0..60 {
                    let step = units([(thread + round) % 8, (thread * 3 + round * 5 + 1) % 8]);
                    streamer.acquire_all(&step).unwrap().iter().for_each(|lease| model.check(lease));
                }
            });
        }
    });
    assert!(streamer.budget().peak_bytes() <= 3 * PAGE);
}

/// One step holds the unit of a load that it has not leased yet, the other a lease: the second must give way and try
/// again, not fail.
#[test]
fn a_step_that_holds_a_finished_load_is_known_to_hold_it() {
    // In memory: 0 and 3 fill the room, as do 1 and 2, and any other pair does not fit beside either.
    let mut model = Model::new(&[2 * PAGE, 2 * PAGE, PAGE, PAGE]);
    let streamer = model.builder().budget(Budget::new(3 * PAGE)).predictor(NoForecast).build().unwrap();
    let blocking = streamer.acquire(UnitId(0)).unwrap();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| streamer.acquire_all(&units([1, 2])).map(drop));
        until_loaded(&streamer, 2);
        let accesses = streamer.cache().stats().accesses;
        let second = scope.spawn(|| streamer.acquire_all(&units([0, 3])).map(drop));
        while streamer.cache().stats().accesses == accesses {
            std::thread::yield_now();
        }
        // From here the first waits with 2, which it has not leased, and the second with a lease of 0.
        drop(blocking);
        first.join().unwrap().unwrap();
        second.join().unwrap().unwrap();
    });
    assert!(streamer.budget().peak_bytes() <= 3 * PAGE);
}

#[test]
fn peek_is_no_use() {
    let mut model = Model::of_pages(2);
    let streamer = model.builder().predictor(NoForecast).build().unwrap();
    let seen = watch(&streamer);
    assert!(streamer.peek(UnitId(0)).is_none() && streamer.peek(UnitId(9)).is_none());
    drop(streamer.acquire(UnitId(0)).unwrap());
    model.check(&streamer.peek(UnitId(0)).unwrap());
    assert_eq!((streamer.stats().accesses, streamer.stats().cache.accesses), (1, 1));
    assert_eq!(*seen.lock().unwrap(), ["Uses([UnitId(0)])"]);
}

/// Writes down what an observer is told from now on.
fn watch(streamer: &Streamer) -> Arc<Mutex<Vec<String>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&seen);
    streamer.observe_with(move |observed| told.lock().unwrap().push(format!("{observed:?}")));
    seen
}

#[test]
fn an_observer_is_told_of_uses_and_hints_in_order() {
    let mut model = Model::of_pages(3);
    let streamer = model.builder().build().unwrap();
    drop(streamer.acquire(UnitId(1)).unwrap());
    let seen = watch(&streamer);
    drop(streamer.acquire(UnitId(2)).unwrap());
    streamer.hint(&[]);
    drop(streamer.acquire_all(&units([1, 0, 1])).unwrap());
    streamer.stop_observing();
    drop(streamer.acquire(UnitId(1)).unwrap());
    let expected = ["Uses([UnitId(2)])", "Hints([])", "Uses([UnitId(1), UnitId(0), UnitId(1)])"];
    assert_eq!(*seen.lock().unwrap(), expected);
}

#[test]
fn uncached_reads_are_exact_counted_and_retried() {
    let mut model = Model::of_pages(3);
    let streamer = model.builder().build().unwrap();
    let row = Extent { offset: model.extent(1).offset + 100, len: 32, ..model.extent(1) };
    let mut buf = [0; 32];
    model.source.fail(1, [SourceErrorKind::Transient]);
    streamer.read_uncached(row, &mut buf).unwrap();
    assert!(buf.iter().enumerate().all(|(at, &there)| there == byte(1, 100 + at)));
    let stats = streamer.stats();
    assert_eq!((stats.bytes_read, stats.reads, stats.retries), (32, 1, 1));
    assert_eq!(streamer.budget().used_bytes(), 0);
    let beyond = Extent { offset: 1 << 40, ..row };
    assert!(matches!(streamer.read_uncached(beyond, &mut buf), Err(StreamError::Read(_))));
}

#[test]
fn a_hint_may_bring_a_unit_in() {
    /// Expects what it was told last.
    #[derive(Debug, Default)]
    struct Told(Vec<ExpectedUse>);
    impl smoke_core::Forecast for Told {
        fn next_use(&self, unit: UnitId) -> smoke_core::NextUse {
            let told = self.0.iter().find(|expected| expected.unit == unit);
            told.map_or(smoke_core::NextUse::Unknown, |expected| smoke_core::NextUse::In(expected.distance))
        }
        fn upcoming(&self, horizon: u64, out: &mut Vec<ExpectedUse>) {
            out.extend(self.0.iter().filter(|expected| expected.distance <= horizon));
        }
    }
    impl smoke_predict::AccessPredictor for Told {
        fn observe(&mut self, _access: smoke_core::Access) {}
        fn hint(&mut self, expected: &[ExpectedUse]) {
            self.0 = expected.to_vec();
        }
    }
    let mut model = Model::of_pages(9);
    let streamer = model.builder().predictor(Told::default()).build().unwrap();
    let hint = |unit, probability| ExpectedUse { unit: UnitId(unit), distance: 1, probability };
    streamer.hint(&[hint(7, 0.9), hint(8, 0.1)]);
    until_loaded(&streamer, 7);
    assert_eq!(model.source.reads(), [7], "the unlikely one is not worth a read");
}

#[test]
fn an_order_that_nobody_told_is_learned() {
    let mut model = Model::of_pages(8);
    let streamer = model.builder().budget(Budget::new(4 * PAGE)).predictor(MarkovPredictor::new()).build().unwrap();
    for _pass in 0..3 {
        for unit in units([3, 1, 4, 0, 5, 2, 6, 7]) {
            model.check(&streamer.acquire(unit).unwrap());
        }
    }
    assert!(streamer.stats().prefetch_loads > 0);
}

#[test]
fn resetting_counts_from_zero() {
    let mut model = Model::of_pages(3);
    let streamer = model.builder().predictor(NoForecast).build().unwrap();
    drop(streamer.acquire(UnitId(0)).unwrap());
    streamer.reset_stats();
    drop(streamer.acquire(UnitId(0)).unwrap());
    let stats = streamer.stats();
    assert_eq!((stats.accesses, stats.on_time, stats.bytes_read, stats.demand_loads), (1, 1, 0, 0));
    assert_eq!((stats.cache.accesses, stats.cache.hits, stats.cache.inserted_units), (1, 1, 0));
}

#[test]
fn a_dropped_streamer_leaves_nothing_but_leases() {
    let mut model = Model::of_pages(20);
    let budget = Budget::new(10 * PAGE);
    let streamer = model.builder().budget(budget.clone()).read_ahead_bytes(6 * PAGE).io_threads(2).build().unwrap();
    let lease = streamer.acquire(UnitId(0)).unwrap();
    (1..=6).for_each(|unit| until_loaded(&streamer, unit));
    model.source.close_gate();
    // Resident, but now two further units are read ahead, and stay at the gate.
    drop(streamer.acquire_all(&units([1, 2])).unwrap());
    model.source.wait_for_reads_at_the_gate(2);
    std::thread::scope(|scope| {
        scope.spawn(|| drop(streamer));
        model.source.open_gate();
    });
    model.check(&lease);
    drop(lease);
    assert_eq!(budget.used_bytes(), 0);
}

#[test]
fn a_source_that_panics_is_an_error() {
    #[derive(Debug)]
    struct Panicking(smoke_storage::MemorySource);
    impl smoke_storage::WeightSource for Panicking {
        fn index(&self) -> &smoke_storage::TensorIndex {
            self.0.index()
        }
        fn read_at(&self, _extent: Extent, _buf: &mut [u8]) -> Result<(), smoke_storage::SourceError> {
            panic!("made to panic")
        }
    }
    let tensor = ("t".to_owned(), smoke_core::Encoding::U8, vec![9], vec![0; 9]);
    let source = Panicking(smoke_storage::MemorySource::new(vec![tensor]).unwrap());
    let mut map = smoke_storage::UnitMapBuilder::new(1);
    map.begin_unit();
    map.push(Extent { file: 0, offset: 0, len: 9 });
    let units = map.finish(smoke_storage::WeightSource::index(&source)).unwrap();
    let streamer =
        Streamer::builder(Arc::new(source), units).predictor(CyclicPredictor::new(Vec::new())).build().unwrap();
    assert!(matches!(streamer.acquire(UnitId(0)), Err(StreamError::Panicked { unit: UnitId(0) })));
    assert_eq!(streamer.budget().used_bytes(), 0);
}
