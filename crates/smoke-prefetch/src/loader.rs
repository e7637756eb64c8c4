use std::collections::HashMap;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use smoke_core::UnitId;

use crate::load::{Load, LoadError, Outcome};
use crate::queue::{Priority, Queue};

/// Threads that read units, the most urgent first, each unit once however many ask for it.
///
/// How a unit is read is told with each load: a closure that does it and is asked now and then whether to stop. It owns
/// what the load has charged, so that a load that fails, is cancelled or never begins gives its bytes back by being
/// dropped.
///
/// Dropping the loader cancels what is in flight and joins the threads.
///
/// ```
/// use smoke_core::UnitId;
/// use smoke_prefetch::{Loader, Priority};
///
/// let loader: Loader<String> = Loader::new(2, || {})?;
/// let load = loader.submit(UnitId(7), Priority::Demand, |_should_stop| Ok("seven".to_owned()));
/// assert_eq!(load.wait()?, "seven");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Loader<V> {
    shared: Arc<Shared<V>>,
    threads: Vec<JoinHandle<()>>,
}

type Read<V> = Box<dyn FnOnce(&dyn Fn() -> bool) -> Result<V, LoadError> + Send>;

/// What the loader, its threads and the handles share.
pub(crate) struct Shared<V> {
    state: Mutex<State<V>>,
    work: Condvar,
    after_each: Box<dyn Fn() + Send + Sync>,
}

struct State<V> {
    queue: Queue,
    loads: HashMap<UnitId, Entry<V>>,
    stopping: bool,
}

struct Entry<V> {
    outcome: Arc<Outcome<V>>,
    /// Taken by the thread that runs it.
    read: Option<Read<V>>,
    priority: Priority,
    detached: bool,
}

impl<V: Clone + Send + 'static> Loader<V> {
    /// Starts `io_threads` threads (at least one). `after_each` is called once for each load that ended, in whatever way,
    /// after what it held is given back; on the thread that ended it, with no lock held.
    ///
    /// # Errors
    ///
    /// If the system starts no more threads.
    pub fn new(io_threads: usize, after_each: impl Fn() + Send + Sync + 'static) -> io::Result<Self> {
        let state = State { queue: Queue::default(), loads: HashMap::new(), stopping: false };
        let shared =
            Arc::new(Shared { state: Mutex::new(state), work: Condvar::new(), after_each: Box::new(after_each) });
        let mut loader = Self { shared, threads: Vec::new() };
        for number in 0..io_threads.max(1) {
            let shared = Arc::clone(&loader.shared);
            let thread = thread::Builder::new().name(format!("smoke-io-{number}")).spawn(move || shared.run())?;
            loader.threads.push(thread);
        }
        Ok(loader)
    }

    /// Loads `unit` by calling `read` on one of the threads, in the order of `priority`.
    ///
    /// Where the unit is in flight already, this joins that load as [`join`](Self::join) does and drops `read`.
    ///
    /// `read` is asked to stop by its argument turning true, whereupon it should return [`LoadError::Cancelled`] soon;
    /// finishing is no mistake.
    pub fn submit(
        &self,
        unit: UnitId,
        priority: Priority,
        read: impl FnOnce(&dyn Fn() -> bool) -> Result<V, LoadError> + Send + 'static,
    ) -> Load<V> {
        let mut state = self.shared.lock();
        if let Some(load) = self.shared.join(&mut state, unit, priority) {
            return load;
        }
        let outcome = Arc::new(Outcome::new(priority));
        outcome.add_handle();
        let entry = Entry { outcome: Arc::clone(&outcome), read: Some(Box::new(read)), priority, detached: false };
        state.loads.insert(unit, entry);
        state.queue.push(unit, priority);
        drop(state);
        self.shared.work.notify_one();
        Load::new(unit, outcome, Arc::clone(&self.shared))
    }

    /// A further handle of the load of `unit`, if it is in flight, which becomes at least as urgent as `priority`.
    ///
    /// A load that was told to stop is told to go on; if it stopped all the same, its result is
    /// [`LoadError::Cancelled`].
    pub fn join(&self, unit: UnitId, priority: Priority) -> Option<Load<V>> {
        self.shared.join(&mut self.shared.lock(), unit, priority)
    }
}

impl<V> Loader<V> {
    /// Whether `unit` waits for a thread or is being read.
    pub fn contains(&self, unit: UnitId) -> bool {
        self.shared.lock().loads.contains_key(&unit)
    }

    /// The number of loads that wait for a thread or are being read.
    pub fn in_flight(&self) -> usize {
        self.shared.lock().loads.len()
    }

    /// Puts the units that wait for a thread or are being read into `units`, in no order.
    pub(crate) fn list_in_flight(&self, units: &mut Vec<UnitId>) {
        units.clear();
        units.extend(self.shared.lock().loads.keys());
    }

    /// Cancels the load of `unit` if nobody holds a handle of it.
    pub(crate) fn cancel_unwanted(&self, unit: UnitId) {
        let mut state = self.shared.lock();
        let is_unwanted = state.loads.get(&unit).is_some_and(|entry| entry.outcome.handles() == 0);
        let unread = if is_unwanted { state.cancel(unit) } else { None };
        drop(state);
        unread.into_iter().for_each(|read| self.shared.give_up(read));
    }

    /// Cancels loads that nobody holds a handle of, the least urgent first, until they amount to `wanted_bytes` by
    /// `bytes_of`, and returns how much they do amount to. Loads that no thread has begun are gone when this returns,
    /// the others stop soon.
    pub fn cancel_least_urgent(&self, wanted_bytes: u64, bytes_of: impl Fn(UnitId) -> u64) -> u64 {
        let mut freed_bytes = 0;
        let mut unread = Vec::new();
        let mut state = self.shared.lock();
        // What is stopping already is on its way to be free.
        for (&unit, entry) in &state.loads {
            if entry.outcome.should_stop() {
                freed_bytes += bytes_of(unit);
            }
        }
        while freed_bytes < wanted_bytes {
            let unwanted = |entry: &Entry<V>| entry.outcome.handles() == 0 && !entry.outcome.should_stop();
            let idle = state.loads.iter().filter(|(_, entry)| unwanted(entry));
            let Some((&unit, _)) = idle.max_by_key(|&(unit, entry)| (entry.priority, *unit)) else { break };
            freed_bytes += bytes_of(unit);
            unread.extend(state.cancel(unit));
        }
        drop(state);
        for read in unread {
            self.shared.give_up(read);
        }
        freed_bytes
    }
}

impl<V> Drop for Loader<V> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stopping = true;
        let State { queue, loads, .. } = &mut *state;
        let unread: Vec<_> = std::iter::from_fn(|| queue.pop()).filter_map(|unit| loads.remove(&unit)).collect();
        loads.values().for_each(|entry| entry.outcome.set_stop(true));
        drop(state);
        self.shared.work.notify_all();
        for entry in unread {
            entry.outcome.complete(Err(LoadError::Stopped));
            entry.read.into_iter().for_each(|read| self.shared.give_up(read));
        }
        for thread in self.threads.drain(..) {
            // The last owner may be a closure that a thread of ours runs; a thread cannot wait for its own end.
            if thread.thread().id() != thread::current().id() {
                // Panics of `read` are caught, so there is nothing to learn from the result.
                let _ = thread.join();
            }
        }
    }
}

impl<V> fmt::Debug for Loader<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loader")
            .field("io_threads", &self.threads.len())
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

impl<V> State<V> {
    /// Takes a load out if no thread has begun it, else tells it to stop.
    fn cancel(&mut self, unit: UnitId) -> Option<Read<V>> {
        if self.queue.remove(unit) {
            return self.loads.remove(&unit)?.read;
        }
        if let Some(entry) = self.loads.get(&unit) {
            entry.outcome.set_stop(true);
        }
        None
    }

    /// The entry of this very load; a later load of the same unit is another one.
    fn entry(&mut self, unit: UnitId, outcome: &Arc<Outcome<V>>) -> Option<&mut Entry<V>> {
        self.loads.get_mut(&unit).filter(|entry| Arc::ptr_eq(&entry.outcome, outcome))
    }
}

impl<V> Shared<V> {
    fn lock(&self) -> MutexGuard<'_, State<V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(self: &Arc<Self>, state: &mut State<V>, unit: UnitId, priority: Priority) -> Option<Load<V>> {
        let entry = state.loads.get_mut(&unit)?;
        entry.outcome.add_handle();
        entry.priority = entry.priority.min(priority);
        entry.outcome.set_stop(state.stopping);
        let load = Load::new(unit, Arc::clone(&entry.outcome), Arc::clone(self));
        state.queue.raise(unit, priority);
        Some(load)
    }

    pub(crate) fn add_handle(&self, outcome: &Outcome<V>) {
        let _counting = self.lock();
        outcome.add_handle();
    }

    pub(crate) fn detach(&self, unit: UnitId, outcome: &Arc<Outcome<V>>) {
        if let Some(entry) = self.lock().entry(unit, outcome) {
            entry.detached = true;
        }
    }

    pub(crate) fn drop_handle(&self, unit: UnitId, outcome: &Arc<Outcome<V>>) {
        let mut state = self.lock();
        if outcome.drop_handle() > 0 {
            return;
        }
        let unread = match state.entry(unit, outcome) {
            Some(entry) if !entry.detached => state.cancel(unit),
            _ => None,
        };
        drop(state);
        outcome.forget_result();
        unread.into_iter().for_each(|read| self.give_up(read));
    }

    /// Drops what a load that never began has charged, and says so.
    fn give_up(&self, read: Read<V>) {
        drop(read);
        (self.after_each)();
    }

    fn run(&self) {
        while let Some((unit, outcome, read)) = self.next() {
            let result = catch_unwind(AssertUnwindSafe(|| read(&|| outcome.should_stop())));
            self.lock().loads.remove(&unit);
            outcome.complete(result.unwrap_or(Err(LoadError::Panicked)));
            (self.after_each)();
        }
    }

    fn next(&self) -> Option<(UnitId, Arc<Outcome<V>>, Read<V>)> {
        let mut state = self.lock();
        loop {
            if state.stopping {
                return None;
            }
            let State { queue, loads, .. } = &mut *state;
            if let Some(unit) = queue.pop()
                && let Some(entry) = loads.get_mut(&unit)
                && let Some(read) = entry.read.take()
            {
                return Some((unit, Arc::clone(&entry.outcome), read));
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
