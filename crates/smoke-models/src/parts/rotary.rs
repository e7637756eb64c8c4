use std::ops::Range;

use burn::tensor::{DType, Tensor, TensorData};
use smoke_burn::{Activations, Floats, Place, Weights};

use super::{KvCache, RopeScaling};

/// Which elements of a head are turned together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Element `i` with `i + d/2`, as Transformers lays heads out.
    Halves,
    /// Element `2i` with `2i + 1`, as the paper and llama.cpp lay them out.
    Neighbours,
}

/// Rotary position embedding (Su et al., 2021) of the first elements of every head.
#[derive(Clone, Debug)]
pub struct Rotary {
    /// Elements of a head.
    pub head_dim: usize,
    /// How many of them are turned, the first ones: an even number.
    pub turned: usize,
    /// The base of the frequencies.
    pub theta: f64,
    /// How frequencies differ from the paper's.
    pub scaling: RopeScaling,
    /// Divisors of the frequencies, one for each pair, or none: LLaMA 3's scaling as GGUF files store it.
    pub divisors: Vec<f32>,
    /// Which elements are turned together.
    pub pairing: Pairing,
}

impl Rotary {
    /// The rotation of the next `tokens` tokens of every row of `cache`.
    ///
    /// Where frequencies depend on the length of the context ([`RopeScaling::LongRope`]) it is the cache's capacity that
    /// counts: keys that were turned one way cannot be compared with queries that are turned another way.
    pub fn next(&self, cache: &KvCache, tokens: usize, weights: &Weights) -> Rotation {
        let (half, rows) = (self.turned / 2, cache.batch() * tokens);
        let magnitude = self.scaling.magnitude();
        let (mut cos, mut sin) = (weights.floats(rows * half), weights.floats(rows * half));
        for pair in 0..half {
            let divisor = self.divisors.get(pair).map_or(1.0, |&divisor| f64::from(divisor));
            let frequency = self.scaling.frequency(pair, self.turned, self.theta, cache.capacity()) / divisor;
            for (row, position) in cache.next_positions(tokens).enumerate() {
                let (sine, cosine) = (f64::from(position) * frequency).sin_cos();
                cos[row * half + pair] = (magnitude * cosine) as f32;
                sin[row * half + pair] = (magnitude * sine) as f32;
            }
        }
        let tables = if weights.on_host() {
            Tables::Host { cos, sin }
        } else {
            let tensor = |table: &[f32]| {
                Tensor::from_data(TensorData::new(table.to_vec(), [rows, 1, half]), (weights.device(), DType::F32))
            };
            Tables::Device(Box::new([tensor(&cos), tensor(&sin)]))
        };
        Rotation { tables, half, head_dim: self.head_dim, pairing: self.pairing }
    }
}

/// Sines and cosines of the positions in one forward pass.
#[derive(Debug)]
pub struct Rotation {
    tables: Tables,
    half: usize,
    head_dim: usize,
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
    /// Turns every head of `x`, `[rows, heads · head_dim]`; what is not turned stays as it is.
    ///
    /// # Panics
    /// If `x` has another number of rows than there were positions, or lies on another device.
    pub fn apply(&self, x: Activations) -> Activations {
        let features = x.features();
        match (&self.tables, x.place()) {
            (Tables::Host { cos, sin }, Place::Host(mut x)) => {
                let tables = cos.chunks_exact(self.half).zip(sin.chunks_exact(self.half));
                for (row, (cos, sin)) in x.chunks_exact_mut(features).zip(tables) {
                    for head in row.chunks_exact_mut(self.head_dim) {
                        self.turn(&mut head[..2 * self.half], cos, sin);
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
        let heads = features / self.head_dim;
        let turn = |a: Tensor<3>, b: Tensor<3>| {
            let first = a.clone() * cos.clone() - b.clone() * sin.clone();
            (first, b * cos.clone() + a * sin.clone())
        };
        let x: Tensor<3> = x.reshape([rows, heads, self.head_dim]);
        let part = |range: Range<usize>| x.clone().slice([0..rows, 0..heads, range]);
        let turned = match self.pairing {
            Pairing::Halves => {
                let (a, b) = turn(part(0..half), part(half..2 * half));
                Tensor::cat(vec![a, b], 2)
            }
            Pairing::Neighbours => {
                let pairs: Tensor<4> = part(0..2 * half).reshape([rows, heads, half, 2]);
                let side = |i: usize| pairs.clone().slice([0..rows, 0..heads, 0..half, i..i + 1]).squeeze_dim::<3>(3);
                let (a, b) = turn(side(0), side(1));
                Tensor::<3>::stack::<4>(vec![a, b], 3).reshape([rows, heads, 2 * half])
            }
        };
        let whole = if 2 * half == self.head_dim {
            turned
        } else {
            Tensor::cat(vec![turned, part(2 * half..self.head_dim)], 2)
        };
        whole.reshape([rows, features])
    }
}
