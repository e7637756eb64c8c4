//! From GGUF to Hugging Face's layout.

use std::path::PathBuf;

use serde_json::{Value, json};
use smoke_core::Encoding;
use smoke_storage::{Checkpoint, GgufMetadata, TensorIndex, TensorInfo, WeightSource};

use super::rope::Llama3;
use super::{ARCHITECTURE, Heads, ROPE_FACTORS, hugging_face_name};
use crate::conversion::{Content, Move, Translation};
use crate::error::ConvertError;
use crate::order::RowOrder;
use crate::side_files::{SideFile, dtype_name, most_common};
use crate::tokenizer;

/// Translates a checkpoint whose tensors are those of `index`.
pub(crate) fn to_hugging_face(checkpoint: &Checkpoint, index: &TensorIndex) -> Result<Translation, ConvertError> {
    let path = index.files().first().map(|file| file.path.clone()).unwrap_or_default();
    let empty = GgufMetadata::default();
    let keys = Keys { metadata: checkpoint.metadata().gguf.as_ref().unwrap_or(&empty), path };
    let architecture = keys.metadata.str("general.architecture").unwrap_or_default();
    if architecture != ARCHITECTURE {
        return Err(ConvertError::UnknownArchitecture { found: architecture.to_owned(), known: ARCHITECTURE });
    }
    if keys.metadata.u64("llama.expert_count").is_some_and(|experts| experts > 0) {
        return Err(keys.invalid("`llama.expert_count` is not 0: mixtures of experts cannot be converted"));
    }
    let heads = keys.count("attention.head_count")?;
    let key_heads = keys.count_or("attention.head_count_kv", heads)?;
    let moves = moves(index, Heads { queries: heads, keys: key_heads })?;
    let (config, generation) = configuration(checkpoint, index, &keys, heads, key_heads)?;
    let (mut side_files, notes) = tokenizer::from_gguf(keys.metadata);
    side_files.push(SideFile::json("config.json", &config));
    side_files.push(SideFile::json("generation_config.json", &generation));
    Ok(Translation { moves, side_files, notes, ..Default::default() })
}

fn moves(index: &TensorIndex, heads: Heads) -> Result<Vec<Move>, ConvertError> {
    let mut moves = Vec::with_capacity(index.len());
    for tensor in index.iter().filter(|tensor| tensor.name != ROPE_FACTORS) {
        let Some((name, module)) = hugging_face_name(&tensor.name) else {
            return Err(ConvertError::UnknownTensor { name: tensor.name.clone(), architecture: ARCHITECTURE });
        };
        let order = heads.order(module, tensor, RowOrder::ToHalves)?;
        let content = Content::Tensor(tensor.extent, order);
        moves.push(Move { content, tensor: TensorInfo { name, ..tensor.clone() } });
    }
    Ok(moves)
}

/// `config.json` and `generation_config.json`.
fn configuration(
    checkpoint: &Checkpoint,
    index: &TensorIndex,
    keys: &Keys<'_>,
    heads: u64,
    key_heads: u64,
) -> Result<(Value, Value), ConvertError> {
    let hidden = keys.count("embedding_length")?;
    let head_dim = keys.count_or("attention.key_length", hidden / heads)?;
    let table = index.get("token_embd.weight").and_then(|table| table.shape.first().copied());
    let theta = keys.float("rope.freq_base").unwrap_or(1e4);
    let token = |name: &str| keys.metadata.u64(&format!("tokenizer.ggml.{name}_token_id"));
    let has = |name: &str| index.get(name).is_some();
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": ARCHITECTURE,
        "vocab_size": table.map_or_else(|| keys.count("vocab_size"), Ok)?,
        "hidden_size": hidden,
        "intermediate_size": keys.count("feed_forward_length")?,
        "num_hidden_layers": keys.count("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": keys.count("context_length")?,
        "rms_norm_eps": keys.float("attention.layer_norm_rms_epsilon")
            .ok_or_else(|| keys.invalid("key `llama.attention.layer_norm_rms_epsilon` is missing"))?,
        "rope_theta": theta,
        "rope_scaling": rope_scaling(checkpoint, keys, head_dim, theta)?,
        "attention_bias": has("blk.0.attn_q.bias"),
        "mlp_bias": has("blk.0.ffn_up.bias"),
        "tie_word_embeddings": !has("output.weight"),
        "bos_token_id": token("bos"),
        "eos_token_id": token("eos"),
        "pad_token_id": token("padding"),
        "torch_dtype": dtype_name(most_common(index)),
        "use_cache": true,
    });
    let ends: Vec<u64> = ["eos", "eot", "eom"].into_iter().filter_map(token).collect();
    let eos = if let [one] = ends[..] { json!(one) } else { json!(ends) };
    let generation = json!({"bos_token_id": token("bos"), "eos_token_id": eos, "pad_token_id": token("padding")});
    Ok((config, generation))
}

fn rope_scaling(checkpoint: &Checkpoint, keys: &Keys<'_>, head_dim: u64, theta: f64) -> Result<Value, ConvertError> {
    let turned = keys.count_or("rope.dimension_count", head_dim)?;
    if turned != head_dim {
        return Err(keys.invalid(&format!("`llama.rope.dimension_count` is {turned}, but heads have {head_dim}")));
    }
    // Files from before the type was stated have a factor only, the oldest under another name.
    let factor = keys.float("rope.scaling.factor").or_else(|| keys.float("rope.scale_linear"));
    let unsaid = if factor.is_some_and(|factor| factor != 0.0) { "linear" } else { "none" };
    match keys.metadata.str("llama.rope.scaling.type").unwrap_or(unsaid) {
        "none" => {}
        "linear" => {
            let factor = factor.ok_or_else(|| keys.invalid("key `llama.rope.scaling.factor` is missing"))?;
            return Ok(json!({"rope_type": "linear", "factor": factor}));
        }
        other => return Err(keys.invalid(&format!("`llama.rope.scaling.type` is {other}, which cannot be converted"))),
    }
    let Some(tensor) = checkpoint.index().get(ROPE_FACTORS) else { return Ok(Value::Null) };
    if tensor.encoding != Encoding::F32 || tensor.shape != [head_dim / 2] {
        return Err(keys.invalid(&format!("`{ROPE_FACTORS}` must be {} F32 elements", head_dim / 2)));
    }
    let mut bytes = vec![0; tensor.extent.len as usize];
    checkpoint.read_at(tensor.extent, &mut bytes)?;
    let divisors: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let Some(scaling) = Llama3::of_divisors(&divisors, theta) else {
        return Err(keys.invalid(&format!("`{ROPE_FACTORS}` scales in a way that config.json has no name for")));
    };
    Ok(json!({
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_frequency_factor,
        "high_freq_factor": scaling.high_frequency_factor,
        "original_max_position_embeddings": scaling.original_context as u64,
    }))
}

/// The keys of the architecture, with errors that name them.
struct Keys<'a> {
    metadata: &'a GgufMetadata,
    path: PathBuf,
}

impl Keys<'_> {
    fn count(&self, key: &str) -> Result<u64, ConvertError> {
        let key = format!("{ARCHITECTURE}.{key}");
        let count = self.metadata.u64(&key).filter(|count| (1..=1 << 24).contains(count));
        count.ok_or_else(|| self.invalid(&format!("key `{key}` is missing or no plausible size")))
    }

    fn count_or(&self, key: &str, default: u64) -> Result<u64, ConvertError> {
        let is_there = self.metadata.get(&format!("{ARCHITECTURE}.{key}")).is_some();
        if is_there { self.count(key) } else { Ok(default) }
    }

    /// A float with as few digits as tell it from other f32 numbers: it was written by hand once.
    fn float(&self, key: &str) -> Option<f64> {
        let float = self.metadata.f64(&format!("{ARCHITECTURE}.{key}"))?;
        (float as f32).to_string().parse().ok()
    }

    fn invalid(&self, reason: &str) -> ConvertError {
        ConvertError::Config { path: self.path.clone(), reason: reason.to_owned() }
    }
}
