//! MIN by brute force: every choice of every victim is tried.

use std::collections::HashMap;

use proptest::prelude::*;
use smoke_cache::bound::{min_bound, replay};
use smoke_cache::policy::NextUse;
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

/// The most bytes of hits for steps of several units of any size: every set of units that is kept from one step to the next
/// is tried.
fn best_bytes(
    steps: &[Vec<u32>],
    sizes: &[u64],
    capacity: u64,
    resident: u32,
    known: &mut HashMap<(usize, u32), u64>,
) -> u64 {
    let Some((units, later)) = steps.split_first() else { return 0 };
    if let Some(&hits) = known.get(&(steps.len(), resident)) {
        return hits;
    }
    let bytes = |set: u32| (0..sizes.len()).filter(|unit| set & (1 << unit) != 0).map(|unit| sizes[unit]).sum::<u64>();
    let used = units.iter().fold(0, |set, unit| set | 1 << unit);
    let hits = bytes(used & resident);
    let others = resident & !used;
    // Every subset of the others, the empty one last.
    let subsets = std::iter::successors(Some(others), |&set| (set > 0).then(|| (set - 1) & others));
    let fitting = subsets.filter(|&set| bytes(set | used) <= capacity);
    let rest = fitting.map(|set| best_bytes(later, sizes, capacity, set | used, known)).max().unwrap_or(0);
    known.insert((steps.len(), resident), hits + rest);
    hits + rest
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
    fn the_bound_is_the_optimum_for_equal_sizes(trace in traces(), capacity in 1..6_u32, bytes in 1..9_u64, rest in 0..9_u64) {
        let optimum = best(&trace, 0, 0, capacity, &mut HashMap::new());
        let hits = min_bound(ids(&trace).chunks(1), &[bytes; 7], bytes * u64::from(capacity) + rest % bytes);
        prop_assert_eq!(hits.hit_bytes, bytes * optimum);
        prop_assert_eq!(hits.accessed_bytes, bytes * trace.len() as u64);
    }

    #[test]
    fn no_policy_passes_the_bound(trace in traces(), sizes in prop::array::uniform7(1..50_u64), capacity in 0..200_u64) {
        let trace = ids(&trace);
        let bound = min_bound(trace.chunks(1), &sizes, capacity);
        for mut policy in crate::policies::all() {
            let hits = replay(&trace, &sizes, capacity, &mut *policy);
            prop_assert_eq!(hits.accessed_bytes, bound.accessed_bytes);
            prop_assert!(hits.hit_bytes <= bound.hit_bytes, "{:?}: {:?} of {:?}", policy, hits, bound);
        }
    }

    /// Whole units cannot beat the bound, and with equal sizes reach it, when steps use several at once, too.
    #[test]
    fn the_bound_holds_for_steps_of_several_units(
        steps in prop::collection::vec(prop::collection::btree_set(0..6_u32, 1..3), 0..12),
        sizes in prop::array::uniform6(1..20_u64),
        capacity in 40..90_u64,
    ) {
        let steps: Vec<Vec<u32>> = steps.into_iter().map(|units| units.into_iter().collect()).collect();
        let slices: Vec<Vec<UnitId>> = steps.iter().map(|units| ids(units)).collect();
        let bound = |sizes: &[u64], capacity| min_bound(slices.iter().map(Vec::as_slice), sizes, capacity).hit_bytes;
        prop_assert!(best_bytes(&steps, &sizes, capacity, 0, &mut HashMap::new()) <= bound(&sizes, capacity));
        let equal = [20; 6];
        prop_assert_eq!(best_bytes(&steps, &equal, capacity, 0, &mut HashMap::new()), bound(&equal, capacity));
    }
}
