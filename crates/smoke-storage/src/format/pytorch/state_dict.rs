use smoke_core::Encoding;

use super::SAVE_AGAIN;
use super::globals;
use super::objects::{MOST_DIMENSIONS, Objects, Tensor, Value};
use super::tape;
use crate::format::FormatError;
use crate::index::TensorInfo;
use crate::source::Extent;

/// A tensor whose storage is not found yet.
#[derive(Debug)]
pub(super) struct View {
    pub(super) name: String,
    encoding: Encoding,
    shape: Vec<u64>,
    /// The key of its storage.
    pub(super) key: Vec<u8>,
    /// What its storage must take, in bytes.
    pub(super) storage_bytes: u64,
    /// Where it begins in its storage, in bytes.
    start: u64,
    /// Its length in bytes.
    len: u64,
}

/// The tensors of the dictionary that a pickle made; `bytes` is what was read.
///
/// # Errors
/// [`FormatError`] if there is no dictionary of tensors, or several, or a tensor is not a part of its storage, row by row.
pub(super) fn views(root: Value, objects: &Objects, bytes: &[u8]) -> Result<Vec<View>, FormatError> {
    let mut views = Vec::new();
    for &(key, value) in dict_of_tensors(root, objects, bytes)? {
        let Some(tensor) = objects.tensor(value) else { continue };
        let Value::Text(name) = key else {
            return Err(FormatError::unsupported("it has a tensor without a name", SAVE_AGAIN));
        };
        let name = text(tape::of(bytes, name))?;
        views.push(View::new(name, tensor, objects, bytes)?);
    }
    Ok(views)
}

/// The outer dictionary if it has tensors, else the only one within it that has.
fn dict_of_tensors<'a>(root: Value, objects: &'a Objects, bytes: &[u8]) -> Result<&'a [(Value, Value)], FormatError> {
    let Some(outer) = objects.dict(root) else {
        return Err(FormatError::unsupported("it does not hold a dictionary", SAVE_AGAIN));
    };
    let has_tensors = |entries: &[(Value, Value)]| entries.iter().any(|&(_, value)| objects.tensor(value).is_some());
    if has_tensors(outer) {
        return Ok(outer);
    }
    let inner = outer.iter().filter_map(|&(key, value)| Some((key, objects.dict(value)?)));
    let mut inner = inner.filter(|(_, entries)| has_tensors(entries));
    let name = |key| match key {
        Value::Text(name) => String::from_utf8_lossy(tape::of(bytes, name)).escape_debug().to_string(),
        _ => "a number".to_owned(),
    };
    match (inner.next(), inner.next()) {
        (Some((_, entries)), None) => Ok(entries),
        (Some((first, _)), Some((second, _))) => Err(FormatError::unsupported(
            format!("it holds several dictionaries of tensors, `{}` and `{}` among them", name(first), name(second)),
            "save the one that is wanted by itself",
        )),
        (None, _) => Err(FormatError::unsupported("it holds no tensors", SAVE_AGAIN)),
    }
}

impl View {
    fn new(name: String, tensor: Tensor, objects: &Objects, bytes: &[u8]) -> Result<Self, FormatError> {
        let Tensor { storage, first, shape, strides } = tensor;
        let kind = tape::of(bytes, storage.kind);
        let Some(encoding) = globals::encoding(kind) else {
            let encoding = String::from_utf8_lossy(kind).into_owned();
            return Err(FormatError::UnsupportedEncoding { name, encoding, supported: "F32, F16 or BF16" });
        };
        let (Some(shape), Some(strides)) = (objects.integers(shape), objects.integers(strides)) else {
            return Err(FormatError::header(format!(
                "tensor `{name}` has no shape and strides of at most {MOST_DIMENSIONS} dimensions"
            )));
        };
        let dimensions: Option<Vec<u64>> = shape.iter().map(|&n| n.try_into().ok()).collect();
        let Some(dimensions) = dimensions.filter(|dimensions| dimensions.len() == strides.len()) else {
            let reason = format!("tensor `{name}` cannot have shape {shape:?} and strides {strides:?}");
            return Err(FormatError::header(reason));
        };
        let elements = dimensions.iter().try_fold(1_u64, |product, &n| product.checked_mul(n));
        // Both are not negative: a shape was read, and a storage's size is checked where it is named.
        let storage_elements = storage.elements as u64;
        let fits = |elements: &u64| {
            let first = u64::try_from(first).ok()?;
            (first.checked_add(*elements)? <= storage_elements).then_some(first)
        };
        let Some((elements, first)) = elements.and_then(|elements| Some((elements, fits(&elements)?))) else {
            return Err(FormatError::header(format!(
                "tensor `{name}` of shape {shape:?} from element {first} is not inside its storage of {storage_elements}"
            )));
        };
        if !is_row_by_row(&dimensions, &strides) {
            return Err(FormatError::NotContiguous { name, shape: dimensions, strides });
        }
        let byte_count = |elements| encoding.bytes_for(elements);
        let (Some(storage_bytes), Some(start), Some(len)) =
            (byte_count(storage_elements), byte_count(first), byte_count(elements))
        else {
            return Err(FormatError::WrongSize { name, encoding, shape: dimensions, bytes: 0 });
        };
        let key = tape::of(bytes, storage.key).to_vec();
        Ok(Self { name, encoding, shape: dimensions, key, storage_bytes, start, len })
    }

    /// The tensor, whose storage has this extent.
    ///
    /// # Errors
    /// [`FormatError::Header`] if the storage is smaller than the pickle says.
    pub(super) fn within(self, storage: Extent) -> Result<TensorInfo, FormatError> {
        let Self { name, encoding, shape, storage_bytes, start, len, .. } = self;
        if storage_bytes > storage.len {
            let there = storage.len;
            let reason =
                format!("the storage of tensor `{name}` has {there} bytes, of which {storage_bytes} are claimed");
            return Err(FormatError::header(reason));
        }
        let extent = Extent { offset: storage.offset + start, len, ..storage };
        Ok(TensorInfo { name, encoding, shape, extent })
    }
}

/// Whether elements lie as row-major order has them. Strides along dimensions of one element mean nothing.
fn is_row_by_row(shape: &[u64], strides: &[i64]) -> bool {
    let mut expected = 1;
    shape.contains(&0)
        || shape.iter().zip(strides).rev().filter(|(n, _)| **n != 1).all(|(&n, &stride)| {
            let is_next = u64::try_from(stride) == Ok(expected);
            expected *= n;
            is_next
        })
}

/// A name as text.
pub(super) fn text(bytes: &[u8]) -> Result<String, FormatError> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(FormatError::header(format!("`{}` is no text", String::from_utf8_lossy(bytes).escape_debug()))),
    }
}
