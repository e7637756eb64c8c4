//! BERT (Devlin et al., 2018) and models of the same build, such as MiniLM.

use smoke_burn::layers::{Embedding, Linear, Vector};
use smoke_burn::{Activations, Layout, LayoutError, Phase, Weights};
use smoke_storage::Checkpoint;

use crate::config::Config;
use crate::encoder::{EncoderInput, Keep, TextEncoder};
use crate::error::ModelError;
use crate::model::LmConfig;
use crate::parts::{Activation, FeedForward, KvCache, LayerNorm, Mask, Mlp, Scores, attend};

/// A BERT model without its weights.
#[derive(Clone, Debug)]
pub struct Bert {
    config: LmConfig,
    words: Embedding,
    positions: Embedding,
    segments: Embedding,
    norm: LayerNorm,
    layers: Vec<Layer>,
    pooler: Option<Linear>,
    masked_head: Option<MaskedHead>,
}

/// Norms come after what they normalise, as in the first transformers.
#[derive(Clone, Debug)]
struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    attention_norm: LayerNorm,
    mlp: Mlp,
    mlp_norm: LayerNorm,
}

/// Guesses words that are masked.
#[derive(Clone, Debug)]
struct MaskedHead {
    transform: Linear,
    activation: Activation,
    norm: LayerNorm,
    words: Linear,
    bias: Vector,
}

impl Bert {
    /// Reads the configuration and places every weight, in the order in which a pass uses them. A pooler and a head that
    /// guesses masked words are optional, and aside of the schedule.
    ///
    /// # Errors
    /// [`ModelError`] if the configuration is invalid or wants what is not supported, or if tensors are missing.
    pub fn place(checkpoint: &Checkpoint, layout: &mut Layout<'_>) -> Result<Self, ModelError> {
        let json = Config::beside(checkpoint)?;
        let (hidden, heads) = (json.count("hidden_size")?, json.count("num_attention_heads")?);
        if hidden % heads != 0 {
            return Err(json.invalid(format!("hidden_size {hidden} is no multiple of num_attention_heads {heads}")));
        }
        let config = LmConfig {
            architecture: "bert",
            vocabulary: json.count("vocab_size")?,
            hidden,
            intermediate: json.count("intermediate_size")?,
            layers: json.count("num_hidden_layers")?,
            heads,
            kv_heads: heads,
            head_dim: hidden / heads,
            max_positions: json.count_or("max_position_embeddings", 512)?,
        };
        for key in ["is_decoder", "add_cross_attention"] {
            if json.or(key, false)? {
                return Err(ModelError::unsupported("BERT option", key, "encoders"));
            }
        }
        let kind = json.or("position_embedding_type", "absolute".to_owned())?;
        if kind != "absolute" {
            return Err(ModelError::unsupported("position_embedding_type", &kind, "absolute"));
        }
        let epsilon = json.or("layer_norm_eps", 1e-12)?;
        let activation: Activation = json.or("hidden_act", "gelu".to_owned())?.parse()?;

        // Checkpoints saved from the bare encoder lack the prefix.
        let has = |layout: &Layout<'_>, name: &str| layout.index().get(name).is_some();
        let prefix = if has(layout, "bert.embeddings.word_embeddings.weight") { "bert." } else { "" };
        let table = |layout: &Layout<'_>, name, rows| {
            Embedding::find(layout, &format!("{prefix}embeddings.{name}_embeddings.weight"), rows, hidden)
        };
        let linear = |layout: &mut Layout<'_>, name: &str, inputs, outputs| {
            Linear::place(layout, name, inputs, outputs)?.with_bias(layout)
        };
        let words = table(layout, "word", config.vocabulary)?;
        let positions = table(layout, "position", config.max_positions)?;
        let segments = table(layout, "token_type", json.count_or("type_vocab_size", 2)?)?;
        let norm = LayerNorm::place(layout, &format!("{prefix}embeddings.LayerNorm"), hidden, epsilon)?;
        let layers = (0..config.layers).map(|index| {
            let name = |part: &str| format!("{prefix}encoder.layer.{index}.{part}");
            Ok(Layer {
                query: linear(layout, &name("attention.self.query"), hidden, hidden)?,
                key: linear(layout, &name("attention.self.key"), hidden, hidden)?,
                value: linear(layout, &name("attention.self.value"), hidden, hidden)?,
                output: linear(layout, &name("attention.output.dense"), hidden, hidden)?,
                attention_norm: LayerNorm::place(layout, &name("attention.output.LayerNorm"), hidden, epsilon)?,
                mlp: Mlp {
                    up: linear(layout, &name("intermediate.dense"), hidden, config.intermediate)?,
                    activation,
                    down: linear(layout, &name("output.dense"), config.intermediate, hidden)?,
                },
                mlp_norm: LayerNorm::place(layout, &name("output.LayerNorm"), hidden, epsilon)?,
            })
        });
        let layers = layers.collect::<Result<_, LayoutError>>()?;

        layout.begin(Phase::Aside);
        let pooler = format!("{prefix}pooler.dense");
        let pooler = match has(layout, &format!("{pooler}.weight")) {
            true => Some(linear(layout, &pooler, hidden, hidden)?),
            false => None,
        };
        let head = "cls.predictions";
        let masked_head = match has(layout, &format!("{head}.transform.dense.weight")) {
            true => Some(MaskedHead {
                transform: linear(layout, &format!("{head}.transform.dense"), hidden, hidden)?,
                activation,
                norm: LayerNorm::place(layout, &format!("{head}.transform.LayerNorm"), hidden, epsilon)?,
                words: {
                    let tied = json.or("tie_word_embeddings", true)?;
                    let own = format!("{head}.decoder");
                    let name = if tied { format!("{prefix}embeddings.word_embeddings") } else { own };
                    Linear::place(layout, &name, hidden, config.vocabulary)?
                },
                bias: Vector::place(layout, &format!("{head}.bias"), config.vocabulary)?,
            }),
            false => None,
        };
        layout.begin(Phase::Pass);
        Ok(Self { config, words, positions, segments, norm, layers, pooler, masked_head })
    }
}

impl TextEncoder for Bert {
    fn config(&self) -> &LmConfig {
        &self.config
    }

    fn encode(&self, weights: &Weights, input: &EncoderInput<'_>, keep: Keep) -> Result<Vec<Activations>, ModelError> {
        let (mut cache, count) = self.config.begin_encoder(weights, input)?;
        let positions: Vec<u32> = cache.next_positions(count).collect();
        let one_segment = vec![0; input.tokens.len()];
        let segments = if input.segments.is_empty() { &one_segment } else { input.segments };
        if segments.len() != input.tokens.len() {
            return Err(ModelError::Rows { tokens: segments.len(), batch: cache.batch() });
        }
        if let Some(&segment) = segments.iter().find(|&&segment| segment as usize >= self.segments.rows()) {
            return Err(ModelError::Token { token: segment, vocabulary: self.segments.rows() });
        }
        let mask = Mask::all(&cache, count, count, weights);
        let mut x = self.words.forward(weights, input.tokens)?;
        x.add(self.positions.forward(weights, &positions)?);
        x.add(self.segments.forward(weights, segments)?);
        let mut x = self.norm.forward(weights, &x)?;
        let mut states = Vec::new();
        for layer in &self.layers {
            if keep == Keep::All {
                states.push(x.duplicate(weights));
            }
            x = layer.forward(weights, x, &self.config, &mask, &mut cache)?;
        }
        states.push(x);
        Ok(states)
    }

    fn pool(
        &self,
        weights: &Weights,
        input: &EncoderInput<'_>,
        hidden: &Activations,
    ) -> Result<Option<Activations>, ModelError> {
        let Some(pooler) = &self.pooler else { return Ok(None) };
        let rows = input.padding.iter().enumerate();
        let first: Vec<usize> = rows.map(|(row, &pad)| row * input.row_len() + pad).collect();
        let first = hidden.select_rows(weights, &first);
        Ok(Some(Activation::Tanh.apply(pooler.forward(weights, &first)?)))
    }

    fn masked_logits(&self, weights: &Weights, hidden: &Activations) -> Result<Option<Activations>, ModelError> {
        let Some(head) = &self.masked_head else { return Ok(None) };
        let x = head.activation.apply(head.transform.forward(weights, hidden)?);
        let x = head.norm.forward(weights, &x)?;
        Ok(Some(head.bias.add_to(weights, head.words.forward(weights, &x)?)?))
    }
}

impl Layer {
    fn forward(
        &self,
        weights: &Weights,
        mut x: Activations,
        config: &LmConfig,
        mask: &Mask,
        cache: &mut KvCache,
    ) -> Result<Activations, ModelError> {
        let queries = self.query.forward(weights, &x)?;
        let keys = self.key.forward(weights, &x)?;
        cache.append(0, keys, self.value.forward(weights, &x)?);
        let scale = (config.head_dim as f64).powf(-0.5);
        let mixed = attend(weights, queries, cache, 0, mask, &Scores::scaled(scale));
        x.add(self.output.forward(weights, &mixed)?);
        drop(mixed);
        let mut x = self.attention_norm.forward(weights, &x)?;
        x.add(self.mlp.forward(weights, &x)?);
        Ok(self.mlp_norm.forward(weights, &x)?)
    }
}
