//! What is remembered of a model from one run to the next.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use smoke_predict::experts::{LearnedExperts, LearnedFileError, LearnedShape};
use smoke_storage::{SourceError, WeightSource, fingerprint};

/// Why something could not be remembered of a model. It runs without it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// What was learnt of the experts could not be kept or read.
    #[error(transparent)]
    Learned(#[from] LearnedFileError),
    /// The directory cannot be made.
    #[error("{}: the directory for what is remembered of models cannot be made", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The parts of the weights by which it is known cannot be read.
    #[error("the model cannot be told from others, so that nothing is remembered of it")]
    Model(#[from] SourceError),
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The directory of one model, below that of all models. It is made when something is kept.
#[derive(Clone, Debug)]
pub(crate) struct State {
    directory: PathBuf,
    /// The model's fingerprint.
    pub(crate) model: u64,
}

impl State {
    /// Of the model in `source`, below `directory`.
    pub(crate) fn of(source: &dyn WeightSource, directory: &Path) -> Result<Self, StateError> {
        let model = fingerprint(source)?;
        Ok(Self { directory: directory.join(format!("{model:016x}")), model })
    }

    fn make_directory(&self) -> Result<(), StateError> {
        fs::create_dir_all(&self.directory)
            .map_err(|source| StateError::Directory { path: self.directory.clone(), source })
    }

    /// What was learnt of the experts in earlier runs; `None` if nothing was.
    pub(crate) fn learned(&self, shape: LearnedShape) -> Result<Option<LearnedExperts>, StateError> {
        match LearnedExperts::load(&self.directory.join(LearnedExperts::FILE_NAME), shape) {
            Ok(learned) => Ok(Some(learned)),
            Err(LearnedFileError::Read { source, .. }) if is_absent(&source) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Keeps what was learnt.
    pub(crate) fn keep_learned(&self, learned: &LearnedExperts) -> Result<(), StateError> {
        self.make_directory()?;
        Ok(learned.save(&self.directory.join(LearnedExperts::FILE_NAME))?)
    }
}
