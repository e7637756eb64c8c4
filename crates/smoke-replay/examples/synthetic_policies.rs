//! What every policy hits on traces that are made up: the tables and pictures of `docs/policies.md`.
//!
//! `cargo run --release -p smoke-replay --example synthetic_policies [-- FOLDER]` writes pictures into the folder.

use std::error::Error;
use std::path::Path;

use smoke_cache::policy;
use smoke_replay::chart::{COLOURS, Chart, Scale, Series, Style};
use smoke_replay::synthetic::{self, MoeShape};
use smoke_replay::{Comparison, Laboratory, Trace};

/// 8 layers of 32 experts, 4 to a token: a token uses an eighth of the experts.
const SHAPE: MoeShape = MoeShape { layers: 8, experts: 32, top_k: 4, expert_bytes: 1_000_000, shared_bytes: 1_000_000 };

fn laboratory<'a>(trace: &'a Trace, predictor: &str) -> Result<Laboratory<'a>, Box<dyn Error>> {
    let mut laboratory = Laboratory::new(trace);
    laboratory.named_predictor(predictor)?;
    for name in policy::NAMES {
        laboratory.named_policy(name)?;
    }
    Ok(laboratory)
}

fn table(title: &str, laboratory: &Laboratory<'_>, budgets: &[(&str, u64)]) -> Result<(), Box<dyn Error>> {
    let comparisons = budgets.iter().map(|(_, bytes)| laboratory.at(*bytes)).collect::<Result<Vec<Comparison>, _>>()?;
    let names: Vec<&str> = budgets.iter().map(|(name, _)| *name).collect();
    println!("\n| {title} | {} |\n|---|{}", names.join(" | "), "---|".repeat(names.len()));
    let row = |name: &str, rate: &dyn Fn(&Comparison) -> f64| {
        let cells: Vec<String> = comparisons.iter().map(|at| format!("{:.1} %", 100.0 * rate(at))).collect();
        println!("| {name} | {} |", cells.join(" | "));
    };
    row("MIN", &|at| at.min.byte_hit_rate());
    for (place, name) in policy::NAMES.iter().enumerate() {
        row(name, &|at| at.outcomes[place].1.byte_hit_rate());
    }
    Ok(())
}

fn picture(path: &Path, title: &str, laboratory: &Laboratory<'_>) -> Result<(), Box<dyn Error>> {
    let budgets = laboratory.budgets(33);
    let curve = budgets.iter().map(|&bytes| laboratory.at(bytes)).collect::<Result<Vec<Comparison>, _>>()?;
    let points = |rate: &dyn Fn(&Comparison) -> f64| {
        curve.iter().map(|at| (at.budget_bytes as f64, 100.0 * rate(at))).collect::<Vec<_>>()
    };
    let min = points(&|at| at.min.byte_hit_rate());
    let mut series = vec![Series { name: "MIN".into(), colour: "#333", style: Style::Dashed, points: min }];
    for (colour, name) in COLOURS.into_iter().zip(["hybrid", "per-layer-lfu", "lfu", "s3-fifo", "lru"]) {
        let place = policy::NAMES.iter().position(|&known| known == name).ok_or("a policy of that name")?;
        let points = points(&|at| at.outcomes[place].1.byte_hit_rate());
        series.push(Series { name: name.into(), colour, style: Style::Line, points });
    }
    let chart = Chart {
        title,
        x_label: "memory for weights, MB",
        x_unit: 1e6,
        y_label: "bytes that hit, %",
        y_scale: Scale::To(100.0),
        mark: budgets.last().map(|&bytes| bytes as f64),
        series: &series,
    };
    Ok(std::fs::write(path, chart.svg())?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1);
    let dense = synthetic::dense(100, 1_000_000, 100);
    let budgets = [("25 %", 25_000_000), ("50 %", 50_000_000), ("75 %", 75_000_000), ("95 %", 95_000_000)];
    table("dense, 100 units in turn", &laboratory(&dense, "schedule")?, &budgets)?;

    let token_bytes = 8 * 5 * 1_000_000;
    let all_bytes = 8 * 33 * 1_000_000;
    let part = |percent: u64| all_bytes * percent / 100;
    let budgets = [("below a token", token_bytes * 9 / 10), ("25 %", part(25)), ("50 %", part(50)), ("75 %", part(75))];
    for (file, title, trace) in [
        ("zipf", "some experts are popular (Zipf 1.0)", synthetic::zipf_moe(SHAPE, 1.0, 400, 1)),
        (
            "markov",
            "half of the experts stay, others are popular (Zipf 0.8)",
            synthetic::markov_moe(SHAPE, 0.8, 0.5, 400, 1),
        ),
        ("even", "half of the experts stay, none is popular", synthetic::markov_moe(SHAPE, 0.0, 0.5, 400, 1)),
    ] {
        let laboratory = laboratory(&trace, "schedule")?;
        table(title, &laboratory, &budgets)?;
        if let (Some(folder), "markov") = (&folder, file) {
            picture(&Path::new(folder).join("policies.svg"), title, &laboratory)?;
        }
    }
    Ok(())
}
