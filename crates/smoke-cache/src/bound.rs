//! How well any policy could have done.

use std::collections::BTreeSet;

use smoke_core::{ExpectedUse, Forecast, NextUse, Purpose, UnitId};

use crate::eviction::{Candidate, EvictionPolicy, EvictionRequest, Incoming};

/// Bytes used, and how many of them were in memory since their last use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByteHits {
    /// Bytes of all units used.
    pub accessed_bytes: u64,
    /// Bytes that did not have to be read.
    pub hit_bytes: u64,
}

impl ByteHits {
    /// The share of the bytes used that did not have to be read; 0 where nothing was used.
    pub fn byte_hit_rate(&self) -> f64 {
        if self.accessed_bytes == 0 { 0.0 } else { self.hit_bytes as f64 / self.accessed_bytes as f64 }
    }

    /// Bytes that had to be read.
    pub fn missed_bytes(&self) -> u64 {
        self.accessed_bytes - self.hit_bytes
    }
}

/// The most bytes that any policy can hit on `trace` with `capacity_bytes` of memory, knowing the future.
///
/// It is Belady's MIN (1966) with bytes for pages: a unit may be kept in part, and what is used need not be kept at all.
/// Every policy that keeps whole units is also a policy on bytes, so no policy hits more, whatever the sizes. Where
/// all units have one size and the capacity is a multiple of it, whole units reach it, provided that a unit may be used
/// without being kept.
///
/// `unit_bytes[u]` is the size of unit `u`. Takes O(n log n) time for n accesses.
///
/// # Panics
/// If the trace names a unit that has no size.
pub fn min_bound(trace: &[UnitId], unit_bytes: &[u64], capacity_bytes: u64) -> ByteHits {
    let next_uses = next_uses(trace, unit_bytes.len());
    let mut kept = vec![0_u64; unit_bytes.len()];
    let mut by_next_use: BTreeSet<(usize, UnitId)> = BTreeSet::new();
    let (mut total, mut hits) = (0, ByteHits::default());
    for (step, &unit) in trace.iter().enumerate() {
        let bytes = unit_bytes[unit.index()];
        let before = std::mem::replace(&mut kept[unit.index()], bytes);
        by_next_use.remove(&(step, unit));
        hits.accessed_bytes += bytes;
        hits.hit_bytes += before;
        total += bytes - before;
        by_next_use.insert((next_uses[step], unit));
        while total > capacity_bytes {
            let (next_use, furthest) = by_next_use.pop_last().expect("what takes bytes is in the set");
            let given_up = kept[furthest.index()].min(total - capacity_bytes);
            kept[furthest.index()] -= given_up;
            total -= given_up;
            if kept[furthest.index()] > 0 {
                by_next_use.insert((next_use, furthest));
            }
        }
    }
    hits
}

/// What `policy` hits on `trace`, loading units when they are used and never ahead. It is told the true future.
///
/// A unit larger than the capacity passes through without being kept.
///
/// # Panics
/// If the trace names a unit that has no size, or the policy breaks its contract.
pub fn replay(trace: &[UnitId], unit_bytes: &[u64], capacity_bytes: u64, policy: &mut dyn EvictionPolicy) -> ByteHits {
    let mut future = Future { step: 0, uses: vec![Vec::new(); unit_bytes.len()] };
    trace.iter().enumerate().for_each(|(step, unit)| future.uses[unit.index()].push(step));
    let mut resident: Vec<Candidate> = Vec::new();
    let mut hits = ByteHits::default();
    for (step, &unit) in trace.iter().enumerate() {
        future.step = step;
        let bytes = unit_bytes[unit.index()];
        hits.accessed_bytes += bytes;
        if resident.iter().any(|candidate| candidate.unit == unit) {
            hits.hit_bytes += bytes;
        } else if bytes <= capacity_bytes {
            let mut used: u64 = resident.iter().map(|candidate| candidate.bytes).sum();
            while used + bytes > capacity_bytes {
                let request = EvictionRequest {
                    incoming: Some(Incoming { unit, bytes, purpose: Purpose::Demand }),
                    shortfall_bytes: used + bytes - capacity_bytes,
                    candidates: &resident,
                    forecast: &future,
                };
                let victim = policy.victim(&request).expect("a demand has a victim");
                let at = resident.iter().position(|candidate| candidate.unit == victim).expect("it is a candidate");
                used -= resident.remove(at).bytes;
                policy.on_remove(victim);
            }
            let at = resident.partition_point(|candidate| candidate.unit < unit);
            resident.insert(at, Candidate { unit, bytes });
            policy.on_insert(unit, bytes);
        } else {
            continue;
        }
        policy.on_access(unit);
    }
    hits
}

/// For each step, the step of the next use of the same unit, or `usize::MAX`.
fn next_uses(trace: &[UnitId], units: usize) -> Vec<usize> {
    let mut upcoming = vec![usize::MAX; units];
    let mut next = vec![usize::MAX; trace.len()];
    for (step, unit) in trace.iter().enumerate().rev() {
        next[step] = std::mem::replace(&mut upcoming[unit.index()], step);
    }
    next
}

/// The true future, as a forecast.
#[derive(Debug)]
struct Future {
    step: usize,
    uses: Vec<Vec<usize>>,
}

impl Forecast for Future {
    fn next_use(&self, unit: UnitId) -> NextUse {
        let uses = &self.uses[unit.index()];
        match uses.get(uses.partition_point(|&step| step <= self.step)) {
            Some(&step) => NextUse::In((step - self.step) as u64),
            None => NextUse::Never,
        }
    }

    fn upcoming(&self, horizon: u64, out: &mut Vec<ExpectedUse>) {
        let first = out.len();
        out.extend((0..self.uses.len() as u32).map(UnitId).filter_map(|unit| match self.next_use(unit) {
            NextUse::In(distance) if distance <= horizon => Some(ExpectedUse { unit, distance, probability: 1.0 }),
            _ => None,
        }));
        out[first..].sort_by_key(|expected| expected.distance);
    }
}
