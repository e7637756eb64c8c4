use std::f64::consts::TAU;

use burn::tensor::{DType, Tensor, TensorData};
use smoke_burn::{Activations, Floats, Place, Weights};

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

    /// The rotation of the tokens at `positions`, one for each row of activations.
    pub fn at(&self, positions: impl Iterator<Item = u32> + Clone, weights: &Weights) -> Rotation {
        let half = self.frequencies.len();
        let rows = positions.clone().count();
        let table = |function: fn(f64) -> f64| {
            let mut values = weights.floats(rows * half);
            for (position, row) in positions.clone().zip(values.chunks_exact_mut(half)) {
                for (value, frequency) in row.iter_mut().zip(&self.frequencies) {
                    *value = function(f64::from(position) * frequency) as f32;
                }
            }
            values
        };
        let (cos, sin) = (table(f64::cos), table(f64::sin));
        let tables = if weights.on_host() {
            Tables::Host { cos, sin }
        } else {
            let tensor = |table: &[f32]| {
                Tensor::from_data(TensorData::new(table.to_vec(), [rows, 1, half]), (weights.device(), DType::F32))
            };
            Tables::Device(Box::new([tensor(&cos), tensor(&sin)]))
        };
        Rotation { tables, half, pairing: self.pairing }
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

/// Sines and cosines of the positions in one forward pass.
#[derive(Debug)]
pub struct Rotation {
    tables: Tables,
    half: usize,
    pairing: Pairing,
}

#[derive(Debug)]
enum Tables {
    /// Each `[rows, half]`.
    Host { cos: Floats, sin: Floats },
    /// Cosines and sines, each `[rows, 1, half]`.
    Device(Box<[Tensor<3>; 2]>),
}

impl Rotation {
    /// Turns every head of `x`, `[rows, heads · head_dim]`.
    ///
    /// # Panics
    /// If `x` has another number of rows than there were positions, or lies on another device.
    pub fn apply(&self, x: Activations) -> Activations {
        let features = x.features();
        match (&self.tables, x.place()) {
            (Tables::Host { cos, sin }, Place::Host(mut x)) => {
                let tables = cos.chunks_exact(self.half).zip(sin.chunks_exact(self.half));
                for (row, (cos, sin)) in x.chunks_exact_mut(features).zip(tables) {
                    for head in row.chunks_exact_mut(2 * self.half) {
                        self.turn(head, cos, sin);
                    }
                }
                Activations::from_host(x, features)
            }
            (Tables::Device(tables), Place::Device(x)) => Activations::from_tensor(self.on_device(x, tables)),
            _ => panic!("activations on another device than their rotation"),
        }
    }

    fn turn(&self, head: &mut [f32], cos: &[f32], sin: &[f32]) {
        let turn = |a: &mut f32, b: &mut f32, cos: f32, sin: f32| (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        let angles = cos.iter().zip(sin);
        match self.pairing {
            Pairing::Halves => {
                let (a, b) = head.split_at_mut(self.half);
                a.iter_mut().zip(b).zip(angles).for_each(|((a, b), (&cos, &sin))| turn(a, b, cos, sin));
            }
            Pairing::Neighbours => {
                let pairs = head.as_chunks_mut::<2>().0.iter_mut();
                pairs.zip(angles).for_each(|([a, b], (&cos, &sin))| turn(a, b, cos, sin));
            }
        }
    }

    fn on_device(&self, x: Tensor<2>, [cos, sin]: &[Tensor<3>; 2]) -> Tensor<2> {
        let ([rows, features], half) = (x.dims(), self.half);
        let heads = features / (2 * half);
        let turn = |a: Tensor<3>, b: Tensor<3>| {
            let first = a.clone() * cos.clone() - b.clone() * sin.clone();
            (first, b * cos.clone() + a * sin.clone())
        };
        match self.pairing {
            Pairing::Halves => {
                let x: Tensor<3> = x.reshape([rows, heads, 2 * half]);
                let side = |start: usize| x.clone().slice([0..rows, 0..heads, start..start + half]);
                let (a, b) = turn(side(0), side(half));
                Tensor::cat(vec![a, b], 2).reshape([rows, features])
            }
            Pairing::Neighbours => {
                let pairs: Tensor<4> = x.reshape([rows, heads, half, 2]);
                let side = |i: usize| pairs.clone().slice([0..rows, 0..heads, 0..half, i..i + 1]).squeeze_dim::<3>(3);
                let (a, b) = turn(side(0), side(1));
                Tensor::<3>::stack::<4>(vec![a, b], 3).reshape([rows, features])
            }
        }
    }
}
