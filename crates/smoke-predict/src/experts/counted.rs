use super::{ExpertPredictor, ExpertShape, LAYERS_AHEAD, Progress, Routed, pair, sources};

/// Popularity remembers about so many tokens, as 1 / (1 - decay).
const POPULARITY_DECAY: f32 = 0.99;
/// Repetition and transitions change slowly.
const HABIT_DECAY: f32 = 0.999;
/// How many transitions the even chance is worth beside what was counted.
const PRIOR: f32 = 2.0;

/// Expects of a layer what it chose most lately: an exponential moving average over about a hundred tokens.
///
/// Memory: 4 bytes for each expert.
#[derive(Clone, Debug)]
pub struct PopularExperts {
    shape: ExpertShape,
    progress: Progress,
    /// `[layer, expert]`
    rates: Vec<f32>,
}

impl PopularExperts {
    /// A predictor to which all experts are alike.
    pub fn new(shape: ExpertShape) -> Self {
        let rates = vec![shape.even(); shape.layers * shape.experts];
        Self { shape, progress: Progress::default(), rates }
    }

    /// Begins with these shares of the tokens that use an expert, each with its layer and number, such as those of an
    /// earlier run. Experts that do not exist are passed over.
    #[must_use]
    pub fn with_rates(mut self, rates: impl IntoIterator<Item = (usize, usize, f32)>) -> Self {
        let ExpertShape { layers, experts, .. } = self.shape;
        let known =
            |&(layer, expert, rate): &(usize, usize, f32)| layer < layers && expert < experts && rate.is_finite();
        for (layer, expert, rate) in rates.into_iter().filter(known) {
            self.rates[layer * experts + expert] = rate.clamp(0.0, 1.0);
        }
        self
    }
}

impl ExpertPredictor for PopularExperts {
    fn observe(&mut self, routed: &Routed<'_>) {
        if routed.layer >= self.shape.layers {
            return;
        }
        self.progress.move_to(routed.layer);
        let rates = &mut self.rates[routed.layer * self.shape.experts..][..self.shape.experts];
        rates.iter_mut().for_each(|rate| *rate *= POPULARITY_DECAY);
        for expert in self.shape.known(routed.chosen) {
            rates[expert] = (rates[expert] + 1.0 - POPULARITY_DECAY).min(1.0);
        }
    }

    fn predict(&self, ahead: usize, out: &mut Vec<f32>) {
        out.clear();
        if let Some(layer) = self.progress.ahead(ahead, self.shape.layers) {
            out.extend_from_slice(&self.rates[layer * self.shape.experts..][..self.shape.experts]);
        }
    }
}

/// Expects of a layer what it chose for the token before. How often that is right is learnt for each layer.
///
/// Memory: 4 bytes for each expert that a token uses.
#[derive(Clone, Debug)]
pub struct PreviousToken {
    shape: ExpertShape,
    progress: Progress,
    /// By layer: the latest choice.
    chosen: Vec<Vec<usize>>,
    /// By layer: the share of a choice that the next token makes again.
    repeated: Vec<f32>,
}

impl PreviousToken {
    /// A predictor that has seen no token.
    pub fn new(shape: ExpertShape) -> Self {
        let repeated = vec![shape.even(); shape.layers];
        Self { shape, progress: Progress::default(), chosen: vec![Vec::new(); shape.layers], repeated }
    }
}

impl ExpertPredictor for PreviousToken {
    fn observe(&mut self, routed: &Routed<'_>) {
        let Some(previous) = self.chosen.get_mut(routed.layer) else { return };
        self.progress.move_to(routed.layer);
        if !previous.is_empty() {
            let again = previous.iter().filter(|&&expert| routed.chosen.contains(&(expert as u32))).count();
            let share = again as f32 / previous.len() as f32;
            let rate = &mut self.repeated[routed.layer];
            *rate = HABIT_DECAY * *rate + (1.0 - HABIT_DECAY) * share;
        }
        previous.clear();
        // A choice of more than all experts names some of them twice.
        previous.extend(self.shape.known(routed.chosen).take(self.shape.experts));
    }

    fn predict(&self, ahead: usize, out: &mut Vec<f32>) {
        out.clear();
        let Some(layer) = self.progress.ahead(ahead, self.shape.layers) else { return };
        let (previous, repeated) = (&self.chosen[layer], self.repeated[layer]);
        // The others share what is left of the token's choices.
        let others = self.shape.experts.saturating_sub(previous.len()).max(1);
        let left = self.shape.used as f32 - repeated * previous.len() as f32;
        out.resize(self.shape.experts, (left / others as f32).clamp(0.0, 1.0));
        previous.iter().for_each(|&expert| out[expert] = repeated);
    }
}

/// Counts which experts follow which, one and two layers on, and expects what mostly followed those that were chosen: the
/// mean of their shares.
///
/// Memory: 8 bytes for each pair of experts of a layer, about 6 MB for 48 layers of 128 experts.
#[derive(Clone, Debug)]
pub struct Transitions {
    shape: ExpertShape,
    progress: Progress,
    /// By layer and distance.
    tables: Vec<Table>,
    /// By layer: what the token chose.
    chosen: Vec<Vec<usize>>,
    /// Scratch: what the latest router chose.
    latest: Vec<usize>,
}

#[derive(Clone, Debug)]
struct Table {
    /// How often the first expert was followed by the second: `[experts, experts]`.
    counts: Vec<f32>,
    /// How often the first expert was chosen.
    totals: Vec<f32>,
}

impl Transitions {
    /// A predictor that has counted nothing.
    pub fn new(shape: ExpertShape) -> Self {
        let table = Table { counts: vec![0.0; shape.experts * shape.experts], totals: vec![0.0; shape.experts] };
        Self {
            shape,
            progress: Progress::default(),
            tables: vec![table; shape.layers * LAYERS_AHEAD],
            chosen: vec![Vec::new(); shape.layers],
            latest: Vec::new(),
        }
    }
}

impl ExpertPredictor for Transitions {
    fn observe(&mut self, routed: &Routed<'_>) {
        if routed.layer >= self.shape.layers {
            return;
        }
        if self.progress.move_to(routed.layer) {
            self.chosen.iter_mut().for_each(Vec::clear);
        }
        let experts = self.shape.experts;
        let chosen = &mut self.latest;
        chosen.clear();
        chosen.extend(self.shape.known(routed.chosen));
        chosen.sort_unstable();
        chosen.dedup();
        for (ahead, earlier) in sources(routed.layer) {
            let table = &mut self.tables[pair(earlier, ahead)];
            for &from in &self.chosen[earlier] {
                let row = &mut table.counts[from * experts..][..experts];
                row.iter_mut().for_each(|count| *count *= HABIT_DECAY);
                chosen.iter().for_each(|&expert| row[expert] += 1.0);
                table.totals[from] = table.totals[from] * HABIT_DECAY + 1.0;
            }
        }
        std::mem::swap(&mut self.chosen[routed.layer], chosen);
    }

    fn predict(&self, ahead: usize, out: &mut Vec<f32>) {
        out.clear();
        let Some(layer) = self.progress.ahead(ahead, self.shape.layers) else { return };
        let from = &self.chosen[layer - ahead];
        if from.is_empty() {
            return;
        }
        let (experts, even) = (self.shape.experts, self.shape.even());
        let table = &self.tables[pair(layer - ahead, ahead)];
        out.resize(experts, 0.0);
        for &expert in from {
            let weight = 1.0 / ((table.totals[expert] + PRIOR) * from.len() as f32);
            let row = &table.counts[expert * experts..][..experts];
            out.iter_mut().zip(row).for_each(|(out, count)| *out += (count + PRIOR * even) * weight);
        }
        out.iter_mut().for_each(|probability| *probability = probability.min(1.0));
    }
}
