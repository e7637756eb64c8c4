//! Gemma 2 and the text part of Gemma 3 (Gemma Team, 2024 and 2025): norms before and behind attention and MLP, layers that
//! look back a window between those that see everything, and caps on what Gemma 2's attention and head may say.

use smoke_burn::{Activations, Layout};
use smoke_storage::Checkpoint;

use crate::blueprint::{Bias, Blueprint};
use crate::config::Config;
use crate::decoder::{Decoder, DecoderLayer, Pass, View};
use crate::error::ModelError;
use crate::layer_kinds::LayerKind;
use crate::llama::{AttentionOptions, PLAIN, attention, decoder, gated_mlp, open};
use crate::model::LmConfig;
use crate::parts::{FeedForward, GatedMlp, RmsNorm, SelfAttention};
use crate::rope::RopeDefaults;

/// Places a Gemma 2 model.
///
/// # Errors
/// [`ModelError`] if the configuration is invalid or wants what is not supported, or if tensors are missing.
pub fn place_gemma2(checkpoint: &Checkpoint, layout: &mut Layout<'_>) -> Result<Decoder, ModelError> {
    let model = open(checkpoint, layout)?.with_unit_norms().assume([
        ("head_dim", 256.into()),
        ("sliding_window", 4096.into()),
        ("query_pre_attn_scalar", 256.into()),
        ("attn_logit_softcapping", 50.0.into()),
        ("final_logit_softcapping", 30.0.into()),
    ]);
    let config = LmConfig::read(model.config(), "gemma2")?;
    let rotary = RopeDefaults::new(config.head_dim).read(&model, LayerKind::Full)?;
    let window = model.config().window("sliding_window")?;
    let views = vec![View { rotary: Some(rotary.clone()), window: None }, View { rotary: Some(rotary), window }];
    place(model, config, views, 2, PLAIN)
}

/// Places a Gemma 3 model; of one that also sees pictures, the part that reads and writes text.
///
/// # Errors
/// [`ModelError`] if the configuration is invalid or wants what is not supported, or if tensors are missing.
pub fn place_gemma3(checkpoint: &Checkpoint, layout: &mut Layout<'_>) -> Result<Decoder, ModelError> {
    let model = open(checkpoint, layout)?.with_unit_norms().assume([
        ("vocab_size", 262_208.into()),
        ("num_attention_heads", 8.into()),
        ("num_key_value_heads", 4.into()),
        ("head_dim", 256.into()),
        ("max_position_embeddings", 131_072.into()),
        ("sliding_window", 4096.into()),
        ("query_pre_attn_scalar", 256.into()),
        ("rope_local_base_freq", 10_000.0.into()),
    ]);
    let config = LmConfig::read(model.config(), "gemma3")?;
    let rope = RopeDefaults { theta: 1_000_000.0, ..RopeDefaults::new(config.head_dim) };
    let views = vec![
        View { rotary: Some(rope.read(&model, LayerKind::Full)?), window: None },
        View {
            rotary: Some(rope.read_local(&model, "rope_local_base_freq")?),
            window: model.config().window("sliding_window")?,
        },
    ];
    let options = model.config();
    let pattern = options.optional("sliding_window_pattern")?.or(options.optional("_sliding_window_pattern")?);
    place(model, config, views, pattern.unwrap_or(6), AttentionOptions { head_norms: true, ..PLAIN })
}

/// Of every `pattern` layers the last sees everything.
fn place(
    model: Blueprint<'_, '_>,
    config: LmConfig,
    views: Vec<View>,
    pattern: usize,
    attention_options: AttentionOptions,
) -> Result<Decoder, ModelError> {
    let mut model = model.assume([("tie_word_embeddings", true.into())]);
    let options = model.config();
    options.only("use_bidirectional_attention", &[false.into()])?;
    let kinds = LayerKind::of_layers(options, config.layers, |layer| {
        if (layer + 1).is_multiple_of(pattern) { LayerKind::Full } else { LayerKind::Sliding }
    })?;
    let bias = Bias::when(options.or("attention_bias", false)?);
    let scale = query_scalar(options, &config)?.powf(-0.5);
    let softcap = options.optional_positive("attn_logit_softcapping")?;
    let logit_softcap = options.optional_positive("final_logit_softcapping")?.map(|cap| cap as f32);
    let activation = options.activation("hidden_activation", "gelu_pytorch_tanh")?;
    let frame = decoder(&mut model, config, views, |model, config, layer| {
        let name = |part: &str| format!("layers.{layer}.{part}");
        let view = kinds[layer].view();
        let options = AttentionOptions { qkv_bias: bias, output_bias: bias, view, ..attention_options };
        Ok(Box::new(SandwichLayer {
            before_attention: model.rms_norm(&name("input_layernorm"), config.hidden)?,
            attention: SelfAttention { scale, softcap, ..attention(model, config, layer, options)? },
            after_attention: model.rms_norm(&name("post_attention_layernorm"), config.hidden)?,
            before_mlp: model.rms_norm(&name("pre_feedforward_layernorm"), config.hidden)?,
            mlp: GatedMlp { activation, ..gated_mlp(model, config, layer, Bias::Absent)? },
            after_mlp: model.rms_norm(&name("post_feedforward_layernorm"), config.hidden)?,
        }))
    })?;
    let embedding_scale = (frame.config.hidden as f32).sqrt();
    Ok(Decoder { embedding_scale, logit_softcap, ..frame })
}

/// What queries are divided by the root of. llama.cpp's files don't have it: there it is the size of a head, but in the
/// two models of 27 billion weights.
fn query_scalar(options: &Config, config: &LmConfig) -> Result<f64, ModelError> {
    let LmConfig { layers, hidden, heads, head_dim, .. } = config;
    let with_27_billion = matches!((config.architecture, layers), ("gemma2", 46) | ("gemma3", 62));
    let default = if with_27_billion { hidden / heads } else { *head_dim };
    options.positive_or("query_pre_attn_scalar", default as f64)
}

#[derive(Debug)]
struct SandwichLayer {
    before_attention: RmsNorm,
    attention: SelfAttention,
    after_attention: RmsNorm,
    before_mlp: RmsNorm,
    mlp: GatedMlp,
    after_mlp: RmsNorm,
}

impl DecoderLayer for SandwichLayer {
    /// `x += norm(attention(norm(x)))`, then `x += norm(mlp(norm(x)))`.
    fn forward(&self, pass: &mut Pass<'_>, x: &mut Activations) -> Result<(), ModelError> {
        let weights = pass.weights;
        let normed = self.before_attention.forward(weights, x)?;
        let attended = self.attention.forward(pass, &normed)?;
        x.add(self.after_attention.forward(weights, &attended)?);
        let normed = self.before_mlp.forward(weights, x)?;
        let thought = self.mlp.forward(weights, &normed)?;
        x.add(self.after_mlp.forward(weights, &thought)?);
        Ok(())
    }
}
