//! T5 (Raffel et al., 2020), T5 1.1 and FLAN-T5 (Chung et al., 2022).

use std::sync::Arc;

use smoke_burn::layers::{Embedding, Linear};
use smoke_burn::{Activations, DeviceKind, Layout, LayoutError, Phase, WeightError, Weights};
use smoke_storage::Checkpoint;

use crate::config::Config;
use crate::encoder::{EncoderInput, Keep};
use crate::error::ModelError;
use crate::model::{LmConfig, Output, Want};
use crate::parts::{
    Activation, Directions, DistanceBias, FeedForward, GatedMlp, KvCache, KvEncoding, Mask, Mlp, RelativeBias, RmsNorm,
    Scores, attend,
};
use crate::seq2seq::{Seq2Seq, Source};

/// A T5 model without its weights.
///
/// The encoder and what makes keys and values of its output are the schedule's prologue, used once for each source; the
/// rest of the decoder is its cycle.
#[derive(Clone, Debug)]
pub struct T5 {
    encoder: LmConfig,
    decoder: LmConfig,
    start_token: u32,
    words: Embedding,
    encoder_bias: RelativeBias,
    encoder_layers: Vec<EncoderLayer>,
    encoder_norm: RmsNorm,
    cross_keys_and_values: Vec<[Linear; 2]>,
    decoder_bias: RelativeBias,
    decoder_layers: Vec<DecoderLayer>,
    decoder_norm: RmsNorm,
    head: Linear,
    head_scale: f32,
}

#[derive(Clone, Debug)]
struct EncoderLayer {
    attention: SelfAttention,
    feed_forward: NormedMlp,
}

#[derive(Clone, Debug)]
struct DecoderLayer {
    attention: SelfAttention,
    cross: CrossAttention,
    feed_forward: NormedMlp,
}

#[derive(Clone, Debug)]
struct SelfAttention {
    norm: RmsNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
}

/// Looks at the source, whose keys and values were made before.
#[derive(Clone, Debug)]
struct CrossAttention {
    norm: RmsNorm,
    query: Linear,
    output: Linear,
}

#[derive(Clone, Debug)]
struct NormedMlp {
    norm: RmsNorm,
    inner: Arc<dyn FeedForward>,
}

/// Places the layers of one of the two stacks.
struct Stack<'a> {
    name: &'static str,
    config: &'a LmConfig,
    epsilon: f64,
    activation: Activation,
    is_gated: bool,
}

/// T5 has no table of positions: a text is as long as memory allows. Products of sizes stay far from overflowing.
const MAX_POSITIONS: usize = 1 << 20;

impl T5 {
    /// Reads the configuration and places every weight, in the order in which they are used.
    ///
    /// # Errors
    /// [`ModelError`] if the configuration is invalid or wants what is not supported, or if tensors are missing.
    pub fn place(checkpoint: &Checkpoint, layout: &mut Layout<'_>) -> Result<Self, ModelError> {
        let json = Config::beside(checkpoint)?;
        let heads = json.count("num_heads")?;
        let encoder = LmConfig {
            architecture: "t5",
            vocabulary: json.count("vocab_size")?,
            hidden: json.count("d_model")?,
            intermediate: json.count("d_ff")?,
            layers: json.count("num_layers")?,
            heads,
            kv_heads: heads,
            head_dim: json.count("d_kv")?,
            max_positions: MAX_POSITIONS,
        };
        let decoder = LmConfig { layers: json.count_or("num_decoder_layers", encoder.layers)?, ..encoder.clone() };
        let (activation, is_gated) = feed_forward(&json.or("feed_forward_proj", "relu".to_owned())?)?;
        let epsilon = json.or("layer_norm_epsilon", 1e-6)?;
        let stack = |name, config| Stack { name, config, epsilon, activation, is_gated };
        let (reading, writing) = (stack("encoder", &encoder), stack("decoder", &decoder));
        let buckets = json.count_or("relative_attention_num_buckets", 32)?;
        let max_distance = json.count_or("relative_attention_max_distance", 128)?;
        if buckets < 4 || buckets % 2 != 0 || max_distance <= buckets / 2 {
            return Err(json.invalid(format!("{buckets} relative buckets cannot hold distances up to {max_distance}")));
        }
        let bias = |layout: &mut Layout<'_>, stack: &Stack<'_>, directions| {
            let table = stack.name(0, 0, "SelfAttention.relative_attention_bias.weight");
            RelativeBias::place(layout, &table, [buckets, heads], directions, max_distance)
        };

        let words = Embedding::find(layout, "shared.weight", encoder.vocabulary, encoder.hidden)?;
        layout.begin(Phase::Prologue);
        let encoder_bias = bias(layout, &reading, Directions::Both)?;
        let encoder_layers = (0..encoder.layers).map(|index| {
            Ok(EncoderLayer {
                attention: reading.self_attention(layout, index)?,
                feed_forward: reading.feed_forward(layout, index, 1)?,
            })
        });
        let encoder_layers = encoder_layers.collect::<Result<_, LayoutError>>()?;
        let encoder_norm = reading.final_norm(layout)?;
        let cross_keys_and_values = (0..decoder.layers).map(|index| {
            Ok([
                writing.inward(layout, index, 1, "EncDecAttention.k")?,
                writing.inward(layout, index, 1, "EncDecAttention.v")?,
            ])
        });
        let cross_keys_and_values = cross_keys_and_values.collect::<Result<_, LayoutError>>()?;

        layout.begin(Phase::Pass);
        let decoder_bias = bias(layout, &writing, Directions::Back)?;
        let decoder_layers = (0..decoder.layers).map(|index| {
            Ok(DecoderLayer {
                attention: writing.self_attention(layout, index)?,
                cross: CrossAttention {
                    norm: writing.norm(layout, index, 1)?,
                    query: writing.inward(layout, index, 1, "EncDecAttention.q")?,
                    output: writing.outward(layout, index, 1, "EncDecAttention.o")?,
                },
                feed_forward: writing.feed_forward(layout, index, 2)?,
            })
        });
        let decoder_layers = decoder_layers.collect::<Result<_, LayoutError>>()?;
        let decoder_norm = writing.final_norm(layout)?;
        // Transformers 5 writes `tie_word_embeddings` for models with a head of their own, too, and tells the scale apart.
        let tied = json.or("tie_word_embeddings", true)?;
        let is_scaled = json.or("scale_decoder_outputs", tied)?;
        let has_head = layout.index().get("lm_head.weight").is_some();
        let head = if tied && !has_head { "shared" } else { "lm_head" };
        let head = Linear::place(layout, head, decoder.hidden, decoder.vocabulary)?;
        let start_token = match json.optional("decoder_start_token_id")? {
            Some(token) => token,
            None => json.required("pad_token_id")?,
        };
        if start_token as usize >= decoder.vocabulary {
            return Err(json.invalid(format!("decoder_start_token_id {start_token} is outside the vocabulary")));
        }
        Ok(Self {
            start_token,
            words: words.shared_with(&head),
            encoder_bias,
            encoder_layers,
            encoder_norm,
            cross_keys_and_values,
            decoder_bias,
            decoder_layers,
            decoder_norm,
            head,
            head_scale: if is_scaled { (decoder.hidden as f32).powf(-0.5) } else { 1.0 },
            encoder,
            decoder,
        })
    }
}

/// `relu` or `gated-gelu`: the activation, and whether it gates.
fn feed_forward(name: &str) -> Result<(Activation, bool), ModelError> {
    let (activation, is_gated) = match name.strip_prefix("gated-") {
        // Transformers takes the approximation here, whatever the name says.
        Some("gelu") => ("gelu_new", true),
        Some(activation) => (activation, true),
        None => (name, false),
    };
    Ok((activation.parse()?, is_gated))
}

impl Seq2Seq for T5 {
    fn encoder(&self) -> &LmConfig {
        &self.encoder
    }

    fn decoder(&self) -> &LmConfig {
        &self.decoder
    }

    fn start_token(&self) -> u32 {
        self.start_token
    }

    fn encode_activation_bytes(&self, device: DeviceKind, batch: usize, tokens: usize, keep: Keep) -> u64 {
        self.encoder.encoder_activation_bytes(device, batch, tokens, keep)
            + RelativeBias::bytes(device, batch, self.encoder.heads, tokens, tokens)
    }

    fn decode_activation_bytes(
        &self,
        device: DeviceKind,
        batch: usize,
        tokens: usize,
        context: usize,
        source: usize,
        want: Want,
    ) -> u64 {
        // One after the other: attention to what was written, and to the source.
        self.decoder.activation_bytes(device, batch, tokens, context.max(source), want)
            + RelativeBias::bytes(device, batch, self.decoder.heads, tokens, context)
    }

    fn encode(
        &self,
        weights: &Weights,
        input: &EncoderInput<'_>,
        encoding: KvEncoding,
        keep: Keep,
    ) -> Result<Source, ModelError> {
        let (mut cache, count) = self.encoder.begin_encoder(weights, input)?;
        let mask = Mask::all(&cache, count, count, weights);
        let mut x = self.words.forward(weights, input.tokens)?;
        let bias = self.encoder_bias.at(count, count, weights)?;
        let mut hidden_states = Vec::new();
        for layer in &self.encoder_layers {
            if keep == Keep::All {
                hidden_states.push(x.duplicate(weights));
            }
            layer.attention.forward(weights, &mut x, 0, &mask, &bias, &mut cache)?;
            layer.feed_forward.forward(weights, &mut x)?;
        }
        drop((cache, bias));
        let x = self.encoder_norm.forward(weights, &x)?;
        let shape = self.decoder.kv_shape(encoding);
        let mut keys_and_values = KvCache::new(shape, count, input.padding.to_vec(), weights)?;
        keys_and_values.reserve(count, weights)?;
        for (index, [key, value]) in self.cross_keys_and_values.iter().enumerate() {
            keys_and_values.append(index, key.forward(weights, &x)?, value.forward(weights, &x)?);
        }
        keys_and_values.advance(count);
        if keep == Keep::All {
            hidden_states.push(x);
        }
        Ok(Source { keys_and_values, hidden_states })
    }

    fn decode(
        &self,
        weights: &Weights,
        tokens: &[u32],
        source: &Source,
        cache: &mut KvCache,
        want: Want,
    ) -> Result<Output, ModelError> {
        let count = self.decoder.begin(weights, tokens, cache)?;
        let source = &source.keys_and_values;
        let mask = Mask::causal(cache, count, weights);
        let source_mask = Mask::all(source, count, source.len(), weights);
        let mut x = self.words.forward(weights, tokens)?;
        let bias = self.decoder_bias.at(count, cache.len() + count, weights)?;
        let mut hidden_states = Vec::new();
        for (index, layer) in self.decoder_layers.iter().enumerate() {
            if want == Want::HiddenStates {
                hidden_states.push(x.duplicate(weights));
            }
            layer.attention.forward(weights, &mut x, index, &mask, &bias, cache)?;
            layer.cross.forward(weights, &mut x, index, &source_mask, source)?;
            layer.feed_forward.forward(weights, &mut x)?;
        }
        cache.advance(count);
        if want == Want::LastLogits {
            x = x.last_of_each(weights, count);
        }
        let x = self.decoder_norm.forward(weights, &x)?;
        let mut logits = self.head.forward(weights, &x)?;
        logits.scale(self.head_scale);
        if want == Want::HiddenStates {
            hidden_states.push(x);
        }
        Ok(Output { logits, hidden_states, routes: Vec::new() })
    }
}

/// T5's scores are not scaled: its weights were made small instead.
fn scores(bias: Option<&DistanceBias>) -> Scores<'_> {
    Scores { bias, ..Scores::scaled(1.0) }
}

impl SelfAttention {
    fn forward(
        &self,
        weights: &Weights,
        x: &mut Activations,
        index: usize,
        mask: &Mask,
        bias: &DistanceBias,
        cache: &mut KvCache,
    ) -> Result<(), WeightError> {
        let normed = self.norm.forward(weights, x)?;
        let queries = self.query.forward(weights, &normed)?;
        let keys = self.key.forward(weights, &normed)?;
        cache.append(index, keys, self.value.forward(weights, &normed)?);
        let mixed = attend(weights, queries, cache, index, mask, &scores(Some(bias)));
        x.add(self.output.forward(weights, &mixed)?);
        Ok(())
    }
}

impl CrossAttention {
    fn forward(
        &self,
        weights: &Weights,
        x: &mut Activations,
        index: usize,
        mask: &Mask,
        source: &KvCache,
    ) -> Result<(), WeightError> {
        let normed = self.norm.forward(weights, x)?;
        let queries = self.query.forward(weights, &normed)?;
        let mixed = attend(weights, queries, source, index, mask, &scores(None));
        x.add(self.output.forward(weights, &mixed)?);
        Ok(())
    }
}

impl NormedMlp {
    fn forward(&self, weights: &Weights, x: &mut Activations) -> Result<(), ModelError> {
        let normed = self.norm.forward(weights, x)?;
        x.add(self.inner.forward(weights, &normed)?);
        Ok(())
    }
}

impl Stack<'_> {
    fn name(&self, layer: usize, part: usize, name: &str) -> String {
        format!("{}.block.{layer}.layer.{part}.{name}", self.name)
    }

    fn norm(&self, layout: &mut Layout<'_>, layer: usize, part: usize) -> Result<RmsNorm, LayoutError> {
        RmsNorm::place(layout, &self.name(layer, part, "layer_norm"), self.config.hidden, self.epsilon)
    }

    fn final_norm(&self, layout: &mut Layout<'_>) -> Result<RmsNorm, LayoutError> {
        RmsNorm::place(layout, &format!("{}.final_layer_norm", self.name), self.config.hidden, self.epsilon)
    }

    /// From the hidden size to the heads.
    fn inward(&self, layout: &mut Layout<'_>, layer: usize, part: usize, name: &str) -> Result<Linear, LayoutError> {
        let features = self.config.heads * self.config.head_dim;
        Linear::place(layout, &self.name(layer, part, name), self.config.hidden, features)
    }

    /// From the heads to the hidden size.
    fn outward(&self, layout: &mut Layout<'_>, layer: usize, part: usize, name: &str) -> Result<Linear, LayoutError> {
        let features = self.config.heads * self.config.head_dim;
        Linear::place(layout, &self.name(layer, part, name), features, self.config.hidden)
    }

    fn self_attention(&self, layout: &mut Layout<'_>, layer: usize) -> Result<SelfAttention, LayoutError> {
        Ok(SelfAttention {
            norm: self.norm(layout, layer, 0)?,
            query: self.inward(layout, layer, 0, "SelfAttention.q")?,
            key: self.inward(layout, layer, 0, "SelfAttention.k")?,
            value: self.inward(layout, layer, 0, "SelfAttention.v")?,
            output: self.outward(layout, layer, 0, "SelfAttention.o")?,
        })
    }

    fn feed_forward(&self, layout: &mut Layout<'_>, layer: usize, part: usize) -> Result<NormedMlp, LayoutError> {
        let LmConfig { hidden, intermediate, .. } = *self.config;
        let norm = self.norm(layout, layer, part)?;
        let activation = self.activation;
        let linear = |layout: &mut Layout<'_>, name, inputs, outputs| {
            Linear::place(layout, &self.name(layer, part, &format!("DenseReluDense.{name}")), inputs, outputs)
        };
        let inner: Arc<dyn FeedForward> = if self.is_gated {
            Arc::new(GatedMlp {
                gate: linear(layout, "wi_0", hidden, intermediate)?,
                up: linear(layout, "wi_1", hidden, intermediate)?,
                activation,
                down: linear(layout, "wo", intermediate, hidden)?,
            })
        } else {
            Arc::new(Mlp {
                up: linear(layout, "wi", hidden, intermediate)?,
                activation,
                down: linear(layout, "wo", intermediate, hidden)?,
            })
        };
        Ok(NormedMlp { norm, inner })
    }
}
