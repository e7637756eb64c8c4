//! Reading what was in memory before, while the disk has nothing else to do.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use smoke_core::UnitId;

use crate::error::StreamError;
use crate::queue::Priority;
use crate::streamer::{Inner, Streamer};

/// Units that are read in the background; made by [`Streamer::warm`]. Dropping it changes nothing.
#[derive(Debug)]
pub struct Warming {
    thread: JoinHandle<()>,
}

impl Warming {
    /// Whether nothing more will be begun.
    pub fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until all that there is room for is in memory.
    pub fn wait(self) {
        // It has nothing to say, and a panic in it is no reason for another one.
        let _ = self.thread.join();
    }
}

impl Streamer {
    /// Reads `units` in the background, in this order, as far as memory is free: as what an earlier run held in the end.
    ///
    /// Everything else goes first. A unit is begun only while nothing else is being read and nobody waits for room; half
    /// of the I/O threads take part, and a single one once units are being acquired. Nothing is evicted for it, so that it
    /// ends when the memory is full. A unit that cannot be read is passed over.
    ///
    /// # Errors
    ///
    /// If a unit does not exist, or no thread can be started.
    pub fn warm(&self, units: impl IntoIterator<Item = UnitId>) -> Result<Warming, StreamError> {
        let inner = self.inner();
        let units: VecDeque<UnitId> = units.into_iter().collect();
        units.iter().try_for_each(|&unit| inner.check_unit(unit))?;
        let at_most = (inner.setting.io_threads / 2).max(1);
        let mut run = Run { inner: Arc::downgrade(inner), units, begun: Vec::new(), at_most };
        let thread = thread::Builder::new().name("smoke-warm".to_owned()).spawn(move || while run.goes_on() {});
        Ok(Warming { thread: thread.map_err(|error| StreamError::Threads(Arc::new(error)))? })
    }
}

struct Run {
    /// Whoever holds the streamer decides how long it lives.
    inner: Weak<Inner>,
    units: VecDeque<UnitId>,
    /// Of those, the ones that are being read.
    begun: Vec<UnitId>,
    at_most: usize,
}

impl Run {
    /// Begins the next unit, or waits until it may be; false at the end.
    fn goes_on(&mut self) -> bool {
        let Some(inner) = self.inner.upgrade() else { return false };
        let room = Arc::clone(&inner.room);
        let seen = room.generation();
        self.begun.retain(|&unit| inner.loader.contains(unit));
        let is_in_use = inner.reader.counters.accesses() > 0;
        let at_most = if is_in_use { 1 } else { self.at_most };
        let is_disturbed = inner.loader.in_flight() > self.begun.len() || room.is_wanted();
        if !self.units.is_empty() && self.begun.len() < at_most && !is_disturbed {
            return self.begin(&inner);
        }
        drop(inner);
        if self.units.is_empty() && self.begun.is_empty() {
            return false;
        }
        if !room.wait_for_a_load(seen) {
            thread::sleep(Duration::from_millis(1));
        }
        true
    }

    fn begin(&mut self, inner: &Inner) -> bool {
        // Held while there is looked for room, so that nobody takes it in between.
        let foresight = inner.foresight();
        let Some(unit) = self.units.front().copied() else { return true };
        if inner.cache.budget().free_bytes() < inner.unit_bytes(unit) {
            self.units.clear();
            return true;
        }
        self.units.pop_front();
        if let Ok(load) = inner.begin(unit, Priority::Prefetch { distance: u64::MAX }, &*foresight.predictor) {
            load.detach();
            self.begun.push(unit);
        }
        true
    }
}
