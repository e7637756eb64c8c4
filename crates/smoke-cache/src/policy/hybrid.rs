use std::collections::HashMap;

use smoke_core::{ExpectedUse, NextUse, UnitId};

use super::worth::{self, Worth};
use crate::eviction::{EvictionPolicy, EvictionRequest};

/// Asks the forecast where it knows, and the past where it does not.
///
/// A unit that is certainly used in *d* steps is worth 1/*d* uses per step. One of which the forecast knows nothing is
/// worth the rate of its uses so far, times what its age adds or takes. The rate is a count that halves every
/// [half-life](Self::with_half_life), and goes on while the unit is not loaded. What an age is worth is learnt: how many
/// uses came at that age, of those that the rates alone would have let expect (hazards in proportion, Cox 1972), seen over
/// the stretch ahead where they are densest. So it leans to frequency where tokens choose apart from one another, and to
/// recency where they choose what those before them chose. One that is expected with probability *p* is worth *p*/*d*
/// and 1 − *p* of its rate. The least worth goes.
///
/// Mixtures of experts use some weights with every token and choose among others. [`by_name`](super::by_name) pins the
/// first: it puts this policy [inside `Pinned`](super::Pinned::otherwise).
///
/// A use costs O(1), a victim one question about the horizon and, for each candidate, one about its next use.
#[derive(Debug)]
pub struct Hybrid {
    horizon: u64,
    half_life: Option<u64>,
    clock: u64,
    /// Units that were loaded or used at any time; what is evicted keeps its count.
    counts: HashMap<UnitId, Count>,
    ages: Ages,
    upcoming: Vec<ExpectedUse>,
    expected: HashMap<UnitId, ExpectedUse>,
}

/// Uses, as they counted at some step.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    uses: f64,
    step: u64,
}

impl Count {
    fn at(self, step: u64, half_life: f64) -> f64 {
        self.uses * (-((step - self.step) as f64) / half_life).exp2()
    }
}

/// Uses per step of what counts so many: a unit that is used at each step counts half-life / ln 2.
fn per_step(uses: f64, half_life: f64) -> f64 {
    uses * std::f64::consts::LN_2 / half_life
}

/// Classes of steps since a unit's latest use: four for each power of two, the last for all that is older.
const AGES: usize = 128;

/// Uses that are thought to have come as the rates say before any were seen, in each class.
const PRIOR: f64 = 16.0;

/// The ages are weighed anew after so many uses.
const USES_BETWEEN: u32 = 64;

/// How the uses that come at an age compare with those that the rates alone let expect.
#[derive(Debug)]
struct Ages {
    came: [f64; AGES],
    expected: [f64; AGES],
    factors: [f64; AGES],
    uses_since: u32,
}

impl Default for Ages {
    fn default() -> Self {
        Self { came: [PRIOR; AGES], expected: [PRIOR; AGES], factors: [1.0; AGES], uses_since: 0 }
    }
}

impl Ages {
    /// Ages up to 7 have their own class; from there on, each quarter of an octave.
    fn class(age: u64) -> usize {
        let octave = age.max(1).ilog2();
        let class = if octave < 2 { age } else { u64::from(octave - 1) * 4 + ((age >> (octave - 2)) & 3) };
        (class as usize).min(AGES - 1)
    }

    /// The first age of a class.
    fn start(class: usize) -> u64 {
        if class < 4 { class as u64 } else { (4 + class as u64 % 4) << (class / 4 - 1) }
    }

    /// A unit was used after `age` steps without a use, in which its rate was `rate`.
    fn learn(&mut self, age: u64, rate: f64) {
        let last = Self::class(age);
        for class in 0..last {
            self.expected[class] += rate * (Self::start(class + 1) - Self::start(class)) as f64;
        }
        self.expected[last] += rate * (age - Self::start(last)) as f64;
        self.came[last] += 1.0;
        self.uses_since += 1;
    }

    /// Settles what the ages are worth now: of all stretches that begin with a class, the one with the most uses per step,
    /// since a unit that is used rarely at its age may be used often a little later.
    fn look_ahead(&mut self) {
        if self.uses_since < USES_BETWEEN {
            return;
        }
        self.uses_since = 0;
        for class in 0..AGES - 1 {
            let (mut uses, mut steps) = (0.0, 0.0);
            self.factors[class] = 0.0;
            for later in class..AGES - 1 {
                let len = (Self::start(later + 1) - Self::start(later)) as f64;
                uses += self.came[later] / self.expected[later] * len;
                steps += len;
                self.factors[class] = f64::max(self.factors[class], uses / steps);
            }
        }
    }

    fn factor(&self, age: u64) -> f64 {
        self.factors[Self::class(age)]
    }
}

/// Half-lives, where none was set: so many uses for each unit that was seen.
const USES_PER_UNIT: u64 = 8;

impl Hybrid {
    /// A use counts half after `steps` more uses, of whatever units. Unless set, it is eight times the number of units that
    /// were seen.
    pub fn with_half_life(self, steps: u64) -> Self {
        Self { half_life: Some(steps.max(1)), ..self }
    }

    /// How many steps of the forecast are looked at for uses that are not certain; 1024 unless set.
    pub fn with_horizon(self, steps: u64) -> Self {
        Self { horizon: steps, ..self }
    }

    fn half_life(&self) -> f64 {
        self.half_life.unwrap_or(USES_PER_UNIT * self.counts.len() as u64).max(1) as f64
    }

    /// Uses per step that are to be expected by what was.
    fn rate(&self, unit: UnitId, half_life: f64) -> f64 {
        let Some(count) = self.counts.get(&unit) else { return 0.0 };
        let rate = per_step(count.at(self.clock, half_life), half_life);
        (rate * self.ages.factor(self.clock - count.step)).min(1.0)
    }

    fn worth(&self, unit: UnitId, next_use: NextUse, half_life: f64) -> Worth {
        let uses_per_step = match (self.expected.get(&unit), next_use) {
            (Some(expected), _) => {
                worth::uses_per_step(expected) + (1.0 - f64::from(expected.probability)) * self.rate(unit, half_life)
            }
            (None, NextUse::In(distance)) => 1.0 / distance.max(1) as f64,
            (None, NextUse::Unknown) => self.rate(unit, half_life),
            (None, NextUse::Never) => 0.0,
        };
        Worth { uses_per_step, distance: next_use.distance() }
    }
}

impl Default for Hybrid {
    fn default() -> Self {
        Self {
            horizon: 1024,
            half_life: None,
            clock: 0,
            counts: HashMap::new(),
            ages: Ages::default(),
            upcoming: Vec::new(),
            expected: HashMap::new(),
        }
    }
}

impl EvictionPolicy for Hybrid {
    fn on_insert(&mut self, unit: UnitId, _bytes: u64) {
        self.counts.entry(unit).or_default();
    }

    fn on_access(&mut self, unit: UnitId) {
        self.clock += 1;
        let (step, half_life) = (self.clock, self.half_life());
        let count = self.counts.entry(unit).or_default();
        if count.uses > 0.0 {
            self.ages.learn(step - count.step, per_step(count.uses, half_life));
        }
        *count = Count { uses: count.at(step, half_life) + 1.0, step };
    }

    fn on_remove(&mut self, _unit: UnitId) {}

    fn victim(&mut self, request: &EvictionRequest<'_>) -> Option<UnitId> {
        worth::ask(request.forecast, self.horizon, &mut self.upcoming, &mut self.expected);
        self.ages.look_ahead();
        let half_life = self.half_life();
        worth::least(request, |unit| self.worth(unit, request.forecast.next_use(unit), half_life))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_lies_in_its_class() {
        for age in (1..5000).chain([1 << 20, (1 << 32) - 1]) {
            let class = Ages::class(age);
            assert!(Ages::start(class) <= age && age < Ages::start(class + 1), "{age} in {class}");
        }
        assert_eq!(Ages::class(u64::MAX), AGES - 1);
    }

    /// All uses come at an age of ten steps: that age is worth most, the one before nearly as much, and a greater one no more
    /// than its rate.
    #[test]
    fn what_comes_at_an_age_is_learnt() {
        let mut ages = Ages::default();
        (0..100_000).for_each(|_| ages.learn(10, 0.01));
        ages.look_ahead();
        // One use in the step that was expected to bring a hundredth; with that of a step before, one in two.
        let [before, at, after] = [9, 10, 12].map(|age| ages.factor(age));
        assert!(at > 50.0 && before > 30.0 && after < 1.1, "{before} {at} {after}");
    }
}
