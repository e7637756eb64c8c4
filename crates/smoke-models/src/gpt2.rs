//! GPT-2 (Radford et al., 2019).

use smoke_burn::layers::{Embedding, Linear};
use smoke_burn::{Activations, Layout, LayoutError, Weights};
use smoke_storage::{Checkpoint, WeightSource};

use crate::config::Config;
use crate::error::ModelError;
use crate::model::{CausalLm, LmConfig, Output, Want};
use crate::parts::{KvCache, LayerNorm, Mask, Mlp, Scores, attend};

/// A GPT-2 model without its weights.
#[derive(Clone, Debug)]
pub struct Gpt2 {
    config: LmConfig,
    tokens: Embedding,
    positions: Embedding,
    layers: Vec<Layer>,
    norm: LayerNorm,
    head: Linear,
}

#[derive(Clone, Debug)]
struct Layer {
    attention_norm: LayerNorm,
    qkv: Linear,
    output: Linear,
    scale: f64,
    mlp_norm: LayerNorm,
    mlp: Mlp,
}

impl Gpt2 {
    /// Reads the configuration and places every weight, in the order in which a pass uses them.
    ///
    /// # Errors
    /// [`ModelError`] if the configuration is invalid or wants what is not supported, or if tensors are missing.
    pub fn place(checkpoint: &Checkpoint, layout: &mut Layout<'_>) -> Result<Self, ModelError> {
        let json = Config::beside(checkpoint)?;
        let hidden = json.count("n_embd")?;
        let heads = json.count("n_head")?;
        let config = LmConfig {
            architecture: "gpt2",
            vocabulary: json.count("vocab_size")?,
            hidden,
            intermediate: json.count_or("n_inner", 4 * hidden)?,
            layers: json.count("n_layer")?,
            heads,
            kv_heads: heads,
            head_dim: hidden / heads,
            max_positions: json.count_or("n_positions", 1024)?,
        };
        if hidden % heads != 0 {
            return Err(json.invalid(format!("n_embd {hidden} is no multiple of n_head {heads}")));
        }
        for key in ["add_cross_attention", "reorder_and_upcast_attn"] {
            if json.or(key, false)? {
                return Err(ModelError::unsupported("GPT-2 option", key, "self-attention in f32"));
            }
        }
        let epsilon = json.or("layer_norm_epsilon", 1e-5)?;
        let activation = json.or("activation_function", "gelu_new".to_owned())?.parse()?;
        let scaled = json.or("scale_attn_weights", true)?;
        let scaled_by_layer = json.or("scale_attn_by_inverse_layer_idx", false)?;

        // Checkpoints saved from the bare decoder lack the prefix.
        let prefix = if checkpoint.index().get("transformer.wte.weight").is_some() { "transformer." } else { "" };
        let tokens = Embedding::find(layout, &format!("{prefix}wte.weight"), config.vocabulary, hidden)?;
        let positions = Embedding::find(layout, &format!("{prefix}wpe.weight"), config.max_positions, hidden)?;
        let layers = (0..config.layers).map(|index| {
            let name = |name| format!("{prefix}h.{index}.{name}");
            let linear = |layout: &mut Layout<'_>, part, inputs, outputs| {
                Linear::place_conv1d(layout, &name(part), inputs, outputs)?.with_bias(layout)
            };
            let per_head = if scaled { (config.head_dim as f64).powf(-0.5) } else { 1.0 };
            let per_layer = if scaled_by_layer { 1.0 / (index + 1) as f64 } else { 1.0 };
            Ok(Layer {
                attention_norm: LayerNorm::place(layout, &name("ln_1"), hidden, epsilon)?,
                qkv: linear(layout, "attn.c_attn", hidden, 3 * hidden)?,
                output: linear(layout, "attn.c_proj", hidden, hidden)?,
                scale: per_head * per_layer,
                mlp_norm: LayerNorm::place(layout, &name("ln_2"), hidden, epsilon)?,
                mlp: Mlp {
                    up: linear(layout, "mlp.c_fc", hidden, config.intermediate)?,
                    activation,
                    down: linear(layout, "mlp.c_proj", config.intermediate, hidden)?,
                },
            })
        });
        let layers = layers.collect::<Result<_, LayoutError>>()?;
        let norm = LayerNorm::place(layout, &format!("{prefix}ln_f"), hidden, epsilon)?;
        let tied = json.or("tie_word_embeddings", true)?;
        let head = if tied { format!("{prefix}wte") } else { "lm_head".to_owned() };
        let head = Linear::place(layout, &head, hidden, config.vocabulary)?;
        Ok(Self { tokens: tokens.shared_with(&head), config, positions, layers, norm, head })
    }
}

impl CausalLm for Gpt2 {
    fn config(&self) -> &LmConfig {
        &self.config
    }

    fn forward(
        &self,
        weights: &Weights,
        tokens: &[u32],
        cache: &mut KvCache,
        want: Want,
    ) -> Result<Output, ModelError> {
        let count = self.config.begin(weights, tokens, cache)?;
        let mask = Mask::causal(cache, count, weights);
        let positions: Vec<u32> = cache.next_positions(count).collect();
        let mut x = self.tokens.forward(weights, tokens)?;
        x.add(self.positions.forward(weights, &positions)?);
        let mut hidden_states = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            if want == Want::HiddenStates {
                hidden_states.push(x.duplicate(weights));
            }
            layer.forward(weights, &mut x, index, &mask, cache)?;
        }
        cache.advance(count);
        if want == Want::LastLogits {
            x = x.last_of_each(weights, count);
        }
        let x = self.norm.forward(weights, &x)?;
        let logits = self.head.forward(weights, &x)?;
        if want == Want::HiddenStates {
            hidden_states.push(x);
        }
        Ok(Output { logits, hidden_states })
    }
}

impl Layer {
    fn forward(
        &self,
        weights: &Weights,
        x: &mut Activations,
        index: usize,
        mask: &Mask,
        cache: &mut KvCache,
    ) -> Result<(), ModelError> {
        let hidden = x.features();
        let normed = self.attention_norm.forward(weights, x)?;
        let qkv = self.qkv.forward(weights, &normed)?;
        let part = |i: usize| qkv.slice_features(weights, i * hidden..(i + 1) * hidden);
        cache.append(index, part(1), part(2));
        let mixed = attend(weights, part(0), cache, index, mask, &Scores::scaled(self.scale));
        x.add(self.output.forward(weights, &mixed)?);
        let normed = self.mlp_norm.forward(weights, x)?;
        x.add(self.mlp.forward(weights, &normed)?);
        Ok(())
    }
}
