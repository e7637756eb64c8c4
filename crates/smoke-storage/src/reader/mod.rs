//! Ways to read a file.

mod direct;
mod mapped;
mod pread;
#[cfg(target_os = "linux")]
mod uring;

use std::io;
use std::path::Path;

use crate::checkpoint::{OpenError, io_error};
use crate::error::{SourceError, SourceErrorKind};
use crate::index::FileInfo;
use crate::profile::DiskProfile;
use crate::source::{Extent, PIECE};
use direct::DirectFile;
use mapped::MappedFile;
use pread::PreadFile;
#[cfg(target_os = "linux")]
use uring::UringFile;

/// How files are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReaderKind {
    /// What a [`DiskProfile`] says is best, measured once for each disk: [`Uring`](Self::Uring) or
    /// [`Direct`](Self::Direct). Where neither works, [`Pread`](Self::Pread).
    #[default]
    Auto,
    /// Mapped memory. Fastest for what the page cache holds already, and then the pages are there twice.
    Mmap,
    /// Through the page cache, which is asked to forget what was read.
    Pread,
    /// Past the page cache (`O_DIRECT` on Linux): no second copy in memory. As fast as the disk where several threads
    /// read.
    Direct,
    /// As `Direct`, with several blocks of one read in flight (io_uring, Linux only): as fast as the disk with one
    /// thread.
    Uring,
}

/// How much is asked of a disk at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    pub(crate) block_bytes: usize,
    pub(crate) queue_depth: usize,
}

impl Pace {
    pub(crate) const DEEPEST: usize = 64;
    const LARGEST: usize = 64 << 20;

    /// Whole pages of a block, and a depth that a ring has room for.
    pub(crate) fn clamped(self) -> Self {
        let block_bytes = self.block_bytes.clamp(direct::BLOCK, Self::LARGEST) / direct::BLOCK * direct::BLOCK;
        Self { block_bytes, queue_depth: self.queue_depth.clamp(1, Self::DEEPEST) }
    }
}

/// Why a file was not read.
#[derive(Debug)]
pub(crate) enum ReadError {
    Io(io::Error),
    Cancelled,
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn check_stop(should_stop: &dyn Fn() -> bool) -> Result<(), ReadError> {
    if should_stop() { Err(ReadError::Cancelled) } else { Ok(()) }
}

/// An open file.
#[derive(Debug)]
pub(crate) enum Reader {
    Mapped(MappedFile),
    Pread(PreadFile),
    Direct(DirectFile),
    #[cfg(target_os = "linux")]
    Uring(UringFile),
}

impl Reader {
    /// Opens a file with a reader that the profile names, or the next best one if that is `Auto`'s choice.
    pub(crate) fn open(path: &Path, kind: ReaderKind, profile: &DiskProfile) -> Result<Self, OpenError> {
        let io = |cause| io_error(path, cause);
        let owned = || path.to_owned();
        match kind {
            ReaderKind::Mmap => MappedFile::open(path).map(Self::Mapped).map_err(io),
            ReaderKind::Pread => PreadFile::open(path).map(Self::Pread).map_err(io),
            ReaderKind::Direct => {
                DirectFile::open(path).map(Self::Direct).map_err(|cause| OpenError::Direct { path: owned(), cause })
            }
            ReaderKind::Uring => {
                Self::uring(path, profile.pace()).map_err(|cause| OpenError::Uring { path: owned(), cause })
            }
            ReaderKind::Auto => Self::uring_if_best(path, profile)
                .or_else(|_| DirectFile::open(path).map(Self::Direct))
                .or_else(|_| PreadFile::open(path).map(Self::Pread))
                .map_err(io),
        }
    }

    fn uring_if_best(path: &Path, profile: &DiskProfile) -> io::Result<Self> {
        match profile.reader {
            ReaderKind::Uring => Self::uring(path, profile.pace()),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    #[cfg(target_os = "linux")]
    fn uring(path: &Path, pace: Pace) -> io::Result<Self> {
        UringFile::open(path, pace).map(Self::Uring)
    }

    #[cfg(not(target_os = "linux"))]
    fn uring(_path: &Path, _pace: Pace) -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "only Linux has it"))
    }

    /// Which kind this is, after `Auto` was decided.
    pub(crate) fn kind(&self) -> ReaderKind {
        match self {
            Self::Mapped(_) => ReaderKind::Mmap,
            Self::Pread(_) => ReaderKind::Pread,
            Self::Direct(_) => ReaderKind::Direct,
            #[cfg(target_os = "linux")]
            Self::Uring(_) => ReaderKind::Uring,
        }
    }

    /// Fills `buf`; `should_stop` is asked before it begins and every few MiB.
    pub(crate) fn read_at(&self, offset: u64, buf: &mut [u8], should_stop: &dyn Fn() -> bool) -> Result<(), ReadError> {
        #[cfg(target_os = "linux")]
        if let Self::Uring(file) = self {
            return file.read_at(offset, buf, should_stop);
        }
        for (piece, number) in buf.chunks_mut(PIECE).zip(0..) {
            check_stop(should_stop)?;
            self.read_piece(offset + number * PIECE as u64, piece)?;
        }
        Ok(())
    }

    /// Fills several buffers, where this reader has many blocks in flight at once anyway; else does nothing and says so.
    pub(crate) fn read_all_at_once(
        &self,
        reads: &mut [(u64, &mut [u8])],
        should_stop: &dyn Fn() -> bool,
    ) -> Option<Result<(), ReadError>> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Uring(file) => Some(file.read_all(reads, should_stop)),
            _ => None,
        }
    }

    fn read_piece(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Mapped(file) => file.read_at(offset, buf),
            Self::Pread(file) => file.read_at(offset, buf),
            Self::Direct(file) => file.read_at(offset, buf),
            #[cfg(target_os = "linux")]
            Self::Uring(_) => unreachable!("it reads all pieces at once"),
        }
    }

    pub(crate) fn alignment(&self) -> u64 {
        match self {
            Self::Mapped(_) | Self::Pread(_) => 1,
            _ => direct::BLOCK as u64,
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
