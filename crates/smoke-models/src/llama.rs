//! LLaMA 1 to 3 (Touvron et al., 2023; Grattafiori et al., 2024) and models of the same build, such as SmolLM2.

use smoke_burn::layers::{Embedding, Linear};
use smoke_burn::{Activations, Layout, LayoutError, Weights};
use smoke_core::Encoding;
use smoke_storage::{Checkpoint, WeightSource};

use crate::config::Config;
use crate::error::ModelError;
use crate::model::{CausalLm, LmConfig, Output, Want};
use crate::parts::{
    Activation, GatedMlp, KvCache, Mask, Pairing, RmsNorm, RopeScaling, Rotary, Rotation, Scores, attend,
};

/// A LLaMA model without its weights.
#[derive(Clone, Debug)]
pub struct Llama {
    config: LmConfig,
    embedding: Embedding,
    layers: Vec<Layer>,
    norm: RmsNorm,
    head: Linear,
    rotary: Rotary,
}

#[derive(Clone, Debug)]
struct Layer {
    attention_norm: RmsNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    mlp_norm: RmsNorm,
    mlp: GatedMlp,
}

impl Llama {
    /// Reads the configuration and places every weight, in the order in which a pass uses them.
    ///
    /// # Errors
    /// [`ModelError`] if the configuration is invalid or wants what is not supported, or if tensors are missing.
    pub fn place(checkpoint: &Checkpoint, layout: &mut Layout<'_>) -> Result<Self, ModelError> {
        let (options, names) = match Config::of_gguf(checkpoint) {
            Some(config) => (Options::from_gguf(&config, checkpoint)?, Names::GGUF),
            None => (Options::from_json(&Config::beside(checkpoint)?)?, Names::of_transformers(checkpoint)),
        };
        let Options { config, epsilon, activation, rotary, attention_bias, mlp_bias, tied } = options;
        let embedding = Embedding::find(layout, &names.embedding(), config.vocabulary, config.hidden)?;
        let layers = (0..config.layers).map(|index| {
            let linear = |layout: &mut Layout<'_>, name, inputs, outputs, bias: Bias| {
                let linear = Linear::place(layout, &names.layer(index, name), inputs, outputs)?;
                if bias == Bias::Added { linear.with_bias(layout) } else { Ok(linear) }
            };
            let norm = |layout: &mut Layout<'_>, name| {
                RmsNorm::place(layout, &names.layer(index, name), config.hidden, epsilon)
            };
            let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
            Ok(Layer {
                attention_norm: norm(layout, names.attention_norm)?,
                query: linear(layout, names.query, config.hidden, queries, attention_bias)?,
                key: linear(layout, names.key, config.hidden, keys, attention_bias)?,
                value: linear(layout, names.value, config.hidden, keys, attention_bias)?,
                output: linear(layout, names.output, queries, config.hidden, attention_bias)?,
                mlp_norm: norm(layout, names.mlp_norm)?,
                mlp: GatedMlp {
                    gate: linear(layout, names.gate, config.hidden, config.intermediate, mlp_bias)?,
                    up: linear(layout, names.up, config.hidden, config.intermediate, mlp_bias)?,
                    activation,
                    down: linear(layout, names.down, config.intermediate, config.hidden, mlp_bias)?,
                },
            })
        });
        let layers = layers.collect::<Result<_, LayoutError>>()?;
        let norm = RmsNorm::place(layout, &names.norm(), config.hidden, epsilon)?;
        let head = if tied { names.embedding_module() } else { names.head.to_owned() };
        let head = Linear::place(layout, &head, config.hidden, config.vocabulary)?;
        Ok(Self { embedding: embedding.shared_with(&head), config, layers, norm, head, rotary })
    }
}

impl CausalLm for Llama {
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
        let rotation = self.rotary.at(cache.next_positions(count), weights);
        let mask = Mask::causal(cache, count, weights);
        let mut hidden_states = Vec::new();
        let mut x = self.embedding.forward(weights, tokens)?;
        for (index, layer) in self.layers.iter().enumerate() {
            if want == Want::HiddenStates {
                hidden_states.push(x.duplicate(weights));
            }
            layer.forward(weights, &mut x, index, &self.config, &rotation, &mask, cache)?;
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
    #[allow(clippy::too_many_arguments, reason = "all of them change from layer to layer or from pass to pass")]
    fn forward(
        &self,
        weights: &Weights,
        x: &mut Activations,
        index: usize,
        config: &LmConfig,
        rotation: &Rotation,
        mask: &Mask,
        cache: &mut KvCache,
    ) -> Result<(), ModelError> {
        let normed = self.attention_norm.forward(weights, x)?;
        let queries = rotation.apply(self.query.forward(weights, &normed)?);
        let keys = rotation.apply(self.key.forward(weights, &normed)?);
        cache.append(index, keys, self.value.forward(weights, &normed)?);
        let scale = (config.head_dim as f64).powf(-0.5);
        let mixed = attend(weights, queries, cache, index, mask, &Scores::scaled(scale));
        x.add(self.output.forward(weights, &mixed)?);
        let normed = self.mlp_norm.forward(weights, x)?;
        x.add(self.mlp.forward(weights, &normed)?);
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bias {
    Added,
    Absent,
}

impl Bias {
    fn new(added: bool) -> Self {
        if added { Self::Added } else { Self::Absent }
    }
}

/// What the configuration says.
#[derive(Debug)]
struct Options {
    config: LmConfig,
    epsilon: f64,
    activation: Activation,
    rotary: Rotary,
    attention_bias: Bias,
    mlp_bias: Bias,
    tied: bool,
}

impl Options {
    fn from_json(json: &Config) -> Result<Self, ModelError> {
        let heads = json.count("num_attention_heads")?;
        let hidden = json.count("hidden_size")?;
        let config = LmConfig {
            architecture: "llama",
            vocabulary: json.count("vocab_size")?,
            hidden,
            intermediate: json.count("intermediate_size")?,
            layers: json.count("num_hidden_layers")?,
            heads,
            kv_heads: json.count_or("num_key_value_heads", heads)?,
            head_dim: json.count_or("head_dim", hidden / heads)?,
            max_positions: json.count_or("max_position_embeddings", 2048)?,
        };
        check_heads(&config, json)?;
        let (theta, scaling) = rope(json)?;
        Ok(Self {
            rotary: Rotary::new(config.head_dim, theta, scaling, Pairing::Halves),
            epsilon: json.or("rms_norm_eps", 1e-6)?,
            activation: json.or("hidden_act", "silu".to_owned())?.parse()?,
            attention_bias: Bias::new(json.or("attention_bias", false)?),
            mlp_bias: Bias::new(json.or("mlp_bias", false)?),
            tied: json.or("tie_word_embeddings", false)?,
            config,
        })
    }

    fn from_gguf(gguf: &Config, checkpoint: &Checkpoint) -> Result<Self, ModelError> {
        let heads = gguf.count("llama.attention.head_count")?;
        let hidden = gguf.count("llama.embedding_length")?;
        // The vocabulary's size is that of its table; the key is optional.
        let rows = checkpoint.index().get("token_embd.weight").and_then(|table| table.shape.first());
        let head_dim = gguf.count_or("llama.attention.key_length", hidden / heads)?;
        let config = LmConfig {
            architecture: "llama",
            vocabulary: gguf.count_or("llama.vocab_size", rows.copied().unwrap_or_default() as usize)?,
            hidden,
            intermediate: gguf.count("llama.feed_forward_length")?,
            layers: gguf.count("llama.block_count")?,
            heads,
            kv_heads: gguf.count_or("llama.attention.head_count_kv", heads)?,
            head_dim,
            max_positions: gguf.count("llama.context_length")?,
        };
        check_heads(&config, gguf)?;
        let turned = gguf.count_or("llama.rope.dimension_count", head_dim)?;
        if turned != head_dim {
            return Err(gguf.invalid(format!("llama.rope.dimension_count is {turned}, but heads have {head_dim}")));
        }
        let theta = positive(gguf, "llama.rope.freq_base", gguf.or("llama.rope.freq_base", 10_000.0)?)?;
        if gguf.optional::<u64>("llama.expert_count")?.is_some_and(|experts| experts > 0) {
            return Err(ModelError::unsupported("GGUF architecture", "llama with experts", "dense llama"));
        }
        let scaling = match gguf.or("llama.rope.scaling.type", "none".to_owned())?.as_str() {
            "none" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: gguf.required("llama.rope.scaling.factor")? },
            other => return Err(ModelError::unsupported("llama.rope.scaling.type", other, "none, linear")),
        };
        let mut rotary = Rotary::new(head_dim, theta, scaling, Pairing::Neighbours);
        if let Some(factors) = rope_factors(checkpoint, head_dim / 2, gguf)? {
            rotary = rotary.with_factors(&factors);
        }
        let has = |name: &str| checkpoint.index().get(name).is_some();
        Ok(Self {
            config,
            epsilon: gguf.required("llama.attention.layer_norm_rms_epsilon")?,
            activation: Activation::Silu,
            rotary,
            attention_bias: Bias::new(has("blk.0.attn_q.bias")),
            mlp_bias: Bias::new(has("blk.0.ffn_up.bias")),
            tied: !has("output.weight"),
        })
    }
}

fn check_heads(config: &LmConfig, source: &Config) -> Result<(), ModelError> {
    let LmConfig { heads, kv_heads, head_dim, .. } = config;
    if heads % kv_heads != 0 {
        return Err(source.invalid(format!("{heads} attention heads cannot share {kv_heads} key-value heads evenly")));
    }
    if head_dim % 2 != 0 {
        return Err(source.invalid(format!("heads of {head_dim} elements cannot be turned in pairs")));
    }
    Ok(())
}

/// The base and scaling of rotary embeddings, from `rope_parameters` or from the older `rope_theta` and `rope_scaling`.
fn rope(json: &Config) -> Result<(f64, RopeScaling), ModelError> {
    let parameters = json.section("rope_parameters")?;
    let theta: Option<f64> = parameters.as_ref().map_or(Ok(None), |parameters| parameters.optional("rope_theta"))?;
    let theta = positive(json, "rope_theta", theta.map_or_else(|| json.or("rope_theta", 10_000.0), Ok)?)?;
    let turned: f64 = json.or("partial_rotary_factor", 1.0)?;
    if turned != 1.0 {
        return Err(ModelError::unsupported("partial_rotary_factor", &turned.to_string(), "1"));
    }
    let Some(scaling) = parameters.map_or_else(|| json.section("rope_scaling"), |found| Ok(Some(found)))? else {
        return Ok((theta, RopeScaling::None));
    };
    let kind = match scaling.optional::<String>("rope_type")? {
        Some(kind) => kind,
        None => scaling.or("type", "default".to_owned())?,
    };
    let scaling = match kind.as_str() {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: positive(json, "factor", scaling.required("factor")?)? },
        "llama3" => RopeScaling::Llama3 {
            factor: positive(json, "factor", scaling.required("factor")?)?,
            low_frequency_factor: scaling.required("low_freq_factor")?,
            high_frequency_factor: scaling.required("high_freq_factor")?,
            original_context: scaling.required("original_max_position_embeddings")?,
        },
        other => return Err(ModelError::unsupported("rope_type", other, "default, linear, llama3")),
    };
    Ok((theta, scaling))
}

/// A number that is divided by.
fn positive(config: &Config, key: &str, value: f64) -> Result<f64, ModelError> {
    if value > 0.0 && value.is_finite() { Ok(value) } else { Err(config.invalid(format!("key `{key}` is {value}"))) }
}

/// Scaled frequencies that llama.cpp's converter stores as a tensor of divisors.
fn rope_factors(checkpoint: &Checkpoint, len: usize, gguf: &Config) -> Result<Option<Vec<f32>>, ModelError> {
    let Some(info) = checkpoint.index().get("rope_freqs.weight") else {
        return Ok(None);
    };
    if info.encoding != Encoding::F32 || info.shape != [len as u64] {
        return Err(gguf.invalid(format!("rope_freqs.weight must be {len} F32 elements")));
    }
    let mut bytes = vec![0; len * size_of::<f32>()];
    checkpoint.read_at(info.extent, &mut bytes).map_err(|error| gguf.invalid(error.to_string()))?;
    let floats = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    Ok(Some(floats.collect()))
}

/// What the tensors are called; `.weight` and `.bias` follow.
#[derive(Clone, Copy, Debug)]
struct Names {
    prefix: &'static str,
    layers: &'static str,
    embedding: &'static str,
    attention_norm: &'static str,
    query: &'static str,
    key: &'static str,
    value: &'static str,
    output: &'static str,
    mlp_norm: &'static str,
    gate: &'static str,
    up: &'static str,
    down: &'static str,
    norm: &'static str,
    head: &'static str,
}

impl Names {
    const TRANSFORMERS: Self = Self {
        prefix: "model.",
        layers: "layers",
        embedding: "embed_tokens",
        attention_norm: "input_layernorm",
        query: "self_attn.q_proj",
        key: "self_attn.k_proj",
        value: "self_attn.v_proj",
        output: "self_attn.o_proj",
        mlp_norm: "post_attention_layernorm",
        gate: "mlp.gate_proj",
        up: "mlp.up_proj",
        down: "mlp.down_proj",
        norm: "norm",
        head: "lm_head",
    };

    const GGUF: Self = Self {
        prefix: "",
        layers: "blk",
        embedding: "token_embd",
        attention_norm: "attn_norm",
        query: "attn_q",
        key: "attn_k",
        value: "attn_v",
        output: "attn_output",
        mlp_norm: "ffn_norm",
        gate: "ffn_gate",
        up: "ffn_up",
        down: "ffn_down",
        norm: "output_norm",
        head: "output",
    };

    /// Checkpoints saved from the bare decoder lack the prefix.
    fn of_transformers(checkpoint: &Checkpoint) -> Self {
        let names = Self::TRANSFORMERS;
        if checkpoint.index().get(&names.embedding()).is_some() { names } else { Self { prefix: "", ..names } }
    }

    fn layer(&self, index: usize, name: &str) -> String {
        format!("{}{}.{index}.{name}", self.prefix, self.layers)
    }

    fn embedding_module(&self) -> String {
        format!("{}{}", self.prefix, self.embedding)
    }

    fn embedding(&self) -> String {
        format!("{}.weight", self.embedding_module())
    }

    fn norm(&self) -> String {
        format!("{}{}", self.prefix, self.norm)
    }
}
