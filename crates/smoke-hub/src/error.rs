use std::io;
use std::path::PathBuf;

use crate::id::ModelId;

/// Why a model was not fetched. What was downloaded until then is kept for the next time, unless it is wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// No answer from the hub.
    #[error(
        "{url} cannot be reached ({cause}): is there a network, and is HF_ENDPOINT right? A model that was fetched before needs neither"
    )]
    Unreachable {
        /// What was asked for.
        url: String,
        /// What went wrong.
        cause: ureq::Error,
    },
    /// The connection broke while the hub answered.
    #[error("{url}: the answer broke off after {received_bytes} bytes ({cause}): run it again, it goes on from there")]
    Broken {
        /// What was asked for.
        url: String,
        /// How much of the file is kept.
        received_bytes: u64,
        /// What went wrong.
        cause: io::Error,
    },
    /// There is no such model, as far as the asker may know.
    #[error(
        "{endpoint} has no model `{model}`, or does not show it to you: is the name right? A private one needs a token in HF_TOKEN, from {endpoint}/settings/tokens"
    )]
    NoModel {
        /// The hub.
        endpoint: String,
        /// The model.
        model: ModelId,
    },
    /// The model has no such branch, tag or commit.
    #[error("{page}: the model has no revision `{revision}`")]
    NoRevision {
        /// The model's page.
        page: String,
        /// What was asked for.
        revision: String,
    },
    /// The repository has no such file.
    #[error("{page}: there is no file `{file}`; of weights there is {}", list(files))]
    NoFile {
        /// The model's page.
        page: String,
        /// What was asked for.
        file: String,
        /// The files of weights that are there.
        files: Vec<String>,
    },
    /// The hub wants to know who asks, or does not accept the token.
    #[error("{page}: the hub {}: set HF_TOKEN to a token from {endpoint}/settings/tokens", refusal(*.had_token))]
    Unauthorized {
        /// The hub.
        endpoint: String,
        /// The model's page.
        page: String,
        /// Whether a token was sent.
        had_token: bool,
    },
    /// The model's terms were not accepted, or the token does not allow reading it.
    #[error(
        "{page}: the model is gated: accept its terms on that page, and set HF_TOKEN to a token of the same account, from {endpoint}/settings/tokens"
    )]
    Gated {
        /// The hub.
        endpoint: String,
        /// The model's page.
        page: String,
    },
    /// Another answer than the one expected.
    #[error("{url}: the hub answers with status {status}{}", if *.status >= 500 { ": try again later" } else { "" })]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// An answer that cannot be understood.
    #[error("{url}: {reason}: is HF_ENDPOINT the address of a hub?")]
    Answer {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A name that would lead out of the cache.
    #[error("{page}: the repository is hostile: it has a file named `{name}`, so nothing of it is taken")]
    HostileName {
        /// The model's page.
        page: String,
        /// The name.
        name: String,
    },
    /// The repository has no weights.
    #[error("{page}: the repository has neither safetensors nor GGUF files nor a pytorch_model.bin")]
    NoWeights {
        /// The model's page.
        page: String,
    },
    /// The repository has several files of weights, any of which could be meant.
    #[error("{page}: the repository has several files of weights, name one with --file: {}", list(files))]
    SeveralWeights {
        /// The model's page.
        page: String,
        /// Their names.
        files: Vec<String>,
    },
    /// A GGUF file in several parts, which cannot be read in parts.
    #[error(
        "{page}: `{file}` is one of several parts, which are not read in parts: choose another file with --file, or merge them with llama.cpp's gguf-split"
    )]
    SplitGguf {
        /// The model's page.
        page: String,
        /// The part.
        file: String,
    },
    /// The index of shards cannot be read.
    #[error("{path}: this is no index of shards ({reason})")]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The index names a shard that is not there.
    #[error("{place}: the index names the shard `{shard}`, which is not there")]
    NoShard {
        /// The model's page, or its place in the cache.
        place: String,
        /// The shard.
        shard: String,
    },
    /// The file that came is not as long as was announced. It is discarded.
    #[error("{url}: {actual_bytes} bytes came instead of {expected_bytes}; they were discarded, fetch it again")]
    Length {
        /// What was asked for.
        url: String,
        /// The length that was announced.
        expected_bytes: u64,
        /// What came, at least.
        actual_bytes: u64,
    },
    /// The file that came is not the one that was announced. It is discarded.
    #[error("{url}: the SHA-256 is {actual} instead of {expected}; the file was discarded, fetch it again")]
    Checksum {
        /// What was asked for.
        url: String,
        /// The sum that was announced, in hexadecimal digits.
        expected: String,
        /// The sum of what came.
        actual: String,
    },
    /// There is not enough room on the disk.
    #[error(
        "{path}: {needed_bytes} more bytes of disk are needed, but {free_bytes} are free: make room, or set HF_HUB_CACHE to another disk"
    )]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// What is yet to come.
        needed_bytes: u64,
        /// What the file system has to give.
        free_bytes: u64,
    },
    /// The cache cannot be read or written.
    #[error("{path}: {cause}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
    /// The network may not be used, and the model is not in the cache.
    #[error("{cache}: `{model}` is not there, or not whole, and HF_HUB_OFFLINE forbids to fetch it")]
    NotCached {
        /// The cache.
        cache: PathBuf,
        /// The model.
        model: ModelId,
    },
}

impl HubError {
    /// Whether the same may succeed a moment later.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Broken { .. } => true,
            Self::Status { status, .. } => *status >= 500 || matches!(status, 408 | 429),
            _ => false,
        }
    }
}

fn list(files: &[String]) -> String {
    if files.is_empty() { "none".to_owned() } else { files.join(", ") }
}

fn refusal(had_token: bool) -> &'static str {
    if had_token { "does not accept the token" } else { "wants to know who asks (the model may be private or gated)" }
}
