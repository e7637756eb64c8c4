//! GGUF, versions 2 and 3: keys and values, tensor descriptions, then aligned tensor bytes.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;

use smoke_core::Encoding;

use super::FormatError;
use super::input::Input;
use crate::index::TensorInfo;
use crate::metadata::{GgufMetadata, GgufValue, TextArray};
use crate::source::Extent;

/// The header of a GGUF file.
#[derive(Clone, Debug, Default)]
pub struct GgufHeader {
    /// The tensors; their extents name file 0 and their shapes begin with the outermost dimension.
    pub tensors: Vec<TensorInfo>,
    /// The keys and values.
    pub metadata: GgufMetadata,
    /// Where the keys and values lie in the file, and that of the alignment among them.
    pub(crate) keys: KeyPlaces,
}

/// Byte ranges of a GGUF file, for copying what is not to be changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyPlaces {
    pub(crate) count: u64,
    pub(crate) all: Range<u64>,
    pub(crate) alignment: Option<Range<u64>>,
}

/// The key of the alignment of tensors.
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";

const MAGIC: [u8; 4] = *b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
const LARGEST_ALIGNMENT: u64 = 1 << 20;
const LARGEST_TEXT: u64 = 16 << 20;
const LONGEST_ARRAY: usize = 1 << 24;
const DEEPEST_ARRAY: usize = 4;
const MOST_DIMENSIONS: u32 = 4;

/// Parses the header of a file of `file_len` bytes.
///
/// # Errors
/// [`FormatError`] if the header is not valid or states what the file cannot hold.
pub fn parse_gguf(reader: impl Read, file_len: u64) -> Result<GgufHeader, FormatError> {
    let mut input = Input::new(reader, file_len);
    let magic = input.array::<4>("the magic number")?;
    if magic != MAGIC {
        return Err(FormatError::header(format!("it begins with {magic:02x?}; this is no GGUF file")));
    }
    let version = input.u32("the version")?;
    if !(2..=3).contains(&version) {
        let hint = if (1..=3).contains(&version.swap_bytes()) { ", which is big-endian," } else { "" };
        return Err(FormatError::header(format!("version {version}{hint} is not supported; 2 and 3 are")));
    }
    let tensor_count = input.u64("the number of tensors")?;
    let value_count = input.u64("the number of keys")?;
    // A key takes a length and a type at least; a tensor a length, a rank, a type and an offset.
    let value_count = input.count("the keys", value_count, 8 + 4 + 1)?;
    let mut values = BTreeMap::new();
    let mut keys = KeyPlaces { count: value_count as u64, ..KeyPlaces::default() };
    keys.all.start = input.position();
    for _ in 0..value_count {
        let start = input.position();
        let key = text(&mut input, "a key")?;
        let kind = input.u32("the type of a value")?;
        let value = value(&mut input, kind, 0).map_err(|error| within(&key, error))?;
        if key == ALIGNMENT_KEY {
            keys.alignment = Some(start..input.position());
        }
        if values.insert(key.clone(), value).is_some() {
            return Err(FormatError::DuplicateName { name: key });
        }
    }
    keys.all.end = input.position();
    let metadata = GgufMetadata::new(values);
    let alignment = match metadata.get(ALIGNMENT_KEY) {
        None => DEFAULT_ALIGNMENT,
        Some(value) => value.as_u64().ok_or_else(|| FormatError::header("the alignment is no number of bytes"))?,
    };
    if !alignment.is_power_of_two() || alignment > LARGEST_ALIGNMENT {
        return Err(FormatError::header(format!("an alignment of {alignment} bytes is not possible")));
    }
    let tensor_count = input.count("the tensor descriptions", tensor_count, 8 + 4 + 4 + 8)?;
    let descriptions = (0..tensor_count).map(|_| description(&mut input)).collect::<Result<Vec<_>, _>>()?;
    let data_start = input.position().next_multiple_of(alignment);
    let tensors = descriptions.into_iter().map(|tensor| {
        let Description { name, encoding, shape, offset } = tensor;
        let elements = shape.iter().try_fold(1_u64, |product, &n| product.checked_mul(n));
        let row_fits = shape.last().is_none_or(|columns| columns.is_multiple_of(encoding.block_elements()));
        let len = elements.filter(|_| row_fits).and_then(|elements| encoding.bytes_for(elements));
        let Some(len) = len else {
            return Err(FormatError::WrongSize { name, encoding, shape, bytes: 0 });
        };
        if !offset.is_multiple_of(alignment) {
            return Err(FormatError::header(format!("tensor `{name}` begins at {offset}, off the alignment")));
        }
        let offset = data_start.checked_add(offset);
        let Some(offset) = offset.filter(|offset| offset.checked_add(len).is_some_and(|end| end <= file_len)) else {
            return Err(FormatError::OutOfRange { name, file_bytes: file_len });
        };
        Ok(TensorInfo { name, encoding, shape, extent: Extent { file: 0, offset, len } })
    });
    Ok(GgufHeader { tensors: tensors.collect::<Result<_, _>>()?, metadata, keys })
}

struct Description {
    name: String,
    encoding: Encoding,
    shape: Vec<u64>,
    offset: u64,
}

fn description<R: Read>(input: &mut Input<R>) -> Result<Description, FormatError> {
    let name = text(input, "a tensor's name")?;
    let rank = input.u32("a tensor's rank")?;
    if rank > MOST_DIMENSIONS {
        return Err(FormatError::header(format!("tensor `{name}` has {rank} dimensions")));
    }
    let mut shape = (0..rank).map(|_| input.u64("a tensor's shape")).collect::<Result<Vec<_>, _>>()?;
    shape.reverse();
    let encoding = encoding(&name, input.u32("a tensor's type")?)?;
    Ok(Description { name, encoding, shape, offset: input.u64("a tensor's offset")? })
}

fn text<R: Read>(input: &mut Input<R>, what: &'static str) -> Result<String, FormatError> {
    let len = input.u64(what)?;
    if len > LARGEST_TEXT {
        return Err(FormatError::header(format!("{what} claims {len} bytes")));
    }
    let bytes = input.bytes(what, len)?;
    // Vocabularies may hold pieces that are no text by themselves.
    Ok(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

fn value<R: Read>(input: &mut Input<R>, kind: u32, depth: usize) -> Result<GgufValue, FormatError> {
    const WHAT: &str = "a value";
    Ok(match kind {
        0 => GgufValue::Unsigned(u8::from_le_bytes(input.array(WHAT)?).into()),
        1 => GgufValue::Signed(i8::from_le_bytes(input.array(WHAT)?).into()),
        2 => GgufValue::Unsigned(u16::from_le_bytes(input.array(WHAT)?).into()),
        3 => GgufValue::Signed(i16::from_le_bytes(input.array(WHAT)?).into()),
        4 => GgufValue::Unsigned(input.u32(WHAT)?.into()),
        5 => GgufValue::Signed(i32::from_le_bytes(input.array(WHAT)?).into()),
        6 => GgufValue::Float(f32::from_le_bytes(input.array(WHAT)?).into()),
        7 => match input.array::<1>(WHAT)? {
            [0] => GgufValue::Bool(false),
            [1] => GgufValue::Bool(true),
            [other] => return Err(FormatError::header(format!("{other} is neither true nor false"))),
        },
        8 => GgufValue::Text(text(input, WHAT)?),
        9 => array(input, depth + 1)?,
        10 => GgufValue::Unsigned(input.u64(WHAT)?),
        11 => GgufValue::Signed(i64::from_le_bytes(input.array(WHAT)?)),
        12 => GgufValue::Float(f64::from_le_bytes(input.array(WHAT)?)),
        _ => return Err(FormatError::header(format!("there is no type of value {kind}"))),
    })
}

fn array<R: Read>(input: &mut Input<R>, depth: usize) -> Result<GgufValue, FormatError> {
    if depth > DEEPEST_ARRAY {
        return Err(FormatError::header(format!("arrays are nested more than {DEEPEST_ARRAY} deep")));
    }
    let kind = input.u32("the type of an array")?;
    let count = input.u64("the length of an array")?;
    let each = match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        8 | 10..=12 => 8,
        9 => 12,
        _ => return Err(FormatError::header(format!("there is no type of value {kind}"))),
    };
    let count = input.count("an array", count, each)?;
    if count > LONGEST_ARRAY {
        return Err(FormatError::header(format!("an array claims {count} elements")));
    }
    if kind == 8 {
        let mut texts = TextArray::default();
        for _ in 0..count {
            texts.push(&text(input, "a text in an array")?);
        }
        return Ok(GgufValue::Texts(texts));
    }
    let mut numbers = Vec::new();
    let mut floats = Vec::new();
    let mut others = Vec::new();
    for _ in 0..count {
        match value(input, kind, depth)? {
            GgufValue::Signed(number) => numbers.push(number),
            GgufValue::Unsigned(number) => match i64::try_from(number) {
                Ok(number) => numbers.push(number),
                Err(_) => return Err(FormatError::header(format!("{number} in an array is too large"))),
            },
            GgufValue::Float(number) => floats.push(number as f32),
            other => others.push(other),
        }
    }
    Ok(match kind {
        0..=5 | 10 | 11 => GgufValue::Integers(numbers),
        6 | 12 => GgufValue::Floats(floats),
        _ => GgufValue::Array(others),
    })
}

fn within(key: &str, error: FormatError) -> FormatError {
    match error {
        FormatError::Header { reason } => FormatError::Header { reason: format!("key `{key}`: {reason}") },
        other => other,
    }
}

/// GGML's number of an encoding; `None` for those that GGUF files do not have.
pub(crate) fn ggml_type(encoding: Encoding) -> Option<u32> {
    (0..=30).find(|&kind| self::encoding("", kind).is_ok_and(|known| known == encoding))
}

fn encoding(name: &str, kind: u32) -> Result<Encoding, FormatError> {
    Ok(match kind {
        0 => Encoding::F32,
        1 => Encoding::F16,
        2 => Encoding::Q4_0,
        3 => Encoding::Q4_1,
        6 => Encoding::Q5_0,
        7 => Encoding::Q5_1,
        8 => Encoding::Q8_0,
        10 => Encoding::Q2_K,
        11 => Encoding::Q3_K,
        12 => Encoding::Q4_K,
        13 => Encoding::Q5_K,
        14 => Encoding::Q6_K,
        20 => Encoding::IQ4_NL,
        23 => Encoding::IQ4_XS,
        24 => Encoding::I8,
        25 => Encoding::I16,
        26 => Encoding::I32,
        27 => Encoding::I64,
        28 => Encoding::F64,
        30 => Encoding::BF16,
        _ => {
            return Err(FormatError::UnsupportedEncoding {
                name: name.to_owned(),
                encoding: format!("GGML type {kind}"),
                supported: "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL or IQ4_XS",
            });
        }
    })
}
