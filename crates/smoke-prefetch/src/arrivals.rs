use std::fmt;

use smoke_core::UnitId;

use crate::error::StreamError;
use crate::lease::UnitLease;
use crate::leasing::Taken;
use crate::room::{Acquiring, WhenStuck};
use crate::streamer::Inner;

/// Leases of units as they arrive; made by [`Streamer::acquire_each`](crate::Streamer::acquire_each).
///
/// Gives the place of each unit in the list that was asked for, with its lease. A lease should be dropped before the next
/// is asked for: what is loaded but not yet handed out is held here, and there may be no room for more.
pub struct Arrivals<'a> {
    inner: &'a Inner,
    units: Vec<Wanted>,
    /// Loads that were begun and not handed out yet take so much.
    begun_bytes: u64,
    is_planned: bool,
    _acquiring: Acquiring<'a>,
}

struct Wanted {
    unit: UnitId,
    taken: Taken,
    is_done: bool,
}

/// Of the budget, at most this share is taken for loads at once: a prompt may want every expert of a layer, and to make
/// room for all of them would empty the cache for no faster reads.
const SHARE: u64 = 4;

impl<'a> Arrivals<'a> {
    pub(crate) fn begin(inner: &'a Inner, units: &[UnitId]) -> Self {
        let asked = inner.reader.clock.now();
        let acquiring = inner.room.enter(WhenStuck::Fail);
        // What is there is held before anything is evicted for what is not.
        let wanted = |&unit: &UnitId| {
            let taken = inner.lease_now(unit).map_or(Taken::Nothing, Taken::Lease);
            Wanted { unit, taken, is_done: false }
        };
        let units_wanted: Vec<Wanted> = units.iter().map(wanted).collect();
        let on_time = units_wanted.iter().filter(|wanted| matches!(wanted.taken, Taken::Lease(_))).count();
        inner.observe_group(units, on_time as u64, asked);
        let mut arrivals =
            Self { inner, units: units_wanted, begun_bytes: 0, is_planned: false, _acquiring: acquiring };
        arrivals.begin_loads();
        arrivals
    }

    /// Begins loads in order, as far as there is room. What is refused is asked for again later.
    fn begin_loads(&mut self) {
        let inner = self.inner;
        let most_bytes = inner.cache.budget().limit_bytes() / SHARE;
        for wanted in self.units.iter_mut().filter(|wanted| !wanted.is_done) {
            if !matches!(wanted.taken, Taken::Nothing) {
                continue;
            }
            let bytes = inner.unit_bytes(wanted.unit);
            if self.begun_bytes > 0 && self.begun_bytes + bytes > most_bytes {
                return;
            }
            let Ok(load) = inner.demand(wanted.unit) else { return };
            wanted.taken = Taken::Load(load, inner.room.book());
            self.begun_bytes += bytes;
        }
    }

    /// The next unit that can be had without waiting for another one: one that is there, one that was loaded; the first
    /// that has not even begun, where nothing is on its way.
    fn next_place(&self) -> Option<usize> {
        let clock = &*self.inner.reader.clock;
        let place = |is: fn(&Taken) -> bool| self.units.iter().position(|wanted| !wanted.is_done && is(&wanted.taken));
        if let Some(there) = place(|taken| matches!(taken, Taken::Lease(_))) {
            return Some(there);
        }
        let start = clock.now();
        let found = loop {
            let seen = self.inner.room.generation();
            if let Some(loaded) = place(|taken| matches!(taken, Taken::Load(load, _) if load.is_ended())) {
                break Some(loaded);
            }
            if place(|taken| matches!(taken, Taken::Load(..))).is_none() {
                break place(|taken| matches!(taken, Taken::Nothing));
            }
            self.inner.room.wait_for_a_load(seen);
        };
        self.inner.reader.counters.add_stall(clock.now().saturating_sub(start));
        found
    }

    /// When the last load has ended the device is free for what comes next.
    fn plan_once_loaded(&mut self) {
        let is_coming = |wanted: &Wanted| match &wanted.taken {
            Taken::Nothing => !wanted.is_done,
            Taken::Load(load, _) => !load.is_ended(),
            Taken::Lease(_) => false,
        };
        if !self.is_planned && !self.units.iter().any(is_coming) {
            self.is_planned = true;
            self.inner.plan(&mut self.inner.foresight());
        }
    }
}

impl Iterator for Arrivals<'_> {
    type Item = Result<(usize, UnitLease), StreamError>;

    fn next(&mut self) -> Option<Self::Item> {
        let inner = self.inner;
        inner.pause_computing();
        self.begin_loads();
        let place = self.next_place();
        self.plan_once_loaded();
        let place = place?;
        let wanted = &mut self.units[place];
        wanted.is_done = true;
        let unit = wanted.unit;
        let lease = match std::mem::replace(&mut wanted.taken, Taken::Nothing) {
            Taken::Lease(lease) => Ok(lease),
            Taken::Load(load, _booking) => {
                self.begun_bytes -= inner.unit_bytes(unit);
                inner.lease_late(unit, Some(load), &mut inner.room.patience())
            }
            Taken::Nothing => inner.lease_late(unit, None, &mut inner.room.patience()),
        };
        inner.resume_computing();
        Some(lease.map(|lease| (place, lease)).map_err(StreamError::from))
    }
}

impl fmt::Debug for Arrivals<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = self.units.iter().filter(|wanted| !wanted.is_done).count();
        f.debug_struct("Arrivals").field("left", &left).finish_non_exhaustive()
    }
}
