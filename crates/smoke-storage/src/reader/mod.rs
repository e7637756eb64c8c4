//! Ways to read a file.

mod direct;
mod mapped;
mod pread;

use std::io;
use std::path::Path;

use crate::checkpoint::{OpenError, io_error};
use crate::error::{SourceError, SourceErrorKind};
use crate::index::FileInfo;
use crate::source::Extent;
use direct::DirectFile;
use mapped::MappedFile;
use pread::PreadFile;

/// How files are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReaderKind {
    /// [`Direct`](Self::Direct) where the file system allows it, else [`Pread`](Self::Pread).
    #[default]
    Auto,
    /// Mapped memory. Fastest for what the page cache holds already, and then the pages are there twice.
    Mmap,
    /// Through the page cache, which is asked to forget what was read.
    Pread,
    /// Past the page cache (`O_DIRECT` on Linux): no second copy in memory, and as fast as the disk.
    Direct,
}

/// An open file.
#[derive(Debug)]
pub(crate) enum Reader {
    Mapped(MappedFile),
    Pread(PreadFile),
    Direct(DirectFile),
}

impl Reader {
    pub(crate) fn open(path: &Path, kind: ReaderKind) -> Result<Self, OpenError> {
        let io = |cause| io_error(path, cause);
        match kind {
            ReaderKind::Mmap => MappedFile::open(path).map(Self::Mapped).map_err(io),
            ReaderKind::Pread => PreadFile::open(path).map(Self::Pread).map_err(io),
            ReaderKind::Direct => DirectFile::open(path)
                .map(Self::Direct)
                .map_err(|cause| OpenError::Direct { path: path.to_owned(), cause }),
            ReaderKind::Auto => match DirectFile::open(path) {
                Ok(file) => Ok(Self::Direct(file)),
                Err(_) => PreadFile::open(path).map(Self::Pread).map_err(io),
            },
        }
    }

    pub(crate) fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Mapped(file) => file.read_at(offset, buf),
            Self::Pread(file) => file.read_at(offset, buf),
            Self::Direct(file) => file.read_at(offset, buf),
        }
    }

    pub(crate) fn alignment(&self) -> u64 {
        match self {
            Self::Mapped(_) | Self::Pread(_) => 1,
            Self::Direct(_) => direct::BLOCK as u64,
        }
    }
}

/// Checks a read against the file that it names.
pub(crate) fn check_range(extent: Extent, file: Option<&FileInfo>, buffer_len: usize) -> Result<(), SourceError> {
    let out_of_range = |reason: String| Err(SourceError::new(SourceErrorKind::OutOfRange, reason));
    let Some(file) = file else {
        return out_of_range(format!("there is no file {}", extent.file));
    };
    if buffer_len as u64 != extent.len {
        return out_of_range(format!("a buffer of {buffer_len} bytes for {} bytes", extent.len));
    }
    if extent.offset.checked_add(extent.len).is_none_or(|end| end > file.len) {
        let Extent { offset, len, .. } = extent;
        return out_of_range(format!("{}: {len} bytes at {offset} in a file of {}", file.path.display(), file.len));
    }
    Ok(())
}

/// The file ended before the bytes did.
fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it ends before the bytes do")
}
