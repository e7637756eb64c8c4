//! What every language model has in common.

use std::fmt::Debug;

use smoke_burn::{Activations, DeviceKind, Weights};

use crate::config::Config;
use crate::error::ModelError;
use crate::parts::{ExpertLayers, KvCache, KvEncoding, KvShape, Routes, scratch_floats};

/// A decoder-only language model: a description of its layers that holds no weights.
pub trait CausalLm: Debug + Send + Sync {
    /// The sizes that callers plan by.
    fn config(&self) -> &LmConfig;

    /// Its layers with experts, of a mixture of experts that says who is to predict which are used.
    fn experts(&self) -> Option<&ExpertLayers> {
        None
    }

    /// Runs the next tokens of every row and adds them to `cache`. `tokens` holds the rows one after another, all of the
    /// same length; rows that were padded on the left hold any token there.
    ///
    /// # Errors
    /// [`ModelError`] if a token is outside the vocabulary, the cache or the positions are full, or weights cannot be
    /// loaded. After an error the cache must not be used again.
    fn forward(&self, weights: &Weights, tokens: &[u32], cache: &mut KvCache, want: Want)
    -> Result<Output, ModelError>;
}

/// What a forward pass computes besides the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Want {
    /// Logits of the last token of each row, for generation.
    #[default]
    LastLogits,
    /// Logits of every token.
    AllLogits,
    /// Logits of every token and the hidden states between the layers.
    HiddenStates,
}

/// What a forward pass computed.
#[derive(Debug)]
pub struct Output {
    /// `[batch · tokens, vocabulary]`, with one token for [`Want::LastLogits`].
    pub logits: Activations,
    /// For [`Want::HiddenStates`]: the embeddings as they enter the first layer, then the output of every layer, the
    /// last after the final norm, as Transformers counts them; each `[batch · tokens, hidden]`.
    pub hidden_states: Vec<Activations>,
    /// For [`Want::HiddenStates`]: which experts each token took, in each layer that has any.
    pub routes: Vec<Routes>,
}

/// The sizes of a language model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LmConfig {
    /// The architecture's name.
    pub architecture: &'static str,
    /// Tokens in the vocabulary.
    pub vocabulary: usize,
    /// Features of a token between the layers.
    pub hidden: usize,
    /// Features inside the MLP. With experts, as many as take a third of the memory that one token needs in a layer's
    /// MLP.
    pub intermediate: usize,
    /// The number of layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// The most tokens of one row.
    pub max_positions: usize,
}

impl LmConfig {
    /// Reads the sizes by the keys that most architectures share.
    ///
    /// # Errors
    /// [`ModelError::Config`] if one is missing, or they contradict each other.
    pub fn read(config: &Config, architecture: &'static str) -> Result<Self, ModelError> {
        let (heads, hidden) = (config.count("num_attention_heads")?, config.count("hidden_size")?);
        let sizes = Self {
            architecture,
            vocabulary: config.count("vocab_size")?,
            hidden,
            intermediate: config.count("intermediate_size")?,
            layers: config.count("num_hidden_layers")?,
            heads,
            kv_heads: config.count_or("num_key_value_heads", heads)?,
            head_dim: config.count_or("head_dim", hidden / heads)?,
            max_positions: config.count_or("max_position_embeddings", 2048)?,
        };
        let Self { kv_heads, .. } = sizes;
        if heads % kv_heads != 0 {
            return Err(
                config.invalid(format!("{heads} attention heads cannot share {kv_heads} key-value heads evenly"))
            );
        }
        Ok(sizes)
    }

    /// 1/√head_dim, the usual scale of attention scores.
    pub(crate) fn attention_scale(&self) -> f64 {
        (self.head_dim as f64).powf(-0.5)
    }

    /// The sizes of a cache for the model's keys and values.
    pub fn kv_shape(&self, encoding: KvEncoding) -> KvShape {
        KvShape { layers: self.layers, heads: self.kv_heads, head_dim: self.head_dim, encoding }
    }

    /// An upper bound of the bytes that activations on `device` take at once in a forward pass of `tokens` tokens in
    /// each of `batch` rows, when `context` tokens have been seen at its end.
    pub fn activation_bytes(&self, device: DeviceKind, batch: usize, tokens: usize, context: usize, want: Want) -> u64 {
        let count = batch * tokens;
        let logit_rows = match want {
            Want::LastLogits => batch,
            Want::AllLogits | Want::HiddenStates => count,
        };
        let hidden_states = if want == Want::HiddenStates { (self.layers + 1) * count * self.hidden } else { 0 };
        let pass = self.pass_floats(device, batch, tokens, context);
        floats(pass + logit_rows * (self.hidden + 3 * self.vocabulary) + hidden_states)
    }

    /// What the layers need at once, in floats.
    pub(crate) fn pass_floats(&self, device: DeviceKind, batch: usize, tokens: usize, context: usize) -> usize {
        let head_features = (2 * self.heads + 2 * self.kv_heads + self.heads) * self.head_dim;
        let attention = match device {
            DeviceKind::Cpu => {
                let queries = tokens * self.heads / self.kv_heads;
                scratch_floats(batch * self.kv_heads, queries, context, self.head_dim)
            }
            // Scores, masked scores, probabilities, and the masks of layers that see everything and that see a window.
            _ => 3 * batch * self.heads * tokens * context + 2 * batch * tokens * context,
        };
        // What a layer needs one after another is all kept, for the next layer to use again; the rotations of two kinds of
        // layers are kept throughout.
        batch * tokens * (3 * self.hidden + 2 * self.head_dim + head_features + 3 * self.intermediate) + attention
    }

    /// Checks the next tokens of every row and takes memory for their keys and values; returns how many each row gets.
    pub(crate) fn begin(&self, weights: &Weights, tokens: &[u32], cache: &mut KvCache) -> Result<usize, ModelError> {
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= self.vocabulary) {
            return Err(ModelError::Token { token, vocabulary: self.vocabulary });
        }
        if tokens.is_empty() || cache.batch() == 0 || !tokens.len().is_multiple_of(cache.batch()) {
            return Err(ModelError::Rows { tokens: tokens.len(), batch: cache.batch() });
        }
        let rows = tokens.len() / cache.batch();
        let seen = cache.len() + rows;
        for (limit, what) in [(cache.capacity(), "the key-value cache"), (self.max_positions, "the model's context")] {
            if seen > limit {
                return Err(ModelError::TooLong { tokens: seen, limit, what });
            }
        }
        cache.reserve(rows, weights)?;
        Ok(rows)
    }
}

fn floats(count: usize) -> u64 {
    (count * size_of::<f32>()) as u64
}
