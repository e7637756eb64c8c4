use std::f64::consts::TAU;

use burn::tensor::{DType, Device, Tensor, TensorData};

/// Which elements of a head are turned together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Element `i` with `i + d/2`, as Transformers lays heads out.
    Halves,
    /// Element `2i` with `2i + 1`, as the paper and llama.cpp lay them out.
    Neighbours,
}

/// How frequencies are changed for contexts longer than those trained on.
#[derive(Clone, Copy, Debug, PartialEq)]
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
}

/// Rotary position embedding (Su et al., 2021).
#[derive(Clone, Debug)]
pub struct Rotary {
    frequencies: Vec<f64>,
    pairing: Pairing,
}

impl Rotary {
    /// For heads of `head_dim` elements, all of which are turned.
    pub fn new(head_dim: usize, theta: f64, scaling: RopeScaling, pairing: Pairing) -> Self {
        let base = |i: usize| theta.powf(-2.0 * i as f64 / head_dim as f64);
        Self { frequencies: (0..head_dim / 2).map(|i| scaling.apply(base(i))).collect(), pairing }
    }

    /// Divides each frequency by a factor of its own, as GGUF files store scaled frequencies.
    pub fn with_factors(mut self, factors: &[f32]) -> Self {
        self.frequencies.iter_mut().zip(factors).for_each(|(frequency, &factor)| *frequency /= f64::from(factor));
        self
    }

    /// The rotation of a batch: `positions` of `batch` rows, one after another.
    pub fn at(&self, positions: &[u32], batch: usize, device: &Device) -> Rotation {
        let tokens = positions.len() / batch.max(1);
        let shape = [batch, 1, tokens, self.frequencies.len()];
        let table = |function: fn(f64) -> f64| {
            let angles = positions.iter().flat_map(|&p| self.frequencies.iter().map(move |f| f64::from(p) * f));
            let values: Vec<f32> = angles.map(|angle| function(angle) as f32).collect();
            Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
        };
        Rotation { cos: table(f64::cos), sin: table(f64::sin), pairing: self.pairing }
    }
}

impl RopeScaling {
    fn apply(self, frequency: f64) -> f64 {
        match self {
            Self::None => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_context } => {
                let wavelength = TAU / frequency;
                if wavelength < original_context / high_frequency_factor {
                    frequency
                } else if wavelength > original_context / low_frequency_factor {
                    frequency / factor
                } else {
                    let blend = (original_context / wavelength - low_frequency_factor)
                        / (high_frequency_factor - low_frequency_factor);
                    (1.0 - blend) * frequency / factor + blend * frequency
                }
            }
        }
    }
}

/// Sines and cosines of the positions in one forward pass, shaped `[batch, 1, tokens, head_dim / 2]`.
#[derive(Clone, Debug)]
pub struct Rotation {
    cos: Tensor<4>,
    sin: Tensor<4>,
    pairing: Pairing,
}

impl Rotation {
    /// Turns the heads of `x`, shaped `[batch, heads, tokens, head_dim]`.
    pub fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, heads, tokens, dim] = x.dims();
        let half = dim / 2;
        let turn = |a: Tensor<4>, b: Tensor<4>| {
            let first = a.clone() * self.cos.clone() - b.clone() * self.sin.clone();
            (first, b * self.cos.clone() + a * self.sin.clone())
        };
        match self.pairing {
            Pairing::Halves => {
                let a = x.clone().slice([0..batch, 0..heads, 0..tokens, 0..half]);
                let b = x.slice([0..batch, 0..heads, 0..tokens, half..dim]);
                let (a, b) = turn(a, b);
                Tensor::cat(vec![a, b], 3)
            }
            Pairing::Neighbours => {
                let pairs: Tensor<5> = x.reshape([batch, heads, tokens, half, 2]);
                let side = |i: usize| {
                    pairs.clone().slice([0..batch, 0..heads, 0..tokens, 0..half, i..i + 1]).squeeze_dim::<4>(4)
                };
                let (a, b) = turn(side(0), side(1));
                Tensor::<4>::stack::<5>(vec![a, b], 4).reshape([batch, heads, tokens, dim])
            }
        }
    }
}
