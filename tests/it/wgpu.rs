//! The same models on a GPU, or on a processor that plays one.

use smoke_runtime::{AtEnd, DeviceKind, GenerateOptions, Prompt, Runtime};
use smoke_tests::{Goldens, asset};

use crate::encoders::{self, check_bert, check_embeddings};
use crate::golden_models::GOLDEN_MODELS;
use crate::seq2seq;
use crate::tiny_models::{check_greedy_tokens, check_logits_and_hidden_states};

#[test]
fn tiny_models_equal_transformers_on_wgpu() {
    for model in GOLDEN_MODELS.iter().filter(|model| model.wgpu) {
        let runtime = model.builder().memory("2MB").device(DeviceKind::Wgpu).open().unwrap();
        let (goldens, name) = (model.goldens(), format!("{model:?} on wgpu"));
        check_logits_and_hidden_states(&runtime, &goldens, &name);
        check_greedy_tokens(&runtime, &goldens, &name);
    }
}

#[test]
fn encoders_equal_transformers_on_wgpu() {
    let open = |name: &str| {
        let builder = Runtime::builder(asset(&format!("tiny/{name}")));
        builder.memory("4MB").device(DeviceKind::Wgpu).open().unwrap()
    };
    for name in encoders::MODELS {
        check_bert(&open(name), name);
        check_embeddings(&open(name), name);
    }
    for name in seq2seq::MODELS {
        let runtime = open(name);
        seq2seq::check_logits_and_hidden_states(&runtime, name);
        let goldens = Goldens::read(&format!("tiny/{name}/goldens.safetensors"));
        let expected = goldens.ids("greedy");
        let options = GenerateOptions { max_tokens: expected.len(), at_end: AtEnd::Ignore, ..Default::default() };
        let mut generation = runtime.generate(Prompt::Tokens(goldens.ids("input_ids")), options).unwrap();
        assert_eq!(generation.by_ref().map(|token| token.unwrap().id).collect::<Vec<_>>(), expected, "{name}");
        let statistics = generation.statistics();
        assert!(statistics.peak_bytes <= statistics.budget_bytes, "{name}: {statistics:?}");
    }
}
