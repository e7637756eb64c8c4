use burn::tensor::Tensor;
use smoke_burn::layers::Vector;
use smoke_burn::{Activations, Layout, LayoutError, WeightError, Weights};

use super::host::{sum, sum_of_squares};

/// The norm of a layer, of either kind.
#[derive(Clone, Debug)]
pub enum Norm {
    /// By the root mean square.
    Rms(RmsNorm),
    /// By mean and variance.
    Layer(LayerNorm),
}

impl Norm {
    /// Normalises every row.
    ///
    /// # Errors
    /// [`WeightError`] if weights cannot be loaded.
    pub fn forward(&self, weights: &Weights, x: &Activations) -> Result<Activations, WeightError> {
        match self {
            Self::Rms(norm) => norm.forward(weights, x),
            Self::Layer(norm) => norm.forward(weights, x),
        }
    }
}

impl From<RmsNorm> for Norm {
    fn from(norm: RmsNorm) -> Self {
        Self::Rms(norm)
    }
}

impl From<LayerNorm> for Norm {
    fn from(norm: LayerNorm) -> Self {
        Self::Layer(norm)
    }
}

/// Root mean square layer normalisation (Zhang and Sennrich, 2019).
#[derive(Clone, Debug)]
pub struct RmsNorm {
    scale: Vector,
    len: usize,
    epsilon: f64,
    offset: f32,
}

impl RmsNorm {
    /// Places `name.weight` of `len` elements.
    ///
    /// # Errors
    /// [`LayoutError`] if the checkpoint has no such tensor.
    pub fn place(layout: &mut Layout<'_>, name: &str, len: usize, epsilon: f64) -> Result<Self, LayoutError> {
        Ok(Self { scale: Vector::place(layout, &format!("{name}.weight"), len)?, len, epsilon, offset: 0.0 })
    }

    /// Adds one to the stored scale, which Gemma's checkpoints keep near zero.
    pub fn with_unit_offset(self) -> Self {
        Self { offset: 1.0, ..self }
    }

    /// Normalises every `len` features of every row: the whole row, or head by head where `len` is a head's size.
    ///
    /// # Errors
    /// [`WeightError`] if the scale cannot be loaded.
    pub fn forward(&self, weights: &Weights, x: &Activations) -> Result<Activations, WeightError> {
        let Some(values) = x.on_host() else {
            return self.on_device(weights, x.tensor(weights)).map(Activations::from_tensor);
        };
        let mut y = weights.floats(values.len());
        self.scale.with_floats(weights, |scale| {
            for (x, y) in values.chunks_exact(self.len).zip(y.chunks_exact_mut(self.len)) {
                let mean_square = sum_of_squares(x) / self.len as f32;
                let factor = 1.0 / (mean_square + self.epsilon as f32).sqrt();
                for ((y, x), scale) in y.iter_mut().zip(x).zip(scale) {
                    *y = x * factor * (scale + self.offset);
                }
            }
        })?;
        Ok(Activations::from_host(y, x.features()))
    }

    fn on_device(&self, weights: &Weights, x: Tensor<2>) -> Result<Tensor<2>, WeightError> {
        let [rows, features] = x.dims();
        let x = x.reshape([rows * features / self.len, self.len]);
        let mean_square = (x.clone() * x.clone()).mean_dim(1);
        let normed = x / (mean_square + self.epsilon).sqrt();
        let scale: Tensor<2> = self.scale.tensor(weights)?;
        Ok((normed * (scale + self.offset)).reshape([rows, features]))
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
    /// Places `name.weight` and `name.bias` of `len` elements, which are called `gamma` and `beta` in checkpoints that
    /// came from TensorFlow.
    ///
    /// # Errors
    /// [`LayoutError`] if the checkpoint has no such tensors.
    pub fn place(layout: &mut Layout<'_>, name: &str, len: usize, epsilon: f64) -> Result<Self, LayoutError> {
        let from_tensorflow = layout.index().get(&format!("{name}.gamma")).is_some();
        let (scale, bias) = if from_tensorflow { ("gamma", "beta") } else { ("weight", "bias") };
        let scale = Vector::place(layout, &format!("{name}.{scale}"), len)?;
        Ok(Self { scale, bias: Vector::place(layout, &format!("{name}.{bias}"), len)?, epsilon })
    }

    /// Normalises every row.
    ///
    /// # Errors
    /// [`WeightError`] if scale or bias cannot be loaded.
    pub fn forward(&self, weights: &Weights, x: &Activations) -> Result<Activations, WeightError> {
        let Some(values) = x.on_host() else {
            return self.on_device(weights, x.tensor(weights)).map(Activations::from_tensor);
        };
        let features = x.features();
        let mut y = weights.floats(values.len());
        self.scale.with_floats(weights, |scale| {
            for (x, y) in values.chunks_exact(features).zip(y.chunks_exact_mut(features)) {
                let mean = sum(x) / features as f32;
                y.iter_mut().zip(x).for_each(|(y, x)| *y = x - mean);
                let factor = 1.0 / (sum_of_squares(y) / features as f32 + self.epsilon as f32).sqrt();
                y.iter_mut().zip(scale).for_each(|(y, scale)| *y *= factor * scale);
            }
        })?;
        self.bias.with_floats(weights, |bias| {
            let rows = y.chunks_exact_mut(features);
            rows.for_each(|y| y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias));
        })?;
        Ok(Activations::from_host(y, features))
    }

    fn on_device(&self, weights: &Weights, x: Tensor<2>) -> Result<Tensor<2>, WeightError> {
        let centred = x.clone() - x.mean_dim(1);
        let variance = (centred.clone() * centred.clone()).mean_dim(1);
        let normed = centred / (variance + self.epsilon).sqrt();
        Ok(normed * self.scale.tensor(weights)? + self.bias.tensor(weights)?)
    }
}
