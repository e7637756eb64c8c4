//! What is fetched, and what is not fetched again.

use std::fs;

use smoke_hub::{Hub, HubError};
use smoke_storage::{Checkpoint, ReaderKind, WeightSource};

use crate::server::{COMMIT, Fault, Server};
use crate::{asset, fails_with, fetch, fetch_with, options, tiny};

/// A checkpoint's tensors: names and bytes.
fn tensors(path: impl AsRef<std::path::Path>) -> Vec<(String, Vec<u8>)> {
    let checkpoint = Checkpoint::open_with(path, ReaderKind::Pread).unwrap();
    let read = |tensor: &smoke_storage::TensorInfo| {
        let mut bytes = vec![0; tensor.extent.len as usize];
        checkpoint.read_at(tensor.extent, &mut bytes).unwrap();
        (tensor.name.clone(), bytes)
    };
    checkpoint.index().iter().map(read).collect()
}

#[test]
fn a_model_comes_whole_and_only_once() {
    let (server, cache) = tiny("llama");
    server.put("README.md", "hello");
    server.put("pytorch_model.bin", "not wanted");
    server.put("model-q4.gguf", "not wanted");
    let weights = fetch(&server, &cache, "owner/name").unwrap();
    let snapshot = cache.path().join("models--owner--name/snapshots").join(COMMIT);
    assert_eq!(weights, snapshot.join("model.safetensors"));
    assert_eq!(tensors(&weights), tensors(asset("tiny/llama")));
    assert_eq!(tensors(&snapshot), tensors(asset("tiny/llama")));
    let mut fetched = server.fetched();
    assert_eq!(fetched.last().unwrap(), "model.safetensors");
    fetched.sort();
    let expected =
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    assert_eq!(fetched, expected);
    for name in expected {
        assert_eq!(fs::read(snapshot.join(name)).unwrap(), fs::read(asset("tiny/llama").join(name)).unwrap(), "{name}");
    }

    assert_eq!(fetch(&server, &cache, "owner/name").unwrap(), weights);
    let asked = server.asked();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert!(asked[0].path.starts_with("/api/models/"));
}

#[test]
fn the_cache_is_laid_out_as_python_has_it() {
    // What its library leaves behind: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
    let (server, cache) = tiny("llama");
    let root = cache.path().join("models--owner--name");
    let snapshot = root.join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(root.join("blobs")).unwrap();
    fs::create_dir_all(root.join("refs")).unwrap();
    fs::write(root.join("refs/main"), COMMIT).unwrap();
    for name in
        ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
    {
        fs::copy(asset("tiny/llama").join(name), root.join("blobs").join(name.replace('.', "0"))).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(format!("../../blobs/{}", name.replace('.', "0")), snapshot.join(name)).unwrap();
        #[cfg(windows)]
        fs::copy(asset("tiny/llama").join(name), snapshot.join(name)).unwrap();
    }
    assert_eq!(tensors(fetch(&server, &cache, "owner/name").unwrap()), tensors(asset("tiny/llama")));
    assert_eq!(server.fetched(), [""; 0]);

    // And what we leave is the same.
    let (server, cache) = tiny("llama");
    fetch(&server, &cache, "owner/name").unwrap();
    let root = cache.path().join("models--owner--name");
    assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    let link = fs::read_link(root.join("snapshots").join(COMMIT).join("config.json")).unwrap();
    let blob = link.strip_prefix("../../blobs").unwrap();
    assert_eq!(fs::read(root.join("blobs").join(blob)).unwrap(), fs::read(asset("tiny/llama/config.json")).unwrap());
    assert_eq!(blob.to_str().unwrap().len(), 64);
}

#[test]
fn shards_come_with_their_index() {
    let (server, cache) = tiny("llama-sharded");
    server.put("other-00001-of-00001.safetensors", "not wanted");
    let weights = fetch(&server, &cache, "owner/name").unwrap();
    assert!(weights.ends_with("model.safetensors.index.json"));
    assert_eq!(tensors(weights), tensors(asset("tiny/llama-sharded")));
    assert!(!server.fetched().contains(&"other-00001-of-00001.safetensors".to_owned()));
    let mut offline = options(&server, &cache, 0);
    offline.offline = true;
    fetch_with(offline, "owner/name").unwrap();
}

#[test]
fn a_pickle_comes_where_there_is_nothing_else() {
    let server = Server::start();
    let cache = tempfile::tempdir().unwrap();
    server.put("config.json", "{}");
    server.put("pytorch_model.bin.index.json", r#"{"weight_map": {"a": "a.bin", "b": "b.bin"}}"#);
    for name in ["a.bin", "b.bin", "c.bin"] {
        server.put(name, name);
    }
    assert!(fetch(&server, &cache, "owner/name").unwrap().ends_with("pytorch_model.bin.index.json"));
    assert_eq!(server.fetched(), ["config.json", "pytorch_model.bin.index.json", "a.bin", "b.bin"]);
}

#[test]
fn of_several_gguf_files_one_is_named() {
    let server = Server::start();
    let cache = tempfile::tempdir().unwrap();
    for kind in ["q4_0", "q8_0"] {
        server.put(&format!("llama-{kind}.gguf"), fs::read(asset(&format!("quant/llama-{kind}.gguf"))).unwrap());
    }
    fails_with(fetch(&server, &cache, "owner/name"), &["llama-q4_0.gguf, llama-q8_0.gguf", "--file"]);
    fails_with(
        fetch(&server, &cache, "owner/name/llama-q5_0.gguf"),
        &["llama-q5_0.gguf", "llama-q4_0.gguf, llama-q8_0.gguf"],
    );
    assert_eq!(server.fetched(), [""; 0]);
    let weights = fetch(&server, &cache, "owner/name/llama-q8_0.gguf").unwrap();
    assert_eq!(tensors(weights), tensors(asset("quant/llama-q8_0.gguf")));
    assert_eq!(server.fetched(), ["llama-q8_0.gguf"]);
}

#[test]
fn a_revision_may_be_a_branch_or_a_commit() {
    let (server, cache) = tiny("llama");
    let main = fetch(&server, &cache, "owner/name").unwrap();
    server.asked();
    for revision in ["dev", "refs/pr/1", COMMIT] {
        assert_eq!(fetch(&server, &cache, &format!("owner/name@{revision}")).unwrap(), main);
        let mut offline = options(&server, &cache, 0);
        offline.offline = true;
        assert_eq!(fetch_with(offline, &format!("owner/name@{revision}")).unwrap(), main);
    }
    assert_eq!(server.fetched(), [""; 0]);
    fails_with(fetch(&server, &cache, "owner/name@nowhere"), &["owner/name", "no revision `nowhere`"]);
}

#[test]
fn a_new_commit_takes_only_what_changed() {
    let (server, cache) = tiny("llama");
    let old = fetch(&server, &cache, "owner/name").unwrap();
    server.asked();
    let second = COMMIT.replace('0', "f");
    server.set_commit(&second);
    server.put("generation_config.json", r#"{"eos_token_id": 1}"#);
    let new = fetch(&server, &cache, "owner/name").unwrap();
    assert_eq!(server.fetched(), ["generation_config.json"]);
    assert_ne!(old, new);
    assert_eq!(tensors(old), tensors(new));
}

#[test]
fn a_new_commit_that_breaks_off_leaves_the_old_one() {
    let (server, cache) = tiny("llama");
    let old = fetch(&server, &cache, "owner/name").unwrap();
    server.set_commit(&COMMIT.replace('0', "f"));
    server.put("model.safetensors", vec![1; 5000]);
    server.fail("GET /store", Fault::Cut(100));
    assert!(matches!(fetch(&server, &cache, "owner/name"), Err(HubError::Broken { .. })));
    let mut offline = options(&server, &cache, 0);
    offline.offline = true;
    assert_eq!(fetch_with(offline, "owner/name").unwrap(), old);
}

#[test]
fn offline_asks_nobody() {
    let (server, cache) = tiny("llama");
    let offline = || {
        let mut options = options(&server, &cache, 0);
        options.offline = true;
        options
    };
    fails_with(fetch_with(offline(), "owner/name"), &["owner/name", "HF_HUB_OFFLINE"]);
    let weights = fetch(&server, &cache, "owner/name").unwrap();
    server.asked();
    assert_eq!(fetch_with(offline(), "owner/name").unwrap(), weights);
    fails_with(fetch_with(offline(), "owner/name@other"), &["owner/name@other", "HF_HUB_OFFLINE"]);
    assert!(server.asked().is_empty());
    // Who cannot be reached is not needed, either.
    let mut unreachable = options(&server, &cache, 0);
    unreachable.endpoint = "http://127.0.0.1:1".to_owned();
    assert_eq!(fetch_with(unreachable, "owner/name").unwrap(), weights);
}

#[test]
fn the_token_goes_to_the_hub_only() {
    let (server, cache) = tiny("llama");
    let mut with_token = options(&server, &cache, 0);
    with_token.token = Some("hf_secret".to_owned());
    assert!(!format!("{:?}", Hub::new(with_token.clone())).contains("hf_secret"));
    fetch_with(with_token, "owner/name").unwrap();
    let asked = server.asked();
    assert!(asked.iter().any(|asked| asked.host.starts_with("localhost")));
    for asked in asked {
        let expected = asked.host.starts_with("127.0.0.1").then(|| "Bearer hf_secret".to_owned());
        assert_eq!(asked.token, expected, "{} {}", asked.path, asked.host);
    }
}

#[test]
fn progress_goes_from_nothing_to_all() {
    let (server, cache) = tiny("llama");
    let mut heard: Vec<(String, u64, u64)> = Vec::new();
    let hub = Hub::new(options(&server, &cache, 0));
    let model = "owner/name".parse().unwrap();
    hub.fetch(&model, &mut |progress| {
        heard.push((progress.file.to_owned(), progress.done_bytes, progress.total_bytes));
    })
    .unwrap();
    let weights: Vec<_> = heard.iter().filter(|(file, ..)| file == "model.safetensors").collect();
    let size = fs::metadata(asset("tiny/llama/model.safetensors")).unwrap().len();
    assert!(weights.iter().all(|(.., total)| *total == size));
    assert!(weights.is_sorted_by_key(|(_, done, _)| *done));
    assert_eq!((weights[0].1, weights[weights.len() - 1].1), (0, size));
}

#[test]
fn a_file_that_moved_within_the_hub_is_followed_and_only_so_far() {
    const CONFIG: &str = "/owner/name/resolve/0123456789abcdef0123456789abcdef01234567/config.json";
    const HEAD: &str = "HEAD /owner/name/resolve/0123456789abcdef0123456789abcdef01234567/config.json";
    let (server, cache) = tiny("llama");
    for _ in 0..3 {
        server.fail(HEAD, Fault::Header("Location", CONFIG));
    }
    fetch(&server, &cache, "owner/name").unwrap();
    let described = |asked: &crate::server::Asked| asked.method == "HEAD" && asked.path == CONFIG;
    assert_eq!(server.asked().iter().filter(|asked| described(asked)).count(), 4);

    // A hub that sends in circles is not followed for ever.
    let (server, cache) = tiny("llama");
    for _ in 0..100 {
        server.fail(HEAD, Fault::Header("Location", CONFIG));
    }
    fetch(&server, &cache, "owner/name").ok();
    assert!(server.asked().len() < 40);
}
