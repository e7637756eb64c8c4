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
        let is_aligned = offset.is_multiple_of(BLOCK as u64) && buf.as_ptr().addr().is_multiple_of(BLOCK);
        let direct = if is_aligned { buf.len() - buf.len() % BLOCK } else { 0 };
        let (aligned, rest) = buf.split_at_mut(direct);
        let mut done = 0;
        while done < aligned.len() {
            let read = self.read_block_at(offset + done as u64, &mut aligned[done..])?;
            // The next read must begin on a block, too. Less than one is the end of the file.
            if read < BLOCK {
                return Err(super::ended());
            }
            done += read - read % BLOCK;
        }
        self.bounce(offset + direct as u64, rest)
    }

    /// Reads what is not aligned by way of a buffer that is.
    fn bounce(&self, mut offset: u64, mut rest: &mut [u8]) -> io::Result<()> {
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

    fn read_block_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read_at(buf, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}
