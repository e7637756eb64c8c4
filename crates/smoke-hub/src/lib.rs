//! Fetches models from a Hugging Face hub into the cache that its Python libraries use, too: nothing is downloaded twice,
//! by whomever it was.
//!
//! A fetch takes the weights (safetensors with their index, else GGUF, else a PyTorch pickle; never two of these) and the
//! small files beside them: configuration, tokenizer, chat template. A broken download goes on where it ended. A file
//! takes its place only when its length and, where the hub tells it, its SHA-256 are right, so that what is there is whole.
//!
//! ```no_run
//! use smoke_hub::{Hub, ModelId};
//!
//! let model: ModelId = "HuggingFaceTB/SmolLM2-135M-Instruct".parse()?;
//! let weights = Hub::from_env()?.fetch(&model, &mut |progress| {
//!     println!("{}: {} of {} bytes", progress.file, progress.done_bytes, progress.total_bytes);
//! })?;
//! println!("{}", weights.display()); // for `smoke_storage::Checkpoint::open`
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! It is not for uploading, for data sets, or for formats other than these. Reading checkpoints is `smoke-storage`'s.
#![forbid(unsafe_code)]

mod cache;
mod client;
mod download;
mod error;
mod hub;
mod id;
mod options;
mod selection;

pub use error::HubError;
pub use hub::{Hub, Progress};
pub use id::{ModelId, ModelIdError};
pub use options::{HubOptions, NoHome};
