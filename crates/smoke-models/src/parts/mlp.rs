use smoke_burn::layers::Linear;
use smoke_burn::{Activations, WeightError, Weights};

use super::Activation;

/// Two linear layers with a non-linearity between them.
#[derive(Clone, Debug)]
pub struct Mlp {
    /// From the hidden size to the inner one.
    pub up: Linear,
    /// Applied between the two.
    pub activation: Activation,
    /// Back to the hidden size.
    pub down: Linear,
}

impl Mlp {
    /// `down(activation(up(x)))`.
    ///
    /// # Errors
    /// [`WeightError`] if weights cannot be loaded.
    pub fn forward(&self, weights: &Weights, x: &Activations) -> Result<Activations, WeightError> {
        let inner = self.activation.apply(self.up.forward(weights, x)?);
        self.down.forward(weights, &inner)
    }
}

/// A gated linear unit (Shazeer, 2020): SwiGLU with [`Activation::Silu`], GeGLU with a GELU.
#[derive(Clone, Debug)]
pub struct GatedMlp {
    /// From the hidden size to the inner one, through the non-linearity.
    pub gate: Linear,
    /// From the hidden size to the inner one, multiplied by the gate.
    pub up: Linear,
    /// Applied to the gate.
    pub activation: Activation,
    /// Back to the hidden size.
    pub down: Linear,
}

impl GatedMlp {
    /// `down(activation(gate(x)) · up(x))`.
    ///
    /// # Errors
    /// [`WeightError`] if weights cannot be loaded.
    pub fn forward(&self, weights: &Weights, x: &Activations) -> Result<Activations, WeightError> {
        let gate = self.gate.forward(weights, x)?;
        let up = self.up.forward(weights, x)?;
        self.down.forward(weights, &self.activation.gate(gate, up))
    }
}
