//! The form before PyTorch 1.6: a magic number, a version, what machine it was, the dictionary, and the keys of the
//! storages, each a pickle; then the storages, each after its number of elements.

use std::collections::HashMap;
use std::io::{Read, Seek};

use super::SAVE_AGAIN;
use super::globals;
use super::objects::Value;
use super::state_dict::{text, views};
use super::tape;
use super::unpickler::Unpickler;
use crate::format::FormatError;
use crate::format::input::Input;
use crate::index::TensorInfo;
use crate::source::Extent;

/// 0x1950a86a20f9469cfc6c.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

const VERSION: i64 = 1001;

pub(super) fn parse(reader: impl Read + Seek, file_len: u64) -> Result<Vec<TensorInfo>, FormatError> {
    let mut pickles = Unpickler::new(Input::new(reader, file_len));
    match pickles.load()? {
        Value::LongInt(magic) if pickles.bytes(magic) == MAGIC => {}
        _ => return Err(FormatError::unsupported("it is a pickle, but not one of torch.save", SAVE_AGAIN)),
    }
    match pickles.load()? {
        Value::Int(VERSION) => {}
        _ => return Err(FormatError::unsupported("its version is not 1001", SAVE_AGAIN)),
    }
    check_byte_order(&mut pickles)?;
    let root = pickles.load()?;
    let keys = pickles.load()?;
    let (mut input, bytes, objects) = pickles.finish();

    let views = views(root, &objects, &bytes)?;
    let mut named = HashMap::new();
    for storage in objects.storages() {
        let (key, kind) = (tape::of(&bytes, storage.key), tape::of(&bytes, storage.kind));
        let known = *named.entry(key).or_insert((kind, storage.elements));
        if known != (kind, storage.elements) {
            return Err(FormatError::header(format!("the storage `{}` is named in two ways", text(key)?)));
        }
    }
    let mut extents = HashMap::new();
    let Some(keys) = objects.list(keys) else { return Err(FormatError::header("it has no list of storages")) };
    for &key in keys {
        let Value::Text(key) = key else { return Err(FormatError::header("a storage's key is no text")) };
        let key = tape::of(&bytes, key);
        let Some(&(kind, elements)) = named.get(key) else {
            return Err(FormatError::header(format!("nothing says what the storage `{}` holds", text(key)?)));
        };
        let Some(encoding) = globals::encoding(kind) else {
            let (name, encoding) = (text(key)?, text(kind)?);
            return Err(FormatError::UnsupportedEncoding { name, encoding, supported: "F32, F16 or BF16" });
        };
        let there = input.u64("the length of a storage")?;
        let len = encoding.bytes_for(there).filter(|_| u64::try_from(elements) == Ok(there));
        let Some(len) = len else {
            let reason = format!("the storage `{}` has {there} elements, not {elements}", text(key)?);
            return Err(FormatError::header(reason));
        };
        let extent = Extent { file: 0, offset: input.position(), len };
        input.skip("a storage", len)?;
        if extents.insert(key, extent).is_some() {
            return Err(FormatError::DuplicateName { name: text(key)? });
        }
    }
    let within = views.into_iter().map(|view| match extents.get(&view.key[..]) {
        Some(&extent) => view.within(extent),
        None => Err(FormatError::header(format!("the storage of tensor `{}` is missing", view.name))),
    });
    within.collect()
}

fn check_byte_order<R: Read>(pickles: &mut Unpickler<R>) -> Result<(), FormatError> {
    let machine = pickles.load()?;
    let entries = pickles.objects().dict(machine).unwrap_or_default();
    let little = entries.iter().rev().find_map(|&(key, value)| match (key, value) {
        (Value::Text(key), Value::Bool(little)) if pickles.bytes(key) == b"little_endian" => Some(little),
        _ => None,
    });
    match little {
        Some(true) => Ok(()),
        Some(false) => Err(big_endian()),
        None => Err(FormatError::header("it does not say in which order its bytes are")),
    }
}

pub(super) fn big_endian() -> FormatError {
    FormatError::unsupported("its numbers are big-endian", "convert it to safetensors on the machine that wrote it")
}
