use std::io::Read;

use crate::format::FormatError;
use crate::format::input::Input;

/// More than the pickle of a hundred thousand tensors takes, in bytes.
const LARGEST_PICKLE: usize = 64 << 20;

/// Bytes on a [`Tape`], from `start` to `end`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    start: u32,
    end: u32,
}

/// What was read of a file so far. Texts are spans of it and are not copied.
pub(super) struct Tape<R> {
    input: Input<R>,
    bytes: Vec<u8>,
}

impl<R: Read> Tape<R> {
    pub(super) fn new(input: Input<R>) -> Self {
        Self { input, bytes: Vec::new() }
    }

    /// Gives the input back, after the last byte that was read, and what was read.
    pub(super) fn finish(self) -> (Input<R>, Vec<u8>) {
        (self.input, self.bytes)
    }

    pub(super) fn position(&self) -> u64 {
        self.input.position()
    }

    pub(super) fn bytes(&self, span: Span) -> &[u8] {
        of(&self.bytes, span)
    }

    /// Reads the next `len` bytes.
    pub(super) fn take(&mut self, what: &'static str, len: u64) -> Result<Span, FormatError> {
        let start = self.bytes.len();
        if len > (LARGEST_PICKLE - start) as u64 {
            return Err(FormatError::header(format!("{what} claims {len} bytes, which is too much for a pickle")));
        }
        self.input.append(what, len, &mut self.bytes)?;
        Ok(Span { start: start as u32, end: self.bytes.len() as u32 })
    }

    /// Reads the next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], FormatError> {
        let span = self.take(what, N as u64)?;
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(span));
        Ok(array)
    }

    /// Reads to the end of the line; the span is without it.
    pub(super) fn line(&mut self, what: &'static str) -> Result<Span, FormatError> {
        let start = self.bytes.len() as u32;
        while self.array::<1>(what)? != *b"\n" {}
        Ok(Span { start, end: self.bytes.len() as u32 - 1 })
    }
}

/// The bytes of a span of what was read.
pub(super) fn of(bytes: &[u8], span: Span) -> &[u8] {
    &bytes[span.start as usize..span.end as usize]
}
