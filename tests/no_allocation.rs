//! What decoding a token allocates, counted by an allocator. A binary of its own, with one test, for the count is global.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in what tests share, too")]

#[path = "counting_allocator.rs"]
mod counting_allocator;

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use smoke_runtime::{AtEnd, GenerateOptions, Prompt, Runtime};
use smoke_tests::asset;

use counting_allocator::Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// By this thread alone.
    static HERE: Cell<u64> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting(|_| {
    HERE.set(HERE.get() + 1);
    ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
});

/// What one load may allocate besides a token's own nothing, buffers among it; see the streamer's own count.
const PER_LOAD: u64 = 8;
/// Tokens that warm up: each thing that is kept grows to its size.
const FIRST: usize = 12;
/// Tokens that are counted. With those of the prompt and the first they fit one page of keys and values.
const COUNTED: usize = 12;

/// Allocations while [`COUNTED`] tokens are generated, and the most loads that fell into that time.
struct Count {
    by_all: u64,
    by_this_thread: u64,
    loads: u64,
}

fn count(model: &str, percent: u64) -> Count {
    // Without a tokenizer: the text of a token is a string.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(asset(&format!("tiny/{model}/{file}")), path.join(file)).unwrap();
    }
    let model_bytes = Runtime::builder(path).open().unwrap().plan(1).unwrap().model_bytes;
    let runtime = Runtime::builder(path).memory_bytes(model_bytes * percent / 100).open().unwrap();
    let options = GenerateOptions { max_tokens: FIRST + COUNTED, at_end: AtEnd::Ignore, ..Default::default() };
    let mut tokens = runtime.generate(Prompt::Tokens(vec![5, 6, 7]), options).unwrap();
    assert_eq!(tokens.by_ref().take(FIRST).map(Result::unwrap).count(), FIRST);
    let loads = || {
        let stats = runtime.weights().streamer().stats();
        stats.demand_loads + stats.prefetch_loads
    };
    let before = (ALLOCATIONS.load(Ordering::SeqCst), HERE.get(), loads());
    assert_eq!(tokens.map(Result::unwrap).count(), COUNTED);
    Count {
        by_this_thread: HERE.get() - before.1,
        by_all: ALLOCATIONS.load(Ordering::SeqCst) - before.0,
        loads: loads() - before.2,
    }
}

#[test]
fn a_token_of_a_dense_model_allocates_nothing_but_what_is_loaded() {
    for model in ["llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "gemma3", "gpt2", "gptj", "gpt_neox"] {
        // A thread beside this one that begins late, or sleeps through the first tokens, makes what it needs in a later one,
        // once. What allocates for each token does so in every run.
        let is_quiet = (0..5).any(|_| {
            let Count { by_all, by_this_thread, loads } = count(model, 400);
            assert_eq!((by_this_thread, loads), (0, 0), "{model} in memory");
            by_all == 0
        });
        assert!(is_quiet, "{model} in memory: other threads allocate for each token");
    }
    for model in ["llama", "gpt2"] {
        let Count { by_all, loads, .. } = count(model, 50);
        assert!(loads > COUNTED as u64, "{model}: {loads} loads do not stream");
        // One read ahead may have begun before the count, and one may end after it.
        assert!(by_all <= (loads + 2) * PER_LOAD, "{model}: {by_all} allocations for {loads} loads");
    }
}
