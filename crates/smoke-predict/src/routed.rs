use smoke_core::{Access, ExpectedUse, Forecast, NextUse, UnitId};

use crate::{AccessPredictor, CyclicPredictor};

/// What a pass that did not use an expert leaves of the expert's rate: about fifty passes are remembered.
const DECAY: f32 = 0.98;
/// No expert is thought to be rarer than this share of its even chance.
const RAREST: f32 = 1.0 / 16.0;
/// Ranks of hints that are told apart; what is beyond counts as the last one.
const RANKS: usize = 16;
/// Layers ahead that are told apart.
const DEPTHS: usize = 4;
/// How many hints the hinter's own probability is worth beside what was seen.
const PRIOR: f32 = 8.0;
/// What was seen of a kind of hint counts for half after about so many hints.
const MEMORY: f32 = 4096.0;
/// A hint is never certain.
const MOST: f32 = 0.99;

/// A unit that is used when a router says so: an expert of a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoutedUnit {
    /// The unit.
    pub unit: UnitId,
    /// It is used, if it is, right after the unit at this place of the schedule: the one with the layer's router.
    pub place: usize,
    /// The share of tokens that use it where all experts are used alike: experts of a token by experts of the layer.
    pub share: f32,
}

/// Knows the order of the shared weights, which repeats, and learns how often each expert is used: the predictor of a
/// mixture of experts.
///
/// Distances are counted in places of the schedule; the experts of a layer share the step of the unit before them. An
/// expert that is used in a share *q* of the passes is expected at its layer's place after 1/*q* passes: Belady's
/// distance as an expectation. *q* decays with the passes since (an exponential moving average).
///
/// A [`hint`](AccessPredictor::hint) says that an expert will be used when its layer is reached next. Hints for one place
/// come in one call, the likeliest first. How likely they are is learnt, apart for each rank among them and each number
/// of layers ahead; their probabilities only count as long as little was seen. The next hint for a place replaces the one
/// before.
#[derive(Clone, Debug)]
pub struct RoutedPredictor {
    schedule: CyclicPredictor,
    places_in_pass: u64,
    /// By unit number.
    experts: Vec<Option<Expert>>,
    /// The places that have experts, in order.
    places: Vec<usize>,
    /// Places seen since the beginning, skipped ones included: the place after the latest is `clock % schedule length`.
    clock: u64,
    hints: Vec<Hint>,
    trust: [[Trust; RANKS]; DEPTHS],
}

#[derive(Clone, Copy, Debug)]
struct Expert {
    place: usize,
    share: f32,
    /// As of `pass`.
    rate: f32,
    pass: u64,
}

#[derive(Clone, Copy, Debug)]
struct Hint {
    unit: UnitId,
    /// The clock's reading when the place of its use is the latest.
    due: u64,
    probability: f32,
    rank: usize,
    depth: usize,
    came_true: bool,
}

/// Hints of one kind, and how many of them came true.
#[derive(Clone, Copy, Debug, Default)]
struct Trust {
    given: f32,
    true_ones: f32,
}

impl Trust {
    fn probability(self, prior: f32) -> f32 {
        ((self.true_ones + PRIOR * prior) / (self.given + PRIOR)).clamp(1e-3, MOST)
    }

    fn learn(&mut self, came_true: bool) {
        if self.given >= MEMORY {
            self.given /= 2.0;
            self.true_ones /= 2.0;
        }
        self.given += 1.0;
        self.true_ones += f32::from(u8::from(came_true));
    }
}

impl RoutedPredictor {
    /// Repeats `schedule`, between whose units those of `routed` are used. An expert whose place the schedule lacks is
    /// passed over.
    pub fn new(schedule: Vec<UnitId>, routed: &[RoutedUnit]) -> Self {
        let mut experts = Vec::new();
        let mut places = Vec::new();
        for &RoutedUnit { unit, place, share } in routed.iter().filter(|routed| routed.place < schedule.len()) {
            if experts.len() <= unit.index() {
                experts.resize(unit.index() + 1, None);
            }
            let share = share.clamp(1e-4, 1.0);
            experts[unit.index()] = Some(Expert { place, share, rate: share, pass: 0 });
            places.push(place);
        }
        places.sort_unstable();
        places.dedup();
        Self {
            places_in_pass: schedule.len() as u64,
            schedule: CyclicPredictor::new(schedule),
            experts,
            places,
            clock: 0,
            hints: Vec::new(),
            trust: Default::default(),
        }
    }

    /// Begins with these shares of the passes that use an expert, such as those of an earlier run, in place of even ones.
    /// Units that are no experts are passed over.
    #[must_use]
    pub fn with_rates(mut self, rates: impl IntoIterator<Item = (UnitId, f32)>) -> Self {
        for (unit, rate) in rates {
            if let Some(Some(expert)) = self.experts.get_mut(unit.index())
                && rate.is_finite()
            {
                expert.rate = rate.clamp(0.0, 1.0);
            }
        }
        self
    }

    fn expert(&self, unit: UnitId) -> Option<&Expert> {
        self.experts.get(unit.index())?.as_ref()
    }

    fn places_in_pass(&self) -> u64 {
        self.places_in_pass
    }

    fn pass(&self) -> u64 {
        self.clock.saturating_sub(1) / self.places_in_pass().max(1)
    }

    /// Steps to the next time that `place` is reached, at least 1.
    fn steps_to(&self, place: usize) -> u64 {
        let (place, next, count) = (place as u64, self.schedule.position() as u64, self.places_in_pass());
        if place >= next { place - next + 1 } else { place + count - next + 1 }
    }

    /// Layers with experts between the latest place and `place`, that one included.
    fn layers_to(&self, place: usize) -> usize {
        let rank = |place: usize| self.places.partition_point(|&other| other < place);
        let (rank, next) = (rank(place), rank(self.schedule.position()));
        if rank >= next { rank - next + 1 } else { rank + self.places.len() - next + 1 }
    }

    /// The share of passes that use the expert, as of now.
    fn rate(&self, expert: &Expert) -> f32 {
        let missed = i32::try_from(self.pass().saturating_sub(expert.pass)).unwrap_or(i32::MAX);
        (expert.rate * DECAY.powi(missed)).clamp(expert.share * RAREST, 1.0)
    }

    /// The hint for a use that is still to come.
    fn live_hint(&self, unit: UnitId) -> Option<&Hint> {
        self.hints.iter().find(|hint| hint.unit == unit && hint.due > self.clock)
    }

    fn expect(&self, unit: UnitId, expert: &Expert) -> u64 {
        let rate = self.rate(expert);
        // Passes beyond the next time that the layer is reached.
        let passes = match self.live_hint(unit) {
            Some(hint) => (1.0 - hint.probability) / rate,
            None => 1.0 / rate - 1.0,
        };
        self.steps_to(expert.place) + (f64::from(passes) * self.places_in_pass() as f64) as u64
    }

    fn use_expert(&mut self, unit: UnitId) {
        let (pass, clock) = (self.pass(), self.clock);
        let Some(expert) = self.expert(unit).copied() else { return };
        let rate = self.rate(&expert);
        self.experts[unit.index()] = Some(Expert { rate: (rate + 1.0 - DECAY).min(1.0), pass, ..expert });
        if let Some(hint) = self.hints.iter_mut().find(|hint| hint.unit == unit && hint.due == clock) {
            hint.came_true = true;
        }
    }

    fn move_on(&mut self, access: Access) {
        let before = self.schedule.position() as u64;
        self.schedule.observe(access);
        let (after, count) = (self.schedule.position() as u64, self.places_in_pass());
        // Going nowhere is going all the way round, unless the unit is none of the schedule's.
        let is_known = count > 0 && self.schedule.next_use(access.unit) != NextUse::Never;
        if is_known {
            self.clock += if after > before { after - before } else { after + count - before };
        }
        let (clock, trust) = (self.clock, &mut self.trust);
        self.hints.retain(|hint| {
            if hint.due < clock {
                trust[hint.depth][hint.rank].learn(hint.came_true);
            }
            hint.due >= clock
        });
    }
}

impl Forecast for RoutedPredictor {
    fn next_use(&self, unit: UnitId) -> NextUse {
        match self.expert(unit) {
            Some(expert) => NextUse::In(self.expect(unit, expert)),
            None => self.schedule.next_use(unit),
        }
    }

    fn upcoming(&self, horizon: u64, out: &mut Vec<ExpectedUse>) {
        let first = out.len();
        self.schedule.upcoming(horizon, out);
        for hint in self.hints.iter().filter(|hint| hint.due > self.clock && hint.due - self.clock <= horizon) {
            let Hint { unit, due, probability, .. } = *hint;
            out.push(ExpectedUse { unit, distance: due - self.clock, probability });
        }
        // The likeliest first among those of one step.
        out[first..].sort_unstable_by(|a, b| {
            a.distance.cmp(&b.distance).then(b.probability.total_cmp(&a.probability)).then(a.unit.cmp(&b.unit))
        });
    }
}

impl AccessPredictor for RoutedPredictor {
    fn observe(&mut self, access: Access) {
        match self.expert(access.unit) {
            Some(_) => self.use_expert(access.unit),
            None => self.move_on(access),
        }
    }

    /// Distances of experts are known here, so those given are not looked at. Units of the schedule need no hint.
    fn hint(&mut self, expected: &[ExpectedUse]) {
        let mut ranks: [(u64, usize); DEPTHS] = Default::default();
        for &ExpectedUse { unit, probability, .. } in expected {
            let Some(&Expert { place, .. }) = self.expert(unit) else { continue };
            let (due, depth) = (self.clock + self.steps_to(place), self.layers_to(place) - 1);
            let depth = depth.min(DEPTHS - 1);
            let rank = match &mut ranks[depth] {
                (of, rank) if *of == due => {
                    *rank += 1;
                    *rank
                }
                first => {
                    *first = (due, 0);
                    self.hints.retain(|hint| hint.due != due);
                    0
                }
            };
            let rank = rank.min(RANKS - 1);
            let probability = self.trust[depth][rank].probability(probability.clamp(0.0, 1.0));
            self.hints.retain(|hint| hint.unit != unit || hint.due == self.clock);
            self.hints.push(Hint { unit, due, probability, rank, depth, came_true: false });
        }
    }
}

#[cfg(test)]
mod tests {
    use smoke_core::Step;

    use super::*;

    /// Two layers: units 0 and 3 are shared, 1 and 2 the experts of the first, 4 and 5 those of the second.
    fn two_layers() -> RoutedPredictor {
        let routed = [(1, 0), (2, 0), (4, 1), (5, 1)];
        let routed = routed.map(|(unit, place)| RoutedUnit { unit: UnitId(unit), place, share: 0.5 });
        RoutedPredictor::new(vec![UnitId(0), UnitId(3)], &routed)
    }

    fn observe(predictor: &mut RoutedPredictor, units: &[u32]) {
        for &unit in units {
            predictor.observe(Access { step: Step(0), unit: UnitId(unit) });
        }
    }

    fn distance(predictor: &RoutedPredictor, unit: u32) -> u64 {
        predictor.next_use(UnitId(unit)).distance()
    }

    fn hint(predictor: &mut RoutedPredictor, units: &[u32], probability: f32) {
        let hints: Vec<_> =
            units.iter().map(|&unit| ExpectedUse { unit: UnitId(unit), distance: 1, probability }).collect();
        predictor.hint(&hints);
    }

    #[test]
    fn an_expert_is_expected_at_its_layer_after_as_many_passes_as_its_rate_says() {
        let mut predictor = two_layers();
        // Half of the passes: in the next one, and one more.
        assert_eq!((distance(&predictor, 1), distance(&predictor, 4)), (1 + 2, 2 + 2));
        observe(&mut predictor, &[0]);
        // The layer is reached now; its experts' next chance is a pass away.
        assert_eq!((distance(&predictor, 1), distance(&predictor, 4)), (2 + 2, 1 + 2));
    }

    #[test]
    fn rates_of_an_earlier_run_count_until_others_are_learnt() {
        let rates = [(1, 1.0), (2, 0.25), (0, 0.5), (9, 0.5), (4, f32::NAN)];
        let mut predictor = two_layers().with_rates(rates.map(|(unit, rate)| (UnitId(unit), rate)));
        assert_eq!((distance(&predictor, 1), distance(&predictor, 2), distance(&predictor, 4)), (1, 1 + 3 * 2, 4));
        for _ in 0..300 {
            observe(&mut predictor, &[0, 2, 3]);
        }
        assert!(distance(&predictor, 2) < distance(&predictor, 1));
    }

    #[test]
    fn what_is_used_often_is_expected_sooner() {
        let mut predictor = two_layers();
        for _ in 0..200 {
            observe(&mut predictor, &[0, 1, 3, 5]);
        }
        assert_eq!((distance(&predictor, 1), distance(&predictor, 5)), (1, 2));
        assert!(distance(&predictor, 2) > 20 && distance(&predictor, 4) > 20);
    }

    #[test]
    fn a_hint_brings_an_expert_nearer_until_its_layer_is_over() {
        let mut predictor = two_layers();
        observe(&mut predictor, &[0]);
        hint(&mut predictor, &[5], 0.9);
        let mut soon = Vec::new();
        predictor.upcoming(1, &mut soon);
        let soon: Vec<_> = soon.iter().map(|expected| (expected.unit.0, expected.distance)).collect();
        assert_eq!(soon, [(3, 1), (5, 1)]);
        assert!(distance(&predictor, 5) < distance(&predictor, 4));
        observe(&mut predictor, &[3, 4, 0]);
        assert_eq!(distance(&predictor, 5), 1 + 2, "half of the passes: the hint is gone");
    }

    #[test]
    fn hints_are_believed_as_far_as_they_come_true() {
        let mut predictor = two_layers();
        let likely = |predictor: &RoutedPredictor, unit| {
            let mut soon = Vec::new();
            predictor.upcoming(9, &mut soon);
            soon.iter().find(|expected| expected.unit == UnitId(unit)).map(|expected| expected.probability)
        };
        for _ in 0..100 {
            observe(&mut predictor, &[0]);
            // The first of the two is right every time, the second never.
            hint(&mut predictor, &[4, 5], 0.5);
            observe(&mut predictor, &[3, 4]);
        }
        observe(&mut predictor, &[0]);
        hint(&mut predictor, &[4, 5], 0.5);
        assert!(likely(&predictor, 4).unwrap() > 0.95);
        assert!(likely(&predictor, 5).unwrap() < 0.05);
    }

    #[test]
    fn a_later_hint_replaces_the_one_before() {
        let mut predictor = two_layers();
        hint(&mut predictor, &[4], 0.9);
        observe(&mut predictor, &[0]);
        hint(&mut predictor, &[5], 0.9);
        let mut soon = Vec::new();
        predictor.upcoming(1, &mut soon);
        assert_eq!(soon.iter().map(|expected| expected.unit.0).collect::<Vec<_>>(), [3, 5]);
    }
}
