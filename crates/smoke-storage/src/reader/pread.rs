use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Advice, fadvise};

/// Reads through the page cache and asks it to forget, so that weights are not in memory twice.
#[derive(Debug)]
pub(crate) struct PreadFile(File);

/// What the page cache keeps or forgets as a whole.
const PAGE: u64 = 4096;

impl PreadFile {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // Advice only, here and below: where it is not taken, reading is as right as before. This one keeps the system
        // from reading further than it was asked to; what it read ahead would stay after the last read.
        let _ = fadvise(&file, 0, None, Advice::Random);
        Ok(Self(file))
    }

    pub(crate) fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buf, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => super::ended(),
            _ => error,
        })?;
        // A page of which a part is named is kept, so whole pages are.
        let start = offset - offset % PAGE;
        let end = (offset + buf.len() as u64).next_multiple_of(PAGE);
        let _ = fadvise(&self.0, start, NonZeroU64::new(end - start), Advice::DontNeed);
        Ok(())
    }
}
