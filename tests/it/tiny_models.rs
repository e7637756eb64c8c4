//! Every tiny model against Transformers: logits, hidden states, a padded batch and greedy tokens.

use smoke_runtime::models::Want;
use smoke_runtime::models::parts::{KvCache, KvEncoding};
use smoke_runtime::storage::ReaderKind;
use smoke_runtime::{AtEnd, GenerateOptions, Prompt, Runtime};
use smoke_tests::{Goldens, asset, largest_difference};

use crate::golden_models::{Format, GOLDEN_MODELS, GoldenModel};

/// The largest difference allowed for f32 weights, and to the dequantised model for others.
const TOLERANCE: f32 = 1e-4;

fn golden_pass(runtime: &Runtime, goldens: &Goldens, want: Want) -> (Vec<f32>, Vec<Vec<f32>>) {
    let ids = goldens.ids("input_ids");
    let weights = runtime.weights();
    let mut cache = KvCache::new(runtime.config().kv_shape(KvEncoding::F32), ids.len(), vec![0], weights).unwrap();
    let output = runtime.model().decoder().unwrap().forward(weights, &ids, &mut cache, want).unwrap();
    let hidden = output.hidden_states.into_iter().map(|x| x.to_vec()).collect();
    (output.logits.to_vec(), hidden)
}

pub(crate) fn check_logits_and_hidden_states(runtime: &Runtime, goldens: &Goldens, name: &str) {
    let (logits, hidden) = golden_pass(runtime, goldens, Want::HiddenStates);
    let difference = largest_difference(&logits, &goldens.floats("logits"));
    assert!(difference < TOLERANCE, "{name}: logits differ by {difference}");
    let difference = largest_difference(&hidden.concat(), &goldens.floats("hidden_states"));
    assert!(difference < TOLERANCE, "{name}: hidden states differ by {difference}");
}

#[test]
fn logits_and_hidden_states_equal_transformers_at_every_budget() {
    for model in GOLDEN_MODELS {
        for percent in [100, 50, 25] {
            let runtime = model.open(percent);
            check_logits_and_hidden_states(&runtime, &model.goldens(), &format!("{model:?} at {percent} %"));
            let budget = runtime.weights().streamer().budget();
            assert!(budget.peak_bytes() <= budget.limit_bytes(), "{model:?} at {percent} %: {budget:?}");
        }
    }
}

#[test]
fn the_configuration_of_transformers_5_gives_the_same_bits_as_the_older_one() {
    for model in GOLDEN_MODELS.iter().filter(|model| model.format == Format::Safetensors) {
        let directory = tempfile::tempdir().unwrap();
        let copy = |from: &str, to: &str| {
            std::fs::copy(model.path().join(from), directory.path().join(to)).unwrap();
        };
        copy("config.v5.json", "config.json");
        copy("model.safetensors", "model.safetensors");
        let newer = Runtime::builder(directory.path()).open().unwrap();
        let goldens = model.goldens();
        let older = golden_pass(&model.open(100), &goldens, Want::HiddenStates);
        assert_eq!(golden_pass(&newer, &goldens, Want::HiddenStates), older, "{model:?}");
    }
}

#[test]
fn every_budget_and_every_reader_gives_the_same_bits() {
    let names = ["llama-sharded", "gpt2", "gemma3", "llama-bin", "gpt2-bin-legacy"];
    for model in GOLDEN_MODELS.iter().filter(|model| names.contains(&model.name)) {
        let goldens = model.goldens();
        let reference = golden_pass(&model.open(200), &goldens, Want::AllLogits).0;
        for percent in [100, 50, 25] {
            assert_eq!(golden_pass(&model.open(percent), &goldens, Want::AllLogits).0, reference);
        }
        for reader in [ReaderKind::Mmap, ReaderKind::Pread, ReaderKind::Direct] {
            let runtime = model.builder().reader(reader).open().unwrap();
            assert_eq!(golden_pass(&runtime, &goldens, Want::AllLogits).0, reference, "{reader:?}");
        }
    }
}

pub(crate) fn check_greedy_tokens(runtime: &Runtime, goldens: &Goldens, name: &str) {
    let expected = goldens.ids("greedy");
    let options = GenerateOptions { max_tokens: expected.len(), at_end: AtEnd::Ignore, ..Default::default() };
    let mut generation = runtime.generate(Prompt::Tokens(goldens.ids("input_ids")), options).unwrap();
    let tokens: Vec<u32> = generation.by_ref().map(|token| token.unwrap().id).collect();
    assert_eq!(tokens, expected, "{name}");
    let statistics = generation.statistics();
    assert!(statistics.peak_bytes <= statistics.budget_bytes, "{name}: {statistics:?}");
}

#[test]
fn greedy_tokens_equal_transformers_at_every_budget() {
    for model in GOLDEN_MODELS {
        for percent in [100, 50, 25] {
            check_greedy_tokens(&model.open(percent), &model.goldens(), &format!("{model:?} at {percent} %"));
        }
    }
}

#[test]
fn greedy_tokens_equal_transformers_with_every_policy() {
    for model in GOLDEN_MODELS.iter().filter(|model| ["llama-tied", "gpt2-sharded"].contains(&model.name)) {
        for policy in smoke_runtime::POLICY_NAMES {
            let runtime = model.builder().memory_bytes(model.bytes() / 2).policy_name(policy).open().unwrap();
            check_greedy_tokens(&runtime, &model.goldens(), &format!("{model:?} with {policy}"));
        }
    }
}

#[test]
fn a_batch_with_left_padding_equals_transformers() {
    for (model, percent) in GOLDEN_MODELS.iter().flat_map(|model| [100, 50, 40].map(|percent| (model, percent))) {
        check_batch(&model.open(percent), &model.goldens(), model);
    }
}

fn check_batch(runtime: &Runtime, goldens: &Goldens, model: &GoldenModel) {
    let (ids, mask) = (goldens.ids("batch_input_ids"), goldens.ids("batch_attention_mask"));
    let expected = goldens.floats("batch_logits");
    let tokens = ids.len() / 2;
    let padding: Vec<usize> =
        mask.chunks(tokens).map(|row| row.iter().take_while(|&&seen| seen == 0).count()).collect();
    assert!(padding.iter().any(|&pad| pad > 0), "the golden batch is padded");
    let weights = runtime.weights();
    let greedy = goldens.ids("batch_greedy");
    let steps = greedy.len() / 2;
    let shape = runtime.config().kv_shape(KvEncoding::F32);
    let mut cache = KvCache::new(shape, tokens + steps, padding, weights).unwrap();
    let output = runtime.model().decoder().unwrap().forward(weights, &ids, &mut cache, Want::AllLogits).unwrap();
    let logits: Vec<f32> = output.logits.to_vec();
    let vocabulary = runtime.config().vocabulary;
    let rows = || logits.chunks(vocabulary).zip(expected.chunks(vocabulary)).zip(&mask);
    for ((ours, theirs), _) in rows().filter(|(_, seen)| **seen == 1) {
        let difference = largest_difference(ours, theirs);
        assert!(difference < TOLERANCE, "{model:?}: {difference}");
    }

    let argmax = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as u32;
    let last = |row: usize| ((row + 1) * tokens - 1) * vocabulary;
    let mut next: Vec<u32> = (0..2).map(|row| argmax(&logits[last(row)..][..vocabulary])).collect();
    for step in 0..steps {
        assert_eq!(next, [greedy[step], greedy[steps + step]], "{model:?}: token {step}");
        if step + 1 < steps {
            let output =
                runtime.model().decoder().unwrap().forward(weights, &next, &mut cache, Want::LastLogits).unwrap();
            let logits: Vec<f32> = output.logits.to_vec();
            next = logits.chunks(vocabulary).map(argmax).collect();
        }
    }
}

#[test]
fn gguf_files_of_every_encoding_equal_their_dequantised_model() {
    for name in ["f32", "f16", "q8_0", "q4_0", "mixed"] {
        let goldens = Goldens::read(&format!("quant/llama-{name}.goldens.safetensors"));
        let path = asset(&format!("quant/llama-{name}.gguf"));
        let model_bytes = Runtime::builder(&path).open().unwrap().plan(1).unwrap().model_bytes;
        for percent in [120, 60] {
            let runtime = Runtime::builder(&path).memory_bytes(model_bytes * percent / 100).open().unwrap();
            let (logits, _) = golden_pass(&runtime, &goldens, Want::AllLogits);
            let difference = largest_difference(&logits, &goldens.floats("logits"));
            assert!(difference < TOLERANCE, "{name} at {percent} %: {difference}");
        }
    }
}

#[test]
fn tokens_one_by_one_equal_a_single_pass() {
    for model in GOLDEN_MODELS {
        let (runtime, goldens) = (model.open(50), model.goldens());
        let ids = goldens.ids("input_ids");
        let weights = runtime.weights();
        let mut cache = KvCache::new(runtime.config().kv_shape(KvEncoding::F32), ids.len(), vec![0], weights).unwrap();
        let rows = ids.chunks(1).flat_map(|token| {
            let output =
                runtime.model().decoder().unwrap().forward(weights, token, &mut cache, Want::LastLogits).unwrap();
            output.logits.to_vec()
        });
        let logits: Vec<f32> = rows.collect();
        let difference = largest_difference(&logits, &goldens.floats("logits"));
        assert!(difference < TOLERANCE, "{model:?}: {difference}");
    }
}
