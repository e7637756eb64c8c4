use std::fmt;

use super::{ExpertPredictor, ExpertShape, LAYERS_AHEAD, Progress, Routed, pair, sources};

const BINS: usize = 10;

/// How often experts were predicted, and how true the probabilities were.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RoutingScore {
    routings: u64,
    slots: u64,
    found: u64,
    found_in_twice: u64,
    whole: u64,
    bins: [Bin; BINS],
}

/// Predictions of about the same probability.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Bin {
    predictions: u64,
    probability_sum: f64,
    came_true: u64,
}

impl RoutingScore {
    /// Counts one prediction: a probability for each expert, or none if there was no prediction, which counts as wrong.
    /// Of experts that are as probable the first is predicted.
    pub fn score(&mut self, probabilities: &[f32], chosen: &[u32]) {
        let is_first = |(at, expert): (usize, &u32)| !chosen[..at].contains(expert);
        let distinct = || chosen.iter().enumerate().filter(|&place| is_first(place)).map(|(_, &expert)| expert);
        let slots = distinct().count();
        let (mut found, mut in_twice) = (0, 0);
        for expert in distinct() {
            let Some(own) = probabilities.get(expert as usize) else { continue };
            let before = |(other, probability): (u32, &f32)| {
                let order = probability.total_cmp(own);
                order.is_gt() || order.is_eq() && other < expert
            };
            let rank = (0..).zip(probabilities).filter(|&other| before(other)).count();
            found += usize::from(rank < slots);
            in_twice += usize::from(rank < 2 * slots);
        }
        self.routings += 1;
        self.slots += slots as u64;
        self.found += found as u64;
        self.found_in_twice += in_twice as u64;
        self.whole += u64::from(found == slots);
        for (expert, &probability) in (0..).zip(probabilities) {
            let bin = &mut self.bins[((probability * BINS as f32) as usize).min(BINS - 1)];
            bin.predictions += 1;
            bin.probability_sum += f64::from(probability);
            bin.came_true += u64::from(chosen.contains(&expert));
        }
    }

    /// Predictions that were counted.
    pub fn routings(&self) -> u64 {
        self.routings
    }

    /// The share of chosen experts that were among as many predicted ones; 0 before the first.
    pub fn slot_recall(&self) -> f64 {
        share(self.found, self.slots)
    }

    /// The share of chosen experts that were among twice as many predicted ones.
    pub fn slot_recall_in_twice(&self) -> f64 {
        share(self.found_in_twice, self.slots)
    }

    /// The share of routings whose experts were all predicted, and no others.
    pub fn whole_routings(&self) -> f64 {
        share(self.whole, self.routings)
    }

    /// The expected calibration error (Naeini et al. 2015): by how much probabilities differ from how often they come
    /// true, the mean over ten equally wide bins, weighted by their predictions. 0 is true, 1 is wrong.
    pub fn calibration_error(&self) -> f64 {
        let predictions: u64 = self.bins.iter().map(|bin| bin.predictions).sum();
        let apart = self.bins.iter().map(|bin| (bin.probability_sum - bin.came_true as f64).abs()).sum::<f64>();
        if predictions == 0 { 0.0 } else { apart / predictions as f64 }
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Runs predictors side by side on the same routing and scores each, one and two layers ahead. Its `Display` is a table.
#[derive(Debug)]
pub struct Scoreboard {
    shape: ExpertShape,
    progress: Progress,
    /// By layer: whether the token was there.
    visited: Vec<bool>,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    predictor: Box<dyn ExpertPredictor>,
    /// By layer and distance: what was predicted from there.
    predictions: Vec<Vec<f32>>,
    /// By distance, from 1.
    scores: [RoutingScore; LAYERS_AHEAD],
}

impl Scoreboard {
    /// A scoreboard without predictors.
    pub fn new(shape: ExpertShape) -> Self {
        Self { shape, progress: Progress::default(), visited: vec![false; shape.layers], entries: Vec::new() }
    }

    /// Enters a predictor.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, predictor: impl ExpertPredictor + 'static) -> Self {
        self.entries.push(Entry {
            name: name.into(),
            predictor: Box::new(predictor),
            predictions: vec![Vec::new(); self.shape.layers * LAYERS_AHEAD],
            scores: Default::default(),
        });
        self
    }

    /// Scores what was predicted of this router, then lets everybody learn from it and predict anew. A layer beyond the
    /// shape is passed over.
    pub fn observe(&mut self, routed: &Routed<'_>) {
        if routed.layer >= self.shape.layers {
            return;
        }
        if self.progress.move_to(routed.layer) {
            self.visited.fill(false);
        }
        self.visited[routed.layer] = true;
        for Entry { predictor, predictions, scores, .. } in &mut self.entries {
            for (ahead, earlier) in sources(routed.layer).filter(|&(_, earlier)| self.visited[earlier]) {
                scores[ahead - 1].score(&predictions[pair(earlier, ahead)], routed.chosen);
            }
            predictor.observe(routed);
            for ahead in (1..=LAYERS_AHEAD).take_while(|ahead| routed.layer + ahead < self.shape.layers) {
                predictor.predict(ahead, &mut predictions[pair(routed.layer, ahead)]);
            }
        }
    }

    /// What a predictor said, after the latest router, of the layer so many layers ahead: a probability for each expert.
    /// Empty where it says nothing, or has no such name.
    pub fn prediction(&self, name: &str, ahead: usize) -> &[f32] {
        let from = self.progress.ahead(ahead, self.shape.layers).map(|layer| pair(layer - ahead, ahead));
        let entry = self.entries.iter().find(|entry| entry.name == name);
        from.zip(entry).map_or(&[], |(from, entry)| &entry.predictions[from])
    }

    /// Counts from 0 again; what was learnt stays.
    pub fn clear_scores(&mut self) {
        self.entries.iter_mut().for_each(|entry| entry.scores = Default::default());
    }

    /// Every predictor's name, with its scores one and two layers ahead, in the order in which they were entered.
    pub fn scores(&self) -> impl Iterator<Item = (&str, &[RoutingScore; LAYERS_AHEAD])> {
        self.entries.iter().map(|entry| (&*entry.name, &entry.scores))
    }

    /// A predictor's score so many layers ahead; none for other distances than 1 and 2, or an unknown name.
    pub fn score(&self, name: &str, ahead: usize) -> Option<&RoutingScore> {
        self.entries.iter().find(|entry| entry.name == name)?.scores.get(ahead.checked_sub(1)?)
    }
}

impl fmt::Display for Scoreboard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = self.shape.used;
        let recall = [format!("recall @{used}"), format!("@{}", 2 * used)];
        writeln!(f, "| predictor | layers ahead | {} | {} | whole | calibration error |", recall[0], recall[1])?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for ahead in 1..=LAYERS_AHEAD {
            for entry in &self.entries {
                let score = &entry.scores[ahead - 1];
                let (slots, twice) = (100.0 * score.slot_recall(), 100.0 * score.slot_recall_in_twice());
                let (whole, apart) = (100.0 * score.whole_routings(), score.calibration_error());
                let name = &entry.name;
                writeln!(f, "| {name} | {ahead} | {slots:.1} % | {twice:.1} % | {whole:.1} % | {apart:.4} |")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_is_what_one_counts_by_hand() {
        let mut score = RoutingScore::default();
        score.score(&[0.9, 0.6, 0.3, 0.2], &[1, 0]);
        score.score(&[0.9, 0.6, 0.3, 0.2], &[0, 3]);
        score.score(&[], &[0, 1]);
        assert_eq!(score.routings(), 3);
        assert!((score.slot_recall() - 3.0 / 6.0).abs() < 1e-9);
        assert!((score.slot_recall_in_twice() - 4.0 / 6.0).abs() < 1e-9);
        assert!((score.whole_routings() - 1.0 / 3.0).abs() < 1e-9);
        // Bins: 0.9 twice, true twice; 0.6 twice, true once; 0.3 never of twice; 0.2 once of twice.
        let apart = (0.2 + 0.2 + 0.6 + 0.6) / 8.0;
        assert!((score.calibration_error() - apart).abs() < 1e-6, "{}", score.calibration_error());
    }

    #[test]
    fn nothing_counted_is_0() {
        let score = RoutingScore::default();
        assert_eq!((score.slot_recall(), score.whole_routings(), score.calibration_error()), (0.0, 0.0, 0.0));
    }
}
