//! Compressed copies in memory: the same tokens, within the budget, from fewer bytes of the disk.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use smoke_runtime::compress::codec::CODEC_NAMES;
use smoke_runtime::{AtEnd, Compression, GenerateOptions, Prompt, Runtime, RuntimeBuilder, Statistics};
use smoke_tests::{Goldens, asset};
use tempfile::TempDir;

use crate::watched::Reads;

const MODEL: &str = "tiny/llama";

/// A LLaMA of 6 MB in `bf16`, its weights about zero as those of trained models are: the tiny ones are a few units only.
fn model_of_bf16() -> TempDir {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path();
    let [hidden, mlp, layers, vocabulary] = [256, 640, 4, 320];
    let mut config: Value = serde_json::from_slice(&std::fs::read(asset(MODEL).join("config.json")).unwrap()).unwrap();
    for (key, size) in [
        ("hidden_size", hidden),
        ("intermediate_size", mlp),
        ("num_hidden_layers", layers),
        ("head_dim", hidden / 4),
        ("num_key_value_heads", 4),
    ] {
        config[key] = json!(size);
    }
    std::fs::write(directory.join("config.json"), config.to_string()).unwrap();
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![vocabulary, hidden]),
        ("lm_head.weight".to_owned(), vec![vocabulary, hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
    ];
    for layer in 0..layers {
        let name = |name: &str| format!("model.layers.{layer}.{name}.weight");
        tensors.extend(["input_layernorm", "post_attention_layernorm"].map(|norm| (name(norm), vec![hidden])));
        let projections = ["q", "k", "v", "o"].map(|part| format!("self_attn.{part}_proj"));
        tensors.extend(projections.map(|projection| (name(&projection), vec![hidden, hidden])));
        tensors.extend(["mlp.gate_proj", "mlp.up_proj"].map(|projection| (name(projection), vec![mlp, hidden])));
        tensors.push((name("mlp.down_proj"), vec![hidden, mlp]));
    }
    let (mut header, mut data, mut state) = (serde_json::Map::new(), Vec::<u8>::new(), 1_u32);
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32
    };
    for (name, shape) in tensors {
        let start = data.len();
        for _ in 0..shape.iter().product() {
            // Irwin and Hall's way to a normal distribution; norms are 1.
            let weight = if shape.len() == 1 { 1.0 } else { ((0..12).map(|_| uniform()).sum::<f32>() - 6.0) * 0.06 };
            data.extend(((weight.to_bits() >> 16) as u16).to_le_bytes());
        }
        header.insert(name, json!({ "dtype": "BF16", "shape": shape, "data_offsets": [start, data.len()] }));
    }
    let header = Value::Object(header).to_string();
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    std::fs::write(directory.join("model.safetensors"), file).unwrap();
    place
}

/// A runtime, and what it has read.
struct Watch {
    runtime: Runtime,
    reads: Reads,
}

/// What a generation gave.
struct Run {
    tokens: Vec<u32>,
    /// Read for each of them.
    bytes: Vec<u64>,
    statistics: Statistics,
}

impl Watch {
    /// With weights as `dtype`, and `percent` of their size as the budget.
    fn open(path: &Path, dtype: &str, percent: u64, compression: Compression, delay: Duration) -> Self {
        let builder = || Runtime::builder(path).dtype(dtype);
        let model_bytes = builder().open().unwrap().plan(1).unwrap().model_bytes;
        let builder = builder().memory_bytes(model_bytes * percent / 100).compressed(compression);
        Self::around(builder, delay)
    }

    fn around(builder: RuntimeBuilder, delay: Duration) -> Self {
        let (builder, reads) = Reads::of(builder, delay);
        Self { runtime: builder.open().unwrap(), reads }
    }

    fn run(&self, max_tokens: usize) -> Run {
        let prompt = Goldens::read(&format!("{MODEL}/goldens.safetensors")).ids("input_ids");
        let options = GenerateOptions { max_tokens, at_end: AtEnd::Ignore, ..Default::default() };
        let before = self.reads.bytes();
        let mut generation = self.runtime.generate(Prompt::Tokens(prompt), options).unwrap();
        let (mut tokens, mut bytes, mut seen) = (Vec::new(), Vec::new(), before);
        for token in generation.by_ref() {
            tokens.push(token.unwrap().id);
            let now = self.reads.bytes();
            bytes.push(now - std::mem::replace(&mut seen, now));
        }
        let statistics = generation.statistics();
        assert!(statistics.peak_bytes <= statistics.budget_bytes, "{statistics:?}");
        Run { tokens, bytes, statistics }
    }
}

/// Read for each of the last tokens, on the average.
fn steady(run: &Run) -> u64 {
    let last = &run.bytes[run.bytes.len() - 8..];
    last.iter().sum::<u64>() / last.len() as u64
}

#[test]
fn tokens_are_the_golden_ones_with_every_codec() {
    let expected = Goldens::read(&format!("{MODEL}/goldens.safetensors")).ids("greedy");
    for name in CODEC_NAMES {
        for percent in [70, 50, 25] {
            let compression = Compression::Always(name);
            let watch = Watch::open(&asset(MODEL), "keep", percent, compression, Duration::ZERO);
            let run = watch.run(expected.len());
            assert_eq!(run.tokens, expected, "{name} at {percent} %");
        }
    }
}

#[test]
fn copies_of_bf16_save_reads_and_change_no_token() {
    let model = model_of_bf16();
    const TOKENS: usize = 24;
    let whole = Watch::open(model.path(), "keep", 300, Compression::Off, Duration::ZERO).run(TOKENS);
    for percent in [50, 25] {
        let off = Watch::open(model.path(), "keep", percent, Compression::Off, Duration::ZERO).run(TOKENS);
        assert_eq!((&off.tokens, off.statistics.decompressed_bytes), (&whole.tokens, 0));
        for name in CODEC_NAMES {
            let watch = Watch::open(model.path(), "keep", percent, Compression::Always(name), Duration::ZERO);
            let on = watch.run(TOKENS);
            assert_eq!(on.tokens, whole.tokens, "{name} at {percent} %");
            let (statistics, what) = (&on.statistics, format!("{name} at {percent} %: {:?}", on.statistics));
            let ratio = statistics.copies.unwrap().sample.ratio;
            println!("{name} at {percent} %: to {ratio:.3}, {} bytes instead of {}", steady(&on), steady(&off));
            if ratio >= 0.95 {
                // Without an entropy code there is nothing to gain.
                assert_eq!((name, statistics.decompressed_bytes, statistics.copied_bytes), ("lz4", 0, 0));
                continue;
            }
            assert!(steady(&on) < steady(&off), "{what}, and {} without", steady(&off));
            assert!(statistics.compressed_bytes < statistics.copied_bytes, "{what}");
            assert!(statistics.decompressed_bytes >= 10 * statistics.copied_bytes, "{what}");
            // What the next generation finds is there from its first token on.
            let next = watch.run(TOKENS);
            assert_eq!(next.tokens, whole.tokens);
            assert!(next.bytes[1] < off.bytes[TOKENS - 1] + off.bytes[TOKENS - 1] / 4, "{:?}", next.bytes);
        }
    }
}

#[test]
fn statistics_say_what_the_disk_gave() {
    let model = model_of_bf16();
    let watch = Watch::open(model.path(), "keep", 50, Compression::Always("bf16-planes"), Duration::ZERO);
    let opened = watch.reads.bytes();
    let run = watch.run(24);
    let statistics = &run.statistics;
    let read = watch.reads.bytes() - opened;
    // Reads ahead may still go on.
    let unit_bytes = watch.runtime.plan(1).unwrap().largest_unit_bytes;
    assert!(statistics.bytes_read.abs_diff(read) <= 8 * unit_bytes, "{read} bytes: {statistics:?}");
    let achieved = statistics.achieved().unwrap();
    assert!(achieved.share <= 1.0, "{achieved:?}");
    // The least is what neither memory nor copies hold.
    let plan = watch.runtime.plan(1).unwrap();
    assert_eq!((plan.compressed_bytes, plan.copied_bytes), (statistics.compressed_bytes, statistics.copied_bytes));
    assert!(statistics.min_bytes_read_per_token <= steady(&run) + unit_bytes, "{statistics:?}, {:?}", run.bytes);
}

#[test]
fn other_generations_and_other_budgets_may_come_between() {
    let model = model_of_bf16();
    let expected = Watch::open(model.path(), "keep", 50, Compression::Off, Duration::ZERO).run(24).tokens;
    let runtime = Watch::open(model.path(), "keep", 50, Compression::Always("bf16-planes"), Duration::ZERO).runtime;
    let budget = runtime.weights().streamer().budget();
    let limit_bytes = budget.limit_bytes();
    let prompt = Goldens::read(&format!("{MODEL}/goldens.safetensors")).ids("input_ids");
    let options = GenerateOptions { max_tokens: 24, at_end: AtEnd::Ignore, ..Default::default() };
    let begin = || runtime.generate(Prompt::Tokens(prompt.clone()), options.clone()).unwrap();
    let mut first = begin();
    let mut tokens = [vec![first.next().unwrap().unwrap().id], Vec::new()];
    // It counts anew between the first one's first token and its second, by which copies are weighed.
    let mut second = begin();
    for step in 0..24 {
        tokens[1].extend(second.next().map(|token| token.unwrap().id));
        tokens[0].extend(first.next().map(|token| token.unwrap().id));
        match step {
            4 => runtime.set_memory_bytes(limit_bytes * 5 / 4).unwrap(),
            12 => runtime.set_memory_bytes(limit_bytes).unwrap(),
            _ => {}
        }
        assert!(budget.used_bytes() <= budget.limit_bytes());
    }
    assert_eq!(tokens, [expected.clone(), expected]);
}

#[test]
fn a_codec_that_there_is_not_is_an_error() {
    let error = Runtime::builder(asset(MODEL)).compressed(Compression::Always("rar")).open().unwrap_err();
    assert!(error.to_string().contains("`rar` is none of off, auto, lz4"), "{error}");
}

#[test]
fn another_budget_gives_copies_up() {
    let model = model_of_bf16();
    let watch = Watch::open(model.path(), "keep", 50, Compression::Always("zstd"), Duration::ZERO);
    let expected = watch.run(24).tokens;
    let held = watch.runtime.plan(1).unwrap().compressed_bytes;
    assert!(held > 0);
    let budget = watch.runtime.weights().streamer().budget();
    watch.runtime.set_memory_bytes(budget.limit_bytes() * 5 / 4).unwrap();
    assert_eq!(watch.runtime.plan(1).unwrap().compressed_bytes, 0);
    assert!(budget.used_bytes() <= budget.limit_bytes());
    assert_eq!(watch.run(24).tokens, expected);
}

#[test]
fn a_long_generation_takes_the_room_of_copies() {
    let model = model_of_bf16();
    // As much as the longest context needs, of which a short one leaves much to copies.
    let open = |compression| {
        let longest = Runtime::builder(model.path()).open().unwrap().config().max_positions;
        let builder = || Runtime::builder(model.path());
        let minimum_bytes = builder().open().unwrap().plan(longest).unwrap().minimum_bytes;
        Watch::around(builder().memory_bytes(minimum_bytes).compressed(compression), Duration::ZERO)
    };
    let (watch, off) = (open(Compression::Always("bf16-planes")), open(Compression::Off));
    assert_eq!(watch.run(24).tokens, off.run(24).tokens);
    let longest = watch.runtime.config().max_positions;
    assert!(watch.runtime.plan(24).unwrap().compressed_bytes > 0);
    assert!(watch.runtime.plan(longest).is_err(), "there is room for both");
    assert_eq!(watch.run(longest).tokens, off.run(longest).tokens);
}

#[test]
fn auto_makes_copies_beside_a_slow_disk_and_none_that_cannot_pay() {
    let model = model_of_bf16();
    let delay = Duration::from_millis(20);
    let watch = Watch::open(model.path(), "keep", 50, Compression::Auto, delay);
    // Two tokens more do not make up for making copies, however slow the disk.
    let short = watch.run(3).statistics;
    assert_eq!((short.copies.unwrap().offer, short.compressed_bytes), (None, 0));
    let off = Watch::open(model.path(), "keep", 50, Compression::Off, Duration::ZERO).run(20);
    // A busy machine may look slow in the one pass that is measured, rather than the disk.
    let slow = (0..5).map(|_| watch.run(20)).find(|run| run.statistics.decompressed_bytes > 0);
    let slow = slow.expect("decoding is faster than a read of 20 ms");
    assert_eq!(slow.tokens, off.tokens);
    let weighed = slow.statistics.copies.unwrap();
    assert_eq!(weighed.codec, "bf16-planes");
    assert!(steady(&slow) < steady(&off), "{weighed:?}");
    // Where nothing streams, nothing is asked; packed weights have nothing to give.
    for (dtype, percent) in [("keep", 300), ("q8_0", 50)] {
        let run = Watch::open(model.path(), dtype, percent, Compression::Auto, Duration::from_millis(1)).run(4);
        assert_eq!((run.statistics.copies, run.statistics.decompressed_bytes), (None, 0), "{dtype}");
    }
}

#[test]
fn names_are_read_and_others_are_refused() {
    for name in ["off", "auto", "lz4", "zstd", "zlib", "bf16-planes"] {
        assert_eq!(name.parse::<Compression>().unwrap().to_string(), name);
    }
    let error = "rar".parse::<Compression>().unwrap_err().to_string();
    assert!(error.contains("`rar`") && error.contains("bf16-planes"), "{error}");
}
