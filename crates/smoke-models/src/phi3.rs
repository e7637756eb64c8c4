//! Phi-3 (Abdin et al., 2024): LLaMA with fused projections.

use smoke_burn::Layout;
use smoke_storage::Checkpoint;

use crate::blueprint::{Bias, Blueprint};
use crate::decoder::{Decoder, View};
use crate::error::ModelError;
use crate::layer_kinds::LayerKind;
use crate::llama::{decoder, open};
use crate::model::LmConfig;
use crate::parts::{FusedGatedMlp, PreNormLayer, Qkv, SelfAttention};
use crate::rope::RopeDefaults;

/// Places a Phi-3, Phi-3.5 or Phi-4 model.
///
/// # Errors
/// [`ModelError`] if the configuration is invalid or wants what is not supported, or if tensors are missing.
pub fn place(checkpoint: &Checkpoint, layout: &mut Layout<'_>) -> Result<Decoder, ModelError> {
    let mut model = open(checkpoint, layout)?.assume([("rms_norm_eps", 1e-5.into())]);
    let config = LmConfig::read(model.config(), "phi3")?;
    let rotary = RopeDefaults::new(config.head_dim).read(&model, LayerKind::Full)?;
    let views = vec![View { rotary: Some(rotary), window: model.config().window("sliding_window")? }];
    decoder(&mut model, config, views, |model, config, layer| {
        Ok(Box::new(PreNormLayer {
            attention_norm: model.rms_norm(&format!("layers.{layer}.input_layernorm"), config.hidden)?.into(),
            attention: attention(model, config, layer)?,
            mlp_norm: model.rms_norm(&format!("layers.{layer}.post_attention_layernorm"), config.hidden)?.into(),
            mlp: Box::new(mlp(model, config, layer)?),
        }))
    })
}

fn attention(model: &mut Blueprint<'_, '_>, config: &LmConfig, layer: usize) -> Result<SelfAttention, ModelError> {
    let name = |part| format!("layers.{layer}.self_attn.{part}");
    let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let linear = model.linear(&name("qkv_proj"), config.hidden, queries + 2 * keys, Bias::Absent)?;
    Ok(SelfAttention {
        layer,
        view: 0,
        projections: Qkv::Fused { linear, queries },
        head_norms: None,
        output: model.linear(&name("o_proj"), queries, config.hidden, Bias::Absent)?,
        scale: config.attention_scale(),
        softcap: None,
    })
}

fn mlp(model: &mut Blueprint<'_, '_>, config: &LmConfig, layer: usize) -> Result<FusedGatedMlp, ModelError> {
    let name = |part| format!("layers.{layer}.mlp.{part}");
    Ok(FusedGatedMlp {
        gate_up: model.linear(&name("gate_up_proj"), config.hidden, 2 * config.intermediate, Bias::Absent)?,
        activation: model.config().activation("hidden_act", "silu")?,
        down: model.linear(&name("down_proj"), config.intermediate, config.hidden, Bias::Absent)?,
    })
}
