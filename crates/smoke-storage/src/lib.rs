//! Where weights come from: checkpoint formats and readers.
//!
//! A [`WeightSource`] has an index of tensors and reads byte ranges. [`Checkpoint`] is the one for files: safetensors,
//! GGUF and PyTorch's own, in one file or in shards, read past the page cache ([`ReaderKind::Uring`], [`ReaderKind::Direct`]), through it, or
//! mapped; a [`DiskProfile`] says which way is best. A [`UnitMap`]
//! says which ranges are loaded together and where each lies in the buffer that they are read into.
//!
//! Headers are validated before anything of the size that they state is allocated. Nothing is cached here and nothing
//! decoded: see `smoke-cache` and `smoke-quant`.
//!
//! ```
//! use smoke_core::Encoding;
//! use smoke_storage::{MemorySource, UnitMapBuilder, WeightSource};
//!
//! let bias = ("bias".to_owned(), Encoding::F32, vec![2], vec![0, 0, 128, 63, 0, 0, 0, 64]);
//! let source = MemorySource::new(vec![bias])?;
//! let mut map = UnitMapBuilder::new(source.alignment());
//! map.begin_unit();
//! let part = map.push(source.index().get("bias").expect("it was given").extent);
//! let units = map.finish(source.index())?;
//! let buffer = units.load(part.unit, &source, &|| false)?;
//! assert_eq!(&buffer[units.locate(part)], &[0, 0, 128, 63, 0, 0, 0, 64]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | feature | what it adds |
//! |---|---|
//! | `conformance` | rules that every source must keep, and sources that count and fail |

mod buffer;
mod checkpoint;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod fingerprint;
pub mod format;
pub mod header;
mod index;
mod mapping;
mod memory;
mod metadata;
pub mod new_file;
pub mod pack;
mod probe;
mod profile;
mod reader;
mod source;
#[cfg(test)]
mod test_file;
mod unit_map;

pub use buffer::AlignedBuffer;
pub use checkpoint::{Checkpoint, OpenError};
pub use error::{SourceError, SourceErrorKind};
pub use fingerprint::fingerprint;
pub use format::FormatError;
pub use index::{FileInfo, TensorIndex, TensorInfo};
pub use memory::MemorySource;
pub use metadata::{Format, GgufMetadata, GgufValue, Metadata, TextArray};
pub use profile::{DiskProfile, cache_directory};
pub use reader::ReaderKind;
pub use source::{Extent, WeightSource};
pub use unit_map::{PartId, Run, UnitMap, UnitMapBuilder};
