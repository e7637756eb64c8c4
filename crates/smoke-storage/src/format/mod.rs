//! Parsers of checkpoint headers. They take bytes, not files, believe nothing, and allocate nothing that the input
//! could not fill; [`Checkpoint`](crate::Checkpoint) feeds them, and so do the fuzz targets.

mod gguf;
mod input;
mod pytorch;
mod safetensors;
mod shards;

use smoke_core::Encoding;

pub(crate) use gguf::{ALIGNMENT_KEY, KeyPlaces, ggml_type};
pub use gguf::{GgufHeader, parse_gguf};
pub use pytorch::parse_pytorch;
pub use safetensors::{SafetensorsHeader, parse_safetensors};
pub use shards::{ShardIndex, parse_shard_index};

/// Why a file is not what its name says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The file ends too early.
    #[error(
        "the file is damaged: {what} takes {bytes} bytes, but {left} are left; it was not downloaded whole, fetch it again"
    )]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Bytes that it takes.
        bytes: u64,
        /// Bytes that are left.
        left: u64,
    },
    /// The header breaks a rule of the format.
    #[error("the header is not valid: {reason}; the file is damaged or of another kind: fetch it again")]
    Header {
        /// Which rule, and where.
        reason: String,
    },
    /// A tensor is stored in a way that is not supported.
    #[error("tensor `{name}` is stored as {encoding}, which is not supported: convert it to {supported}")]
    UnsupportedEncoding {
        /// The tensor.
        name: String,
        /// What the file calls it.
        encoding: String,
        /// What could be read.
        supported: &'static str,
    },
    /// A pickle asks for something that no dictionary of tensors needs, and that may be code. Nothing of it was run.
    #[error(
        "the pickle asks for `{name}`, which no dictionary of tensors needs and which may run code; nothing was run: if you \
         trust the file, save the model's state_dict() alone, or convert it to safetensors"
    )]
    UnknownGlobal {
        /// The module and the name in it.
        name: String,
    },
    /// A tensor is a view whose elements do not lie row by row.
    #[error(
        "tensor `{name}` of shape {shape:?} has strides {strides:?}: its elements do not lie row by row; save it after \
         .contiguous(), or convert the file to safetensors"
    )]
    NotContiguous {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<u64>,
        /// The distance of neighbours along each dimension, in elements.
        strides: Vec<i64>,
    },
    /// The file makes use of something that is not supported.
    #[error("{what}: {remedy}")]
    Unsupported {
        /// What it is.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Two tensors, or two keys, have one name.
    #[error("`{name}` stands twice: the file was put together wrongly, fetch or convert it again")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A tensor's size does not follow from its encoding and shape, or its rows are no whole blocks.
    #[error(
        "tensor `{name}`: {encoding} elements of shape {shape:?} cannot take {bytes} bytes: the file is damaged, fetch it again"
    )]
    WrongSize {
        /// The tensor.
        name: String,
        /// Its encoding.
        encoding: Encoding,
        /// Its shape.
        shape: Vec<u64>,
        /// The bytes that the header gives it.
        bytes: u64,
    },
    /// A tensor ends after its file.
    #[error("tensor `{name}` ends after the file of {file_bytes} bytes: it was not downloaded whole, fetch it again")]
    OutOfRange {
        /// The tensor.
        name: String,
        /// The file's length.
        file_bytes: u64,
    },
    /// Two tensors share bytes.
    #[error("tensors `{first}` and `{second}` share bytes: the file is damaged, fetch it again")]
    Overlap {
        /// The tensor that begins first.
        first: String,
        /// The tensor that begins inside it.
        second: String,
    },
    /// The file cannot be read.
    #[error("{reason}")]
    Io {
        /// What the operating system said.
        reason: String,
    },
}

impl FormatError {
    pub(crate) fn unsupported(what: impl Into<String>, remedy: &'static str) -> Self {
        Self::Unsupported { what: what.into(), remedy }
    }

    pub(crate) fn header(reason: impl Into<String>) -> Self {
        Self::Header { reason: reason.into() }
    }
}
