use smoke_core::{Access, ExpectedUse, Forecast, NextUse, UnitId};
use smoke_predict::{AccessPredictor, CyclicPredictor};

use super::routing::Routing;
use crate::trace::Trace;

/// Repeats the shared units of the first pass, and knows nothing of the others: what a runtime knows of a mixture of
/// experts before it runs.
#[derive(Debug)]
pub(super) struct SharedSchedule {
    schedule: CyclicPredictor,
    is_expert: Vec<bool>,
}

impl SharedSchedule {
    pub(super) fn of(trace: &Trace) -> Self {
        Self { schedule: CyclicPredictor::new(Routing::of(trace).schedule), is_expert: Routing::is_expert(trace) }
    }

    fn is_expert(&self, unit: UnitId) -> bool {
        self.is_expert.get(unit.index()).copied().unwrap_or(false)
    }
}

impl Forecast for SharedSchedule {
    fn next_use(&self, unit: UnitId) -> NextUse {
        if self.is_expert(unit) { NextUse::Unknown } else { self.schedule.next_use(unit) }
    }

    fn upcoming(&self, horizon: u64, out: &mut Vec<ExpectedUse>) {
        self.schedule.upcoming(horizon, out);
    }
}

impl AccessPredictor for SharedSchedule {
    fn observe(&mut self, access: Access) {
        if !self.is_expert(access.unit) {
            self.schedule.observe(access);
        }
    }
}
