//! What every policy hits on the recorded routing of a trained mixture of experts: the table in `docs/policies.md`.
//!
//! `cargo run --release -p smoke-replay --example trained_policies` takes the held-out text of `tests/assets/moe-traces`.

use std::error::Error;
use std::path::Path;

use safetensors::SafeTensors;
use smoke_cache::policy;
use smoke_core::{ExpectedUse, UnitId, UnitInfo, UnitKind};
use smoke_predict::{RoutedPredictor, RoutedUnit};
use smoke_replay::{Comparison, Laboratory, Trace};

/// Bytes of an expert, and of what a layer shares.
const UNIT_BYTES: u64 = 1_000_000;
/// Of the later router's experts, run early, so many are told.
const HINTED: usize = 4;

/// Layers, experts of a layer, experts of a token.
struct Shape {
    layers: usize,
    experts: usize,
    used: usize,
}

impl Shape {
    fn shared(&self, layer: usize) -> UnitId {
        UnitId((layer * (self.experts + 1)) as u32)
    }

    fn expert(&self, layer: usize, expert: usize) -> UnitId {
        UnitId((layer * (self.experts + 1) + 1 + expert) as u32)
    }

    fn units(&self) -> Vec<UnitInfo> {
        let unit = |layer: usize, kind| UnitInfo { bytes: UNIT_BYTES, layer: Some(layer as u32), kind };
        let of_layer = |layer| {
            let experts = (0..self.experts).map(move |_| unit(layer, UnitKind::Expert));
            std::iter::once(unit(layer, UnitKind::Shared)).chain(experts)
        };
        (0..self.layers).flat_map(of_layer).collect()
    }

    fn predictor(&self) -> RoutedPredictor {
        let schedule: Vec<UnitId> = (0..self.layers).map(|layer| self.shared(layer)).collect();
        let share = self.used as f32 / self.experts as f32;
        let routed = |layer| {
            (0..self.experts).map(move |expert| RoutedUnit { unit: self.expert(layer, expert), place: layer, share })
        };
        let routed: Vec<RoutedUnit> = (0..self.layers).flat_map(routed).collect();
        RoutedPredictor::new(schedule, &routed)
    }
}

/// The recording as a trace, with what the next layer's router would choose early as hints.
fn trace(bytes: &[u8]) -> Result<(Shape, Trace), Box<dyn Error>> {
    let file = SafeTensors::deserialize(bytes)?;
    let (chosen, early) = (file.tensor("experts")?, file.tensor("lookahead.1")?);
    let &[tokens, layers, used] = chosen.shape() else { return Err("experts have no three dimensions".into()) };
    let experts = early.shape().last().copied().ok_or("lookahead has no dimensions")?;
    let shape = Shape { layers, experts, used };
    let mut trace = Trace::new("held-out", shape.units());
    let score = |token: usize, layer: usize, expert: usize| {
        let at = ((token * (layers - 1) + layer) * experts + expert) * 2;
        half::f16::from_le_bytes([early.data()[at], early.data()[at + 1]]).to_f32()
    };
    for token in 0..tokens {
        for layer in 0..layers {
            trace.push_step(&[shape.shared(layer)]);
            let chosen = &chosen.data()[(token * layers + layer) * used..][..used];
            let units: Vec<UnitId> = chosen.iter().map(|&expert| shape.expert(layer, usize::from(expert))).collect();
            trace.push_step(&units);
            if layer + 1 < layers {
                let mut scores: Vec<(usize, f32)> =
                    (0..experts).map(|expert| (expert, score(token, layer, expert))).collect();
                scores.sort_by(|a, b| b.1.total_cmp(&a.1));
                let sum: f32 = scores.iter().map(|(_, score)| (score - scores[0].1).exp()).sum();
                let hints = scores.iter().take(HINTED).map(|&(expert, score)| ExpectedUse {
                    unit: shape.expert(layer + 1, expert),
                    distance: 1,
                    probability: (used as f32 * (score - scores[0].1).exp() / sum).min(0.99),
                });
                trace.push_hint(hints.collect());
            }
        }
        trace.end_pass(1);
    }
    Ok((shape, trace))
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/assets/moe-traces/held-out.safetensors");
    let (shape, trace) = trace(&std::fs::read(path)?)?;
    let budgets = [25, 50, 75].map(|percent| trace.total_bytes() * percent / 100);
    println!("| policy | 25 % | 50 % | 75 % |\n|---|---|---|---|");
    for (title, hinted) in [("schedule alone", false), ("rates and router lookahead", true)] {
        let mut laboratory = Laboratory::new(&trace);
        if hinted {
            laboratory.predictor(|| Box::new(shape.predictor()));
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
