//! What is noted at each access, and what is read ahead by it.

use std::time::Duration;

use smoke_cache::{ReserveError, Residency};
use smoke_core::{Access, ExpectedUse, Step, UnitId};
use smoke_predict::AccessPredictor;
use smoke_storage::AlignedBuffer;

use crate::gate::{Gate, Offer, Speculation};
use crate::observed::{Observed, Observer};
use crate::planner::{Snapshot, default_read_ahead_bytes, horizon_steps, next_loads};
use crate::queue::Priority;
use crate::streamer::Inner;

/// Accesses of a trace that are kept: 4 MiB. It is no part of the budget.
const LONGEST_TRACE: usize = 1 << 20;

/// The future, as far as it is known, and what was made of it.
pub(crate) struct Foresight {
    pub(crate) predictor: Box<dyn AccessPredictor>,
    /// The step of the next access.
    step: Step,
    pub(crate) observer: Option<Observer>,
    pub(crate) trace: Vec<UnitId>,
    /// Units that were read ahead, or are being, and have not been used since. The cache and the loader are the truth:
    /// what neither of them has any more is forgotten before each plan, and may be loaded again.
    ahead: Vec<Ahead>,
    pub(crate) gate: Gate,
    pace: Pace,
    // Scratch of the planner, so that planning allocates nothing.
    in_flight: Vec<UnitId>,
    upcoming: Vec<ExpectedUse>,
    planned: Vec<ExpectedUse>,
}

#[derive(Clone, Copy)]
struct Ahead {
    unit: UnitId,
    /// What `step` is right after the expected use.
    due: u64,
    is_certain: bool,
}

/// How long callers compute between accesses.
#[derive(Debug, Default)]
struct Pace {
    /// When the latest access was granted.
    since: Duration,
    /// Since the latest step.
    computing: Duration,
    /// A moving average, in seconds.
    per_step: f64,
}

impl Pace {
    fn pause(&mut self, now: Duration) {
        self.computing += now.saturating_sub(self.since);
        self.since = now;
    }

    fn step(&mut self) {
        let step = std::mem::take(&mut self.computing).as_secs_f64();
        self.per_step += (step - self.per_step) / 16.0;
    }
}

impl Foresight {
    pub(crate) fn new(predictor: Box<dyn AccessPredictor>) -> Self {
        Self {
            predictor,
            step: Step(0),
            observer: None,
            trace: Vec::new(),
            ahead: Vec::new(),
            gate: Gate::default(),
            pace: Pace::default(),
            in_flight: Vec::new(),
            upcoming: Vec::new(),
            planned: Vec::new(),
        }
    }

    /// Tells whoever watches, before the predictor is told.
    pub(crate) fn tell(&mut self, observed: Observed<'_>) {
        if let Some(observer) = &mut self.observer {
            observer(observed);
        }
    }
}

impl Inner {
    /// Takes note of accesses, one step each, and reads ahead. `asked` is when they were asked for.
    pub(crate) fn observe(&self, units: &[UnitId], on_time: u64, asked: Duration) {
        self.reader.counters.add_accesses(units.len() as u64, on_time);
        let mut foresight = self.foresight();
        foresight.pace.pause(asked);
        foresight.pace.step();
        foresight.tell(Observed::Uses(units));
        for &unit in units {
            let step = foresight.step;
            self.note(&mut foresight, Access { step, unit });
            foresight.step = step.next();
        }
        self.plan(&mut foresight);
        foresight.pace.since = self.reader.clock.now();
    }

    /// Takes note of units that are used at the latest step. What was expected at it otherwise is not read any further.
    pub(crate) fn observe_group(&self, units: &[UnitId], on_time: u64, asked: Duration) {
        self.reader.counters.add_accesses(units.len() as u64, on_time);
        let mut foresight = self.foresight();
        foresight.pace.pause(asked);
        let next = foresight.step.0;
        foresight.tell(Observed::Uses(units));
        for &unit in units {
            self.note(&mut foresight, Access { step: Step(next.saturating_sub(1)), unit });
        }
        foresight.ahead.retain(|ahead| {
            let is_over = !ahead.is_certain && ahead.due <= next;
            if is_over {
                self.loader.cancel_unwanted(ahead.unit);
            }
            !is_over
        });
        if self.setting.speculation == Speculation::Gated && foresight.gate.group_ended(self.reader.counters.stall()) {
            self.reader.counters.add_switched_off();
        }
        foresight.pace.since = self.reader.clock.now();
    }

    fn note(&self, foresight: &mut Foresight, access: Access) {
        foresight.predictor.observe(access);
        if self.setting.record_trace && foresight.trace.len() < LONGEST_TRACE {
            foresight.trace.push(access.unit);
        }
        foresight.ahead.retain(|ahead| {
            if ahead.unit == access.unit && !ahead.is_certain {
                self.reader.counters.add_speculation_used();
            }
            ahead.unit != access.unit
        });
    }

    /// The caller waits from here on.
    pub(crate) fn pause_computing(&self) {
        self.foresight().pace.pause(self.reader.clock.now());
    }

    /// The caller computes from here on.
    pub(crate) fn resume_computing(&self) {
        self.foresight().pace.since = self.reader.clock.now();
    }

    /// Reads ahead what is expected next.
    pub(crate) fn plan(&self, foresight: &mut Foresight) {
        let Foresight { predictor, step, ahead, gate, pace, in_flight, upcoming, planned, .. } = foresight;
        if self.room.is_wanted() {
            // Whoever waits for room would be overtaken.
            return;
        }
        let budget = self.cache.budget();
        if budget.used_bytes() > budget.limit_bytes() {
            // The limit was lowered while leases held more.
            self.cache.evict_to_limit(predictor);
        }
        let read_ahead_bytes = self.setting.read_ahead_bytes.unwrap_or_else(|| {
            default_read_ahead_bytes(budget.limit_bytes(), self.largest.map_or(0, |unit| self.unit_bytes(unit)))
        });
        // In this order: a load that ends in between is in the cache then.
        self.loader.list_in_flight(in_flight);
        let is_present = |unit: UnitId, residency: &Residency<'_, AlignedBuffer>| {
            in_flight.contains(&unit) || residency.contains(unit)
        };
        let residency = self.cache.residency();
        if residency.bytes() == self.total_bytes {
            ahead.clear();
            return;
        }
        ahead.retain(|ahead| is_present(ahead.unit, &residency) && (ahead.is_certain || ahead.due >= step.0));
        let resident_bytes = residency.bytes();
        drop(residency);
        let ahead_bytes = ahead.iter().map(|ahead| self.unit_bytes(ahead.unit)).sum();
        if ahead_bytes >= read_ahead_bytes {
            return;
        }
        upcoming.clear();
        let units = self.setting.unit_bytes.len();
        predictor.upcoming(horizon_steps(read_ahead_bytes, resident_bytes, self.total_bytes, units), upcoming);
        let speculation = self.setting.speculation;
        let is_gated = speculation == Speculation::Gated;
        let seconds_per_byte =
            self.reader.counters.seconds_per_byte(self.reader.clock.now()).filter(|_| gate.is_open());
        let seconds = |bytes: u64| seconds_per_byte.unwrap_or(f64::INFINITY) * bytes as f64;
        let mut backlog_bytes: u64 = in_flight.iter().map(|&unit| self.unit_bytes(unit)).sum();
        if is_gated {
            upcoming.retain(|expected| {
                let ExpectedUse { unit, distance, probability } = *expected;
                let Some(&bytes) = self.setting.unit_bytes.get(unit.index()) else { return false };
                let until_use = pace.per_step * distance as f64;
                let offer = Offer { probability, until_use, backlog: seconds(backlog_bytes), read: seconds(bytes) };
                let is_worth_it = probability >= 1.0 || seconds_per_byte.is_some() && offer.pays();
                if is_worth_it && !in_flight.contains(&unit) && !self.cache.contains(unit) {
                    backlog_bytes += bytes;
                }
                is_worth_it
            });
        }
        planned.clear();
        let residency = self.cache.residency();
        let snapshot = Snapshot {
            upcoming,
            unit_bytes: &self.setting.unit_bytes,
            ahead_bytes,
            read_ahead_bytes,
            least_probability: speculation.least_probability(),
            is_present: &|unit| is_present(unit, &residency),
        };
        next_loads(&snapshot, planned);
        drop(residency);
        for expected in &*planned {
            let due = step.0 + expected.distance;
            match self.begin(expected.unit, Priority::Prefetch { distance: due }, &**predictor) {
                Ok(load) => {
                    load.detach();
                    let is_certain = expected.probability >= 1.0;
                    if !is_certain {
                        self.reader.counters.add_speculation(self.unit_bytes(expected.unit));
                    }
                    // The distance counts from the access before `step`.
                    ahead.push(Ahead { unit: expected.unit, due, is_certain });
                }
                Err(ReserveError::AlreadyResident { .. } | ReserveError::InFlight { .. }) => {}
                // What is there is worth more than what would come, or there is no room: no failure.
                Err(_) if expected.probability < 1.0 => {}
                Err(_) => return,
            }
        }
    }
}
