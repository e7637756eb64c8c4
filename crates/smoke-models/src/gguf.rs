//! What llama.cpp's GGUF files call things, by the names that Transformers gives them.

use serde_json::{Map, Value};
use smoke_storage::TensorIndex;

/// Keys, without the architecture that a GGUF file puts before them.
const KEYS: &[(&str, &str)] = &[
    ("hidden_size", "embedding_length"),
    ("n_embd", "embedding_length"),
    ("intermediate_size", "feed_forward_length"),
    ("n_inner", "feed_forward_length"),
    ("num_hidden_layers", "block_count"),
    ("n_layer", "block_count"),
    ("num_attention_heads", "attention.head_count"),
    ("n_head", "attention.head_count"),
    ("num_key_value_heads", "attention.head_count_kv"),
    ("head_dim", "attention.key_length"),
    ("max_position_embeddings", "context_length"),
    ("n_positions", "context_length"),
    ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
    ("layer_norm_eps", "attention.layer_norm_epsilon"),
    ("layer_norm_epsilon", "attention.layer_norm_epsilon"),
    ("sliding_window", "attention.sliding_window"),
    ("sliding_window_pattern", "attention.sliding_window_pattern"),
    ("attn_logit_softcapping", "attn_logit_softcapping"),
    ("final_logit_softcapping", "final_logit_softcapping"),
    ("use_parallel_residual", "use_parallel_residual"),
    ("rope_theta", "rope.freq_base"),
    ("rotary_dim", "rope.dimension_count"),
    ("num_local_experts", "expert_count"),
    ("num_experts_per_tok", "expert_used_count"),
    ("moe_intermediate_size", "expert_feed_forward_length"),
];

/// Modules outside of the layers.
const MODULES: &[(&str, &str)] = &[
    ("embed_tokens", "token_embd"),
    ("wte", "token_embd"),
    ("embed_in", "token_embd"),
    ("wpe", "position_embd"),
    ("norm", "output_norm"),
    ("ln_f", "output_norm"),
    ("final_layer_norm", "output_norm"),
    ("lm_head", "output"),
    ("embed_out", "output"),
];

/// Modules of a layer.
const LAYER_MODULES: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("ln_1", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("attention.query_key_value", "attn_qkv"),
    ("attn.c_attn", "attn_qkv"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.o_proj", "attn_output"),
    ("attention.dense", "attn_output"),
    ("attn.c_proj", "attn_output"),
    ("ln_2", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.c_fc", "ffn_up"),
    ("mlp.dense_h_to_4h", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.c_proj", "ffn_down"),
    ("mlp.dense_4h_to_h", "ffn_down"),
    ("mlp.gate", "ffn_gate_inp"),
    ("block_sparse_moe.gate", "ffn_gate_inp"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];

/// The key, without its architecture.
pub(crate) fn key(name: &str) -> Option<&'static str> {
    find(KEYS, name)
}

/// The module, such as `layers.3.mlp.up_proj`.
///
/// Gemma has norms behind the attention and the MLP; elsewhere what Transformers calls the norm after the attention is
/// the one before the MLP.
pub(crate) fn module(name: &str, architecture: &str) -> Option<String> {
    let mut parts = name.splitn(3, '.');
    let (Some("layers" | "h"), Some(layer), Some(part)) = (parts.next(), parts.next(), parts.next()) else {
        return find(MODULES, name).map(str::to_owned);
    };
    let part = match part {
        "post_attention_layernorm" if architecture.starts_with("gemma") => "post_attention_norm",
        "post_attention_layernorm" => "ffn_norm",
        part => find(LAYER_MODULES, part)?,
    };
    Some(format!("blk.{layer}.{part}"))
}

/// What Transformers keeps in the configuration and a GGUF file says by the tensors that it has.
pub(crate) fn implied(index: &TensorIndex) -> Map<String, Value> {
    let has = |name: &str| index.get(name).is_some();
    let mut implied = Map::new();
    if let Some([rows, ..]) = index.get("token_embd.weight").map(|table| table.shape.as_slice()) {
        implied.insert("vocab_size".to_owned(), (*rows).into());
    }
    implied.insert("attention_bias".to_owned(), has("blk.0.attn_q.bias").into());
    implied.insert("mlp_bias".to_owned(), has("blk.0.ffn_up.bias").into());
    implied.insert("tie_word_embeddings".to_owned(), (!has("output.weight")).into());
    implied
}

fn find(table: &[(&str, &'static str)], name: &str) -> Option<&'static str> {
    table.iter().find(|(ours, _)| *ours == name).map(|(_, theirs)| *theirs)
}
