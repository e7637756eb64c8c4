//! MIN by brute force: every choice of every victim is tried.

use std::collections::HashMap;

use proptest::prelude::*;
use smoke_cache::bound::{min_bound, replay};
use smoke_cache::policy::{self, NextUse, Pinned};
use smoke_core::UnitId;

/// The most hits on `trace` from `step` on, with `resident` (a set of bits) in memory, loading what is used.
fn best(trace: &[u32], step: usize, resident: u32, capacity: u32, known: &mut HashMap<(usize, u32), u64>) -> u64 {
    let Some(&unit) = trace.get(step) else { return 0 };
    if let Some(&hits) = known.get(&(step, resident)) {
        return hits;
    }
    let bit = 1 << unit;
    let hits = if resident & bit != 0 {
        1 + best(trace, step + 1, resident, capacity, known)
    } else if resident.count_ones() < capacity {
        best(trace, step + 1, resident | bit, capacity, known)
    } else {
        let victims = (0..32).filter(|victim| resident & (1 << victim) != 0);
        let choices = victims.map(|victim| resident & !(1 << victim) | bit);
        choices.map(|resident| best(trace, step + 1, resident, capacity, known)).max().unwrap_or(0)
    };
    known.insert((step, resident), hits);
    hits
}

/// The most hits when a unit may also be used without being kept.
fn best_with_bypass(
    trace: &[u32],
    step: usize,
    resident: u32,
    capacity: u32,
    known: &mut HashMap<(usize, u32), u64>,
) -> u64 {
    let Some(&unit) = trace.get(step) else { return 0 };
    if let Some(&hits) = known.get(&(step, resident)) {
        return hits;
    }
    let bit = 1 << unit;
    let hit = u64::from(resident & bit != 0);
    let with = resident | bit;
    let keeps = if with.count_ones() <= capacity {
        vec![with]
    } else {
        (0..32).filter(|gone| with & (1 << gone) != 0).map(|gone| with & !(1 << gone)).collect()
    };
    let rest = keeps.into_iter().map(|kept| best_with_bypass(trace, step + 1, kept, capacity, known)).max();
    let hits = hit + rest.unwrap_or(0);
    known.insert((step, resident), hits);
    hits
}

fn ids(trace: &[u32]) -> Vec<UnitId> {
    trace.iter().copied().map(UnitId).collect()
}

/// Passes over the same units, with some left out.
fn cyclic_traces() -> impl Strategy<Value = Vec<u32>> {
    (2..7_u32, 1..5_usize).prop_flat_map(|(units, passes)| {
        let length = units as usize * passes;
        prop::collection::vec(prop::bool::weighted(0.9), length).prop_map(move |kept| {
            (0..units).cycle().zip(kept).filter(|(_, kept)| *kept).map(|(unit, _)| unit).collect()
        })
    })
}

fn traces() -> impl Strategy<Value = Vec<u32>> {
    prop_oneof![cyclic_traces(), prop::collection::vec(0..6_u32, 0..24)]
}

proptest! {
    #[test]
    fn next_use_is_optimal(trace in traces(), capacity in 1..6_u32) {
        let optimum = best(&trace, 0, 0, capacity, &mut HashMap::new());
        let hits = replay(&ids(&trace), &[1; 7], u64::from(capacity), &mut NextUse);
        prop_assert_eq!(hits.hit_bytes, optimum);
    }

    #[test]
    fn the_bound_is_the_optimum_for_equal_sizes(trace in traces(), capacity in 0..6_u32, bytes in 1..9_u64) {
        let optimum = best_with_bypass(&trace, 0, 0, capacity, &mut HashMap::new());
        let hits = min_bound(&ids(&trace), &[bytes; 7], bytes * u64::from(capacity));
        prop_assert_eq!(hits.hit_bytes, bytes * optimum);
        prop_assert_eq!(hits.accessed_bytes, bytes * trace.len() as u64);
    }

    #[test]
    fn no_policy_passes_the_bound(trace in traces(), sizes in prop::array::uniform7(1..50_u64), capacity in 0..200_u64) {
        let trace = ids(&trace);
        let bound = min_bound(&trace, &sizes, capacity);
        let mut policies: Vec<_> = policy::NAMES.iter().map(|name| policy::by_name(name).unwrap()).collect();
        policies.push(Box::new(Pinned::new([0, 2, 3].map(UnitId))));
        for mut policy in policies {
            let hits = replay(&trace, &sizes, capacity, &mut *policy);
            prop_assert_eq!(hits.accessed_bytes, bound.accessed_bytes);
            prop_assert!(hits.hit_bytes <= bound.hit_bytes, "{:?}: {:?} of {:?}", policy, hits, bound);
        }
    }
}
