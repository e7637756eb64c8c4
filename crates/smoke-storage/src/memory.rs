use std::path::PathBuf;

use smoke_core::Encoding;

use crate::error::SourceError;
use crate::format::FormatError;
use crate::index::{FileInfo, TensorIndex, TensorInfo};
use crate::reader::check_range;
use crate::source::{Extent, WeightSource};

/// Tensors in memory, for tests and for weights that were made and not loaded.
#[derive(Clone, Debug)]
pub struct MemorySource {
    index: TensorIndex,
    bytes: Vec<u8>,
}

impl MemorySource {
    /// Tensors as name, encoding, shape and bytes, one after another in one "file".
    ///
    /// # Errors
    /// [`FormatError`] if a name stands twice, or bytes do not fit encoding and shape.
    pub fn new(tensors: Vec<(String, Encoding, Vec<u64>, Vec<u8>)>) -> Result<Self, FormatError> {
        let mut bytes = Vec::new();
        let mut infos = Vec::new();
        for (name, encoding, shape, content) in tensors {
            let extent = Extent { file: 0, offset: bytes.len() as u64, len: content.len() as u64 };
            infos.push(TensorInfo { name, encoding, shape, extent });
            bytes.extend(content);
        }
        let file = FileInfo { path: PathBuf::from("memory"), len: bytes.len() as u64 };
        Ok(Self { index: TensorIndex::new(vec![file], infos)?, bytes })
    }
}

impl WeightSource for MemorySource {
    fn index(&self) -> &TensorIndex {
        &self.index
    }

    fn read_at(&self, extent: Extent, buf: &mut [u8]) -> Result<(), SourceError> {
        check_range(extent, self.index.files().get(extent.file as usize), buf.len())?;
        buf.copy_from_slice(&self.bytes[extent.offset as usize..extent.end() as usize]);
        Ok(())
    }
}
