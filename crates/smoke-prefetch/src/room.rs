use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

/// Who holds leases and who waits for memory, so that nobody waits for what can never come.
///
/// Leases are booked on the thread that took them. A thread that finds no room waits as long as a load is in flight or
/// another thread may still let go of a lease; otherwise it is told that it is stuck. Since a lease may be handed to
/// another thread, which this book does not see, no wait for leases is longer than `patience`.
#[derive(Debug)]
pub(crate) struct Room {
    book: Mutex<Book>,
    changed: Condvar,
    patience: Duration,
}

#[derive(Debug, Default)]
struct Book {
    /// Raised whenever memory may have become free.
    generation: u64,
    loads_in_flight: usize,
    threads: HashMap<ThreadId, Holder>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Holder {
    leases: usize,
    acquiring: bool,
    waiting: bool,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// Something became free: try again.
    Changed,
    /// Nothing will become free unless somebody who waits gives up: the caller, or another one if `others_wait` for what
    /// the caller holds.
    Stuck { others_wait: bool },
}

impl Room {
    pub(crate) fn new(patience: Duration) -> Self {
        Self { book: Mutex::default(), changed: Condvar::new(), patience }
    }

    /// To be read before trying; a later [`wait`](Self::wait) ends at once if anything changed in between.
    pub(crate) fn generation(&self) -> u64 {
        self.lock().generation
    }

    /// Memory may have become free.
    pub(crate) fn announce(&self) {
        self.lock().generation += 1;
        self.changed.notify_all();
    }

    /// Marks the calling thread as one that is taking leases, until the guard is dropped. To be called before the first
    /// lease is taken, since others would not know of it until it is booked.
    pub(crate) fn enter(&self) -> Acquiring<'_> {
        self.lock().threads.entry(thread::current().id()).or_default().acquiring = true;
        Acquiring { room: self }
    }

    /// Books a lease on the calling thread.
    pub(crate) fn book(self: &Arc<Self>) -> Booking {
        let thread = thread::current().id();
        self.lock().threads.entry(thread).or_default().leases += 1;
        Booking { room: Arc::clone(self), thread }
    }

    /// The leases booked on the calling thread.
    pub(crate) fn own_leases(&self) -> usize {
        self.lock().threads.get(&thread::current().id()).map_or(0, |holder| holder.leases)
    }

    /// A load has begun that will end with [`load_ended`](Self::load_ended).
    pub(crate) fn load_begun(&self) {
        self.lock().loads_in_flight += 1;
    }

    /// A load has ended, and what it held that nobody wants is free.
    pub(crate) fn load_ended(&self) {
        self.lock().loads_in_flight -= 1;
        self.announce();
    }

    /// Whether a thread waits for room.
    pub(crate) fn is_wanted(&self) -> bool {
        self.lock().threads.values().any(|holder| holder.waiting)
    }

    /// Blocks until something changed since `seen`, or nothing can.
    pub(crate) fn wait(&self, seen: u64) -> Waited {
        let me = thread::current().id();
        let mut book = self.lock();
        book.threads.entry(me).or_default().waiting = true;
        // That this thread waits may be what makes another one stuck.
        self.changed.notify_all();
        let waited = loop {
            if book.generation != seen {
                break Waited::Changed;
            }
            if book.loads_in_flight > 0 {
                book = self.changed.wait(book).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            if !book.another_may_release(me) {
                break Waited::Stuck { others_wait: book.others(me).any(|other| other.waiting && other.leases > 0) };
            }
            let (next, timeout) =
                self.changed.wait_timeout(book, self.patience).unwrap_or_else(PoisonError::into_inner);
            book = next;
            if timeout.timed_out() && book.generation == seen {
                break Waited::Stuck { others_wait: false };
            }
        };
        book.threads.entry(me).or_default().waiting = false;
        book.forget_if_idle(me);
        waited
    }

    /// Blocks until something changed since `seen`, or no load is in flight; then false.
    pub(crate) fn wait_for_a_load(&self, seen: u64) -> bool {
        let unchanged = |book: &mut Book| book.generation == seen && book.loads_in_flight > 0;
        let book = self.changed.wait_while(self.lock(), unchanged).unwrap_or_else(PoisonError::into_inner);
        book.generation != seen
    }

    /// Blocks until no thread waits for room, for one that gave way and may try again.
    pub(crate) fn wait_for_the_others(&self) {
        let book = self.lock();
        let me = thread::current().id();
        drop(self.changed.wait_timeout_while(book, self.patience, |book| book.others(me).any(|other| other.waiting)));
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn others(&self, me: ThreadId) -> impl Iterator<Item = &Holder> {
        self.threads.iter().filter(move |(thread, _)| **thread != me).map(|(_, holder)| holder)
    }

    /// A thread that waits and holds leases will not let go of them before it got more or an error. Whoever holds
    /// nothing may wait for that error; two that hold would wait for one another.
    fn another_may_release(&self, me: ThreadId) -> bool {
        let i_hold = self.threads.get(&me).is_some_and(|holder| holder.leases > 0);
        self.others(me)
            .any(|other| if other.waiting { other.leases > 0 && !i_hold } else { other.leases > 0 || other.acquiring })
    }

    fn forget_if_idle(&mut self, thread: ThreadId) {
        if self.threads.get(&thread).is_some_and(|holder| holder.leases == 0 && !holder.acquiring && !holder.waiting) {
            self.threads.remove(&thread);
        }
    }
}

/// See [`Room::enter`].
#[derive(Debug)]
pub(crate) struct Acquiring<'a> {
    room: &'a Room,
}

impl Drop for Acquiring<'_> {
    fn drop(&mut self) {
        let me = thread::current().id();
        let mut book = self.room.lock();
        book.threads.entry(me).or_default().acquiring = false;
        book.forget_if_idle(me);
        // A call that failed may have let go of loads and leases on its way.
        book.generation += 1;
        drop(book);
        self.room.changed.notify_all();
    }
}

/// A lease in the book of [`Room`]; to be dropped after the lease.
#[derive(Debug)]
pub(crate) struct Booking {
    room: Arc<Room>,
    thread: ThreadId,
}

impl Clone for Booking {
    fn clone(&self) -> Self {
        self.room.book()
    }
}

impl Drop for Booking {
    fn drop(&mut self) {
        let mut book = self.room.lock();
        if let Some(holder) = book.threads.get_mut(&self.thread) {
            holder.leases -= 1;
        }
        book.forget_if_idle(self.thread);
        book.generation += 1;
        drop(book);
        self.room.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn alone_with_a_lease_is_stuck() {
        let room = Arc::new(Room::new(LONG));
        let _lease = room.book();
        let _acquiring = room.enter();
        assert_eq!(room.wait(room.generation()), Waited::Stuck { others_wait: false });
    }

    #[test]
    fn a_change_since_is_seen_at_once() {
        let room = Arc::new(Room::new(LONG));
        let seen = room.generation();
        drop(room.book());
        assert_eq!(room.wait(seen), Waited::Changed);
    }

    #[test]
    fn waits_for_another_threads_lease() {
        let room = Arc::new(Room::new(LONG));
        let lease = thread::scope(|scope| scope.spawn(|| room.book()).join().unwrap());
        let seen = room.generation();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| room.wait(seen));
            drop(lease);
            assert_eq!(waiter.join().unwrap(), Waited::Changed);
        });
    }

    #[test]
    fn patience_ends_a_wait_for_a_lease_that_is_never_dropped() {
        let room = Arc::new(Room::new(Duration::ZERO));
        let _lease = thread::scope(|scope| scope.spawn(|| room.book()).join().unwrap());
        assert_eq!(room.wait(room.generation()), Waited::Stuck { others_wait: false });
    }

    #[test]
    fn waits_for_a_load_to_end() {
        let room = Arc::new(Room::new(Duration::ZERO));
        let _lease = room.book();
        room.load_begun();
        let seen = room.generation();
        thread::scope(|scope| {
            let waiters =
                [scope.spawn(|| room.wait(seen) == Waited::Changed), scope.spawn(|| room.wait_for_a_load(seen))];
            room.load_ended();
            assert!(waiters.into_iter().all(|waiter| waiter.join().unwrap()));
        });
        assert!(!room.wait_for_a_load(room.generation()));
    }

    /// Both hold and want more: one must be told, so that the other gets what it lets go of.
    #[test]
    fn two_that_hold_and_wait_do_not_wait_for_one_another() {
        let room = Arc::new(Room::new(LONG));
        let (told, outcome) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..2 {
                let (room, told) = (&room, told.clone());
                scope.spawn(move || {
                    let _acquiring = room.enter();
                    let lease = room.book();
                    let waited = room.wait(room.generation());
                    drop(lease);
                    told.send(waited).unwrap();
                });
            }
        });
        drop(told);
        assert_eq!(outcome.iter().count(), 2);
        assert!(room.lock().threads.is_empty());
    }
}
