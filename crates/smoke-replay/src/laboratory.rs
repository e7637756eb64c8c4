use std::fmt;

use smoke_cache::EvictionPolicy;
use smoke_cache::bound::{ByteHits, min_bound};
use smoke_cache::policy::{self, Known, PinnedUnits};
use smoke_core::{UnitId, UnitKind};
use smoke_predict::AccessPredictor;

use crate::predictors;
use crate::replay::{Outcome, ReplayError, replay};
use crate::trace::Trace;

/// Runs policies side by side over one trace, at any number of budgets.
///
/// ```
/// use smoke_cache::{Candidate, EvictionPolicy, EvictionRequest};
/// use smoke_core::UnitId;
/// use smoke_replay::{Laboratory, synthetic};
///
/// /// A policy of one's own: evicts the largest unit.
/// #[derive(Debug)]
/// struct Largest;
///
/// impl EvictionPolicy for Largest {
///     fn on_insert(&mut self, _unit: UnitId, _bytes: u64) {}
///     fn on_access(&mut self, _unit: UnitId) {}
///     fn on_remove(&mut self, _unit: UnitId) {}
///     fn victim(&mut self, request: &EvictionRequest<'_>) -> Option<UnitId> {
///         request.candidates.iter().max_by_key(|candidate| candidate.bytes).map(|candidate| candidate.unit)
///     }
/// }
///
/// let trace = synthetic::dense(20, 1_000_000, 50);
/// let mut laboratory = Laboratory::new(&trace);
/// laboratory.named_policy("pinned")?.named_policy("lru")?.policy("largest", |_| Box::new(Largest));
/// let comparison = laboratory.at(15_000_000)?;
/// let rate = |at: usize| comparison.outcomes[at].1.byte_hit_rate();
/// assert!(comparison.is_below_cliff && rate(1) == 0.0);
/// assert!(rate(0) > 0.6 && rate(0) <= comparison.min.byte_hit_rate());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Laboratory<'a> {
    trace: &'a Trace,
    make_predictor: Box<dyn Fn() -> Box<dyn AccessPredictor> + 'a>,
    policies: Vec<(String, MakePolicy)>,
}

type MakePolicy = Box<dyn Fn(&Known) -> Box<dyn EvictionPolicy>>;

/// What the policies did at one budget.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Comparison {
    /// The limit on memory.
    pub budget_bytes: u64,
    /// Belady's MIN on bytes: no policy hits more.
    pub min: ByteHits,
    /// Whether it can be reached, which is known where all units are of one size.
    pub is_min_exact: bool,
    /// Whether the budget is below [`Trace::cliff_bytes`], so that LRU hits nothing.
    pub is_below_cliff: bool,
    /// Each policy's name and outcome, in the order in which they were added.
    pub outcomes: Vec<(String, Outcome)>,
}

/// A name that is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not a {what}: choose one of {known}")]
pub struct UnknownName {
    name: String,
    what: &'static str,
    known: String,
}

impl<'a> Laboratory<'a> {
    /// With no policies yet, and a predictor that knows the [`schedule`](predictors::by_name).
    pub fn new(trace: &'a Trace) -> Self {
        let make_predictor = || predictors::by_name(predictors::NAMES[0], trace).expect("it is one of the names");
        Self { trace, make_predictor: Box::new(make_predictor), policies: Vec::new() }
    }

    /// Adds a policy, made anew for each budget.
    pub fn policy(&mut self, name: &str, make: impl Fn(&Known) -> Box<dyn EvictionPolicy> + 'static) -> &mut Self {
        self.policies.push((name.to_owned(), Box::new(make)));
        self
    }

    /// Adds a policy by its name in [`policy::NAMES`].
    ///
    /// # Errors
    /// [`UnknownName`] if it has none.
    pub fn named_policy(&mut self, name: &str) -> Result<&mut Self, UnknownName> {
        let Some(&name) = policy::NAMES.iter().find(|&&known| known == name) else {
            return Err(UnknownName { name: name.to_owned(), what: "policy", known: policy::NAMES.join(", ") });
        };
        Ok(self.policy(name, |known| policy::by_name(name, known).expect("it is one of the names")))
    }

    /// Lets `make` make the predictor, anew for each policy and budget.
    pub fn predictor(&mut self, make: impl Fn() -> Box<dyn AccessPredictor> + 'a) -> &mut Self {
        self.make_predictor = Box::new(make);
        self
    }

    /// Chooses a predictor by its name in [`predictors::NAMES`].
    ///
    /// # Errors
    /// [`UnknownName`] if it has none.
    pub fn named_predictor(&mut self, name: &str) -> Result<&mut Self, UnknownName> {
        let trace = self.trace;
        let Some(&name) = predictors::NAMES.iter().find(|&&known| known == name) else {
            return Err(UnknownName { name: name.to_owned(), what: "predictor", known: predictors::NAMES.join(", ") });
        };
        Ok(self.predictor(|| predictors::by_name(name, trace).expect("it is one of the names")))
    }

    /// Replays the trace with each policy.
    ///
    /// # Errors
    /// [`ReplayError`] if the budget is too small for a step, or a policy breaks its contract.
    pub fn at(&self, budget_bytes: u64) -> Result<Comparison, ReplayError> {
        let unit_bytes = self.trace.unit_bytes();
        let known = Known { units: self.trace.units().to_vec(), pinned: shared_units(self.trace, budget_bytes) };
        let outcomes = self.policies.iter().map(|(name, make)| {
            let outcome = replay(self.trace, budget_bytes, make(&known), &mut *(self.make_predictor)())?;
            Ok((name.clone(), outcome))
        });
        Ok(Comparison {
            budget_bytes,
            min: min_bound(self.trace.steps(), &unit_bytes, budget_bytes),
            is_min_exact: unit_bytes.windows(2).all(|pair| pair[0] == pair[1]),
            is_below_cliff: self.trace.cliff_bytes().is_some_and(|cliff_bytes| budget_bytes < cliff_bytes),
            outcomes: outcomes.collect::<Result<_, ReplayError>>()?,
        })
    }

    /// So many budgets in equal steps from the smallest that runs the trace to all of its units.
    pub fn budgets(&self, count: usize) -> Vec<u64> {
        let (least, most) = (self.trace.largest_step_bytes(), self.trace.total_bytes());
        let between = |at: usize| {
            let part = u128::from(most - least) * at as u128 / count.saturating_sub(1).max(1) as u128;
            least + u64::try_from(part).expect("a part of a difference of 64 bits")
        };
        (0..count).map(between).collect()
    }
}

impl fmt::Debug for Laboratory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let policies: Vec<&str> = self.policies.iter().map(|(name, _)| &**name).collect();
        f.debug_struct("Laboratory")
            .field("model", &self.trace.model())
            .field("policies", &policies)
            .finish_non_exhaustive()
    }
}

/// The shared units that can stay, in the order of their numbers, with room left for the largest step.
fn shared_units(trace: &Trace, budget_bytes: u64) -> PinnedUnits {
    let total_bytes = trace.total_bytes();
    let step_bytes = if total_bytes <= budget_bytes { 0 } else { trace.largest_step_bytes() };
    let mut free_bytes = budget_bytes.saturating_sub(step_bytes);
    let mut pinned = Vec::new();
    for (unit, number) in trace.units().iter().zip(0..).filter(|(unit, _)| unit.kind == UnitKind::Shared) {
        if unit.bytes <= free_bytes {
            free_bytes -= unit.bytes;
            pinned.push(UnitId(number));
        }
    }
    PinnedUnits::new(pinned)
}
