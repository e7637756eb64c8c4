//! Weights are not in memory twice: what was read is not in the page cache afterwards.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use smoke_storage::{AlignedBuffer, Checkpoint, ReaderKind, WeightSource};

use crate::files::{directory, safetensors, tensor, write};

/// How many pages of a file the page cache holds.
fn cached_pages(path: &Path) -> usize {
    let file = File::open(path).unwrap();
    let len = file.metadata().unwrap().len() as usize;
    let mut pages = vec![0_u8; len.div_ceil(4096)];
    // SAFETY: a new read-only mapping of a file, which is never read and unmapped before the end; `mincore` writes one
    // byte per page of it.
    unsafe {
        let map = libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0);
        assert_ne!(map, libc::MAP_FAILED);
        assert_eq!(libc::mincore(map, len, pages.as_mut_ptr()), 0);
        libc::munmap(map, len);
    }
    pages.iter().filter(|&&page| page & 1 == 1).count()
}

/// Has the page cache forget a file.
fn forget(path: &Path) {
    let file = File::open(path).unwrap();
    file.sync_all().unwrap();
    // SAFETY: advice about a file that is open.
    assert_eq!(unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) }, 0);
}

#[test]
fn reading_leaves_nothing_in_the_page_cache() {
    let tensors = [tensor("a", 9 << 20), tensor("b", 5_000_001), tensor("c", 300_000)];
    let directory = directory();
    let path = write(&directory, "model.safetensors", safetensors(&tensors));
    for kind in [ReaderKind::Auto, ReaderKind::Uring, ReaderKind::Direct, ReaderKind::Pread, ReaderKind::Mmap] {
        let checkpoint = Checkpoint::open_with(&path, kind).unwrap();
        forget(&path);
        assert_eq!(cached_pages(&path), 0, "the page cache does not forget");
        for tensor in &tensors {
            let extent = checkpoint.index().get(&tensor.name).unwrap().extent;
            let mut buffer = AlignedBuffer::zeroed(extent.len as usize);
            checkpoint.read_at(extent, &mut buffer).unwrap();
            assert!(buffer[..] == tensor.bytes[..]);
        }
        let pages = cached_pages(&path);
        match kind {
            // So the test can fail.
            ReaderKind::Mmap => assert!(pages > 3000, "mapped memory is the page cache, but only {pages} are there"),
            _ => assert_eq!(pages, 0, "{kind:?} leaves pages behind"),
        }
    }
}
