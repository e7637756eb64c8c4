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
    /// The frequencies of the pairs in `turned` elements of a head, in radians per token, for a context of up to `context`
    /// tokens.
    pub fn frequencies(&self, turned: usize, theta: f64, context: usize) -> Vec<f64> {
        let base = (0..turned / 2).map(|pair| theta.powf(-2.0 * pair as f64 / turned as f64));
        match self {
            Self::None => base.collect(),
            Self::Linear { factor } => base.map(|frequency| frequency / factor).collect(),
            Self::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_context } => {
                let kept = |frequency: f64| {
                    let turns = original_context * frequency / TAU;
                    ((turns - low_frequency_factor) / (high_frequency_factor - low_frequency_factor)).clamp(0.0, 1.0)
                };
                base.map(|frequency| blend(kept(frequency), frequency, frequency / factor)).collect()
            }
            Self::Yarn { factor, fast_turns, slow_turns, whole_pairs, original_context, .. } => {
                // The pair, a fraction, that turns so often within the original context.
                let pair =
                    |turns: f64| turned as f64 * (original_context / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln());
                let (low, high) = (pair(*fast_turns), pair(*slow_turns));
                let (low, high) = if *whole_pairs { (low.floor(), high.ceil()) } else { (low, high) };
                let (low, high) = (low.max(0.0), high.min(turned as f64 - 1.0));
                let width = if low == high { 0.001 } else { high - low };
                let divided = |pair: usize| ((pair as f64 - low) / width).clamp(0.0, 1.0);
                base.enumerate().map(|(pair, frequency)| blend(divided(pair), frequency / factor, frequency)).collect()
            }
            Self::LongRope { short_factors, long_factors, original_context, .. } => {
                let factors = if context > *original_context { long_factors } else { short_factors };
                base.zip(factors).map(|(frequency, factor)| frequency / factor).collect()
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
