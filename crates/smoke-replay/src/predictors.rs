//! Predictors by their names.

use smoke_core::{UnitId, UnitKind};
use smoke_predict::{AccessPredictor, CyclicPredictor, MarkovPredictor, NoForecast, OraclePredictor};

use crate::trace::Trace;

/// The names that [`by_name`] knows.
pub const NAMES: &[&str] = &["schedule", "markov", "oracle", "none"];

/// A fresh predictor for a trace, of a name in [`NAMES`].
///
/// | name | knows |
/// |---|---|
/// | `schedule` | the order in which the first pass uses the shared units; of experts nothing |
/// | `markov` | which unit followed which, learnt on the way |
/// | `oracle` | the trace: with it `next-use` is Belady's MIN |
/// | `none` | nothing |
pub fn by_name(name: &str, trace: &Trace) -> Option<Box<dyn AccessPredictor>> {
    Some(match name {
        "schedule" => Box::new(SharedSchedule::of(trace)),
        "markov" => Box::new(MarkovPredictor::new()),
        "oracle" => Box::new(OraclePredictor::new(trace.accesses().to_vec())),
        "none" => Box::new(NoForecast),
        _ => return None,
    })
}

use shared_schedule::SharedSchedule;

mod shared_schedule {
    use smoke_core::{Access, ExpectedUse, Forecast, NextUse};

    use super::*;

    /// Repeats the shared units of the first pass, and knows nothing of the others: what a runtime knows of a mixture of
    /// experts before it runs.
    #[derive(Debug)]
    pub(super) struct SharedSchedule {
        schedule: CyclicPredictor,
        is_expert: Vec<bool>,
    }

    impl SharedSchedule {
        pub(super) fn of(trace: &Trace) -> Self {
            let is_expert: Vec<bool> = trace.units().iter().map(|unit| unit.kind == UnitKind::Expert).collect();
            let first = trace.passes().find(|pass| !pass.is_empty()).unwrap_or(trace.accesses());
            let shared: Vec<UnitId> = first.iter().copied().filter(|unit| !is_expert[unit.index()]).collect();
            Self { schedule: CyclicPredictor::new(shared), is_expert }
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
}
