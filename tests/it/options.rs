//! What configurations and checkpoints may leave out, and what is refused.

use std::collections::HashMap;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Map, Value, json};
use smoke_runtime::Runtime;
use smoke_tests::{Goldens, asset};
use tempfile::TempDir;

use crate::tiny_models::check_logits_and_hidden_states;

/// A copy of a tiny model with other options and other tensors.
struct Variant {
    name: &'static str,
    config: Map<String, Value>,
    /// New names of tensors; an empty one drops the tensor.
    rename: Box<dyn Fn(&str) -> String>,
    /// Tensors to store again under another name.
    copies: Vec<(&'static str, &'static str)>,
}

impl Variant {
    fn of(name: &'static str) -> Self {
        let text = std::fs::read(asset(&format!("tiny/{name}/config.json"))).unwrap();
        let config = serde_json::from_slice(&text).unwrap();
        Self { name, config, rename: Box::new(str::to_owned), copies: Vec::new() }
    }

    fn with(mut self, key: &str, value: Value) -> Self {
        self.config.insert(key.to_owned(), value);
        self
    }

    fn without(mut self, key: &str) -> Self {
        self.config.remove(key);
        self
    }

    fn renamed(mut self, rename: impl Fn(&str) -> String + 'static) -> Self {
        self.rename = Box::new(rename);
        self
    }

    fn write(&self) -> TempDir {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("config.json"), serde_json::to_vec(&self.config).unwrap()).unwrap();
        let bytes = std::fs::read(asset(&format!("tiny/{}/model.safetensors", self.name))).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let mut tensors: HashMap<String, TensorView<'_>> =
            file.tensors().into_iter().map(|(name, view)| ((self.rename)(&name), view)).collect();
        tensors.remove("");
        for (from, to) in &self.copies {
            tensors.insert((*to).to_owned(), file.tensor(from).unwrap());
        }
        safetensors::serialize_to_file(tensors, None, &directory.path().join("model.safetensors")).unwrap();
        directory
    }

    /// Checks that the outputs are still those of the original.
    fn check_same(&self) {
        let directory = self.write();
        let runtime = Runtime::builder(directory.path()).open().unwrap();
        let goldens = Goldens::read(&format!("tiny/{}/goldens.safetensors", self.name));
        check_logits_and_hidden_states(&runtime, &goldens, self.name);
    }
}

/// Why the model does not open, with every cause.
fn message(directory: &Path) -> String {
    let Err(error) = Runtime::builder(directory).open() else { panic!("the model opened") };
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

#[test]
fn what_is_not_supported_is_refused_by_the_name_of_its_key() {
    let cases = [
        ("gpt2", "activation_function", json!("mish"), "key `activation_function`: activation `mish`"),
        ("gpt2", "add_cross_attention", json!(true), "key `add_cross_attention` is true"),
        ("gpt2", "n_head", json!(5), "64 features cannot be shared by 5 attention heads"),
        ("gptj", "activation_function", json!("sine"), "key `activation_function`: activation `sine`"),
        ("gptj", "rotary_dim", json!(18), "key `rotary_dim` is 18"),
        ("gpt_neox", "hidden_act", json!("selu"), "key `hidden_act`: activation `selu`"),
        ("gpt_neox", "rotary_pct", json!(0.0), "0 of 16 elements of a head cannot be turned in pairs"),
        ("llama", "hidden_act", json!("xielu"), "key `hidden_act`: activation `xielu`"),
        ("llama", "rope_scaling", json!({"rope_type": "proportional"}), "key `rope_type` is `proportional`"),
        ("llama", "rope_scaling", json!({"rope_type": "linear"}), "key `factor` is missing"),
        ("llama", "rope_scaling", json!({"type": "linear", "factor": 0.0}), "key `factor` is 0"),
        (
            "llama",
            "rope_scaling",
            json!({"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 0}),
            "key `original_max_position_embeddings` is 0",
        ),
        ("llama", "rope_theta", json!(-1.0), "key `rope_theta` is -1"),
        ("llama", "num_key_value_heads", json!(3), "4 attention heads cannot share 3 key-value heads evenly"),
        ("llama", "hidden_size", json!("wide"), "key `hidden_size`"),
        ("qwen2", "layer_types", json!(["full_attention"]), "key `layer_types` has 1 entries for 3 layers"),
        (
            "qwen3",
            "layer_types",
            json!(["full_attention", "chunked_attention", "full_attention"]),
            "`chunked_attention`",
        ),
        (
            "phi3",
            "rope_scaling",
            json!({"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}),
            "short_factor",
        ),
        ("phi3", "partial_rotary_factor", json!(2.0), "32 of 16 elements of a head"),
        ("mistral", "hidden_act", json!("gelu_10"), "key `hidden_act`: activation `gelu_10`"),
        ("gemma2", "hidden_activation", json!("gelu_10"), "key `hidden_activation`: activation `gelu_10`"),
        ("gemma2", "attn_logit_softcapping", json!(0.0), "key `attn_logit_softcapping` is 0"),
        ("gemma3", "use_bidirectional_attention", json!(true), "key `use_bidirectional_attention` is true"),
        ("gemma3", "model_type", json!("gemma9"), "architecture `gemma9` is not supported; supported: "),
    ];
    for (name, key, value, expected) in cases {
        let directory = Variant::of(name).with(key, value.clone()).write();
        let message = message(directory.path());
        assert!(message.contains(expected), "{name} with {key}: {value}: {message}");
    }
}

#[test]
fn a_head_may_be_missing_only_where_embeddings_are_tied() {
    let headless = |name: &str| if name == "lm_head.weight" { String::new() } else { name.to_owned() };
    let message = message(Variant::of("mistral").renamed(headless).write().path());
    assert!(message.contains("no tensor `lm_head.weight`"), "{message}");

    // Two tables that are the same, one of which the configuration calls superfluous.
    let mut both = Variant::of("qwen2");
    both.copies.push(("model.embed_tokens.weight", "lm_head.weight"));
    both.check_same();
    // Only the other one.
    let moved = |name: &str| name.replace("model.embed_tokens.weight", "lm_head.weight");
    Variant::of("qwen3").renamed(moved).check_same();
    // Two different ones: Transformers 5 does not tie them then, whatever the configuration says.
    Variant::of("mistral").with("tie_word_embeddings", json!(true)).check_same();
}

#[test]
fn names_may_have_other_prefixes_or_none() {
    Variant::of("gpt2").renamed(|name| name.replace("transformer.", "")).check_same();
    Variant::of("gptj").renamed(|name| name.replace("transformer.", "")).check_same();
    Variant::of("gpt_neox").renamed(|name| name.replace("gpt_neox.", "")).check_same();
    for name in ["llama-tied", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "gemma3"] {
        Variant::of(name).renamed(|name| name.replace("model.", "")).check_same();
    }
    for prefix in ["language_model.model.", "model.language_model."] {
        let mut nested = Variant::of("gemma3").renamed(move |name| name.replace("model.", prefix));
        let text = Value::Object(std::mem::take(&mut nested.config));
        nested.with("model_type", json!("gemma3")).with("text_config", text).check_same();
    }
}

#[test]
fn what_transformers_assumes_need_not_be_said() {
    Variant::of("gemma2")
        .without("layer_types")
        .without("hidden_activation")
        .without("use_bidirectional_attention")
        .check_same();
    Variant::of("gemma3").without("layer_types").with("sliding_window_pattern", json!(2)).check_same();
    Variant::of("gemma3").without("layer_types").with("_sliding_window_pattern", json!(2)).check_same();
    Variant::of("gemma3").without("rope_local_base_freq").without("tie_word_embeddings").check_same();
    Variant::of("qwen2").without("layer_types").without("sliding_window").check_same();
    Variant::of("gpt2").without("tie_word_embeddings").without("n_inner").without("activation_function").check_same();
    Variant::of("gpt_neox")
        .without("rotary_pct")
        .without("use_parallel_residual")
        .without("attention_bias")
        .check_same();
    Variant::of("phi3").without("partial_rotary_factor").without("rope_theta").without("sliding_window").check_same();
    // NTK scaling by length changes nothing within the positions of the model.
    Variant::of("llama").with("rope_scaling", json!({"type": "dynamic", "factor": 2.0})).check_same();
    // The whole context is a window as long as the positions.
    Variant::of("qwen3")
        .without("layer_types")
        .with("use_sliding_window", json!(true))
        .with("sliding_window", json!(128))
        .with("max_window_layers", json!(1))
        .check_same();
}
