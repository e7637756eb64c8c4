//! Converted models: on the disk and while they are read.

use std::path::Path;

use smoke_runtime::convert::{Conversion, ConvertOptions};
use smoke_runtime::core::Encoding;
use smoke_runtime::models::Want;
use smoke_runtime::models::parts::{KvCache, KvEncoding};
use smoke_runtime::models::text::{AddSpecial, Tokenizer};
use smoke_runtime::storage::header::{self, GgufKeys};
use smoke_runtime::storage::{Checkpoint, Extent, ReaderKind, TensorInfo, WeightSource};
use smoke_runtime::{AtEnd, GenerateOptions, Message, Prompt, Runtime};
use smoke_tests::{Goldens, asset, largest_difference, smollm2};

fn convert(source: &Path, target: &Path, dtypes: &[&str]) {
    let checkpoint = Checkpoint::open_with(source, ReaderKind::Pread).unwrap();
    let dtypes = dtypes.iter().map(|text| text.parse().unwrap()).collect();
    let options = ConvertOptions { dtypes, ..ConvertOptions::default() };
    let conversion = Conversion::plan(&checkpoint, target, &options).unwrap();
    assert_eq!(conversion.notes(), [""; 0]);
    conversion.write(&mut |_| {}).unwrap();
}

fn logits(runtime: &Runtime, goldens: &Goldens) -> Vec<f32> {
    let ids = goldens.ids("input_ids");
    let mut cache =
        KvCache::new(runtime.config().kv_shape(KvEncoding::F32), ids.len(), vec![0], runtime.weights()).unwrap();
    let output =
        runtime.model().decoder().unwrap().forward(runtime.weights(), &ids, &mut cache, Want::AllLogits).unwrap();
    output.logits.to_vec()
}

fn greedy(runtime: &Runtime, prompt: Vec<u32>, count: usize) -> Vec<u32> {
    let options = GenerateOptions { max_tokens: count, at_end: AtEnd::Ignore, ..Default::default() };
    runtime.generate(Prompt::Tokens(prompt), options).unwrap().map(|token| token.unwrap().id).collect()
}

#[test]
fn a_model_converted_to_gguf_and_back_equals_transformers() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["llama", "llama-tied", "llama3-rope"] {
        let goldens = Goldens::read(&format!("tiny/{name}/goldens.safetensors"));
        let gguf = directory.path().join(format!("{name}.gguf"));
        let back = directory.path().join(name);
        convert(&asset(&format!("tiny/{name}")), &gguf, &[]);
        convert(&gguf, &back, &[]);
        for path in [&gguf, &back] {
            let runtime = Runtime::builder(path).open().unwrap();
            let difference = largest_difference(&logits(&runtime, &goldens), &goldens.floats("logits"));
            assert!(difference < 1e-4, "{}: logits differ by {difference}", path.display());
            let expected = goldens.ids("greedy");
            assert_eq!(greedy(&runtime, goldens.ids("input_ids"), expected.len()), expected, "{}", path.display());
        }
    }
}

#[test]
fn tokenizers_cut_text_alike_after_conversion() {
    let directory = tempfile::tempdir().unwrap();
    let gguf = directory.path().join("m.gguf");
    convert(&asset("tiny/llama"), &gguf, &[]);
    let original = Tokenizer::open(&asset("tiny/llama")).unwrap();
    let converted = Tokenizer::beside(&Checkpoint::open(&gguf).unwrap()).unwrap();
    for text in ["the quick  brown fox's 12 é\n\n?!", "<s>a</s>", ""] {
        for special in [AddSpecial::Yes, AddSpecial::No] {
            assert_eq!(original.encode(text, special).unwrap(), converted.encode(text, special).unwrap(), "{text:?}");
        }
    }
    assert_eq!((original.bos_id(), original.pad_id()), (converted.bos_id(), converted.pad_id()));
    assert_eq!(original.end_ids(), converted.end_ids());
}

#[test]
fn halves_agree_with_the_golden_and_take_half_of_the_memory() {
    let path = asset("tiny/llama");
    let goldens = Goldens::read("tiny/llama/goldens.safetensors");
    let whole = Runtime::builder(&path).open().unwrap();
    let expected = goldens.floats("logits");
    logits(&whole, &goldens);
    let resident = |runtime: &Runtime| -> u64 {
        let units = runtime.weights().streamer().units();
        units.units().map(|unit| units.payload_bytes(unit)).sum()
    };
    // Weights of a random model: of the largest logit, for bf16 moves weights by up to 1 in 256.
    let largest = expected.iter().fold(0.0_f32, |most, logit| most.max(logit.abs()));
    for (dtype, allowed) in [("bf16", 2e-2), ("f16", 2e-3)] {
        let halves = Runtime::builder(&path).dtype(dtype).open().unwrap();
        let difference = largest_difference(&logits(&halves, &goldens), &expected) / largest;
        println!("{dtype}: {difference} of {largest}");
        assert!(difference < allowed, "{dtype}: logits differ by {difference}");
        assert!(difference > 1e-6, "{dtype}: nothing was rounded");
        assert_eq!(2 * resident(&halves), resident(&whole));
        assert_eq!(2 * halves.plan(1).unwrap().model_bytes, whole.plan(1).unwrap().model_bytes);
        // All that was read, and what the ledger says is held, are halves, too.
        let [read, whole_read] = [&halves, &whole].map(|runtime| runtime.weights().streamer().stats().bytes_read);
        assert!(read * 10 <= whole_read * 6, "{read} bytes read instead of {whole_read}");
    }
}

#[test]
fn every_budget_gives_the_same_bits_with_converted_weights() {
    let path = asset("tiny/llama-sharded");
    let goldens = Goldens::read("tiny/llama/goldens.safetensors");
    for rules in [&["bf16"][..], &["*norm*=f32", "*.mlp.*=q8_0", "*.down_proj.*=f16", "i8_1"], &["q4_1"]] {
        let open = |percent: u64, reader| {
            let builder =
                || rules.iter().fold(Runtime::builder(&path).reader(reader), |builder, rule| builder.dtype(rule));
            let model_bytes = builder().open().unwrap().plan(1).unwrap().model_bytes;
            builder().memory_bytes(model_bytes * percent / 100).open().unwrap()
        };
        let reference = logits(&open(300, ReaderKind::Pread), &goldens);
        for (percent, reader) in [(100, ReaderKind::Direct), (70, ReaderKind::Pread), (70, ReaderKind::Mmap)] {
            assert_eq!(logits(&open(percent, reader), &goldens), reference, "{rules:?} at {percent} % by {reader:?}");
        }
    }
}

#[test]
fn weights_quantised_on_load_are_those_of_the_quantised_file() {
    let directory = tempfile::tempdir().unwrap();
    let gguf = directory.path().join("q8_0.gguf");
    let floats = asset("quant/llama-f32.gguf");
    convert_quantised(&floats, &gguf);
    let goldens = Goldens::read("tiny/llama/goldens.safetensors");
    let on_load = Runtime::builder(&floats).dtype("q8_0").open().unwrap();
    assert_eq!(logits(&on_load, &goldens), logits(&Runtime::builder(&gguf).open().unwrap(), &goldens));
    let encodings: Vec<Encoding> =
        Checkpoint::open(&gguf).unwrap().index().iter().map(|tensor| tensor.encoding).collect();
    assert!(encodings.contains(&Encoding::Q8_0) && encodings.contains(&Encoding::F32), "{encodings:?}");
}

fn convert_quantised(source: &Path, target: &Path) {
    let checkpoint = Checkpoint::open(source).unwrap();
    let options = ConvertOptions { dtypes: ["q8_0".parse().unwrap()].into_iter().collect(), ..Default::default() };
    Conversion::plan(&checkpoint, target, &options).unwrap().write(&mut |_| {}).unwrap();
}

/// A tokenizer trained by SentencePiece goes from GGUF to `tokenizer.json` and back, and each cuts texts as SentencePiece does.
#[test]
fn sentence_piece_goes_there_and_back() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/smoke-models/src/text/testdata/sentencepiece.json");
    let trained: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let numbers = |key: &str| trained[key].as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect::<Vec<_>>();
    let pieces: Vec<&str> = trained["pieces"].as_array().unwrap().iter().map(|piece| piece.as_str().unwrap()).collect();
    let directory = tempfile::tempdir().unwrap();
    let [first, between, last] = ["first.gguf", "between", "last.gguf"].map(|name| directory.path().join(name));

    let mut keys = GgufKeys::default();
    keys.text("general.architecture", "llama");
    for (key, count) in [
        ("embedding_length", 32),
        ("block_count", 1),
        ("feed_forward_length", 32),
        ("attention.head_count", 2),
        ("context_length", 64),
    ] {
        keys.u32(&format!("llama.{key}"), count);
    }
    keys.f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
    keys.text("tokenizer.ggml.model", "llama");
    keys.texts("tokenizer.ggml.tokens", &pieces);
    keys.f32s("tokenizer.ggml.scores", &numbers("scores").into_iter().map(|n| n as f32).collect::<Vec<_>>());
    keys.i32s("tokenizer.ggml.token_type", &numbers("types").into_iter().map(|n| n as i32).collect::<Vec<_>>());
    keys.u32("tokenizer.ggml.bos_token_id", 1);
    keys.u32("tokenizer.ggml.eos_token_id", 2);
    let shape = vec![pieces.len() as u64, 32];
    let extent = Extent { file: 0, offset: 0, len: shape[0] * 32 * 2 };
    let table = TensorInfo { name: "token_embd.weight".to_owned(), encoding: Encoding::F16, shape, extent };
    let header = header::gguf(&[&table], &keys).unwrap();
    let mut bytes = header.bytes;
    bytes.resize(header.file_bytes as usize, 0);
    std::fs::write(&first, bytes).unwrap();
    convert(&first, &between, &[]);
    convert(&between, &last, &[]);

    for path in [&first, &between, &last] {
        let tokenizer = Tokenizer::beside(&Checkpoint::open(path).unwrap()).unwrap();
        for case in trained["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let expected: Vec<u32> =
                case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
            assert_eq!(tokenizer.encode(text, AddSpecial::No).unwrap(), expected, "{text:?} by {}", path.display());
            let framed = tokenizer.encode(text, AddSpecial::Yes).unwrap();
            assert_eq!(framed, [&[1], &expected[..]].concat(), "{text:?} by {}", path.display());
        }
        assert_eq!((tokenizer.bos_id(), tokenizer.end_ids()), (Some(1), &[2][..]), "{}", path.display());
    }
}

/// SmolLM2, whose matrices have 4 bits, as f32: exactly what they stand for, so that the tokens are those of
/// Transformers on the same values.
#[test]
fn the_trained_model_converted_to_safetensors_says_the_same() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let target = directory.path().join("smollm2");
    convert(&smollm2(), &target, &["f32"]);
    let goldens = Goldens::read("goldens/smollm2-135m-instruct-f32.safetensors");
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(asset("goldens/smollm2-135m-instruct-f32.json")).unwrap()).unwrap();
    let runtime = Runtime::builder(&target).open().unwrap();
    let expected = goldens.ids("greedy");
    assert_eq!(greedy(&runtime, goldens.ids("input_ids"), expected.len()), expected);
    // The chat template and the tokenizer came along.
    let question = json["chat"][0]["content"].as_str().unwrap();
    assert_eq!(runtime.encode(&Prompt::Chat(vec![Message::user(question)])).unwrap(), goldens.ids("input_ids"));
    let original = Tokenizer::beside(&Checkpoint::open(smollm2()).unwrap()).unwrap();
    let converted = runtime.tokenizer().unwrap();
    for text in ["  It's 2024, isn't it?\n\tfn main() { 日本 }", "<|im_start|>user\nx<|im_end|>", "naïve 🦀"] {
        for special in [AddSpecial::Yes, AddSpecial::No] {
            assert_eq!(original.encode(text, special).unwrap(), converted.encode(text, special).unwrap(), "{text:?}");
        }
    }
    assert_eq!(original.end_ids(), converted.end_ids());
}

/// Transformers on the same weights rounded to bf16 and computed in f32: what is rounded while it is read, and what was
/// written so before, in shards.
#[test]
fn the_trained_model_in_bf16_equals_transformers_on_bf16() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let target = directory.path().join("smollm2");
    let checkpoint = Checkpoint::open(smollm2()).unwrap();
    let options = ConvertOptions {
        dtypes: ["bf16".parse().unwrap()].into_iter().collect(),
        shard_bytes: Some(64_000_000),
        ..ConvertOptions::default()
    };
    Conversion::plan(&checkpoint, &target, &options).unwrap().write(&mut |_| {}).unwrap();
    let goldens = Goldens::read("goldens/smollm2-135m-instruct-bf16.safetensors");
    // Half of the weights in memory.
    let on_load = Runtime::builder(smollm2()).dtype("bf16").memory("150MB").open().unwrap();
    let on_disk = Runtime::builder(&target).memory("150MB").open().unwrap();
    for (runtime, name) in [(on_load, "on load"), (on_disk, "on the disk")] {
        let logits = logits(&runtime, &goldens);
        let last = &logits[logits.len() - runtime.config().vocabulary..];
        let expected = goldens.floats("last_logits");
        let difference = largest_difference(&last[..expected.len()], &expected);
        assert!(difference < 2e-2, "{name}: logits differ by {difference}");
        let expected = goldens.ids("greedy");
        assert_eq!(greedy(&runtime, goldens.ids("input_ids"), expected.len()), expected, "{name}");
    }
}
