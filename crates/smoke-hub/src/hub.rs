use std::fs;
use std::path::{Path, PathBuf};

use crate::cache::Repository;
use crate::client::Client;
use crate::download::download;
use crate::error::HubError;
use crate::id::ModelId;
use crate::options::{HubOptions, NoHome};
use crate::selection::Weights;

/// A hub and the cache of what was fetched from it.
#[derive(Debug)]
pub struct Hub {
    options: HubOptions,
    client: Client,
}

/// How far the file is that is being fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress<'a> {
    /// The file: a path within the repository.
    pub file: &'a str,
    /// Bytes that are there, those of an earlier run among them.
    pub done_bytes: u64,
    /// Bytes of the whole file.
    pub total_bytes: u64,
}

impl Hub {
    /// The hub that these options say.
    pub fn new(options: HubOptions) -> Self {
        Self { client: Client::new(&options), options }
    }

    /// The hub that the environment says: see [`HubOptions::from_env`].
    ///
    /// # Errors
    /// [`NoHome`] if there is no place for the cache.
    pub fn from_env() -> Result<Self, NoHome> {
        Ok(Self::new(HubOptions::from_env()?))
    }

    /// What it was made with.
    pub fn options(&self) -> &HubOptions {
        &self.options
    }

    /// Fetches what of the model is not in the cache yet, and returns the file of its weights there, or the index of
    /// their shards. The configuration and the tokenizer lie in the same directory.
    ///
    /// The hub is asked once whether the revision is still the same commit. Offline, or if the hub cannot be reached and
    /// the model is in the cache, the commit that was fetched last is taken. `progress` is called again and again while
    /// a file comes, and not at all if nothing is missing.
    ///
    /// # Errors
    /// [`HubError`]: an earlier commit in the cache stays as it is, and no file is there that is not whole.
    pub fn fetch(&self, model: &ModelId, progress: &mut dyn FnMut(Progress<'_>)) -> Result<PathBuf, HubError> {
        let repository = Repository::new(&self.options.cache, model);
        if self.options.offline {
            return self.cached(model, &repository);
        }
        let listing = match self.patiently(|| self.client.list(model)) {
            Err(error @ HubError::Unreachable { .. }) => {
                return self.cached(model, &repository).map_err(|_| error);
            }
            listing => listing?,
        };
        let page = self.client.page(model);
        let weights = Weights::choose(&listing.names, model.file(), &page)?;
        let mut fetch_one = |name: &str| self.fetch_file(model, &repository, &listing.commit, name, progress);
        // The weights come last: where they are, everything is.
        for name in weights.companions(&listing.names) {
            fetch_one(name)?;
        }
        fetch_one(weights.0)?;
        let snapshot = repository.snapshot(&listing.commit);
        for shard in shards(&weights, &snapshot)? {
            if !listing.names.contains(&shard) {
                return Err(HubError::NoShard { place: page, shard });
            }
            fetch_one(&shard)?;
        }
        repository.set_commit(&listing.commit)?;
        Ok(snapshot.join(weights.0))
    }

    /// The weights in the cache, if all of them are there.
    fn cached(&self, model: &ModelId, repository: &Repository) -> Result<PathBuf, HubError> {
        let absent = || HubError::NotCached { cache: self.options.cache.clone(), model: model.clone() };
        let commit = repository.commit().ok_or_else(absent)?;
        let snapshot = repository.snapshot(&commit);
        let place = snapshot.display().to_string();
        let names = repository.files(&commit)?;
        let weights = match Weights::choose(&names, model.file(), &place) {
            Err(HubError::NoWeights { .. }) => return Err(absent()),
            weights => weights?,
        };
        match shards(&weights, &snapshot)?.into_iter().find(|shard| !names.contains(shard)) {
            Some(shard) => Err(HubError::NoShard { place, shard }),
            None => Ok(snapshot.join(weights.0)),
        }
    }

    fn fetch_file(
        &self,
        model: &ModelId,
        repository: &Repository,
        commit: &str,
        name: &str,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), HubError> {
        if repository.snapshot(commit).join(name).is_file() {
            return Ok(());
        }
        let remote = self.patiently(|| self.client.describe(model, commit, name))?;
        let blob = repository.blob(&remote.etag)?;
        let _lock = repository.lock(&remote.etag)?;
        let total_bytes = remote.bytes;
        // Another commit may have had the same, or somebody else fetched it while we waited.
        if !fs::metadata(&blob).is_ok_and(|there| there.len() == total_bytes) {
            download(&self.client, &self.options, model, &remote, &blob, &mut |done_bytes| {
                progress(Progress { file: name, done_bytes, total_bytes });
            })?;
        }
        repository.link(&blob, commit, name)
    }

    /// Asks again, after pauses, as long as the reason for failing may pass.
    fn patiently<T>(&self, ask: impl Fn() -> Result<T, HubError>) -> Result<T, HubError> {
        for &pause in &self.options.pauses {
            match ask() {
                Err(error) if error.is_passing() => std::thread::sleep(pause),
                answer => return answer,
            }
        }
        ask()
    }
}

/// More than an index of millions of tensors takes.
const LARGEST_INDEX: u64 = 256 << 20;

/// The shards, as paths within the repository, if the weights are an index that lies in this snapshot.
fn shards(weights: &Weights<'_>, snapshot: &Path) -> Result<Vec<String>, HubError> {
    if !weights.is_index() {
        return Ok(Vec::new());
    }
    let path = snapshot.join(weights.0);
    let index = |reason: String| HubError::Index { path: path.clone(), reason };
    let io_error = |cause| HubError::Io { path: path.clone(), cause };
    if fs::metadata(&path).map_err(io_error)?.len() > LARGEST_INDEX {
        return Err(index(format!("it has more than {LARGEST_INDEX} bytes")));
    }
    weights.shards(&fs::read(&path).map_err(io_error)?).map_err(index)
}
