use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

/// Who holds leases and who waits for memory, so that nobody waits for what can never come.
///
/// Leases are booked on the thread that took them. A thread that finds no room waits as long as a load is in flight or
/// another thread may still let go of a lease; otherwise it is told that it is stuck. Since a lease may be handed to
/// another thread, which this book does not see, a call waits for leases no longer than its [`Patience`] lasts.
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
    /// Threads that sleep until something changes. To wake nobody is a system call too, and most changes concern nobody.
    sleeping: usize,
    threads: HashMap<ThreadId, Holder>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Holder {
    /// And loads that it began, whose units are not evicted before it has leased them.
    leases: usize,
    acquiring: bool,
    waiting: bool,
    gives_way: bool,
}

/// What a call does that is stuck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenStuck {
    /// Returns an error, for it holds leases that are not its own to drop.
    Fail,
    /// Drops what it took, lets others go first and tries again.
    GiveWay,
}

/// What is left of the time that a call waits for leases of others. It begins with the first wait and does not begin
/// again when something changed: neighbours that are busy change something all the time.
#[derive(Debug)]
pub(crate) struct Patience {
    limit: Duration,
    begun: Option<Instant>,
    is_last_try: bool,
}

impl Patience {
    fn left(&self) -> Duration {
        self.begun.map_or(self.limit, |begun| self.limit.saturating_sub(begun.elapsed()))
    }

    /// Whether there has been a try since the time ran out.
    fn is_over(&mut self) -> bool {
        self.begun.get_or_insert_with(Instant::now);
        let ran_out = self.left() == Duration::ZERO;
        std::mem::replace(&mut self.is_last_try, ran_out) && ran_out
    }
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

    /// For one call.
    pub(crate) fn patience(&self) -> Patience {
        Patience { limit: self.patience, begun: None, is_last_try: false }
    }

    /// To be read before trying; a later [`wait`](Self::wait) ends at once if anything changed in between.
    pub(crate) fn generation(&self) -> u64 {
        self.lock().generation
    }

    /// Memory may have become free.
    pub(crate) fn announce(&self) {
        let mut book = self.lock();
        book.generation += 1;
        self.wake(book);
    }

    /// Marks the calling thread as one that is taking leases, until the guard is dropped. To be called before the first
    /// lease is taken, since others would not know of it until it is booked.
    pub(crate) fn enter(&self, when_stuck: WhenStuck) -> Acquiring<'_> {
        let mut book = self.lock();
        let holder = book.threads.entry(thread::current().id()).or_default();
        holder.acquiring = true;
        holder.gives_way = when_stuck == WhenStuck::GiveWay;
        drop(book);
        Acquiring { room: self }
    }

    /// Books a lease, or a load whose unit will be leased, on the calling thread.
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
        let mut book = self.lock();
        book.loads_in_flight -= 1;
        book.generation += 1;
        self.wake(book);
    }

    /// Whether a thread waits for room.
    pub(crate) fn is_wanted(&self) -> bool {
        self.lock().threads.values().any(|holder| holder.waiting)
    }

    /// Blocks until something changed since `seen`, or nothing can.
    pub(crate) fn wait(&self, seen: u64, patience: &mut Patience) -> Waited {
        let is_over = patience.is_over();
        let me = thread::current().id();
        let mut book = self.lock();
        book.threads.entry(me).or_default().waiting = true;
        // That this thread waits may be what makes another one stuck.
        self.changed.notify_all();
        let waited = loop {
            if is_over && book.loads_in_flight == 0 {
                break Waited::Stuck { others_wait: false };
            }
            if book.generation != seen {
                break Waited::Changed;
            }
            if book.loads_in_flight > 0 {
                book = self.sleep(book, None);
                continue;
            }
            if !book.another_may_release(me) {
                break Waited::Stuck { others_wait: book.others(me).any(|other| other.waiting && other.leases > 0) };
            }
            book = self.sleep(book, Some(patience.left()));
            if book.generation == seen && patience.left() == Duration::ZERO {
                break Waited::Stuck { others_wait: false };
            }
        };
        book.threads.entry(me).or_default().waiting = false;
        book.forget_if_idle(me);
        waited
    }

    /// Blocks until something changed since `seen`, or no load is in flight; then false.
    pub(crate) fn wait_for_a_load(&self, seen: u64) -> bool {
        let mut book = self.lock();
        while book.generation == seen && book.loads_in_flight > 0 {
            book = self.sleep(book, None);
        }
        book.generation != seen
    }

    /// Blocks until no other thread waits for room, for one that gave way and may try again. It holds nothing
    /// meanwhile, so nobody waits for it.
    pub(crate) fn wait_for_the_others(&self, patience: &Patience) {
        let me = thread::current().id();
        let mut book = self.lock();
        book.threads.entry(me).or_default().acquiring = false;
        self.changed.notify_all();
        while book.others(me).any(|other| other.waiting) && patience.left() > Duration::ZERO {
            book = self.sleep(book, Some(patience.left()));
        }
        let holder = book.threads.entry(me).or_default();
        holder.acquiring = true;
        // The entry may have been forgotten in between.
        holder.gives_way = true;
    }

    /// Sleeps until woken or for so long; also ends for no reason.
    fn sleep<'a>(&'a self, mut book: MutexGuard<'a, Book>, at_most: Option<Duration>) -> MutexGuard<'a, Book> {
        book.sleeping += 1;
        let mut book = match at_most {
            Some(time) => self.changed.wait_timeout(book, time).unwrap_or_else(PoisonError::into_inner).0,
            None => self.changed.wait(book).unwrap_or_else(PoisonError::into_inner),
        };
        book.sleeping -= 1;
        book
    }

    /// To be called after every change that a sleeper may wait for, made in `book`.
    fn wake(&self, book: MutexGuard<'_, Book>) {
        let is_any_asleep = book.sleeping > 0;
        drop(book);
        if is_any_asleep {
            self.changed.notify_all();
        }
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
    /// nothing may wait for that error; two that hold would wait for one another, so one of them is stuck, and rather
    /// the one that can give way.
    fn another_may_release(&self, me: ThreadId) -> bool {
        let mine = self.threads.get(&me).copied().unwrap_or_default();
        self.others(me).any(|other| match other.waiting {
            true => other.leases > 0 && (mine.leases == 0 || other.gives_way && !mine.gives_way),
            false => other.leases > 0 || other.acquiring,
        })
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
        self.room.wake(book);
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
        self.room.wake(book);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Barrier, mpsc};

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn alone_with_a_lease_is_stuck() {
        let room = Arc::new(Room::new(LONG));
        let _lease = room.book();
        let _acquiring = room.enter(WhenStuck::Fail);
        assert_eq!(room.wait(room.generation(), &mut room.patience()), Waited::Stuck { others_wait: false });
    }

    #[test]
    fn a_change_since_is_seen_at_once() {
        let room = Arc::new(Room::new(LONG));
        let seen = room.generation();
        drop(room.book());
        assert_eq!(room.wait(seen, &mut room.patience()), Waited::Changed);
    }

    #[test]
    fn waits_for_another_threads_lease() {
        let room = Arc::new(Room::new(LONG));
        let lease = thread::scope(|scope| scope.spawn(|| room.book()).join().unwrap());
        let seen = room.generation();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| room.wait(seen, &mut room.patience()));
            drop(lease);
            assert_eq!(waiter.join().unwrap(), Waited::Changed);
        });
    }

    #[test]
    fn patience_ends_a_wait_for_a_lease_that_is_never_dropped() {
        let room = Arc::new(Room::new(Duration::ZERO));
        let _lease = thread::scope(|scope| scope.spawn(|| room.book()).join().unwrap());
        assert_eq!(room.wait(room.generation(), &mut room.patience()), Waited::Stuck { others_wait: false });
    }

    #[test]
    fn waits_for_a_load_to_end() {
        let room = Arc::new(Room::new(Duration::ZERO));
        let _lease = room.book();
        room.load_begun();
        let seen = room.generation();
        thread::scope(|scope| {
            let waiters = [
                scope.spawn(|| room.wait(seen, &mut room.patience()) == Waited::Changed),
                scope.spawn(|| room.wait_for_a_load(seen)),
            ];
            room.load_ended();
            assert!(waiters.into_iter().all(|waiter| waiter.join().unwrap()));
        });
        assert!(!room.wait_for_a_load(room.generation()));
    }

    /// Another thread, busy with what is in memory, changes something before each wait.
    #[test]
    fn a_busy_neighbour_does_not_renew_the_patience() {
        let room = Arc::new(Room::new(Duration::ZERO));
        let _lease = thread::scope(|scope| scope.spawn(|| room.book()).join().unwrap());
        let mut patience = room.patience();
        let waits = std::iter::repeat_with(|| {
            let seen = room.generation();
            room.announce();
            room.wait(seen, &mut patience)
        });
        assert!(waits.take(5).any(|waited| waited == Waited::Stuck { others_wait: false }));
    }

    fn until_wanted(room: &Room) {
        while !room.is_wanted() {
            thread::yield_now();
        }
    }

    #[test]
    fn nobody_waits_for_a_thread_that_gave_way() {
        let room = Arc::new(Room::new(LONG));
        let _acquiring = room.enter(WhenStuck::GiveWay);
        thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let _lease = room.book();
                room.wait(room.generation(), &mut room.patience())
            });
            until_wanted(&room);
            room.wait_for_the_others(&room.patience());
            assert_eq!(waiter.join().unwrap(), Waited::Stuck { others_wait: false });
        });
    }

    #[test]
    fn of_two_that_hold_the_one_that_can_gives_way() {
        for _ in 0..50 {
            let room = Arc::new(Room::new(LONG));
            let both_hold = Barrier::new(2);
            let wait = |when_stuck| {
                let _acquiring = room.enter(when_stuck);
                let _lease = room.book();
                both_hold.wait();
                room.wait(room.generation(), &mut room.patience())
            };
            let (gives_way, goes_on) = thread::scope(|scope| {
                let [gives_way, goes_on] = [WhenStuck::GiveWay, WhenStuck::Fail].map(|stuck| {
                    let wait = &wait;
                    scope.spawn(move || wait(stuck))
                });
                (gives_way.join().unwrap(), goes_on.join().unwrap())
            });
            assert_eq!((gives_way, goes_on), (Waited::Stuck { others_wait: true }, Waited::Changed));
        }
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
                    let _acquiring = room.enter(WhenStuck::Fail);
                    let lease = room.book();
                    let waited = room.wait(room.generation(), &mut room.patience());
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
