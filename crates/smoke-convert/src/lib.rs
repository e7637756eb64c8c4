//! Checkpoints in other encodings while they are read, and in other formats on the disk.
//!
//! - [`Converted`] presents a source with other dtypes, chosen by [`DtypeRules`] for all tensors or by name. Nothing is
//!   written: tensors are converted whenever they are read.
//! - [`Conversion`] writes a checkpoint anew: safetensors, in one file or several, or GGUF, from either. Every architecture
//!   can have other dtypes in its own format. Between the formats the LLaMA family is known.
//!
//! Numbers are rounded to the nearest of the new encoding. One that it cannot hold is an error that names the tensor, never
//! an infinity. Quantised tensors become exactly what their encoding says.
//!
//! It is not a quantiser that searches for good scales (see `smoke_quant::encode`), and it changes no model.
//!
//! ```no_run
//! use smoke_convert::{Conversion, ConvertOptions, DtypeRules};
//! use smoke_storage::Checkpoint;
//!
//! let checkpoint = Checkpoint::open("models/llama")?;
//! let dtypes = DtypeRules::from_iter(["lm_head.*=bf16".parse()?, "q8_0".parse()?]);
//! let options = ConvertOptions { dtypes, ..ConvertOptions::default() };
//! let conversion = Conversion::plan(&checkpoint, "llama.gguf".as_ref(), &options)?;
//! println!("this takes {} bytes of disk", conversion.bytes());
//! conversion.write(&mut |done| println!("{done} bytes written"))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod config;
mod conversion;
mod dtype;
mod error;
mod llama;
mod order;
mod recode;
mod side_files;
mod source;
mod target;
mod tokenizer;

pub use conversion::{Conversion, ConvertOptions, Existing};
pub use dtype::{DTYPES, DtypeRule, DtypeRules, ParseDtypeError, matches_pattern};
pub use error::ConvertError;
pub use source::Converted;
