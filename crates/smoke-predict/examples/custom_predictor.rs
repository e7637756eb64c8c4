//! A predictor of one's own, held to the same rules as those of the crate.
//!
//! Models often use their units in the order of their numbers. This one expects just that: after a unit, the next ones.
//!
//! `cargo run -p smoke-predict --example custom_predictor --features conformance`

use smoke_predict::{Access, AccessPredictor, ExpectedUse, Forecast, NextUse, Scored, Step, UnitId, conformance};

/// Expects the units that follow the latest one, and less so the further away they are.
#[derive(Debug)]
struct InOrder {
    units: u32,
    latest: Option<UnitId>,
}

impl Forecast for InOrder {
    fn next_use(&self, unit: UnitId) -> NextUse {
        let first = self.latest.map_or(0, |latest| latest.0.saturating_add(1));
        if unit.0 < first || unit.0 >= self.units {
            NextUse::Unknown
        } else {
            NextUse::In(u64::from(unit.0 - first) + 1)
        }
    }

    fn upcoming(&self, horizon: u64, out: &mut Vec<ExpectedUse>) {
        let first = self.latest.map_or(0, |latest| latest.0.saturating_add(1));
        for (distance, unit) in (1..=horizon).zip(first..self.units) {
            out.push(ExpectedUse { unit: UnitId(unit), distance, probability: 1.0 / (1.0 + distance as f32) });
        }
    }
}

impl AccessPredictor for InOrder {
    fn observe(&mut self, access: Access) {
        self.latest = Some(access.unit);
    }
}

fn main() {
    conformance::all(|| InOrder { units: 8, latest: None });
    println!("InOrder keeps the rules.");

    let mut scored = Scored::new(InOrder { units: 8, latest: None });
    for (step, unit) in [0, 1, 2, 3, 3, 4, 7].into_iter().enumerate() {
        scored.observe(Access { step: Step(step as u64), unit: UnitId(unit) });
    }
    let accuracy = scored.accuracy();
    println!("It knew {:.0} % of the accesses;", 100.0 * accuracy.rate());
    println!("\"the same unit again\" would have known {:.0} %.", 100.0 * accuracy.previous_rate());
}
