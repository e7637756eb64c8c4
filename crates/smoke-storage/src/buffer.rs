//! Page-aligned memory.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::mapping::{HUGE_PAGE, Mapping};

/// The alignment of every buffer, and the unit of its capacity.
const PAGE: usize = 4096;

/// Buffers of at least this size are mapped, so that freeing them gives their memory back to the system at once: an
/// allocator may keep it, and then the process takes more than the ledger says.
const MAPPED: usize = 64 << 10;

/// Bytes that begin on a page: what direct reads fill and kernels read.
///
/// From 2 MiB on they lie on huge pages where the system gives them, which more than doubles the rate of direct reads on
/// some disks. Memory that was never touched costs nothing; touching it the first time does, so a buffer that is used
/// again ([`resize`](Self::resize)) is filled faster than a new one.
pub struct AlignedBuffer {
    memory: Memory,
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
        Self { memory: Memory::zeroed(capacity(len)), len }
    }

    /// Changes the length, keeping the memory that is there where it is large: to be filled anew.
    ///
    /// Afterwards every byte is either what some byte of the buffer was before or zero.
    ///
    /// # Panics
    /// If the system has no memory left, like any allocation.
    pub fn resize(&mut self, len: usize) {
        let bytes = capacity(len);
        match &mut self.memory {
            Memory::Mapped(mapping) if bytes >= MAPPED => mapping.resize(bytes),
            _ if bytes == capacity(self.len) => {}
            _ => {
                // The old memory goes before the new comes, so that there are never both.
                (self.memory, self.len) = (Memory::None, 0);
                self.memory = Memory::zeroed(bytes);
            }
        }
        self.len = len;
    }

    /// The memory that a buffer of `len` bytes occupies: a whole number of pages, of huge ones from 2 MiB on where that
    /// wastes less than a sixteenth. An expert of 2.4 MiB in two huge pages would waste two thirds of itself: it lies on
    /// one, and its end on small pages.
    pub fn capacity_for(len: u64) -> u64 {
        len.next_multiple_of(page(len))
    }

    /// The memory that this buffer occupies.
    pub fn capacity_bytes(&self) -> u64 {
        Self::capacity_for(self.len as u64)
    }
}

fn capacity(len: usize) -> usize {
    len.checked_next_multiple_of(page(len as u64) as usize).expect("a length of memory that can exist")
}

/// What a buffer of `len` bytes is a whole number of.
fn page(len: u64) -> u64 {
    let (page, huge) = (PAGE as u64, HUGE_PAGE as u64);
    if len < huge || len.checked_next_multiple_of(huge).is_some_and(|whole| whole - len > len / 16) {
        page
    } else {
        huge
    }
}

/// Where the memory of a buffer comes from.
enum Memory {
    None,
    Allocated(Allocation),
    Mapped(Mapping),
}

#[repr(align(4096))]
struct Page;

impl Memory {
    /// Zeros, a whole number of pages.
    fn zeroed(bytes: usize) -> Self {
        match bytes {
            0 => Self::None,
            _ if bytes < MAPPED => Self::Allocated(Allocation::zeroed(bytes)),
            _ => Self::Mapped(Mapping::zeroed(bytes)),
        }
    }

    fn start(&self) -> NonNull<u8> {
        match self {
            Self::None => NonNull::<Page>::dangling().cast(),
            Self::Allocated(allocation) => allocation.start,
            Self::Mapped(mapping) => mapping.start(),
        }
    }
}

/// Memory of the allocator.
struct Allocation {
    start: NonNull<u8>,
    layout: Layout,
}

impl Allocation {
    fn zeroed(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes, PAGE).expect("a few pages");
        assert!(layout.size() > 0, "nothing is not allocated");
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        Self { start: NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout)), layout }
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: `zeroed` allocated it with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: at least `len` initialised bytes begin at `start`, and a shared borrow of the buffer forbids writing.
        unsafe { std::slice::from_raw_parts(self.memory.start().as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: at least `len` initialised bytes begin at `start`, and the borrow of the buffer is unique.
        unsafe { std::slice::from_raw_parts_mut(self.memory.start().as_ptr(), self.len) }
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
    use crate::mapping::HUGE_PAGE;

    const SIZES: [usize; 14] = [
        0,
        1,
        PAGE - 1,
        PAGE,
        PAGE + 1,
        MAPPED - 1,
        MAPPED,
        MAPPED + 1,
        3 * MAPPED + 5,
        HUGE_PAGE - 1,
        HUGE_PAGE,
        HUGE_PAGE + 5 * PAGE + 9,
        2 * HUGE_PAGE + 3 * PAGE,
        5 * HUGE_PAGE - 7,
    ];

    /// The bytes of whole pages of 4 KiB, or of 2 MiB where that is little more.
    fn pages(len: usize) -> u64 {
        let [small, huge] = [4 << 10, 2 << 20].map(|page| len.div_ceil(page) * page);
        (if len >= 2 << 20 && huge - len <= len / 16 { huge } else { small }) as u64
    }

    #[test]
    fn every_size_is_aligned_zeroed_and_writable() {
        for len in SIZES {
            let mut buffer = AlignedBuffer::zeroed(len);
            assert_eq!(buffer.len(), len);
            assert!(buffer.as_ptr().addr().is_multiple_of(PAGE));
            assert!(len < HUGE_PAGE || buffer.as_ptr().addr().is_multiple_of(HUGE_PAGE));
            assert!(buffer.iter().all(|&byte| byte == 0));
            buffer.fill(7);
            assert!(buffer.iter().all(|&byte| byte == 7));
            assert_eq!(buffer.capacity_bytes(), pages(len));
        }
    }

    #[test]
    fn every_size_becomes_every_other() {
        for from in SIZES {
            for to in SIZES {
                let mut buffer = AlignedBuffer::zeroed(from);
                buffer.fill(7);
                // Another mapping right behind, often: growing must not run into it.
                let mut neighbour = AlignedBuffer::zeroed(MAPPED);
                neighbour.fill(9);
                buffer.resize(to);
                assert_eq!((buffer.len(), buffer.capacity_bytes()), (to, pages(to)));
                assert!(buffer.as_ptr().addr().is_multiple_of(PAGE));
                assert!(buffer.iter().all(|&byte| byte == 7 || byte == 0), "{from} to {to}");
                // Whole huge pages stay.
                let kept = from.min(to) / HUGE_PAGE * HUGE_PAGE;
                assert!(buffer[..kept].iter().all(|&byte| byte == 7), "{from} to {to}");
                buffer.fill(8);
                assert!(buffer.iter().all(|&byte| byte == 8) && neighbour.iter().all(|&byte| byte == 9));
                // And back again, more than once.
                for len in [from, to, 0, from] {
                    buffer.resize(len);
                    buffer.fill(3);
                }
            }
        }
    }

    #[test]
    fn buffers_cross_threads() {
        let mut buffer = AlignedBuffer::zeroed(2 * MAPPED);
        buffer[MAPPED] = 9;
        let byte = std::thread::spawn(move || buffer[MAPPED]).join().unwrap();
        assert_eq!(byte, 9);
    }

    /// Page faults of this thread that needed no disk.
    fn faults() -> i64 {
        // SAFETY: zeros are a valid `rusage`, and the call only writes to it.
        unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            assert_eq!(libc::getrusage(libc::RUSAGE_THREAD, &mut usage), 0);
            usage.ru_minflt
        }
    }

    #[test]
    fn a_buffer_used_again_faults_in_no_page() {
        let len = 8 * HUGE_PAGE;
        let mut buffer = AlignedBuffer::zeroed(len);
        buffer.fill(1);
        let before = faults();
        for _ in 0..4 {
            buffer.resize(len - 2 * HUGE_PAGE);
            buffer.resize(len - 2 * HUGE_PAGE - 100);
            buffer.fill(2);
        }
        let again = faults() - before;
        assert!(again <= 4, "{again} page faults in memory that was there");
        let before = faults();
        AlignedBuffer::zeroed(len).fill(1);
        assert!(faults() - before >= 8, "a new buffer should fault, else this test says nothing");
    }
}
