//! Sequences whose victims were worked out by hand from the papers' rules.

use smoke_cache::bound::replay;
use smoke_cache::conformance::ScriptedForecast;
use smoke_cache::policy::{Hybrid, NextUse, PerLayer, ProbableUse, S3Fifo, Sieve, Within};
use smoke_cache::{Candidate, EvictionPolicy, EvictionRequest, Incoming};
use smoke_core::{ExpectedUse, Forecast, Purpose, UnitId, UnitInfo, UnitKind};

use proptest::prelude::*;

/// Notes what is evicted.
#[derive(Debug)]
struct Noting<P> {
    policy: P,
    evicted: Vec<u32>,
}

impl<P: EvictionPolicy> EvictionPolicy for Noting<P> {
    fn on_insert(&mut self, unit: UnitId, bytes: u64) {
        self.policy.on_insert(unit, bytes);
    }
    fn on_access(&mut self, unit: UnitId) {
        self.policy.on_access(unit);
    }
    fn on_remove(&mut self, unit: UnitId) {
        self.evicted.push(unit.0);
        self.policy.on_remove(unit);
    }
    fn victim(&mut self, request: &EvictionRequest<'_>) -> Option<UnitId> {
        self.policy.victim(request)
    }
}

/// What is evicted, in order, with room for `capacity` units of one byte.
fn evictions(policy: impl EvictionPolicy, capacity: u64, trace: &[u32]) -> Vec<u32> {
    let mut noting = Noting { policy, evicted: Vec::new() };
    let trace: Vec<UnitId> = trace.iter().copied().map(UnitId).collect();
    replay(&trace, &[1; 16], capacity, &mut noting);
    noting.evicted
}

#[test]
fn sieve() {
    // The hand takes the mark off 0 and evicts 1; evicts 2; takes the mark off 3 and evicts 4, the newest; begins again
    // with 0, whose mark it takes, and evicts 3; evicts 5.
    assert_eq!(evictions(Sieve::default(), 3, &[0, 1, 2, 0, 3, 4, 0, 3, 5, 6, 1]), [1, 2, 4, 3, 5]);
    // After the newest, 2, comes the oldest, although 3 was loaded in the meantime.
    assert_eq!(evictions(Sieve::default(), 3, &[0, 1, 2, 0, 1, 3, 4]), [2, 0]);
    // The use that a unit was loaded for is no mark: this is first in, first out.
    assert_eq!(evictions(Sieve::default(), 2, &[0, 1, 2, 3, 4]), [0, 1, 2]);
}

#[test]
fn s3_fifo() {
    let trace = [
        0, 1, 2, 3, // all in the small queue
        0, 0, 1, // 0 is used twice more, 1 once
        4, // 0 moves to the main queue, 1 goes
        1, // comes back to the main queue; 2 goes
        5, // 3 goes
        2, // comes back to the main queue; 4 goes
        6, // 5 goes
        3, // comes back; 6 goes: the small queue is empty
        0, 7, // 0 goes round, 1 goes, and is not remembered
        1, // enters the small queue again; 7 goes
        7, // comes back to the main queue; 1 goes
    ];
    assert_eq!(evictions(S3Fifo::default(), 4, &trace), [1, 2, 3, 4, 5, 6, 1, 7, 1]);
}

#[test]
fn s3_fifo_remembers_as_much_as_it_holds() {
    // 0 to 3 are evicted from the small queue in turn, and 4 for 8: then 1 to 4 are remembered.
    let evicted = |unit: u32| evictions(S3Fifo::default(), 4, &[0, 1, 2, 3, 4, 5, 6, 7, 8, unit, 9, 10, 11, 12]);
    // 5 goes before 1 comes in, so that 1 is forgotten, enters the small queue and is the oldest there in its turn.
    assert_eq!(evicted(1)[4..], [4, 5, 6, 7, 8, 1]);
    // 2 is remembered, enters the main queue and stays.
    assert_eq!(evicted(2)[4..], [4, 5, 6, 7, 8, 9]);
}

fn layers_of_four() -> Vec<UnitInfo> {
    (0..8).map(|unit| UnitInfo { bytes: 1, layer: Some(unit / 4), kind: UnitKind::Expert }).collect()
}

#[test]
fn per_layer() {
    let policy = |within| PerLayer::new(&layers_of_four(), within);
    // The second layer has three of four places: it gives one up for the first, though 0 is the oldest; then the first,
    // which has its share, gives up its own.
    assert_eq!(evictions(policy(Within::Recency), 4, &[0, 4, 5, 6, 1, 2]), [4, 0]);
    // Within a layer.
    assert_eq!(evictions(policy(Within::Recency), 4, &[0, 0, 1, 4, 5, 2]), [0]);
    assert_eq!(evictions(policy(Within::Frequency), 4, &[0, 0, 1, 4, 5, 2]), [1]);
}

#[test]
fn a_layer_of_larger_units_has_the_larger_share() {
    // Six bytes: the first layer has two units of two bytes, the second two of four. Their shares are two and four.
    let unit =
        |unit: u32| UnitInfo { bytes: [2, 2, 4, 4][unit as usize], layer: Some(unit / 2), kind: UnitKind::Expert };
    let units: Vec<UnitInfo> = (0..4).map(unit).collect();
    let mut noting = Noting { policy: PerLayer::new(&units, Within::Recency), evicted: Vec::new() };
    let trace = [2, 0, 1, 3, 0].map(UnitId);
    replay(&trace, &[2, 2, 4, 4], 6, &mut noting);
    assert_eq!(noting.evicted, [0, 2, 1]);
}

/// Expects what it is told to, and knows nothing else.
#[derive(Debug)]
struct Expects(Vec<ExpectedUse>);

impl Expects {
    fn new(uses: &[(u32, u64, f32)]) -> Self {
        let expected = |&(unit, distance, probability)| ExpectedUse { unit: UnitId(unit), distance, probability };
        Self(uses.iter().map(expected).collect())
    }
}

impl Forecast for Expects {
    fn next_use(&self, unit: UnitId) -> smoke_core::NextUse {
        let expected = self.0.iter().find(|expected| expected.unit == unit);
        expected.map_or(smoke_core::NextUse::Unknown, |expected| smoke_core::NextUse::In(expected.distance))
    }

    fn upcoming(&self, horizon: u64, out: &mut Vec<ExpectedUse>) {
        out.extend(self.0.iter().filter(|expected| expected.distance <= horizon));
    }
}

/// All victims one after another, of units below `units`, or the one for a prefetch of unit 9.
fn order(policy: &mut dyn EvictionPolicy, forecast: &dyn Forecast, units: u32, purpose: Purpose) -> Vec<u32> {
    let mut candidates: Vec<_> = (0..units).map(|unit| Candidate { unit: UnitId(unit), bytes: 1 }).collect();
    let incoming = Some(Incoming { unit: UnitId(9), bytes: 1, purpose });
    let mut order = Vec::new();
    while !candidates.is_empty() {
        let request = EvictionRequest { incoming, shortfall_bytes: 1, candidates: &candidates, forecast };
        let Some(victim) = policy.victim(&request) else { break };
        candidates.retain(|candidate| candidate.unit != victim);
        order.push(victim.0);
    }
    order
}

#[test]
fn probable_use() {
    // Worth 1/2, 1/3, 9/20 and, unknown, nothing; beyond the horizon of 8 steps is worth nothing either, but more than
    // what is unknown.
    let uses = [(0, 1, 0.5), (2, 2, 0.9), (1, 3, 1.0), (4, 9, 1.0)];
    let mut policy = ProbableUse::within(8);
    assert_eq!(order(&mut policy, &Expects::new(&uses), 5, Purpose::Demand), [3, 4, 1, 2, 0]);
    // A prefetch that is worth 2/5 costs what is worth less.
    let with_incoming = [&uses[..], &[(9, 1, 0.4)]].concat();
    assert_eq!(order(&mut policy, &Expects::new(&with_incoming), 5, Purpose::Prefetch), [3, 4, 1]);
}

#[test]
fn hybrid() {
    let mut policy = Hybrid::default().with_half_life(10);
    [0, 1, 2].into_iter().for_each(|unit| policy.on_insert(UnitId(unit), 1));
    [0, 0, 0, 0, 1].into_iter().for_each(|unit| policy.on_access(UnitId(unit)));
    // Unit 0 counts 2^-0.1 + 2^-0.2 + 2^-0.3 + 2^-0.4 = 3.37 uses, unit 1 one; times ln 2 / 10, 0.234 and 0.069 a step.
    // What ages are worth is not weighed after so few uses.
    let demand = |policy: &mut Hybrid, uses: &[(u32, u64, f32)]| order(policy, &Expects::new(uses), 3, Purpose::Demand);
    assert_eq!(demand(&mut policy, &[]), [2, 1, 0]);
    assert_eq!(demand(&mut policy, &[(2, 15, 1.0)]), [2, 1, 0]);
    assert_eq!(demand(&mut policy, &[(2, 14, 1.0)]), [1, 2, 0]);
    assert_eq!(demand(&mut policy, &[(2, 5, 1.0)]), [1, 2, 0]);
    assert_eq!(demand(&mut policy, &[(2, 4, 1.0)]), [1, 0, 2]);
    // With even odds of a use in ten steps, unit 0 is worth 0.05 + 0.117 instead.
    assert_eq!(demand(&mut policy, &[(2, 5, 1.0), (0, 10, 0.5)]), [1, 0, 2]);
    // What was evicted keeps its count.
    policy.on_remove(UnitId(0));
    policy.on_insert(UnitId(0), 1);
    assert_eq!(demand(&mut policy, &[]), [2, 1, 0]);
}

proptest! {
    /// Where every use is certain, both are Belady's rule.
    #[test]
    fn certain_forecasts_make_probable_use_next_use(
        distances in prop::collection::hash_map(0..10_u32, 1..1000_u64, 0..10),
        purpose in prop_oneof![Just(Purpose::Demand), Just(Purpose::Prefetch)],
    ) {
        let distances = distances.into_iter().map(|(unit, distance)| (UnitId(unit), distance)).collect();
        let forecast = ScriptedForecast { distances };
        prop_assert_eq!(
            order(&mut ProbableUse::default(), &forecast, 9, purpose),
            order(&mut NextUse, &forecast, 9, purpose)
        );
    }
}
