use std::collections::HashMap;

use smoke_core::{Access, ExpectedUse, Forecast, NextUse, UnitId};

use super::adviser::LikelyUnits;
use super::{ExpertPredictor, ExpertShape, LAYERS_AHEAD, Routed};
use crate::{AccessPredictor, RoutedPredictor, RoutedUnit};

/// An access predictor that gives itself the hints of an [`ExpertPredictor`].
///
/// As soon as as many experts of a layer were used as a token uses, the expert predictor is told of them, and what it says
/// of the next two layers goes to a [`RoutedPredictor`] as hints. Only which experts were used is known here: it is for
/// [`PopularExperts`](super::PopularExperts), [`PreviousToken`](super::PreviousToken) and
/// [`Transitions`](super::Transitions), and [`LearnedExperts`](super::LearnedExperts) without inputs. Predictors that need
/// the router's scores are called by whoever runs the model, who hands on their hints.
///
/// Hints from outside are taken like one's own; for the same layer the latest counts.
#[derive(Clone, Debug)]
pub struct ExpertForecast<P> {
    forecast: RoutedPredictor,
    predictor: P,
    shape: ExpertShape,
    likely: LikelyUnits,
    /// The layer and number of each expert.
    numbers: HashMap<UnitId, (usize, u32)>,
    /// The layer whose experts are being used, and those that were.
    layer: Option<usize>,
    chosen: Vec<u32>,
    // Scratch.
    hints: Vec<ExpectedUse>,
    probabilities: Vec<f32>,
}

impl<P: ExpertPredictor> ExpertForecast<P> {
    /// As [`RoutedPredictor::new`], with `predictor` made for [`ExpertShape::of`] the same experts. The experts of a place are
    /// numbered in the order of `routed`.
    pub fn new(schedule: Vec<UnitId>, routed: &[RoutedUnit], predictor: P) -> Self {
        let mut sorted: Vec<&RoutedUnit> = routed.iter().filter(|routed| routed.place < schedule.len()).collect();
        sorted.sort_by_key(|routed| routed.place);
        let units: Vec<Vec<UnitId>> = sorted
            .chunk_by(|a, b| a.place == b.place)
            .map(|layer| layer.iter().map(|routed| routed.unit).collect())
            .collect();
        let numbered = |(layer, units): (usize, &Vec<UnitId>)| {
            units.iter().zip(0..).map(move |(&unit, number)| (unit, (layer, number))).collect::<Vec<_>>()
        };
        let numbers = units.iter().enumerate().flat_map(numbered).collect();
        Self {
            forecast: RoutedPredictor::new(schedule, routed),
            predictor,
            shape: ExpertShape::of(routed),
            likely: LikelyUnits::new(ExpertShape::of(routed), units),
            numbers,
            layer: None,
            chosen: Vec::new(),
            hints: Vec::new(),
            probabilities: Vec::new(),
        }
    }

    /// The predictor inside.
    pub fn into_inner(self) -> P {
        self.predictor
    }

    fn give_hints(&mut self, layer: usize) {
        self.hints.clear();
        for ahead in 1..=LAYERS_AHEAD {
            self.predictor.predict(ahead, &mut self.probabilities);
            self.likely.add(layer, ahead, &self.probabilities, &mut self.hints);
        }
        self.forecast.hint(&self.hints);
    }
}

impl<P: ExpertPredictor> Forecast for ExpertForecast<P> {
    fn next_use(&self, unit: UnitId) -> NextUse {
        self.forecast.next_use(unit)
    }
    fn upcoming(&self, horizon: u64, out: &mut Vec<ExpectedUse>) {
        self.forecast.upcoming(horizon, out);
    }
}

impl<P: ExpertPredictor> AccessPredictor for ExpertForecast<P> {
    fn observe(&mut self, access: Access) {
        self.forecast.observe(access);
        let Some(&(layer, number)) = self.numbers.get(&access.unit) else {
            self.layer = None;
            return;
        };
        if self.layer.replace(layer) != Some(layer) {
            self.chosen.clear();
        }
        if self.chosen.len() < self.shape.used && !self.chosen.contains(&number) {
            self.chosen.push(number);
            if self.chosen.len() == self.shape.used {
                self.predictor.observe(&Routed { layer, chosen: &self.chosen, ..Routed::default() });
                self.give_hints(layer);
            }
        }
    }

    fn hint(&mut self, expected: &[ExpectedUse]) {
        self.forecast.hint(expected);
    }
}
