//! What is remembered of a model from one run to the next.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use smoke_predict::experts::{LearnedExperts, LearnedFileError, LearnedShape};
use smoke_storage::new_file::NewFile;
use smoke_storage::{SourceError, UnitMap, WeightSource, fingerprint};

use crate::held::Held;

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
    /// The list of what memory held is of no use; it is written anew by the next [`save_state`](crate::Runtime::save_state).
    #[error("{}: nothing is read in advance by it, since {what}", path.display())]
    Held {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The list of what memory held cannot be written; what was there before is unchanged.
    #[error("{}: could not be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The parts of the weights by which it is known cannot be read.
    #[error("the model cannot be told from others, so that nothing is remembered of it")]
    Model(#[from] SourceError),
}

/// What is remembered, if it can be read; what is wrong with it goes to `ignored`.
pub(crate) fn or_ignored<T>(read: Result<Option<T>, StateError>, ignored: &mut Vec<StateError>) -> Option<T> {
    read.unwrap_or_else(|error| {
        ignored.push(error);
        None
    })
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The file with the list of what memory held.
const HELD: &str = "memory.json";
/// A longer one was not written by us: so long would be a list of a million units.
const LONGEST_HELD: u64 = 32 << 20;

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

    /// What memory held at the end of an earlier run; `None` if nothing is known of it.
    pub(crate) fn held(&self, units: &UnitMap) -> Result<Option<Held>, StateError> {
        let path = self.directory.join(HELD);
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(LONGEST_HELD).read_to_end(&mut bytes));
        match read {
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(StateError::Held { path, what: format!("it cannot be read: {error}") }),
            Ok(_) => {}
        }
        let held = Held::from_bytes(&bytes, self.model, units.fingerprint(), units.len());
        held.map(Some).map_err(|what| StateError::Held { path, what })
    }

    /// Keeps the list of what memory holds.
    pub(crate) fn keep_held(&self, held: &Held) -> Result<(), StateError> {
        self.make_directory()?;
        let (path, bytes) = (self.directory.join(HELD), held.to_bytes());
        let written = NewFile::create(&path, bytes.len() as u64).and_then(|file| {
            file.write_at(&bytes, 0)?;
            file.replace()
        });
        written.map_err(|source| StateError::Write { path, source })
    }
}
