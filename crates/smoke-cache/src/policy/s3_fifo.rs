use std::collections::HashMap;

use smoke_core::UnitId;

use super::ranking::Ranking;
use crate::eviction::{EvictionPolicy, EvictionRequest};

/// S3-FIFO (Yang, Zhang, Qiu, Yue and Rashmi, SOSP 2023): three queues, each first in first out.
///
/// What is loaded enters a small queue, which has a tenth of the bytes. There it has to be used twice more to reach the
/// main queue; otherwise it is evicted and its name kept in the ghost queue, and if it is loaded again while it is
/// remembered, it enters the main queue at once. At the end of the main queue a unit that was used goes back to the
/// start, once for each use, of which three are counted.
///
/// The use that a unit was loaded for is not counted. The bytes of the cache are taken to be those that are loaded, since
/// it is full when a victim is wanted; ghosts of nine tenths of them are remembered. O(log n) for a use; a victim costs
/// as much for each unit that is moved, which its uses have paid for.
#[derive(Debug, Default)]
pub struct S3Fifo {
    clock: u64,
    small: Queue,
    main: Queue,
    entries: HashMap<UnitId, Entry>,
    ghosts: Ghosts,
}

/// The uses that are counted.
const MOST_USES: u8 = 3;

/// More uses than this lead from the small queue to the main one.
const USES_TO_STAY: u8 = 1;

#[derive(Debug, Default)]
struct Queue {
    order: Ranking<u64>,
    bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    bytes: u64,
    is_main: bool,
    /// Whether the use that it was loaded for has come.
    was_used: bool,
    uses: u8,
}

impl S3Fifo {
    fn enqueue(&mut self, unit: UnitId, entry: Entry) {
        self.clock += 1;
        let queue = if entry.is_main { &mut self.main } else { &mut self.small };
        queue.order.set(unit, self.clock);
        queue.bytes += entry.bytes;
        self.entries.insert(unit, entry);
    }

    fn dequeue(&mut self, unit: UnitId) -> Option<Entry> {
        let entry = self.entries.remove(&unit)?;
        let queue = if entry.is_main { &mut self.main } else { &mut self.small };
        queue.order.remove(unit);
        queue.bytes -= entry.bytes;
        Some(entry)
    }

    fn small_victim(&mut self, request: &EvictionRequest<'_>) -> Option<UnitId> {
        loop {
            let unit = self.small.order.first(request)?;
            if self.entries[&unit].uses <= USES_TO_STAY {
                return Some(unit);
            }
            let entry = self.dequeue(unit)?;
            self.enqueue(unit, Entry { is_main: true, uses: 0, ..entry });
        }
    }

    fn main_victim(&mut self, request: &EvictionRequest<'_>) -> Option<UnitId> {
        loop {
            let unit = self.main.order.first(request)?;
            if self.entries[&unit].uses == 0 {
                return Some(unit);
            }
            let entry = self.dequeue(unit)?;
            self.enqueue(unit, Entry { uses: entry.uses - 1, ..entry });
        }
    }
}

impl EvictionPolicy for S3Fifo {
    fn on_insert(&mut self, unit: UnitId, bytes: u64) {
        let is_main = self.ghosts.forget(unit);
        self.enqueue(unit, Entry { bytes, is_main, was_used: false, uses: 0 });
    }

    fn on_access(&mut self, unit: UnitId) {
        if let Some(entry) = self.entries.get_mut(&unit) {
            entry.uses = MOST_USES.min(entry.uses + u8::from(entry.was_used));
            entry.was_used = true;
        }
    }

    fn on_remove(&mut self, unit: UnitId) {
        let loaded_bytes = self.small.bytes + self.main.bytes;
        if let Some(Entry { bytes, is_main: false, .. }) = self.dequeue(unit) {
            self.ghosts.remember(unit, bytes, loaded_bytes - loaded_bytes / 10);
        }
    }

    fn victim(&mut self, request: &EvictionRequest<'_>) -> Option<UnitId> {
        let is_small_full = self.small.bytes >= (self.small.bytes + self.main.bytes).div_ceil(10);
        let small = if is_small_full { self.small_victim(request) } else { None };
        // What is in use, or left the small queue for the main one, may leave either without a candidate.
        small
            .or_else(|| self.main_victim(request))
            .or_else(|| self.small_victim(request))
            .or_else(|| self.main_victim(request))
    }
}

/// Names of units that were evicted from the small queue, as many as would fit some bytes if they were loaded.
#[derive(Debug, Default)]
struct Ghosts {
    clock: u64,
    evicted: Ranking<u64>,
    unit_bytes: HashMap<UnitId, u64>,
    bytes: u64,
}

impl Ghosts {
    fn remember(&mut self, unit: UnitId, bytes: u64, limit_bytes: u64) {
        self.clock += 1;
        self.evicted.set(unit, self.clock);
        self.unit_bytes.insert(unit, bytes);
        self.bytes += bytes;
        while self.bytes > limit_bytes {
            let Some((_, oldest)) = self.evicted.at_least(0) else { break };
            self.forget(oldest);
        }
    }

    /// Whether the unit was remembered.
    fn forget(&mut self, unit: UnitId) -> bool {
        let Some(bytes) = self.unit_bytes.remove(&unit) else { return false };
        self.evicted.remove(unit);
        self.bytes -= bytes;
        true
    }
}
