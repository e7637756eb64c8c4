//! Safetensors: eight bytes of header length, a JSON header, then the bytes of all tensors without gaps.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io::Read;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use smoke_core::Encoding;

use super::FormatError;
use super::input::Input;
use crate::index::TensorInfo;
use crate::source::Extent;

/// The header of a safetensors file.
#[derive(Clone, Debug, Default)]
pub struct SafetensorsHeader {
    /// The tensors; their extents name file 0.
    pub tensors: Vec<TensorInfo>,
    /// The free texts of the key `__metadata__`.
    pub metadata: BTreeMap<String, String>,
}

/// The limit that the format's own library sets.
const LARGEST_HEADER: u64 = 100_000_000;

/// Parses the header of a file of `file_len` bytes.
///
/// # Errors
/// [`FormatError`] if the header is not valid, a tensor's size does not follow from its encoding and shape, or the
/// tensors do not fill the rest of the file without gaps.
pub fn parse_safetensors(reader: impl Read, file_len: u64) -> Result<SafetensorsHeader, FormatError> {
    let mut input = Input::new(reader, file_len);
    let header_len = input.u64("the length of the header")?;
    if header_len > LARGEST_HEADER {
        return Err(FormatError::header(format!("it claims {header_len} bytes; this is no safetensors file")));
    }
    let header = input.bytes("the header", header_len)?;
    let data_start = input.position();
    let invalid = |error: &dyn fmt::Display| FormatError::header(error.to_string());
    let header = std::str::from_utf8(&header).map_err(|error| invalid(&error))?;
    let Entries(entries) = serde_json::from_str(header).map_err(|error| invalid(&error))?;

    let mut header = SafetensorsHeader::default();
    let mut names = HashSet::new();
    if let Some((name, _)) = entries.iter().find(|(name, _)| !names.insert(name)) {
        return Err(FormatError::DuplicateName { name: name.clone() });
    }
    for (name, entry) in entries {
        let entry = match entry {
            Entry::Metadata(metadata) => {
                header.metadata = metadata.unwrap_or_default();
                continue;
            }
            Entry::Tensor(entry) => entry,
        };
        let encoding = encoding(&name, &entry.dtype)?;
        let [start, end] = entry.data_offsets;
        let len = end.checked_sub(start);
        let offset = data_start.checked_add(start);
        let (Some(len), Some(offset)) = (len, offset) else {
            return Err(FormatError::header(format!("tensor `{name}` lies from {start} to {end}")));
        };
        let elements = entry.shape.iter().try_fold(1_u64, |product, &n| product.checked_mul(n));
        if elements.and_then(|elements| encoding.bytes_for(elements)) != Some(len) {
            return Err(FormatError::WrongSize { name, encoding, shape: entry.shape, bytes: len });
        }
        let extent = Extent { file: 0, offset, len };
        header.tensors.push(TensorInfo { name, encoding, shape: entry.shape, extent });
    }
    check_without_gaps(&mut header.tensors, data_start, file_len)?;
    Ok(header)
}

fn check_without_gaps(tensors: &mut [TensorInfo], data_start: u64, file_len: u64) -> Result<(), FormatError> {
    tensors.sort_by_key(|tensor| (tensor.extent.offset, tensor.extent.len));
    let mut end = data_start;
    for tensor in tensors {
        let Extent { offset, len, .. } = tensor.extent;
        let name = || tensor.name.clone();
        if offset != end {
            return Err(FormatError::header(format!("tensor `{}` begins at {offset}, not at {end}", name())));
        }
        end = offset.checked_add(len).ok_or_else(|| FormatError::OutOfRange { name: name(), file_bytes: file_len })?;
        if end > file_len {
            return Err(FormatError::OutOfRange { name: name(), file_bytes: file_len });
        }
    }
    if end != file_len {
        let extra = file_len - end;
        return Err(FormatError::header(format!("{extra} bytes after the last tensor belong to none")));
    }
    Ok(())
}

fn encoding(name: &str, dtype: &str) -> Result<Encoding, FormatError> {
    Ok(match dtype {
        "F64" => Encoding::F64,
        "F32" => Encoding::F32,
        "F16" => Encoding::F16,
        "BF16" => Encoding::BF16,
        "I64" => Encoding::I64,
        "I32" => Encoding::I32,
        "I16" => Encoding::I16,
        "I8" => Encoding::I8,
        "U8" => Encoding::U8,
        "BOOL" => Encoding::Bool,
        _ => {
            return Err(FormatError::UnsupportedEncoding {
                name: name.to_owned(),
                encoding: dtype.to_owned(),
                supported: "F32, F16 or BF16",
            });
        }
    })
}

/// The JSON object in its own order, with names that stand twice, which JSON maps would hide.
struct Entries(Vec<(String, Entry)>);

enum Entry {
    Metadata(Option<BTreeMap<String, String>>),
    Tensor(TensorEntry),
}

#[derive(Deserialize)]
struct TensorEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    let within = |error: A::Error| A::Error::custom(format!("`{name}`: {error}"));
                    let entry = match name.as_str() {
                        "__metadata__" => Entry::Metadata(map.next_value().map_err(within)?),
                        _ => Entry::Tensor(map.next_value().map_err(within)?),
                    };
                    entries.push((name, entry));
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}
