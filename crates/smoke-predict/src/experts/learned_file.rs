//! What was learnt, as a file: magic, version, shape, coefficients, CRC-32; numbers are little-endian.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::margin::Sigmoid;
use super::{ExpertShape, LearnedExperts, LearnedShape};

const MAGIC: &[u8; 8] = b"SMOKEEXP";
const VERSION: u32 = 1;
/// Magic, version, four lengths and the model.
const HEADER: usize = 8 + 4 + 4 * 4 + 8;
const CHECKSUM: usize = 4;

/// Why what was learnt of a model's experts could not be kept or read. A model runs without it: whoever loads may go on with
/// [`LearnedExperts::new`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LearnedFileError {
    /// The file could not be read.
    #[error("{}: could not be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file could not be written; what was there before is unchanged.
    #[error("{}: could not be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is of another kind.
    #[error("{}: is no file of learned experts; delete it, or name another one", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file is of another version.
    #[error("{}: is of version {found}, and this program reads version {VERSION}; delete it to learn anew", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The file is of another model.
    #[error("{}: was learnt of another model ({found:?}, this one is {expected:?}); delete it to learn anew", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// What the file is for.
        found: LearnedShape,
        /// What was asked for.
        expected: LearnedShape,
    },
    /// The file is cut short, or something was changed in it.
    #[error("{}: is damaged ({what}); delete it to learn anew", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// In which way.
        what: String,
    },
}

impl LearnedExperts {
    /// The file's usual name in a model's directory.
    pub const FILE_NAME: &str = "experts.smoke";

    /// Writes what was learnt to `path`, in place of what was there. The old file stays whole until the new one is.
    ///
    /// # Errors
    /// [`LearnedFileError::Write`].
    pub fn save(&self, path: &Path) -> Result<(), LearnedFileError> {
        let mut partial = path.as_os_str().to_owned();
        // Of its own for each process: two may end at the same moment.
        partial.push(format!(".{}.partial", std::process::id()));
        let partial = PathBuf::from(partial);
        let write = || {
            let mut file = File::create(&partial)?;
            file.write_all(&self.to_bytes())?;
            file.sync_all()?;
            fs::rename(&partial, path)
        };
        write().map_err(|source| {
            // There may be none, and the first error is the one that matters.
            let _ = fs::remove_file(&partial);
            LearnedFileError::Write { path: path.to_owned(), source }
        })
    }

    /// Reads what was learnt of a model of this shape.
    ///
    /// # Errors
    /// [`LearnedFileError`], unless the file is whole, of this version and of this model.
    pub fn load(path: &Path, shape: LearnedShape) -> Result<Self, LearnedFileError> {
        let mut learned = Self::new(shape);
        // A byte more than wanted tells a file that is too long, whatever its length.
        let most = learned.file_len() + 1;
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(most as u64).read_to_end(&mut bytes))
            .map_err(|source| LearnedFileError::Read { path: path.to_owned(), source })?;
        learned.take_bytes(&bytes, path)?;
        Ok(learned)
    }

    fn file_len(&self) -> usize {
        HEADER + 4 * (self.maps.len() + 2 * self.sigmoids.len()) + CHECKSUM
    }

    fn to_bytes(&self) -> Vec<u8> {
        let LearnedShape { experts: ExpertShape { layers, experts, used }, inputs, model } = self.shape();
        let mut bytes = Vec::with_capacity(self.file_len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        for length in [layers, experts, used, inputs] {
            bytes.extend_from_slice(&(length as u32).to_le_bytes());
        }
        bytes.extend_from_slice(&model.to_le_bytes());
        let sigmoids = self.sigmoids.iter().flat_map(|sigmoid| [sigmoid.slope, sigmoid.offset]);
        for number in self.maps.iter().copied().chain(sigmoids) {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    fn take_bytes(&mut self, bytes: &[u8], path: &Path) -> Result<(), LearnedFileError> {
        let path = || path.to_owned();
        if !bytes.starts_with(MAGIC) {
            return Err(LearnedFileError::Foreign { path: path() });
        }
        let damaged = |what: &str| LearnedFileError::Damaged { path: path(), what: what.to_owned() };
        let short = || damaged("it is cut short");
        let word = |at: usize| bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_le_bytes);
        let found = word(8).ok_or_else(short)?;
        if found != VERSION {
            return Err(LearnedFileError::Version { path: path(), found });
        }
        let length = |number: usize| word(12 + 4 * number).map(|length| length as usize).ok_or_else(short);
        let model = [word(28).ok_or_else(short)?, word(32).ok_or_else(short)?];
        let found = LearnedShape {
            experts: ExpertShape { layers: length(0)?, experts: length(1)?, used: length(2)? },
            inputs: length(3)?,
            model: u64::from(model[0]) | u64::from(model[1]) << 32,
        };
        if found != self.shape() {
            return Err(LearnedFileError::Shape { path: path(), found, expected: self.shape() });
        }
        if bytes.len() != self.file_len() {
            let what = if bytes.len() < self.file_len() { "it is cut short" } else { "it is too long" };
            return Err(damaged(what));
        }
        let (body, checksum) = bytes.split_at(bytes.len() - CHECKSUM);
        if crc32fast::hash(body).to_le_bytes() != checksum {
            return Err(damaged("its checksum differs"));
        }
        let mut numbers = body[HEADER..].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        if numbers.clone().any(|number| !number.is_finite()) {
            return Err(damaged("it holds numbers that are not finite"));
        }
        self.maps.iter_mut().zip(&mut numbers).for_each(|(weight, number)| *weight = number);
        let rest: Vec<f32> = numbers.collect();
        self.sigmoids = rest.chunks_exact(2).map(|pair| Sigmoid { slope: pair[0], offset: pair[1] }).collect();
        Ok(())
    }
}
