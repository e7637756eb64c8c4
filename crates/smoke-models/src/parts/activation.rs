use std::f64::consts::PI;
use std::str::FromStr;

use burn::tensor::{Tensor, activation};

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
}

impl Activation {
    /// Applies it to every element.
    pub fn apply<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Silu => activation::silu(x),
            Self::Gelu => activation::gelu(x),
            Self::GeluTanh => {
                let cubed = x.clone() * x.clone() * x.clone();
                let inner = (x.clone() + cubed * 0.044715) * (2.0 / PI).sqrt();
                x * (inner.tanh() + 1.0) * 0.5
            }
            Self::Relu => activation::relu(x),
        }
    }
}

impl FromStr for Activation {
    type Err = ModelError;

    fn from_str(name: &str) -> Result<Self, ModelError> {
        match name {
            "silu" | "swish" => Ok(Self::Silu),
            "gelu" => Ok(Self::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Ok(Self::GeluTanh),
            "relu" => Ok(Self::Relu),
            _ => Err(ModelError::unsupported("activation", name, "silu, gelu, gelu_new, gelu_pytorch_tanh, relu")),
        }
    }
}
