//! Files that are there whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate, statvfs};
use rustix::io::Errno;

/// A file that is being written: under a name that no checkpoint has, beside where it will be. It gets its own name when
/// all of it is on the disk, and is removed if it is dropped before that.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    path: PathBuf,
    target: PathBuf,
    bytes: u64,
    is_finished: bool,
}

impl NewFile {
    /// Begins a file of `bytes` bytes and takes the room for them, from others who fill the disk meanwhile.
    ///
    /// # Errors
    /// If it cannot be created, or there is not enough room (of kind [`StorageFull`](io::ErrorKind::StorageFull)).
    pub fn create(target: &Path, bytes: u64) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).open(unfinished(target))?;
        let (path, target) = (unfinished(target), target.to_owned());
        let new = Self { file, path, target, bytes, is_finished: false };
        // Some file systems cannot; they say so when it is written.
        match fallocate(&new.file, FallocateFlags::empty(), 0, bytes.max(1)) {
            Err(Errno::NOSPC) => Err(Errno::NOSPC.into()),
            _ => Ok(new),
        }
    }

    /// Writes `bytes` from `offset` on.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    /// Gives the file its name when its bytes are on the disk, and waits until the name is, too.
    ///
    /// # Errors
    /// If that cannot be done, or a file of that name appeared meanwhile; then this one is removed.
    pub fn finish(self) -> io::Result<()> {
        if self.target.symlink_metadata().is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.replace()
    }

    /// As [`finish`](Self::finish), in the place of a file that may have that name.
    ///
    /// # Errors
    /// If that cannot be done; then this file is removed and the old one is as it was.
    pub fn replace(mut self) -> io::Result<()> {
        self.file.set_len(self.bytes)?;
        self.file.sync_all()?;
        // The page cache need not keep what is read past it.
        let _ = fadvise(&self.file, 0, None, Advice::DontNeed);
        fs::rename(&self.path, &self.target)?;
        self.is_finished = true;
        File::open(directory_of(&self.target))?.sync_all()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_finished {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The name, beside `target`, of what will be `target` when it is finished. It begins with a dot, and no checkpoint's does.
pub fn unfinished(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    directory_of(target).join(format!(".{name}.{}.unfinished", std::process::id()))
}

/// Bytes that the file system of a directory has to give.
///
/// # Errors
/// If the operating system does not say.
pub fn free_bytes(directory: &Path) -> io::Result<u64> {
    let disk = statvfs(directory)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// The directory of a file; that of the process for a mere name.
pub fn directory_of(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("m");
        let begin = || {
            let new = NewFile::create(&target, 5).unwrap();
            new.write_at(b"abcde", 0).unwrap();
            new
        };
        drop(begin());
        assert!(names(directory.path()).is_empty());
        begin().finish().unwrap();
        assert_eq!((fs::read(&target).unwrap(), names(directory.path())), (b"abcde".to_vec(), vec!["m".to_owned()]));
        fs::write(&target, "old").unwrap();
        assert_eq!(begin().finish().unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&target).unwrap(), b"old");
        begin().replace().unwrap();
        assert_eq!((fs::read(&target).unwrap(), names(directory.path())), (b"abcde".to_vec(), vec!["m".to_owned()]));
    }
}
