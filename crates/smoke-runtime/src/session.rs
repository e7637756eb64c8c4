//! What a generation asks of its model, whatever its kind.

use smoke_burn::{DeviceKind, Weights};
use smoke_models::parts::{KvCache, KvShape};
use smoke_models::{CausalLm, EncoderInput, Keep, Model, ModelError, Output, Seq2Seq, Source, Want};

use crate::error::RuntimeError;
use crate::plan::Load;

/// A model that generates, with what it remembers of its tokens.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    model: Generator<'a>,
    cache: KvCache,
    load: Load,
}

#[derive(Debug)]
enum Generator<'a> {
    Decoder(&'a dyn CausalLm),
    EncoderDecoder(&'a dyn Seq2Seq, Option<Source>),
}

impl<'a> Session<'a> {
    /// What generating at most `max_tokens` tokens after a prompt of so many amounts to.
    ///
    /// # Errors
    /// If the model writes no text, or the prompt is too long for it.
    pub(crate) fn load(model: &Model, prompt_tokens: usize, max_tokens: usize) -> Result<Load, RuntimeError> {
        let limit = model.config().max_positions;
        if prompt_tokens > limit {
            return Err(ModelError::TooLong { tokens: prompt_tokens, limit, what: "the model's context" }.into());
        }
        match model {
            Model::Decoder(_) => Ok(Load::Generation {
                context: prompt_tokens.saturating_add(max_tokens).min(limit),
                source: 0,
                pass: 1,
            }),
            Model::EncoderDecoder(_) => Ok(Load::Generation {
                context: max_tokens.saturating_add(1).min(limit),
                source: prompt_tokens,
                pass: 1,
            }),
            other => Err(RuntimeError::NoText { architecture: other.config().architecture, kind: other.kind() }),
        }
    }

    pub(crate) fn new(model: &'a Model, load: Load, shape: KvShape, weights: &Weights) -> Result<Self, RuntimeError> {
        let generator = match model {
            Model::EncoderDecoder(model) => Generator::EncoderDecoder(&**model, None),
            other => Generator::Decoder(other.decoder()?),
        };
        Ok(Self { model: generator, cache: KvCache::new(shape, load.context(), vec![0], weights)?, load })
    }

    /// Keys and values of what the decoder has seen.
    pub(crate) fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// Bytes of keys and values, those of what an encoder has read among them.
    pub(crate) fn kept_bytes(&self) -> u64 {
        let source = match &self.model {
            Generator::EncoderDecoder(_, Some(source)) => source.keys_and_values.bytes(),
            _ => 0,
        };
        self.cache.bytes() + source
    }

    /// What was planned for.
    pub(crate) fn planned(&self) -> Load {
        self.load
    }

    /// The load of a decoder that has seen `context` tokens.
    pub(crate) fn load_at(&self, context: usize) -> Load {
        match self.load {
            Load::Generation { source, pass, .. } => Load::Generation { context, source, pass },
            other => other,
        }
    }

    /// An upper bound of the bytes that activations take in a pass of `tokens` tokens that ends at `context`.
    pub(crate) fn activation_bytes(&self, device: DeviceKind, tokens: usize, context: usize) -> u64 {
        match (&self.model, self.load) {
            (Generator::EncoderDecoder(model, _), Load::Generation { source, .. }) => {
                model.decode_activation_bytes(device, 1, tokens, context, source, Want::LastLogits)
            }
            (Generator::EncoderDecoder(model, _), _) => {
                model.decode_activation_bytes(device, 1, tokens, context, 0, Want::LastLogits)
            }
            (Generator::Decoder(model), _) => {
                model.config().activation_bytes(device, 1, tokens, context, Want::LastLogits)
            }
        }
    }

    /// For models with an encoder: the whole prompt must go through it at once. Reads it, and returns what the decoder
    /// begins with. Activations are the caller's to plan. For others `None`: their prompt may go through in parts.
    pub(crate) fn read(
        &mut self,
        weights: &Weights,
        prompt: &[u32],
        shape: KvShape,
    ) -> Result<Option<u32>, ModelError> {
        let Generator::EncoderDecoder(model, source) = &mut self.model else { return Ok(None) };
        *source = Some(model.encode(weights, &EncoderInput::one(prompt), shape.encoding, Keep::Last)?);
        Ok(Some(model.start_token()))
    }

    /// Runs the next tokens through the decoder, for the logits of the last.
    pub(crate) fn forward(&mut self, weights: &Weights, tokens: &[u32]) -> Result<Output, ModelError> {
        match &self.model {
            Generator::Decoder(model) => model.forward(weights, tokens, &mut self.cache, Want::LastLogits),
            Generator::EncoderDecoder(model, source) => {
                let source = source.as_ref().expect("the source is read before the first pass");
                model.decode(weights, tokens, source, &mut self.cache, Want::LastLogits)
            }
        }
    }
}
