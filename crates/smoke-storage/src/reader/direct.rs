use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use crate::buffer::AlignedBuffer;

/// Offset, length and address of a direct read are multiples of this: enough for every disk's blocks.
pub(crate) const BLOCK: usize = 4096;

/// What is read at once where a read is not aligned.
const BOUNCE: usize = 16 * BLOCK;

/// Reads past the page cache.
#[derive(Debug)]
pub(crate) struct DirectFile(File);

impl DirectFile {
    /// Opens the file and reads a block of it, since some file systems refuse only then.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::DIRECT.bits().cast_signed();
        let file = Self(OpenOptions::new().read(true).custom_flags(flags).open(path)?);
        file.read_block_at(0, &mut AlignedBuffer::zeroed(BLOCK))?;
        Ok(file)
    }

    pub(crate) fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let (aligned, rest) = Self::split(offset, buf);
        self.read_aligned(offset, aligned)?;
        self.bounce(offset + aligned.len() as u64, rest)
    }

    /// The part of a read that needs no bounce, and what follows it.
    pub(crate) fn split(offset: u64, buf: &mut [u8]) -> (&mut [u8], &mut [u8]) {
        let is_aligned = offset.is_multiple_of(BLOCK as u64) && buf.as_ptr().addr().is_multiple_of(BLOCK);
        let direct = if is_aligned { buf.len() - buf.len() % BLOCK } else { 0 };
        buf.split_at_mut(direct)
    }

    /// Reads what is aligned: offset, length and address.
    pub(crate) fn read_aligned(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let read = self.read_block_at(offset + done as u64, &mut buf[done..])?;
            // The next read must begin on a block, too. Less than one is the end of the file.
            if read < BLOCK {
                return Err(super::ended());
            }
            done += read - read % BLOCK;
        }
        Ok(())
    }

    /// Reads what is not aligned by way of a buffer that is.
    pub(crate) fn bounce(&self, mut offset: u64, mut rest: &mut [u8]) -> io::Result<()> {
        if rest.is_empty() {
            return Ok(());
        }
        let mut blocks = AlignedBuffer::zeroed((rest.len() + 2 * BLOCK).min(BOUNCE) / BLOCK * BLOCK);
        while !rest.is_empty() {
            let before = (offset % BLOCK as u64) as usize;
            let wanted = (before + rest.len()).next_multiple_of(BLOCK).min(blocks.len());
            let read = self.read_block_at(offset - before as u64, &mut blocks[..wanted])?;
            let useful = read.saturating_sub(before).min(rest.len());
            if useful == 0 {
                return Err(super::ended());
            }
            let (now, later) = std::mem::take(&mut rest).split_at_mut(useful);
            now.copy_from_slice(&blocks[before..before + useful]);
            (rest, offset) = (later, offset + useful as u64);
        }
        Ok(())
    }

    #[cfg(target_os = "linux")]
    pub(crate) fn as_raw_fd(&self) -> std::os::fd::RawFd {
        std::os::fd::AsRawFd::as_raw_fd(&self.0)
    }

    fn read_block_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read_at(buf, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}
