//! GPT-2 (Radford et al., 2019).

use smoke_burn::layers::Linear;
use smoke_burn::{Layout, LayoutError};
use smoke_storage::Checkpoint;

use crate::blueprint::{Bias, Blueprint};
use crate::decoder::{Decoder, View};
use crate::error::ModelError;
use crate::model::LmConfig;
use crate::parts::{Mlp, PreNormLayer, Qkv, SelfAttention};

/// Places a GPT-2 model.
///
/// # Errors
/// [`ModelError`] if the configuration is invalid or wants what is not supported, or if tensors are missing.
pub fn place(checkpoint: &Checkpoint, layout: &mut Layout<'_>) -> Result<Decoder, ModelError> {
    let mut model =
        Blueprint::open(checkpoint, layout, "ln_f", &["transformer."])?.assume([("tie_word_embeddings", true.into())]);
    let options = model.config();
    let config = sizes(&model, "gpt2")?;
    for key in ["add_cross_attention", "reorder_and_upcast_attn"] {
        options.only(key, &[false.into()])?;
    }
    let epsilon = options.or("layer_norm_epsilon", 1e-5)?;
    let activation = options.activation("activation_function", "gelu_new")?;
    let scaled = options.or("scale_attn_weights", true)?;
    let scaled_by_layer = options.or("scale_attn_by_inverse_layer_idx", false)?;

    let hidden = config.hidden;
    let layers = (0..config.layers).map(|layer| {
        let name = |part: &str| format!("h.{layer}.{part}");
        let per_head = if scaled { config.attention_scale() } else { 1.0 };
        let per_layer = if scaled_by_layer { 1.0 / (layer + 1) as f64 } else { 1.0 };
        let layer = PreNormLayer {
            attention_norm: model.layer_norm(&name("ln_1"), hidden, epsilon)?.into(),
            attention: SelfAttention {
                layer,
                view: 0,
                projections: Qkv::Fused {
                    linear: conv1d(&mut model, &name("attn.c_attn"), hidden, 3 * hidden)?,
                    queries: hidden,
                },
                head_norms: None,
                output: conv1d(&mut model, &name("attn.c_proj"), hidden, hidden)?,
                scale: per_head * per_layer,
                softcap: None,
            },
            mlp_norm: model.layer_norm(&name("ln_2"), hidden, epsilon)?.into(),
            mlp: Box::new(Mlp {
                up: conv1d(&mut model, &name("mlp.c_fc"), hidden, config.intermediate)?,
                activation,
                down: conv1d(&mut model, &name("mlp.c_proj"), config.intermediate, hidden)?,
            }),
        };
        Ok::<_, ModelError>(Box::new(layer) as _)
    });
    let layers = layers.collect::<Result<_, _>>()?;
    let norm = model.layer_norm("ln_f", hidden, epsilon)?.into();
    let ends = model.embedding_and_head(["wte", "lm_head"], [config.vocabulary, hidden], Bias::Absent)?;
    let positions = Some(model.embedding("wpe", config.max_positions, hidden)?);
    Ok(Decoder { positions, ..Decoder::new(config, ends, vec![View::default()], layers, norm) })
}

/// The sizes of GPT-2 and GPT-J, by their own names.
pub(crate) fn sizes(model: &Blueprint<'_, '_>, architecture: &'static str) -> Result<LmConfig, ModelError> {
    let config = model.config();
    let (hidden, heads) = (config.count("n_embd")?, config.count("n_head")?);
    if !hidden.is_multiple_of(heads) {
        return Err(config.invalid(format!("{hidden} features cannot be shared by {heads} attention heads evenly")));
    }
    Ok(LmConfig {
        architecture,
        vocabulary: config.count("vocab_size")?,
        hidden,
        intermediate: config.count_or("n_inner", 4 * hidden)?,
        layers: config.count("n_layer")?,
        heads,
        kv_heads: heads,
        head_dim: hidden / heads,
        max_positions: config.count_or("n_positions", 1024)?,
    })
}

/// Transformers stores GPT-2's matrices transposed; GGUF files have them as all others.
fn conv1d(model: &mut Blueprint<'_, '_>, name: &str, inputs: usize, outputs: usize) -> Result<Linear, LayoutError> {
    if model.config().is_gguf() {
        return model.linear(name, inputs, outputs, Bias::Added);
    }
    let name = model.name(name);
    Linear::place_conv1d(model.layout(), &name, inputs, outputs)?.with_bias(model.layout())
}
