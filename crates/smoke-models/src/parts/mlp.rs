use std::fmt::Debug;

use smoke_burn::layers::Linear;
use smoke_burn::{Activations, Weights};

use super::{Activation, Routes};
use crate::error::ModelError;

/// The part of a layer that looks at each token by itself.
pub trait FeedForward: Debug + Send + Sync {
    /// Applies it to every row of `x`, `[tokens, hidden]`; returns the same shape.
    ///
    /// # Errors
    /// [`ModelError`] if weights cannot be loaded.
    fn forward(&self, weights: &Weights, x: &Activations) -> Result<Activations, ModelError>;

    /// The same, and appends to `routes` which experts the tokens took, where there are experts.
    ///
    /// # Errors
    /// [`ModelError`] if weights cannot be loaded.
    fn forward_routed(
        &self,
        weights: &Weights,
        x: &Activations,
        routes: &mut Vec<Routes>,
    ) -> Result<Activations, ModelError> {
        let _ = routes;
        self.forward(weights, x)
    }
}

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

impl FeedForward for Mlp {
    /// `down(activation(up(x)))`.
    fn forward(&self, weights: &Weights, x: &Activations) -> Result<Activations, ModelError> {
        let inner = self.activation.apply(self.up.forward(weights, x)?);
        Ok(self.down.forward(weights, &inner)?)
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

impl FeedForward for GatedMlp {
    /// `down(activation(gate(x)) · up(x))`.
    fn forward(&self, weights: &Weights, x: &Activations) -> Result<Activations, ModelError> {
        let [gate, up] = Linear::forward_all([&self.gate, &self.up], weights, x)?;
        Ok(self.down.forward(weights, &self.activation.gate(gate, up))?)
    }
}

/// A [`GatedMlp`] whose gate and up projection are one matrix.
#[derive(Clone, Debug)]
pub struct FusedGatedMlp {
    /// From the hidden size to twice the inner one: the gates, then what they multiply.
    pub gate_up: Linear,
    /// Applied to the gate.
    pub activation: Activation,
    /// Back to the hidden size.
    pub down: Linear,
}

impl FeedForward for FusedGatedMlp {
    /// `down(activation(gate(x)) · up(x))`.
    fn forward(&self, weights: &Weights, x: &Activations) -> Result<Activations, ModelError> {
        let both = self.gate_up.forward(weights, x)?;
        Ok(self.down.forward(weights, &self.activation.gate_halves(weights, &both))?)
    }
}
