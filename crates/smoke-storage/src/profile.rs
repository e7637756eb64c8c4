use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::reader::{Pace, ReaderKind};

/// How a disk is read best, and how fast it was: what [`ReaderKind::Auto`] goes by.
///
/// It is measured once for each disk and remembered in the user's cache directory (`$XDG_CACHE_HOME/smoke` or
/// `~/.cache/smoke`); remove the file there to have it measured again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiskProfile {
    /// [`ReaderKind::Uring`] or [`ReaderKind::Direct`].
    pub reader: ReaderKind,
    /// How much [`ReaderKind::Uring`] asks for at once, in bytes; rounded to whole pages.
    pub block_bytes: u64,
    /// How many blocks of one read it keeps in flight: 1 to 64.
    pub queue_depth: u32,
    /// What [`READERS`](Self::READERS) threads reached in this way; `None` where nothing was measured.
    pub bytes_per_second: Option<u64>,
}

impl Default for DiskProfile {
    /// What suits most disks, unmeasured: io_uring with 8 blocks of 2 MiB.
    fn default() -> Self {
        Self { reader: ReaderKind::Uring, block_bytes: 2 << 20, queue_depth: 8, bytes_per_second: None }
    }
}

/// A smaller file is read in less time than measuring takes.
const SMALLEST_MEASURED: u64 = 256 << 20;

impl DiskProfile {
    /// The profile of the disk on which a file lies: what is remembered of it, or else what is
    /// [measured](Self::measure) now and then remembered, or else the default. Files below 256 MiB are not measured.
    ///
    /// Takes one to two seconds, the first time.
    pub fn of(path: &Path) -> Self {
        Self::of_in(path, cache_directory().as_deref())
    }

    fn of_in(path: &Path, cache: Option<&Path>) -> Self {
        let Ok(disk) = Disk::of(path) else { return Self::default() };
        let record = cache.map(|directory| directory.join(format!("disk-{:x}.json", disk.device)));
        if let Some(profile) = record.as_deref().and_then(|record| disk.remembered(record)) {
            return profile;
        }
        if fs::metadata(path).map_or(0, |metadata| metadata.len()) < SMALLEST_MEASURED {
            return Self::default();
        }
        let Ok(profile) = Self::measure(path) else { return Self::default() };
        if let Some(record) = record {
            // Where it cannot be kept it is measured again the next time.
            let _ = disk.remember(&record, &profile);
        }
        profile
    }

    pub(crate) fn pace(&self) -> Pace {
        let block_bytes = usize::try_from(self.block_bytes).unwrap_or(usize::MAX);
        Pace { block_bytes, queue_depth: self.queue_depth as usize }
    }
}

/// What is kept of a profile. Another version, another disk or a value out of range: it is measured again.
#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    disk: Disk,
    reader: String,
    block_bytes: u64,
    queue_depth: u32,
    bytes_per_second: u64,
}

const VERSION: u32 = 4;

/// Tells disks apart. The number of a device may be another's after a restart, hence the size.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Disk {
    device: u64,
    file_system_blocks: u64,
}

impl Disk {
    fn of(path: &Path) -> io::Result<Self> {
        let device = fs::metadata(path)?.dev();
        Ok(Self { device, file_system_blocks: rustix::fs::statvfs(path)?.f_blocks })
    }

    fn remembered(&self, record: &Path) -> Option<DiskProfile> {
        let Record { version, disk, reader, block_bytes, queue_depth, bytes_per_second } =
            serde_json::from_slice(&fs::read(record).ok()?).ok()?;
        let reader = match reader.as_str() {
            "uring" => ReaderKind::Uring,
            "direct" => ReaderKind::Direct,
            _ => return None,
        };
        let profile = DiskProfile { reader, block_bytes, queue_depth, bytes_per_second: Some(bytes_per_second) };
        let is_sound = bytes_per_second > 0 && profile.pace() == profile.pace().clamped();
        (version == VERSION && disk == *self && is_sound).then_some(profile)
    }

    /// Writes a file beside the record and puts it in its place: another process sees the old one or the new one.
    fn remember(&self, record: &Path, profile: &DiskProfile) -> io::Result<()> {
        let reader = if profile.reader == ReaderKind::Direct { "direct" } else { "uring" };
        let content = serde_json::to_vec_pretty(&Record {
            version: VERSION,
            disk: *self,
            reader: reader.to_owned(),
            block_bytes: profile.block_bytes,
            queue_depth: profile.queue_depth,
            bytes_per_second: profile.bytes_per_second.unwrap_or(0),
        })?;
        fs::create_dir_all(record.parent().unwrap_or(Path::new(".")))?;
        let new = record.with_extension(format!("{}.new", std::process::id()));
        let written = fs::File::create(&new).and_then(|mut file| file.write_all(&content));
        written.and_then(|()| fs::rename(&new, record)).inspect_err(|_| {
            let _ = fs::remove_file(&new);
        })
    }
}

/// Where this user's programs keep what can be had again, for us: `$XDG_CACHE_HOME/smoke` or `~/.cache/smoke`. `None` where
/// neither is an absolute path.
pub fn cache_directory() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(caches.join("smoke"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> DiskProfile {
        DiskProfile {
            reader: ReaderKind::Direct,
            block_bytes: 1 << 20,
            queue_depth: 16,
            bytes_per_second: Some(1_234_567),
        }
    }

    /// A directory for caches, a file, its disk, and the record of it.
    fn remembered() -> (tempfile::TempDir, tempfile::NamedTempFile, Disk, PathBuf) {
        let cache = tempfile::tempdir().unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let disk = Disk::of(file.path()).unwrap();
        let record = cache.path().join(format!("disk-{:x}.json", disk.device));
        disk.remember(&record, &profile()).unwrap();
        (cache, file, disk, record)
    }

    #[test]
    fn what_was_measured_is_remembered() {
        let (cache, file, _, _) = remembered();
        assert_eq!(DiskProfile::of_in(file.path(), Some(cache.path())), profile());
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 1, "something was left behind");
        assert_eq!(DiskProfile::of_in(file.path(), None), DiskProfile::default());
        assert_eq!(DiskProfile::of_in(Path::new("/absent"), Some(cache.path())), DiskProfile::default());
    }

    #[test]
    fn records_that_are_wrong_are_ignored() {
        let (cache, file, disk, record) = remembered();
        let good = fs::read_to_string(&record).unwrap();
        for (from, to) in [
            ("\"version\": 4", "\"version\": 3"),
            ("direct", "mmap"),
            ("\"queue_depth\": 16", "\"queue_depth\": 0"),
            ("\"queue_depth\": 16", "\"queue_depth\": 65"),
            ("1048576", "1048577"),
            ("1048576", "0"),
            ("1048576", "18446744073709551615"),
            ("1234567", "0"),
            ("1234567", "-1"),
            ("\"device\"", "\"other\""),
            ("{", ""),
        ] {
            assert!(good.contains(from), "{from}");
            fs::write(&record, good.replacen(from, to, 1)).unwrap();
            assert_eq!(DiskProfile::of_in(file.path(), Some(cache.path())), DiskProfile::default(), "{from} to {to}");
        }
        for cut in 0..good.len() {
            fs::write(&record, &good[..cut]).unwrap();
            assert_eq!(DiskProfile::of_in(file.path(), Some(cache.path())), DiskProfile::default(), "cut at {cut}");
        }
        let other = Disk { file_system_blocks: disk.file_system_blocks + 1, ..disk };
        other.remember(&record, &profile()).unwrap();
        assert_eq!(DiskProfile::of_in(file.path(), Some(cache.path())), DiskProfile::default(), "another disk");
        fs::write(&record, good).unwrap();
        assert_eq!(DiskProfile::of_in(file.path(), Some(cache.path())), profile());
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_no_error() {
        let (_cache, file, disk, _) = remembered();
        assert!(disk.remember(&file.path().join("below/a/file.json"), &profile()).is_err());
        assert_eq!(DiskProfile::of_in(file.path(), Some(file.path())), DiskProfile::default());
    }
}
