//! Mistral (Jiang et al., 2023): LLaMA whose layers look back a window.

use smoke_burn::Layout;
use smoke_storage::Checkpoint;

use crate::blueprint::{Bias, Blueprint};
use crate::decoder::{Decoder, View};
use crate::error::ModelError;
use crate::layer_kinds::LayerKind;
use crate::llama::{PLAIN, attention, decoder, gated_mlp, open};
use crate::model::LmConfig;
use crate::parts::PreNormLayer;
use crate::rope::RopeDefaults;

/// Places a Mistral model.
///
/// # Errors
/// [`ModelError`] if the configuration is invalid or wants what is not supported, or if tensors are missing.
pub fn place(checkpoint: &Checkpoint, layout: &mut Layout<'_>) -> Result<Decoder, ModelError> {
    let mut model =
        open(checkpoint, layout)?.assume([("sliding_window", 4096.into()), ("num_key_value_heads", 8.into())]);
    let config = LmConfig::read(model.config(), "mistral")?;
    let views = vec![view(&model, &config)?];
    decoder(&mut model, config, views, |model, config, layer| {
        Ok(Box::new(PreNormLayer {
            attention_norm: model.rms_norm(&format!("layers.{layer}.input_layernorm"), config.hidden)?.into(),
            attention: attention(model, config, layer, PLAIN)?,
            mlp_norm: model.rms_norm(&format!("layers.{layer}.post_attention_layernorm"), config.hidden)?.into(),
            mlp: Box::new(gated_mlp(model, config, layer, Bias::Absent)?),
        }))
    })
}

/// What every layer sees.
pub(crate) fn view(model: &Blueprint<'_, '_>, config: &LmConfig) -> Result<View, ModelError> {
    let rotary = RopeDefaults::new(config.head_dim).read(model, LayerKind::Full)?;
    Ok(View { rotary: Some(rotary), window: model.config().window("sliding_window")? })
}
