//! What every encoder–decoder model has in common.

use std::fmt::Debug;

use smoke_burn::{Activations, DeviceKind, Weights};

use crate::encoder::{EncoderInput, Keep};
use crate::error::ModelError;
use crate::model::{LmConfig, Output, Want};
use crate::parts::{KvCache, KvEncoding};

/// A model whose encoder reads a text once and whose decoder writes another one, token by token: a description of its
/// layers that holds no weights.
pub trait Seq2Seq: Debug + Send + Sync {
    /// The encoder's sizes.
    fn encoder(&self) -> &LmConfig;

    /// The decoder's sizes; its own keys and values are as many as those of the source.
    fn decoder(&self) -> &LmConfig;

    /// The token that every answer begins with.
    fn start_token(&self) -> u32;

    /// Reads the source texts: runs the encoder, and makes of its output the keys and values that every later
    /// [`decode`](Self::decode) looks at, kept in `encoding` on the host. Takes memory for them and for those of one layer
    /// of the encoder from the budget.
    ///
    /// # Errors
    /// [`ModelError`] if a token is outside the vocabulary, a row is too long, or weights cannot be loaded.
    fn encode(
        &self,
        weights: &Weights,
        input: &EncoderInput<'_>,
        encoding: KvEncoding,
        keep: Keep,
    ) -> Result<Source, ModelError>;

    /// An upper bound of the bytes that activations on `device` take at once in [`encode`](Self::encode) of `tokens` tokens
    /// in each of `batch` rows, without keys and values.
    fn encode_activation_bytes(&self, device: DeviceKind, batch: usize, tokens: usize, keep: Keep) -> u64;

    /// An upper bound of the bytes that activations on `device` take at once in [`decode`](Self::decode) of `tokens`
    /// tokens in each of `batch` rows, when `context` tokens have been seen at its end, after sources of `source` tokens.
    fn decode_activation_bytes(
        &self,
        device: DeviceKind,
        batch: usize,
        tokens: usize,
        context: usize,
        source: usize,
        want: Want,
    ) -> u64;

    /// Runs the next tokens of every row through the decoder and adds them to `cache`, as
    /// [`CausalLm::forward`](crate::CausalLm::forward) does.
    ///
    /// # Errors
    /// [`ModelError`] if a token is outside the vocabulary, the cache is full, or weights cannot be loaded. After an error
    /// the cache must not be used again.
    fn decode(
        &self,
        weights: &Weights,
        tokens: &[u32],
        source: &Source,
        cache: &mut KvCache,
        want: Want,
    ) -> Result<Output, ModelError>;
}

/// Source texts as a decoder sees them.
#[derive(Debug)]
pub struct Source {
    /// Keys and values of the source's tokens for every layer of the decoder.
    pub keys_and_values: KvCache,
    /// For [`Keep::All`] the encoder's hidden states, the last after the final norm; else none, for nobody needs them any
    /// more.
    pub hidden_states: Vec<Activations>,
}
