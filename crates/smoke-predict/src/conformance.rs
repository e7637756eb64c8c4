//! The rules of [`AccessPredictor`], to run against an implementation of your own.
//!
//! Each function checks one rule on fresh instances from `make` and panics where it is broken, naming the history; no
//! test framework is needed. [`all`] runs every one. This module is for tests and not covered by API stability.
//!
//! ```
//! use smoke_predict::{conformance, CyclicPredictor, UnitId};
//! conformance::all(|| CyclicPredictor::new((0..5).map(UnitId).collect::<Vec<_>>()));
//! ```

use smoke_core::{Access, ExpectedUse, Forecast, NextUse, Step, UnitId};

use crate::AccessPredictor;

const HORIZONS: [u64; 6] = [0, 1, 2, 7, 100, u64::MAX];

/// Runs every rule.
pub fn all<P: AccessPredictor>(make: impl Fn() -> P) {
    upcoming_is_well_formed(&make);
    upcoming_appends(&make);
    a_longer_horizon_only_adds(&make);
    upcoming_agrees_with_next_use(&make);
    questions_change_nothing(&make);
    the_same_history_gives_the_same_answers(&make);
    any_sequence_is_accepted(&make);
}

/// `upcoming` is sorted by distance, names each unit once, stays within the horizon, and its probabilities are in (0, 1].
pub fn upcoming_is_well_formed<P: AccessPredictor>(make: impl Fn() -> P) {
    check_along_histories(make, |predictor, history| {
        for horizon in HORIZONS {
            let expected = upcoming(predictor, horizon);
            let context = || format!("upcoming({horizon}) = {expected:?} after {history:?}");
            assert!(expected.is_sorted_by_key(|use_| use_.distance), "not nearest first: {}", context());
            assert!(
                expected.iter().all(|use_| (1..=horizon).contains(&use_.distance)),
                "a distance outside 1..={horizon}: {}",
                context()
            );
            assert!(
                expected.iter().all(|use_| use_.probability > 0.0 && use_.probability <= 1.0),
                "a probability outside (0, 1]: {}",
                context()
            );
            let mut units: Vec<_> = expected.iter().map(|use_| use_.unit).collect();
            units.sort_unstable();
            assert!(units.windows(2).all(|pair| pair[0] != pair[1]), "a unit named twice: {}", context());
        }
    });
}

/// `upcoming` leaves what `out` held before.
pub fn upcoming_appends<P: AccessPredictor>(make: impl Fn() -> P) {
    let there = ExpectedUse { unit: UnitId(77), distance: 3, probability: 0.5 };
    check_along_histories(make, |predictor, history| {
        let mut out = vec![there];
        predictor.upcoming(5, &mut out);
        assert_eq!(out[0], there, "what was in `out` is gone after {history:?}");
        assert_eq!(
            out[1..],
            upcoming(predictor, 5),
            "another answer into a vector that is not empty, after {history:?}"
        );
    });
}

/// A longer horizon gives the same answer as a shorter one, and then more.
pub fn a_longer_horizon_only_adds<P: AccessPredictor>(make: impl Fn() -> P) {
    check_along_histories(make, |predictor, history| {
        for horizons in HORIZONS.windows(2) {
            let (short, long) = (upcoming(predictor, horizons[0]), upcoming(predictor, horizons[1]));
            assert!(long.starts_with(&short), "upcoming of {horizons:?} differ: {short:?}, {long:?} after {history:?}");
        }
    });
}

/// A unit that is upcoming has a known next use; a certain one (probability 1) at exactly that distance. Distances are
/// at least 1.
pub fn upcoming_agrees_with_next_use<P: AccessPredictor>(make: impl Fn() -> P) {
    check_along_histories(make, |predictor, history| {
        for use_ in upcoming(predictor, 100) {
            match predictor.next_use(use_.unit) {
                NextUse::In(distance) => assert!(
                    use_.probability < 1.0 || distance == use_.distance,
                    "{use_:?} is certain, but next_use says {distance}, after {history:?}"
                ),
                other => panic!("{use_:?} is upcoming, but next_use says {other:?}, after {history:?}"),
            }
        }
        for unit in (0..12).chain([u32::MAX]).map(UnitId) {
            assert_ne!(predictor.next_use(unit), NextUse::In(0), "{unit} in 0 steps, after {history:?}");
        }
    });
}

/// An instance that is asked answers like one that is not.
pub fn questions_change_nothing<P: AccessPredictor>(make: impl Fn() -> P) {
    for history in histories() {
        let (mut asked, mut quiet) = (make(), make());
        for access in &history {
            for horizon in HORIZONS {
                upcoming(&asked, horizon);
            }
            asked.next_use(access.unit);
            asked.observe(*access);
            quiet.observe(*access);
        }
        assert_same_answers(&asked, &quiet, "questions changed the answers", &history);
    }
}

/// Two instances with the same history answer alike.
pub fn the_same_history_gives_the_same_answers<P: AccessPredictor>(make: impl Fn() -> P) {
    for history in histories() {
        let (mut one, mut other) = (make(), make());
        for access in &history {
            one.observe(*access);
        }
        for access in &history {
            other.observe(*access);
        }
        assert_same_answers(&one, &other, "the same history gave different answers", &history);
    }
}

/// Unknown units, repeats, steps that stand still or go back, and senseless hints are borne.
pub fn any_sequence_is_accepted<P: AccessPredictor>(make: impl Fn() -> P) {
    let mut predictor = make();
    for (step, unit) in [(0, u32::MAX), (0, 0), (0, 0), (9, 1), (3, 0), (u64::MAX, u32::MAX), (0, 1)] {
        predictor.observe(Access { step: Step(step), unit: UnitId(unit) });
        predictor.hint(&[]);
        for probability in [0.0, 1.0, -1.0, 7.0, f32::NAN] {
            predictor.hint(&[
                ExpectedUse { unit: UnitId(unit), distance: 0, probability },
                ExpectedUse { unit: UnitId(unit), distance: u64::MAX, probability },
            ]);
        }
        predictor.next_use(UnitId(unit));
        upcoming(&predictor, u64::MAX);
    }
}

fn upcoming(predictor: &dyn Forecast, horizon: u64) -> Vec<ExpectedUse> {
    let mut out = Vec::new();
    predictor.upcoming(horizon, &mut out);
    out
}

fn assert_same_answers(one: &dyn Forecast, other: &dyn Forecast, what: &str, history: &[Access]) {
    for horizon in HORIZONS {
        assert_eq!(upcoming(one, horizon), upcoming(other, horizon), "{what}, after {history:?}");
    }
    for unit in (0..12).map(UnitId) {
        assert_eq!(one.next_use(unit), other.next_use(unit), "{what} for {unit}, after {history:?}");
    }
}

/// Calls `check` before the first access and after each one of every history.
fn check_along_histories<P: AccessPredictor>(make: impl Fn() -> P, check: impl Fn(&dyn Forecast, &[Access])) {
    for history in histories() {
        let mut predictor = make();
        check(&predictor, &[]);
        for (index, access) in history.iter().enumerate() {
            predictor.observe(*access);
            check(&predictor, &history[..=index]);
        }
    }
}

/// Scans, repeats, and random mixtures of both, always the same ones.
fn histories() -> Vec<Vec<Access>> {
    let numbered = |units: Vec<u32>| -> Vec<Access> {
        (0..).map(Step).zip(units).map(|(step, unit)| Access { step, unit: UnitId(unit) }).collect()
    };
    let mut histories = vec![numbered(vec![0; 5]), numbered((0..5).cycle().take(23).collect())];
    for seed in 1..=8_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut draw = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let mut unit = 0;
        let units = (0..60).map(|_| {
            unit = if draw(4) == 0 { draw(10) as u32 } else { (unit + 1) % 6 };
            unit
        });
        histories.push(numbered(units.collect()));
    }
    histories
}
