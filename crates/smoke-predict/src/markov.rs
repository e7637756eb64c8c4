use std::collections::HashMap;
use std::fmt;

use smoke_core::{Access, ExpectedUse, Forecast, NextUse, UnitId};

use crate::AccessPredictor;

/// What an older transition out of the same unit still counts when a newer one is seen.
const DECAY: f32 = 0.9;
/// Successors remembered per unit; the weakest makes place for a new one.
const SUCCESSORS: usize = 32;
/// The chain ends where it is less likely than this to be followed so far.
const LEAST_PROBABILITY: f32 = 1.0 / 1024.0;
/// The chain is no longer than this, so that observing stays cheap.
const LONGEST_CHAIN: usize = 1024;

/// Learns online which unit follows which (a first-order Markov chain), with no knowledge of the model.
///
/// From the latest unit it follows the most likely successor, then that one's, and so on; the chain is what it expects,
/// and the probability falls along it with the product of the transitions. It ends where it would repeat itself, where
/// it gets too unlikely, or after 1024 units. Units off the chain are [`NextUse::Unknown`].
///
/// Older transitions out of a unit count a tenth less with each newer one, so that it follows a change of habits within
/// some ten passes. At most 32 successors of a unit are remembered. `observe` costs the length of the chain, questions
/// are look-ups.
#[derive(Clone, Default)]
pub struct MarkovPredictor {
    successors: HashMap<UnitId, Vec<Successor>>,
    latest: Option<UnitId>,
    chain: Vec<ExpectedUse>,
    distances: HashMap<UnitId, u64>,
}

#[derive(Clone, Copy, Debug)]
struct Successor {
    unit: UnitId,
    weight: f32,
}

impl MarkovPredictor {
    /// A predictor that has seen nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn learn(&mut self, from: UnitId, to: UnitId) {
        let successors = self.successors.entry(from).or_default();
        for successor in &mut *successors {
            successor.weight *= DECAY;
        }
        if let Some(known) = successors.iter_mut().find(|successor| successor.unit == to) {
            known.weight += 1.0;
            return;
        }
        if successors.len() == SUCCESSORS {
            let weakest = (0..SUCCESSORS).min_by(|&a, &b| successors[a].weight.total_cmp(&successors[b].weight));
            successors.swap_remove(weakest.unwrap_or(0));
        }
        successors.push(Successor { unit: to, weight: 1.0 });
    }

    fn likeliest_after(&self, unit: UnitId) -> Option<(UnitId, f32)> {
        let successors = self.successors.get(&unit)?;
        let total: f32 = successors.iter().map(|successor| successor.weight).sum();
        let best = successors.iter().max_by(|a, b| a.weight.total_cmp(&b.weight))?;
        Some((best.unit, best.weight / total))
    }

    fn follow(&mut self) {
        self.chain.clear();
        self.distances.clear();
        let Some(mut unit) = self.latest else { return };
        let mut probability = 1.0;
        while self.chain.len() < LONGEST_CHAIN {
            let Some((next, share)) = self.likeliest_after(unit) else { break };
            probability *= share;
            if probability < LEAST_PROBABILITY || self.distances.contains_key(&next) {
                break;
            }
            let distance = self.chain.len() as u64 + 1;
            self.chain.push(ExpectedUse { unit: next, distance, probability });
            self.distances.insert(next, distance);
            unit = next;
        }
    }
}

impl Forecast for MarkovPredictor {
    fn next_use(&self, unit: UnitId) -> NextUse {
        self.distances.get(&unit).map_or(NextUse::Unknown, |&distance| NextUse::In(distance))
    }

    fn upcoming(&self, horizon: u64, out: &mut Vec<ExpectedUse>) {
        let within = self.chain.len().min(usize::try_from(horizon).unwrap_or(usize::MAX));
        out.extend_from_slice(&self.chain[..within]);
    }
}

impl AccessPredictor for MarkovPredictor {
    fn observe(&mut self, access: Access) {
        if let Some(latest) = self.latest.replace(access.unit) {
            self.learn(latest, access.unit);
        }
        self.follow();
    }
}

impl fmt::Debug for MarkovPredictor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The tables would fill pages.
        f.debug_struct("MarkovPredictor")
            .field("units_seen", &self.successors.len())
            .field("latest", &self.latest)
            .field("chain_len", &self.chain.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use smoke_core::Step;

    use super::*;

    fn fed(units: impl IntoIterator<Item = u32>) -> MarkovPredictor {
        let mut predictor = MarkovPredictor::new();
        for unit in units {
            predictor.observe(Access { step: Step(0), unit: UnitId(unit) });
        }
        predictor
    }

    fn upcoming(predictor: &MarkovPredictor, horizon: u64) -> Vec<ExpectedUse> {
        let mut out = Vec::new();
        predictor.upcoming(horizon, &mut out);
        out
    }

    #[test]
    fn knows_a_cycle_after_one_pass() {
        let predictor = fed([0, 1, 2, 3, 0]);
        let names: Vec<_> = upcoming(&predictor, 10).iter().map(|expected| expected.unit.0).collect();
        assert_eq!(names, [1, 2, 3, 0]);
        assert_eq!(predictor.next_use(UnitId(0)), NextUse::In(4));
        assert_eq!(predictor.next_use(UnitId(9)), NextUse::Unknown);
    }

    #[test]
    fn probability_falls_along_the_chain() {
        // After 0 comes 1 three times of four, and always 2 after 1.
        let predictor = fed([0, 1, 2, 0, 1, 2, 0, 9, 0, 1, 2, 0]);
        let chain = upcoming(&predictor, 2);
        assert_eq!(chain[0].unit, UnitId(1));
        assert!(chain[0].probability > 0.6 && chain[0].probability < 0.9, "{chain:?}");
        assert!(chain[1].probability <= chain[0].probability);
    }

    #[test]
    fn follows_a_change_of_habits() {
        let old = [0, 1].repeat(50);
        let new = [0, 2].repeat(10);
        let predictor = fed(old.into_iter().chain(new).chain([0]));
        assert_eq!(upcoming(&predictor, 1)[0].unit, UnitId(2));
    }

    #[test]
    fn remembers_a_bounded_number_of_successors() {
        let predictor = fed((1..1000).flat_map(|unit| [0, unit]));
        assert_eq!(predictor.successors[&UnitId(0)].len(), SUCCESSORS);
    }
}
