//! One repository in the cache, laid out as the hub's own libraries do: `blobs` by their ETag, `snapshots` of links to
//! them by commit and name, `refs` from branches to commits.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use crate::error::HubError;
use crate::id::ModelId;

#[derive(Debug)]
pub(crate) struct Repository {
    cache: PathBuf,
    folder: String,
    layout: CacheRepo,
    revision: String,
}

/// A lock that other programs heed, too; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held, not read")] File);

impl Repository {
    pub(crate) fn new(cache: &Path, model: &ModelId) -> Self {
        let (repository, revision) = (model.repository().to_owned(), model.revision().to_owned());
        let repo = Repo::with_revision(repository, RepoType::Model, revision.clone());
        let folder = repo.folder_name();
        Self { cache: cache.to_owned(), folder, layout: Cache::new(cache.to_owned()).repo(repo), revision }
    }

    /// The commit that the revision was when it was fetched last.
    pub(crate) fn commit(&self) -> Option<String> {
        let reference = self.cache.join(&self.folder).join("refs").join(&self.revision);
        let commit = match fs::read_to_string(reference) {
            Ok(text) => text.trim().to_owned(),
            Err(_) => self.revision.clone(),
        };
        is_plain(&commit).then_some(commit).filter(|commit| self.snapshot(commit).is_dir())
    }

    /// Notes which commit the revision is.
    pub(crate) fn set_commit(&self, commit: &str) -> Result<(), HubError> {
        if self.revision == commit || self.commit().as_deref() == Some(commit) {
            return Ok(());
        }
        let reference = self.cache.join(&self.folder).join("refs").join(&self.revision);
        self.layout.create_ref(commit).map_err(|cause| HubError::Io { path: reference, cause })
    }

    /// The directory of a commit's files. `commit` is plain.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.layout.pointer_path(commit)
    }

    /// Names of the files that are there of a commit, as paths within the repository.
    pub(crate) fn files(&self, commit: &str) -> Result<Vec<String>, HubError> {
        let root = self.snapshot(commit);
        let mut names = Vec::new();
        let mut directories = vec![root.clone()];
        while let Some(directory) = directories.pop() {
            let io_error = |cause| HubError::Io { path: directory.clone(), cause };
            for entry in fs::read_dir(&directory).map_err(io_error)? {
                let entry = entry.map_err(io_error)?;
                let path = entry.path();
                if entry.file_type().map_err(io_error)?.is_dir() {
                    directories.push(path);
                } else if let (true, Ok(name)) = (path.is_file(), path.strip_prefix(&root)) {
                    // A link whose blob was removed is no file.
                    names.push(name.to_string_lossy().replace('\\', "/"));
                }
            }
        }
        names.sort();
        Ok(names)
    }

    /// Where the file of this ETag is. The tag is plain.
    pub(crate) fn blob(&self, etag: &str) -> Result<PathBuf, HubError> {
        let directory = self.cache.join(&self.folder).join("blobs");
        create_directory(&directory)?;
        Ok(directory.join(etag))
    }

    /// Waits until nobody else fetches the file of this ETag.
    pub(crate) fn lock(&self, etag: &str) -> Result<Lock, HubError> {
        let directory = self.cache.join(".locks").join(&self.folder);
        create_directory(&directory)?;
        let path = directory.join(format!("{etag}.lock"));
        let locked = File::create(&path).and_then(|file| file.lock().map(|()| file));
        locked.map(Lock).map_err(|cause| HubError::Io { path, cause })
    }

    /// Makes a blob a file of a commit. `name` is an inner path.
    pub(crate) fn link(&self, blob: &Path, commit: &str, name: &str) -> Result<(), HubError> {
        let path = self.snapshot(commit).join(name);
        if let Some(directory) = path.parent() {
            create_directory(directory)?;
        }
        // From the directory of the file: past those within the repository, the commit and `snapshots`.
        let mut target: PathBuf = std::iter::repeat_n("..", name.split('/').count() + 1).collect();
        target.push("blobs");
        target.extend(blob.file_name());
        // What is there already is a link whose blob was removed.
        let removed = match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        removed.and_then(|()| symlink(&target, blob, &path)).map_err(|cause| HubError::Io { path, cause })
    }
}

/// Whether a commit or an ETag is the name of one file, as long as such are.
pub(crate) fn is_plain(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
}

fn create_directory(path: &Path) -> Result<(), HubError> {
    fs::create_dir_all(path).map_err(|cause| HubError::Io { path: path.to_owned(), cause })
}

#[cfg(unix)]
fn symlink(target: &Path, _blob: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

/// Where a user may not make links, the file itself takes the place, as it does with the hub's own libraries.
#[cfg(windows)]
fn symlink(target: &Path, blob: &Path, path: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, path).or_else(|_| fs::rename(blob, path))
}
