//! Recordings, from a model and made up.

use std::path::Path;

use serde_json::Value;
use smoke_replay::Trace;
use smoke_replay::synthetic::{self, MoeShape};

use crate::{asset, fails_with, smoke};

fn text(arguments: &[&str]) -> (String, String) {
    let output = smoke(arguments);
    let (out, error) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{arguments:?}: {error}");
    (out, error)
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&text(&[arguments, &["--json"]].concat()).0).unwrap()
}

/// A mixture of experts whose shared weights are larger than its experts.
fn write_moe(path: &Path) -> Trace {
    let shape = MoeShape { layers: 4, experts: 8, top_k: 2, expert_bytes: 1_000_000, shared_bytes: 2_000_000 };
    let trace = synthetic::markov_moe(shape, 1.0, 0.5, 200, 7);
    trace.write(std::fs::File::create(path).unwrap()).unwrap();
    trace
}

#[test]
fn replay_prints_every_policy_beside_min() {
    let folder = tempfile::tempdir().unwrap();
    let (path, picture) = (folder.path().join("moe.trace"), folder.path().join("moe.svg"));
    write_moe(&path);
    let path = path.to_str().unwrap();
    let options = ["--memory", "12MB,20MB", "--policy", "all", "--svg", picture.to_str().unwrap()];
    let (out, error) = text(&[&["trace", "replay", path][..], &options].concat());
    insta::assert_snapshot!(out);
    insta::assert_snapshot!(error);
    let picture = std::fs::read_to_string(picture).unwrap();
    assert!(picture.starts_with("<svg") && picture.ends_with("</svg>\n"));
    assert!(["MIN", "hybrid", "s3-fifo"].iter().all(|name| picture.contains(&format!(">{name}</text>"))));

    let both = json(&[&["trace", "replay", path][..], &["--memory", "20MB", "--policy", "lru,sieve"]].concat());
    let at = &both["budgets"][0];
    assert_eq!(at["policies"].as_array().unwrap().len(), 2);
    assert_eq!(at["policies"][1]["policy"], "sieve");
    assert!(at["policies"][0]["byte_hit_rate"].as_f64() < at["min_byte_hit_rate"].as_f64());
}

#[test]
fn policies_and_predictors_make_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("moe.trace");
    write_moe(&path);
    let with =
        |predictors| ["trace", "replay", path.to_str().unwrap(), "--memory", "12MB,20MB", "--predictor", predictors];
    insta::assert_snapshot!(text(&with("schedule,popular,oracle")).0);
    let all = json(&with("all"));
    let rate = |predictor: &str, policy: &str| {
        let replays = all["replays"].as_array().unwrap();
        let replay = replays.iter().find(|replay| replay["predictor"] == predictor).unwrap();
        let policies = replay["budgets"][1]["policies"].as_array().unwrap();
        policies.iter().find(|entry| entry["policy"] == policy).unwrap()["byte_hit_rate"].as_f64().unwrap()
    };
    // Those who ask nobody do not care whom they might.
    assert_eq!(rate("none", "lru"), rate("oracle", "lru"));
    assert!(rate("oracle", "next-use") > rate("learned", "next-use"));
    // Knowing how often experts are used is better than knowing nothing of them.
    assert!(rate("popular", "next-use") > rate("schedule", "next-use"));
}

/// The same for a mixture of experts, whose replay hears what the run's predictor expected, whichever it was. All that every
/// token uses stays in memory.
#[test]
fn a_replay_of_experts_is_as_good_as_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mixtral.trace");
    let (path, model) = (path.to_str().unwrap(), asset("tiny/mixtral"));
    let model = model.to_str().unwrap();
    for predictor in ["learned", "lookahead", "popular", "none"] {
        for (memory, policy) in [("380KB", "hybrid"), ("400KB", "pinned"), ("550KB", "hybrid"), ("600KB", "pinned")] {
            let run = [
                "--memory",
                memory,
                "--policy",
                policy,
                "--predictor",
                predictor,
                "--prompt-ids",
                "5,6,7",
                "--max-tokens",
                "28",
                "--ignore-eos",
            ];
            let rate = |value: &Value| value["byte_hit_rate"].as_f64().unwrap();
            // Which expert arrives first may decide which one goes, and a single miss more is 0.7 points: the median counts.
            let mut rates = [(); 3].map(|()| rate(&json(&[&["run", model, "--no-state"][..], &run].concat())));
            rates.sort_by(f64::total_cmp);
            let recorded = json(&[&["trace", "record", model, "--out", path][..], &run].concat());
            let memory_bytes = recorded["weight_bytes"].to_string();
            let replay =
                ["trace", "replay", path, "--memory", &memory_bytes, "--policy", policy, "--predictor", "routed"];
            let (ran, replayed) = (rates[1], rate(&json(&replay)["budgets"][0]["policies"][0]));
            let case = format!("{predictor}, {memory}, {policy}");
            assert!((ran - replayed).abs() < 0.005, "{case}: the run hit {ran}, its replay {replayed}");
        }
    }
}

#[test]
fn show_says_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("moe.trace");
    let trace = write_moe(&path);
    let (out, _) = text(&["trace", "show", path.to_str().unwrap()]);
    insta::assert_snapshot!(out);
    let shown = json(&["trace", "show", path.to_str().unwrap()]);
    assert_eq!(shown["uses"], trace.accesses().len());
    assert_eq!(shown["is_complete"], true);

    // Without the last record it is still being written.
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
    let (out, _) = text(&["trace", "show", path.to_str().unwrap()]);
    assert!(out.contains("was not ended"), "{out}");
    std::fs::write(&path, &bytes[..bytes.len() - 11]).unwrap();
    fails_with(&["trace", "show", path.to_str().unwrap()], &["moe.trace", "cut"]);
}

/// A replay of what ran hits what it hit, to half a point. All keys and values lie in one page, so that weights have the
/// same memory throughout.
#[test]
fn a_replay_is_as_good_as_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("llama.trace");
    let (path, model) = (path.to_str().unwrap(), asset("tiny/llama"));
    let model = model.to_str().unwrap();
    for (memory, policy) in [("250KB", "pinned"), ("250KB", "lru"), ("350KB", "pinned"), ("700KB", "lru")] {
        let run =
            ["--memory", memory, "--policy", policy, "--prompt-ids", "5,6,7", "--max-tokens", "28", "--ignore-eos"];
        let ran = json(&[&["run", model][..], &run].concat());
        let recorded = json(&[&["trace", "record", model, "--out", path][..], &run].concat());
        assert_eq!(recorded["tokens"], 3 + 27);
        let memory_bytes = recorded["weight_bytes"].to_string();
        let replayed = json(&["trace", "replay", path, "--memory", &memory_bytes, "--policy", policy]);
        let rate = |value: &Value| value["byte_hit_rate"].as_f64().unwrap();
        let (ran, replayed) = (rate(&ran), rate(&replayed["budgets"][0]["policies"][0]));
        assert!((ran - replayed).abs() < 0.005, "{memory}, {policy}: the run hit {ran}, its replay {replayed}");
    }
}

#[test]
fn mistakes_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("moe.trace");
    write_moe(&path);
    let path = path.to_str().unwrap();
    let model = asset("tiny/llama/config.json");
    fails_with(&["trace", "show", model.to_str().unwrap()], &["config.json", "not a trace", "smoke trace record"]);
    fails_with(&["trace", "show", "absent.trace"], &["absent.trace", "cannot be read"]);
    fails_with(&["trace", "replay", path], &["--memory"]);
    fails_with(&["trace", "replay", path, "--memory", "1MB"], &["1000000 bytes", "2000000"]);
    fails_with(&["trace", "replay", path, "--memory", "9MB", "--policy", "clairvoyant"], &["clairvoyant", "s3-fifo"]);
    fails_with(&["trace", "replay", path, "--memory", "9MB", "--predictor", "crystal"], &["crystal", "markov"]);
    fails_with(&["trace", "replay", path, "--memory", "9MB", "--svg", "/absent/a.svg"], &["/absent/a.svg", "written"]);
    let model = asset("tiny/llama");
    let record = ["trace", "record", model.to_str().unwrap(), "--memory", "400KB", "--prompt-ids", "5"];
    fails_with(&[&record[..], &["--out", "/absent/a.trace"]].concat(), &["/absent/a.trace", "written"]);
}
