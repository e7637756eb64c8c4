//! Page-aligned memory.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// The alignment of every buffer, and the unit of its capacity.
const PAGE: usize = 4096;

/// Buffers of at least this size are mapped, so that freeing them gives their memory back to the system at once: an
/// allocator may keep it, and then the process takes more than the ledger says.
const MAPPED: usize = 64 << 10;

/// Bytes that begin on a page: what direct reads fill and kernels read.
pub struct AlignedBuffer {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the buffer owns its memory alone; shared references only read it.
unsafe impl Send for AlignedBuffer {}
// SAFETY: see above.
unsafe impl Sync for AlignedBuffer {}

impl AlignedBuffer {
    /// A buffer of `len` zeros.
    ///
    /// # Panics
    /// If the system has no memory left, like any allocation.
    pub fn zeroed(len: usize) -> Self {
        let start = match Memory::of(len) {
            Memory::None => NonNull::<Page>::dangling().cast(),
            Memory::Allocated(layout) => {
                // SAFETY: the layout's size is not zero.
                let start = unsafe { alloc_zeroed(layout) };
                NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout))
            }
            Memory::Mapped(bytes) => {
                let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
                // SAFETY: a new anonymous mapping touches no memory that is in use.
                let start = unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, protection, flags) };
                start.ok().and_then(|start| NonNull::new(start.cast())).unwrap_or_else(|| {
                    handle_alloc_error(Layout::from_size_align(bytes, PAGE).unwrap_or(Layout::new::<Page>()))
                })
            }
        };
        Self { start, len }
    }

    /// The memory that a buffer of `len` bytes occupies: a whole number of pages.
    pub fn capacity_for(len: u64) -> u64 {
        len.next_multiple_of(PAGE as u64)
    }

    /// The memory that this buffer occupies.
    pub fn capacity_bytes(&self) -> u64 {
        Self::capacity_for(self.len as u64)
    }
}

/// Where the memory of a buffer of some length comes from.
enum Memory {
    None,
    Allocated(Layout),
    Mapped(usize),
}

#[repr(align(4096))]
struct Page;

impl Memory {
    fn of(len: usize) -> Self {
        let bytes = len.checked_next_multiple_of(PAGE).expect("a length of memory that can exist");
        match Layout::from_size_align(bytes, PAGE) {
            _ if bytes == 0 => Self::None,
            Ok(layout) if bytes < MAPPED => Self::Allocated(layout),
            _ => Self::Mapped(bytes),
        }
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        match Memory::of(self.len) {
            Memory::None => {}
            // SAFETY: `zeroed` allocated it with this layout, since the length is the same.
            Memory::Allocated(layout) => unsafe { dealloc(self.start.as_ptr(), layout) },
            Memory::Mapped(bytes) => {
                // SAFETY: `zeroed` mapped these bytes, and nobody can refer to them any more.
                let _ = unsafe { munmap(self.start.as_ptr().cast(), bytes) };
            }
        }
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` initialised bytes begin at `start`, and a shared borrow of the buffer forbids writing.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: `len` initialised bytes begin at `start`, and the borrow of the buffer is unique.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlignedBuffer").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_is_aligned_zeroed_and_writable() {
        for len in [0, 1, PAGE - 1, PAGE, PAGE + 1, MAPPED - 1, MAPPED, MAPPED + 1, 3 * MAPPED + 5] {
            let mut buffer = AlignedBuffer::zeroed(len);
            assert_eq!(buffer.len(), len);
            assert!(buffer.as_ptr().addr().is_multiple_of(PAGE));
            assert!(buffer.iter().all(|&byte| byte == 0));
            buffer.fill(7);
            assert!(buffer.iter().all(|&byte| byte == 7));
            assert_eq!(buffer.capacity_bytes(), len.next_multiple_of(PAGE) as u64);
        }
    }

    #[test]
    fn buffers_cross_threads() {
        let mut buffer = AlignedBuffer::zeroed(2 * MAPPED);
        buffer[MAPPED] = 9;
        let byte = std::thread::spawn(move || buffer[MAPPED]).join().unwrap();
        assert_eq!(byte, 9);
    }
}
