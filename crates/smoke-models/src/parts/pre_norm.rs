use smoke_burn::Activations;

use super::{FeedForward, Norm, SelfAttention};
use crate::decoder::{DecoderLayer, Pass};
use crate::error::ModelError;

/// A layer whose norms stand before what they serve (Xiong et al., 2020): GPT-2's, LLaMA's and most others'.
#[derive(Debug)]
pub struct PreNormLayer {
    /// Before the attention.
    pub attention_norm: Norm,
    /// Looks at other tokens.
    pub attention: SelfAttention,
    /// Before the feed-forward part.
    pub mlp_norm: Norm,
    /// Looks at each token by itself.
    pub mlp: Box<dyn FeedForward>,
}

impl DecoderLayer for PreNormLayer {
    /// `x += attention(norm(x))`, then `x += mlp(norm(x))`.
    fn forward(&self, pass: &mut Pass<'_>, x: &mut Activations) -> Result<(), ModelError> {
        let normed = self.attention_norm.forward(pass.weights, x)?;
        x.add(self.attention.forward(pass, &normed)?);
        let normed = self.mlp_norm.forward(pass.weights, x)?;
        x.add(match &mut pass.routes {
            Some(routes) => self.mlp.forward_routed(pass.weights, &normed, routes)?,
            None => self.mlp.forward(pass.weights, &normed)?,
        });
        Ok(())
    }
}
