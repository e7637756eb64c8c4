use std::fs::File;
use std::io;
use std::path::Path;

use memmap2::Mmap;

/// Copies from mapped memory.
#[derive(Debug)]
pub(crate) struct MappedFile {
    file: File,
    map: Mmap,
}

impl MappedFile {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the map is only read, and only by copying plain bytes out of it. Bytes that somebody else writes
        // meanwhile would be copied in some state, as with any other read; see `read_at` for a file that shrinks.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self { file, map })
    }

    pub(crate) fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        // Touching pages after the end of a file kills the process, so a file that shrank must be noticed before.
        let end = offset + buf.len() as u64;
        if end > self.file.metadata()?.len() {
            return Err(super::ended());
        }
        let bytes = self.map.get(offset as usize..end as usize).ok_or_else(super::ended)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }
}
