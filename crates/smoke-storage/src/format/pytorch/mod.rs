//! Files of PyTorch's `torch.save`: a pickle that describes tensors, and the bytes of their storages.
//!
//! Two forms are known. Since version 1.6 it is a zip archive whose entries are not compressed, so that storages are
//! read in place; before, several pickles and then the storages one after another. Pickles are programs for a small
//! machine which may call anything; the one here knows dictionaries of tensors and nothing else, and runs no code.

mod archive;
mod globals;
mod legacy;
mod objects;
mod state_dict;
mod tape;
mod unpickler;

use std::io::{Read, Seek, SeekFrom};

use super::FormatError;
use super::input::io_error;
use crate::index::TensorInfo;

/// What to do with a file that was saved in a way that is not known here.
const SAVE_AGAIN: &str =
    "save the model's state_dict() with torch.save of PyTorch 1.6 or newer, or convert it to safetensors";

/// Finds the tensors in a file of `file_len` bytes that `torch.save` wrote: a dictionary of tensors, or one dictionary
/// of tensors within a dictionary of other things. Other values are passed over.
///
/// Extents name file 0; tensors may share bytes, as tied weights do. However the pickle is written, reading it takes no
/// more than some hundred MB.
///
/// # Errors
/// [`FormatError`] if it is no such file, or asks for anything but tensors, or a tensor's elements do not lie row by row
/// inside its storage.
pub fn parse_pytorch(mut reader: impl Read + Seek, file_len: u64) -> Result<Vec<TensorInfo>, FormatError> {
    let mut magic = Vec::new();
    reader.by_ref().take(4).read_to_end(&mut magic).map_err(io_error)?;
    reader.seek(SeekFrom::Start(0)).map_err(io_error)?;
    match magic[..] {
        [b'P', b'K', ..] => archive::parse(reader, file_len),
        [unpickler::PROTOCOL, ..] => legacy::parse(reader, file_len),
        [] => Err(FormatError::header("it is empty")),
        _ => Err(FormatError::header(format!("it begins with {magic:02x?}; this is no PyTorch file"))),
    }
}
