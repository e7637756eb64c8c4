use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use smoke_core::UnitId;
use smoke_storage::SourceError;

use crate::loader::Shared;
use crate::queue::Priority;

/// Why a load brought no value.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The source failed; every waiter gets the same error.
    #[error(transparent)]
    Source(Arc<SourceError>),
    /// Nobody wanted it any more, or its memory was needed for something more urgent. Asking again starts anew.
    #[error("the load was cancelled")]
    Cancelled,
    /// The loader was dropped before the load ended.
    #[error("the loader has stopped")]
    Stopped,
    /// The code that reads the unit panicked.
    #[error("reading the unit panicked, which is a bug in the source")]
    Panicked,
}

/// A handle of a load that was submitted to a [`Loader`](crate::Loader).
///
/// Wait for it with [`wait`](Self::wait), or await it: a `Load` is a future of any executor. Every handle of a load gets
/// the same value or the same error. Dropping the last handle cancels the load, unless it was
/// [detached](Self::detach).
#[must_use = "dropping the last handle cancels the load"]
pub struct Load<V> {
    unit: UnitId,
    outcome: Arc<Outcome<V>>,
    loader: Arc<Shared<V>>,
}

/// What becomes of a load, shared by the thread that runs it and all handles.
pub(crate) struct Outcome<V> {
    progress: Mutex<Progress<V>>,
    ended: Condvar,
    stop: AtomicBool,
    submitted_as: Priority,
    /// Changed under the loader's lock only.
    handles: AtomicUsize,
}

struct Progress<V> {
    result: Option<Result<V, LoadError>>,
    wakers: Vec<Waker>,
}

impl<V> Outcome<V> {
    pub(crate) fn new(submitted_as: Priority) -> Self {
        let progress = Mutex::new(Progress { result: None, wakers: Vec::new() });
        let handles = AtomicUsize::new(0);
        Self { progress, ended: Condvar::new(), stop: AtomicBool::new(false), submitted_as, handles }
    }

    pub(crate) fn handles(&self) -> usize {
        self.handles.load(Ordering::SeqCst)
    }

    pub(crate) fn add_handle(&self) {
        self.handles.fetch_add(1, Ordering::SeqCst);
    }

    /// Returns how many are left.
    pub(crate) fn drop_handle(&self) -> usize {
        self.handles.fetch_sub(1, Ordering::SeqCst) - 1
    }

    pub(crate) fn set_stop(&self, stop: bool) {
        self.stop.store(stop, Ordering::Relaxed);
    }

    pub(crate) fn should_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(crate) fn complete(&self, result: Result<V, LoadError>) {
        let mut progress = self.lock();
        progress.result = Some(result);
        let wakers = std::mem::take(&mut progress.wakers);
        drop(progress);
        self.ended.notify_all();
        wakers.into_iter().for_each(Waker::wake);
        if self.handles() == 0 {
            self.forget_result();
        }
    }

    /// Drops the value as soon as nobody can ask for it, though the thread that loaded it may hold the outcome a moment
    /// longer: a value may be a lease, and what it holds must be free when the last handle is gone.
    pub(crate) fn forget_result(&self) {
        let result = self.lock().result.take();
        // Not under the lock.
        drop(result);
    }

    fn lock(&self) -> MutexGuard<'_, Progress<V>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V> Load<V> {
    /// The caller has counted this handle.
    pub(crate) fn new(unit: UnitId, outcome: Arc<Outcome<V>>, loader: Arc<Shared<V>>) -> Self {
        Self { unit, outcome, loader }
    }

    /// The unit that is loaded.
    pub fn unit(&self) -> UnitId {
        self.unit
    }

    /// The priority that the load began with, whatever it was raised to since.
    pub fn submitted_as(&self) -> Priority {
        self.outcome.submitted_as
    }

    /// Whether the load has ended, well or not.
    pub fn is_ended(&self) -> bool {
        self.outcome.lock().result.is_some()
    }

    /// Lets the load go on without this handle, and without any. It can still be joined, or cancelled by the loader.
    pub fn detach(self) {
        self.loader.detach(self.unit, &self.outcome);
    }
}

impl<V: Clone> Load<V> {
    /// Blocks until the load has ended.
    ///
    /// # Errors
    ///
    /// Why it brought no value; the same for every waiter.
    pub fn wait(&self) -> Result<V, LoadError> {
        let mut progress = self.outcome.lock();
        loop {
            if let Some(result) = &progress.result {
                return result.clone();
            }
            progress = self.outcome.ended.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<V: Clone> Future for Load<V> {
    type Output = Result<V, LoadError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut progress = self.outcome.lock();
        if let Some(result) = &progress.result {
            return Poll::Ready(result.clone());
        }
        if !progress.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
            progress.wakers.push(context.waker().clone());
        }
        Poll::Pending
    }
}

impl<V> Clone for Load<V> {
    fn clone(&self) -> Self {
        self.loader.add_handle(&self.outcome);
        Self { unit: self.unit, outcome: Arc::clone(&self.outcome), loader: Arc::clone(&self.loader) }
    }
}

impl<V> Drop for Load<V> {
    fn drop(&mut self) {
        self.loader.drop_handle(self.unit, &self.outcome);
    }
}

impl<V> fmt::Debug for Load<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Load").field("unit", &self.unit).field("ended", &self.is_ended()).finish_non_exhaustive()
    }
}
