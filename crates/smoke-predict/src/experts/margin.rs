//! From scores to probabilities.

/// How far the two numbers of a sigmoid move with one token, as a part of a step of the largest size that is safe.
const RATE: f32 = 0.05;

/// The order of the scores is kept.
const LEAST_SLOPE: f32 = 0.01;
/// Margins beyond this say no more.
const MOST: f32 = 1e4;

/// How far each score lies above the middle between the `used`-th best and the next: above 0 it would be chosen. Replaces
/// what `out` held.
pub(super) fn margins(scores: &[f32], used: usize, out: &mut Vec<f32>) {
    out.clear();
    out.extend_from_slice(scores);
    let Some(last) = scores.len().checked_sub(1) else { return };
    let (_, &mut chosen, rest) = out.select_nth_unstable_by(used.saturating_sub(1).min(last), |a, b| b.total_cmp(a));
    let best_left = rest.iter().copied().max_by(f32::total_cmp).unwrap_or(chosen);
    let middle = if used == 0 { chosen } else { (chosen + best_left) / 2.0 };
    out.iter_mut().zip(scores).for_each(|(out, score)| *out = (score - middle).clamp(-MOST, MOST));
}

/// A sigmoid that makes a probability of a margin (Platt 1999), learnt online.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sigmoid {
    pub(super) slope: f32,
    pub(super) offset: f32,
}

impl Default for Sigmoid {
    fn default() -> Self {
        Self { slope: 1.0, offset: 0.0 }
    }
}

impl Sigmoid {
    pub(super) fn probability(self, margin: f32) -> f32 {
        1.0 / (1.0 + (-(self.slope * margin + self.offset)).exp())
    }

    /// A step of gradient descent on the log loss of all experts. Its curvature is at most a quarter of the margins' mean
    /// square, so that the step is bounded by that.
    pub(super) fn learn(&mut self, margins: &[f32], was_chosen: impl Fn(usize) -> bool) {
        if margins.is_empty() {
            return;
        }
        // Where all margins are next to nothing, the slope must not become endless.
        let square = margins.iter().map(|margin| margin * margin + 1e-3).sum::<f32>();
        let (mut along, mut aside) = (0.0, 0.0);
        for (expert, &margin) in margins.iter().enumerate() {
            let error = f32::from(u8::from(was_chosen(expert))) - self.probability(margin);
            along += error * margin;
            aside += error;
        }
        // A score that is lower never makes an expert likelier, however wrong the scores are.
        self.slope = (self.slope + RATE * 4.0 * along / square).max(LEAST_SLOPE);
        self.offset += RATE * 4.0 * aside / margins.len() as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_margins_are_above_0_as_experts_are_used() {
        let of = |scores: &[f32], used| {
            let mut out = vec![7.0];
            margins(scores, used, &mut out);
            out
        };
        assert_eq!(of(&[4.0, 1.0, 2.0, -3.0], 2), [2.5, -0.5, 0.5, -4.5]);
        assert_eq!(of(&[4.0, 1.0], 2), [3.0, 0.0]);
        assert_eq!(of(&[4.0, 1.0], 0), [0.0, -3.0]);
        assert!(of(&[], 2).is_empty());
    }

    #[test]
    fn the_sigmoid_learns_how_far_margins_are_to_be_trusted() {
        // Whatever the margin, one of two is chosen: a margin says nothing.
        let mut sigmoid = Sigmoid::default();
        for token in 0..4000 {
            sigmoid.learn(&[3.0, -3.0], |expert| expert == token % 2);
        }
        assert!((sigmoid.probability(3.0) - 0.5).abs() < 0.1, "{sigmoid:?}");
        // It says everything.
        for _ in 0..4000 {
            sigmoid.learn(&[3.0, -3.0], |expert| expert == 0);
        }
        assert!(sigmoid.probability(3.0) > 0.95 && sigmoid.probability(-3.0) < 0.05, "{sigmoid:?}");
    }
}
