//! The one place that asks for threads.

use std::sync::OnceLock;

use crate::pool::Pool;

/// How many threads [`for_each`] uses: as many as the current rayon pool has, which is where programs say how many they
/// want. The threads are the crate's own: a thread outside rayon's pool that asks it for work waits for two others to wake
/// up, which made a pass of a model of 135 M weights take a third longer.
pub(crate) fn count() -> usize {
    rayon::current_num_threads()
}

/// Runs `run` for every piece, on all threads.
pub(crate) fn for_each(pieces: usize, run: impl Fn(usize) + Sync) {
    static POOL: OnceLock<Pool> = OnceLock::new();
    if pieces == 1 { run(0) } else { POOL.get_or_init(Pool::new).for_each(pieces, count(), &run) }
}
