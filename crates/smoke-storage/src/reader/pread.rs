use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Advice, fadvise};

/// Reads through the page cache and asks it to forget, so that weights are not in memory twice.
#[derive(Debug)]
pub(crate) struct PreadFile(File);

impl PreadFile {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        File::open(path).map(Self)
    }

    pub(crate) fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buf, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => super::ended(),
            _ => error,
        })?;
        // Advice only: where it is not taken, reading is as right as before.
        let _ = fadvise(&self.0, offset, std::num::NonZeroU64::new(buf.len() as u64), Advice::DontNeed);
        Ok(())
    }
}
