//! Models of a hub, which is one on this machine.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::asset;

#[path = "../../../smoke-hub/tests/it/server.rs"]
#[allow(dead_code, reason = "the tests of smoke-hub ask more of it")]
mod server;

use server::{Fault, Server};

/// Runs with a home of the hub's libraries, in a directory without models.
fn smoke(server: &Server, home: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_smoke"));
    for name in ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HF_HUB_OFFLINE"] {
        command.env_remove(name);
    }
    command.env("HF_ENDPOINT", server.endpoint()).env("HF_HOME", home).envs(variables.iter().copied());
    command.current_dir(home).args(arguments).output().unwrap()
}

fn succeeds(output: Output) -> Output {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn json(output: Output) -> Value {
    serde_json::from_slice(&succeeds(output).stdout).unwrap()
}

fn fails_with(output: &Output, parts: &[&str]) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && !message.contains("panicked"), "{:?}: {message}", output.status);
    for part in parts {
        assert!(message.contains(part), "no `{part}` in: {message}");
    }
}

fn tiny() -> (Server, tempfile::TempDir) {
    let server = Server::with_directory(&asset("tiny/llama"), |name| !name.starts_with("goldens"));
    (server, tempfile::tempdir().unwrap())
}

const RUN: [&str; 8] = ["--memory", "400KB", "--prompt-ids", "5,6,7", "--max-tokens", "9", "--ignore-eos", "--json"];

#[test]
fn a_model_is_fetched_once_and_then_runs_like_any_other() {
    let (server, home) = tiny();
    let local = asset("tiny/llama");
    let local = local.to_str().unwrap();
    let smoke = |arguments: &[&str], variables: &[(&str, &str)]| smoke(&server, home.path(), arguments, variables);
    let inspected = json(smoke(&["inspect", "owner/name", "--json"], &[]));
    assert_eq!(inspected["model_bytes"], json(smoke(&["inspect", local, "--json"], &[]))["model_bytes"]);
    assert!(server.fetched().contains(&"model.safetensors".to_owned()));

    let ran = succeeds(smoke(&[&["run", "owner/name"], &RUN[..]].concat(), &[]));
    assert!(!String::from_utf8_lossy(&ran.stderr).contains("fetching"));
    let here = json(smoke(&[&["run", local], &RUN[..]].concat(), &[]));
    assert_eq!(json(ran)["tokens"], here["tokens"]);
    let text = ["run", "owner/name@main", "--memory", "400KB", "--raw", "--prompt", "the", "--max-tokens", "2"];
    succeeds(smoke(&text, &[]));
    succeeds(smoke(&["plan", "owner/name", "--memory", "400KB", "--json"], &[]));
    assert_eq!(server.fetched(), [""; 0]);

    let offline = [("HF_HUB_OFFLINE", "1")];
    assert_eq!(json(smoke(&[&["run", "owner/name"], &RUN[..]].concat(), &offline))["tokens"], here["tokens"]);
    assert!(server.asked().is_empty());
    fails_with(&smoke(&["inspect", "owner/other"], &offline), &["owner/other", "HF_HUB_OFFLINE"]);
}

#[test]
fn of_several_files_one_is_named() {
    let server = Server::start();
    let home = tempfile::tempdir().unwrap();
    for name in ["llama-q4_0.gguf", "llama-q8_0.gguf"] {
        server.put(name, std::fs::read(asset("quant").join(name)).unwrap());
    }
    let smoke = |arguments: &[&str]| smoke(&server, home.path(), arguments, &[]);
    fails_with(&smoke(&["inspect", "owner/name"]), &["llama-q4_0.gguf, llama-q8_0.gguf", "--file"]);
    let fetched = smoke(&["inspect", "owner/name/llama-q4_0.gguf"]);
    assert!(String::from_utf8_lossy(&fetched.stderr).contains("fetching llama-q4_0.gguf"));
    let flagged = succeeds(smoke(&["inspect", "owner/name", "--file", "llama-q4_0.gguf"]));
    assert_eq!(succeeds(fetched).stdout, flagged.stdout);
    let packed = smoke(&["pack", "owner/name", "--file", "llama-q4_0.gguf", "--out", "packed.gguf"]);
    succeeds(packed);
    let directory = asset("quant");
    let directory = directory.to_str().unwrap();
    let here = succeeds(smoke(&["inspect", directory, "--file", "llama-q4_0.gguf"]));
    assert_eq!(here.stdout, flagged.stdout);
}

#[test]
fn a_path_goes_before_the_hub() {
    let (server, home) = tiny();
    let here = home.path().join("owner/name");
    std::fs::create_dir_all(&here).unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(asset("tiny/llama").join(name), here.join(name)).unwrap();
    }
    succeeds(smoke(&server, home.path(), &["inspect", "owner/name"], &[]));
    assert!(server.asked().is_empty());
}

#[test]
fn what_was_tried_is_said() {
    let (server, home) = tiny();
    let smoke = |model: &str, variables: &[(&str, &str)]| smoke(&server, home.path(), &["inspect", model], variables);
    for model in ["gpt2", "./owner/name", "owner/name/", "models/a/b"] {
        fails_with(&smoke(model, &[]), &[model, "No such file", "OWNER/NAME"]);
    }
    assert!(server.asked().is_empty());
    fails_with(&smoke("models/absent", &[]), &["models/absent", "no such file or directory here", "HF_TOKEN"]);
    fails_with(&smoke("owner/name@nowhere", &[]), &["no revision `nowhere`"]);
    server.fail("HEAD /owner", Fault::Status(403, "GatedRepo"));
    fails_with(&smoke("owner/name", &[]), &["gated", "accept its terms", "HF_TOKEN"]);
    server.fail("HEAD /owner", Fault::Status(401, ""));
    fails_with(&smoke("owner/name", &[("HF_TOKEN", "hf_old")]), &["does not accept the token"]);
    let nobody = [("HF_ENDPOINT", "http://127.0.0.1:1")];
    fails_with(&smoke("owner/name", &nobody), &["http://127.0.0.1:1", "cannot be reached"]);
}
