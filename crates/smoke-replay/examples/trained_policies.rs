//! What every policy hits on the recorded routing of a trained mixture of experts: the table in `docs/policies.md`.
//!
//! `cargo run --release -p smoke-replay --example trained_policies` takes the held-out text of `tests/assets/moe-traces`.

use std::error::Error;
use std::path::Path;

use smoke_cache::policy;
use smoke_core::{UnitId, UnitInfo, UnitKind};
use smoke_predict::OraclePredictor;
use smoke_predict::experts::{self, ExpertAdviser, ExpertShape, LearnedShape};
use smoke_replay::{Comparison, Laboratory, ReplayError, Trace};

use crate::routing::Trace as Routing;

#[path = "../../smoke-predict/examples/expert_recall/trace.rs"]
mod routing;

/// Bytes of an expert, and of what a layer shares.
const UNIT_BYTES: u64 = 1_000_000;

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

/// The recording as a trace of units, with what `predictor` expects of the next layers as hints.
fn units_used(routing: &Routing, predictor: &str) -> Result<Trace, Box<dyn Error>> {
    let shape = routing.shape;
    let experts = |layer| (0..shape.experts).map(move |number| expert(shape, layer, number)).collect();
    let learned = LearnedShape { experts: shape, inputs: routing.hidden, model: 0 };
    let predicting = experts::by_name(predictor, learned).ok_or("there is no such predictor")?;
    let mut adviser = ExpertAdviser::new(shape, (0..shape.layers).map(experts).collect(), predictor, predicting);
    let mut trace = Trace::new("held-out", units(shape));
    routing.play(|routed| {
        trace.push_step(&[shared(shape, routed.layer)]);
        let chosen = routed.chosen.iter().map(|&number| expert(shape, routed.layer, number as usize));
        trace.push_step(&chosen.collect::<Vec<_>>());
        trace.push_hint(adviser.observe(routed).to_vec());
        if routed.layer + 1 == shape.layers {
            trace.end_pass(1);
        }
    });
    Ok(trace)
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/assets/moe-traces/held-out.safetensors");
    let routing = Routing::read(&path, usize::MAX)?;
    println!("| policy | 25 % | 50 % | 75 % |\n|---|---|---|---|");
    for (title, hinter, predictor) in [
        ("schedule alone", "none", "schedule"),
        ("rates", "none", "routed"),
        ("rates and router lookahead", "lookahead", "routed"),
        ("rates and what is learnt of routers", "learned", "routed"),
        ("rates and what is learnt of choices", "none", "learned"),
        ("rates and transitions", "none", "transitions"),
    ] {
        let trace = units_used(&routing, hinter)?;
        let mut laboratory = Laboratory::new(&trace);
        laboratory.named_predictor(predictor)?;
        for name in policy::NAMES {
            laboratory.named_policy(name)?;
        }
        let budgets = [25, 50, 75].map(|percent| trace.total_bytes() * percent / 100);
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
    ceiling(&routing)
}

/// What the hybrid policy would hit if somebody knew for certain what the next tokens use, and nothing of those after.
fn ceiling(routing: &Routing) -> Result<(), Box<dyn Error>> {
    let trace = units_used(routing, "none")?;
    let uses: Vec<UnitId> = trace.steps().flatten().copied().collect();
    let uses_per_token = uses.len() as u64 / trace.tokens();
    println!("\n| tokens known | 25 % | 50 % | 75 % |\n|---|---|---|---|");
    for tokens in [0, 1, 2, 4, 8, 16, 32] {
        let mut laboratory = Laboratory::new(&trace);
        let oracle = OraclePredictor::new(uses.clone()).with_sight(tokens * uses_per_token);
        laboratory.predictor(move || Box::new(oracle.clone())).named_policy("hybrid")?;
        let cells = [25, 50, 75].map(|percent| {
            let at = laboratory.at(trace.total_bytes() * percent / 100)?;
            Ok::<_, ReplayError>(format!("{:.1} %", 100.0 * at.outcomes[0].1.byte_hit_rate()))
        });
        println!("| {tokens} | {} |", cells.into_iter().collect::<Result<Vec<_>, _>>()?.join(" | "));
    }
    Ok(())
}
