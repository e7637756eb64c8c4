use std::f64::consts::{PI, TAU};

/// How frequencies are changed for contexts longer than those trained on.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every frequency divided by the factor (Chen et al., 2023).
    Linear {
        /// How much longer the context is.
        factor: f64,
    },
    /// Low frequencies divided, high ones kept, those between blended (Llama 3.1, 2024).
    Llama3 {
        /// Divides the low frequencies.
        factor: f64,
        /// Wavelengths above `original_context / low_frequency_factor` are low frequencies.
        low_frequency_factor: f64,
        /// Wavelengths below `original_context / high_frequency_factor` are high frequencies.
        high_frequency_factor: f64,
        /// The context length trained on, in tokens.
        original_context: f64,
    },
    /// As LLaMA 3's, blended over the pairs of a head, and with larger queries and keys (YaRN; Peng et al., 2023).
    Yarn {
        /// Divides the low frequencies.
        factor: f64,
        /// Pairs that turn at least so often within the original context are high frequencies.
        fast_turns: f64,
        /// Pairs that turn at most so often within the original context are low frequencies.
        slow_turns: f64,
        /// Whether the bounds between low and high are rounded outwards to whole pairs.
        whole_pairs: bool,
        /// The context length trained on, in tokens.
        original_context: f64,
        /// Multiplies what was turned.
        magnitude: f64,
    },
    /// Each frequency divided by a factor of its own (LongRoPE; Ding et al., 2024): one list of factors for contexts up to
    /// that trained on, and one for longer ones.
    LongRope {
        /// For contexts of at most `original_context` tokens.
        short_factors: Vec<f64>,
        /// For longer ones.
        long_factors: Vec<f64>,
        /// The context length trained on, in tokens.
        original_context: usize,
        /// Multiplies what was turned.
        magnitude: f64,
    },
}

impl RopeScaling {
    /// The frequency of a pair of the `turned` elements of a head, in radians per token, for a context of up to `context`
    /// tokens.
    ///
    /// # Panics
    /// If [`LongRope`](Self::LongRope) has no factor for the pair.
    pub fn frequency(&self, pair: usize, turned: usize, theta: f64, context: usize) -> f64 {
        let frequency = theta.powf(-2.0 * pair as f64 / turned as f64);
        match self {
            Self::None => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_context } => {
                let turns = original_context * frequency / TAU;
                let kept = (turns - low_frequency_factor) / (high_frequency_factor - low_frequency_factor);
                blend(kept.clamp(0.0, 1.0), frequency, frequency / factor)
            }
            Self::Yarn { factor, fast_turns, slow_turns, whole_pairs, original_context, .. } => {
                // The pair, a fraction, that turns so often within the original context.
                let pair_of =
                    |turns: f64| turned as f64 * (original_context / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln());
                let (low, high) = (pair_of(*fast_turns), pair_of(*slow_turns));
                let (low, high) = if *whole_pairs { (low.floor(), high.ceil()) } else { (low, high) };
                let (low, high) = (low.max(0.0), high.min(turned as f64 - 1.0));
                let width = if low == high { 0.001 } else { high - low };
                blend(((pair as f64 - low) / width).clamp(0.0, 1.0), frequency / factor, frequency)
            }
            Self::LongRope { short_factors, long_factors, original_context, .. } => {
                let factors = if context > *original_context { long_factors } else { short_factors };
                frequency / factors[pair]
            }
        }
    }

    /// What turned queries and keys are multiplied by.
    pub fn magnitude(&self) -> f64 {
        match self {
            Self::Yarn { magnitude, .. } | Self::LongRope { magnitude, .. } => *magnitude,
            _ => 1.0,
        }
    }
}

/// `share` of `a` and the rest of `b`.
fn blend(share: f64, a: f64, b: f64) -> f64 {
    share * a + (1.0 - share) * b
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Transformers' formulas give, written down anew in Python and computed in double precision.
    #[test]
    fn frequencies_are_those_of_transformers() {
        let llama3 = RopeScaling::Llama3 {
            factor: 8.0,
            low_frequency_factor: 1.0,
            high_frequency_factor: 4.0,
            original_context: 8192.0,
        };
        let yarn = |factor, [fast_turns, slow_turns]: [f64; 2], whole_pairs, original_context| RopeScaling::Yarn {
            factor,
            fast_turns,
            slow_turns,
            whole_pairs,
            original_context,
            magnitude: 1.0,
        };
        let long_rope = RopeScaling::LongRope {
            short_factors: vec![1.0, 1.05, 1.5, 2.0],
            long_factors: vec![1.5, 3.0, 12.0, 40.0],
            original_context: 4096,
            magnitude: 1.0,
        };
        let cases: [(&RopeScaling, f64, usize, &[f64]); 7] = [
            (&RopeScaling::None, 1e4, 1, &[1.0, 0.1, 0.01, 0.001]),
            (&RopeScaling::Linear { factor: 4.0 }, 1e4, 1, &[0.25, 0.025, 0.0025, 0.00025]),
            (
                &llama3,
                5e5,
                1,
                &[
                    1.000000000e+00,
                    1.939227447e-01,
                    3.760603093e-02,
                    7.292664737e-03,
                    5.248461610e-04,
                    3.428102196e-05,
                    6.647869871e-06,
                    1.289173172e-06,
                ],
            ),
            (
                &yarn(4.0, [32.0, 1.0], true, 2048.0),
                1e4,
                1,
                &[
                    1.000000000e+00,
                    3.162277660e-01,
                    1.000000000e-01,
                    2.569350599e-02,
                    6.250000000e-03,
                    1.383496476e-03,
                    2.500000000e-04,
                    7.905694150e-05,
                ],
            ),
            (
                &yarn(2.0, [16.0, 2.0], false, 4096.0),
                1e6,
                1,
                &[
                    1.000000000e+00,
                    1.778279410e-01,
                    3.162277660e-02,
                    3.631005749e-03,
                    5.000000000e-04,
                    8.891397050e-05,
                    1.581138830e-05,
                    2.811706626e-06,
                ],
            ),
            (&long_rope, 1e4, 4096, &[1.0, 9.523809524e-02, 6.666666667e-03, 5e-4]),
            (&long_rope, 1e4, 4097, &[6.666666667e-01, 3.333333333e-02, 8.333333333e-04, 2.5e-5]),
        ];
        for (scaling, theta, context, expected) in cases {
            for (pair, theirs) in expected.iter().enumerate() {
                let ours = scaling.frequency(pair, 2 * expected.len(), theta, context);
                assert!((ours - theirs).abs() < 1e-8 * theirs, "{scaling:?}, pair {pair}: {ours}");
            }
        }
    }
}
