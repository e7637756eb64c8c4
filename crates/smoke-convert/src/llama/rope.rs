//! How rotary frequencies are scaled for long contexts: `rope_scaling` in `config.json`; keys or a tensor of divisors in
//! GGUF.

use std::f64::consts::TAU;

/// What Llama 3.1 does (Grattafiori et al., 2024): low frequencies are divided, high ones kept, those between blended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Llama3 {
    pub(super) factor: f64,
    pub(super) low_frequency_factor: f64,
    pub(super) high_frequency_factor: f64,
    pub(super) original_context: f64,
}

impl Llama3 {
    /// What each frequency of heads with `head_dim` elements is divided by.
    pub(super) fn divisors(&self, head_dim: u64, theta: f64) -> Vec<f32> {
        let Self { factor, low_frequency_factor, high_frequency_factor, original_context } = *self;
        let divisor = |i: u64| {
            let frequency = theta.powf(-2.0 * i as f64 / head_dim as f64);
            let turns = original_context * frequency / TAU;
            let smooth = (turns - low_frequency_factor) / (high_frequency_factor - low_frequency_factor);
            let smooth = smooth.clamp(0.0, 1.0);
            (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
        };
        (0..head_dim / 2).map(divisor).collect()
    }

    /// The scaling that gives these divisors, if one of this kind does.
    ///
    /// Where frequencies are blended, the share that is kept is a linear function of the turns in one token of context. Its
    /// slope and offset give the original context and the higher factor in terms of the lower one, which is taken to be 1,
    /// as it is in all models of this kind. The higher one is 4 in all that were published: that is tried first, for it
    /// needs but one blended frequency.
    pub(super) fn of_divisors(divisors: &[f32], theta: f64) -> Option<Self> {
        let head_dim = 2 * divisors.len() as u64;
        let factor = f64::from(divisors.iter().copied().fold(1.0, f32::max));
        let blended: Vec<(f64, f64)> = (0..divisors.len())
            .filter(|&i| divisors[i] > 1.0 && f64::from(divisors[i]) < factor)
            .map(|i| {
                let turns = theta.powf(-2.0 * i as f64 / head_dim as f64) / TAU;
                let kept = (1.0 / f64::from(divisors[i]) - 1.0 / factor) / (1.0 - 1.0 / factor);
                (turns, kept)
            })
            .collect();
        let (&(first, first_kept), &(last, last_kept)) = (blended.first()?, blended.last()?);
        let of_spread = |spread: f64| Self {
            factor: round(factor),
            low_frequency_factor: 1.0,
            high_frequency_factor: round(1.0 + spread),
            original_context: ((1.0 + first_kept * spread) / first).round(),
        };
        let slope = (first_kept - last_kept) / (first - last);
        let fitted = of_spread(-1.0 / (first_kept - slope * first));
        let close = |a: &f32, b: &f32| (a - b).abs() <= 1e-5 * b.abs();
        let fits = |found: &Self| found.divisors(head_dim, theta).iter().zip(divisors).all(|(a, b)| close(a, b));
        [of_spread(3.0), fitted].into_iter().find(fits)
    }
}

/// Takes off what f32 rounding added: these numbers have few digits.
fn round(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divisors_tell_the_scaling() {
        for (factor, high_frequency_factor, original_context) in
            [(8.0, 4.0, 8192.0), (32.0, 4.0, 8192.0), (4.0, 2.5, 2048.0)]
        {
            let scaling = Llama3 { factor, low_frequency_factor: 1.0, high_frequency_factor, original_context };
            let divisors = scaling.divisors(128, 500_000.0);
            assert_eq!((divisors[0], divisors[63]), (1.0, factor as f32));
            assert_eq!(Llama3::of_divisors(&divisors, 500_000.0), Some(scaling));
        }
        let scaling =
            Llama3 { factor: 8.0, low_frequency_factor: 1.0, high_frequency_factor: 4.0, original_context: 32.0 };
        assert_eq!(Llama3::of_divisors(&scaling.divisors(16, 10_000.0), 10_000.0), Some(scaling));
        assert_eq!(Llama3::of_divisors(&[1.0, 2.0, 1.5, 8.0], 10_000.0), None);
        assert_eq!(Llama3::of_divisors(&[1.0; 4], 10_000.0), None);
    }
}
