use smoke_core::{Access, ExpectedUse, Forecast, NextUse, UnitId};

use crate::AccessPredictor;

/// Knows the future, from a recording of it: with it, evicting what is used last is Belady's MIN.
///
/// Each observation is taken for the next access of the recording, whatever it is; after the last one nothing is expected.
/// Questions take O(log n) for n uses of a unit, or O(log n) for each step of the horizon.
#[derive(Clone, Debug)]
pub struct OraclePredictor {
    accesses: Vec<UnitId>,
    /// By unit number: where the unit is used.
    uses: Vec<Vec<usize>>,
    position: usize,
    sight: u64,
}

impl OraclePredictor {
    /// Expects these accesses, once.
    ///
    /// Takes memory for every number up to the largest unit.
    pub fn new(accesses: Vec<UnitId>) -> Self {
        let units = accesses.iter().map(|unit| unit.index() + 1).max().unwrap_or(0);
        let mut uses = vec![Vec::new(); units];
        accesses.iter().enumerate().for_each(|(place, unit)| uses[unit.index()].push(place));
        Self { accesses, uses, position: 0, sight: u64::MAX }
    }

    /// Knows only the next `steps` accesses, and nothing of a unit that is not among them: what a predictor that is always
    /// right, but not for longer, would be worth.
    pub fn with_sight(self, steps: u64) -> Self {
        Self { sight: steps, ..self }
    }

    fn next_place(&self, unit: UnitId) -> Option<usize> {
        let uses = self.uses.get(unit.index())?;
        uses.get(uses.partition_point(|&place| place < self.position)).copied()
    }
}

impl Forecast for OraclePredictor {
    fn next_use(&self, unit: UnitId) -> NextUse {
        let steps = self.next_place(unit).map(|place| (place - self.position) as u64 + 1);
        match steps {
            Some(steps) if steps <= self.sight => NextUse::In(steps),
            // The end of the recording is in sight, or it is not.
            None if (self.accesses.len() - self.position) as u64 <= self.sight => NextUse::Never,
            _ => NextUse::Unknown,
        }
    }

    fn upcoming(&self, horizon: u64, out: &mut Vec<ExpectedUse>) {
        for (place, distance) in (self.position..self.accesses.len()).zip(1..=horizon.min(self.sight)) {
            let unit = self.accesses[place];
            // A unit's later uses are not its next one, so each is named once without a set.
            if self.next_place(unit) == Some(place) {
                out.push(ExpectedUse { unit, distance, probability: 1.0 });
            }
        }
    }
}

impl AccessPredictor for OraclePredictor {
    fn observe(&mut self, _access: Access) {
        self.position = (self.position + 1).min(self.accesses.len());
    }
}

#[cfg(test)]
mod tests {
    use smoke_core::Step;

    use super::*;

    #[test]
    fn what_is_out_of_sight_is_unknown() {
        let mut oracle = OraclePredictor::new([3, 1, 3, 2].map(UnitId).to_vec()).with_sight(2);
        let next_uses = |oracle: &OraclePredictor| [1, 2, 3, 9].map(|unit| oracle.next_use(UnitId(unit)));
        assert_eq!(next_uses(&oracle), [NextUse::In(2), NextUse::Unknown, NextUse::In(1), NextUse::Unknown]);
        let mut upcoming = Vec::new();
        oracle.upcoming(10, &mut upcoming);
        assert_eq!(upcoming.iter().map(|expected| expected.unit.0).collect::<Vec<_>>(), [3, 1]);
        (0..2).for_each(|step| oracle.observe(Access { step: Step(step), unit: UnitId(0) }));
        assert_eq!(next_uses(&oracle), [NextUse::Never, NextUse::In(2), NextUse::In(1), NextUse::Never]);
    }

    #[test]
    fn knows_what_follows_and_where_it_ends() {
        let mut oracle = OraclePredictor::new([3, 1, 3, 2].map(UnitId).to_vec());
        let upcoming = |oracle: &OraclePredictor| {
            let mut out = Vec::new();
            oracle.upcoming(3, &mut out);
            out.iter().map(|expected| (expected.unit.0, expected.distance)).collect::<Vec<_>>()
        };
        assert_eq!(upcoming(&oracle), [(3, 1), (1, 2)]);
        assert_eq!(oracle.next_use(UnitId(2)), NextUse::In(4));
        oracle.observe(Access { step: Step(0), unit: UnitId(3) });
        assert_eq!(upcoming(&oracle), [(1, 1), (3, 2), (2, 3)]);
        (0..9).for_each(|step| oracle.observe(Access { step: Step(step), unit: UnitId(0) }));
        assert_eq!((upcoming(&oracle), oracle.next_use(UnitId(3))), (Vec::new(), NextUse::Never));
        assert_eq!(oracle.next_use(UnitId(99)), NextUse::Never);
    }
}
