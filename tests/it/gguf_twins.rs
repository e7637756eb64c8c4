//! GGUF files with the weights of tiny models, written as llama.cpp's converter would: its names, its keys, and what it
//! does to some tensors.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use safetensors::SafeTensors;
use serde_json::Value;
use smoke_tests::asset;

/// What the converter does to one family of models.
struct Convention {
    architecture: &'static str,
    /// Replaced in the names of tensors, in this order.
    names: &'static [(&'static str, &'static str)],
    /// Keys with the values of these entries in `config.json`.
    keys: &'static [(&'static str, &'static str)],
    change: fn(&Value, Tensor) -> Tensor,
}

struct Tensor {
    /// As in the safetensors file.
    name: String,
    /// Outermost dimension first.
    shape: Vec<usize>,
    values: Vec<f32>,
}

const LLAMA_NAMES: &[(&str, &str)] = &[
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
    ("model.layers", "blk"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.gate.", "ffn_gate_inp."),
    ("block_sparse_moe.gate.", "ffn_gate_inp."),
];

const GEMMA_NAMES: &[(&str, &str)] = &[
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("model.layers", "blk"),
    ("input_layernorm", "attn_norm"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

const LLAMA_KEYS: &[(&str, &str)] = &[
    ("embedding_length", "hidden_size"),
    ("feed_forward_length", "intermediate_size"),
    ("block_count", "num_hidden_layers"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
    ("attention.key_length", "head_dim"),
    ("context_length", "max_position_embeddings"),
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    ("rope.freq_base", "rope_theta"),
    ("attention.sliding_window", "sliding_window"),
    ("attn_logit_softcapping", "attn_logit_softcapping"),
    ("final_logit_softcapping", "final_logit_softcapping"),
    ("rope.scaling.factor", "rope_scaling/factor"),
    ("rope.scaling.type", "rope_scaling/rope_type"),
    ("expert_count", "num_local_experts"),
    ("expert_used_count", "num_experts_per_tok"),
    ("expert_feed_forward_length", "moe_intermediate_size"),
];

const GPT_NEOX: Convention = Convention {
    architecture: "gptneox",
    names: &[
        ("gpt_neox.embed_in", "token_embd"),
        ("gpt_neox.final_layer_norm", "output_norm"),
        ("embed_out", "output"),
        ("gpt_neox.layers", "blk"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("attention.query_key_value", "attn_qkv"),
        ("attention.dense", "attn_output"),
        ("mlp.dense_h_to_4h", "ffn_up"),
        ("mlp.dense_4h_to_h", "ffn_down"),
    ],
    keys: &[
        ("embedding_length", "hidden_size"),
        ("feed_forward_length", "intermediate_size"),
        ("block_count", "num_hidden_layers"),
        ("attention.head_count", "num_attention_heads"),
        ("context_length", "max_position_embeddings"),
        ("attention.layer_norm_epsilon", "layer_norm_eps"),
        ("use_parallel_residual", "use_parallel_residual"),
    ],
    change: heads_apart,
};

const GPT2: Convention = Convention {
    architecture: "gpt2",
    names: &[
        ("transformer.wte", "token_embd"),
        ("transformer.wpe", "position_embd"),
        ("transformer.ln_f", "output_norm"),
        ("transformer.h", "blk"),
        ("ln_1", "attn_norm"),
        ("ln_2", "ffn_norm"),
        ("attn.c_attn", "attn_qkv"),
        ("attn.c_proj", "attn_output"),
        ("mlp.c_fc", "ffn_up"),
        ("mlp.c_proj", "ffn_down"),
    ],
    keys: &[
        ("embedding_length", "n_embd"),
        ("block_count", "n_layer"),
        ("attention.head_count", "n_head"),
        ("context_length", "n_positions"),
        ("attention.layer_norm_epsilon", "layer_norm_epsilon"),
    ],
    change: transposed,
};

const fn llama_like(architecture: &'static str) -> Convention {
    Convention { architecture, names: LLAMA_NAMES, keys: LLAMA_KEYS, change: |_, tensor| tensor }
}

const fn gemma_like(architecture: &'static str) -> Convention {
    Convention { names: GEMMA_NAMES, change: gemma, ..llama_like(architecture) }
}

/// The file for the model in `tiny/name`, written once by each process.
pub(crate) fn gguf_twin(name: &str) -> PathBuf {
    static WRITTEN: Mutex<Option<HashSet<PathBuf>>> = Mutex::new(None);
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = directory.join(format!("{name}.gguf"));
    let mut written = WRITTEN.lock().unwrap();
    if written.get_or_insert_default().insert(path.clone()) {
        // Tests that run side by side find the whole file or none.
        let partial = directory.join(format!("{name}.{}.partial", std::process::id()));
        std::fs::write(&partial, twin_of(&asset(&format!("tiny/{name}")))).unwrap();
        std::fs::rename(partial, &path).unwrap();
    }
    path
}

fn twin_of(directory: &Path) -> Vec<u8> {
    let config: Value = serde_json::from_slice(&std::fs::read(directory.join("config.json")).unwrap()).unwrap();
    let convention = match config["model_type"].as_str().unwrap() {
        "gemma2" => gemma_like("gemma2"),
        "gemma3_text" => gemma_like("gemma3"),
        "gpt2" => GPT2,
        "gpt_neox" => GPT_NEOX,
        "mixtral" => Convention { change: neighbours, ..llama_like("llama") },
        "phi3" => llama_like("phi3"),
        "qwen2" => llama_like("qwen2"),
        "qwen3" => llama_like("qwen3"),
        "qwen3_moe" => llama_like("qwen3moe"),
        other => panic!("no convention for {other}"),
    };
    let mut keys = vec![("general.architecture".to_owned(), Value::from(convention.architecture))];
    let mut add = |key: &str, value: Value| keys.push((format!("{}.{key}", convention.architecture), value));
    for (key, entry) in convention.keys {
        match config.pointer(&format!("/{entry}")) {
            None | Some(Value::Null) => {}
            Some(value) => add(key, value.clone()),
        }
    }
    match convention.architecture {
        "gpt2" => add("feed_forward_length", (4 * config["n_embd"].as_u64().unwrap()).into()),
        "gptneox" => {
            let head = config["hidden_size"].as_f64().unwrap() / config["num_attention_heads"].as_f64().unwrap();
            add("rope.dimension_count", ((head * config["rotary_pct"].as_f64().unwrap()) as u64).into());
        }
        // The real Gemma 3 needs no such key: five of six layers look back a window.
        "gemma3" => add("attention.sliding_window_pattern", 2.into()),
        _ => {}
    }

    let bytes = std::fs::read(directory.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.tensors().into_iter().map(|(name, view)| {
        let floats = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let tensor = Tensor { name, shape: view.shape().to_vec(), values: floats.collect() };
        let tensor = (convention.change)(&config, tensor);
        let name = convention.names.iter().fold(tensor.name, |name, (from, to)| name.replace(from, to));
        Tensor { name, ..tensor }
    });
    gguf(&keys, &stacked(tensors.collect()))
}

/// All experts of a layer in one tensor for each matrix.
fn stacked(tensors: Vec<Tensor>) -> Vec<Tensor> {
    let mut experts: BTreeMap<String, BTreeMap<usize, Tensor>> = BTreeMap::new();
    let mut rest = Vec::new();
    for tensor in tensors {
        let parts: Vec<&str> = tensor.name.split('.').collect();
        let ["blk", layer, _, "experts", expert, matrix, "weight"] = parts.as_slice() else {
            rest.push(tensor);
            continue;
        };
        let matrix = match *matrix {
            "w1" | "gate_proj" => "gate",
            "w3" | "up_proj" => "up",
            "w2" | "down_proj" => "down",
            other => panic!("no matrix {other}"),
        };
        let name = format!("blk.{layer}.ffn_{matrix}_exps.weight");
        let expert = expert.parse().unwrap();
        experts.entry(name).or_default().insert(expert, tensor);
    }
    let stacked = experts.into_iter().map(|(name, experts)| {
        let shape = [vec![experts.len()], experts[&0].shape.clone()].concat();
        Tensor { name, shape, values: experts.into_values().flat_map(|expert| expert.values).collect() }
    });
    rest.into_iter().chain(stacked).collect()
}

/// Rows of queries and keys such that neighbours are turned together, as LLaMA was trained.
fn neighbours(config: &Value, mut tensor: Tensor) -> Tensor {
    let heads = match tensor.name.rsplit('.').nth(1) {
        Some("q_proj") => &config["num_attention_heads"],
        Some("k_proj") => &config["num_key_value_heads"],
        _ => return tensor,
    };
    let head = tensor.shape[0] / heads.as_u64().unwrap() as usize;
    let rows: Vec<Vec<f32>> = tensor.values.chunks(tensor.shape[1]).map(<[f32]>::to_vec).collect();
    let of_halves = |row: usize| row / head * head + row % head / 2 + row % 2 * (head / 2);
    tensor.values = (0..rows.len()).flat_map(|row| rows[of_halves(row)].clone()).collect();
    tensor
}

/// Norms have their one added. llama.cpp divides queries by the root of a head's size; these models want another
/// number, which is made up for in the weights that queries are linear in.
fn gemma(config: &Value, mut tensor: Tensor) -> Tensor {
    let number = |key: &str| config[key].as_f64().unwrap();
    let queries = (number("head_dim") / number("query_pre_attn_scalar")).sqrt() as f32;
    let with_head_norms = config["model_type"] == "gemma3_text";
    if tensor.name.ends_with("norm.weight") {
        tensor.values.iter_mut().for_each(|value| *value += 1.0);
    }
    let scaled = if with_head_norms { "q_norm.weight" } else { "q_proj.weight" };
    if tensor.name.ends_with(scaled) {
        tensor.values.iter_mut().for_each(|value| *value *= queries);
    }
    tensor
}

/// All queries, then all keys, then all values, where Transformers has them head by head.
fn heads_apart(config: &Value, mut tensor: Tensor) -> Tensor {
    if tensor.name.contains("query_key_value") {
        let heads = config["num_attention_heads"].as_u64().unwrap() as usize;
        let part = tensor.values.len() / heads / 3;
        let pieces: Vec<Vec<f32>> = tensor.values.chunks(part).map(<[f32]>::to_vec).collect();
        tensor.values = (0..3).flat_map(|which| pieces.iter().skip(which).step_by(3).flatten()).copied().collect();
    }
    tensor
}

fn transposed(_: &Value, mut tensor: Tensor) -> Tensor {
    if let (true, [rows, columns]) = (tensor.name.contains(".c_"), tensor.shape.as_slice()) {
        let (rows, columns) = (*rows, *columns);
        tensor.values = (0..rows * columns).map(|i| tensor.values[i % rows * columns + i / rows]).collect();
        tensor.shape = vec![columns, rows];
    }
    tensor
}

fn gguf(keys: &[(String, Value)], tensors: &[Tensor]) -> Vec<u8> {
    const ALIGNMENT: usize = 32;
    let mut out = b"GGUF".to_vec();
    out.extend(3_u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((keys.len() as u64).to_le_bytes());
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    for (key, value) in keys {
        text(&mut out, key);
        match value {
            Value::String(value) => {
                out.extend(8_u32.to_le_bytes());
                text(&mut out, value);
            }
            Value::Bool(value) => {
                out.extend(7_u32.to_le_bytes());
                out.push(u8::from(*value));
            }
            value if value.is_u64() => {
                out.extend(4_u32.to_le_bytes());
                out.extend((value.as_u64().unwrap() as u32).to_le_bytes());
            }
            value => {
                out.extend(6_u32.to_le_bytes());
                out.extend((value.as_f64().unwrap() as f32).to_le_bytes());
            }
        }
    }
    let mut offset = 0;
    for tensor in tensors {
        text(&mut out, &tensor.name);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|&size| out.extend((size as u64).to_le_bytes()));
        out.extend(0_u32.to_le_bytes());
        out.extend((offset as u64).to_le_bytes());
        offset += (tensor.values.len() * size_of::<f32>()).next_multiple_of(ALIGNMENT);
    }
    for tensor in tensors {
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        tensor.values.iter().for_each(|value| out.extend(value.to_le_bytes()));
    }
    out
}
