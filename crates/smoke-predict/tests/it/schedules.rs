//! Passes that do not follow the schedule: skip connections, branches, early exits.

use smoke_predict::{
    Access, AccessPredictor, CyclicPredictor, Forecast, MarkovPredictor, RoutedPredictor, RoutedUnit, Scored, Step,
    UnitId,
};

fn observe(predictor: &mut dyn AccessPredictor, units: &[u32]) {
    for &unit in units {
        predictor.observe(Access { step: Step(0), unit: UnitId(unit) });
    }
}

fn next(predictor: &dyn Forecast, horizon: u64) -> Vec<(u32, u64)> {
    let mut out = Vec::new();
    predictor.upcoming(horizon, &mut out);
    out.iter().map(|use_| (use_.unit.0, use_.distance)).collect()
}

#[test]
fn a_skip_connection_costs_the_units_it_skips_and_no_more() {
    let mut scored = Scored::new(CyclicPredictor::new((0..6).map(UnitId).collect::<Vec<_>>()));
    for _ in 0..10 {
        observe(&mut scored, &[0, 1, 4, 5]);
    }
    // One surprise in each pass: 4.
    assert_eq!(scored.accuracy().correct, 30);
    assert_eq!(next(&scored, 2), [(0, 1), (1, 2)]);
}

#[test]
fn an_early_exit_begins_the_next_pass() {
    let mut predictor = CyclicPredictor::new((0..5).map(UnitId).collect::<Vec<_>>());
    observe(&mut predictor, &[0, 1, 2, 0]);
    assert_eq!(next(&predictor, 2), [(1, 1), (2, 2)]);
    // A unit used at the start and at the end, such as tied embeddings, ends the pass rather than beginning another.
    let mut tied = CyclicPredictor::new([0, 1, 2, 0].map(UnitId).to_vec());
    observe(&mut tied, &[0, 1, 0]);
    assert_eq!(next(&tied, 2), [(0, 1), (1, 2)]);
}

#[test]
fn the_likelier_branch_is_expected_and_the_other_borne() {
    let mut predictor = MarkovPredictor::new();
    for pass in 0..40 {
        observe(&mut predictor, if pass % 4 == 3 { &[0, 2, 3] } else { &[0, 1, 3] });
    }
    observe(&mut predictor, &[0, 1, 3, 0]);
    assert_eq!(next(&predictor, 2), [(1, 1), (3, 2)]);
    observe(&mut predictor, &[2]);
    assert_eq!(next(&predictor, 2), [(3, 1), (0, 2)], "both branches meet again");
}

#[test]
fn a_mixture_that_leaves_early_loses_the_hints_of_layers_it_did_not_reach() {
    let experts = [(3, 0), (4, 0), (5, 1), (6, 1), (7, 2), (8, 2)];
    let experts = experts.map(|(unit, place)| RoutedUnit { unit: UnitId(unit), place, share: 0.5 });
    let mut predictor = RoutedPredictor::new((0..3).map(UnitId).collect::<Vec<_>>(), &experts);
    observe(&mut predictor, &[0, 3]);
    let hint = |unit| smoke_predict::ExpectedUse { unit: UnitId(unit), distance: 1, probability: 0.9 };
    predictor.hint(&[hint(5), hint(7)]);
    assert_eq!(next(&predictor, 2), [(1, 1), (5, 1), (2, 2), (7, 2)]);
    // The token skips layer 1: only layer 2's hint lives on. Then the next token begins, and none does.
    observe(&mut predictor, &[2]);
    assert!(!next(&predictor, 3).iter().any(|&(unit, _)| unit == 5 || unit == 7));
    observe(&mut predictor, &[0, 4]);
    predictor.hint(&[hint(6), hint(8)]);
    observe(&mut predictor, &[0]);
    assert_eq!(next(&predictor, 3), [(1, 1), (2, 2), (0, 3)], "back at the start: all hints are over");
}
