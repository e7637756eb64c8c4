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

/// The most bytes that any policy can hit with `capacity_bytes` of memory, knowing the future.
///
/// `steps` are the uses in order, those that happen together in one slice: their units are in memory at the same time.
/// Where each use is a step, pass `trace.chunks(1)`.
///
/// It is Belady's MIN (1966) with bytes for pages: a unit may be kept in part, but is whole while it is used. What is kept
/// of a unit between two of its uses takes room at every step in between, and saves as many bytes as it takes; of
/// intervals that are worth the same, the best choice gives up the one that ends last wherever too many overlap (the
/// greedy rule for packing intervals, Carlisle and Lloyd 1995). Whatever keeps whole units is such a choice too, so no
/// policy hits more, whatever the sizes. **Where all units have one size, it is exact**: the greedy choice keeps
/// whole units then, and so is Belady's own. Room that no set of units fills, since it is no multiple of the sizes'
/// greatest common divisor, does not count.
///
/// `unit_bytes[u]` is the size of unit `u`. A step that does not fit at all passes through and displaces nothing. Takes
/// O(n log n) time for n accesses.
///
/// # Panics
/// If a step names a unit that has no size.
pub fn min_bound<'a>(
    steps: impl IntoIterator<Item = &'a [UnitId]>,
    unit_bytes: &[u64],
    capacity_bytes: u64,
) -> ByteHits {
    let steps: Vec<&[UnitId]> = steps.into_iter().collect();
    let mut next_uses = next_uses(&steps, unit_bytes.len()).into_iter();
    let divisor = unit_bytes.iter().fold(0, |divisor, &bytes| greatest_common_divisor(divisor, bytes));
    let capacity_bytes = capacity_bytes - capacity_bytes % divisor.max(1);
    let mut kept = vec![0_u64; unit_bytes.len()];
    let mut last_step = vec![usize::MAX; unit_bytes.len()];
    // What is kept and may go, the latest next use last.
    let mut by_next_use: BTreeSet<(usize, UnitId)> = BTreeSet::new();
    let (mut total, mut hits) = (0, ByteHits::default());
    for (now, units) in steps.iter().enumerate() {
        let first = |unit: &&UnitId| std::mem::replace(&mut last_step[unit.index()], now) != now;
        let step_bytes: u64 = units.iter().filter(first).map(|unit| unit_bytes[unit.index()]).sum();
        let fits = step_bytes <= capacity_bytes;
        for unit in *units {
            let (bytes, kept) = (unit_bytes[unit.index()], &mut kept[unit.index()]);
            hits.accessed_bytes += bytes;
            hits.hit_bytes += *kept;
            by_next_use.remove(&(now, *unit));
            if fits {
                total += bytes - *kept;
                *kept = bytes;
            }
        }
        while total > capacity_bytes {
            let Some((next_use, furthest)) = by_next_use.pop_last() else { break };
            let given_up = kept[furthest.index()].min(total - capacity_bytes);
            kept[furthest.index()] -= given_up;
            total -= given_up;
            if kept[furthest.index()] > 0 {
                by_next_use.insert((next_use, furthest));
            }
        }
        for (unit, next_use) in units.iter().zip(&mut next_uses) {
            if kept[unit.index()] > 0 {
                by_next_use.insert((next_use, *unit));
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

/// For each use, the step in which the same unit is used next, or `usize::MAX`.
fn next_uses(steps: &[&[UnitId]], units: usize) -> Vec<usize> {
    let mut upcoming = vec![usize::MAX; units];
    let mut next = Vec::with_capacity(steps.iter().map(|units| units.len()).sum());
    for (step, units) in steps.iter().enumerate().rev() {
        next.extend(units.iter().rev().map(|unit| upcoming[unit.index()]));
        units.iter().for_each(|unit| upcoming[unit.index()] = step);
    }
    next.reverse();
    next
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
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
