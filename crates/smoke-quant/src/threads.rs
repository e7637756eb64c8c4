//! The one place that asks for threads.

use rayon::prelude::*;

/// How many threads [`for_each`] uses.
pub(crate) fn count() -> usize {
    rayon::current_num_threads()
}

/// Runs `run` for every piece, on all threads.
pub(crate) fn for_each(pieces: usize, run: impl Fn(usize) + Sync + Send) {
    if pieces == 1 { run(0) } else { (0..pieces).into_par_iter().for_each(run) }
}
