use std::path::PathBuf;

use smoke_burn::{LayoutError, WeightError};
use smoke_prefetch::StreamError;

/// Why a model cannot be built or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file of the model directory cannot be read.
    #[error("{path}: {cause}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        cause: std::io::Error,
    },
    /// The configuration is not valid.
    #[error("{path}: {reason}")]
    Config {
        /// `config.json`, or the GGUF file.
        path: PathBuf,
        /// What is wrong with which key.
        reason: String,
    },
    /// The model wants something that is not implemented.
    #[error("{what} `{value}` is not supported; supported: {supported}")]
    Unsupported {
        /// What it is: an architecture, an activation.
        what: &'static str,
        /// What the model wants.
        value: String,
        /// What there is.
        supported: String,
    },
    /// The model cannot do what it is asked for.
    #[error("`{architecture}` is a {kind}, and a {wanted} is needed")]
    Kind {
        /// The architecture's name.
        architecture: &'static str,
        /// What it is.
        kind: &'static str,
        /// What it would have to be.
        wanted: &'static str,
    },
    /// The checkpoint does not fit the configuration.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A weight cannot be used.
    #[error(transparent)]
    Weight(#[from] WeightError),
    /// Memory or the disk failed.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A token that the vocabulary lacks.
    #[error("token {token} is outside the vocabulary of {vocabulary}")]
    Token {
        /// The token's id.
        token: u32,
        /// The size of the vocabulary.
        vocabulary: usize,
    },
    /// Tokens that do not fill the rows of the batch.
    #[error("{tokens} tokens are no whole rows of a batch of {batch}")]
    Rows {
        /// Tokens in all.
        tokens: usize,
        /// Rows of the batch.
        batch: usize,
    },
    /// More tokens than the key-value cache or the model's positions hold.
    #[error("{tokens} tokens exceed the {limit} that {what} holds: shorten the prompt, or ask for fewer tokens")]
    TooLong {
        /// Tokens in all.
        tokens: usize,
        /// The most that fit.
        limit: usize,
        /// What they do not fit in.
        what: &'static str,
    },
}

impl ModelError {
    pub(crate) fn unsupported(what: &'static str, value: &str, supported: impl Into<String>) -> Self {
        Self::Unsupported { what, value: value.to_owned(), supported: supported.into() }
    }
}
