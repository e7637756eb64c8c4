use burn::tensor::Tensor;
use smoke_burn::layers::Vector;
use smoke_burn::{Layout, LayoutError, WeightError, Weights};

/// Root mean square layer normalisation (Zhang and Sennrich, 2019).
#[derive(Clone, Debug)]
pub struct RmsNorm {
    scale: Vector,
    epsilon: f64,
}

impl RmsNorm {
    /// Places `name.weight` of `len` elements.
    ///
    /// # Errors
    /// [`LayoutError`] if the checkpoint has no such tensor.
    pub fn place(layout: &mut Layout<'_>, name: &str, len: usize, epsilon: f64) -> Result<Self, LayoutError> {
        Ok(Self { scale: Vector::place(layout, &format!("{name}.weight"), len)?, epsilon })
    }

    /// Normalises the last dimension.
    ///
    /// # Errors
    /// [`WeightError`] if the scale cannot be loaded.
    pub fn forward<const D: usize>(&self, weights: &Weights, x: Tensor<D>) -> Result<Tensor<D>, WeightError> {
        let mean_square = (x.clone() * x.clone()).mean_dim(D - 1);
        let normed = x / (mean_square + self.epsilon).sqrt();
        Ok(normed * self.scale.tensor(weights)?)
    }
}

/// Layer normalisation with scale and bias (Ba et al., 2016).
#[derive(Clone, Debug)]
pub struct LayerNorm {
    scale: Vector,
    bias: Vector,
    epsilon: f64,
}

impl LayerNorm {
    /// Places `name.weight` and `name.bias` of `len` elements.
    ///
    /// # Errors
    /// [`LayoutError`] if the checkpoint has no such tensors.
    pub fn place(layout: &mut Layout<'_>, name: &str, len: usize, epsilon: f64) -> Result<Self, LayoutError> {
        let scale = Vector::place(layout, &format!("{name}.weight"), len)?;
        Ok(Self { scale, bias: Vector::place(layout, &format!("{name}.bias"), len)?, epsilon })
    }

    /// Normalises the last dimension.
    ///
    /// # Errors
    /// [`WeightError`] if scale or bias cannot be loaded.
    pub fn forward<const D: usize>(&self, weights: &Weights, x: Tensor<D>) -> Result<Tensor<D>, WeightError> {
        let centred = x.clone() - x.mean_dim(D - 1);
        let variance = (centred.clone() * centred.clone()).mean_dim(D - 1);
        let normed = centred / (variance + self.epsilon).sqrt();
        Ok(normed * self.scale.tensor(weights)? + self.bias.tensor(weights)?)
    }
}
