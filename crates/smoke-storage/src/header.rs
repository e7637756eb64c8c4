//! Writes the headers of checkpoints, and says where the bytes of each tensor go.
//!
//! Of a [`TensorInfo`] only name, encoding, shape and length count here: where its bytes lie in some other file does not
//! matter.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::json;
use smoke_core::Encoding;

use crate::format::{ALIGNMENT_KEY, FormatError, KeyPlaces, ggml_type, parse_gguf};
use crate::index::TensorInfo;

/// Tensors begin on multiples of this where the format allows it.
const PAGE: u64 = 4096;

/// The first bytes of a file, and where its tensors begin.
#[derive(Clone, Debug, Default)]
pub struct Header {
    /// Everything before the first tensor.
    pub bytes: Vec<u8>,
    /// Where each tensor begins in the file, in bytes, in the order in which they were given.
    pub starts: Vec<u64>,
    /// The length of the whole file.
    pub file_bytes: u64,
}

/// A safetensors file with `tensors` one after another. The header is filled up with spaces to whole pages, so that the
/// first tensor begins on one.
///
/// # Errors
/// [`FormatError::UnsupportedEncoding`] if a tensor is quantised: the format has no such type.
pub fn safetensors(tensors: &[&TensorInfo], texts: &BTreeMap<String, String>) -> Result<Header, FormatError> {
    let mut entries = serde_json::Map::new();
    if !texts.is_empty() {
        entries.insert("__metadata__".to_owned(), json!(texts));
    }
    let (mut end, mut starts) = (0, Vec::with_capacity(tensors.len()));
    for tensor in tensors {
        let start = end;
        end += tensor.extent.len;
        starts.push(start);
        let dtype = match tensor.encoding {
            Encoding::Bool => "BOOL".to_owned(),
            plain if plain.block_elements() == 1 => plain.to_string(),
            _ => return Err(unsupported(tensor, "F32, F16 or BF16 to write safetensors")),
        };
        let entry = json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end]});
        entries.insert(tensor.name.clone(), entry);
    }
    let json = serde_json::Value::Object(entries).to_string();
    let data_start = (8 + json.len() as u64).next_multiple_of(PAGE);
    let mut bytes = (data_start - 8).to_le_bytes().to_vec();
    bytes.extend(json.as_bytes());
    bytes.resize(data_start as usize, b' ');
    starts.iter_mut().for_each(|start| *start += data_start);
    Ok(Header { bytes, starts, file_bytes: data_start + end })
}

/// A GGUF file (version 3) with `keys`, and every tensor on a page of its own.
///
/// # Errors
/// [`FormatError::UnsupportedEncoding`] if a tensor is stored in a way that the format does not know.
pub fn gguf(tensors: &[&TensorInfo], keys: &GgufKeys) -> Result<Header, FormatError> {
    let mut keys = keys.clone();
    keys.u32(ALIGNMENT_KEY, PAGE as u32);
    let mut bytes = [b"GGUF", &3_u32.to_le_bytes()[..]].concat();
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend(keys.count.to_le_bytes());
    bytes.extend(keys.bytes);
    let (mut end, mut starts) = (0_u64, Vec::with_capacity(tensors.len()));
    for tensor in tensors {
        let kind =
            ggml_type(tensor.encoding).ok_or_else(|| unsupported(tensor, "one of GGML's types to write GGUF"))?;
        let start = end.next_multiple_of(PAGE);
        end = start + tensor.extent.len;
        starts.push(start);
        push_text(&mut bytes, &tensor.name);
        bytes.extend((tensor.shape.len() as u32).to_le_bytes());
        bytes.extend(tensor.shape.iter().rev().flat_map(|n| n.to_le_bytes()));
        bytes.extend(kind.to_le_bytes());
        bytes.extend(start.to_le_bytes());
    }
    let data_start = (bytes.len() as u64).next_multiple_of(PAGE);
    bytes.resize(data_start as usize, 0);
    starts.iter_mut().for_each(|start| *start += data_start);
    Ok(Header { bytes, starts, file_bytes: data_start + end })
}

fn unsupported(tensor: &TensorInfo, supported: &'static str) -> FormatError {
    FormatError::UnsupportedEncoding { name: tensor.name.clone(), encoding: tensor.encoding.to_string(), supported }
}

/// The keys and values of a GGUF file, as they are written.
///
/// The alignment is none of them: [`gguf`] adds it.
#[derive(Clone, Debug, Default)]
pub struct GgufKeys {
    count: u64,
    bytes: Vec<u8>,
}

impl GgufKeys {
    /// Those of a file, byte by byte.
    ///
    /// # Errors
    /// If the file cannot be read or is not valid.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        let places = parse_gguf(BufReader::new(&file), len).map_err(io::Error::other)?.keys;
        let KeyPlaces { count, all, alignment } = places;
        let mut bytes = vec![0; (all.end - all.start) as usize];
        file.read_exact_at(&mut bytes, all.start)?;
        if let Some(alignment) = &alignment {
            bytes.drain((alignment.start - all.start) as usize..(alignment.end - all.start) as usize);
        }
        Ok(Self { count: count - u64::from(alignment.is_some()), bytes })
    }

    /// Adds a number.
    pub fn u32(&mut self, key: &str, value: u32) {
        self.push(key, 4).extend(value.to_le_bytes());
    }

    /// Adds a float.
    pub fn f32(&mut self, key: &str, value: f32) {
        self.push(key, 6).extend(value.to_le_bytes());
    }

    /// Adds true or false.
    pub fn bool(&mut self, key: &str, value: bool) {
        self.push(key, 7).push(value.into());
    }

    /// Adds a text.
    pub fn text(&mut self, key: &str, value: &str) {
        push_text(self.push(key, 8), value);
    }

    /// Adds an array of texts.
    pub fn texts<T: AsRef<str>>(&mut self, key: &str, values: &[T]) {
        let bytes = self.push_array(key, 8, values.len());
        values.iter().for_each(|value| push_text(bytes, value.as_ref()));
    }

    /// Adds an array of integers.
    pub fn i32s(&mut self, key: &str, values: &[i32]) {
        self.push_array(key, 5, values.len()).extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }

    /// Adds an array of floats.
    pub fn f32s(&mut self, key: &str, values: &[f32]) {
        self.push_array(key, 6, values.len()).extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }

    /// The bytes, to which the value is to be added.
    fn push(&mut self, key: &str, kind: u32) -> &mut Vec<u8> {
        self.count += 1;
        push_text(&mut self.bytes, key);
        self.bytes.extend(kind.to_le_bytes());
        &mut self.bytes
    }

    fn push_array(&mut self, key: &str, kind: u32, len: usize) -> &mut Vec<u8> {
        let bytes = self.push(key, 9);
        bytes.extend(kind.to_le_bytes());
        bytes.extend((len as u64).to_le_bytes());
        bytes
    }
}

fn push_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}
