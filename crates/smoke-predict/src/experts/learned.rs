use super::margin::{Sigmoid, margins};
use super::{ExpertPredictor, ExpertShape, LAYERS_AHEAD, Progress, Routed, pair, sources};

/// Inputs of a router that are told apart; a longer input is folded.
const MOST_INPUTS: usize = 256;
/// How much of its error a prediction loses by learning from it.
const RATE: f32 = 0.1;

/// What a [`LearnedExperts`] is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LearnedShape {
    /// The experts.
    pub experts: ExpertShape,
    /// Values of [`Routed::input`]; 0 to learn without it.
    pub inputs: usize,
    /// Tells the model from others of the same shape, such as a checksum of its routers. A file of another one is refused.
    pub model: u64,
}

impl LearnedShape {
    /// Inputs after folding.
    fn kept(self) -> usize {
        self.inputs.min(MOST_INPUTS)
    }

    /// Features: inputs, experts, and a constant.
    fn width(self) -> usize {
        self.kept() + self.experts.experts + 1
    }

    /// Coefficients of a map for one layer and distance.
    pub(super) fn map_len(self) -> usize {
        self.experts.experts * self.width()
    }
}

/// Corrects the later router's early scores by what it has learnt of the layer's input and choice.
///
/// For each layer and distance, z = W u + M f: W u are the later router's scores, run early ([`Routed::lookahead`]; 0
/// without), f is the router's input beside the shares of the chosen experts and a constant, and M, from 0, is learnt.
/// It learns the later router's scores, less their mean, which tell more than which experts were best: one step of
/// normalised least mean squares (Widrow and Hoff 1960; Nagumo and Noda 1967) for each router that was predicted. Where
/// no scores are told, it learns the choice as a logistic regression. A sigmoid for each layer and distance makes
/// probabilities of scores.
///
/// It learns as long as it is used, or from recorded routing that is run through it before. What was learnt can be kept
/// in a file beside the model ([`save`](Self::save), [`load`](Self::load)).
///
/// Memory: 8 bytes × layers × experts × (inputs + experts + 1), where no more than 256 inputs count: longer ones are
/// folded with random signs (feature hashing, Weinberger et al. 2009). That is 19 MB for 48 layers of 128 experts; an
/// observation costs 4 × experts × (inputs + experts + 1) multiplications.
#[derive(Clone)]
pub struct LearnedExperts {
    shape: LearnedShape,
    rate: f32,
    progress: Progress,
    /// M by layer and distance: `[layers, distances, experts, width]`.
    pub(super) maps: Vec<f32>,
    /// By layer and distance.
    pub(super) sigmoids: Vec<Sigmoid>,
    /// By layer: the token's features; empty where it was not.
    features: Vec<Vec<f32>>,
    /// By layer and distance: the token's z, and their margins; empty where there is none.
    scores: Vec<Vec<f32>>,
    margins: Vec<Vec<f32>>,
    /// Scratch: by how much a prediction was wrong, by expert.
    errors: Vec<f32>,
}

impl LearnedExperts {
    /// A predictor that has learnt nothing: router lookahead, as long as it is told of it.
    pub fn new(shape: LearnedShape) -> Self {
        let pairs = shape.experts.layers * LAYERS_AHEAD;
        Self {
            shape,
            rate: RATE,
            progress: Progress::default(),
            maps: vec![0.0; pairs * shape.map_len()],
            sigmoids: vec![Sigmoid::default(); pairs],
            features: vec![Vec::new(); shape.experts.layers],
            scores: vec![Vec::new(); pairs],
            margins: vec![Vec::new(); pairs],
            errors: Vec::new(),
        }
    }

    /// Learns with another rate from here on: the share of its error, 0 to 1, that a prediction loses by learning from it.
    /// 0.1 is the default; 0 learns no more.
    pub fn set_rate(&mut self, rate: f32) {
        self.rate = if rate.is_nan() { 0.0 } else { rate.clamp(0.0, 1.0) };
    }

    /// What it was made for.
    pub fn shape(&self) -> LearnedShape {
        self.shape
    }

    /// The input, folded so that its mean square stays; the shares of the chosen experts; 1.
    fn note_features(&mut self, routed: &Routed<'_>) {
        let (kept, experts, width) = (self.shape.kept(), self.shape.experts, self.shape.width());
        let features = &mut self.features[routed.layer];
        features.clear();
        features.resize(width, 0.0);
        if routed.input.len() == self.shape.inputs && routed.input.iter().all(|value| value.is_finite()) {
            let scale = (kept as f32 / routed.input.len() as f32).sqrt();
            for (first, inputs) in (0..).step_by(kept.max(1)).zip(routed.input.chunks(kept.max(1))) {
                for ((place, value), feature) in (first..).zip(inputs).zip(&mut *features) {
                    *feature += value * scale * sign(place);
                }
            }
        }
        let best = experts
            .known(routed.chosen)
            .filter_map(|expert| routed.scores.get(expert))
            .fold(f32::NEG_INFINITY, |a, &b| a.max(b));
        let are_scores = experts.are_scores(routed.scores);
        let weight = |expert: usize| if are_scores { (routed.scores[expert] - best).exp() } else { 1.0 };
        let sum: f32 = experts.known(routed.chosen).map(weight).sum();
        for expert in experts.known(routed.chosen).filter(|_| sum > 0.0) {
            features[kept + expert] = weight(expert) / sum;
        }
        features[kept + experts.experts] = 1.0;
    }

    fn map(&self, place: usize) -> std::ops::Range<usize> {
        let len = self.shape.map_len();
        place * len..(place + 1) * len
    }

    /// Notes z of one layer and distance, nothing if it is not finite, and its margins.
    fn note_scores(&mut self, layer: usize, ahead: usize, early: Option<&&[f32]>) {
        let place = pair(layer, ahead);
        let map = self.map(place);
        let (features, scores) = (&self.features[layer], &mut self.scores[place]);
        scores.clear();
        scores.extend(self.maps[map].chunks_exact(features.len()).map(|row| dot(row, features)));
        if let Some(early) = early.filter(|early| self.shape.experts.are_scores(early)) {
            scores.iter_mut().zip(centred(early)).for_each(|(score, early)| *score += early);
        }
        if scores.iter().any(|score| !score.is_finite()) {
            scores.clear();
        }
        margins(scores, self.shape.experts.used, &mut self.margins[place]);
    }

    fn learn(&mut self, earlier: usize, ahead: usize, routed: &Routed<'_>) {
        let place = pair(earlier, ahead);
        let map = self.map(place);
        let (scores, margins, features) = (&self.scores[place], &self.margins[place], &self.features[earlier]);
        if scores.is_empty() || self.rate == 0.0 {
            return;
        }
        let was_chosen = |expert: usize| routed.chosen.contains(&(expert as u32));
        let errors = &mut self.errors;
        errors.clear();
        if self.shape.experts.are_scores(routed.scores) {
            errors.extend(centred(routed.scores).zip(scores).map(|(actual, score)| actual - score));
        } else {
            let sigmoid = self.sigmoids[place];
            let chosen = |expert: usize| f32::from(u8::from(was_chosen(expert)));
            let error = |(expert, &margin): (usize, &f32)| chosen(expert) - sigmoid.probability(margin);
            errors.extend(margins.iter().enumerate().map(error));
        }
        let step = self.rate / dot(features, features);
        if step.is_finite() && errors.iter().all(|error| error.is_finite()) {
            for (row, error) in self.maps[map].chunks_exact_mut(features.len()).zip(errors) {
                let step = step * *error;
                row.iter_mut().zip(features).for_each(|(weight, feature)| *weight += step * feature);
            }
        }
        self.sigmoids[place].learn(margins, was_chosen);
    }
}

impl ExpertPredictor for LearnedExperts {
    fn observe(&mut self, routed: &Routed<'_>) {
        if routed.layer >= self.shape.experts.layers {
            return;
        }
        if self.progress.move_to(routed.layer) {
            self.features.iter_mut().chain(&mut self.scores).chain(&mut self.margins).for_each(Vec::clear);
        }
        for (ahead, earlier) in sources(routed.layer) {
            self.learn(earlier, ahead, routed);
        }
        self.note_features(routed);
        for ahead in 1..=LAYERS_AHEAD.min(self.shape.experts.layers - 1 - routed.layer) {
            self.note_scores(routed.layer, ahead, routed.lookahead.get(ahead - 1));
        }
    }

    fn predict(&self, ahead: usize, out: &mut Vec<f32>) {
        out.clear();
        if let Some(layer) = self.progress.ahead(ahead, self.shape.experts.layers) {
            let place = pair(layer - ahead, ahead);
            out.extend(self.margins[place].iter().map(|&margin| self.sigmoids[place].probability(margin)));
        }
    }
}

impl std::fmt::Debug for LearnedExperts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The coefficients would fill pages.
        f.debug_struct("LearnedExperts").field("shape", &self.shape).field("rate", &self.rate).finish_non_exhaustive()
    }
}

/// A random sign for each place, always the same.
fn sign(place: usize) -> f32 {
    if (place as u32).wrapping_mul(0x9e37_79b1) >> 31 == 0 { 1.0 } else { -1.0 }
}

/// In lanes, which a compiler turns into vector instructions: a plain sum has an order to keep.
fn dot(one: &[f32], other: &[f32]) -> f32 {
    const LANES: usize = 16;
    let (ones, others) = (one.chunks_exact(LANES), other.chunks_exact(LANES));
    let rest: f32 = ones.remainder().iter().zip(others.remainder()).map(|(a, b)| a * b).sum();
    let mut sums = [0.0; LANES];
    for (one, other) in ones.zip(others) {
        sums.iter_mut().zip(one.iter().zip(other)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    sums.iter().sum::<f32>() + rest
}

/// The scores less their mean: what is the same for all of them chooses none.
fn centred(scores: &[f32]) -> impl Iterator<Item = f32> {
    let mean = scores.iter().sum::<f32>() / scores.len() as f32;
    scores.iter().map(move |score| score - mean)
}
