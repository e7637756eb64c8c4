//! Qwen2 and Qwen3 (Yang et al., 2024 and 2025): LLaMA with biases of queries, keys and values, or with norms of every
//! query and key head; some layers may look back a window.

use smoke_burn::Layout;
use smoke_storage::Checkpoint;

use crate::blueprint::{Bias, Blueprint};
use crate::decoder::{Decoder, View};
use crate::error::ModelError;
use crate::layer_kinds::LayerKind;
use crate::llama::{AttentionOptions, PLAIN, attention, decoder, gated_mlp, open};
use crate::model::LmConfig;
use crate::parts::{PreNormLayer, SelfAttention};
use crate::rope::RopeDefaults;

/// Places a Qwen2 or Qwen2.5 model.
///
/// # Errors
/// [`ModelError`] if the configuration is invalid or wants what is not supported, or if tensors are missing.
pub fn place_qwen2(checkpoint: &Checkpoint, layout: &mut Layout<'_>) -> Result<Decoder, ModelError> {
    place(checkpoint, layout, "qwen2", |model, config, layer, view| {
        attention(model, config, layer, AttentionOptions { qkv_bias: Bias::Added, view, ..PLAIN })
    })
}

/// Places a Qwen3 model.
///
/// # Errors
/// [`ModelError`] if the configuration is invalid or wants what is not supported, or if tensors are missing.
pub fn place_qwen3(checkpoint: &Checkpoint, layout: &mut Layout<'_>) -> Result<Decoder, ModelError> {
    place(checkpoint, layout, "qwen3", qwen3_attention)
}

/// Places the attention of a Qwen3 layer.
pub(crate) fn qwen3_attention(
    model: &mut Blueprint<'_, '_>,
    config: &LmConfig,
    layer: usize,
    view: usize,
) -> Result<SelfAttention, ModelError> {
    let bias = Bias::when(model.config().or("attention_bias", false)?);
    attention(model, config, layer, AttentionOptions { qkv_bias: bias, output_bias: bias, head_norms: true, view })
}

fn place(
    checkpoint: &Checkpoint,
    layout: &mut Layout<'_>,
    architecture: &'static str,
    attention: impl Fn(&mut Blueprint<'_, '_>, &LmConfig, usize, usize) -> Result<SelfAttention, ModelError>,
) -> Result<Decoder, ModelError> {
    let mut model = open(checkpoint, layout)?;
    let config = LmConfig::read(model.config(), architecture)?;
    let (views, view_of) = views(&model, &config)?;
    decoder(&mut model, config, views, |model, config, layer| {
        Ok(Box::new(PreNormLayer {
            attention_norm: model.rms_norm(&format!("layers.{layer}.input_layernorm"), config.hidden)?.into(),
            attention: attention(model, config, layer, view_of[layer])?,
            mlp_norm: model.rms_norm(&format!("layers.{layer}.post_attention_layernorm"), config.hidden)?.into(),
            mlp: Box::new(gated_mlp(model, config, layer, Bias::Absent)?),
        }))
    })
}

/// The whole context and the window, and which of the two each layer sees.
pub(crate) fn views(model: &Blueprint<'_, '_>, config: &LmConfig) -> Result<(Vec<View>, Vec<usize>), ModelError> {
    let options = model.config();
    let window = if options.or("use_sliding_window", false)? { options.window("sliding_window")? } else { None };
    let first_with_window = options.or("max_window_layers", 28)?;
    let kinds = LayerKind::of_layers(options, config.layers, |layer| {
        if window.is_some() && layer >= first_with_window { LayerKind::Sliding } else { LayerKind::Full }
    })?;
    let rotary = Some(RopeDefaults::new(config.head_dim).read(model, LayerKind::Full)?);
    let views = vec![View { rotary: rotary.clone(), window: None }, View { rotary, window }];
    Ok((views, kinds.into_iter().map(LayerKind::view).collect()))
}
