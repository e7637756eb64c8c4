//! Rules that every eviction policy must keep, to run against your own. Not covered by semantic versioning.
//!
//! ```
//! smoke_cache::conformance::all(smoke_cache::policy::Lru::default);
//! ```

use std::collections::HashMap;
use std::fmt::Debug;

use smoke_core::{Budget, ExpectedUse, Forecast, NextUse, NoForecast, Purpose, UnitId};

use crate::cache::Cache;
use crate::error::ReserveError;
use crate::eviction::{Candidate, EvictionPolicy, EvictionRequest, Incoming};

/// A forecast that says what it is told to.
#[derive(Clone, Debug, Default)]
pub struct ScriptedForecast {
    /// The distance of each unit's next use, in steps; units that are absent are unknown.
    pub distances: HashMap<UnitId, u64>,
}

impl Forecast for ScriptedForecast {
    fn next_use(&self, unit: UnitId) -> NextUse {
        self.distances.get(&unit).map_or(NextUse::Unknown, |&distance| NextUse::In(distance))
    }

    fn upcoming(&self, horizon: u64, out: &mut Vec<ExpectedUse>) {
        let first = out.len();
        let near = self.distances.iter().filter(|&(_, &distance)| distance <= horizon);
        out.extend(near.map(|(&unit, &distance)| ExpectedUse { unit, distance, probability: 1.0 }));
        out[first..].sort_by_key(|expected| (expected.distance, expected.unit));
    }
}

/// Checks every rule.
///
/// # Panics
/// If a rule is broken; the message says which and how to repeat it.
pub fn all<P: EvictionPolicy + 'static>(make: impl Fn() -> P) {
    the_victim_is_a_candidate(&make);
    every_demand_is_answered(&make);
    nothing_is_forgotten_that_was_only_named(&make);
    a_removed_unit_is_never_named(&make);
    the_same_history_gives_the_same_choices(&make);
    a_cache_is_never_stuck_and_never_over_budget(&make);
}

/// A small deterministic generator (Knuth's 64-bit linear congruential one).
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

const SEEDS: std::ops::Range<u64> = 0..20;

/// Loads and uses of random units, as a policy sees them; returns what is loaded.
fn history(policy: &mut impl EvictionPolicy, random: &mut Random) -> Vec<Candidate> {
    let mut loaded: Vec<Candidate> = Vec::new();
    for _ in 0..random.below(60) + 2 {
        let unit = UnitId(random.below(16) as u32);
        match loaded.iter().position(|candidate| candidate.unit == unit) {
            Some(at) if random.below(4) == 0 => {
                policy.on_remove(unit);
                loaded.remove(at);
            }
            Some(_) => policy.on_access(unit),
            None => {
                let bytes = 1 + random.below(100);
                policy.on_insert(unit, bytes);
                loaded.push(Candidate { unit, bytes });
            }
        }
    }
    loaded.sort_by_key(|candidate| candidate.unit);
    loaded
}

fn scripted(random: &mut Random) -> ScriptedForecast {
    let mut distances = HashMap::new();
    for unit in (0..16).map(UnitId) {
        if random.below(3) > 0 {
            distances.insert(unit, 1 + random.below(50));
        }
    }
    ScriptedForecast { distances }
}

fn demand<'a>(candidates: &'a [Candidate], forecast: &'a dyn Forecast) -> EvictionRequest<'a> {
    let incoming = Incoming { unit: UnitId(99), bytes: 10, purpose: Purpose::Demand };
    EvictionRequest { incoming: Some(incoming), shortfall_bytes: 10, candidates, forecast }
}

/// What is named is one of the candidates, or nothing.
pub fn the_victim_is_a_candidate<P: EvictionPolicy>(make: &impl Fn() -> P) {
    for seed in SEEDS {
        let (mut policy, mut random) = (make(), Random(seed));
        let loaded = history(&mut policy, &mut random);
        let candidates: Vec<Candidate> = loaded.into_iter().filter(|_| random.below(2) == 0).collect();
        let forecast = scripted(&mut random);
        for purpose in [Purpose::Prefetch, Purpose::Demand] {
            let incoming = Incoming { unit: UnitId(99), bytes: 10, purpose };
            let request = EvictionRequest { incoming: Some(incoming), ..demand(&candidates, &forecast) };
            if let Some(unit) = policy.victim(&request) {
                let is_candidate = candidates.iter().any(|candidate| candidate.unit == unit);
                assert!(is_candidate, "seed {seed}: {policy:?} named {unit}, not one of {candidates:?}");
            }
        }
    }
}

/// A demand, and other memory, always get a victim while there are candidates, whatever is known of the future.
pub fn every_demand_is_answered<P: EvictionPolicy>(make: &impl Fn() -> P) {
    for seed in SEEDS {
        let (mut policy, mut random) = (make(), Random(seed));
        let loaded = history(&mut policy, &mut random);
        for candidates in loaded.chunks(1).chain([loaded.as_slice()]).filter(|candidates| !candidates.is_empty()) {
            for forecast in [&scripted(&mut random) as &dyn Forecast, &NoForecast] {
                let request = demand(candidates, forecast);
                for request in [request, EvictionRequest { incoming: None, ..request }] {
                    let answered = policy.victim(&request).is_some();
                    assert!(answered, "seed {seed}: {policy:?} has no answer to {request:?}");
                }
            }
        }
    }
}

/// Choosing is not evicting: a unit that was named and stayed can be named again.
pub fn nothing_is_forgotten_that_was_only_named<P: EvictionPolicy>(make: &impl Fn() -> P) {
    for seed in SEEDS {
        let (mut policy, mut random) = (make(), Random(seed));
        let loaded = history(&mut policy, &mut random);
        for _ in 0..3 {
            let mut left = loaded.clone();
            while !left.is_empty() {
                let unit = policy.victim(&demand(&left, &NoForecast)).expect("a demand is answered");
                left.retain(|candidate| candidate.unit != unit);
            }
        }
    }
}

/// A unit that was evicted is not named until it is loaded again.
pub fn a_removed_unit_is_never_named<P: EvictionPolicy>(make: &impl Fn() -> P) {
    for seed in SEEDS {
        let (mut policy, mut random) = (make(), Random(seed));
        let mut loaded = history(&mut policy, &mut random);
        while !loaded.is_empty() {
            let unit = policy.victim(&demand(&loaded, &NoForecast)).expect("a demand is answered");
            let at = loaded.iter().position(|candidate| candidate.unit == unit);
            let at = at.unwrap_or_else(|| panic!("seed {seed}: {policy:?} named {unit}, which was evicted"));
            loaded.remove(at);
            policy.on_remove(unit);
        }
    }
}

/// Runs can be repeated.
pub fn the_same_history_gives_the_same_choices<P: EvictionPolicy>(make: &impl Fn() -> P) {
    for seed in SEEDS {
        let choices = || {
            let (mut policy, mut random) = (make(), Random(seed));
            let mut left = history(&mut policy, &mut random);
            let forecast = scripted(&mut random);
            let mut choices = Vec::new();
            while let Some(unit) = policy.victim(&demand(&left, &forecast)) {
                left.retain(|candidate| candidate.unit != unit);
                choices.push(unit);
            }
            choices
        };
        assert_eq!(choices(), choices(), "seed {seed}");
    }
}

/// In a real cache, with units of every size up to the budget: demands succeed and the budget holds.
pub fn a_cache_is_never_stuck_and_never_over_budget<P: EvictionPolicy + 'static>(make: &impl Fn() -> P) {
    for seed in SEEDS {
        let mut random = Random(seed);
        let limit = 1 + random.below(200);
        let sizes: Vec<u64> = (0..16).map(|_| 1 + random.below(limit)).collect();
        let cache: Cache<()> = Cache::new(Budget::new(limit), make());
        for step in 0..200 {
            let unit = UnitId(random.below(16) as u32);
            let purpose = if random.below(3) == 0 { Purpose::Prefetch } else { Purpose::Demand };
            let incoming = Incoming { unit, bytes: sizes[unit.index()], purpose };
            match cache.reserve(incoming, &scripted(&mut random)) {
                Ok(reservation) if random.below(8) > 0 => drop(reservation.fill(())),
                Ok(_given_up) => {}
                Err(ReserveError::AlreadyResident { .. }) => drop(cache.lease(unit)),
                Err(ReserveError::Declined { .. }) if purpose == Purpose::Prefetch => {}
                Err(error) => panic!("seed {seed}, step {step}: {error}"),
            }
            let budget = cache.budget();
            assert!(budget.peak_bytes() <= limit, "seed {seed}, step {step}: {budget:?}");
        }
    }
}
