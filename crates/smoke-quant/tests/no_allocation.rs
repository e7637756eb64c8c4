//! Products allocate nothing once threads and scratch are there. A binary of its own, because it counts every allocation of
//! the process.

#[path = "../../../tests/counting_allocator.rs"]
mod counting_allocator;

use std::sync::atomic::{AtomicUsize, Ordering};

use smoke_core::Encoding;
use smoke_quant::{Isa, PackedMatrix};

use counting_allocator::Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting(|_| _ = ALLOCATIONS.fetch_add(1, Ordering::Relaxed));

/// One test only: another beside it would allocate as it likes.
#[test]
fn products_allocate_nothing_after_the_first() {
    const ROWS: usize = 128;
    const COLUMNS: usize = 1024;
    const TOKENS: [usize; 4] = [1, 2, 7, 64];
    let x = vec![0.25; 64 * COLUMNS];
    let mut y = vec![0.0; 64 * COLUMNS];
    for encoding in [Encoding::F32, Encoding::BF16, Encoding::Q8_0, Encoding::Q4_0, Encoding::Q4_K, Encoding::Q6_K] {
        let bytes = vec![0; encoding.bytes_for((ROWS * COLUMNS) as u64).expect("whole blocks") as usize];
        let matrix = PackedMatrix::new(encoding, ROWS, COLUMNS, &bytes).expect("the shape fits");
        for &isa in Isa::available() {
            for tokens in TOKENS {
                let mut run = || {
                    matrix.multiply_with(isa, &x[..tokens * COLUMNS], &mut y[..tokens * ROWS], ROWS);
                    matrix.multiply_transposed_with(isa, &x, ROWS, &mut y[..tokens * COLUMNS]);
                };
                let mut allocations = || {
                    let before = ALLOCATIONS.load(Ordering::Relaxed);
                    (0..20).for_each(|_| run());
                    ALLOCATIONS.load(Ordering::Relaxed) - before
                };
                // A helper that sleeps through the first calls makes its scratch in a later one, once. What allocates in
                // every call, or now and then, never has twenty calls in a row without.
                let quiet = (0..20).any(|_| allocations() == 0);
                assert!(quiet, "{encoding} on {isa:?} with {tokens} tokens");
            }
        }
    }
}
