//! Writes a checkpoint anew in the order in which its tensors are used, so that each unit is one read.
//!
//! The result is a checkpoint like any other, in the format of the original: safetensors (one file, whatever the number
//! of shards, and for PyTorch's files, too) or GGUF. In GGUF files every tensor begins on a page. Safetensors allows no gaps; there the first one
//! does, and reads are widened by less than a page at either end.
//!
//! ```no_run
//! use smoke_storage::pack::Pack;
//! use smoke_storage::{Checkpoint, UnitMapBuilder, WeightSource};
//!
//! let checkpoint = Checkpoint::open("model.gguf")?;
//! let units = UnitMapBuilder::new(checkpoint.alignment()); // filled in the order of use
//! let pack = Pack::plan(&checkpoint, &units.finish(checkpoint.index())?, "model.packed.gguf".as_ref())?;
//! println!("this takes {} bytes of disk", pack.bytes());
//! pack.write(&mut |done| println!("{done} bytes written"))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod header;
mod writer;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::checkpoint::Checkpoint;
use crate::error::SourceError;
use crate::index::TensorInfo;
use crate::metadata::Format;
use crate::source::{Extent, WeightSource};
use crate::unit_map::UnitMap;

/// What would be written. Nothing is before [`write`](Self::write).
#[derive(Debug)]
pub struct Pack<'a> {
    checkpoint: &'a Checkpoint,
    target: PathBuf,
    header: Vec<u8>,
    /// The tensors in their new order, and where each begins in the new file.
    tensors: Vec<(&'a TensorInfo, u64)>,
    bytes: u64,
}

/// Why a checkpoint was not packed. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// There is not enough room on the disk.
    #[error(
        "{path}: packing takes {needed_bytes} bytes of disk, but {free_bytes} are free: make room, or pack elsewhere"
    )]
    NoSpace {
        /// The file that was to be written.
        path: PathBuf,
        /// Its length in bytes.
        needed_bytes: u64,
        /// What its file system has to give.
        free_bytes: u64,
    },
    /// There is such a file already.
    #[error("{path}: it is there already: remove it first, or choose another name")]
    Exists {
        /// The file that was to be written.
        path: PathBuf,
    },
    /// A safetensors file belongs beside the configuration and the tokenizer.
    #[error("{path}: the configuration and the tokenizer are in {}: pack into that directory", directory.display())]
    AwayFromConfig {
        /// The file that was to be written.
        path: PathBuf,
        /// Where it belongs.
        directory: PathBuf,
    },
    /// The name does not end as the format's do.
    #[error("{path}: its name must end in .{extension}, for that is what such a checkpoint is packed as")]
    WrongName {
        /// The file that was to be written.
        path: PathBuf,
        /// What it should end in.
        extension: &'static str,
    },
    /// The original cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The new file cannot be written.
    #[error("{path}: {cause}: can you write there?")]
    Io {
        /// The file, or its directory.
        path: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
}

impl<'a> Pack<'a> {
    /// Plans a file at `target` with the tensors in the order in which `units` first name them; those that none names
    /// come last.
    ///
    /// # Errors
    /// [`PackError`] if the target is there, or has the wrong name, or is no place for it.
    pub fn plan(checkpoint: &'a Checkpoint, units: &UnitMap, target: &Path) -> Result<Self, PackError> {
        let target = target.to_owned();
        let format = checkpoint.metadata().format;
        let extension = match format {
            Format::Safetensors | Format::PyTorch => "safetensors",
            Format::Gguf => "gguf",
        };
        if target.extension().is_none_or(|there| there != extension) {
            return Err(PackError::WrongName { path: target, extension });
        }
        if target.symlink_metadata().is_ok() {
            return Err(PackError::Exists { path: target });
        }
        let directory = &checkpoint.metadata().directory;
        if format != Format::Gguf && !is_same(writer::directory_of(&target), directory) {
            return Err(PackError::AwayFromConfig { path: target, directory: directory.clone() });
        }
        let order = in_order_of_use(checkpoint, units);
        let laid_out = match format {
            Format::Safetensors => header::safetensors(order, &checkpoint.metadata().texts),
            // Other programs ask safetensors files for whose layouts they have.
            Format::PyTorch => header::safetensors(order, &BTreeMap::from([("format".to_owned(), "pt".to_owned())])),
            Format::Gguf => header::gguf(order, &checkpoint.index().files()[0].path)
                .map_err(|cause| PackError::Io { path: checkpoint.index().files()[0].path.clone(), cause })?,
        };
        let (header, tensors) = laid_out;
        let end = tensors.iter().map(|(tensor, start)| start + tensor.extent.len).max();
        let bytes = end.unwrap_or(0).max(header.len() as u64);
        Ok(Self { checkpoint, target, header, tensors, bytes })
    }

    /// The length of the new file: what it takes of the disk.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes the file: under another name first, which it gets when all of it is on the disk. `progress` is told the
    /// bytes of tensors written so far, every few MiB.
    ///
    /// # Errors
    /// [`PackError`] if there is not enough room, which is found before anything is written, or the original cannot be
    /// read or the new file not be written. What was written is removed then.
    pub fn write(self, progress: &mut dyn FnMut(u64)) -> Result<Checkpoint, PackError> {
        writer::write(&self, progress)?;
        Checkpoint::open(&self.target)
            .map_err(|error| PackError::Io { path: self.target.clone(), cause: io::Error::other(error) })
    }
}

/// All tensors by their first use. Tensors of odd lengths come last, so that all others begin on a multiple of 8.
fn in_order_of_use<'a>(checkpoint: &'a Checkpoint, units: &UnitMap) -> Vec<&'a TensorInfo> {
    // They lie in the index in the order of their places, so that the tensor of a byte is found by bisection.
    let tensors: Vec<&TensorInfo> = checkpoint.index().iter().filter(|tensor| tensor.extent.len > 0).collect();
    let mut first_use = vec![usize::MAX; tensors.len()];
    for (number, part) in units.units().flat_map(|unit| units.extents(unit)).enumerate() {
        let place = |extent: &Extent| (extent.file, extent.offset);
        let after = tensors.partition_point(|tensor| place(&tensor.extent) < (part.file, part.end()));
        let named = (0..after).rev().take_while(|&at| {
            let Extent { file, .. } = tensors[at].extent;
            file == part.file && tensors[at].extent.end() > part.offset
        });
        for at in named {
            first_use[at] = first_use[at].min(number);
        }
    }
    let mut order: Vec<(usize, &TensorInfo)> = first_use.into_iter().zip(tensors).collect();
    order.extend(checkpoint.index().iter().filter(|tensor| tensor.extent.len == 0).map(|tensor| (usize::MAX, tensor)));
    order.sort_by_key(|(first_use, tensor)| {
        let is_odd = !tensor.extent.len.is_multiple_of(8);
        let element_bytes = if is_odd { tensor.encoding.block_bytes() } else { 0 };
        (is_odd, std::cmp::Reverse(element_bytes), *first_use)
    });
    order.into_iter().map(|(_, tensor)| tensor).collect()
}

fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| fs::canonicalize(if path.as_os_str().is_empty() { Path::new(".") } else { path });
    matches!((real(one), real(other)), (Ok(one), Ok(other)) if one == other)
}
