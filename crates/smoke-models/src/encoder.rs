//! What every text encoder has in common.

use std::fmt::Debug;

use smoke_burn::{Activations, DeviceKind, Weights};

use crate::error::ModelError;
use crate::model::LmConfig;
use crate::parts::{KvCache, KvEncoding, KvShape};

/// A model that turns a text into features of its tokens, each of which has seen the whole text: a description of its
/// layers that holds no weights.
pub trait TextEncoder: Debug + Send + Sync {
    /// The sizes that callers plan by.
    fn config(&self) -> &LmConfig;

    /// Runs the encoder. Returns hidden states, each `[batch · tokens, hidden]`, as `keep` says; rows of padding hold
    /// anything. Takes memory for the keys and values of one layer from the budget; activations are the caller's to plan,
    /// see [`LmConfig::encoder_activation_bytes`].
    ///
    /// # Errors
    /// [`ModelError`] if a token is outside the vocabulary, a row is too long, or weights cannot be loaded.
    fn encode(&self, weights: &Weights, input: &EncoderInput<'_>, keep: Keep) -> Result<Vec<Activations>, ModelError>;

    /// What the checkpoint's pooler makes of each row's first token, `[batch, hidden]`; `None` where it has none. `hidden`
    /// is what [`encode`](Self::encode) returned last for `input`.
    ///
    /// # Errors
    /// [`ModelError`] if weights cannot be loaded.
    fn pool(
        &self,
        _weights: &Weights,
        _input: &EncoderInput<'_>,
        _hidden: &Activations,
    ) -> Result<Option<Activations>, ModelError> {
        Ok(None)
    }

    /// Scores of every word of the vocabulary for every token, `[batch · tokens, vocabulary]`, where the checkpoint was
    /// trained to guess words that are masked; else `None`. `hidden` is what [`encode`](Self::encode) returned last.
    ///
    /// # Errors
    /// [`ModelError`] if weights cannot be loaded.
    fn masked_logits(&self, _weights: &Weights, _hidden: &Activations) -> Result<Option<Activations>, ModelError> {
        Ok(None)
    }
}

/// A batch of texts for an encoder.
#[derive(Clone, Copy, Debug)]
pub struct EncoderInput<'a> {
    /// The rows one after another, all of the same length, shorter texts padded on the left with any token.
    pub tokens: &'a [u32],
    /// How many tokens of each row are padding; as many entries as rows.
    pub padding: &'a [usize],
    /// The segment that each token belongs to, for models that were trained on pairs of texts; empty if there is only one
    /// segment.
    pub segments: &'a [u32],
}

impl<'a> EncoderInput<'a> {
    /// One text without padding.
    pub fn one(tokens: &'a [u32]) -> Self {
        Self { tokens, padding: &[0], segments: &[] }
    }

    /// Tokens of one row, padding included; 0 where there are no rows.
    pub fn row_len(&self) -> usize {
        self.tokens.len() / self.padding.len().max(1)
    }
}

/// Which hidden states an encoder returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// The output of the last layer alone.
    #[default]
    Last,
    /// The embeddings as they enter the first layer, then the output of every layer, as Transformers counts them.
    All,
}

impl LmConfig {
    /// The keys and values that an encoder holds while it runs: those of one layer, as they are computed.
    pub fn encoder_kv_shape(&self) -> KvShape {
        KvShape { layers: 1, ..self.kv_shape(KvEncoding::F32) }
    }

    /// An upper bound of the bytes that activations on `device` take at once while an encoder runs `tokens` tokens in
    /// each of `batch` rows, without its keys and values.
    pub fn encoder_activation_bytes(&self, device: DeviceKind, batch: usize, tokens: usize, keep: Keep) -> u64 {
        let kept = match keep {
            Keep::Last => 0,
            Keep::All => (self.layers + 1) * batch * tokens * self.hidden,
        };
        ((self.pass_floats(device, batch, tokens, tokens) + kept) * size_of::<f32>()) as u64
    }

    /// Checks an encoder's input and takes memory for the keys and values of one layer; returns how many tokens each row
    /// has.
    pub(crate) fn begin_encoder(
        &self,
        weights: &Weights,
        input: &EncoderInput<'_>,
    ) -> Result<(KvCache, usize), ModelError> {
        let padding = input.padding.to_vec();
        let mut cache = KvCache::new(self.encoder_kv_shape(), input.row_len(), padding, weights)?;
        let count = self.begin(weights, input.tokens, &mut cache)?;
        Ok((cache, count))
    }
}
