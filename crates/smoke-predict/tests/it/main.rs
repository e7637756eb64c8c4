//! Our own predictors keep the rules, and the cyclic one agrees with a plain search.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in what tests share, too")]

mod experts;
mod learned_file;
mod recorded;
mod schedules;
#[path = "../../examples/expert_recall/trace.rs"]
mod trace;

use proptest::prelude::*;
use smoke_predict::{
    Access, AccessPredictor, CyclicPredictor, Forecast, MarkovPredictor, NextUse, NoForecast, OraclePredictor,
    RoutedPredictor, RoutedUnit, Schedule, Scored, Step, UnitId, conformance,
};

fn units(numbers: impl IntoIterator<Item = u32>) -> Vec<UnitId> {
    numbers.into_iter().map(UnitId).collect()
}

/// Shared units 0 and 1, each followed by two experts.
fn routed() -> RoutedPredictor {
    let experts = [(2, 0), (3, 0), (4, 1), (5, 1)];
    let experts = experts.map(|(unit, place)| RoutedUnit { unit: UnitId(unit), place, share: 0.5 });
    RoutedPredictor::new(units([0, 1]), &experts)
}

#[test]
fn our_predictors_conform() {
    conformance::all(|| CyclicPredictor::new(units(0..5)));
    conformance::all(|| CyclicPredictor::new(units([9, 0, 1, 0, 2, 9, 9])));
    conformance::all(|| CyclicPredictor::new(Vec::new()));
    conformance::all(|| CyclicPredictor::new(Schedule { prologue: units([0, 1, 2]), cycle: units([1, 3, 4, 3]) }));
    conformance::all(|| CyclicPredictor::new(Schedule { prologue: units(0..5), cycle: Vec::new() }));
    conformance::all(MarkovPredictor::new);
    conformance::all(|| OraclePredictor::new(units([0, 1, 2, 3, 4, 0, 9, 9, 1])));
    conformance::all(routed);
    conformance::all(|| Scored::new(MarkovPredictor::new()));
    conformance::all(|| -> Box<dyn AccessPredictor> { Box::new(CyclicPredictor::new(units(0..3))) });
    conformance::all(|| NoForecast);
}

#[test]
fn the_suite_catches_a_predictor_that_names_a_unit_twice() {
    #[derive(Debug)]
    struct Stutter;
    impl Forecast for Stutter {
        fn next_use(&self, _unit: UnitId) -> NextUse {
            NextUse::In(1)
        }
        fn upcoming(&self, horizon: u64, out: &mut Vec<smoke_predict::ExpectedUse>) {
            let again = smoke_predict::ExpectedUse { unit: UnitId(0), distance: 1, probability: 0.5 };
            out.extend((0..horizon.min(2)).map(|_| again));
        }
    }
    impl AccessPredictor for Stutter {
        fn observe(&mut self, _access: Access) {}
    }
    let caught = std::panic::catch_unwind(|| conformance::all(|| Stutter));
    assert!(caught.is_err());
}

#[test]
fn a_learner_beats_the_baselines_on_a_scan() {
    let mut scored = Scored::new(MarkovPredictor::new());
    for step in 0..200 {
        scored.observe(Access { step: Step(step), unit: UnitId((step % 10) as u32) });
    }
    let accuracy = scored.accuracy();
    assert_eq!(accuracy.correct, 189, "all but the first pass and the first return to its start");
    assert!(accuracy.previous_rate() == 0.0 && accuracy.most_popular_rate() < 0.15, "{accuracy:?}");
}

proptest! {
    /// The definition, read off the prologue and six passes written out.
    #[test]
    fn cyclic_agrees_with_a_plain_search(
        prologue in prop::collection::vec(0..8_u32, 0..5),
        cycle in prop::collection::vec(0..6_u32, 1..12),
        observed in prop::collection::vec(0..9_u32, 0..30),
    ) {
        let schedule = Schedule { prologue: units(prologue.iter().copied()), cycle: units(cycle.iter().copied()) };
        let mut predictor = CyclicPredictor::new(schedule);
        let endless: Vec<u32> = [prologue.clone(), cycle.repeat(6)].concat();
        let mut at = 0;
        for unit in observed {
            predictor.observe(Access { step: Step(0), unit: UnitId(unit) });
            let ahead = endless[at..].iter().position(|&used| used == unit).map(|ahead| at + ahead);
            if let Some(place) = ahead.or_else(|| endless.iter().position(|&used| used == unit)) {
                at = place + 1;
                // Later passes are like the first.
                while at >= prologue.len() + cycle.len() {
                    at -= cycle.len();
                }
            }
            for asked in 0..8 {
                let expected = endless[at..]
                    .iter()
                    .position(|&used| used == asked)
                    .map_or(NextUse::Never, |ahead| NextUse::In(ahead as u64 + 1));
                prop_assert_eq!(predictor.next_use(UnitId(asked)), expected);
            }
            let mut out = Vec::new();
            predictor.upcoming(4, &mut out);
            let mut named: Vec<u32> = endless[at..at + 4].to_vec();
            let mut seen = Vec::new();
            named.retain(|unit| !seen.contains(unit) && { seen.push(*unit); true });
            prop_assert_eq!(out.iter().map(|use_| use_.unit.0).collect::<Vec<_>>(), named);
        }
    }
}
