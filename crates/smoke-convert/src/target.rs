//! Where a converted checkpoint goes.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use smoke_storage::new_file::{directory_of, unfinished};
use smoke_storage::{Checkpoint, WeightSource};

use crate::conversion::Existing;
use crate::error::ConvertError;

/// What a checkpoint becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TargetKind {
    Gguf,
    /// One file of weights alone.
    Safetensors,
    /// A Hugging Face directory.
    Directory,
}

#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) path: PathBuf,
    pub(crate) kind: TargetKind,
    pub(crate) existing: Existing,
}

impl Target {
    /// Looks whether something may be written there.
    pub(crate) fn plan(path: &Path, existing: Existing, checkpoint: &Checkpoint) -> Result<Self, ConvertError> {
        let path: PathBuf = path.components().collect();
        let kind = match path.extension().and_then(|extension| extension.to_str()) {
            Some("gguf") => TargetKind::Gguf,
            Some("safetensors") => TargetKind::Safetensors,
            _ => TargetKind::Directory,
        };
        let target = Self { path, kind, existing };
        let Ok(there) = target.path.symlink_metadata() else { return Ok(target) };
        if existing == Existing::Keep {
            return Err(ConvertError::Exists { path: target.path });
        }
        let refuse = |reason| Err(ConvertError::NotReplaceable { path: target.path.clone(), reason });
        let real = fs::canonicalize(&target.path).unwrap_or_default();
        let is_source = |file: &Path| fs::canonicalize(file).is_ok_and(|file| file.starts_with(&real));
        if checkpoint.index().files().iter().any(|file| is_source(&file.path)) {
            return refuse("it is what is converted");
        }
        match (kind, there.is_dir()) {
            (TargetKind::Directory, true) if !is_model_directory(&target.path) => {
                refuse("it has other things in it than a model's files")
            }
            (TargetKind::Directory, false) => refuse("it is no directory"),
            (TargetKind::Gguf | TargetKind::Safetensors, true) => refuse("it is a directory"),
            _ => Ok(target),
        }
    }

    /// The most bytes of a file.
    pub(crate) fn shard_bytes(&self, asked: Option<u64>) -> Result<u64, ConvertError> {
        let extension = match self.kind {
            TargetKind::Directory => return Ok(asked.unwrap_or(u64::MAX)),
            TargetKind::Gguf => "gguf",
            TargetKind::Safetensors => "safetensors",
        };
        match asked {
            None => Ok(u64::MAX),
            Some(_) => Err(ConvertError::Shards { path: self.path.clone(), extension }),
        }
    }

    pub(crate) fn io(&self, cause: io::Error) -> ConvertError {
        match cause.kind() {
            io::ErrorKind::AlreadyExists => ConvertError::Exists { path: self.path.clone() },
            _ => ConvertError::Io { path: self.path.clone(), cause },
        }
    }
}

/// Whether a directory is empty, or has a configuration and no directory below it: what is removed when it is replaced.
fn is_model_directory(path: &Path) -> bool {
    let Ok(entries) = fs::read_dir(path) else { return false };
    let Ok(entries) = entries.collect::<io::Result<Vec<_>>>() else { return false };
    let has = |name: &str| entries.iter().any(|entry| entry.file_name() == name);
    // A module's directory, as sentence-transformers numbers them.
    let is_module = |entry: &fs::DirEntry| {
        has("modules.json") && entry.file_name().to_string_lossy().starts_with(|first: char| first.is_ascii_digit())
    };
    let belongs = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| !kind.is_dir()) || is_module(entry);
    entries.is_empty() || has("config.json") && entries.iter().all(belongs)
}

/// A directory that is being written, under a name that nobody looks for. It gets its own name when all of it is on the
/// disk, and is removed if it is dropped before that.
#[derive(Debug)]
pub(crate) struct NewDirectory {
    path: PathBuf,
}

impl NewDirectory {
    pub(crate) fn create(target: &Path) -> io::Result<Self> {
        let path = unfinished(target);
        fs::create_dir(&path)?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name, in the place of one that may be replaced.
    pub(crate) fn finish(self, target: &Target) -> Result<(), ConvertError> {
        let io = |cause| target.io(cause);
        File::open(&self.path).and_then(|directory| directory.sync_all()).map_err(io)?;
        let mut replaced = None;
        if target.path.symlink_metadata().is_ok() {
            if target.existing == Existing::Keep {
                return Err(ConvertError::Exists { path: target.path.clone() });
            }
            // Aside first: a directory with files in it cannot be renamed over.
            let aside = self.path.with_extension("replaced");
            fs::rename(&target.path, &aside).map_err(io)?;
            replaced = Some(aside);
        }
        if let Err(cause) = fs::rename(&self.path, &target.path) {
            if let Some(aside) = replaced {
                let _ = fs::rename(aside, &target.path);
            }
            return Err(io(cause));
        }
        if let Some(aside) = replaced {
            fs::remove_dir_all(aside).map_err(io)?;
        }
        File::open(directory_of(&target.path)).and_then(|parent| parent.sync_all()).map_err(io)
    }
}

impl Drop for NewDirectory {
    fn drop(&mut self) {
        // After it got its name there is nothing of this one.
        let _ = fs::remove_dir_all(&self.path);
    }
}
