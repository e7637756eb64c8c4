use smoke_core::{ExpectedUse, UnitId};

use super::{
    ExpertPredictor, ExpertShape, LAYERS_AHEAD, PopularExperts, PreviousToken, Routed, RouterLookahead, RoutingScore,
    Scoreboard,
};

/// A predictor at work beside a running model: is told of each router and says which units the next layers will use.
///
/// The [baselines](BASELINES) run beside it, so that its scores are never without theirs. An observation allocates nothing
/// once each layer was seen.
#[derive(Debug)]
pub struct ExpertAdviser {
    name: String,
    board: Scoreboard,
    likely: LikelyUnits,
    hints: Vec<ExpectedUse>,
}

/// The names of the predictors that every other one is compared with.
pub const BASELINES: &[&str] = &["lookahead", "popular", "previous"];

impl ExpertAdviser {
    /// Advises by `predictor`, which statistics call `name`. `units` are those of the experts, by layer and number.
    pub fn new(
        shape: ExpertShape,
        units: Vec<Vec<UnitId>>,
        name: impl Into<String>,
        predictor: impl ExpertPredictor + 'static,
    ) -> Self {
        let name = name.into();
        let mut board = Scoreboard::new(shape).with(&*name, predictor);
        for baseline in BASELINES.iter().copied().filter(|&baseline| baseline != name) {
            board = match baseline {
                "lookahead" => board.with(baseline, RouterLookahead::new(shape)),
                "popular" => board.with(baseline, PopularExperts::new(shape)),
                _ => board.with(baseline, PreviousToken::new(shape)),
            };
        }
        Self { name, board, likely: LikelyUnits::new(shape, units), hints: Vec::new() }
    }

    /// Takes note of a router, and returns what to expect of the next layers: twice as many experts as a token uses of
    /// each, the likeliest first. Distances are counted in layers.
    pub fn observe(&mut self, routed: &Routed<'_>) -> &[ExpectedUse] {
        self.board.observe(routed);
        self.hints.clear();
        for ahead in 1..=LAYERS_AHEAD {
            let probabilities = self.board.prediction(&self.name, ahead);
            self.likely.add(routed.layer, ahead, probabilities, &mut self.hints);
        }
        &self.hints
    }

    /// The name of the predictor that advises, and of the baselines, each with its scores one and two layers ahead.
    pub fn scores(&self) -> impl Iterator<Item = (&str, &[RoutingScore; LAYERS_AHEAD])> {
        self.board.scores()
    }

    /// Counts from 0 again; what was learnt stays.
    pub fn clear_scores(&mut self) {
        self.board.clear_scores();
    }
}

/// Makes hints of probabilities.
#[derive(Clone, Debug)]
pub(super) struct LikelyUnits {
    shape: ExpertShape,
    /// By layer and number.
    units: Vec<Vec<UnitId>>,
    /// Scratch: experts by falling probability.
    order: Vec<u32>,
}

impl LikelyUnits {
    pub(super) fn new(shape: ExpertShape, units: Vec<Vec<UnitId>>) -> Self {
        Self { shape, units, order: Vec::new() }
    }

    /// The likeliest experts of the layer so many after `layer`, twice as many as a token uses.
    pub(super) fn add(&mut self, layer: usize, ahead: usize, probabilities: &[f32], hints: &mut Vec<ExpectedUse>) {
        let Some(units) = self.units.get(layer + ahead) else { return };
        let of = |expert: u32| probabilities[expert as usize];
        self.order.clear();
        self.order.extend((0..probabilities.len().min(units.len()) as u32).filter(|&expert| of(expert) > 0.0));
        self.order.sort_unstable_by(|&a, &b| of(b).total_cmp(&of(a)).then(a.cmp(&b)));
        hints.extend(self.order.iter().take(2 * self.shape.used).map(|&expert| ExpectedUse {
            unit: units[expert as usize],
            distance: ahead as u64,
            probability: of(expert).min(1.0),
        }));
    }
}
