use smoke_burn::DeviceError;
use smoke_convert::{ConvertError, ParseDtypeError};
use smoke_core::{ByteSize, ParseByteSizeError};
use smoke_models::ModelError;
use smoke_models::text::{ChatError, SampleError, TokenizerError};
use smoke_prefetch::StreamError;
use smoke_storage::OpenError;

use crate::compressed::ParseCompressionError;

/// Why a model cannot be opened or does not generate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The checkpoint cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The model cannot be built or run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The device cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Weights cannot be loaded, or memory cannot be had.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// Text cannot be turned into tokens or back.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The chat template fails.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// No token can be chosen.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// A dtype cannot be read.
    #[error(transparent)]
    Dtype(#[from] ParseDtypeError),
    /// The weights cannot have the dtypes that were asked for.
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// The memory size cannot be read.
    #[error(transparent)]
    Memory(#[from] ParseByteSizeError),
    /// Weights are to be compressed in a way that there is not.
    #[error(transparent)]
    Compression(#[from] ParseCompressionError),
    /// Weights are to stay on a device that has no memory of its own.
    #[error("weights cannot stay on `cpu`, which has no memory of its own: write `ram`, or choose another device")]
    NoDeviceMemory,
    /// Weights that are to stay in memory find no room there.
    #[error(
        "{wanted} of weights are to stay in memory, and {room} are left for them: allow more memory, or fewer `ram` rules"
    )]
    TooMuchToKeep {
        /// What the rules name.
        wanted: ByteSize,
        /// What keys, values, activations and the units that stream leave.
        room: ByteSize,
    },
    /// No policy of this name.
    #[error("`{name}` is not an eviction policy: choose one of {known}")]
    UnknownPolicy {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// No predictor of experts of this name.
    #[error("`{name}` is not a predictor of experts: choose one of {known}")]
    UnknownPredictor {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The budget cannot hold what one token needs.
    #[error(
        "a budget of {budget} is too small for a context of {context_tokens}: the smallest that works is {minimum_bytes} bytes ({kv_cache} keys and values, {activations} activations, {units} for two units of weights); allow more memory or fewer tokens"
    )]
    BudgetTooSmall {
        /// The budget that was given.
        budget: ByteSize,
        /// The smallest budget that works for this many tokens.
        minimum_bytes: u64,
        /// Tokens of prompt and answer.
        context_tokens: usize,
        /// What their keys and values take.
        kv_cache: ByteSize,
        /// What the activations of one token take.
        activations: ByteSize,
        /// What two units of weights take.
        units: ByteSize,
    },
    /// The model writes no text.
    #[error(
        "`{architecture}` is a {kind}, which writes no text: embed with it, by `smoke embed` or `Runtime::embedder`"
    )]
    NoText {
        /// The architecture's name.
        architecture: &'static str,
        /// What it is.
        kind: &'static str,
    },
    /// The model makes no embeddings.
    #[error("`{architecture}` is a {kind}, which embeds no text: let it write, by `smoke run` or `Runtime::generate`")]
    NoEmbeddings {
        /// The architecture's name.
        architecture: &'static str,
        /// What it is.
        kind: &'static str,
    },
    /// A text has more tokens than the model takes.
    #[error("text {text} has {tokens} tokens and the model takes {limit}: shorten it, or have it cut")]
    TextTooLong {
        /// The text's number, from 1.
        text: usize,
        /// Its tokens, special ones included.
        tokens: usize,
        /// The most that the model takes.
        limit: usize,
    },
    /// There is nothing to begin with.
    #[error("the prompt has no tokens: give some text, or token ids")]
    EmptyPrompt,
    /// The kernels' threads cannot be started.
    #[error("cannot start {threads} threads: {reason}")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// What the thread pool said.
        reason: String,
    },
}
