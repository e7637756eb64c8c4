//! The program as a person runs it.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in what tests share, too")]

mod hub;
mod trace;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn asset(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/assets").join(name)
}

fn smoke(arguments: &[&str]) -> Output {
    // What is remembered of models goes nowhere else.
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
    Command::new(env!("CARGO_BIN_EXE_smoke")).args(arguments).env("XDG_CACHE_HOME", cache).output().unwrap()
}

/// Runs on the tiny LLaMA, and expects success.
fn run_tiny(options: &[&str]) -> Output {
    let model = asset("tiny/llama");
    let output = smoke(&[&["run", model.to_str().unwrap(), "--memory", "400KB"], options].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Runs and expects one clear error: no panic, a code that is not zero, and every one of `parts` in the message.
fn fails_with(arguments: &[&str], parts: &[&str]) {
    let output = smoke(arguments);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(1 | 2)), "{arguments:?}: {:?} {message}", output.status);
    assert!(!message.contains("panicked"), "{arguments:?}: {message}");
    for part in parts {
        assert!(message.contains(part), "{arguments:?} does not say `{part}`: {message}");
    }
}

#[test]
fn json_has_every_figure_and_nothing_else_is_printed() {
    let output = run_tiny(&["--prompt-ids", "5,6,7", "--max-tokens", "9", "--ignore-eos", "--json"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["tokens"].as_array().unwrap().len(), 9);
    assert!(json["text"].is_string());
    for key in [
        "tokens_per_second",
        "budget_bytes",
        "peak_bytes",
        "bytes_read",
        "byte_hit_rate",
        "min_byte_hit_rate",
        "on_time_rate",
        "stall_seconds",
        "model_bytes",
    ] {
        assert!(json[key].is_number(), "{key} in {json}");
    }
    assert_eq!(json["budget_bytes"], 400_000);
    assert!(json["peak_bytes"].as_u64() <= Some(400_000));
    assert!(json["byte_hit_rate"].as_f64() <= json["min_byte_hit_rate"].as_f64());
}

#[test]
fn text_goes_to_standard_output_and_figures_to_standard_error() {
    let options = ["--raw", "--prompt", "the quick brown", "--max-tokens", "5", "--ignore-eos"];
    let output = run_tiny(&options);
    let json = run_tiny(&[&options[..], &["--json"]].concat());
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.trim_end_matches('\n'), json["text"].as_str().unwrap().trim_end_matches('\n'));
    let summary = String::from_utf8(output.stderr).unwrap();
    for part in ["tok/s", "per token", "MIN", "on time", "stalled", "peak"] {
        assert!(summary.contains(part), "no `{part}` in {summary}");
    }
}

#[test]
fn a_seed_repeats_and_every_policy_and_thread_count_gives_the_same_tokens() {
    let tokens = |options: &[&str]| {
        let common = ["--prompt-ids", "5,6,7", "--max-tokens", "12", "--ignore-eos", "--json"];
        let output = run_tiny(&[&common[..], options].concat());
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["tokens"].clone()
    };
    let greedy = tokens(&[]);
    for policy in ["pinned", "next-use", "lru", "lfu", "fifo"] {
        assert_eq!(tokens(&["--policy", policy]), greedy, "{policy}");
    }
    assert_eq!(tokens(&["--threads", "1"]), greedy);
    let drawn = ["--temperature", "1.5", "--top-k", "50", "--top-p", "0.95", "--seed", "7"];
    assert_eq!(tokens(&drawn), tokens(&drawn));
    assert_ne!(tokens(&drawn), greedy);
}

/// Runs with `input` on standard input.
fn smoke_reading(arguments: &[&str], input: &str) -> Output {
    use std::io::Write;
    let mut command = Command::new(env!("CARGO_BIN_EXE_smoke"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn texts_become_vectors_line_by_line() {
    let model = asset("tiny/bert");
    let embed = ["embed", model.to_str().unwrap(), "--memory", "300KB"];
    let texts = ["the quick brown fox", "the lazy dog and then the other thing", "the"];
    let plain = smoke(&[&embed[..], &texts].concat());
    assert!(plain.status.success(), "{}", String::from_utf8_lossy(&plain.stderr));
    let vectors: Vec<Vec<f32>> = String::from_utf8(plain.stdout)
        .unwrap()
        .lines()
        .map(|line| line.split(' ').map(|number| number.parse().unwrap()).collect())
        .collect();
    assert_eq!(vectors.iter().map(Vec::len).collect::<Vec<_>>(), [64; 3]);
    assert!(String::from_utf8_lossy(&plain.stderr).contains("3 texts"));

    let read = smoke_reading(&[&embed[..], &["--json", "--normalize"]].concat(), &texts.join("\n"));
    let lines: Vec<Value> =
        String::from_utf8(read.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().map(|line| line["text"].as_str().unwrap()).collect::<Vec<_>>(), texts);
    for (line, vector) in lines.iter().zip(&vectors) {
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        let unit = line["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32);
        assert!(unit.zip(vector).all(|(unit, x)| (unit - x / length).abs() < 1e-6));
    }

    fails_with(&[&embed[..], &["dog", &"dog ".repeat(200)]].concat(), &["text 2", "128"]);
    let long = "dog ".repeat(200);
    fails_with(&[&embed[..], &["--truncate", &long]].concat(), &["smallest that works"]);
    let enough = ["embed", model.to_str().unwrap(), "--memory", "1MB", "--truncate", &long];
    assert!(smoke(&enough).status.success());
}

#[test]
fn a_model_of_another_kind_says_what_to_use() {
    let (bert, t5, llama) = (asset("tiny/bert"), asset("tiny/t5"), asset("tiny/llama"));
    let [bert, t5, llama] = [&bert, &t5, &llama].map(|path| path.to_str().unwrap());
    fails_with(&["run", bert, "--memory", "1MB", "--prompt", "the"], &["text encoder", "smoke embed"]);
    fails_with(&["embed", llama, "--memory", "1MB", "the"], &["decoder-only", "smoke run"]);
    fails_with(&["embed", t5, "--memory", "1MB", "the"], &["encoder–decoder", "smoke run"]);
    for model in [bert, t5] {
        assert!(smoke(&["inspect", model]).status.success(), "{model}");
        assert!(smoke(&["plan", model, "--memory", "600KB", "--context", "32"]).status.success(), "{model}");
    }
    let written = smoke(&["run", t5, "--memory", "500KB", "--prompt", "the lazy dog", "--max-tokens", "5", "--json"]);
    let written: Value = serde_json::from_slice(&written.stdout).unwrap();
    assert_eq!(written["tokens"].as_array().unwrap().len(), 5, "{written}");
    assert!(written["peak_bytes"].as_u64() <= Some(500_000), "{written}");
}

#[test]
fn inspect_and_plan_tell_before_anything_is_loaded() {
    let model = asset("tiny/llama");
    let model = model.to_str().unwrap();
    let inspected = smoke(&["inspect", model, "--json"]);
    let inspected: Value = serde_json::from_slice(&inspected.stdout).unwrap();
    let tensors = inspected["tensors"].as_array().unwrap();
    assert!(tensors.iter().any(|tensor| tensor["name"] == "lm_head.weight" && tensor["encoding"] == "F32"));
    let total: u64 = tensors.iter().map(|tensor| tensor["bytes"].as_u64().unwrap()).sum();
    assert_eq!(inspected["model_bytes"], total);
    assert!(String::from_utf8_lossy(&smoke(&["inspect", model]).stdout).contains("lm_head.weight"));
    for (model, format, files) in
        [("tiny/llama", "safetensors", 1), ("tiny/gpt2-bin-sharded", "PyTorch", 3), ("quant/llama-f16.gguf", "GGUF", 1)]
    {
        let inspected = smoke(&["inspect", asset(model).to_str().unwrap()]).stdout;
        let summary = String::from_utf8_lossy(&inspected);
        assert!(
            summary.contains(&format!("{format}: ")) && summary.contains(&format!("in {files} file(s)")),
            "{summary}"
        );
        assert!(summary.contains(" units of up to "), "{summary}");
    }

    let planned = smoke(&["plan", model, "--memory", "300KB", "--context", "64", "--json"]);
    let planned: Value = serde_json::from_slice(&planned.stdout).unwrap();
    let figure = |key: &str| planned[key].as_f64().unwrap_or_else(|| panic!("{key} in {planned}"));
    assert!(figure("minimum_bytes") <= 300e3 && figure("tokens_per_second") > 0.0);
    assert!(figure("pinned_bytes") + figure("streaming_bytes") + figure("kv_cache_bytes") <= 300e3);
    let text = smoke(&["plan", model, "--memory", "300KB", "--context", "64"]);
    assert!(String::from_utf8_lossy(&text.stdout).contains("predicted"));
}

#[test]
fn the_smallest_budget_that_the_error_names_works_and_one_byte_less_does_not() {
    let model = asset("tiny/llama");
    let model = model.to_str().unwrap();
    let run = |bytes: u64| {
        let bytes = bytes.to_string();
        smoke(&[
            "run",
            model,
            "--memory",
            &bytes,
            "--prompt-ids",
            "5,6,7",
            "--max-tokens",
            "4",
            "--ignore-eos",
            "--json",
        ])
    };
    // As the message says it, with a budget that is enough to open the model, but not for seven tokens.
    let smallest_in = |output: Output| -> u64 {
        assert!(!output.status.success());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        let (_, after) = message.split_once("the smallest that works is ").unwrap_or_else(|| panic!("{message}"));
        after.split_once(" bytes").unwrap().0.parse().unwrap()
    };
    let to_open = smallest_in(run(20_000));
    let smallest = smallest_in(run(to_open));
    assert!(smallest > to_open);
    let works = run(smallest);
    assert!(works.status.success(), "{}", String::from_utf8_lossy(&works.stderr));
    assert_eq!(smallest_in(run(smallest - 1)), smallest);
}

#[test]
fn bad_input_gets_one_clear_error() {
    let directory = tempfile::tempdir().unwrap();
    let copy = |name: &str| {
        let to = directory.path().join(name);
        std::fs::create_dir(&to).unwrap();
        for entry in std::fs::read_dir(asset("tiny/llama-sharded")).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
        to
    };
    let run = |model: &Path, parts: &[&str]| {
        let model = model.to_str().unwrap();
        fails_with(&["run", model, "--memory", "400KB", "--prompt", "the", "--max-tokens", "2"], parts);
    };
    let shard = "model-00002-of-00003.safetensors";

    run(&directory.path().join("absent"), &["absent", "No such file"]);

    let truncated = copy("truncated");
    let file = std::fs::File::options().write(true).open(truncated.join(shard)).unwrap();
    file.set_len(file.metadata().unwrap().len() - 100).unwrap();
    run(&truncated, &[shard, "tensor `", "fetch it again"]);

    let missing = copy("missing");
    std::fs::remove_file(missing.join(shard)).unwrap();
    run(&missing, &[shard, "missing", "tensors"]);

    let config = |name: &str, from: &str, to: &str| {
        let model = copy(name);
        let path = model.join("config.json");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
        model
    };
    run(&config("architecture", "\"llama\"", "\"mamba\""), &["mamba", "llama", "gpt2"]);
    run(&config("activation", "\"silu\"", "\"prelu\""), &["prelu", "silu"]);
    run(&config("shape", "\"intermediate_size\": 112", "\"intermediate_size\": 128"), &["mlp.gate_proj", "112", "128"]);
    run(
        &config("zero", "\"num_attention_heads\": 4", "\"num_attention_heads\": 0"),
        &["num_attention_heads", "config.json"],
    );
    run(&config("broken", "{", "{{"), &["config.json"]);

    let untokenized = copy("untokenized");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::remove_file(untokenized.join(name)).unwrap();
    }
    run(&untokenized, &["tokenizer.json"]);

    let flipped = copy("flipped");
    let path = flipped.join(shard);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[20] ^= 0xFF;
    std::fs::write(&path, bytes).unwrap();
    run(&flipped, &[shard]);

    let retyped = copy("retyped");
    let path = retyped.join(shard);
    let mut bytes = std::fs::read(&path).unwrap();
    let place = bytes.windows(5).position(|window| window == b"\"F32\"").unwrap();
    bytes[place + 1] = b'I';
    std::fs::write(&path, &bytes).unwrap();
    run(&retyped, &["tensor `", "I32", "cannot be a weight"]);
    bytes[place + 1] = b'X';
    std::fs::write(&path, &bytes).unwrap();
    run(&retyped, &[shard, "X32"]);

    run(&retyped.join("config.json/below"), &["config.json", "Not a directory"]);

    let gguf = std::fs::read(asset("quant/llama-q4_0.gguf")).unwrap();
    let damaged = directory.path().join("damaged.gguf");
    std::fs::write(&damaged, &gguf[..gguf.len() / 2]).unwrap();
    run(&damaged, &["damaged.gguf", "tensor `"]);
    std::fs::write(&damaged, &gguf[..100]).unwrap();
    run(&damaged, &["damaged.gguf"]);
    std::fs::write(&damaged, [b"GGML", &gguf[4..]].concat()).unwrap();
    run(&damaged, &["damaged.gguf", "no GGUF file"]);

    let model = asset("tiny/llama");
    let model = model.to_str().unwrap();
    fails_with(&["plan", model, "--memory", "400KB", "--context", "0"], &["--context"]);
    let long = vec!["5"; 300].join(",");
    fails_with(&["run", model, "--memory", "4MB", "--prompt-ids", &long], &["300 tokens", "128"]);
    fails_with(&["run", model, "--memory", "20KB", "--prompt", "the"], &["smallest that works"]);
    fails_with(&["run", model, "--memory", "4XB", "--prompt", "the"], &["4XB", "4GB"]);
    fails_with(&["run", model, "--memory", "1MB", "--prompt-ids", "99999"], &["99999", "320"]);
    fails_with(&["run", model, "--memory", "1MB", "--prompt", "the", "--policy", "best"], &["best", "next-use"]);
    fails_with(&["run", model, "--memory", "1MB", "--prompt", "the", "--top-p", "7"], &["top"]);
    fails_with(&["run", model, "--memory", "1MB", "--raw", "--prompt", ""], &["prompt"]);
    fails_with(&["run", model, "--memory", "1MB", "--prompt", "the", "--device", "tpu"], &["tpu", "cpu"]);
    fails_with(&["run", model, "--memory", "1MB", "--prompt", "the", "--device", "cuda"], &["cuda"]);
}

#[test]
fn a_packed_model_says_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let model = asset("quant/llama-q4_0.gguf");
    let packed = directory.path().join("packed.gguf");
    let (model, packed) = (model.to_str().unwrap(), packed.to_str().unwrap());
    let output = smoke(&["pack", model, "--out", packed, "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["bytes"].as_u64(), Some(std::fs::metadata(packed).unwrap().len()));
    let tokens = |model: &str| {
        let options = ["--memory", "400KB", "--prompt-ids", "5,6,7", "--max-tokens", "9", "--ignore-eos", "--json"];
        let output = smoke(&[&["run", model], &options[..]].concat());
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["tokens"].clone()
    };
    assert!(tokens(packed).is_array());
    assert_eq!(tokens(packed), tokens(model));
    fails_with(&["pack", model, "--out", packed], &["packed.gguf"]);
    fails_with(&["pack", model, "--out", "packed.bin"], &["gguf"]);
}

#[test]
fn an_answer_ends_with_the_context_however_many_tokens_are_allowed() {
    let most = u64::MAX.to_string();
    let output = run_tiny(&["--prompt-ids", "5,6,7", "--max-tokens", &most, "--ignore-eos", "--json"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    // The last token is not fed back, so it needs no place.
    assert_eq!(json["tokens"].as_array().unwrap().len(), 128 - 3 + 1);
}

#[test]
fn a_converted_model_says_the_same_and_takes_no_name_that_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let model = asset("tiny/llama");
    let (gguf, back) = (directory.path().join("m.gguf"), directory.path().join("back"));
    let [model, gguf, back] = [&model, &gguf, &back].map(|path| path.to_str().unwrap());
    for (source, target, options) in [(model, gguf, &[][..]), (gguf, back, &["--shard-size", "200KB"])] {
        let output = smoke(&[&["convert", source, target, "--json"], options].concat());
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && told.contains("of disk"), "{told}");
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(json["bytes"].as_u64() > Some(500_000) && json["notes"].as_array().unwrap().is_empty(), "{json}");
    }
    let tokens = |model: &str, dtypes: &[&str]| {
        let options = ["--memory", "400KB", "--prompt-ids", "5,6,7", "--max-tokens", "9", "--ignore-eos", "--json"];
        let output = smoke(&[&["run", model], &options[..], dtypes].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let expected = tokens(model, &[]);
    assert_eq!(tokens(gguf, &[])["tokens"], expected["tokens"]);
    assert_eq!(tokens(back, &[])["tokens"], expected["tokens"]);
    let mixed = tokens(model, &["--dtype", "*norm*=keep", "--dtype", "bf16"]);
    assert!(mixed["model_bytes"].as_u64() < expected["model_bytes"].as_u64());

    fails_with(&["convert", model, gguf], &["m.gguf", "already", "--force"]);
    assert!(smoke(&["convert", model, gguf, "--force", "--dtype", "q8_0"]).status.success());
    fails_with(&["convert", model, "x.gguf", "--dtype", "q9_0"], &["q9_0", "bf16", "keep"]);
    fails_with(&["convert", asset("tiny/gpt2").to_str().unwrap(), "x.gguf"], &["gpt2", "llama"]);
    fails_with(
        &["run", model, "--memory", "1MB", "--prompt", "the", "--dtype", "mlp=f16"],
        &["mlp", "matches no tensor"],
    );

    let planned = |dtypes: &[&str]| {
        let output = smoke(&[&["plan", model, "--memory", "400KB", "--json"], dtypes].concat());
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["model_bytes"].as_u64().unwrap()
    };
    assert_eq!(2 * planned(&["--dtype", "bf16"]), planned(&[]));
}

#[test]
fn what_is_learnt_of_experts_is_remembered_where_one_says() {
    let (folder, model) = (tempfile::tempdir().unwrap(), asset("tiny/mixtral"));
    let state = folder.path().join("state");
    let run = |options: &[&str]| {
        let common =
            ["run", model.to_str().unwrap(), "--memory", "400KB", "--prompt-ids", "5,6,7", "--max-tokens", "16"];
        let output = smoke(&[&common[..], &["--ignore-eos"], options].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{options:?}: {said}");
        (output.stdout, said)
    };
    let remembered = ["--state", state.to_str().unwrap()];
    let (tokens, said) = run(&["--no-state"]);
    assert!(said.contains("of the next layer known by learned") && said.contains("lookahead"), "{said}");
    assert!(!state.exists());
    for _ in 0..2 {
        let (same, said) = run(&remembered);
        assert!(same == tokens && !said.contains("note:"), "{said}");
    }
    let of_model = std::fs::read_dir(&state).unwrap().next().unwrap().unwrap().path();
    for (file, says) in [("experts.smoke", "no file of learned experts"), ("memory.json", "nothing is read in advance")]
    {
        std::fs::write(of_model.join(file), "a letter").unwrap();
        let (same, said) = run(&remembered);
        assert!(same == tokens && said.contains("note:") && said.contains(file) && said.contains(says), "{said}");
    }
    for predictor in ["lookahead", "transitions", "popular", "previous", "none"] {
        assert_eq!(run(&["--predictor", predictor, "--no-warm", "--speculation", "likely"]).0, tokens, "{predictor}");
    }
    let (scores, _) = run(&["--predictor", "previous", "--no-state", "--json"]);
    let scores: Value = serde_json::from_slice(&scores).unwrap();
    assert_eq!(scores["experts"][0]["predictor"], "previous");
    assert!(scores["experts"][0]["slot_recall"].is_number() && scores["experts"][0]["calibration_error"].is_number());
    fails_with(&["run", model.to_str().unwrap(), "--memory", "9MB", "--predictor", "crystal"], &["crystal", "learned"]);
}
