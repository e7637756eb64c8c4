//! LLaMA 1 to 3 (Touvron et al., 2023; Grattafiori et al., 2024), models of the same build, such as SmolLM2, and what its
//! descendants share with it.

use smoke_burn::Layout;
use smoke_storage::Checkpoint;

use crate::blueprint::{Bias, Blueprint};
use crate::decoder::{Decoder, DecoderLayer, View};
use crate::error::ModelError;
use crate::layer_kinds::LayerKind;
use crate::model::LmConfig;
use crate::parts::{GatedMlp, Pairing, PreNormLayer, Qkv, SelfAttention};
use crate::rope::RopeDefaults;

/// Places a LLaMA model.
///
/// # Errors
/// [`ModelError`] if the configuration is invalid or wants what is not supported, or if tensors are missing.
pub fn place(checkpoint: &Checkpoint, layout: &mut Layout<'_>) -> Result<Decoder, ModelError> {
    let mut model = open(checkpoint, layout)?;
    model.config().only("num_local_experts", &[0.into()])?;
    let config = LmConfig::read(model.config(), "llama")?;
    let bias = Bias::when(model.config().or("attention_bias", false)?);
    let mlp_bias = Bias::when(model.config().or("mlp_bias", false)?);
    // Transformers' checkpoints have the rows of queries and keys reordered, llama.cpp's as they were trained.
    let pairing = if model.config().is_gguf() { Pairing::Neighbours } else { Pairing::Halves };
    let rope = RopeDefaults { pairing, ..RopeDefaults::new(config.head_dim) };
    let views = vec![View { rotary: Some(rope.read(&model, LayerKind::Full)?), window: None }];
    decoder(&mut model, config, views, |model, config, layer| {
        Ok(Box::new(PreNormLayer {
            attention_norm: model.rms_norm(&format!("layers.{layer}.input_layernorm"), config.hidden)?.into(),
            attention: attention(
                model,
                config,
                layer,
                AttentionOptions { qkv_bias: bias, output_bias: bias, ..PLAIN },
            )?,
            mlp_norm: model.rms_norm(&format!("layers.{layer}.post_attention_layernorm"), config.hidden)?.into(),
            mlp: Box::new(gated_mlp(model, config, layer, mlp_bias)?),
        }))
    })
}

/// Opens a checkpoint whose decoder is called `model`, and where it also sees pictures, the `language_model`.
///
/// # Errors
/// [`ModelError`] if the configuration is absent or invalid.
pub fn open<'a, 'i>(checkpoint: &'a Checkpoint, layout: &'a mut Layout<'i>) -> Result<Blueprint<'a, 'i>, ModelError> {
    Blueprint::open(checkpoint, layout, "norm", &["model.", "model.language_model.", "language_model.model."])
}

/// Places a decoder whose embedding, last norm and head are LLaMA's; `layer` places each of its layers.
///
/// # Errors
/// [`ModelError`] if tensors are missing.
pub fn decoder<'a, 'i>(
    model: &mut Blueprint<'a, 'i>,
    config: LmConfig,
    views: Vec<View>,
    mut layer: impl FnMut(&mut Blueprint<'a, 'i>, &LmConfig, usize) -> Result<Box<dyn DecoderLayer>, ModelError>,
) -> Result<Decoder, ModelError> {
    let layers = (0..config.layers).map(|index| layer(model, &config, index)).collect::<Result<_, _>>()?;
    let norm = model.rms_norm("norm", config.hidden)?.into();
    let size = [config.vocabulary, config.hidden];
    let ends = model.embedding_and_head(["embed_tokens", "lm_head"], size, Bias::Absent)?;
    Ok(Decoder::new(config, ends, views, layers, norm))
}

/// What descendants change about LLaMA's attention.
#[derive(Clone, Copy, Debug)]
pub struct AttentionOptions {
    /// Whether queries, keys and values have biases.
    pub qkv_bias: Bias,
    /// Whether the output has one.
    pub output_bias: Bias,
    /// Whether every query head and every key head is normalised.
    pub head_norms: bool,
    /// Which of the decoder's views the layer has.
    pub view: usize,
}

/// No biases, no norms of heads, and the first view.
pub const PLAIN: AttentionOptions =
    AttentionOptions { qkv_bias: Bias::Absent, output_bias: Bias::Absent, head_norms: false, view: 0 };

/// Places a layer's attention with four separate projections.
///
/// # Errors
/// [`ModelError`] if tensors are missing.
pub fn attention(
    model: &mut Blueprint<'_, '_>,
    config: &LmConfig,
    layer: usize,
    options: AttentionOptions,
) -> Result<SelfAttention, ModelError> {
    let name = |part| format!("layers.{layer}.self_attn.{part}");
    let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    Ok(SelfAttention {
        layer,
        view: options.view,
        projections: Qkv::Separate([
            model.linear(&name("q_proj"), config.hidden, queries, options.qkv_bias)?,
            model.linear(&name("k_proj"), config.hidden, keys, options.qkv_bias)?,
            model.linear(&name("v_proj"), config.hidden, keys, options.qkv_bias)?,
        ]),
        head_norms: if options.head_norms {
            let mut norm = |part| model.rms_norm(&name(part), config.head_dim);
            Some([norm("q_norm")?, norm("k_norm")?])
        } else {
            None
        },
        output: model.linear(&name("o_proj"), queries, config.hidden, options.output_bias)?,
        scale: config.attention_scale(),
        softcap: None,
    })
}

/// Places a layer's gated MLP with three separate projections.
///
/// # Errors
/// [`ModelError`] if tensors are missing, or the activation is unknown.
pub fn gated_mlp(
    model: &mut Blueprint<'_, '_>,
    config: &LmConfig,
    layer: usize,
    bias: Bias,
) -> Result<GatedMlp, ModelError> {
    let name = |part| format!("layers.{layer}.mlp.{part}");
    Ok(GatedMlp {
        gate: model.linear(&name("gate_proj"), config.hidden, config.intermediate, bias)?,
        up: model.linear(&name("up_proj"), config.hidden, config.intermediate, bias)?,
        activation: model.config().activation("hidden_act", "silu")?,
        down: model.linear(&name("down_proj"), config.intermediate, config.hidden, bias)?,
    })
}
