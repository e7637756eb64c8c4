//! GPT-NeoX (Black et al., 2022) and Pythia: attention and MLP side by side, each behind its norm, or one after another.

use smoke_burn::{Activations, Layout};
use smoke_storage::Checkpoint;

use crate::blueprint::{Bias, Blueprint};
use crate::decoder::{Decoder, DecoderLayer, Pass, View};
use crate::error::ModelError;
use crate::layer_kinds::LayerKind;
use crate::model::LmConfig;
use crate::parts::{Mlp, Norm, PreNormLayer, Qkv, SelfAttention};
use crate::rope::RopeDefaults;

/// Places a GPT-NeoX model.
///
/// # Errors
/// [`ModelError`] if the configuration is invalid or wants what is not supported, or if tensors are missing.
pub fn place(checkpoint: &Checkpoint, layout: &mut Layout<'_>) -> Result<Decoder, ModelError> {
    let mut model = Blueprint::open(checkpoint, layout, "final_layer_norm", &["gpt_neox."])?;
    let options = model.config();
    let config = LmConfig::read(options, "gpt_neox")?;
    let (hidden, inner) = (config.hidden, config.intermediate);
    if config.kv_heads != config.heads || config.heads * config.head_dim != hidden {
        return Err(options.invalid(format!("{hidden} features cannot be shared by {} heads evenly", config.heads)));
    }
    let epsilon = options.or("layer_norm_eps", 1e-5)?;
    let activation = options.activation("hidden_act", "gelu")?;
    let bias = Bias::when(options.is_gguf() || options.or("attention_bias", true)?);
    let parallel = options.or("use_parallel_residual", true)?;
    let rope = RopeDefaults { turned: 0.25, ..RopeDefaults::new(config.head_dim) };
    let views = vec![View { rotary: Some(rope.read(&model, LayerKind::Full)?), window: None }];

    let layers = (0..config.layers).map(|layer| {
        let name = |part: &str| format!("layers.{layer}.{part}");
        let attention_norm = model.layer_norm(&name("input_layernorm"), hidden, epsilon)?.into();
        let linear = model.linear(&name("attention.query_key_value"), hidden, 3 * hidden, bias)?;
        // llama.cpp's converter takes the heads apart.
        let projections = if model.config().is_gguf() {
            Qkv::Fused { linear, queries: hidden }
        } else {
            Qkv::ByHead { linear, head_dim: config.head_dim }
        };
        let attention = SelfAttention {
            layer,
            view: 0,
            projections,
            head_norms: None,
            output: model.linear(&name("attention.dense"), hidden, hidden, bias)?,
            scale: config.attention_scale(),
            softcap: None,
        };
        let mlp_norm = model.layer_norm(&name("post_attention_layernorm"), hidden, epsilon)?.into();
        let mlp = Box::new(Mlp {
            up: model.linear(&name("mlp.dense_h_to_4h"), hidden, inner, Bias::Added)?,
            activation,
            down: model.linear(&name("mlp.dense_4h_to_h"), inner, hidden, Bias::Added)?,
        });
        let serial = PreNormLayer { attention_norm, attention, mlp_norm, mlp };
        let layer: Box<dyn DecoderLayer> = if parallel { Box::new(ParallelLayer(serial)) } else { Box::new(serial) };
        Ok::<_, ModelError>(layer)
    });
    let layers = layers.collect::<Result<_, _>>()?;
    let norm: Norm = model.layer_norm("final_layer_norm", hidden, epsilon)?.into();
    let ends = model.embedding_and_head(["embed_in", "embed_out"], [config.vocabulary, hidden], Bias::Absent)?;
    Ok(Decoder::new(config, ends, views, layers, norm))
}

/// The same parts side by side.
#[derive(Debug)]
struct ParallelLayer(PreNormLayer);

impl DecoderLayer for ParallelLayer {
    /// `x += attention(norm₁(x)) + mlp(norm₂(x))`.
    fn forward(&self, pass: &mut Pass<'_>, x: &mut Activations) -> Result<(), ModelError> {
        let Self(PreNormLayer { attention_norm, attention, mlp_norm, mlp }) = self;
        let normed = attention_norm.forward(pass.weights, x)?;
        let attended = attention.forward(pass, &normed)?;
        let normed = mlp_norm.forward(pass.weights, x)?;
        x.add(attended);
        x.add(mlp.forward(pass.weights, &normed)?);
        Ok(())
    }
}
