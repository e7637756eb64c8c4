//! What every policy hits on the recorded routing of a trained mixture of experts: the table in `docs/policies.md`.
//!
//! `cargo run --release -p smoke-replay --example trained_policies` takes the held-out text of `tests/assets/moe-traces`.

use std::error::Error;
use std::path::Path;

use smoke_cache::policy;
use smoke_core::{ExpectedUse, UnitId, UnitInfo, UnitKind};
use smoke_predict::experts::ExpertShape;
use smoke_predict::{RoutedPredictor, RoutedUnit};
use smoke_replay::{Comparison, Laboratory, Trace};

use crate::routing::Trace as Routing;

#[path = "../../smoke-predict/examples/expert_recall/trace.rs"]
mod routing;

/// Bytes of an expert, and of what a layer shares.
const UNIT_BYTES: u64 = 1_000_000;
/// Of the later router's experts, run early, so many are told.
const HINTED: usize = 4;

/// The unit that a layer's tokens share.
fn shared(shape: ExpertShape, layer: usize) -> UnitId {
    UnitId((layer * (shape.experts + 1)) as u32)
}

fn expert(shape: ExpertShape, layer: usize, expert: usize) -> UnitId {
    UnitId(shared(shape, layer).0 + 1 + expert as u32)
}

fn units(shape: ExpertShape) -> Vec<UnitInfo> {
    let unit = |layer: usize, kind| UnitInfo { bytes: UNIT_BYTES, layer: Some(layer as u32), kind };
    let of_layer = |layer| {
        let experts = (0..shape.experts).map(move |_| unit(layer, UnitKind::Expert));
        std::iter::once(unit(layer, UnitKind::Shared)).chain(experts)
    };
    (0..shape.layers).flat_map(of_layer).collect()
}

fn predictor(shape: ExpertShape) -> RoutedPredictor {
    let schedule: Vec<UnitId> = (0..shape.layers).map(|layer| shared(shape, layer)).collect();
    let share = shape.used as f32 / shape.experts as f32;
    let routed = |layer| {
        (0..shape.experts).map(move |number| RoutedUnit { unit: expert(shape, layer, number), place: layer, share })
    };
    let routed: Vec<RoutedUnit> = (0..shape.layers).flat_map(routed).collect();
    RoutedPredictor::new(schedule, &routed)
}

/// The recording as a trace of units, with what the next layer's router would choose early as hints.
fn units_used(routing: &Routing) -> Trace {
    let shape = routing.shape;
    let mut trace = Trace::new("held-out", units(shape));
    routing.play(|routed| {
        trace.push_step(&[shared(shape, routed.layer)]);
        let chosen = routed.chosen.iter().map(|&number| expert(shape, routed.layer, number as usize));
        trace.push_step(&chosen.collect::<Vec<_>>());
        let Some(early) = routed.lookahead.first() else { return trace.end_pass(1) };
        let mut scores: Vec<(usize, f32)> = early.iter().copied().enumerate().collect();
        scores.sort_by(|a, b| b.1.total_cmp(&a.1));
        let (_, best) = scores[0];
        let sum: f32 = scores.iter().map(|(_, score)| (score - best).exp()).sum();
        let hints = scores.iter().take(HINTED).map(|&(number, score)| ExpectedUse {
            unit: expert(shape, routed.layer + 1, number),
            distance: 1,
            probability: (shape.used as f32 * (score - best).exp() / sum).min(0.99),
        });
        trace.push_hint(hints.collect());
    });
    trace
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/assets/moe-traces/held-out.safetensors");
    let routing = Routing::read(&path, usize::MAX)?;
    let trace = units_used(&routing);
    let budgets = [25, 50, 75].map(|percent| trace.total_bytes() * percent / 100);
    println!("| policy | 25 % | 50 % | 75 % |\n|---|---|---|---|");
    for (title, hinted) in [("schedule alone", false), ("rates and router lookahead", true)] {
        let mut laboratory = Laboratory::new(&trace);
        if hinted {
            laboratory.predictor(|| Box::new(predictor(routing.shape)));
        }
        for name in policy::NAMES {
            laboratory.named_policy(name)?;
        }
        let at = budgets.map(|bytes| laboratory.at(bytes)).into_iter().collect::<Result<Vec<Comparison>, _>>()?;
        let row = |name: &str, rate: &dyn Fn(&Comparison) -> f64| {
            let cells: Vec<String> = at.iter().map(|at| format!("{:.1} %", 100.0 * rate(at))).collect();
            println!("| {name} | {} |", cells.join(" | "));
        };
        row(&format!("*{title}*: MIN"), &|at| at.min.byte_hit_rate());
        for (place, name) in policy::NAMES.iter().enumerate() {
            row(name, &|at| at.outcomes[place].1.byte_hit_rate());
        }
    }
    Ok(())
}
