//! The LLaMA family (Touvron et al., 2023) between Hugging Face's layout and GGUF's: names, configuration, and the order of
//! rows in attention.

mod from_gguf;
mod rope;
mod to_gguf;

use smoke_storage::TensorInfo;

use crate::error::ConvertError;
use crate::order::RowOrder;

pub(crate) use from_gguf::to_hugging_face;
pub(crate) use to_gguf::to_gguf;

/// What both formats call it.
const ARCHITECTURE: &str = "llama";

/// Modules outside the layers: Hugging Face's name without `model.`, and GGUF's.
const MODULES: [(&str, &str); 3] = [("embed_tokens", "token_embd"), ("norm", "output_norm"), ("lm_head", "output")];

/// Modules of a layer.
const LAYER_MODULES: [(&str, &str); 9] = [
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
];

/// GGUF's tensor of divisors of the rotary frequencies.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The sizes that both directions need.
#[derive(Clone, Copy, Debug)]
struct Heads {
    queries: u64,
    keys: u64,
}

impl Heads {
    /// How the rows of a tensor of GGUF's module `module` change their order.
    fn order(
        self,
        module: &str,
        tensor: &TensorInfo,
        order: impl Fn(u64) -> RowOrder,
    ) -> Result<RowOrder, ConvertError> {
        let heads = match module {
            "attn_q" => self.queries,
            "attn_k" => self.keys,
            _ => return Ok(RowOrder::AsStored),
        };
        let rows = tensor.shape.first().copied().unwrap_or_default();
        if heads == 0 || rows == 0 || !rows.is_multiple_of(2 * heads) {
            let (name, shape) = (tensor.name.clone(), tensor.shape.clone());
            return Err(ConvertError::Heads { name, shape, heads });
        }
        Ok(order(rows / heads))
    }
}

/// GGUF's name for one of Hugging Face's, and the module that it names.
fn gguf_name(name: &str) -> Option<(String, &'static str)> {
    let name = name.strip_prefix("model.").unwrap_or(name);
    let (module, kind) = name.rsplit_once('.')?;
    if let Some(&(_, gguf)) = MODULES.iter().find(|(hugging_face, _)| *hugging_face == module) {
        return Some((format!("{gguf}.{kind}"), gguf));
    }
    let (layer, module) = module.strip_prefix("layers.")?.split_once('.')?;
    let &(_, gguf) = LAYER_MODULES.iter().find(|(hugging_face, _)| *hugging_face == module)?;
    is_number(layer).then(|| (format!("blk.{layer}.{gguf}.{kind}"), gguf))
}

/// Hugging Face's name for one of GGUF's, and GGUF's module that it names.
fn hugging_face_name(name: &str) -> Option<(String, &str)> {
    let (module, kind) = name.rsplit_once('.')?;
    if let Some((hugging_face, _)) = MODULES.iter().find(|(_, gguf)| *gguf == module) {
        let prefix = if *hugging_face == "lm_head" { "" } else { "model." };
        return Some((format!("{prefix}{hugging_face}.{kind}"), module));
    }
    let (layer, module) = module.strip_prefix("blk.")?.split_once('.')?;
    let (hugging_face, _) = LAYER_MODULES.iter().find(|(_, gguf)| *gguf == module)?;
    is_number(layer).then(|| (format!("model.layers.{layer}.{hugging_face}.{kind}"), module))
}

fn is_number(text: &str) -> bool {
    text.parse::<u32>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        for (hugging_face, gguf) in [
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("model.norm.weight", "output_norm.weight"),
            ("lm_head.weight", "output.weight"),
            ("model.layers.17.self_attn.q_proj.bias", "blk.17.attn_q.bias"),
            ("model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight"),
        ] {
            assert_eq!(gguf_name(hugging_face).unwrap().0, gguf);
            assert_eq!(hugging_face_name(gguf).unwrap().0, hugging_face);
        }
        assert_eq!(gguf_name("layers.1.mlp.up_proj.weight").unwrap().0, "blk.1.ffn_up.weight");
        for name in ["model.layers.x.mlp.up_proj.weight", "blk.1.ffn_up.weight", "", "visual.weight"] {
            assert_eq!(gguf_name(name), None, "{name}");
        }
        assert_eq!(hugging_face_name("blk.0.ffn_gate_exps.weight"), None);
    }
}
