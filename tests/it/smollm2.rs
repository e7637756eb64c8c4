//! The trained model, SmolLM2-135M-Instruct with 4-bit weights, against Transformers on the same weights in f32.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use smoke_runtime::models::Want;
use smoke_runtime::models::parts::{KvCache, KvEncoding};
use smoke_runtime::{AtEnd, GenerateOptions, Message, Prompt, Runtime, Statistics};
use smoke_tests::{Goldens, asset, largest_difference, smollm2};

const GOLDENS: &str = "goldens/smollm2-135m-instruct-f32";

fn goldens() -> Goldens {
    Goldens::read(&format!("{GOLDENS}.safetensors"))
}

fn golden_json() -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(asset(&format!("{GOLDENS}.json"))).unwrap()).unwrap()
}

fn ids(value: &serde_json::Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Opens with `percent` of the weights as budget.
fn open(percent: u64, policy: &str) -> Runtime {
    let model_bytes = Runtime::builder(smollm2()).open().unwrap().plan(1).unwrap().model_bytes;
    Runtime::builder(smollm2()).memory_bytes(model_bytes * percent / 100).policy_name(policy).open().unwrap()
}

fn generate(runtime: &Runtime, prompt: Prompt, options: GenerateOptions) -> (Vec<u32>, String, Statistics) {
    let mut generation = runtime.generate(prompt, options).unwrap();
    let tokens: Vec<_> = generation.by_ref().map(Result::unwrap).collect();
    let text = tokens.iter().map(|token| token.text.as_str()).collect::<String>() + &generation.rest();
    (tokens.iter().map(|token| token.id).collect(), text, generation.statistics())
}

#[test]
fn greedy_tokens_are_the_golden_ones_at_every_budget() {
    let expected = goldens().ids("greedy");
    let options = GenerateOptions { max_tokens: expected.len(), at_end: AtEnd::Ignore, ..Default::default() };
    for percent in [100, 50, 25] {
        let runtime = open(percent, "pinned");
        let prompt = Prompt::Tokens(goldens().ids("input_ids"));
        let (tokens, _, statistics) = generate(&runtime, prompt, options.clone());
        assert_eq!(tokens, expected, "at {percent} %");
        assert!(statistics.peak_bytes <= statistics.budget_bytes, "at {percent} %: {statistics:?}");
        assert_eq!(statistics.budget_bytes, statistics.model_bytes * percent / 100);
    }
}

#[test]
fn the_budget_may_change_while_the_prompt_goes_through() {
    let prompt: Vec<u32> = goldens().ids("input_ids").repeat(12);
    let options = GenerateOptions { max_tokens: 3, at_end: AtEnd::Ignore, ..Default::default() };
    let (expected, ..) = generate(&open(100, "pinned"), Prompt::Tokens(prompt.clone()), options.clone());
    let runtime = open(100, "pinned");
    let budget = runtime.weights().streamer().budget();
    let whole = budget.limit_bytes();
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let changing = scope.spawn(|| {
            let mut accepted = 0;
            for percent in [60, 100, 45, 75, 55].into_iter().cycle().take_while(|_| !is_done.load(Ordering::Relaxed)) {
                // What the running part of the prompt needs is refused to give up, with an error.
                accepted += u32::from(runtime.set_memory_bytes(whole * percent / 100).is_ok());
                std::thread::sleep(Duration::from_millis(20));
            }
            accepted
        });
        let tokens = runtime.generate(Prompt::Tokens(prompt), options);
        let generated =
            tokens.and_then(|tokens| tokens.map(|token| token.map(|token| token.id)).collect::<Result<Vec<u32>, _>>());
        is_done.store(true, Ordering::Relaxed);
        assert!(changing.join().unwrap() > 3, "the budget never changed");
        assert_eq!(generated.unwrap(), expected);
    });
    assert!(budget.used_bytes() <= budget.limit_bytes());
}

#[test]
fn compact_keys_and_values_keep_the_text() {
    let expected = goldens().ids("greedy");
    for encoding in [KvEncoding::F16, KvEncoding::Int8] {
        let runtime = Runtime::builder(smollm2()).memory("64MB").kv_encoding(encoding).open().unwrap();
        let options = GenerateOptions { max_tokens: expected.len(), at_end: AtEnd::Ignore, ..Default::default() };
        let (tokens, ..) = generate(&runtime, Prompt::Tokens(goldens().ids("input_ids")), options);
        assert_eq!(tokens, expected, "{encoding:?}");
    }
}

#[test]
fn the_budget_may_change_while_tokens_are_generated() {
    let expected = goldens().ids("greedy");
    let options = GenerateOptions { max_tokens: expected.len(), at_end: AtEnd::Ignore, ..Default::default() };
    let runtime = open(100, "pinned");
    let budget = runtime.weights().streamer().budget();
    let whole = budget.limit_bytes();
    let mut tokens = Vec::new();
    for token in runtime.generate(Prompt::Tokens(goldens().ids("input_ids")), options).unwrap() {
        tokens.push(token.unwrap().id);
        let percent = [100, 30, 60, 25, 90][tokens.len() % 5];
        runtime.set_memory_bytes(whole * percent / 100).unwrap();
        assert!(budget.used_bytes() <= budget.limit_bytes(), "{budget:?} at {percent} %");
    }
    assert_eq!(tokens, expected);
    assert!(runtime.set_memory_bytes(1 << 20).unwrap_err().to_string().contains("smallest that works"));
    assert_eq!(budget.limit_bytes(), whole * [100, 30, 60, 25, 90][expected.len() % 5] / 100);
}

#[test]
fn half_of_the_weights_in_memory_reads_little_more_than_the_other_half() {
    let options = GenerateOptions { max_tokens: 12, at_end: AtEnd::Ignore, ..Default::default() };
    let prompt = Prompt::Tokens(goldens().ids("raw_input_ids"));
    let (_, _, statistics) = generate(&open(50, "pinned"), prompt.clone(), options.clone());
    let (read, least) = (statistics.bytes_read_per_token as f64, statistics.min_bytes_read_per_token as f64);
    assert!(least > 0.45 * statistics.model_bytes as f64, "half of the weights cannot be read in less: {least}");
    assert!(read <= 1.05 * least, "{read} bytes per token where {least} are possible");
    assert!(statistics.byte_hit_rate <= statistics.min_byte_hit_rate, "{statistics:?}");

    // The same memory with the policy of page caches: no byte of a pass is there when it comes round again.
    let (_, _, lru) = generate(&open(50, "lru"), prompt, options);
    assert_eq!(lru.byte_hit_rate, 0.0, "{lru:?}");
}

#[test]
fn answers_a_question_and_stops() {
    let json = golden_json();
    let (_, text, _) = generate(&open(50, "pinned"), Prompt::chat(QUESTION), GenerateOptions::default());
    let golden = json["greedy_until_eos_text"].as_str().unwrap();
    assert_eq!(text, golden.trim_end_matches("<|im_end|>"));
}

const QUESTION: &str = "What is the capital of France? Answer in one sentence.";

#[test]
fn the_chat_template_gives_the_golden_prompt() {
    let json = golden_json();
    assert_eq!(json["chat"][0]["content"], QUESTION);
    let runtime = open(50, "pinned");
    assert_eq!(runtime.encode(&Prompt::Chat(vec![Message::user(QUESTION)])).unwrap(), ids(&json["input_ids"]));
}

#[test]
fn logits_and_hidden_states_equal_transformers() {
    let goldens = goldens();
    let runtime = Runtime::builder(smollm2()).memory("120MB").open().unwrap();
    let weights = runtime.weights();
    let pass = |tokens: &[u32], want| {
        let mut cache =
            KvCache::new(runtime.config().kv_shape(KvEncoding::F32), tokens.len(), vec![0], weights).unwrap();
        runtime.model().decoder().unwrap().forward(weights, tokens, &mut cache, want).unwrap()
    };
    let logits: Vec<f32> = pass(&goldens.ids("raw_input_ids"), Want::AllLogits).logits.to_vec();
    // Of the last token, and hidden states of the sixth, the 24th and the last: the file stays small.
    let expected = goldens.floats("raw_logits");
    let difference = largest_difference(&logits[logits.len() - expected.len()..], &expected);
    // Logits reach 30 here: 1e-3 is 3e-5 of them.
    assert!(difference < 1e-3, "logits differ by {difference}");

    let hidden = pass(&goldens.ids("input_ids"), Want::HiddenStates).hidden_states;
    let expected = goldens.floats("hidden_states");
    let layer = expected.len() / hidden.len();
    for (index, (ours, theirs)) in hidden.into_iter().zip(expected.chunks(layer)).enumerate() {
        let features = ours.features();
        let ours: Vec<f32> = ours.to_vec().chunks(features).skip(5).step_by(18).flatten().copied().collect();
        // Some features of the residual stream reach thousands: relative to the largest of the layer.
        let scale = theirs.iter().fold(1.0_f32, |max, value| max.max(value.abs()));
        let difference = largest_difference(&ours, theirs) / scale;
        assert!(difference < 1e-4, "layer {index}: hidden states differ by {difference} of the largest");
    }
}
