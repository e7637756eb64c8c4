use smoke_core::{Access, ExpectedUse, Forecast, NextUse, UnitId};

use crate::AccessPredictor;

/// The order in which a model uses its units: something once, then passes that repeat.
///
/// A decoder has passes only. In an encoder–decoder model what the encoder uses is the prologue, once for each prompt,
/// and what the decoder uses for each token is the cycle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// What is used once before the passes, in order; mostly empty.
    pub prologue: Vec<UnitId>,
    /// One pass, in order; a unit may appear several times.
    pub cycle: Vec<UnitId>,
}

impl From<Vec<UnitId>> for Schedule {
    fn from(cycle: Vec<UnitId>) -> Self {
        Self { prologue: Vec::new(), cycle }
    }
}

/// Knows the order of one pass and that passes repeat forever: the predictor of a dense model.
///
/// An observed unit moves the position to that unit's next occurrence in the schedule, so skipped and repeated units
/// resynchronise by themselves; a unit outside the schedule moves nothing, and is never expected. Before the first
/// observation the position is the start. After the last unit of a pass the first one is expected, never the prologue:
/// whoever begins anew shows it by using a unit of the prologue.
///
/// `next_use` costs a binary search over the schedule, `upcoming` one for each step of its horizon; nothing is built per
/// step.
#[derive(Clone, Debug)]
pub struct CyclicPredictor {
    /// The prologue, then one pass.
    order: Vec<UnitId>,
    /// Where the pass begins.
    cycle_start: usize,
    /// Every place of the order as (unit, place), sorted.
    occurrences: Vec<(UnitId, usize)>,
    /// The place of the order that the next access is expected at.
    position: usize,
}

impl CyclicPredictor {
    /// Expects the schedule, or passes alone where a list of units is given. An empty one expects nothing.
    pub fn new(schedule: impl Into<Schedule>) -> Self {
        let Schedule { prologue: mut order, cycle } = schedule.into();
        let cycle_start = order.len();
        order.extend(cycle);
        let mut occurrences: Vec<_> = order.iter().enumerate().map(|(place, &unit)| (unit, place)).collect();
        occurrences.sort_unstable();
        Self { order, cycle_start, occurrences, position: 0 }
    }

    /// The first place at or after `from` where `unit` is used.
    fn place_from(&self, unit: UnitId, from: usize) -> Option<usize> {
        let index = self.occurrences.partition_point(|&occurrence| occurrence < (unit, from));
        self.occurrences.get(index).filter(|(used, _)| *used == unit).map(|(_, place)| *place)
    }

    /// The place of the schedule that the next access is expected at.
    pub(crate) fn position(&self) -> usize {
        self.position
    }

    /// The first place at or after the position, going round, where `unit` is used.
    fn next_place(&self, unit: UnitId) -> Option<usize> {
        self.place_from(unit, self.position).or_else(|| self.place_from(unit, self.cycle_start))
    }

    /// Steps from now to the use of `unit` nearest ahead.
    fn distance(&self, unit: UnitId) -> Option<u64> {
        let place = self.next_place(unit)?;
        let places_ahead = if place >= self.position {
            place - self.position
        } else {
            place - self.cycle_start + self.order.len() - self.position
        };
        Some(places_ahead as u64 + 1)
    }
}

impl Forecast for CyclicPredictor {
    fn next_use(&self, unit: UnitId) -> NextUse {
        self.distance(unit).map_or(NextUse::Never, NextUse::In)
    }

    fn upcoming(&self, horizon: u64, out: &mut Vec<ExpectedUse>) {
        let ahead = &self.order[self.position..];
        let before = &self.order[self.cycle_start..self.position.max(self.cycle_start)];
        for (&unit, distance) in ahead.iter().chain(before).zip(1..=horizon) {
            // A unit's later uses within the pass are not its next use, so each is named once without a set.
            if self.distance(unit) == Some(distance) {
                out.push(ExpectedUse { unit, distance, probability: 1.0 });
            }
        }
    }
}

impl AccessPredictor for CyclicPredictor {
    fn observe(&mut self, access: Access) {
        let place = self.next_place(access.unit).or_else(|| self.place_from(access.unit, 0));
        if let Some(place) = place {
            self.position = if place + 1 < self.order.len() { place + 1 } else { self.cycle_start };
        }
    }
}

#[cfg(test)]
mod tests {
    use smoke_core::Step;

    use super::*;

    fn units(numbers: &[u32]) -> Vec<UnitId> {
        numbers.iter().copied().map(UnitId).collect()
    }

    fn observe(predictor: &mut CyclicPredictor, unit: u32) {
        predictor.observe(Access { step: Step(0), unit: UnitId(unit) });
    }

    fn upcoming(predictor: &CyclicPredictor, horizon: u64) -> Vec<(u32, u64)> {
        let mut out = Vec::new();
        predictor.upcoming(horizon, &mut out);
        out.iter().map(|expected| (expected.unit.0, expected.distance)).collect()
    }

    #[test]
    fn starts_at_the_start() {
        let predictor = CyclicPredictor::new(units(&[3, 1, 2]));
        assert_eq!(upcoming(&predictor, 9), [(3, 1), (1, 2), (2, 3)]);
    }

    #[test]
    fn goes_round() {
        let mut predictor = CyclicPredictor::new(units(&[0, 1, 2]));
        observe(&mut predictor, 1);
        assert_eq!(upcoming(&predictor, 2), [(2, 1), (0, 2)]);
        assert_eq!(predictor.next_use(UnitId(1)), NextUse::In(3));
    }

    #[test]
    fn a_unit_used_twice_in_a_pass_has_the_nearer_use() {
        let mut predictor = CyclicPredictor::new(units(&[7, 0, 7, 1]));
        observe(&mut predictor, 7);
        assert_eq!(predictor.next_use(UnitId(7)), NextUse::In(2));
        assert_eq!(upcoming(&predictor, 4), [(0, 1), (7, 2), (1, 3)]);
        observe(&mut predictor, 7);
        assert_eq!(upcoming(&predictor, 2), [(1, 1), (7, 2)]);
    }

    #[test]
    fn skips_and_repeats_resynchronise() {
        let mut predictor = CyclicPredictor::new(units(&[0, 1, 2, 3]));
        observe(&mut predictor, 2);
        assert_eq!(upcoming(&predictor, 1), [(3, 1)]);
        observe(&mut predictor, 2);
        assert_eq!(upcoming(&predictor, 1), [(3, 1)]);
    }

    #[test]
    fn a_prologue_comes_once_until_it_is_begun_anew() {
        let mut predictor = CyclicPredictor::new(Schedule { prologue: units(&[0, 1]), cycle: units(&[2, 3]) });
        assert_eq!(upcoming(&predictor, 9), [(0, 1), (1, 2), (2, 3), (3, 4)]);
        for unit in [0, 1, 2, 3] {
            observe(&mut predictor, unit);
        }
        assert_eq!(upcoming(&predictor, 9), [(2, 1), (3, 2)]);
        assert_eq!(predictor.next_use(UnitId(0)), NextUse::Never);
        observe(&mut predictor, 2);
        assert_eq!(upcoming(&predictor, 9), [(3, 1), (2, 2)]);
        observe(&mut predictor, 0);
        assert_eq!(upcoming(&predictor, 9), [(1, 1), (2, 2), (3, 3)]);
    }

    #[test]
    fn a_prologue_alone_ends() {
        let mut predictor = CyclicPredictor::new(Schedule { prologue: units(&[0, 1]), cycle: Vec::new() });
        observe(&mut predictor, 1);
        assert_eq!(upcoming(&predictor, 9), []);
    }

    #[test]
    fn a_stranger_changes_nothing_and_is_never_expected() {
        let mut predictor = CyclicPredictor::new(units(&[0, 1]));
        observe(&mut predictor, 0);
        observe(&mut predictor, u32::MAX);
        assert_eq!(upcoming(&predictor, 1), [(1, 1)]);
        assert_eq!(predictor.next_use(UnitId(u32::MAX)), NextUse::Never);
    }

    #[test]
    fn an_empty_schedule_expects_nothing() {
        let mut predictor = CyclicPredictor::new(Vec::new());
        observe(&mut predictor, 0);
        assert_eq!(upcoming(&predictor, 5), []);
        assert_eq!(predictor.next_use(UnitId(0)), NextUse::Never);
    }
}
