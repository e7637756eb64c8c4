use std::io::{Read, Seek};

use super::FormatError;

/// A header being read: knows how many bytes are left, so that no length is believed that cannot be true.
pub(super) struct Input<R> {
    reader: R,
    len: u64,
    left: u64,
}

impl<R: Read> Input<R> {
    pub(super) fn new(reader: R, len: u64) -> Self {
        Self { reader, len, left: len }
    }

    pub(super) fn position(&self) -> u64 {
        self.len - self.left
    }

    fn claim(&mut self, what: &'static str, bytes: u64) -> Result<(), FormatError> {
        if bytes > self.left {
            return Err(FormatError::Truncated { what, bytes, left: self.left });
        }
        self.left -= bytes;
        Ok(())
    }

    pub(super) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], FormatError> {
        self.claim(what, N as u64)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(io_error)?;
        Ok(bytes)
    }

    /// Reads `bytes` bytes, which must be no more than are left.
    pub(super) fn bytes(&mut self, what: &'static str, bytes: u64) -> Result<Vec<u8>, FormatError> {
        let mut buffer = Vec::new();
        self.append(what, bytes, &mut buffer)?;
        Ok(buffer)
    }

    /// Reads `bytes` bytes, which must be no more than are left, to the end of `buffer`.
    pub(super) fn append(&mut self, what: &'static str, bytes: u64, buffer: &mut Vec<u8>) -> Result<(), FormatError> {
        self.claim(what, bytes)?;
        let start = buffer.len();
        buffer.resize(start + bytes as usize, 0);
        self.reader.read_exact(&mut buffer[start..]).map_err(io_error)
    }

    /// Passes over `bytes` bytes, which must be no more than are left.
    pub(super) fn skip(&mut self, what: &'static str, bytes: u64) -> Result<(), FormatError>
    where
        R: Seek,
    {
        self.claim(what, bytes)?;
        self.reader.seek_relative(bytes as i64).map_err(io_error)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A count of things that take at least `each` bytes.
    pub(super) fn count(&mut self, what: &'static str, count: u64, each: u64) -> Result<usize, FormatError> {
        let bytes = count.saturating_mul(each);
        if bytes > self.left {
            return Err(FormatError::Truncated { what, bytes, left: self.left });
        }
        Ok(count as usize)
    }
}

pub(super) fn io_error(error: std::io::Error) -> FormatError {
    FormatError::Io { reason: error.to_string() }
}
