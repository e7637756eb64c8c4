use smoke_cache::policy::{self, Fifo, Lfu, Lru, NextUse, Pinned};
use smoke_cache::{Candidate, EvictionPolicy, EvictionRequest, Incoming, conformance};
use smoke_core::{Purpose, UnitId};

#[test]
fn every_policy_keeps_the_rules() {
    conformance::all(Lru::default);
    conformance::all(Lfu::default);
    conformance::all(Fifo::default);
    conformance::all(|| NextUse);
    conformance::all(|| Pinned::new([1, 4, 9, 11].map(UnitId)));
    conformance::all(|| Pinned::new([1, 4, 9, 11].map(UnitId)).otherwise(Lru::default()));
}

#[test]
fn every_name_is_a_policy() {
    for name in policy::NAMES {
        let policy = policy::by_name(name).unwrap();
        let debug = format!("{policy:?}").to_lowercase();
        assert!(debug.starts_with(&name.replace('-', "")), "{name} is {debug}");
    }
    assert!(policy::by_name("clairvoyant").is_none());
}

fn ask(policy: &mut dyn EvictionPolicy, purpose: Purpose, distances: &[(u32, u64)], candidates: &[u32]) -> Option<u32> {
    let forecast = conformance::ScriptedForecast {
        distances: distances.iter().map(|&(unit, distance)| (UnitId(unit), distance)).collect(),
    };
    let candidates: Vec<_> = candidates.iter().map(|&unit| Candidate { unit: UnitId(unit), bytes: 1 }).collect();
    let incoming = Some(Incoming { unit: UnitId(9), bytes: 1, purpose });
    let request = EvictionRequest { incoming, shortfall_bytes: 1, candidates: &candidates, forecast: &forecast };
    policy.victim(&request).map(|unit| unit.0)
}

#[test]
fn a_prefetch_never_costs_what_is_needed_before_it() {
    let distances = [(0, 3), (1, 5), (9, 5)];
    assert_eq!(ask(&mut NextUse, Purpose::Prefetch, &distances, &[0, 1]), None);
    assert_eq!(ask(&mut NextUse, Purpose::Demand, &distances, &[0, 1]), Some(1));
    let later = [(0, 3), (1, 6), (9, 5)];
    assert_eq!(ask(&mut NextUse, Purpose::Prefetch, &later, &[0, 1]), Some(1));
}

#[test]
fn pinned_units_go_last() {
    let mut policy = Pinned::new([UnitId(1)]);
    let distances = [(0, 3), (1, 60), (9, 2)];
    assert_eq!(ask(&mut policy, Purpose::Prefetch, &distances, &[0, 1]), Some(0));
    assert_eq!(ask(&mut policy, Purpose::Prefetch, &distances, &[1]), None);
    assert_eq!(ask(&mut policy, Purpose::Demand, &distances, &[1]), Some(1));
}

#[test]
fn another_policy_chooses_among_what_is_not_pinned() {
    let mut policy = Pinned::new([UnitId(1)]).otherwise(Lru::default());
    [1, 0, 2].into_iter().for_each(|unit| policy.on_insert(UnitId(unit), 1));
    policy.on_access(UnitId(0));
    let distances = [(0, 100), (1, 60), (2, 2), (9, 1)];
    assert_eq!(ask(&mut policy, Purpose::Demand, &distances, &[0, 1, 2]), Some(2));
}
