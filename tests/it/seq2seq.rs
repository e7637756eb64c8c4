//! The tiny T5 models against Transformers, and what is read while they write.

use smoke_runtime::models::parts::{KvCache, KvEncoding};
use smoke_runtime::models::{EncoderInput, Keep, Seq2Seq, Source, Want};
use smoke_runtime::predict::{CyclicPredictor, Schedule, UnitId};
use smoke_runtime::{AtEnd, GenerateOptions, Prompt, Runtime};
use smoke_tests::{Goldens, asset, largest_difference};

use crate::encoders::left_padded;

/// The largest difference allowed.
const TOLERANCE: f32 = 1e-4;

/// With ReLU and a tied head, and with gated GELU and without a scale.
pub(crate) const MODELS: [&str; 2] = ["t5", "flan-t5"];

fn goldens(name: &str) -> Goldens {
    Goldens::read(&format!("tiny/{name}/goldens.safetensors"))
}

fn model_bytes(name: &str) -> u64 {
    Runtime::builder(asset(&format!("tiny/{name}"))).open().unwrap().plan(1).unwrap().model_bytes
}

/// Opens with `percent` of the model's bytes as budget.
fn open(name: &str, percent: u64) -> Runtime {
    let builder = Runtime::builder(asset(&format!("tiny/{name}")));
    builder.memory_bytes(model_bytes(name) * percent / 100).open().unwrap()
}

fn encode(runtime: &Runtime, input: &EncoderInput<'_>, keep: Keep) -> Source {
    let model = runtime.model().encoder_decoder().unwrap();
    model.encode(runtime.weights(), input, KvEncoding::F32, keep).unwrap()
}

fn decoder_cache(model: &dyn Seq2Seq, runtime: &Runtime, capacity: usize, rows: usize) -> KvCache {
    KvCache::new(model.decoder().kv_shape(KvEncoding::F32), capacity, vec![0; rows], runtime.weights()).unwrap()
}

pub(crate) fn check_logits_and_hidden_states(runtime: &Runtime, name: &str) {
    let (goldens, weights) = (goldens(name), runtime.weights());
    let model = runtime.model().encoder_decoder().unwrap();
    let source = encode(runtime, &EncoderInput::one(&goldens.ids("input_ids")), Keep::All);
    let states: Vec<f32> = source.hidden_states.iter().flat_map(|x| x.to_vec()).collect();
    let difference = largest_difference(&states, &goldens.floats("encoder_hidden_states"));
    assert!(difference < TOLERANCE, "{name}: the encoder's hidden states differ by {difference}");

    let tokens = goldens.ids("decoder_input_ids");
    let mut cache = decoder_cache(model, runtime, tokens.len(), 1);
    let output = model.decode(weights, &tokens, &source, &mut cache, Want::HiddenStates).unwrap();
    let states: Vec<f32> = output.hidden_states.iter().flat_map(|x| x.to_vec()).collect();
    let difference = largest_difference(&states, &goldens.floats("hidden_states"));
    assert!(difference < TOLERANCE, "{name}: the decoder's hidden states differ by {difference}");
    let difference = largest_difference(&output.logits.to_vec(), &goldens.floats("logits"));
    assert!(difference < TOLERANCE, "{name}: logits differ by {difference}");

    // The same tokens one by one: distances count from what is in the cache.
    let mut cache = decoder_cache(model, runtime, tokens.len(), 1);
    let one_by_one = tokens
        .chunks(1)
        .flat_map(|token| model.decode(weights, token, &source, &mut cache, Want::LastLogits).unwrap().logits.to_vec());
    let one_by_one: Vec<f32> = one_by_one.collect();
    assert!(largest_difference(&one_by_one, &goldens.floats("logits")) < TOLERANCE, "{name}: one by one");
}

#[test]
fn logits_and_hidden_states_equal_transformers_at_every_budget() {
    for name in MODELS {
        for percent in [100, 50, 25] {
            let runtime = open(name, percent);
            check_logits_and_hidden_states(&runtime, name);
            let budget = runtime.weights().streamer().budget();
            assert!(budget.peak_bytes() <= budget.limit_bytes(), "{name} at {percent} %: {budget:?}");
        }
    }
}

#[test]
fn greedy_tokens_equal_transformers_at_every_budget_and_with_every_policy() {
    for name in MODELS {
        let goldens = goldens(name);
        let expected = goldens.ids("greedy");
        let options = GenerateOptions { max_tokens: expected.len(), at_end: AtEnd::Ignore, ..Default::default() };
        let bytes = model_bytes(name);
        let budgets = [100, 50, 25].map(|percent| (bytes * percent / 100, "pinned"));
        let policies = smoke_runtime::POLICY_NAMES.iter().map(|policy| (bytes / 2, *policy));
        for (budget, policy) in budgets.into_iter().chain(policies) {
            let builder = Runtime::builder(asset(&format!("tiny/{name}"))).memory_bytes(budget);
            let runtime = builder.policy_name(policy).open().unwrap();
            // Twice: a second prompt begins where the first ended, in the midst of the decoder's passes.
            for round in 0..2 {
                let prompt = Prompt::Tokens(goldens.ids("input_ids"));
                let mut generation = runtime.generate(prompt, options.clone()).unwrap();
                let tokens: Vec<u32> = generation.by_ref().map(|token| token.unwrap().id).collect();
                assert_eq!(tokens, expected, "{name} with {budget} bytes and {policy}");
                let statistics = generation.statistics();
                assert!(statistics.peak_bytes <= statistics.budget_bytes, "{name}: {statistics:?}");
                // MIN is computed for a cache that is empty at first.
                assert!(
                    round > 0 || statistics.byte_hit_rate <= statistics.min_byte_hit_rate,
                    "{name}: {statistics:?}"
                );
            }
        }
    }
}

#[test]
fn a_padded_batch_equals_transformers_at_every_budget() {
    for (name, percent) in MODELS.iter().flat_map(|name| [100, 50, 30].map(|percent| (*name, percent))) {
        let (goldens, runtime) = (goldens(name), open(name, percent));
        let (weights, model) = (runtime.weights(), runtime.model().encoder_decoder().unwrap());
        let (tokens, padding) = left_padded(&goldens.ids("batch_input_ids"), &goldens.ids("batch_attention_mask"), 2);
        let input = EncoderInput { tokens: &tokens, padding: &padding, segments: &[] };
        let source = encode(&runtime, &input, Keep::Last);
        let given = goldens.ids("batch_decoder_input_ids");
        let mut cache = decoder_cache(model, &runtime, given.len() / 2, 2);
        let output = model.decode(weights, &given, &source, &mut cache, Want::AllLogits).unwrap();
        let difference = largest_difference(&output.logits.to_vec(), &goldens.floats("batch_logits"));
        assert!(difference < TOLERANCE, "{name} at {percent} %: logits of the batch differ by {difference}");
        drop((output, cache));

        let expected = goldens.ids("batch_greedy");
        let steps = expected.len() / 2;
        let mut cache = decoder_cache(model, &runtime, steps, 2);
        let mut next = vec![model.start_token(); 2];
        for step in 0..steps {
            let output = model.decode(weights, &next, &source, &mut cache, Want::LastLogits).unwrap();
            let argmax = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as u32;
            next = output.logits.to_vec().chunks(runtime.config().vocabulary).map(argmax).collect();
            assert_eq!(next, [expected[step], expected[steps + step]], "{name} at {percent} %: token {step}");
        }
        let budget = weights.streamer().budget();
        assert!(budget.peak_bytes() <= budget.limit_bytes(), "{name} at {percent} %: {budget:?}");
    }
}

/// Generates, and returns which units of the encoder came to memory while the decoder wrote 24 tokens, and the bytes that
/// were read for the last 20.
fn encoder_units_read_while_writing(runtime: &Runtime, name: &str) -> (Vec<UnitId>, u64) {
    let streamer = runtime.weights().streamer();
    let options = GenerateOptions { max_tokens: 24, at_end: AtEnd::Ignore, ..Default::default() };
    let prompt = Prompt::Tokens(goldens(name).ids("input_ids"));
    let generation = runtime.generate(prompt, options).unwrap();
    let (mut resident, mut read) = (None::<Vec<UnitId>>, Vec::new());
    let mut bytes = Vec::new();
    for token in generation {
        token.unwrap();
        let is_resident = |unit: &UnitId| streamer.peek(*unit).is_some();
        let now: Vec<UnitId> = runtime.schedule().prologue.iter().copied().filter(is_resident).collect();
        if let Some(before) = resident.replace(now.clone()) {
            read.extend(now.into_iter().filter(|unit| !before.contains(unit)));
        }
        bytes.push(streamer.stats().bytes_read);
    }
    assert_eq!(bytes.len(), 24);
    (read, bytes[23] - bytes[3])
}

#[test]
fn no_unit_of_the_encoder_is_read_while_the_decoder_writes() {
    for (name, percent) in MODELS.iter().flat_map(|name| [50, 30].map(|percent| (*name, percent))) {
        let runtime = open(name, percent);
        let (encoder_units, bytes) = encoder_units_read_while_writing(&runtime, name);
        assert_eq!(encoder_units, [], "{name} at {percent} %");

        // A predictor that knows no phases reads the encoder ahead, token by token.
        let Schedule { prologue, cycle } = runtime.schedule();
        let one_cycle = CyclicPredictor::new([&prologue[..], cycle].concat());
        let builder = Runtime::builder(asset(&format!("tiny/{name}"))).predictor(one_cycle);
        let unaware = builder.memory_bytes(model_bytes(name) * percent / 100).open().unwrap();
        let (_, bytes_by_unaware) = encoder_units_read_while_writing(&unaware, name);
        assert!(bytes_by_unaware > bytes, "{name} at {percent} %: {bytes_by_unaware} bytes, and {bytes} with phases");
    }
}

#[test]
fn a_budget_that_cannot_hold_the_prompt_is_refused_with_what_would() {
    let runtime = open("t5", 25);
    let prompt = Prompt::Tokens((0..4000).map(|i| 3 + i % 300).collect());
    let error = runtime.generate(prompt.clone(), GenerateOptions::default()).unwrap_err().to_string();
    let smallest = error.split("works is ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    let enough: u64 = smallest.parse().unwrap();
    let options = GenerateOptions { at_end: AtEnd::Ignore, ..Default::default() };
    let runtime = Runtime::builder(asset("tiny/t5")).memory_bytes(enough).open().unwrap();
    let mut generation = runtime.generate(prompt.clone(), options).unwrap();
    assert_eq!(generation.by_ref().map(Result::unwrap).count(), 128);
    let statistics = generation.statistics();
    assert!(statistics.peak_bytes <= enough, "{statistics:?}");
    let runtime = Runtime::builder(asset("tiny/t5")).memory_bytes(enough - 1).open().unwrap();
    assert!(runtime.generate(prompt, GenerateOptions::default()).is_err());
}
