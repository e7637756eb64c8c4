//! One file, from the hub to its place, whatever happens in between.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::client::{Client, Remote};
use crate::error::HubError;
use crate::id::ModelId;
use crate::options::HubOptions;

/// Bytes read and written at once.
const BLOCK: usize = 256 << 10;

/// Fetches a file to `blob`, which is not there yet, through `blob.incomplete`, which may be; `report` is told how many
/// bytes there are. Nobody else does the same meanwhile.
pub(crate) fn download(
    client: &Client,
    options: &HubOptions,
    model: &ModelId,
    remote: &Remote,
    blob: &Path,
    report: &mut dyn FnMut(u64),
) -> Result<(), HubError> {
    let mut partial = Partial::open(blob, remote)?;
    partial.check_room(remote)?;
    let mut pauses = options.pauses.iter();
    loop {
        report(partial.bytes);
        let before = partial.bytes;
        let received = partial.receive(client, model, remote, report).and_then(|()| partial.finish(remote, blob));
        match received {
            // What an earlier run left was not the beginning of this file.
            Err(HubError::Checksum { .. } | HubError::Status { status: 416, .. }) if partial.inherited => {
                partial.restart()?;
            }
            Err(error @ (HubError::Length { .. } | HubError::Checksum { .. })) => {
                partial.discard()?;
                return Err(error);
            }
            Err(error) if error.is_passing() => {
                if partial.bytes > before {
                    pauses = options.pauses.iter();
                }
                match pauses.next() {
                    Some(&pause) => std::thread::sleep(pause),
                    None => return Err(error),
                }
            }
            other => return other,
        }
    }
}

/// A file that is not whole, with the sum of what is there.
struct Partial {
    file: File,
    path: PathBuf,
    bytes: u64,
    sum: Option<Sha256>,
    /// Whether its beginning is an earlier run's.
    inherited: bool,
}

impl Partial {
    fn open(blob: &Path, remote: &Remote) -> Result<Self, HubError> {
        let mut path = blob.as_os_str().to_owned();
        path.push(".incomplete");
        let path = PathBuf::from(path);
        let opened = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = opened.map_err(|cause| HubError::Io { path: path.clone(), cause })?;
        let sum = remote.sha256.is_some().then(Sha256::new);
        let mut partial = Self { file, path, bytes: 0, sum, inherited: false };
        let there = partial.file.metadata().map_err(|cause| partial.io(cause))?.len();
        // What would be whole must be known by more than its length.
        if there > remote.bytes || (there == remote.bytes && partial.sum.is_none()) {
            partial.restart()?;
        } else if there > 0 {
            partial.inherit().map_err(|cause| partial.io(cause))?;
        }
        Ok(partial)
    }

    /// Takes in what is there, and ends where the next bytes go.
    fn inherit(&mut self) -> io::Result<()> {
        self.bytes = match &mut self.sum {
            Some(sum) => io::copy(&mut self.file, sum)?,
            None => self.file.seek(SeekFrom::End(0))?,
        };
        self.inherited = true;
        Ok(())
    }

    fn restart(&mut self) -> Result<(), HubError> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        emptied.map_err(|cause| self.io(cause))?;
        self.bytes = 0;
        self.inherited = false;
        self.sum = self.sum.as_ref().map(|_| Sha256::new());
        Ok(())
    }

    fn discard(&self) -> Result<(), HubError> {
        fs::remove_file(&self.path).map_err(|cause| self.io(cause))
    }

    #[cfg(unix)]
    fn check_room(&self, remote: &Remote) -> Result<(), HubError> {
        let disk = rustix::fs::fstatvfs(&self.file).map_err(|cause| self.io(cause.into()))?;
        let (needed_bytes, free_bytes) = (remote.bytes - self.bytes, disk.f_bavail.saturating_mul(disk.f_frsize));
        // Some file systems do not know their size.
        if disk.f_blocks > 0 && needed_bytes > free_bytes {
            return Err(HubError::NoSpace { path: self.path.clone(), needed_bytes, free_bytes });
        }
        Ok(())
    }

    /// Writing says it where it cannot be asked.
    #[cfg(not(unix))]
    fn check_room(&self, _remote: &Remote) -> Result<(), HubError> {
        Ok(())
    }

    /// Receives what is missing. What comes before an error is kept.
    fn receive(
        &mut self,
        client: &Client,
        model: &ModelId,
        remote: &Remote,
        report: &mut dyn FnMut(u64),
    ) -> Result<(), HubError> {
        if self.bytes == remote.bytes {
            return Ok(());
        }
        let mut incoming = client.open(model, remote, self.bytes)?;
        if incoming.start < self.bytes {
            self.restart()?;
        }
        let mut block = vec![0; BLOCK];
        loop {
            let received = match incoming.reader.read(&mut block) {
                Ok(0) if self.bytes < remote.bytes => Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other,
            };
            let received = received.map_err(|cause| {
                let (url, received_bytes) = (remote.url.clone(), self.bytes);
                HubError::Broken { url, received_bytes, cause }
            })?;
            if received == 0 {
                return Ok(());
            }
            let actual_bytes = self.bytes + received as u64;
            if actual_bytes > remote.bytes {
                return Err(HubError::Length { url: remote.url.clone(), expected_bytes: remote.bytes, actual_bytes });
            }
            self.append(&block[..received], remote)?;
            report(self.bytes);
        }
    }

    fn append(&mut self, block: &[u8], remote: &Remote) -> Result<(), HubError> {
        self.file.write_all(block).map_err(|cause| match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                let (path, needed_bytes) = (self.path.clone(), remote.bytes - self.bytes);
                HubError::NoSpace { path, needed_bytes, free_bytes: 0 }
            }
            _ => self.io(cause),
        })?;
        if let Some(sum) = &mut self.sum {
            sum.update(block);
        }
        self.bytes += block.len() as u64;
        Ok(())
    }

    /// Puts the file in its place if it is the one that was announced.
    fn finish(&self, remote: &Remote, blob: &Path) -> Result<(), HubError> {
        if let (Some(sum), Some(expected)) = (&self.sum, &remote.sha256) {
            let actual: String = sum.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            if actual != *expected {
                return Err(HubError::Checksum { url: remote.url.clone(), expected: expected.clone(), actual });
            }
        }
        let placed = self.file.sync_all().and_then(|()| fs::rename(&self.path, blob));
        placed.map_err(|cause| self.io(cause))
    }

    fn io(&self, cause: io::Error) -> HubError {
        HubError::Io { path: self.path.clone(), cause }
    }
}
