//! What holds for every trace, policy, predictor and budget.

use proptest::prelude::*;
use smoke_cache::bound;
use smoke_cache::policy::{self, Known, Lru};
use smoke_core::{ExpectedUse, Forecast, NextUse, UnitId, UnitInfo, UnitKind};
use smoke_predict::{Access, AccessPredictor, NoForecast};
use smoke_replay::{Laboratory, ReplayError, Trace, predictors, replay};

/// Steps of up to three units out of six or fewer.
fn traces(steps_of: std::ops::Range<usize>, sizes: std::ops::Range<u64>) -> impl Strategy<Value = Trace> {
    let unit = (sizes, 0..3_u32, any::<bool>()).prop_map(|(bytes, layer, is_expert)| UnitInfo {
        bytes,
        layer: Some(layer),
        kind: if is_expert { UnitKind::Expert } else { UnitKind::Shared },
    });
    prop::collection::vec(unit, 1..7).prop_flat_map(move |units| {
        let step = prop::collection::vec((0..units.len() as u32).prop_map(UnitId), steps_of.clone());
        prop::collection::vec((step, any::<bool>()), 1..40).prop_map(move |steps| {
            let mut trace = Trace::new("", units.clone());
            for (step, ends_pass) in steps {
                trace.push_step(&step);
                if ends_pass {
                    trace.end_pass(1);
                }
            }
            trace
        })
    })
}

proptest! {
    #[test]
    fn no_policy_passes_min_or_the_budget(trace in traces(1..4, 1..50), extra in 0..150_u64) {
        let budget = trace.largest_step_bytes() + extra;
        for predictor in predictors::NAMES {
            let mut laboratory = Laboratory::new(&trace);
            laboratory.named_predictor(predictor).unwrap();
            for name in policy::NAMES {
                laboratory.named_policy(name).unwrap();
            }
            let comparison = laboratory.at(budget).unwrap();
            prop_assert_eq!(comparison.outcomes.len(), policy::NAMES.len());
            for (name, outcome) in &comparison.outcomes {
                prop_assert_eq!(outcome.accessed_bytes, trace.accessed_bytes());
                prop_assert_eq!(outcome.accessed_bytes, comparison.min.accessed_bytes);
                prop_assert_eq!(outcome.accesses, trace.accesses().len() as u64);
                prop_assert_eq!(outcome.loaded_bytes, outcome.accessed_bytes - outcome.hit_bytes, "nothing is read ahead");
                prop_assert!(outcome.hit_bytes <= comparison.min.hit_bytes, "{}: {:?}", name, outcome);
                prop_assert!(outcome.peak_bytes <= budget, "{}: {:?}", name, outcome);
                if comparison.is_below_cliff && name == "lru" {
                    prop_assert_eq!(outcome.hits, 0);
                }
            }
        }
    }

    #[test]
    fn next_use_with_the_oracle_is_min_for_equal_units(trace in traces(1..4, 7..8), extra in 0..50_u64) {
        let mut laboratory = Laboratory::new(&trace);
        laboratory.named_predictor("oracle").unwrap().named_policy("next-use").unwrap();
        laboratory.named_policy("probable-use").unwrap();
        let comparison = laboratory.at(trace.largest_step_bytes() + extra).unwrap();
        prop_assert!(comparison.is_min_exact);
        for (_, outcome) in &comparison.outcomes {
            prop_assert_eq!(outcome.hit_bytes, comparison.min.hit_bytes);
        }
    }

    /// Where steps use one unit each, the cliff is exactly where LRU begins to hit.
    #[test]
    fn the_cliff_is_where_lru_begins_to_hit(trace in traces(1..2, 1..50), below in 1..50_u64) {
        let hits = |budget| replay(&trace, budget, Lru::default(), &mut NoForecast).map(|outcome| outcome.hits);
        match trace.cliff_bytes() {
            None => prop_assert_eq!(hits(trace.total_bytes()).unwrap(), 0),
            Some(cliff) => {
                // The largest unit needs room, too, and may drive out what would have hit.
                let needed = trace.largest_step_bytes();
                if cliff >= needed {
                    prop_assert!(hits(cliff).unwrap() > 0);
                }
                if cliff.saturating_sub(below) >= needed {
                    prop_assert_eq!(hits(cliff - below).unwrap(), 0);
                }
            }
        }
    }

    /// The cache, reservations and leases hit what the plain simulation of `smoke-cache` hits.
    #[test]
    fn a_replay_is_a_plain_simulation(trace in traces(1..2, 1..50), extra in 0..150_u64) {
        let names = policy::NAMES.iter().filter(|name| !is_told_of_evictions_late(name));
        names.for_each(|name| replay_is_plain(&trace, trace.largest_step_bytes() + extra, name));
    }

    #[test]
    fn so_it_is_for_equal_units(trace in traces(1..2, 7..8), extra in 0..50_u64) {
        policy::NAMES.iter().for_each(|name| replay_is_plain(&trace, 7 + extra, name));
    }
}

/// The cache evicts only when it has chosen all that must go, the plain simulation one by one. To these it makes a difference:
/// they look at how much is loaded, or have a hand that stands on what was chosen before.
fn is_told_of_evictions_late(name: &str) -> bool {
    name.starts_with("per-layer") || name == "s3-fifo" || name == "sieve"
}

fn replay_is_plain(trace: &Trace, budget: u64, name: &str) {
    let known = Known { units: trace.units().to_vec(), ..Known::default() };
    let policy = || policy::by_name(name, &known).unwrap();
    let mut oracle = predictors::by_name("oracle", trace).unwrap();
    let outcome = replay(trace, budget, policy(), &mut *oracle).unwrap();
    let plain = bound::replay(trace.accesses(), &trace.unit_bytes(), budget, &mut *policy());
    assert_eq!(outcome.hit_bytes, plain.hit_bytes, "{name}");
}

#[test]
fn too_little_memory_is_said() {
    let unit = UnitInfo { bytes: 10, layer: None, kind: UnitKind::Shared };
    let mut trace = Trace::new("", vec![unit; 3]);
    trace.push_step(&[UnitId(0)]);
    trace.push_step(&[UnitId(0), UnitId(1), UnitId(0)]);
    trace.push_step(&[UnitId(0), UnitId(1), UnitId(2)]);
    let error = replay(&trace, 19, Lru::default(), &mut NoForecast).unwrap_err();
    let ReplayError::TooLittleMemory { budget_bytes: 19, step: 1, step_bytes: 20, needed_bytes: 30 } = error else {
        panic!("{error:?}")
    };
    assert!(replay(&trace, 30, Lru::default(), &mut NoForecast).is_ok());
}

#[test]
fn an_unknown_name_is_told_the_known_ones() {
    let trace = Trace::new("", Vec::new());
    let mut laboratory = Laboratory::new(&trace);
    let error = laboratory.named_policy("clairvoyant").unwrap_err().to_string();
    assert!(error.contains("clairvoyant") && error.contains("s3-fifo"), "{error}");
    let error = laboratory.named_predictor("crystal").unwrap_err().to_string();
    assert!(error.contains("crystal") && error.contains("markov"), "{error}");
    laboratory.named_policy("sieve").unwrap();
    let comparison = laboratory.at(0).unwrap();
    assert_eq!(comparison.outcomes[0].1.byte_hit_rate(), 0.0);
    assert!(!comparison.is_below_cliff);
}

/// Writes down what it is told.
#[derive(Debug, Default)]
struct Told(Vec<String>);

impl Forecast for Told {
    fn next_use(&self, _unit: UnitId) -> NextUse {
        NextUse::Unknown
    }
    fn upcoming(&self, _horizon: u64, _out: &mut Vec<ExpectedUse>) {}
}

impl AccessPredictor for Told {
    fn observe(&mut self, access: Access) {
        self.0.push(format!("{} at {}", access.unit, access.step.0));
    }
    fn hint(&mut self, expected: &[ExpectedUse]) {
        self.0.push(format!("hint of {}", expected.len()));
    }
}

#[test]
fn a_predictor_is_told_what_it_was_told_then() {
    let unit = UnitInfo { bytes: 10, layer: None, kind: UnitKind::Shared };
    let mut trace = Trace::new("", vec![unit; 3]);
    let expected = ExpectedUse { unit: UnitId(1), distance: 1, probability: 0.5 };
    trace.push_step(&[UnitId(2)]);
    trace.push_hint(vec![expected]);
    trace.push_hint(vec![expected; 2]);
    trace.push_step(&[UnitId(1), UnitId(0)]);
    trace.push_hint(vec![expected; 3]);
    let mut told = Told::default();
    replay(&trace, 20, Lru::default(), &mut told).unwrap();
    assert_eq!(told.0, ["unit 2 at 0", "hint of 1", "hint of 2", "unit 1 at 1", "unit 0 at 2"]);
}
