use super::margin::{Sigmoid, margins};
use super::{ExpertPredictor, ExpertShape, LAYERS_AHEAD, Progress, Routed, pair, sources};

/// Expects what the later layer's router says when it is run early, on this layer's input (Eliseev and Mazur 2023): since
/// each layer changes the hidden state by little, it says mostly the same then.
///
/// The scores are handed in ([`Routed::lookahead`]). How probable a score makes an expert is learnt for each layer and
/// distance. Memory: 8 bytes for each expert.
#[derive(Clone, Debug)]
pub struct RouterLookahead {
    shape: ExpertShape,
    progress: Progress,
    /// By layer and distance: the margins of the token's scores, where there are any.
    margins: Vec<Vec<f32>>,
    /// By layer and distance.
    sigmoids: Vec<Sigmoid>,
}

impl RouterLookahead {
    /// A predictor that takes scores as log-odds until it has learnt better.
    pub fn new(shape: ExpertShape) -> Self {
        let pairs = shape.layers * LAYERS_AHEAD;
        Self {
            shape,
            progress: Progress::default(),
            margins: vec![Vec::new(); pairs],
            sigmoids: vec![Sigmoid::default(); pairs],
        }
    }
}

impl ExpertPredictor for RouterLookahead {
    fn observe(&mut self, routed: &Routed<'_>) {
        if routed.layer >= self.shape.layers {
            return;
        }
        if self.progress.move_to(routed.layer) {
            self.margins.iter_mut().for_each(Vec::clear);
        }
        for (ahead, earlier) in sources(routed.layer) {
            let place = pair(earlier, ahead);
            self.sigmoids[place].learn(&self.margins[place], |expert| routed.chosen.contains(&(expert as u32)));
        }
        for (ahead, scores) in (1..=LAYERS_AHEAD).zip(routed.lookahead) {
            if self.shape.are_scores(scores) {
                margins(scores, self.shape.used, &mut self.margins[pair(routed.layer, ahead)]);
            }
        }
    }

    fn predict(&self, ahead: usize, out: &mut Vec<f32>) {
        out.clear();
        if let Some(layer) = self.progress.ahead(ahead, self.shape.layers) {
            let place = pair(layer - ahead, ahead);
            out.extend(self.margins[place].iter().map(|&margin| self.sigmoids[place].probability(margin)));
        }
    }
}
