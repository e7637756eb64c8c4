use smoke_burn::layers::Linear;
use smoke_burn::{Activations, Weights};

use super::{RmsNorm, Scores, attend};
use crate::decoder::Pass;
use crate::error::ModelError;

/// Attention of tokens to those before them, with its projections (Vaswani et al., 2017).
#[derive(Clone, Debug)]
pub struct SelfAttention {
    /// The layer's number: where its keys and values are kept.
    pub layer: usize,
    /// Which of the decoder's [`View`](crate::View)s it has.
    pub view: usize,
    /// From hidden states to queries, keys and values.
    pub projections: Qkv,
    /// Norms of every query head and every key head, before they are turned.
    pub head_norms: Option<[RmsNorm; 2]>,
    /// From the heads' outputs back to the hidden size.
    pub output: Linear,
    /// Multiplies the scores; 1/√head_dim in the paper.
    pub scale: f64,
    /// Keeps scores between plus and minus this, smoothly.
    pub softcap: Option<f64>,
}

/// Projections to queries, keys and values.
#[derive(Clone, Debug)]
pub enum Qkv {
    /// Three matrices: queries, keys, values.
    Separate([Linear; 3]),
    /// One matrix: all queries, then all keys, then all values.
    Fused {
        /// The matrix.
        linear: Linear,
        /// Features of the queries; keys and values share the rest evenly.
        queries: usize,
    },
    /// One matrix, head by head: a query, its key, its value.
    ByHead {
        /// The matrix.
        linear: Linear,
        /// Elements of a head.
        head_dim: usize,
    },
}

impl SelfAttention {
    /// Keeps the keys and values of `x`, `[tokens, hidden]`, and attends to all that are kept; returns the same shape.
    ///
    /// # Errors
    /// [`ModelError`] if weights cannot be loaded.
    pub fn forward(&self, pass: &mut Pass<'_>, x: &Activations) -> Result<Activations, ModelError> {
        let weights = pass.weights;
        let [mut queries, mut keys, values] = self.projections.forward(weights, x)?;
        if let Some([query_norm, key_norm]) = &self.head_norms {
            queries = query_norm.forward(weights, &queries)?;
            keys = key_norm.forward(weights, &keys)?;
        }
        let view = &pass.views[self.view];
        if let Some(rotation) = &view.rotation {
            queries = rotation.apply(queries);
            keys = rotation.apply(keys);
        }
        pass.cache.append(self.layer, keys, values);
        let scores = Scores { scale: self.scale, softcap: self.softcap, bias: None };
        let mixed = attend(weights, queries, pass.cache, self.layer, &view.mask, &scores);
        Ok(self.output.forward(weights, &mixed)?)
    }
}

impl Qkv {
    fn forward(&self, weights: &Weights, x: &Activations) -> Result<[Activations; 3], ModelError> {
        match self {
            Self::Separate(layers) => Ok(Linear::forward_all(layers.each_ref(), weights, x)?),
            Self::Fused { linear, queries } => {
                let all = linear.forward(weights, x)?;
                let keys = (all.features() - queries) / 2;
                let part = |start, len| all.slice_features(weights, start..start + len);
                Ok([part(0, *queries), part(*queries, keys), part(queries + keys, keys)])
            }
            Self::ByHead { linear, head_dim } => {
                let all = linear.forward(weights, x)?;
                let part = |i| all.slice_groups(weights, 3 * head_dim, i * head_dim..(i + 1) * head_dim);
                Ok([part(0), part(1), part(2)])
            }
        }
    }
}
