//! From Hugging Face's layout to GGUF.

use serde_json::Value;
use smoke_core::Encoding;
use smoke_storage::header::GgufKeys;
use smoke_storage::{Checkpoint, Extent, TensorIndex, TensorInfo};

use super::rope::Llama3;
use super::{ARCHITECTURE, Heads, ROPE_FACTORS, gguf_name};
use crate::config::Config;
use crate::conversion::{Content, Move, Translation};
use crate::error::ConvertError;
use crate::order::RowOrder;
use crate::side_files::most_common;
use crate::tokenizer;

const FORMAT: &str = "GGUF";

/// Translates a checkpoint whose tensors are those of `index`.
pub(crate) fn to_gguf(checkpoint: &Checkpoint, index: &TensorIndex) -> Result<Translation, ConvertError> {
    let directory = &checkpoint.metadata().directory;
    let config = Config::read(&directory.join("config.json"))?;
    let architecture: String = config.text("model_type")?;
    if architecture != ARCHITECTURE {
        return Err(ConvertError::UnknownArchitecture { found: architecture, known: ARCHITECTURE });
    }
    config.only("hidden_act", &["silu"], "silu", FORMAT)?;
    let heads = config.count("num_attention_heads")?;
    let hidden = config.count("hidden_size")?;
    let key_heads = config.count_or("num_key_value_heads", heads)?;
    let head_dim = config.count_or("head_dim", hidden / heads)?;
    let mut keys = GgufKeys::default();
    keys.text("general.architecture", ARCHITECTURE);
    let name = std::fs::canonicalize(directory).ok();
    if let Some(name) = name.as_ref().and_then(|path| path.file_name()) {
        keys.text("general.name", &name.to_string_lossy());
    }
    if let Some(kind) = file_type(most_common(index)) {
        keys.u32("general.file_type", kind);
    }
    keys.u32("general.quantization_version", 2);
    for (key, count) in [
        ("vocab_size", config.count("vocab_size")?),
        ("context_length", config.count_or("max_position_embeddings", 2048)?),
        ("embedding_length", hidden),
        ("block_count", config.count("num_hidden_layers")?),
        ("feed_forward_length", config.count("intermediate_size")?),
        ("attention.head_count", heads),
        ("attention.head_count_kv", key_heads),
        ("attention.key_length", head_dim),
        ("attention.value_length", head_dim),
        ("rope.dimension_count", head_dim),
    ] {
        keys.u32(&format!("{ARCHITECTURE}.{key}"), count as u32);
    }
    keys.f32("llama.attention.layer_norm_rms_epsilon", config.float_or("rms_norm_eps", 1e-6)? as f32);

    let is_tied = config.flag_or("tie_word_embeddings", false)?;
    let mut moves = moves(index, Heads { queries: heads, keys: key_heads }, is_tied)?;
    moves.extend(rope(&config, head_dim, &mut keys)?);
    let rows = config.count("vocab_size")?;
    let notes = tokenizer::to_gguf(directory, rows as usize, &mut keys)?;
    Ok(Translation { moves, keys, notes, ..Default::default() })
}

fn moves(index: &TensorIndex, heads: Heads, is_tied: bool) -> Result<Vec<Move>, ConvertError> {
    let mut moves = Vec::with_capacity(index.len());
    for tensor in index.iter() {
        // Constants that old checkpoints have, and a copy of the embedding.
        if tensor.name.ends_with("rotary_emb.inv_freq") || is_tied && tensor.name == "lm_head.weight" {
            continue;
        }
        let Some((name, module)) = gguf_name(&tensor.name) else {
            return Err(ConvertError::UnknownTensor { name: tensor.name.clone(), architecture: ARCHITECTURE });
        };
        let order = heads.order(module, tensor, RowOrder::ToNeighbours)?;
        let content = Content::Tensor(tensor.extent, order);
        moves.push(Move { content, tensor: TensorInfo { name, ..tensor.clone() } });
    }
    Ok(moves)
}

/// Writes the keys of rotary embeddings; where frequencies are scaled one by one, their divisors are a tensor.
fn rope(config: &Config, head_dim: u64, keys: &mut GgufKeys) -> Result<Option<Move>, ConvertError> {
    let parameters = config.section("rope_parameters")?;
    let theta = match &parameters {
        Some(parameters) => parameters.float_or("rope_theta", config.float_or("rope_theta", 1e4)?)?,
        None => config.float_or("rope_theta", 1e4)?,
    };
    keys.f32("llama.rope.freq_base", theta as f32);
    if config.float_or("partial_rotary_factor", 1.0)? != 1.0 {
        return Err(config.inexpressible("partial_rotary_factor", FORMAT));
    }
    let Some(scaling) = parameters.map_or_else(|| config.section("rope_scaling"), |section| Ok(Some(section)))? else {
        return Ok(None);
    };
    let kind_key = if scaling.has("rope_type") { "rope_type" } else { "type" };
    match scaling.text_or(kind_key, "default")?.as_str() {
        "default" => Ok(None),
        "linear" => {
            keys.text("llama.rope.scaling.type", "linear");
            keys.f32("llama.rope.scaling.factor", scaling.float("factor")? as f32);
            Ok(None)
        }
        "llama3" => {
            let scaling = Llama3 {
                factor: scaling.float("factor")?,
                low_frequency_factor: scaling.float("low_freq_factor")?,
                high_frequency_factor: scaling.float("high_freq_factor")?,
                original_context: scaling.float("original_max_position_embeddings")?,
            };
            let divisors = scaling.divisors(head_dim, theta);
            let bytes: Vec<u8> = divisors.iter().flat_map(|divisor| divisor.to_le_bytes()).collect();
            let extent = Extent { file: 0, offset: 0, len: bytes.len() as u64 };
            let (name, shape) = (ROPE_FACTORS.to_owned(), vec![divisors.len() as u64]);
            let tensor = TensorInfo { name, encoding: Encoding::F32, shape, extent };
            Ok(Some(Move { content: Content::Bytes(bytes), tensor }))
        }
        _ => Err(scaling.inexpressible(kind_key, FORMAT)),
    }
}

/// GGML's number of a file whose matrices are mostly in this encoding.
fn file_type(encoding: Encoding) -> Option<u32> {
    match encoding {
        Encoding::F32 => Some(0),
        Encoding::F16 => Some(1),
        Encoding::Q4_0 => Some(2),
        Encoding::Q4_1 => Some(3),
        Encoding::Q8_0 => Some(7),
        Encoding::BF16 => Some(32),
        _ => None,
    }
}

impl Config {
    /// Checks that a text is one of those that the other format takes for granted.
    fn only(&self, key: &str, allowed: &[&str], default: &str, format: &'static str) -> Result<(), ConvertError> {
        if allowed.contains(&self.text_or(key, default)?.as_str()) {
            Ok(())
        } else {
            Err(self.inexpressible(key, format))
        }
    }

    fn inexpressible(&self, key: &str, format: &'static str) -> ConvertError {
        let value = self.get(key).map_or_else(|| "absent".to_owned(), Value::to_string);
        ConvertError::Inexpressible { path: self.path().to_owned(), key: key.to_owned(), value, format }
    }
}
