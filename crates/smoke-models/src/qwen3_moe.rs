//! Qwen3-MoE (Yang et al., 2025): Qwen3 with experts in most layers.

use smoke_burn::Layout;
use smoke_storage::Checkpoint;

use crate::blueprint::Bias;
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::experts::Experts;
use crate::llama::{decoder, gated_mlp, open};
use crate::model::LmConfig;
use crate::parts::{FeedForward, PreNormLayer};
use crate::qwen::{qwen3_attention, views};

/// Places a Qwen3-MoE model. Every `decoder_sparse_step`th layer has experts, but for those in `mlp_only_layers`; in a GGUF
/// file, those that have a router.
///
/// # Errors
/// [`ModelError`] if the configuration is invalid or wants what is not supported, or if tensors are missing.
pub fn place(checkpoint: &Checkpoint, layout: &mut Layout<'_>) -> Result<Decoder, ModelError> {
    let mut model = open(checkpoint, layout)?.assume([("norm_topk_prob", false.into())]);
    let options = model.config();
    let config = LmConfig::read(options, "qwen3_moe")?;
    let step = options.count_or("decoder_sparse_step", 1)?;
    let dense: Vec<usize> = options.or("mlp_only_layers", Vec::new())?;
    let inner = options.count("moe_intermediate_size")?;
    // llama.cpp's files do not say: its graph for this architecture always normalises.
    let mut experts = Experts::read(&model, inner, options.or("norm_topk_prob", true)?)?;
    let config = experts.with_activations(config);
    let (views, view_of) = views(&model, &config)?;
    let intermediate = model.config().count("intermediate_size")?;
    let decoder = decoder(&mut model, config, views, |model, config, layer| {
        let attention_norm = model.rms_norm(&format!("layers.{layer}.input_layernorm"), config.hidden)?.into();
        let attention = qwen3_attention(model, config, layer, view_of[layer])?;
        let mlp_norm = model.rms_norm(&format!("layers.{layer}.post_attention_layernorm"), config.hidden)?.into();
        let is_sparse = if model.config().is_gguf() {
            let router = format!("{}.weight", model.name(&format!("layers.{layer}.mlp.gate")));
            model.layout().index().get(&router).is_some()
        } else {
            !dense.contains(&layer) && (layer + 1).is_multiple_of(step)
        };
        let mlp: Box<dyn FeedForward> = if is_sparse {
            Box::new(experts.place(model, layer, "mlp")?)
        } else {
            let sizes = LmConfig { intermediate, ..config.clone() };
            Box::new(gated_mlp(model, &sizes, layer, Bias::Absent)?)
        };
        Ok(Box::new(PreNormLayer { attention_norm, attention, mlp_norm, mlp }))
    })?;
    Ok(experts.finish(decoder))
}
