//! Writes a packed file, all of it or nothing.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate, statvfs};
use rustix::io::Errno;

use super::{Pack, PackError};
use crate::buffer::AlignedBuffer;
use crate::source::{Extent, WeightSource};

/// What is read and written at once, in bytes.
const PIECE: u64 = 16 << 20;

pub(super) fn write(pack: &Pack<'_>, progress: &mut dyn FnMut(u64)) -> Result<(), PackError> {
    let directory = directory_of(&pack.target);
    let io = |cause| PackError::Io { path: pack.target.clone(), cause };
    let disk = statvfs(directory).map_err(|cause| io(cause.into()))?;
    check_space(pack, disk.f_bavail.saturating_mul(disk.f_frsize))?;
    let unfinished = Unfinished::create(&pack.target).map_err(io)?;
    // Takes the room now, from others who fill the disk meanwhile. Some file systems cannot.
    let taken = fallocate(&unfinished.file, FallocateFlags::empty(), 0, pack.bytes.max(1));
    if taken == Err(Errno::NOSPC) {
        return Err(io(Errno::NOSPC.into()));
    }
    unfinished.file.write_all_at(&pack.header, 0).map_err(io)?;
    copy_tensors(pack, &unfinished.file, progress)?;
    unfinished.file.set_len(pack.bytes).map_err(io)?;
    unfinished.finish(&pack.target).map_err(io)
}

fn check_space(pack: &Pack<'_>, free_bytes: u64) -> Result<(), PackError> {
    if pack.bytes <= free_bytes {
        return Ok(());
    }
    Err(PackError::NoSpace { path: pack.target.clone(), needed_bytes: pack.bytes, free_bytes })
}

fn copy_tensors(pack: &Pack<'_>, file: &File, progress: &mut dyn FnMut(u64)) -> Result<(), PackError> {
    let largest = pack.tensors.iter().map(|(tensor, _)| tensor.extent.len).max().unwrap_or(0);
    let mut buffer = AlignedBuffer::zeroed(PIECE.min(largest) as usize);
    let mut copied = 0;
    for &(tensor, start) in &pack.tensors {
        let mut done = 0;
        while done < tensor.extent.len {
            let len = PIECE.min(tensor.extent.len - done);
            let piece = &mut buffer[..len as usize];
            let extent = Extent { offset: tensor.extent.offset + done, len, ..tensor.extent };
            pack.checkpoint.read_at(extent, piece)?;
            file.write_all_at(piece, start + done)
                .map_err(|cause| PackError::Io { path: pack.target.clone(), cause })?;
            done += len;
            copied += len;
            progress(copied);
        }
    }
    Ok(())
}

/// The directory of a file; that of the process for a mere name.
pub(super) fn directory_of(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A file under a name that no checkpoint has, removed unless it is finished.
struct Unfinished {
    file: File,
    path: PathBuf,
    is_finished: bool,
}

impl Unfinished {
    fn create(target: &Path) -> io::Result<Self> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let path = directory_of(target).join(format!(".{name}.{}.unfinished", std::process::id()));
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        Ok(Self { file, path, is_finished: false })
    }

    /// Gives it its name when its bytes are on the disk, and waits until the name is, too.
    fn finish(mut self, target: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        // The page cache need not keep what is read past it.
        let _ = fadvise(&self.file, 0, None, Advice::DontNeed);
        if target.symlink_metadata().is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        fs::rename(&self.path, target)?;
        self.is_finished = true;
        File::open(directory_of(target))?.sync_all()
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.is_finished {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::unit_map::UnitMapBuilder;

    #[test]
    fn a_disk_without_room_is_found_before_anything_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("m.safetensors");
        let json = br#"{"t":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}}"#;
        fs::write(&path, [&(json.len() as u64).to_le_bytes()[..], json, &[5; 9]].concat()).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        let units = UnitMapBuilder::new(1).finish(checkpoint.index()).unwrap();
        let pack = Pack::plan(&checkpoint, &units, &directory.path().join("p.safetensors")).unwrap();
        assert_eq!(pack.bytes(), 4096 + 9);
        assert!(check_space(&pack, 4105).is_ok());
        let text = check_space(&pack, 4104).expect_err("a byte is missing").to_string();
        for part in ["p.safetensors", "4105", "4104", "make room"] {
            assert!(text.contains(part), "`{part}` is missing: {text}");
        }
    }
}
