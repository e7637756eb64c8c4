//! A hub, a network and a disk that do not do what they should: one clear error, and nothing that is taken for whole.

use std::fs;

use smoke_hub::HubError;

use crate::server::{COMMIT, Fault, Server};
use crate::{asset, fails_with, fetch, fetch_with, files_below, options, tiny};

const WEIGHTS: &str = "model.safetensors";
const STORED: &str = "GET /store/0123456789abcdef0123456789abcdef01234567:model.safetensors";

fn weights() -> Vec<u8> {
    fs::read(asset("tiny/llama/model.safetensors")).unwrap()
}

/// The ranges in which the weights were asked for since the server was asked last.
fn ranges(server: &Server) -> Vec<Option<String>> {
    let stored = |path: &str| path.starts_with("/store/") && path.ends_with(WEIGHTS);
    server.asked().into_iter().filter(|asked| stored(&asked.path)).map(|asked| asked.range).collect()
}

#[test]
fn a_cut_body_is_resumed_by_the_next_run() {
    for fault in [Fault::Cut(70_000), Fault::CutUnannounced(70_000)] {
        let (server, cache) = tiny("llama");
        server.fail(STORED, fault);
        fails_with(fetch(&server, &cache, "owner/name"), &[WEIGHTS, "70000 bytes", "run it again"]);
        assert!(!cache.path().join("models--owner--name/snapshots").join(COMMIT).join(WEIGHTS).exists());
        let left: Vec<_> = files_below(cache.path()).into_iter().filter(|file| file.ends_with(".incomplete")).collect();
        assert_eq!(left.len(), 1);
        let mut offline = options(&server, &cache, 0);
        offline.offline = true;
        assert!(matches!(fetch_with(offline, "owner/name"), Err(HubError::NotCached { .. })));

        ranges(&server);
        let path = fetch(&server, &cache, "owner/name").unwrap();
        assert_eq!(ranges(&server), [Some("bytes=70000-".to_owned())]);
        assert_eq!(fs::read(path).unwrap(), weights());
        assert!(!files_below(cache.path()).iter().any(|file| file.ends_with(".incomplete")));
    }
}

#[test]
fn a_cut_body_is_resumed_by_the_same_run() {
    let (server, cache) = tiny("llama");
    for bytes in [1000, 0, 500, 20_000] {
        server.fail(STORED, Fault::Cut(bytes));
    }
    // Two retries are enough for four cuts: what brought something does not count.
    let path = fetch_with(options(&server, &cache, 2), "owner/name").unwrap();
    let expected = [None, Some(1000), Some(1000), Some(1500), Some(21_500)];
    assert_eq!(ranges(&server), expected.map(|from| from.map(|from| format!("bytes={from}-"))));
    assert_eq!(fs::read(path).unwrap(), weights());
}

#[test]
fn a_server_without_ranges_starts_anew() {
    let (server, cache) = tiny("llama");
    server.fail(STORED, Fault::Cut(70_000));
    server.fail(STORED, Fault::WholeInstead);
    let path = fetch_with(options(&server, &cache, 1), "owner/name").unwrap();
    assert_eq!(fs::read(path).unwrap(), weights());
}

#[test]
fn what_an_earlier_run_left_is_checked() {
    let whole = weights();
    let longer = [&whole[..], b"more"].concat();
    for left in [vec![9; 1000], vec![9; whole.len()], longer, whole.clone()] {
        let (server, cache) = tiny("llama");
        server.fail(STORED, Fault::Cut(10));
        fetch(&server, &cache, "owner/name").unwrap_err();
        let partial = files_below(cache.path()).into_iter().find(|file| file.ends_with(".incomplete")).unwrap();
        fs::write(cache.path().join(partial), &left).unwrap();
        let path = fetch(&server, &cache, "owner/name").unwrap();
        assert_eq!(fs::read(path).unwrap(), whole, "{} bytes were left", left.len());
    }
}

#[test]
fn a_blob_of_another_length_is_fetched_again() {
    let (server, cache) = tiny("llama");
    let path = fetch(&server, &cache, "owner/name").unwrap();
    let blob = fs::canonicalize(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(blob, &weights()[..5000]).unwrap();
    assert_eq!(fs::read(fetch(&server, &cache, "owner/name").unwrap()).unwrap(), weights());
}

#[test]
fn a_link_whose_blob_was_removed_is_mended() {
    let (server, cache) = tiny("llama");
    let path = fetch(&server, &cache, "owner/name").unwrap();
    fs::remove_file(fs::canonicalize(&path).unwrap()).unwrap();
    assert_eq!(fs::read(fetch(&server, &cache, "owner/name").unwrap()).unwrap(), weights());
}

#[test]
fn a_wrong_length_or_sum_is_discarded() {
    for (fault, parts) in [
        (Fault::Longer(5), &[WEIGHTS, "instead of", "discarded"][..]),
        (Fault::Longer(-5), &[WEIGHTS, "instead of", "discarded"]),
        (Fault::Garbled, &[WEIGHTS, "SHA-256", "discarded"]),
    ] {
        let (server, cache) = tiny("llama");
        server.fail(STORED, fault);
        fails_with(fetch_with(options(&server, &cache, 3), "owner/name"), parts);
        let blobs = files_below(cache.path()).into_iter().filter(|file| file.contains("blobs"));
        let largest = blobs.map(|file| fs::metadata(cache.path().join(file)).unwrap().len()).max().unwrap();
        assert!(largest < weights().len() as u64 - 5, "the weights are kept");
        fetch(&server, &cache, "owner/name").unwrap();
    }
}

#[test]
fn a_server_that_stumbles_is_asked_again() {
    let (server, cache) = tiny("llama");
    for (what, status) in [("GET /api", 500), ("HEAD /owner", 503), (STORED, 502), (STORED, 429)] {
        server.fail(what, Fault::Status(status, ""));
    }
    let path = fetch_with(options(&server, &cache, 2), "owner/name").unwrap();
    assert_eq!(fs::read(path).unwrap(), weights());

    let (server, cache) = tiny("llama");
    server.fail("GET /api", Fault::Status(500, ""));
    fails_with(fetch(&server, &cache, "owner/name"), &["/api/models/owner/name", "status 500", "later"]);
}

#[test]
fn a_refusal_says_what_to_do() {
    let (server, cache) = tiny("llama");
    let page = format!("{}/owner/name", server.endpoint());
    let tokens = format!("{}/settings/tokens", server.endpoint());
    fails_with(fetch(&server, &cache, "owner/absent"), &["no model `owner/absent`", "HF_TOKEN", &tokens]);
    server.fail("GET /api", Fault::Status(401, "RepoNotFound"));
    fails_with(fetch(&server, &cache, "owner/name"), &["no model `owner/name`", "HF_TOKEN"]);
    server.fail("GET /api", Fault::Status(401, ""));
    fails_with(fetch(&server, &cache, "owner/name"), &[&page, "who asks", "HF_TOKEN", &tokens]);
    server.fail("GET /api", Fault::Status(401, ""));
    let mut with_token = options(&server, &cache, 0);
    with_token.token = Some("hf_old".to_owned());
    fails_with(fetch_with(with_token, "owner/name"), &["does not accept the token", &tokens]);
    // Whoever may see the list may still have to accept terms to see the files.
    for (status, code) in [(401, "GatedRepo"), (403, "GatedRepo"), (403, "")] {
        server.fail("HEAD /owner", Fault::Status(status, code));
        fails_with(fetch(&server, &cache, "owner/name"), &[&page, "gated", "accept its terms", "HF_TOKEN"]);
    }
    let mut unreachable = options(&server, &cache, 0);
    unreachable.endpoint = "http://127.0.0.1:1".to_owned();
    fails_with(fetch_with(unreachable, "owner/name"), &["http://127.0.0.1:1", "cannot be reached", "network"]);
}

#[test]
fn hostile_names_write_nothing() {
    for name in ["../../x.gguf", "/etc/x.gguf", "a/../../x.gguf", "a//x.gguf", "..", "a\\\\..\\\\x.gguf"] {
        let (server, cache) = tiny("llama");
        server.put(name, "evil");
        fails_with(fetch(&server, &cache, "owner/name"), &["hostile", "owner/name"]);
        assert_eq!(files_below(cache.path()), [""; 0], "{name}");
    }
    for commit in ["../../x", "", "a/b", "."] {
        let (server, cache) = tiny("llama");
        server.set_commit(commit);
        fails_with(fetch(&server, &cache, "owner/name"), &["is no commit"]);
        assert_eq!(files_below(cache.path()), [""; 0], "{commit}");
    }
    for etag in ["\"../../x\"", "\"\"", "\"a/b\""] {
        let (server, cache) = tiny("llama");
        server.fail("HEAD /owner", Fault::Header("X-Linked-Etag", etag));
        fails_with(fetch(&server, &cache, "owner/name"), &["ETag"]);
        assert_eq!(files_below(cache.path()), [""; 0], "{etag}");
    }
    for shard in ["../../x.safetensors", "/x.safetensors"] {
        let (server, cache) = tiny("llama-sharded");
        server.put("model.safetensors.index.json", format!("{{\"weight_map\": {{\"a\": \"{shard}\"}}}}"));
        fails_with(fetch(&server, &cache, "owner/name"), &["model.safetensors.index.json", shard]);
    }
}

#[test]
fn nonsense_is_called_so() {
    let nonsense = |what: &str, fault: Fault, parts: &[&str]| {
        let (server, cache) = tiny("llama");
        server.fail(what, fault);
        fails_with(fetch(&server, &cache, "owner/name"), parts);
    };
    nonsense("GET /api", Fault::Garbled, &["/api/models/owner/name", "HF_ENDPOINT"]);
    nonsense("HEAD /owner", Fault::Header("X-Linked-Size", "many"), &["no length", "HF_ENDPOINT"]);
    nonsense(STORED, Fault::Status(404, "EntryNotFound"), &[WEIGHTS, "status 404"]);

    let (server, cache) = tiny("llama-sharded");
    server.put("model.safetensors.index.json", r#"{"weight_map": {"a": "absent.safetensors"}}"#);
    fails_with(fetch(&server, &cache, "owner/name"), &["absent.safetensors", "owner/name"]);
    server.set_commit("second");
    server.put("model.safetensors.index.json", "{");
    fails_with(fetch(&server, &cache, "owner/name"), &["model.safetensors.index.json", "no index"]);
}

#[cfg(unix)]
#[test]
fn a_file_larger_than_the_disk_is_refused_before_it_comes() {
    let (server, cache) = tiny("llama");
    server.fail(
        "HEAD /owner/name/resolve/0123456789abcdef0123456789abcdef01234567/model",
        Fault::Header("X-Linked-Size", "9000000000000000000"),
    );
    fails_with(fetch(&server, &cache, "owner/name"), &["more bytes of disk", "are free", "HF_HUB_CACHE"]);
    assert_eq!(ranges(&server), []);
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_fills_up_meanwhile_is_named() {
    let (server, cache) = tiny("llama");
    server.fail(STORED, Fault::Cut(10));
    fetch(&server, &cache, "owner/name").unwrap_err();
    let partial = files_below(cache.path()).into_iter().find(|file| file.ends_with(".incomplete")).unwrap();
    let partial = cache.path().join(partial);
    fs::remove_file(&partial).unwrap();
    std::os::unix::fs::symlink("/dev/full", &partial).unwrap();
    fails_with(fetch(&server, &cache, "owner/name"), &[".incomplete", "more bytes of disk", "make room"]);
    fs::remove_file(&partial).unwrap();
    assert_eq!(fs::read(fetch(&server, &cache, "owner/name").unwrap()).unwrap(), weights());
}
