use std::f32::consts::{FRAC_1_SQRT_2, PI};
use std::str::FromStr;

use burn::tensor::{Tensor, activation};
use smoke_burn::{Activations, Place, Weights};

use super::host::{exp, for_each_chunk, for_each_chunk_pair, for_each_row_pair};
use crate::error::ModelError;

/// The non-linearity of an MLP, by its name in `config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activation {
    /// `x · sigmoid(x)` (Elfwing et al., 2017), named `silu` or `swish`.
    Silu,
    /// `x · Φ(x)` (Hendrycks and Gimpel, 2016), named `gelu`.
    Gelu,
    /// The same with its `tanh` approximation, named `gelu_new` or `gelu_pytorch_tanh`.
    GeluTanh,
    /// `max(x, 0)`, named `relu`.
    Relu,
    /// The hyperbolic tangent, named `tanh`.
    Tanh,
}

impl Activation {
    /// Applies it to every element.
    pub fn apply(self, x: Activations) -> Activations {
        let features = x.features();
        match x.place() {
            Place::Host(mut x) => {
                for_each_chunk(&mut x, |x| self.for_each(x, |x, activated| *x = activated));
                Activations::from_host(x, features)
            }
            Place::Device(x) => Activations::from_tensor(self.on_device(x)),
        }
    }

    /// Applies it to `gate` and multiplies by `up`, element by element.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn gate(self, gate: Activations, up: Activations) -> Activations {
        let features = gate.features();
        assert_eq!((gate.rows(), features), (up.rows(), up.features()), "the shapes differ");
        match (gate.place(), up.place()) {
            (Place::Host(mut gate), Place::Host(up)) => {
                for_each_chunk_pair(&mut gate, &up, |gate, up| {
                    let mut up = up.iter();
                    self.for_each(gate, |gate, activated| *gate = activated * up.next().expect("as many as gates"));
                });
                Activations::from_host(gate, features)
            }
            (Place::Device(gate), Place::Device(up)) => Activations::from_tensor(self.on_device(gate) * up),
            _ => panic!("activations on different devices"),
        }
    }

    /// Applies it to the first half of every row and multiplies by the second.
    ///
    /// # Panics
    /// If the number of features is odd.
    pub fn gate_halves(self, weights: &Weights, x: &Activations) -> Activations {
        assert!(x.features().is_multiple_of(2), "{} features have no halves", x.features());
        let half = x.features() / 2;
        let Some(values) = x.on_host() else {
            return self.gate(x.slice_features(weights, 0..half), x.slice_features(weights, half..2 * half));
        };
        let mut gated = weights.floats(x.rows() * half);
        for_each_row_pair(&mut gated, half, values, 2 * half, |gated, both| {
            let (gate, up) = both.split_at(half);
            gated.copy_from_slice(gate);
            let mut up = up.iter();
            self.for_each(gated, |gate, activated| *gate = activated * up.next().expect("as many as gates"));
        });
        Activations::from_host(gated, half)
    }

    /// The match is outside of the loop, so that the compiler can make vectors of it.
    fn for_each(self, x: &mut [f32], mut write: impl FnMut(&mut f32, f32)) {
        match self {
            Self::Silu => x.iter_mut().for_each(|x| write(x, *x / (1.0 + exp(-*x)))),
            Self::Gelu => x.iter_mut().for_each(|x| write(x, 0.5 * *x * (1.0 + libm::erff(*x * FRAC_1_SQRT_2)))),
            Self::GeluTanh => x.iter_mut().for_each(|x| {
                let inner = (2.0 / PI).sqrt() * (*x + 0.044_715 * *x * *x * *x);
                write(x, 0.5 * *x * (1.0 + tanh(inner)));
            }),
            Self::Relu => x.iter_mut().for_each(|x| write(x, x.max(0.0))),
            Self::Tanh => x.iter_mut().for_each(|x| write(x, x.tanh())),
        }
    }

    fn on_device(self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Silu => activation::silu(x),
            Self::Gelu => activation::gelu(x),
            Self::GeluTanh => {
                let cubed = x.clone() * x.clone() * x.clone();
                let inner = (x.clone() + cubed * 0.044_715) * (2.0 / PI).sqrt();
                x * (inner.tanh() + 1.0) * 0.5
            }
            Self::Relu => activation::relu(x),
            Self::Tanh => x.tanh(),
        }
    }
}

/// `cap · tanh(x / cap)` of every element: nearly `x` where it is small, and never beyond ± `cap` (Gemma 2, 2024).
pub fn softcap(x: Activations, cap: f32) -> Activations {
    let features = x.features();
    match x.place() {
        Place::Host(mut x) => {
            for_each_chunk(&mut x, |x| x.iter_mut().for_each(|x| *x = cap * tanh(*x / cap)));
            Activations::from_host(x, features)
        }
        Place::Device(x) => Activations::from_tensor((x / cap).tanh() * cap),
    }
}

/// `1 - 2 / (exp(2x) + 1)`.
fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

impl FromStr for Activation {
    type Err = ModelError;

    fn from_str(name: &str) -> Result<Self, ModelError> {
        match name {
            "silu" | "swish" => Ok(Self::Silu),
            "gelu" | "gelu_python" => Ok(Self::Gelu),
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Ok(Self::GeluTanh),
            "relu" => Ok(Self::Relu),
            "tanh" => Ok(Self::Tanh),
            _ => {
                Err(ModelError::unsupported("activation", name, "silu, gelu, gelu_new, gelu_pytorch_tanh, relu, tanh"))
            }
        }
    }
}
