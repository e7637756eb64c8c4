//! Converted models: on the disk and while they are read.

use std::path::Path;

use smoke_runtime::convert::{Conversion, ConvertOptions};
use smoke_runtime::core::Encoding;
use smoke_runtime::models::Want;
use smoke_runtime::models::parts::KvCache;
use smoke_runtime::models::text::{AddSpecial, Tokenizer};
use smoke_runtime::storage::{Checkpoint, ReaderKind, WeightSource};
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
    let mut cache = KvCache::new(runtime.config(), ids.len(), vec![0], runtime.weights()).unwrap();
    let output = runtime.model().forward(runtime.weights(), &ids, &mut cache, Want::AllLogits).unwrap();
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
    for dtype in ["bf16", "f16"] {
        let halves = Runtime::builder(&path).dtype(dtype).open().unwrap();
        let difference = largest_difference(&logits(&halves, &goldens), &expected);
        assert!(difference < 2e-2, "{dtype}: logits differ by {difference}");
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
