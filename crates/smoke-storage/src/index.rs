use std::collections::HashMap;
use std::path::PathBuf;

use smoke_core::Encoding;

use crate::format::FormatError;
use crate::source::Extent;

/// A file of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Where it lies.
    pub path: PathBuf,
    /// Its length in bytes when it was opened.
    pub len: u64,
}

/// One tensor of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// How its elements are written.
    pub encoding: Encoding,
    /// Its dimensions, the outermost first; elements are in row-major order, as in PyTorch.
    pub shape: Vec<u64>,
    /// Where its bytes lie.
    pub extent: Extent,
}

impl TensorInfo {
    /// The number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// What a source holds. Every tensor in it is inside its file, has as many bytes as its shape says, and shares none of
/// them unless the format is one in which tensors may.
#[derive(Clone, Debug, Default)]
pub struct TensorIndex {
    files: Vec<FileInfo>,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
}

impl TensorIndex {
    /// Validates `tensors` of `files`.
    ///
    /// # Errors
    /// [`FormatError`] if a name stands twice, a size does not follow from encoding and shape, or bytes are outside
    /// their file or belong to two tensors.
    pub fn new(files: Vec<FileInfo>, tensors: Vec<TensorInfo>) -> Result<Self, FormatError> {
        let index = Self::with_shared(files, tensors)?;
        let mut nonempty = index.tensors.iter().filter(|tensor| tensor.extent.len > 0).peekable();
        while let (Some(first), Some(second)) = (nonempty.next(), nonempty.peek()) {
            if first.extent.file == second.extent.file && first.extent.end() > second.extent.offset {
                return Err(FormatError::Overlap { first: first.name.clone(), second: second.name.clone() });
            }
        }
        Ok(index)
    }

    /// Validates `tensors` of `files` that may share bytes, as PyTorch's do: tied weights, and parts of a whole.
    ///
    /// # Errors
    /// As [`new`](Self::new), but for bytes that belong to two tensors.
    pub fn with_shared(files: Vec<FileInfo>, mut tensors: Vec<TensorInfo>) -> Result<Self, FormatError> {
        tensors.sort_by_key(|tensor| (tensor.extent.file, tensor.extent.offset, tensor.extent.len));
        let mut by_name = HashMap::with_capacity(tensors.len());
        for (at, tensor) in tensors.iter().enumerate() {
            let TensorInfo { name, encoding, shape, extent } = tensor;
            let elements = shape.iter().try_fold(1_u64, |product, &n| product.checked_mul(n));
            let expected = elements.and_then(|elements| encoding.bytes_for(elements));
            if expected != Some(extent.len) {
                let (name, shape) = (name.clone(), shape.clone());
                return Err(FormatError::WrongSize { name, encoding: *encoding, shape, bytes: extent.len });
            }
            let file_bytes = files.get(extent.file as usize).map_or(0, |file| file.len);
            if extent.offset.checked_add(extent.len).is_none_or(|end| end > file_bytes) {
                return Err(FormatError::OutOfRange { name: name.clone(), file_bytes });
            }
            if by_name.insert(name.clone(), at).is_some() {
                return Err(FormatError::DuplicateName { name: name.clone() });
            }
        }
        Ok(Self { files, tensors, by_name })
    }

    /// The source's files; extents name them by their place here.
    pub fn files(&self) -> &[FileInfo] {
        &self.files
    }

    /// The tensor of this name.
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&at| &self.tensors[at])
    }

    /// All tensors, in the order in which they lie in the files.
    pub fn iter(&self) -> std::slice::Iter<'_, TensorInfo> {
        self.tensors.iter()
    }

    /// The number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// The bytes of all tensors; those that several share count once.
    pub fn total_bytes(&self) -> u64 {
        // In the order of their places, what lies before `end` is counted.
        let (mut total, mut file, mut end) = (0, 0, 0);
        for Extent { file: of, offset, len } in self.tensors.iter().map(|tensor| tensor.extent) {
            if of != file {
                (file, end) = (of, 0);
            }
            total += (offset + len).saturating_sub(offset.max(end));
            end = end.max(offset + len);
        }
        total
    }
}

impl<'a> IntoIterator for &'a TensorIndex {
    type Item = &'a TensorInfo;
    type IntoIter = std::slice::Iter<'a, TensorInfo>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
