use smoke_cache::{Budget, Cache, CacheStats, EvictionPolicy, Incoming, ReserveError};
use smoke_core::{Access, Purpose, Step, UnitId};
use smoke_predict::AccessPredictor;

use crate::trace::Trace;

/// What a cache would have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outcome {
    /// The limit on memory.
    pub budget_bytes: u64,
    /// The most that was used.
    pub peak_bytes: u64,
    /// Uses of units.
    pub accesses: u64,
    /// Uses of units that were in memory since their last use.
    pub hits: u64,
    /// Bytes of all uses.
    pub accessed_bytes: u64,
    /// Bytes of the uses that hit.
    pub hit_bytes: u64,
    /// Bytes that were read.
    pub loaded_bytes: u64,
    /// Tokens that were computed.
    pub tokens: u64,
}

impl Outcome {
    /// The share of the bytes used that did not have to be read; 0 where nothing was used.
    pub fn byte_hit_rate(&self) -> f64 {
        share(self.hit_bytes, self.accessed_bytes)
    }

    /// The share of the uses whose unit did not have to be read; 0 where nothing was used.
    pub fn unit_hit_rate(&self) -> f64 {
        share(self.hits, self.accesses)
    }

    /// Bytes read for each token, those of the first pass included; 0 without tokens.
    pub fn loaded_bytes_per_token(&self) -> f64 {
        share(self.loaded_bytes, self.tokens)
    }
}

pub(crate) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Why a trace cannot be replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// A step does not fit.
    #[error(
        "{budget_bytes} bytes of memory are too few for this trace: step {step} uses {step_bytes} bytes together, \
         and the largest {needed_bytes}"
    )]
    TooLittleMemory {
        /// The limit on memory.
        budget_bytes: u64,
        /// The first step that does not fit.
        step: usize,
        /// What it uses.
        step_bytes: u64,
        /// What the trace needs.
        needed_bytes: u64,
    },
    /// The policy broke its contract.
    #[error("step {step} of the trace, {unit}")]
    Policy {
        /// When.
        step: usize,
        /// The unit that was to come in.
        unit: UnitId,
        /// What the cache says.
        source: ReserveError,
    },
}

/// Runs the uses of `trace` through a [`Cache`] of `budget_bytes`, as a streamer does that reads nothing ahead: a step
/// holds all its units at once, those that are there first; then the predictor is told. Hints reach the predictor where
/// they did.
///
/// Beside it stands what [`min_bound`](smoke_cache::bound::min_bound) says of the same steps. With an
/// [`OraclePredictor`](smoke_predict::OraclePredictor) and units of one size, `next-use` reaches it.
///
/// # Errors
/// [`ReplayError`] if a step does not fit the memory, or the policy breaks its contract.
pub fn replay(
    trace: &Trace,
    budget_bytes: u64,
    policy: impl EvictionPolicy + 'static,
    predictor: &mut dyn AccessPredictor,
) -> Result<Outcome, ReplayError> {
    let cache: Cache<()> = Cache::new(Budget::new(budget_bytes), policy);
    let mut clock = Step::default();
    let mut hints = trace.hints().peekable();
    let mut leases = Vec::new();
    for (number, units) in trace.steps().enumerate() {
        while let Some((_, expected)) = hints.next_if(|&(step, _)| step == number) {
            predictor.hint(expected);
        }
        leases.extend(units.iter().map(|&unit| cache.lease(unit)));
        for (at, &unit) in units.iter().enumerate() {
            // What was missing may have come with an earlier mention in the same step.
            if leases[at].is_none() && !cache.contains(unit) {
                let incoming = Incoming { unit, bytes: trace.units()[unit.index()].bytes, purpose: Purpose::Demand };
                let reservation = cache.reserve(incoming, &*predictor);
                let reservation = reservation.map_err(|error| refused(trace, budget_bytes, number, unit, error))?;
                drop(reservation.fill(()));
            }
            if leases[at].is_none() {
                leases[at] = cache.lease(unit);
            }
        }
        leases.clear();
        for &unit in units {
            predictor.observe(Access { step: clock, unit });
            clock = clock.next();
        }
    }
    let CacheStats { accesses, hits, accessed_bytes, hit_bytes, inserted_bytes, .. } = cache.stats();
    let (peak_bytes, tokens) = (cache.budget().peak_bytes(), trace.tokens());
    let loaded_bytes = inserted_bytes;
    Ok(Outcome { budget_bytes, peak_bytes, accesses, hits, accessed_bytes, hit_bytes, loaded_bytes, tokens })
}

fn refused(trace: &Trace, budget_bytes: u64, step: usize, unit: UnitId, source: ReserveError) -> ReplayError {
    match source {
        ReserveError::TooLarge { .. } | ReserveError::NoRoom { .. } => {
            let mut units = trace.steps().nth(step).unwrap_or_default().to_vec();
            units.sort_unstable();
            units.dedup();
            let step_bytes = units.iter().map(|unit| trace.units()[unit.index()].bytes).sum();
            ReplayError::TooLittleMemory { budget_bytes, step, step_bytes, needed_bytes: trace.largest_step_bytes() }
        }
        source => ReplayError::Policy { step, unit, source },
    }
}
