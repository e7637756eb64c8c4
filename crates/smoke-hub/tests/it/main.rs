//! Fetching from a hub on this machine.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in what tests share, too")]

mod faults;
mod fetch;
mod server;

use std::path::{Path, PathBuf};
use std::time::Duration;

use smoke_hub::{Hub, HubError, HubOptions};
use tempfile::TempDir;

use crate::server::Server;

fn asset(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/assets").join(name)
}

/// A server with a tiny model, and a cache that is empty.
fn tiny(name: &str) -> (Server, TempDir) {
    let wanted = |name: &str| !name.starts_with("goldens") && name != "config.v5.json";
    (Server::with_directory(&asset("tiny").join(name), wanted), tempfile::tempdir().unwrap())
}

/// How often a request that fails is made again, without waiting.
fn options(server: &Server, cache: &TempDir, retries: usize) -> HubOptions {
    let mut options = HubOptions::new(cache.path());
    options.endpoint = server.endpoint();
    options.pauses = vec![Duration::ZERO; retries];
    options
}

fn fetch_with(options: HubOptions, model: &str) -> Result<PathBuf, HubError> {
    Hub::new(options).fetch(&model.parse().unwrap(), &mut |_| ())
}

fn fetch(server: &Server, cache: &TempDir, model: &str) -> Result<PathBuf, HubError> {
    fetch_with(options(server, cache, 0), model)
}

/// Fails, with every one of `parts` in the message.
fn fails_with(result: Result<PathBuf, HubError>, parts: &[&str]) {
    let message = result.unwrap_err().to_string();
    for part in parts {
        assert!(message.contains(part), "no `{part}` in: {message}");
    }
}

/// Every file below a directory that is no link, as paths from there.
fn files_below(directory: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(next) = directories.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => directories.push(entry.path()),
                kind if kind.is_file() => {
                    files.push(entry.path().strip_prefix(directory).unwrap().to_str().unwrap().to_owned());
                }
                _ => {}
            }
        }
    }
    files.sort();
    files
}
