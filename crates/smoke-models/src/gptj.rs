//! GPT-J (Wang and Komatsuzaki, 2021): attention and MLP side by side behind one norm.

use smoke_burn::layers::Linear;
use smoke_burn::{Activations, Layout};
use smoke_storage::Checkpoint;

use crate::blueprint::{Bias, Blueprint};
use crate::decoder::{Decoder, DecoderLayer, Pass, View};
use crate::error::ModelError;
use crate::gpt2::sizes;
use crate::parts::{FeedForward, LayerNorm, Mlp, Pairing, Qkv, RopeScaling, Rotary, SelfAttention};

/// Places a GPT-J model.
///
/// # Errors
/// [`ModelError`] if the configuration is invalid or wants what is not supported, or if tensors are missing.
pub fn place(checkpoint: &Checkpoint, layout: &mut Layout<'_>) -> Result<Decoder, ModelError> {
    let mut model = Blueprint::open(checkpoint, layout, "ln_f", &["transformer."])?
        .assume([("n_positions", 2048.into()), ("rotary_dim", 64.into())]);
    let config = sizes(&model, "gptj")?;
    let options = model.config();
    let (hidden, inner) = (config.hidden, config.intermediate);
    let turned = options.count("rotary_dim")?;
    if !turned.is_multiple_of(2) || turned > config.head_dim {
        let reason = format!("key `rotary_dim` is {turned}, but heads have {} elements", config.head_dim);
        return Err(options.invalid(reason));
    }
    let rotary = Rotary {
        head_dim: config.head_dim,
        turned,
        theta: 10_000.0,
        scaling: RopeScaling::None,
        divisors: Vec::new(),
        pairing: Pairing::Neighbours,
    };
    let epsilon = options.or("layer_norm_epsilon", 1e-5)?;
    let activation = options.activation("activation_function", "gelu_new")?;

    let layers = (0..config.layers).map(|layer| {
        let name = |part: &str| format!("h.{layer}.{part}");
        let norm = model.layer_norm(&name("ln_1"), hidden, epsilon)?;
        let mut linear = |part: &str, inputs, outputs, bias| model.linear(&name(part), inputs, outputs, bias);
        let mut square = |part: &str| linear(part, hidden, hidden, Bias::Absent);
        let attention = SelfAttention {
            layer,
            view: 0,
            projections: Qkv::Separate([square("attn.q_proj")?, square("attn.k_proj")?, square("attn.v_proj")?]),
            head_norms: None,
            output: square("attn.out_proj")?,
            scale: config.attention_scale(),
            softcap: None,
        };
        let mlp = Mlp {
            up: linear("mlp.fc_in", hidden, inner, Bias::Added)?,
            activation,
            down: linear("mlp.fc_out", inner, hidden, Bias::Added)?,
        };
        Ok::<_, ModelError>(Box::new(Layer { norm, attention, mlp }) as _)
    });
    let layers = layers.collect::<Result<_, _>>()?;
    let norm = model.layer_norm("ln_f", hidden, epsilon)?.into();
    let ends: (_, Linear) = model.embedding_and_head(["wte", "lm_head"], [config.vocabulary, hidden], Bias::Added)?;
    let views = vec![View { rotary: Some(rotary), window: None }];
    Ok(Decoder::new(config, ends, views, layers, norm))
}

#[derive(Debug)]
struct Layer {
    norm: LayerNorm,
    attention: SelfAttention,
    mlp: Mlp,
}

impl DecoderLayer for Layer {
    /// `x += attention(norm(x)) + mlp(norm(x))`.
    fn forward(&self, pass: &mut Pass<'_>, x: &mut Activations) -> Result<(), ModelError> {
        let normed = self.norm.forward(pass.weights, x)?;
        x.add(self.attention.forward(pass, &normed)?);
        x.add(self.mlp.forward(pass.weights, &normed)?);
        Ok(())
    }
}
