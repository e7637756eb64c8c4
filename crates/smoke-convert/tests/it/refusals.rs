//! What is refused, in one clear sentence, with nothing left behind.

use std::fs;
use std::path::Path;

use smoke_convert::{ConvertOptions, Existing};

use crate::files::{asset, convert, dtypes, names, tensors};

/// Converts and expects an error that says all of `parts`.
#[track_caller]
fn refused(source: &Path, target: &Path, options: &ConvertOptions, parts: &[&str]) {
    let text = convert(source, target, options).expect_err("it must be refused").to_string();
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing: {text}");
    }
}

fn replacing() -> ConvertOptions {
    ConvertOptions { existing: Existing::Replace, ..ConvertOptions::default() }
}

/// A copy of a model of the assets.
fn copy(name: &str, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(asset(name)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn what_is_there_stays_unless_it_is_to_be_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let source = asset("tiny/llama");
    let (file, model) = (directory.path().join("m.gguf"), directory.path().join("model"));
    fs::write(&file, "old").unwrap();
    fs::create_dir(&model).unwrap();
    fs::write(model.join("config.json"), "old").unwrap();
    fs::write(model.join("model-00001-of-00002.safetensors"), "old").unwrap();
    for target in [&file, &model] {
        refused(&source, target, &dtypes(&[]), &[target.to_str().unwrap(), "already", "--force"]);
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "old");
    convert(&source, &file, &replacing()).unwrap();
    convert(&source, &model, &replacing()).unwrap();
    assert!(tensors(&model) == tensors(&source));
    assert!(!names(&model).contains(&"model-00001-of-00002.safetensors".to_owned()), "{:?}", names(&model));
    assert_eq!(names(directory.path()), ["m.gguf", "model"]);
}

#[test]
fn only_models_are_replaced_and_never_the_source() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source");
    copy("tiny/llama", &source);
    let other = directory.path().join("photos");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("beach.jpg"), "x").unwrap();
    refused(&source, &other, &replacing(), &["photos", "other things"]);
    let deep = directory.path().join("deep");
    copy("tiny/llama", &deep);
    fs::create_dir(deep.join("photos")).unwrap();
    refused(&source, &deep, &replacing(), &["deep", "other things"]);
    refused(&source, &source, &replacing(), &["source", "what is converted"]);
    refused(&source, directory.path(), &replacing(), &["what is converted"]);
    let file = source.join("model.safetensors");
    refused(&source, &file, &replacing(), &["what is converted"]);
    assert!(tensors(&source) == tensors(asset("tiny/llama")) && other.join("beach.jpg").exists());
}

#[test]
fn what_the_other_format_cannot_say_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("m.gguf");
    refused(&asset("tiny/gpt2"), &target, &dtypes(&[]), &["gpt2", "llama"]);
    for (number, (from, to, parts)) in [
        (r#""silu""#, r#""gelu""#, &["hidden_act", "gelu", "config.json"][..]),
        (r#""rope_scaling": null"#, r#""rope_scaling": {"rope_type": "yarn"}"#, &["rope_type", "yarn"]),
        (r#""num_attention_heads": 4"#, r#""num_attention_heads": 48"#, &["q_proj", "48 heads"]),
        (r#""hidden_size": 64"#, r#""hidden_size": 0"#, &["hidden_size", "config.json"]),
        (r#""model_type": "llama""#, r#""model_type": 7"#, &["model_type", "config.json"]),
        ("{", "[", &["config.json"]),
    ]
    .into_iter()
    .enumerate()
    {
        let model = directory.path().join(number.to_string());
        copy("tiny/llama", &model);
        let config = fs::read_to_string(model.join("config.json")).unwrap();
        assert!(config.contains(from));
        fs::write(model.join("config.json"), config.replacen(from, to, 1)).unwrap();
        refused(&model, &target, &dtypes(&[]), parts);
        fs::remove_dir_all(&model).unwrap();
    }
    let renamed = directory.path().join("renamed");
    copy("tiny/llama", &renamed);
    let weights = renamed.join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    let place = bytes.windows(7).position(|window| window == b"up_proj").unwrap();
    fs::write(&weights, [&bytes[..place], b"up_prox", &bytes[place + 7..]].concat()).unwrap();
    refused(&renamed, &target, &dtypes(&[]), &["up_prox", "llama"]);
    assert_eq!(names(directory.path()), ["renamed"]);
}

#[test]
fn dtypes_that_a_format_or_a_number_forbids_leave_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let source = asset("tiny/llama");
    let (file, model) = (directory.path().join("m.gguf"), directory.path().join("model"));
    refused(&source, &model, &dtypes(&["q8_0"]), &["q8_0".to_uppercase().as_str(), "bf16", ".gguf"]);
    refused(&source, &file, &dtypes(&["i8_1"]), &["I8_1", "GGML"]);
    refused(&source, &file, &dtypes(&["*.mpl.*=f16", "f32"]), &["*.mpl.*", "matches no tensor"]);
    let shards = ConvertOptions { shard_bytes: Some(1000), ..ConvertOptions::default() };
    refused(&source, &file, &shards, &["m.gguf", "directory"]);
    refused(&source, &directory.path().join("absent/m.gguf"), &dtypes(&[]), &["absent"]);

    // In the last tensor that is written: the first files are there by then.
    let large = directory.path().join("large");
    copy("tiny/llama", &large);
    let weights = large.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let header = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    bytes[8 + header..][..4].copy_from_slice(&1e20_f32.to_le_bytes());
    fs::write(&weights, bytes).unwrap();
    refused(
        &large,
        &model,
        &ConvertOptions { shard_bytes: Some(100_000), ..dtypes(&["f16"]) },
        &["lm_head", "1e20", "F16"],
    );
    refused(&large, &file, &dtypes(&["f16"]), &["lm_head.weight=keep", "1e20", "F16"]);
    assert_eq!(names(directory.path()), ["large"]);
}

#[test]
fn a_tokenizer_that_gguf_cannot_have_is_left_out_with_a_note() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source");
    copy("tiny/llama", &source);
    let tokenizer = fs::read_to_string(source.join("tokenizer.json")).unwrap();
    fs::write(
        source.join("tokenizer.json"),
        tokenizer.replace(r#""add_prefix_space": false"#, r#""add_prefix_space": true"#),
    )
    .unwrap();
    let notes = convert(&source, &directory.path().join("a.gguf"), &dtypes(&[])).unwrap();
    assert!(notes[0].contains("tokenizer"), "{notes:?}");
    fs::remove_file(source.join("tokenizer.json")).unwrap();
    let notes = convert(&source, &directory.path().join("b.gguf"), &dtypes(&[])).unwrap();
    assert!(notes[0].contains("tokenizer.json"), "{notes:?}");
    let notes = convert(&directory.path().join("b.gguf"), &directory.path().join("back"), &dtypes(&[])).unwrap();
    assert!(notes[0].contains("no tokenizer.json"), "{notes:?}");
    assert!(tensors(directory.path().join("back")) == tensors(&source));
}
