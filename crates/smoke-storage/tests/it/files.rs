//! Checkpoints written by hand, byte by byte, so that they can be wrong in any way.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use smoke_storage::{ReaderKind, TensorIndex};
use tempfile::TempDir;

/// Every way to read a file.
pub(crate) const READERS: [ReaderKind; 5] =
    [ReaderKind::Auto, ReaderKind::Mmap, ReaderKind::Pread, ReaderKind::Direct, ReaderKind::Uring];

/// A directory on a disk: what lies in memory cannot be read past the page cache everywhere.
pub(crate) fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// The files that other programs made.
pub(crate) fn assets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/assets")
}

pub(crate) fn write(directory: &TempDir, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = directory.path().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

/// Bytes without a period, different for each seed.
pub(crate) fn noise(seed: u32, len: usize) -> Vec<u8> {
    let byte =
        |at: u32| at.wrapping_mul(0x9E37_79B1).wrapping_add(seed.wrapping_mul(0x85EB_CA6B)).rotate_left(11) as u8;
    (0..len as u32).map(byte).collect()
}

/// A tensor as it is written.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<u64>,
    pub(crate) bytes: Vec<u8>,
    /// What the format calls its encoding.
    pub(crate) dtype: &'static str,
    pub(crate) ggml: u32,
}

/// Bytes: `U8` in safetensors, `I8` in GGUF, which knows no other.
pub(crate) fn tensor(name: &str, len: usize) -> Tensor {
    let seed = name.bytes().fold(7, |seed: u32, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    Tensor { name: name.to_owned(), shape: vec![len as u64], bytes: noise(seed, len), dtype: "U8", ggml: 24 }
}

impl Tensor {
    pub(crate) fn typed(self, dtype: &'static str, ggml: u32, shape: &[u64]) -> Self {
        Self { dtype, ggml, shape: shape.to_vec(), ..self }
    }
}

/// A safetensors file with this JSON and these bytes after it.
pub(crate) fn safetensors_of(json: &str, data: &[u8]) -> Vec<u8> {
    [&(json.len() as u64).to_le_bytes(), json.as_bytes(), data].concat()
}

pub(crate) fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let (mut json, mut data) = (String::from(r#"{"__metadata__":{"format":"pt"}"#), Vec::new());
    for Tensor { name, shape, bytes, dtype, .. } in tensors {
        let (start, end) = (data.len(), data.len() + bytes.len());
        write!(json, r#","{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{end}]}}"#).unwrap();
        data.extend(bytes);
    }
    json.push('}');
    safetensors_of(&json, &data)
}

/// A GGUF file in the making.
#[derive(Clone, Debug)]
pub(crate) struct Gguf {
    pub(crate) version: u32,
    pub(crate) alignment: u64,
    keys: Vec<u8>,
    key_count: u64,
    descriptions: Vec<u8>,
    tensor_count: u64,
    data: Vec<u8>,
}

pub(crate) fn gguf_text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

impl Gguf {
    /// No keys but that of the alignment, unless it is the default.
    pub(crate) fn new(version: u32, alignment: u64) -> Self {
        let (keys, descriptions, data) = (Vec::new(), Vec::new(), Vec::new());
        let gguf = Self { version, alignment, keys, key_count: 0, descriptions, tensor_count: 0, data };
        if alignment == 32 { gguf } else { gguf.key("general.alignment", 4, &(alignment as u32).to_le_bytes()) }
    }

    pub(crate) fn key(mut self, name: &str, kind: u32, value: &[u8]) -> Self {
        self.keys.extend(gguf_text(name));
        self.keys.extend(kind.to_le_bytes());
        self.keys.extend(value);
        self.key_count += 1;
        self
    }

    /// Dimensions are written innermost first, as the format wants.
    pub(crate) fn describe(mut self, name: &str, kind: u32, innermost_first: &[u64], offset: u64) -> Self {
        self.descriptions.extend(gguf_text(name));
        self.descriptions.extend((innermost_first.len() as u32).to_le_bytes());
        self.descriptions.extend(innermost_first.iter().flat_map(|n| n.to_le_bytes()));
        self.descriptions.extend(kind.to_le_bytes());
        self.descriptions.extend(offset.to_le_bytes());
        self.tensor_count += 1;
        self
    }

    pub(crate) fn tensor(self, tensor: &Tensor) -> Self {
        let dimensions: Vec<u64> = tensor.shape.iter().rev().copied().collect();
        let offset = self.data.len() as u64;
        let mut gguf = self.describe(&tensor.name, tensor.ggml, &dimensions, offset);
        gguf.data.extend(&tensor.bytes);
        gguf.data.resize(gguf.data.len().next_multiple_of(gguf.alignment as usize), 0);
        gguf
    }

    pub(crate) fn data(mut self, data: &[u8]) -> Self {
        self.data.extend(data);
        self
    }

    /// The bytes before those of the tensors, without padding.
    pub(crate) fn header(&self) -> Vec<u8> {
        let counts = [self.tensor_count.to_le_bytes(), self.key_count.to_le_bytes()].concat();
        [b"GGUF", &self.version.to_le_bytes()[..], &counts, &self.keys, &self.descriptions].concat()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header();
        bytes.resize(bytes.len().next_multiple_of(self.alignment as usize), 0);
        bytes.extend(&self.data);
        bytes
    }
}

pub(crate) fn gguf(tensors: &[Tensor]) -> Vec<u8> {
    tensors.iter().fold(Gguf::new(3, 32), Gguf::tensor).bytes()
}

/// `model.safetensors.index.json`, from pairs of tensor and shard.
pub(crate) fn shard_index(map: &[(&str, &str)]) -> String {
    let entries: Vec<String> = map.iter().map(|(tensor, shard)| format!(r#""{tensor}":"{shard}""#)).collect();
    format!(r#"{{"metadata":{{"total_size":1}},"weight_map":{{{}}}}}"#, entries.join(","))
}

/// What every index promises, computed in another way than the index does.
pub(crate) fn check_places(index: &TensorIndex) {
    for tensor in index {
        let elements: u128 = tensor.shape.iter().map(|&n| u128::from(n)).product();
        let (block_elements, block_bytes) = (tensor.encoding.block_elements(), tensor.encoding.block_bytes());
        assert_eq!(u128::from(tensor.extent.len) * u128::from(block_elements), elements * u128::from(block_bytes));
        assert_eq!(index.get(&tensor.name), Some(tensor), "two tensors of one name");
        let file = &index.files()[tensor.extent.file as usize];
        let end = u128::from(tensor.extent.offset) + u128::from(tensor.extent.len);
        assert!(end <= u128::from(file.len), "{} ends after its file", tensor.name);
    }
}

/// What an index promises whose tensors share nothing: every byte of a small file has one owner.
pub(crate) fn check_invariants(index: &TensorIndex) {
    check_places(index);
    let mut owners: Vec<Vec<bool>> = index.files().iter().map(|file| vec![false; file.len as usize]).collect();
    for tensor in index {
        for at in tensor.extent.offset..tensor.extent.end() {
            let owned = &mut owners[tensor.extent.file as usize][at as usize];
            assert!(!std::mem::replace(owned, true), "byte {at} has two owners, {} is the second", tensor.name);
        }
    }
}
