use std::cmp::Ordering;
use std::num::NonZeroUsize;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

/// How the next token is picked from the logits.
///
/// The filters act in the order of Hugging Face Transformers: temperature, then `top_k`, then `top_p` on what `top_k`
/// left. The default is greedy.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by this before anything else. 0 is greedy: the highest logit, the lowest id among equals.
    pub temperature: f32,
    /// Only the highest logits stay, so many; none keeps all. Of equal logits the lower id stays, so that 1 is greedy
    /// (where Transformers keeps every equal of the k-th).
    pub top_k: Option<NonZeroUsize>,
    /// Only the most probable tokens that together reach this probability stay, always at least one. None and 1 keep
    /// all, 0 is greedy.
    pub top_p: Option<f32>,
    /// Seed of the random numbers. One seed gives the same tokens for the same logits on every platform.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: None, top_p: None, seed: 0 }
    }
}

/// Why no token could be picked.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SampleError {
    /// The temperature is negative or no number.
    #[error("the temperature must be 0 (greedy) or a positive number, not {temperature}")]
    Temperature {
        /// The value given.
        temperature: f32,
    },
    /// `top_p` is no probability.
    #[error("top_p must lie between 0 and 1, not {top_p}")]
    TopP {
        /// The value given.
        top_p: f32,
    },
    /// A logit is NaN or positive infinity.
    #[error(
        "the logit of token {token} is {value}: the model's weights or its arithmetic are broken (an overflow in half \
         precision is a common cause)"
    )]
    InvalidLogit {
        /// The token whose logit it is.
        token: usize,
        /// NaN or infinity.
        value: f32,
    },
    /// There are no logits, or all are negative infinity.
    #[error("none of the {logits} logits leaves a token to choose")]
    NothingToChoose {
        /// How many logits were given.
        logits: usize,
    },
}

/// Picks tokens from logits, reproducibly.
///
/// Random numbers come from ChaCha8 and exponentials from `libm`, both the same on every platform, so a seed and a
/// sequence of logits decide the tokens. Buffers are kept from token to token.
///
/// ```
/// use smoke_models::text::{Sampler, Sampling};
///
/// let mut sampler = Sampler::new(Sampling { temperature: 0.8, top_p: Some(0.95), ..Sampling::default() })?;
/// let token = sampler.sample(&[-9.0, 2.5, -9.0, 2.4])?;
/// assert!(token == 1 || token == 3);
/// # Ok::<(), smoke_models::text::SampleError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    random: ChaCha8Rng,
    /// Ids still in the race; reused.
    candidates: Vec<u32>,
}

impl Sampler {
    /// A sampler at the start of its random sequence.
    ///
    /// # Errors
    /// If the temperature or `top_p` is out of range.
    pub fn new(sampling: Sampling) -> Result<Self, SampleError> {
        let temperature = sampling.temperature;
        if !temperature.is_finite() || temperature < 0.0 {
            return Err(SampleError::Temperature { temperature });
        }
        if let Some(top_p) = sampling.top_p.filter(|top_p| !(0.0..=1.0).contains(top_p)) {
            return Err(SampleError::TopP { top_p });
        }
        // The key is spelled out, not left to `seed_from_u64`, so that no release of a crate can change the tokens.
        let mut key = [0; 32];
        key[..8].copy_from_slice(&sampling.seed.to_le_bytes());
        Ok(Self { sampling, random: ChaCha8Rng::from_seed(key), candidates: Vec::new() })
    }

    /// What this sampler was made with.
    pub fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    /// The next token. A logit of negative infinity excludes its token.
    ///
    /// Costs one pass over the logits when greedy; else a pass with an exponential each, and a partial sort for the
    /// filters. Draws one random number unless greedy.
    ///
    /// # Errors
    /// If a logit is NaN or positive infinity, or none is finite.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32, SampleError> {
        let best = argmax(logits)?;
        let Sampling { temperature, top_k, top_p, .. } = self.sampling;
        if temperature == 0.0 || top_k == Some(NonZeroUsize::MIN) || top_p == Some(0.0) {
            return Ok(best);
        }
        // Differences to the best logit are at most 0, so no temperature, however small, makes anything overflow.
        let highest = f64::from(logits[best as usize]);
        let inverse_temperature = 1.0 / f64::from(temperature);
        let weight = |id: u32| libm::exp((f64::from(logits[id as usize]) - highest) * inverse_temperature);

        self.candidates.clear();
        self.candidates.extend((0..logits.len() as u32).filter(|&id| logits[id as usize] > f32::NEG_INFINITY));
        if let Some(top_k) = top_k.map(NonZeroUsize::get).filter(|&top_k| top_k < self.candidates.len()) {
            rank_first(&mut self.candidates, 0, top_k, logits);
            self.candidates.truncate(top_k);
        }
        let mut total: f64 = self.candidates.iter().map(|&id| weight(id)).sum();
        if let Some(top_p) = top_p.filter(|&top_p| top_p < 1.0) {
            let wanted = f64::from(top_p) * total;
            let (kept, kept_total) = nucleus(&mut self.candidates, logits, wanted, weight);
            self.candidates.truncate(kept);
            total = kept_total;
        }
        let point = unit_interval(self.random.next_u64()) * total;
        let mut reached = 0.0;
        for &id in &self.candidates {
            reached += weight(id);
            if reached > point {
                return Ok(id);
            }
        }
        // Rounding may leave the point at the very end. The best token always has weight 1.
        Ok(self.candidates.iter().rev().copied().find(|&id| weight(id) > 0.0).unwrap_or(best))
    }
}

/// The lowest id with the highest logit.
fn argmax(logits: &[f32]) -> Result<u32, SampleError> {
    let mut best: Option<(u32, f32)> = None;
    for (token, &value) in logits.iter().enumerate() {
        if value.is_nan() || value == f32::INFINITY {
            return Err(SampleError::InvalidLogit { token, value });
        }
        if value > best.map_or(f32::NEG_INFINITY, |(_, highest)| highest) {
            best = Some((token as u32, value));
        }
    }
    best.map(|(id, _)| id).ok_or(SampleError::NothingToChoose { logits: logits.len() })
}

/// How many of the best candidates are needed to reach `wanted` weight, at least one, and what they weigh together.
/// Those candidates come to the front, best first.
fn nucleus(candidates: &mut [u32], logits: &[f32], wanted: f64, weight: impl Fn(u32) -> f64) -> (usize, f64) {
    let mut reached = 0.0;
    let mut kept = 0;
    let mut ranked = 0;
    while kept < candidates.len() && (kept == 0 || reached < wanted) {
        if kept == ranked {
            // A nucleus is small as a rule, so ranking a growing front is cheaper than sorting a whole vocabulary.
            let end = (ranked * 4).max(64).min(candidates.len());
            rank_first(candidates, ranked, end, logits);
            ranked = end;
        }
        reached += weight(candidates[kept]);
        kept += 1;
    }
    (kept, reached)
}

/// Brings ranks `start..end` to their places, given that ranks before `start` are in theirs. The order is total, so the
/// result does not depend on the sorting algorithm.
fn rank_first(candidates: &mut [u32], start: usize, end: usize, logits: &[f32]) {
    let by_rank = |a: &u32, b: &u32| {
        let (x, y) = (logits[*a as usize], logits[*b as usize]);
        y.partial_cmp(&x).unwrap_or(Ordering::Equal).then(a.cmp(b))
    };
    let rest = &mut candidates[start..];
    let length = end - start;
    if length < rest.len() {
        rest.select_nth_unstable_by(length, by_rank);
    }
    rest[..length].sort_unstable_by(by_rank);
}

/// The upper 53 bits as a number in [0, 1).
fn unit_interval(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::{ChaCha8Rng, SampleError, Sampler, Sampling, nucleus};
    use proptest::prelude::*;
    use rand_chacha::rand_core::RngCore as _;
    use std::num::NonZeroUsize;

    fn sampler(temperature: f32, top_k: usize, top_p: f32, seed: u64) -> Sampler {
        let top_k = NonZeroUsize::new(top_k);
        Sampler::new(Sampling { temperature, top_k, top_p: Some(top_p), seed }).unwrap()
    }

    /// How often each token comes in `draws` draws.
    fn frequencies(mut sampler: Sampler, logits: &[f32], draws: usize) -> Vec<f64> {
        let mut counts = vec![0_usize; logits.len()];
        for _ in 0..draws {
            counts[sampler.sample(logits).unwrap() as usize] += 1;
        }
        counts.iter().map(|&count| count as f64 / draws as f64).collect()
    }

    fn check_frequencies(sampler: Sampler, logits: &[f32], expected: &[f64]) {
        let draws = 20_000;
        for (token, (&got, &want)) in frequencies(sampler, logits, draws).iter().zip(expected).enumerate() {
            // Five standard deviations; what must not come must never come.
            let tolerance = 5.0 * (want * (1.0 - want) / draws as f64).sqrt();
            assert!((got - want).abs() <= tolerance, "token {token}: {got} of the draws, not {want}");
        }
    }

    #[test]
    fn draws_follow_the_distribution() {
        // ln of 1, 2, 3, 4 tenths.
        let logits = [0.1_f32.ln(), 0.2_f32.ln(), 0.3_f32.ln(), 0.4_f32.ln()];
        check_frequencies(sampler(1.0, 0, 1.0, 1), &logits, &[0.1, 0.2, 0.3, 0.4]);
        // Temperature 1/2 squares the odds: 1, 4, 9, 16 of 30.
        check_frequencies(sampler(0.5, 0, 1.0, 2), &logits, &[1.0 / 30.0, 4.0 / 30.0, 9.0 / 30.0, 16.0 / 30.0]);
        check_frequencies(sampler(1.0, 2, 1.0, 3), &logits, &[0.0, 0.0, 3.0 / 7.0, 4.0 / 7.0]);
        // 0.4 + 0.3 reach 0.65, 0.4 alone does not.
        check_frequencies(sampler(1.0, 0, 0.65, 4), &logits, &[0.0, 0.0, 3.0 / 7.0, 4.0 / 7.0]);
        // top_p acts on what top_k left: of 3/7 and 4/7, 4/7 alone reaches 0.5.
        check_frequencies(sampler(1.0, 2, 0.5, 5), &logits, &[0.0, 0.0, 0.0, 1.0]);
        // And temperature acts before top_p: at 1/2, 16/30 + 9/30 reach 0.8 where 0.4 + 0.3 + 0.2 were needed.
        check_frequencies(sampler(0.5, 0, 0.8, 6), &logits, &[0.0, 0.0, 9.0 / 25.0, 16.0 / 25.0]);
    }

    #[test]
    fn equal_logits_prefer_the_lower_id() {
        let logits = [1.0, 3.0, 3.0, 3.0, 0.0];
        for mut greedy in [sampler(0.0, 0, 1.0, 9), sampler(1.0, 1, 1.0, 9), sampler(1.0, 0, 0.0, 9)] {
            assert_eq!(greedy.sample(&logits), Ok(1));
        }
        check_frequencies(sampler(1.0, 2, 1.0, 7), &logits, &[0.0, 0.5, 0.5, 0.0, 0.0]);
        check_frequencies(sampler(1.0, 0, 0.3, 7), &logits, &[0.0, 1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn an_excluded_token_never_comes() {
        let logits = [0.0, f32::NEG_INFINITY, 0.0];
        check_frequencies(sampler(1.5, 0, 1.0, 8), &logits, &[0.5, 0.0, 0.5]);
        check_frequencies(sampler(1.5, 3, 0.9999, 8), &logits, &[0.5, 0.0, 0.5]);
    }

    #[test]
    fn broken_logits_are_errors() {
        let mut greedy = sampler(0.0, 0, 1.0, 0);
        assert!(matches!(greedy.sample(&[0.0, f32::NAN]), Err(SampleError::InvalidLogit { token: 1, .. })));
        assert!(matches!(greedy.sample(&[f32::INFINITY]), Err(SampleError::InvalidLogit { token: 0, .. })));
        assert_eq!(greedy.sample(&[]), Err(SampleError::NothingToChoose { logits: 0 }));
        assert_eq!(greedy.sample(&[f32::NEG_INFINITY; 2]), Err(SampleError::NothingToChoose { logits: 2 }));
    }

    #[test]
    fn settings_out_of_range_are_errors() {
        for temperature in [-1.0, f32::NAN, f32::INFINITY] {
            let error = Sampler::new(Sampling { temperature, ..Sampling::default() });
            assert!(matches!(error, Err(SampleError::Temperature { .. })));
        }
        for top_p in [-0.1, 1.1, f32::NAN] {
            let error = Sampler::new(Sampling { top_p: Some(top_p), ..Sampling::default() });
            assert!(matches!(error, Err(SampleError::TopP { .. })));
        }
    }

    #[test]
    fn random_numbers_are_those_of_chacha8() {
        // First keystream bytes for the all-zero 256-bit key and zero nonce, test vector TC1 for 8 rounds.
        let mut random: ChaCha8Rng = sampler(1.0, 0, 1.0, 0).random;
        assert_eq!(random.next_u64().to_le_bytes(), [0x3e, 0x00, 0xef, 0x2f, 0x89, 0x5f, 0x40, 0xd6]);
        assert_eq!(random.next_u64().to_le_bytes(), [0x7f, 0x5b, 0xb8, 0xe8, 0x1f, 0x09, 0xa5, 0xa1]);
    }

    #[test]
    fn a_seed_names_one_sequence() {
        let logits: Vec<f32> = (0..50).map(|i| (i % 7) as f32).collect();
        let draw = |seed| {
            let mut sampler = sampler(1.0, 0, 1.0, seed);
            (0..40).map(|_| sampler.sample(&logits).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }

    /// The nucleus by the definition in Transformers: ascending order, drop while the cumulative probability stays
    /// within 1 - p.
    fn reference_nucleus(logits: &[f32], top_p: f64) -> Vec<u32> {
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights: Vec<f64> = logits.iter().map(|&l| f64::from(l - highest).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        ids.sort_by(|&a, &b| weights[a as usize].total_cmp(&weights[b as usize]).then(b.cmp(&a)));
        let mut below = 0.0;
        let mut kept: Vec<u32> = Vec::new();
        for (rank, &id) in ids.iter().enumerate() {
            below += weights[id as usize] / total;
            if below > 1.0 - top_p + 1e-12 || rank + 1 == ids.len() {
                kept.push(id);
            }
        }
        kept.sort_unstable();
        kept
    }

    proptest! {
        #[test]
        fn the_nucleus_is_that_of_the_definition(
            logits in proptest::collection::vec(-20.0_f32..20.0, 1..300),
            top_p in 0.01_f64..0.999,
        ) {
            let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let weight = |id: u32| libm::exp(f64::from(logits[id as usize] - highest));
            let mut candidates: Vec<u32> = (0..logits.len() as u32).collect();
            let total: f64 = candidates.iter().map(|&id| weight(id)).sum();
            let (kept, _) = nucleus(&mut candidates, &logits, top_p * total, weight);
            let mut ids = candidates[..kept].to_vec();
            ids.sort_unstable();
            let expected = reference_nucleus(&logits, top_p);
            // Rounding may move the border by one token.
            prop_assert!(ids.len().abs_diff(expected.len()) <= 1, "{ids:?} {expected:?}");
            prop_assert!(ids.iter().all(|id| expected.contains(id)) || expected.iter().all(|id| ids.contains(id)));
        }

        #[test]
        fn any_settings_choose_among_the_allowed(
            logits in proptest::collection::vec(prop_oneof![4 => -1e30_f32..1e30, 4 => -5.0_f32..5.0, 1 => Just(f32::NEG_INFINITY)], 1..200),
            temperature in prop_oneof![Just(0.0_f32), 1e-40_f32..1e-30, 0.1_f32..3.0, 1e30_f32..1e38],
            top_k in 0_usize..250,
            top_p in 0.0_f32..=1.0,
            seed: u64,
        ) {
            let mut chooser = sampler(temperature, top_k, top_p, seed);
            match chooser.sample(&logits) {
                Ok(token) => {
                    let logit = logits[token as usize];
                    prop_assert!(logit.is_finite());
                    let better = logits.iter().filter(|&&other| other > logit).count();
                    prop_assert!(top_k == 0 || better < top_k);
                }
                Err(error) => {
                    prop_assert_eq!(error, SampleError::NothingToChoose { logits: logits.len() });
                    prop_assert!(logits.iter().all(|&logit| logit == f32::NEG_INFINITY));
                }
            }
        }

        #[test]
        fn a_tiny_temperature_is_greedy(
            logits in proptest::collection::vec(-5_i32..5, 1..50), seed: u64,
        ) {
            let mut logits: Vec<f32> = logits.into_iter().map(|l| l as f32).collect();
            logits[0] = 9.0;
            prop_assert_eq!(sampler(1e-4, 0, 1.0, seed).sample(&logits), Ok(0));
        }
    }
}
