//! Every tiny model against Transformers: logits, hidden states, a padded batch and greedy tokens.

use std::path::Path;

use smoke_runtime::models::Want;
use smoke_runtime::models::parts::{KvCache, KvEncoding};
use smoke_runtime::storage::ReaderKind;
use smoke_runtime::{AtEnd, DeviceKind, GenerateOptions, Prompt, Runtime};
use smoke_tests::{Goldens, asset, largest_difference};

/// The largest difference allowed for f32 weights, and to the dequantised model for others.
const TOLERANCE: f32 = 1e-4;

const MODELS: [&str; 12] = [
    "llama",
    "llama-sharded",
    "llama-bin",
    "llama-bin-legacy",
    "llama-bin-sharded",
    "llama-tied",
    "llama3-rope",
    "gpt2",
    "gpt2-sharded",
    "gpt2-bin",
    "gpt2-bin-legacy",
    "gpt2-bin-sharded",
];

/// A model's golden outputs. PyTorch's files have those of their twin in safetensors.
fn goldens(name: &str) -> Goldens {
    let twin = name.split("-bin").next().unwrap_or(name);
    Goldens::read(&format!("tiny/{twin}/goldens.safetensors"))
}

/// Opens with `percent` of the model's bytes as budget.
fn open(path: &Path, percent: u64, device: DeviceKind) -> Runtime {
    let model_bytes = Runtime::builder(path).open().unwrap().plan(1).unwrap().model_bytes;
    Runtime::builder(path).memory_bytes(model_bytes * percent / 100).device(device).open().unwrap()
}

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
    for name in MODELS {
        let goldens = goldens(name);
        for percent in [100, 50, 25] {
            let runtime = open(&asset(&format!("tiny/{name}")), percent, DeviceKind::Cpu);
            check_logits_and_hidden_states(&runtime, &goldens, &format!("{name} at {percent} %"));
            let budget = runtime.weights().streamer().budget();
            assert!(budget.peak_bytes() <= budget.limit_bytes(), "{name} at {percent} %: {budget:?}");
        }
    }
}

#[test]
fn every_budget_and_every_reader_gives_the_same_bits() {
    for name in ["llama-sharded", "gpt2", "llama-bin", "gpt2-bin-legacy"] {
        let path = asset(&format!("tiny/{name}"));
        let goldens = goldens(name);
        let reference = golden_pass(&open(&path, 200, DeviceKind::Cpu), &goldens, Want::AllLogits).0;
        for percent in [100, 50, 25] {
            assert_eq!(golden_pass(&open(&path, percent, DeviceKind::Cpu), &goldens, Want::AllLogits).0, reference);
        }
        for reader in [ReaderKind::Mmap, ReaderKind::Pread, ReaderKind::Direct] {
            let runtime = Runtime::builder(&path).reader(reader).open().unwrap();
            assert_eq!(golden_pass(&runtime, &goldens, Want::AllLogits).0, reference, "{reader:?}");
        }
    }
}

#[test]
fn greedy_tokens_equal_transformers_at_every_budget_and_with_every_policy() {
    for name in MODELS {
        let goldens = goldens(name);
        let path = asset(&format!("tiny/{name}"));
        let expected = goldens.ids("greedy");
        let options = GenerateOptions { max_tokens: expected.len(), at_end: AtEnd::Ignore, ..Default::default() };
        let bytes = open(&path, 100, DeviceKind::Cpu).plan(1).unwrap().model_bytes;
        let budgets = [100, 50, 25].map(|percent| (bytes * percent / 100, "pinned"));
        let policies = smoke_runtime::POLICY_NAMES.iter().map(|policy| (bytes / 2, *policy));
        for (budget, policy) in budgets.into_iter().chain(policies) {
            let runtime = Runtime::builder(&path).memory_bytes(budget).policy_name(policy).open().unwrap();
            let prompt = Prompt::Tokens(goldens.ids("input_ids"));
            let mut generation = runtime.generate(prompt, options.clone()).unwrap();
            let tokens: Vec<u32> = generation.by_ref().map(|token| token.unwrap().id).collect();
            assert_eq!(tokens, expected, "{name} with {budget} bytes and {policy}");
            let statistics = generation.statistics();
            assert!(statistics.peak_bytes <= statistics.budget_bytes, "{name}: {statistics:?}");
        }
    }
}

#[test]
fn a_batch_with_left_padding_equals_transformers() {
    for (name, percent) in MODELS.iter().flat_map(|name| [100, 50, 40].map(|percent| (name, percent))) {
        let goldens = goldens(name);
        let runtime = open(&asset(&format!("tiny/{name}")), percent, DeviceKind::Cpu);
        let (ids, mask) = (goldens.ids("batch_input_ids"), goldens.ids("batch_attention_mask"));
        let expected = goldens.floats("batch_logits");
        let tokens = ids.len() / 2;
        let padding: Vec<usize> =
            mask.chunks(tokens).map(|row| row.iter().take_while(|&&seen| seen == 0).count()).collect();
        assert!(padding.iter().any(|&pad| pad > 0), "the golden batch is padded");
        let weights = runtime.weights();
        let greedy = goldens.ids("batch_greedy");
        let steps = greedy.len() / 2;
        let mut cache =
            KvCache::new(runtime.config().kv_shape(KvEncoding::F32), tokens + steps, padding, weights).unwrap();
        let output = runtime.model().decoder().unwrap().forward(weights, &ids, &mut cache, Want::AllLogits).unwrap();
        let logits: Vec<f32> = output.logits.to_vec();
        let vocabulary = runtime.config().vocabulary;
        let rows = || logits.chunks(vocabulary).zip(expected.chunks(vocabulary)).zip(&mask);
        for ((ours, theirs), _) in rows().filter(|(_, seen)| **seen == 1) {
            let difference = largest_difference(ours, theirs);
            assert!(difference < TOLERANCE, "{name}: {difference}");
        }

        let argmax = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as u32;
        let last = |row: usize| ((row + 1) * tokens - 1) * vocabulary;
        let mut next: Vec<u32> = (0..2).map(|row| argmax(&logits[last(row)..][..vocabulary])).collect();
        for step in 0..steps {
            assert_eq!(next, [greedy[step], greedy[steps + step]], "{name}: token {step}");
            if step + 1 < steps {
                let output =
                    runtime.model().decoder().unwrap().forward(weights, &next, &mut cache, Want::LastLogits).unwrap();
                let logits: Vec<f32> = output.logits.to_vec();
                next = logits.chunks(vocabulary).map(argmax).collect();
            }
        }
    }
}

#[test]
fn gguf_files_of_every_encoding_equal_their_dequantised_model() {
    for name in ["f32", "f16", "q8_0", "q4_0", "mixed"] {
        let goldens = Goldens::read(&format!("quant/llama-{name}.goldens.safetensors"));
        for percent in [120, 60] {
            let runtime = open(&asset(&format!("quant/llama-{name}.gguf")), percent, DeviceKind::Cpu);
            let (logits, _) = golden_pass(&runtime, &goldens, Want::AllLogits);
            let difference = largest_difference(&logits, &goldens.floats("logits"));
            assert!(difference < TOLERANCE, "{name} at {percent} %: {difference}");
        }
    }
}

#[test]
fn tokens_one_by_one_equal_a_single_pass() {
    let runtime = open(&asset("tiny/llama"), 50, DeviceKind::Cpu);
    let goldens = Goldens::read("tiny/llama/goldens.safetensors");
    let ids = goldens.ids("input_ids");
    let weights = runtime.weights();
    let mut cache = KvCache::new(runtime.config().kv_shape(KvEncoding::F32), ids.len(), vec![0], weights).unwrap();
    let rows = ids.chunks(1).flat_map(|token| {
        let output = runtime.model().decoder().unwrap().forward(weights, token, &mut cache, Want::LastLogits).unwrap();
        output.logits.to_vec()
    });
    let logits: Vec<f32> = rows.collect();
    assert!(largest_difference(&logits, &goldens.floats("logits")) < TOLERANCE);
}
