//! The form since PyTorch 1.6: a zip archive with the pickle in `NAME/data.pkl` and each storage in `NAME/data/KEY`.
//!
//! Of zip archives this knows the directory at their end, with 64-bit sizes, as in PKWARE's APPNOTE 6.3.10 (2022), sections
//! 4.3.7 to 4.5.3. Nothing is ever unpacked: what is compressed is refused, and names are looked up and never become
//! paths.

use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom};

use super::SAVE_AGAIN;
use super::legacy::big_endian;
use super::state_dict::{text, views};
use super::unpickler::Unpickler;
use crate::format::FormatError;
use crate::format::input::{Input, io_error};
use crate::index::TensorInfo;
use crate::source::Extent;

/// More than the entries of a hundred thousand storages take, in bytes.
const LARGEST_DIRECTORY: u64 = 64 << 20;

/// The end of the directory: its place and length, and an optional comment.
const END: [u8; 4] = *b"PK\x05\x06";
const END_LEN: u64 = 22;
/// Directly before it, where 64-bit numbers are needed: the place of the end of the directory in such numbers.
const LOCATOR: [u8; 4] = *b"PK\x06\x07";
const LOCATOR_LEN: u64 = 20;
const END_64: [u8; 4] = *b"PK\x06\x06";
const END_64_LEN: u64 = 56;
/// An entry in the directory, and the header before its bytes.
const ENTRY: [u8; 4] = *b"PK\x01\x02";
const LOCAL: [u8; 4] = *b"PK\x03\x04";
const LOCAL_LEN: u64 = 30;
/// The extra field of an entry with 64-bit numbers, for those that are all ones elsewhere.
const EXTRA_64: u16 = 1;
const ENCRYPTED: u16 = 1;

pub(super) fn parse(reader: impl Read + Seek, file_len: u64) -> Result<Vec<TensorInfo>, FormatError> {
    let mut archive = Archive::open(reader, file_len)?;
    let prefix = archive.prefix()?;
    let order = [&prefix[..], b"byteorder"].concat();
    if archive.entries.contains_key(&order) && archive.bytes(&order)? != b"little" {
        return Err(big_endian());
    }
    let pickle = archive.extent(&[&prefix[..], PICKLE].concat())?;
    archive.reader.seek(SeekFrom::Start(pickle.offset)).map_err(io_error)?;
    let mut unpickler = Unpickler::new(Input::new(&mut archive.reader, pickle.len));
    let root = unpickler.load()?;
    let (_, bytes, objects) = unpickler.finish();

    let mut storages: HashMap<Vec<u8>, Extent> = HashMap::new();
    let mut tensors = Vec::new();
    for view in views(root, &objects, &bytes)? {
        let storage = match storages.get(&view.key) {
            Some(&storage) => storage,
            None => {
                let name = [&prefix[..], b"data/", &view.key].concat();
                if !archive.entries.contains_key(&name) {
                    return Err(FormatError::header(format!("the storage of tensor `{}` is missing", view.name)));
                }
                let storage = archive.extent(&name)?;
                storages.insert(view.key.clone(), storage);
                storage
            }
        };
        tensors.push(view.within(storage)?);
    }
    check_apart(&storages)?;
    Ok(tensors)
}

/// Two storages may not share bytes, although two tensors of one storage may.
fn check_apart(storages: &HashMap<Vec<u8>, Extent>) -> Result<(), FormatError> {
    let mut order: Vec<(&Vec<u8>, &Extent)> = storages.iter().filter(|(_, storage)| storage.len > 0).collect();
    order.sort_by_key(|(key, storage)| (storage.offset, *key));
    match order.windows(2).find(|pair| pair[0].1.end() > pair[1].1.offset) {
        Some(pair) => {
            let reason = format!("the storages `{}` and `{}` share bytes", text(pair[0].0)?, text(pair[1].0)?);
            Err(FormatError::header(reason))
        }
        None => Ok(()),
    }
}

const PICKLE: &[u8] = b"data.pkl";

/// The longest entry that is read whole beside the pickle, in bytes.
const LONGEST_TEXT: u64 = 64;

struct Archive<R> {
    reader: R,
    /// Where the directory begins, and so where entries end.
    entries_end: u64,
    entries: HashMap<Vec<u8>, Entry>,
}

/// An entry, as the directory has it.
struct Entry {
    len: u64,
    /// Where its local header begins.
    header: u64,
}

impl<R: Read + Seek> Archive<R> {
    fn open(mut reader: R, file_len: u64) -> Result<Self, FormatError> {
        let Directory { start, len, count } = directory(&mut reader, file_len)?;
        reader.seek(SeekFrom::Start(start)).map_err(io_error)?;
        let mut input = Input::new(&mut reader, len);
        let mut entries = HashMap::new();
        for _ in 0..count {
            let (name, entry) = entry(&mut input)?;
            let show = |name: &[u8]| String::from_utf8_lossy(name).escape_debug().to_string();
            if entry.len.checked_add(entry.header).is_none_or(|end| end > start) {
                return Err(FormatError::header(format!("the entry `{}` is not inside the file", show(&name))));
            }
            if entries.contains_key(&name) {
                return Err(FormatError::DuplicateName { name: show(&name) });
            }
            entries.insert(name, entry);
        }
        Ok(Self { reader, entries_end: start, entries })
    }

    /// What stands before `data.pkl` in the names of all entries.
    fn prefix(&self) -> Result<Vec<u8>, FormatError> {
        let prefix = |name: &[u8]| {
            let prefix = name.strip_suffix(PICKLE)?;
            (prefix.is_empty() || prefix.ends_with(b"/")).then(|| prefix.to_vec())
        };
        let mut prefixes = self.entries.keys().filter_map(|name| prefix(name));
        match (prefixes.next(), prefixes.next()) {
            (Some(prefix), None) => match self.entries.contains_key(&[&prefix[..], b"constants.pkl"].concat()) {
                true => Err(FormatError::unsupported("it is a TorchScript program", SAVE_AGAIN)),
                false => Ok(prefix),
            },
            _ => Err(FormatError::unsupported("it is a zip archive, but not one of torch.save", SAVE_AGAIN)),
        }
    }

    /// Where the bytes of an entry lie.
    fn extent(&mut self, name: &[u8]) -> Result<Extent, FormatError> {
        let invalid = || FormatError::header(format!("the entry `{}` is not valid", String::from_utf8_lossy(name)));
        let &Entry { len, header } = self.entries.get(name).ok_or_else(invalid)?;
        let left = self.entries_end.checked_sub(header).ok_or_else(invalid)?;
        self.reader.seek(SeekFrom::Start(header)).map_err(io_error)?;
        let local: [u8; LOCAL_LEN as usize] = Input::new(&mut self.reader, left).array("the header of an entry")?;
        let lengths = u64::from(u16_at(&local, 26)) + u64::from(u16_at(&local, 28));
        if local[..4] != LOCAL || u16_at(&local, 8) != 0 {
            return Err(invalid());
        }
        let offset = header + LOCAL_LEN + lengths;
        match offset.checked_add(len) {
            Some(end) if end <= self.entries_end => Ok(Extent { file: 0, offset, len }),
            _ => Err(invalid()),
        }
    }

    /// The bytes of a short entry.
    fn bytes(&mut self, name: &[u8]) -> Result<Vec<u8>, FormatError> {
        let Extent { offset, len, .. } = self.extent(name)?;
        self.reader.seek(SeekFrom::Start(offset)).map_err(io_error)?;
        Input::new(&mut self.reader, len).bytes("a short entry", len.min(LONGEST_TEXT))
    }
}

struct Directory {
    start: u64,
    len: u64,
    count: u64,
}

/// Finds the directory from the end of the file.
fn directory(reader: &mut (impl Read + Seek), file_len: u64) -> Result<Directory, FormatError> {
    let cut = || FormatError::header("a zip archive ends with its directory, and this one does not");
    // The last thing but a comment of up to 65535 bytes.
    let tail_start = file_len.saturating_sub(END_LEN + LOCATOR_LEN + u64::from(u16::MAX));
    reader.seek(SeekFrom::Start(tail_start)).map_err(io_error)?;
    let tail =
        Input::new(&mut *reader, file_len - tail_start).bytes("the end of the archive", file_len - tail_start)?;
    let ends_here = |&at: &usize| {
        let end = &tail[at..];
        end.starts_with(&END) && u64::from(u16_at(end, 20)) == end.len() as u64 - END_LEN
    };
    let last = tail.len().checked_sub(END_LEN as usize).ok_or_else(cut)?;
    let at = (0..=last).rev().find(ends_here).ok_or_else(cut)?;
    let end = &tail[at..];
    let end_start = tail_start + at as u64;
    let (count, len, start) = (u16_at(end, 10), u32_at(end, 12), u32_at(end, 16));
    let short = Directory { start: start.into(), len: len.into(), count: count.into() };
    let (directory, limit) = if count == u16::MAX || len == u32::MAX || start == u32::MAX {
        let locator = at.checked_sub(LOCATOR_LEN as usize).map(|at| &tail[at..]).ok_or_else(cut)?;
        let end_64 = u64_at(locator, 8);
        if !locator.starts_with(&LOCATOR)
            || end_64.checked_add(END_64_LEN + LOCATOR_LEN).is_none_or(|end| end > end_start)
        {
            return Err(cut());
        }
        reader.seek(SeekFrom::Start(end_64)).map_err(io_error)?;
        let end: [u8; END_64_LEN as usize] = Input::new(reader, END_64_LEN).array("the end of the archive")?;
        if !end.starts_with(&END_64) {
            return Err(cut());
        }
        (Directory { start: u64_at(&end, 48), len: u64_at(&end, 40), count: u64_at(&end, 32) }, end_64)
    } else {
        (short, end_start)
    };
    if directory.start.checked_add(directory.len).is_none_or(|end| end > limit) || directory.len > LARGEST_DIRECTORY {
        let Directory { start, len, .. } = directory;
        return Err(FormatError::header(format!("its directory claims {len} bytes at {start}")));
    }
    Ok(directory)
}

/// Reads the next entry of the directory.
fn entry<R: Read>(input: &mut Input<R>) -> Result<(Vec<u8>, Entry), FormatError> {
    const WHAT: &str = "an entry of the directory";
    let fixed: [u8; 46] = input.array(WHAT)?;
    if fixed[..4] != ENTRY {
        return Err(FormatError::header("its directory has something that is no entry"));
    }
    let (flags, method) = (u16_at(&fixed, 8), u16_at(&fixed, 10));
    let (packed, len, header) = (u32_at(&fixed, 20), u32_at(&fixed, 24), u32_at(&fixed, 42));
    let [name_len, extra_len, comment_len] = [28, 30, 32].map(|at| u64::from(u16_at(&fixed, at)));
    let name = input.bytes(WHAT, name_len)?;
    let extra = input.bytes(WHAT, extra_len)?;
    input.bytes(WHAT, comment_len)?;
    let mut wide = extra_64(&extra);
    let mut widened = |number: u32| match number {
        u32::MAX => wide.next().ok_or_else(|| FormatError::header("an entry lacks its 64-bit numbers")),
        number => Ok(number.into()),
    };
    // In the order in which the extra field has them.
    let (len, packed, header) = (widened(len)?, widened(packed)?, widened(header)?);
    if method != 0 || packed != len || flags & ENCRYPTED != 0 {
        let name = String::from_utf8_lossy(&name).escape_debug().to_string();
        return Err(FormatError::unsupported(
            format!("its entry `{name}` is compressed or encrypted, and cannot be read in place"),
            SAVE_AGAIN,
        ));
    }
    Ok((name, Entry { len, header }))
}

/// The numbers of the extra field of 64-bit numbers, if there is one.
fn extra_64(mut extra: &[u8]) -> impl Iterator<Item = u64> {
    let mut numbers: &[[u8; 8]] = &[];
    while let Some((head, rest)) = extra.split_first_chunk::<4>() {
        let len = usize::from(u16_at(head, 2)).min(rest.len());
        if u16_at(head, 0) == EXTRA_64 {
            numbers = rest[..len].as_chunks().0;
            break;
        }
        extra = &rest[len..];
    }
    numbers.iter().map(|bytes| u64::from_le_bytes(*bytes))
}

/// Little-endian numbers at a place that must be inside.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
