//! Mixtral (Jiang et al., 2024): Mistral with several MLPs in each layer, of which every token takes two.

use smoke_burn::Layout;
use smoke_storage::Checkpoint;

use crate::decoder::{Decoder, View};
use crate::error::ModelError;
use crate::experts::Experts;
use crate::layer_kinds::LayerKind;
use crate::llama::{PLAIN, attention, decoder, open};
use crate::model::LmConfig;
use crate::parts::{Pairing, PreNormLayer};
use crate::rope::RopeDefaults;

/// Places a Mixtral model; its GGUF files call it `llama`.
///
/// # Errors
/// [`ModelError`] if the configuration is invalid or wants what is not supported, or if tensors are missing.
pub fn place(checkpoint: &Checkpoint, layout: &mut Layout<'_>) -> Result<Decoder, ModelError> {
    let mut model = open(checkpoint, layout)?.assume([("rope_theta", 1e6.into()), ("num_key_value_heads", 8.into())]);
    let config = LmConfig::read(model.config(), "mixtral")?;
    let mut experts = Experts::read(&model, config.intermediate, true)?;
    let config = experts.with_activations(config);
    let pairing = if model.config().is_gguf() { Pairing::Neighbours } else { Pairing::Halves };
    let rotary = RopeDefaults { pairing, ..RopeDefaults::new(config.head_dim) }.read(&model, LayerKind::Full)?;
    let views = vec![View { rotary: Some(rotary), window: model.config().window("sliding_window")? }];
    let old_name = format!("{}.weight", model.name("layers.0.block_sparse_moe.gate"));
    let module = if model.layout().index().get(&old_name).is_some() { "block_sparse_moe" } else { "mlp" };
    let decoder = decoder(&mut model, config, views, |model, config, layer| {
        Ok(Box::new(PreNormLayer {
            attention_norm: model.rms_norm(&format!("layers.{layer}.input_layernorm"), config.hidden)?.into(),
            attention: attention(model, config, layer, PLAIN)?,
            mlp_norm: model.rms_norm(&format!("layers.{layer}.post_attention_layernorm"), config.hidden)?.into(),
            mlp: Box::new(experts.place(model, layer, module)?),
        }))
    })?;
    Ok(experts.finish(decoder))
}
