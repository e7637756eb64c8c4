use std::collections::HashMap;

use smoke_core::{Access, ExpectedUse, Forecast, NextUse, UnitId};

use crate::AccessPredictor;

/// Counts how often a predictor knew the next unit, beside two predictors that cost nothing.
///
/// Before each observation the wrapped predictor is asked for its [`upcoming`](Forecast::upcoming) of one step. A rate
/// says little alone: compare it with the baselines, and how many units were named per access to reach it.
#[derive(Clone, Debug)]
pub struct Scored<P> {
    predictor: P,
    accuracy: Accuracy,
    named: Vec<ExpectedUse>,
    previous: Option<UnitId>,
    uses: HashMap<UnitId, u64>,
    most_popular: Option<(UnitId, u64)>,
}

/// How often the next unit was known; see [`Scored`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Accuracy {
    /// Accesses observed.
    pub accesses: u64,
    /// Accesses whose unit was among those that the predictor named for the next step.
    pub correct: u64,
    /// Units named for the next step, over all accesses.
    pub named: u64,
    /// Accesses that "the previous unit again" would have known.
    pub previous_correct: u64,
    /// Accesses that "the unit used most so far" would have known.
    pub most_popular_correct: u64,
}

impl Accuracy {
    /// The share of accesses that were predicted, in [0, 1]; 0 before the first.
    pub fn rate(&self) -> f64 {
        self.share(self.correct)
    }

    /// The rate that "the previous unit again" would have had.
    pub fn previous_rate(&self) -> f64 {
        self.share(self.previous_correct)
    }

    /// The rate that "the unit used most so far" would have had.
    pub fn most_popular_rate(&self) -> f64 {
        self.share(self.most_popular_correct)
    }

    fn share(&self, count: u64) -> f64 {
        if self.accesses == 0 { 0.0 } else { count as f64 / self.accesses as f64 }
    }
}

impl<P: AccessPredictor> Scored<P> {
    /// Wraps `predictor`.
    pub fn new(predictor: P) -> Self {
        Self {
            predictor,
            accuracy: Accuracy::default(),
            named: Vec::new(),
            previous: None,
            uses: HashMap::new(),
            most_popular: None,
        }
    }

    /// What was counted so far.
    pub fn accuracy(&self) -> Accuracy {
        self.accuracy
    }

    /// The predictor inside.
    pub fn into_inner(self) -> P {
        self.predictor
    }
}

impl<P: AccessPredictor> Forecast for Scored<P> {
    fn next_use(&self, unit: UnitId) -> NextUse {
        self.predictor.next_use(unit)
    }
    fn upcoming(&self, horizon: u64, out: &mut Vec<ExpectedUse>) {
        self.predictor.upcoming(horizon, out);
    }
}

impl<P: AccessPredictor> AccessPredictor for Scored<P> {
    fn observe(&mut self, access: Access) {
        let unit = access.unit;
        self.named.clear();
        self.predictor.upcoming(1, &mut self.named);

        self.accuracy.accesses += 1;
        self.accuracy.named += self.named.len() as u64;
        self.accuracy.correct += u64::from(self.named.iter().any(|expected| expected.unit == unit));
        self.accuracy.previous_correct += u64::from(self.previous == Some(unit));
        self.accuracy.most_popular_correct += u64::from(self.most_popular.is_some_and(|(popular, _)| popular == unit));

        self.previous = Some(unit);
        let uses = self.uses.entry(unit).or_default();
        *uses += 1;
        if self.most_popular.is_none_or(|(_, most)| *uses > most) {
            self.most_popular = Some((unit, *uses));
        }
        self.predictor.observe(access);
    }

    fn hint(&mut self, expected: &[ExpectedUse]) {
        self.predictor.hint(expected);
    }
}

#[cfg(test)]
mod tests {
    use smoke_core::Step;

    use super::*;
    use crate::CyclicPredictor;

    #[test]
    fn counts_the_predictor_and_the_baselines() {
        let schedule = vec![UnitId(0), UnitId(1), UnitId(1)];
        let mut scored = Scored::new(CyclicPredictor::new(schedule));
        for (step, unit) in [0, 1, 1, 0, 5, 1].into_iter().enumerate() {
            scored.observe(Access { step: Step(step as u64), unit: UnitId(unit) });
        }
        let accuracy = scored.accuracy();
        assert_eq!(accuracy.accesses, 6);
        assert_eq!(accuracy.named, 6);
        // All but the stranger.
        assert_eq!(accuracy.correct, 5);
        assert_eq!(accuracy.previous_correct, 1);
        // Most popular after each access: 0 0 1 1 1 1; known beforehand: the second 0 was not, nor the first 1.
        assert_eq!(accuracy.most_popular_correct, 1);
        assert!((accuracy.rate() - 5.0 / 6.0).abs() < 1e-12);
    }

    #[test]
    fn no_accesses_is_a_rate_of_zero() {
        assert_eq!(Scored::new(CyclicPredictor::new(Vec::new())).accuracy().rate(), 0.0);
    }
}
