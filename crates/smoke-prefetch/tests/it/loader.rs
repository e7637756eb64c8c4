//! The loader alone: order, one read per unit, errors, cancellation, the end.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use futures::executor::block_on;
use futures::future::join_all;
use proptest::prelude::*;
use smoke_core::UnitId;
use smoke_prefetch::{Load, LoadError, Loader, Priority};
use smoke_storage::{SourceError, SourceErrorKind};

const SOON: Priority = Priority::Prefetch { distance: 1 };
const LATER: Priority = Priority::Prefetch { distance: 9 };

fn loader(io_threads: usize) -> Loader<u32> {
    Loader::new(io_threads, || {}).unwrap()
}

/// Occupies the only thread of a loader until the sender is dropped; begun when this returns.
fn occupy(loader: &Loader<u32>) -> (Load<u32>, mpsc::Sender<()>) {
    let (release, released) = mpsc::channel::<()>();
    let (begin, begun) = mpsc::channel();
    let load = loader.submit(UnitId(1000), Priority::Demand, move |_| {
        begin.send(()).unwrap();
        let _ = released.recv();
        Ok(1000)
    });
    begun.recv().unwrap();
    (load, release)
}

fn failed() -> Result<u32, LoadError> {
    Err(LoadError::Source(Arc::new(SourceError::new(SourceErrorKind::Truncated, "cut off"))))
}

#[test]
fn demand_overtakes_prefetch_and_the_nearer_the_farther() {
    let loader = loader(1);
    let (busy, release) = occupy(&loader);
    let order = Arc::new(Mutex::new(Vec::new()));
    let priorities = [LATER, SOON, Priority::Demand, Priority::Prefetch { distance: 5 }, LATER];
    let loads: Vec<_> = (0..)
        .zip(priorities)
        .map(|(unit, priority)| {
            let order = Arc::clone(&order);
            loader.submit(UnitId(unit), priority, move |_| {
                order.lock().unwrap().push(unit);
                Ok(unit)
            })
        })
        .collect();
    // Somebody comes to wait for the last one.
    let raised = loader.join(UnitId(4), Priority::Demand).unwrap();
    drop(release);
    assert_eq!(busy.wait().unwrap(), 1000);
    assert_eq!(raised.wait().unwrap(), 4);
    for (unit, load) in (0..).zip(&loads) {
        assert_eq!(load.wait().unwrap(), unit);
    }
    assert_eq!(*order.lock().unwrap(), [2, 4, 1, 3, 0]);
}

#[test]
fn a_unit_asked_for_twice_is_read_once() {
    let loader = loader(2);
    let (busy, release) = occupy(&loader);
    let reads = Arc::new(AtomicUsize::new(0));
    let read = |reads: &Arc<AtomicUsize>| {
        let reads = Arc::clone(reads);
        move |_: &dyn Fn() -> bool| {
            reads.fetch_add(1, Ordering::SeqCst);
            Ok(5)
        }
    };
    let again = loader.submit(UnitId(1000), SOON, |_| panic!("in flight already"));
    let loads: Vec<_> = (0..3).map(|_| loader.submit(UnitId(5), SOON, read(&reads))).collect();
    drop(release);
    assert_eq!((busy.wait().unwrap(), again.wait().unwrap()), (1000, 1000));
    assert!(loads.iter().all(|load| load.wait().unwrap() == 5));
    // The third may have been submitted after the first had ended, which is a new load.
    assert!((1..=3).contains(&reads.load(Ordering::SeqCst)));
}

#[test]
fn an_error_reaches_every_waiter() {
    let loader = loader(1);
    let (_busy, release) = occupy(&loader);
    let first = loader.submit(UnitId(0), SOON, |_| failed());
    let second = loader.submit(UnitId(0), Priority::Demand, |_| Ok(0));
    let third = second.clone();
    let blocked = std::thread::scope(|scope| {
        let blocked = scope.spawn(|| first.wait());
        drop(release);
        blocked.join().unwrap()
    });
    let errors: Vec<_> = [blocked, second.wait(), block_on(third)]
        .into_iter()
        .map(|result| match result {
            Err(LoadError::Source(error)) => error,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(errors.iter().all(|error| Arc::ptr_eq(error, &errors[0])));
    assert_eq!(errors[0].kind(), SourceErrorKind::Truncated);
    // The failure is not remembered.
    assert_eq!(loader.submit(UnitId(0), SOON, |_| Ok(7)).wait().unwrap(), 7);
}

#[test]
fn a_load_is_a_future() {
    let loader = loader(2);
    let (busy, release) = occupy(&loader);
    let loads = (0..20).map(|unit| loader.submit(UnitId(unit), SOON, move |_| Ok(unit)));
    let all = join_all(loads);
    let (sum, last) = std::thread::scope(|scope| {
        let all = scope.spawn(|| block_on(all).into_iter().map(Result::unwrap).sum::<u32>());
        let last = scope.spawn(|| block_on(busy.clone()).unwrap());
        drop(release);
        (all.join().unwrap(), last.join().unwrap())
    });
    assert_eq!((sum, last), (190, 1000));
}

#[test]
fn dropping_the_last_handle_cancels_what_waits() {
    let ended = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&ended);
    let loader: Loader<u32> = Loader::new(1, move || {
        counter.fetch_add(1, Ordering::SeqCst);
    })
    .unwrap();
    let (_busy, _release) = occupy(&loader);
    let charged = Arc::new(());
    let held = Arc::clone(&charged);
    let load = loader.submit(UnitId(0), SOON, move |_| {
        drop(held);
        Ok(0)
    });
    let other = load.clone();
    drop(load);
    assert!(loader.contains(UnitId(0)));
    drop(other);
    assert!(!loader.contains(UnitId(0)));
    assert_eq!(Arc::strong_count(&charged), 1, "what the load has charged is given back");
    assert_eq!(ended.load(Ordering::SeqCst), 1);
}

#[test]
fn dropping_the_last_handle_stops_what_is_being_read() {
    let loader = loader(1);
    let (begin, begun) = mpsc::channel();
    let (stop, stopped) = mpsc::channel();
    let load = loader.submit(UnitId(0), SOON, move |should_stop| {
        begin.send(()).unwrap();
        while !should_stop() {
            std::thread::yield_now();
        }
        stop.send(()).unwrap();
        Err(LoadError::Cancelled)
    });
    begun.recv().unwrap();
    drop(load);
    stopped.recv().unwrap();
}

#[test]
fn a_detached_load_goes_on_and_can_be_joined_or_cancelled() {
    let loader = loader(1);
    let (_busy, release) = occupy(&loader);
    for (unit, priority) in [(0, LATER), (1, SOON), (2, LATER)] {
        loader.submit(UnitId(unit), priority, move |_| Ok(unit)).detach();
    }
    let joined = loader.join(UnitId(2), LATER).unwrap();
    // 2 is as far away as 0, but somebody holds it; 1 would be next.
    assert_eq!(loader.cancel_least_urgent(10, |_| 10), 10);
    assert!(!loader.contains(UnitId(0)) && loader.contains(UnitId(1)) && loader.contains(UnitId(2)));
    drop(release);
    assert_eq!(joined.wait().unwrap(), 2);
    drop(joined);
    assert_eq!(loader.cancel_least_urgent(u64::MAX, |_| 0), 0);
}

#[test]
fn a_load_told_to_stop_goes_on_when_it_is_wanted_again() {
    let loader = loader(1);
    let (begin, begun) = mpsc::channel();
    let (ask, asked) = mpsc::channel::<()>();
    let load = loader.submit(UnitId(0), SOON, move |should_stop| {
        begin.send(()).unwrap();
        asked.recv().unwrap();
        if should_stop() { Err(LoadError::Cancelled) } else { Ok(3) }
    });
    begun.recv().unwrap();
    drop(load);
    let again = loader.join(UnitId(0), Priority::Demand).unwrap();
    ask.send(()).unwrap();
    assert_eq!(again.wait().unwrap(), 3);
}

#[test]
fn a_panic_is_an_error_and_the_thread_goes_on() {
    let loader = loader(1);
    let load = loader.submit(UnitId(0), SOON, |_| panic!("made to panic"));
    assert!(matches!(load.wait(), Err(LoadError::Panicked)));
    assert_eq!(loader.submit(UnitId(1), SOON, |_| Ok(1)).wait().unwrap(), 1);
}

#[test]
fn dropping_the_loader_stops_with_loads_in_flight() {
    let loader = loader(1);
    let (begin, begun) = mpsc::channel();
    let running = loader.submit(UnitId(0), SOON, move |should_stop| {
        begin.send(()).unwrap();
        while !should_stop() {
            std::thread::yield_now();
        }
        Err(LoadError::Cancelled)
    });
    begun.recv().unwrap();
    let waiting = loader.submit(UnitId(1), SOON, |_| Ok(1));
    let detached = Arc::new(AtomicBool::new(false));
    let was_read = Arc::clone(&detached);
    loader
        .submit(UnitId(2), SOON, move |_| {
            was_read.store(true, Ordering::SeqCst);
            Ok(2)
        })
        .detach();
    drop(loader);
    assert!(matches!(running.wait(), Err(LoadError::Cancelled)));
    assert!(matches!(waiting.wait(), Err(LoadError::Stopped)));
    assert!(!detached.load(Ordering::SeqCst));
    // Handles may outlive it.
    drop((running.clone(), waiting));
}

#[derive(Clone, Debug)]
enum Step {
    Submit(u32, Option<u64>, bool),
    Join(u32),
    Drop(usize),
    Detach(usize),
    Wait(usize),
    CancelLeastUrgent(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6_u32, prop::option::of(0..9_u64), any::<bool>()).prop_map(|(unit, distance, fails)| Step::Submit(unit, distance, fails)),
        1 => (0..6_u32).prop_map(Step::Join),
        2 => (0..9_usize).prop_map(Step::Drop),
        1 => (0..9_usize).prop_map(Step::Detach),
        1 => (0..9_usize).prop_map(Step::Wait),
        1 => (0..4_u64).prop_map(Step::CancelLeastUrgent),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever is submitted, joined, dropped and cancelled: no unit is read twice at once, every wait ends with the
    /// right value or an error that was made, every closure is dropped, and each load is announced once.
    #[test]
    fn every_load_ends_once(steps in prop::collection::vec(step(), 1..60), io_threads in 1..4_usize) {
        let announced = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&announced);
        let loader: Loader<u32> = Loader::new(io_threads, move || {
            counter.fetch_add(1, Ordering::SeqCst);
        })
        .unwrap();
        let charged = Arc::new(());
        let reading: Arc<Mutex<HashMap<u32, usize>>> = Arc::default();
        let begun = Arc::new(AtomicUsize::new(0));
        let mut loads: Vec<Load<u32>> = Vec::new();
        for step in steps {
            match step {
                Step::Submit(unit, distance, fails) => {
                    let priority = distance.map_or(Priority::Demand, |distance| Priority::Prefetch { distance });
                    let (charge, reading, begun) = (Arc::clone(&charged), Arc::clone(&reading), Arc::clone(&begun));
                    loads.push(loader.submit(UnitId(unit), priority, move |should_stop| {
                        let _charge = charge;
                        begun.fetch_add(1, Ordering::SeqCst);
                        let at_once = {
                            let mut reading = reading.lock().unwrap();
                            let count = reading.entry(unit).or_default();
                            *count += 1;
                            *count
                        };
                        std::thread::yield_now();
                        *reading.lock().unwrap().get_mut(&unit).unwrap() -= 1;
                        assert_eq!(at_once, 1, "unit {unit} is read twice at once");
                        if should_stop() {
                            Err(LoadError::Cancelled)
                        } else if fails {
                            failed()
                        } else {
                            Ok(unit)
                        }
                    }));
                }
                Step::Join(unit) => loads.extend(loader.join(UnitId(unit), Priority::Demand)),
                Step::CancelLeastUrgent(bytes) => {
                    loader.cancel_least_urgent(bytes, |_| 1);
                }
                _ if loads.is_empty() => {}
                Step::Drop(at) => drop(loads.swap_remove(at % loads.len())),
                Step::Detach(at) => loads.swap_remove(at % loads.len()).detach(),
                Step::Wait(at) => check_end(&loads[at % loads.len()])?,
            }
        }
        for load in &loads {
            check_end(load)?;
        }
        drop(loads);
        drop(loader);
        prop_assert_eq!(Arc::strong_count(&charged), 1);
        prop_assert!(announced.load(Ordering::SeqCst) >= begun.load(Ordering::SeqCst));
    }
}

fn check_end(load: &Load<u32>) -> Result<(), TestCaseError> {
    match load.wait() {
        Ok(unit) => prop_assert_eq!(unit, load.unit().0),
        Err(LoadError::Source(error)) => prop_assert_eq!(error.kind(), SourceErrorKind::Truncated),
        // A handle that revived a load too late.
        Err(LoadError::Cancelled) => {}
        Err(other) => prop_assert!(false, "{other:?}"),
    }
    Ok(())
}
