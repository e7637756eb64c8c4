use std::io;
use std::path::PathBuf;

use smoke_core::Encoding;
use smoke_storage::{FormatError, SourceError};

/// Why a checkpoint was not converted. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// A rule's pattern matches nothing.
    #[error("the pattern `{pattern}` matches no tensor: `smoke inspect` lists their names")]
    NoSuchTensor {
        /// The pattern.
        pattern: String,
    },
    /// Safetensors files hold plain elements only.
    #[error("tensor `{name}`: safetensors cannot hold {encoding}: choose f32, f16 or bf16, or write a .gguf file")]
    NotPlain {
        /// The tensor.
        name: String,
        /// What it would have to be.
        encoding: Encoding,
    },
    /// There is something of that name.
    #[error("{path}: it is there already: choose another name, or say that it is to be replaced (--force)")]
    Exists {
        /// What was to be written.
        path: PathBuf,
    },
    /// What would be replaced is no model's directory.
    #[error("{path}: not replaced, because {reason}: remove it yourself, or choose another name")]
    NotReplaceable {
        /// What was to be written.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// There is not enough room on the disk.
    #[error(
        "{path}: it takes {needed_bytes} bytes of disk, but {free_bytes} are free: make room, or convert elsewhere"
    )]
    NoSpace {
        /// What was to be written.
        path: PathBuf,
        /// What it takes, in bytes.
        needed_bytes: u64,
        /// What the file system has to give, in bytes.
        free_bytes: u64,
    },
    /// One file cannot be several.
    #[error("{path}: shards are written to a directory: give a name without .{extension}")]
    Shards {
        /// What was to be written.
        path: PathBuf,
        /// How its name ends.
        extension: &'static str,
    },
    /// The other format is not known for this architecture.
    #[error(
        "the architecture `{found}` cannot be converted between safetensors and GGUF: only {known} can; other dtypes in the same format can be had for every architecture"
    )]
    UnknownArchitecture {
        /// What the model says it is.
        found: String,
        /// Which ones are known.
        known: &'static str,
    },
    /// The model wants what the other format cannot say.
    #[error("{path}: `{key}` is {value}, which {format} cannot say for this architecture")]
    Inexpressible {
        /// The configuration.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// The format that is written.
        format: &'static str,
    },
    /// The configuration is not valid.
    #[error("{path}: {reason}")]
    Config {
        /// `config.json`, or the GGUF file.
        path: PathBuf,
        /// What is wrong with which key.
        reason: String,
    },
    /// A tensor that the architecture does not have.
    #[error(
        "tensor `{name}` belongs to no layer of the architecture `{architecture}`: it has no name in the other format"
    )]
    UnknownTensor {
        /// The tensor.
        name: String,
        /// The architecture.
        architecture: &'static str,
    },
    /// A tensor whose rows cannot be put into the order of the other format.
    #[error("tensor `{name}` of shape {shape:?} is no {heads} heads of pairs: checkpoint and configuration disagree")]
    Heads {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<u64>,
        /// The heads that the configuration says.
        heads: u64,
    },
    /// The new file cannot be laid out.
    #[error("{path}: {cause}")]
    Format {
        /// The new file.
        path: PathBuf,
        /// What is wrong.
        cause: FormatError,
    },
    /// The original cannot be read, or holds numbers that the new encoding has not.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A file cannot be read or written.
    #[error("{path}: {cause}")]
    Io {
        /// The file, or its directory.
        path: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
}
