//! Predictors by their names.

mod routing;
mod shared_schedule;

use smoke_core::{Access, ExpectedUse, Forecast, NextUse, NoForecast, UnitId};
use smoke_predict::experts::{self, ExpertForecast, LearnedShape};
use smoke_predict::{AccessPredictor, MarkovPredictor, OraclePredictor, RoutedPredictor};

use self::routing::Routing;
use self::shared_schedule::SharedSchedule;
use crate::trace::Trace;

/// The names that [`by_name`] knows.
pub const NAMES: &[&str] =
    &["schedule", "routed", "learned", "transitions", "popular", "previous", "markov", "oracle", "none"];

/// A fresh predictor for a trace, of a name in [`NAMES`].
///
/// | name | knows |
/// |---|---|
/// | `schedule` | the order in which the first pass uses the shared units; of experts nothing |
/// | `routed` | the same, how often each expert is used, and the hints that were recorded: what the run knew |
/// | `popular`, `previous`, `transitions`, `learned` | the same, but with hints of its own in place of those that were recorded |
/// | `markov` | which unit followed which, learnt on the way |
/// | `oracle` | the trace: with it `next-use` is Belady's MIN |
/// | `none` | nothing |
///
/// A trace tells which experts were used, and not what their routers saw: `learned` learns from the choices alone here. What
/// the run's own predictor made of the routers' inputs and scores, by whichever predictor it was run with, is in the
/// hints, which `routed` hears.
pub fn by_name(name: &str, trace: &Trace) -> Option<Box<dyn AccessPredictor>> {
    Some(match name {
        "schedule" => Box::new(SharedSchedule::of(trace)),
        "routed" => {
            let Routing { schedule, experts } = Routing::of(trace);
            Box::new(RoutedPredictor::new(schedule, &experts))
        }
        "learned" | "transitions" | "popular" | "previous" => {
            let Routing { schedule, experts } = Routing::of(trace);
            let shape = LearnedShape { experts: experts::ExpertShape::of(&experts), inputs: 0, model: 0 };
            Box::new(Deaf(ExpertForecast::new(schedule, &experts, experts::by_name(name, shape)?)))
        }
        "markov" => Box::new(MarkovPredictor::new()),
        "oracle" => Box::new(OraclePredictor::new(trace.accesses().to_vec())),
        "none" => Box::new(NoForecast),
        _ => return None,
    })
}

/// Hears no hints from outside.
#[derive(Debug)]
struct Deaf<P>(P);

impl<P: Forecast> Forecast for Deaf<P> {
    fn next_use(&self, unit: UnitId) -> NextUse {
        self.0.next_use(unit)
    }
    fn upcoming(&self, horizon: u64, out: &mut Vec<ExpectedUse>) {
        self.0.upcoming(horizon, out);
    }
}

impl<P: AccessPredictor> AccessPredictor for Deaf<P> {
    fn observe(&mut self, access: Access) {
        self.0.observe(access);
    }
}

#[cfg(test)]
mod tests {
    use smoke_core::{Step, UnitInfo, UnitKind};

    use super::*;

    /// A shared unit, and four experts after it of which a token uses two.
    fn trace() -> Trace {
        let mut units = vec![UnitInfo { bytes: 10, layer: None, kind: UnitKind::Shared }; 2];
        units.extend([UnitInfo { bytes: 10, layer: Some(0), kind: UnitKind::Expert }; 4]);
        units.extend([UnitInfo { bytes: 10, layer: Some(1), kind: UnitKind::Expert }; 4]);
        let mut trace = Trace::new("made up", units);
        for step in [&[0][..], &[2, 3], &[1], &[8, 9]] {
            trace.push_step(&step.iter().copied().map(UnitId).collect::<Vec<_>>());
        }
        trace.end_pass(1);
        trace
    }

    fn expects(predictor: &dyn AccessPredictor, unit: u32) -> bool {
        let mut soon = Vec::new();
        predictor.upcoming(4, &mut soon);
        soon.iter().any(|expected| expected.unit == UnitId(unit))
    }

    #[test]
    fn recorded_hints_are_heard_by_one_and_the_others_give_themselves_their_own() {
        let trace = trace();
        let observe = |predictor: &mut dyn AccessPredictor, units: &[u32]| {
            units.iter().for_each(|&unit| predictor.observe(Access { step: Step(0), unit: UnitId(unit) }));
        };
        for name in ["routed", "learned", "transitions", "popular", "previous"] {
            let mut predictor = by_name(name, &trace).unwrap();
            observe(&mut *predictor, &[0]);
            predictor.hint(&[ExpectedUse { unit: UnitId(7), distance: 1, probability: 0.9 }]);
            assert_eq!(expects(&*predictor, 7), name == "routed", "{name}");
            for _ in 0..50 {
                observe(&mut *predictor, &[0, 2, 3, 1, 8, 9]);
            }
            observe(&mut *predictor, &[0, 2, 3]);
            assert_eq!(expects(&*predictor, 8), name != "routed", "{name}");
        }
    }
}
