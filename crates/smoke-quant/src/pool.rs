//! Threads that wait for the pieces of a product.
//!
//! A model runs some hundred products for each token, of a fraction of a millisecond each, so what it costs to hand out
//! work counts. Here the calling thread works itself, helpers look for work a moment before they go to sleep, and nobody
//! waits for a helper that did not wake in time: pieces are taken one by one, and when none is left only those that are
//! being worked on are waited for.

use std::any::Any;
use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, TryLockError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// How long a helper looks for work before it sleeps: more than what lies between two products of a pass. Waking up takes
/// tens of microseconds, as long as a product of a small model.
const SPIN: Duration = Duration::from_micros(200);
/// Looks after which a helper looks at the clock, and a thread that waits offers its processor to others: to one that
/// completes reads, or to the very thread that is waited for.
const LOOKS: u32 = 256;

/// A function over pieces.
type Run<'a> = &'a (dyn Fn(usize) + Sync);

/// The calling thread and its helpers, which are started when they are first wanted and never stop.
pub(crate) struct Pool {
    /// Held by the thread whose job runs.
    helpers: Mutex<Vec<Helper>>,
    job: Arc<Job>,
}

struct Helper {
    thread: Thread,
    /// Whether it sleeps, or is about to.
    asleep: Arc<AtomicBool>,
}

/// The job that runs, or the last one that did.
#[derive(Default)]
struct Job {
    state: State,
    run: UnsafeCell<Option<Run<'static>>>,
    /// What each thread begins with, the caller first: neighbouring pieces, so that it reads memory in order.
    shares: RwLock<Vec<Share>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: of the fields only `run` is not `Sync` by itself. It is written by the one thread that holds the lock on the
// helpers, while no helper has joined and none can, and read by those that have joined.
unsafe impl Sync for Job {}
// SAFETY: the function in `run` is `Sync`, so any thread may hold the reference.
unsafe impl Send for Job {}

/// Pieces of which one thread takes all, but for those that others take when they have none left. On a cache line of its
/// own, as all threads write to it.
#[derive(Default)]
#[repr(align(64))]
struct Share {
    next: AtomicUsize,
    end: AtomicUsize,
}

impl Share {
    fn take(&self) -> Option<usize> {
        let piece = self.next.fetch_add(1, Ordering::Relaxed);
        (piece < self.end.load(Ordering::Relaxed)).then_some(piece)
    }
}

/// The number of the job in the upper half; below it how many helpers may join, whether any still may, and how many have
/// joined and not left.
#[derive(Default)]
struct State(AtomicU64);

const NUMBER: u32 = 32;
const WANTED: u32 = 17;
const OPEN: u64 = 1 << 16;
/// Helpers that fit the state.
const MOST_HELPERS: usize = (1 << 15) - 1;

impl State {
    /// Opens the next job for `wanted` helpers. Sequentially consistent, as is all that decides on sleep: either the
    /// caller sees that a helper sleeps, or the helper sees the job.
    fn open(&self, wanted: usize) {
        let number = (self.0.load(Ordering::Relaxed) >> NUMBER).wrapping_add(1);
        self.0.store(number << NUMBER | (wanted as u64) << WANTED | OPEN, Ordering::SeqCst);
    }

    /// Lets no more helpers join.
    fn close(&self) {
        self.0.fetch_and(!OPEN, Ordering::Relaxed);
    }

    /// Whether all who joined have left. What they wrote is then seen.
    fn is_left(&self) -> bool {
        self.0.load(Ordering::Acquire) & (OPEN - 1) == 0
    }

    /// Whether helper `index` may join a job other than the one with the number `last`.
    fn is_new(state: u64, index: usize, last: u64) -> bool {
        let wanted = (state & ((1 << NUMBER) - 1)) >> WANTED;
        state & OPEN != 0 && (index as u64) < wanted && state >> NUMBER != last
    }

    /// Joins a new job, if there is one, and says its number.
    fn join(&self, index: usize, last: u64) -> Option<u64> {
        let mut state = self.0.load(Ordering::SeqCst);
        while Self::is_new(state, index, last) {
            match self.0.compare_exchange_weak(state, state + 1, Ordering::Acquire, Ordering::SeqCst) {
                Ok(_) => return Some(state >> NUMBER),
                Err(now) => state = now,
            }
        }
        None
    }

    fn leave(&self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

impl Job {
    /// Takes the pieces of a share until there are no more, then those of the others.
    fn work(&self, run: Run<'_>, share: usize) {
        let shares = self.shares.read().unwrap_or_else(PoisonError::into_inner);
        let (before, own) = shares.split_at(share.min(shares.len()));
        for share in own.iter().chain(before) {
            while let Some(piece) = share.take() {
                run(piece);
            }
        }
    }

    /// Cuts pieces into shares for so many threads.
    fn share_out(&self, pieces: usize, threads: usize) {
        let mut shares = self.shares.write().unwrap_or_else(PoisonError::into_inner);
        if shares.len() < threads {
            shares.resize_with(threads, Share::default);
        }
        for (i, share) in shares.iter_mut().enumerate() {
            let bound = |i: usize| pieces * i.min(threads) / threads;
            *share.next.get_mut() = bound(i);
            *share.end.get_mut() = bound(i + 1);
        }
    }

    /// What a helper does with a job that it has joined.
    fn help(&self, index: usize) {
        // SAFETY: the caller wrote it before it opened the job, and does not write it again before this helper leaves.
        let run = unsafe { *self.run.get() }.expect("an open job has a function");
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.work(run, index + 1))) {
            *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
        self.state.leave();
    }

    fn helper(&self, index: usize, asleep: &AtomicBool) {
        let mut last = 0;
        loop {
            let start = Instant::now();
            while start.elapsed() < SPIN {
                for _ in 0..LOOKS {
                    if let Some(number) = self.state.join(index, last) {
                        self.help(index);
                        last = number;
                        break;
                    }
                    spin_loop();
                }
                thread::yield_now();
            }
            asleep.store(true, Ordering::SeqCst);
            if !State::is_new(self.state.0.load(Ordering::SeqCst), index, last) {
                thread::park();
            }
            asleep.store(false, Ordering::SeqCst);
        }
    }
}

/// Closes a job when it goes out of scope, also by a panic: after that no helper uses the borrowed function.
struct Closing<'a>(&'a Job);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.state.close();
        let mut looks = 0;
        while !self.0.state.is_left() {
            looks += 1;
            if looks < LOOKS { spin_loop() } else { thread::yield_now() }
        }
    }
}

impl Pool {
    pub(crate) fn new() -> Self {
        Self { helpers: Mutex::default(), job: Arc::default() }
    }

    /// Runs `run` for every piece, on the calling thread and up to `threads - 1` helpers, and returns when all are done.
    ///
    /// While another thread's job runs (or `run` itself asks for threads) the calling thread does all alone. Allocates
    /// when helpers are started, and not later.
    ///
    /// # Panics
    /// If `run` does, after all threads have left it.
    pub(crate) fn for_each(&self, pieces: usize, threads: usize, run: Run<'_>) {
        let wanted = threads.min(pieces).saturating_sub(1).min(MOST_HELPERS);
        let helpers = match self.helpers.try_lock() {
            Ok(helpers) => Some(helpers),
            // A piece panicked. The list itself is always whole.
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        let Some(mut helpers) = helpers.filter(|_| wanted > 0) else {
            return (0..pieces).for_each(run);
        };
        self.start(&mut helpers, wanted);
        // SAFETY: only the lifetime changes. The reference is used by helpers that have joined, and `Closing` waits until
        // they have left before this function ends, in whatever way. No other thread writes it, by the lock.
        unsafe { *self.job.run.get() = Some(std::mem::transmute::<Run<'_>, Run<'static>>(run)) };
        self.job.share_out(pieces, wanted + 1);
        self.job.state.open(wanted);
        let closing = Closing(&self.job);
        for helper in helpers.iter().take(wanted) {
            if helper.asleep.load(Ordering::SeqCst) {
                helper.thread.unpark();
            }
        }
        self.job.work(run, 0);
        drop(closing);
        let panic = self.job.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Starts helpers until there are so many, or the system gives no more.
    fn start(&self, helpers: &mut Vec<Helper>, wanted: usize) {
        for index in helpers.len()..wanted {
            let asleep = Arc::new(AtomicBool::new(false));
            let (job, is_asleep) = (Arc::clone(&self.job), Arc::clone(&asleep));
            let helper = thread::Builder::new().name(format!("smoke-quant {index}"));
            let Ok(handle) = helper.spawn(move || job.helper(index, &is_asleep)) else { break };
            helpers.push(Helper { thread: handle.thread().clone(), asleep });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a job and says how often each piece was run.
    fn counts(pool: &Pool, pieces: usize, threads: usize) -> Vec<usize> {
        let counts: Vec<AtomicUsize> = (0..pieces).map(|_| AtomicUsize::new(0)).collect();
        pool.for_each(pieces, threads, &|i| _ = counts[i].fetch_add(1, Ordering::Relaxed));
        counts.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn every_piece_runs_once() {
        let pool = Pool::new();
        let rounds = if cfg!(miri) { 5 } else { 3000 };
        for round in 0..rounds {
            let (pieces, threads) = (round % 40, 1 + round % 5);
            assert_eq!(counts(&pool, pieces, threads), vec![1; pieces], "round {round}");
        }
    }

    #[test]
    fn helpers_wake_from_sleep_and_work_at_the_same_time() {
        let pool = Pool::new();
        for _ in 0..3 {
            // Nobody leaves before both are there: one thread alone would wait for ever.
            let barrier = std::sync::Barrier::new(2);
            pool.for_each(2, 2, &|_| _ = barrier.wait());
            let asleep = Arc::clone(&pool.helpers.lock().unwrap()[0].asleep);
            while !asleep.load(Ordering::SeqCst) {
                thread::yield_now();
            }
        }
    }

    #[test]
    fn jobs_of_several_threads_and_nested_jobs_all_run() {
        let pool = Pool::new();
        let rounds = if cfg!(miri) { 2 } else { 500 };
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..rounds {
                        let total = AtomicUsize::new(0);
                        pool.for_each(7, 3, &|_| _ = total.fetch_add(counts(&pool, 5, 3).len(), Ordering::Relaxed));
                        assert_eq!(total.into_inner(), 35);
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_leaves_the_pool_usable() {
        let pool = Pool::new();
        for bad in 0..8 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.for_each(8, 3, &|i| assert_ne!(i, bad, "the piece that panics"));
            }));
            assert!(result.is_err());
            assert_eq!(counts(&pool, 9, 3), [1; 9]);
        }
    }

    #[test]
    fn no_more_threads_work_than_are_asked_for() {
        let pool = Pool::new();
        counts(&pool, 10, 4);
        let threads = Mutex::new(std::collections::HashSet::new());
        pool.for_each(200, 2, &|_| _ = threads.lock().unwrap().insert(thread::current().id()));
        assert!(threads.into_inner().unwrap().len() <= 2);
    }
}
