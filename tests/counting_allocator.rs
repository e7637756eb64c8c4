//! The allocator of the system, for tests that count what is allocated. Whoever installs it has a binary of its own with
//! one test, for it hears of the whole process.

use std::alloc::{GlobalAlloc, Layout, System};

/// Tells the function of every allocation and its size in bytes, those that grow or shrink among them.
pub(crate) struct Counting(pub(crate) fn(usize));

// SAFETY: everything is passed on to the allocator of the system as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0(layout.size());
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.0(layout.size());
        // SAFETY: see above.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.0(size);
        // SAFETY: see above.
        unsafe { System.realloc(start, layout, size) }
    }
    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: see above.
        unsafe { System.dealloc(start, layout) }
    }
}
