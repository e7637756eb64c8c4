//! `smoke trace replay`

use std::io::Write;

use serde_json::{Value, json};
use smoke_replay::chart::{COLOURS, Chart, Scale, Series, Style};
use smoke_replay::{Comparison, Laboratory, Trace};
use smoke_runtime::{ByteSize, POLICY_NAMES};

use super::super::Result;
use crate::arguments::{ALL, ReplayArguments};
use crate::report::{percent, spinner};

/// Budgets of a curve, besides those that were asked for.
const CURVE_POINTS: usize = 24;

/// Replays a recording with each policy.
pub(crate) fn replay(arguments: &ReplayArguments) -> Result {
    let trace = Trace::open(&arguments.trace)?;
    let mut laboratory = Laboratory::new(&trace);
    laboratory.named_predictor(&arguments.predictor)?;
    let is_all = arguments.policy.iter().any(|name| name == ALL);
    let chosen = arguments.policy.iter().map(String::as_str);
    let names: Vec<&str> = if is_all { POLICY_NAMES.to_vec() } else { chosen.collect() };
    for name in names {
        laboratory.named_policy(name)?;
    }
    let replaying = spinner("replaying");
    let at = |bytes: &u64| laboratory.at(*bytes);
    let asked: Vec<u64> = arguments.memory.iter().map(|size| size.bytes()).collect();
    let comparisons = asked.iter().map(at).collect::<std::result::Result<Vec<_>, _>>()?;
    if let Some(path) = &arguments.svg {
        let curve = laboratory.budgets(CURVE_POINTS);
        let mut curve = curve.iter().map(at).collect::<std::result::Result<Vec<_>, _>>()?;
        curve.extend(comparisons.iter().cloned());
        std::fs::write(path, picture(&trace, &curve))
            .map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
    }
    replaying.finish_and_clear();
    let mut out = std::io::stdout().lock();
    if arguments.json {
        let comparisons = comparisons.iter().map(|comparison| comparison_json(&trace, comparison));
        writeln!(
            out,
            "{}",
            json!({
                "model": trace.model(),
                "tokens": trace.tokens(),
                "predictor": arguments.predictor,
                "total_bytes": trace.total_bytes(),
                "cliff_bytes": trace.cliff_bytes(),
                "budgets": comparisons.collect::<Vec<_>>(),
            })
        )?;
    } else {
        table(&mut out, &trace, &arguments.predictor, &comparisons)?;
    }
    if !trace.is_complete() {
        eprintln!("note: the recording was not ended: this is what was written before");
    }
    let cliff = trace.cliff_bytes().unwrap_or(0);
    for comparison in comparisons.iter().filter(|comparison| comparison.is_below_cliff) {
        eprintln!(
            "warning: {} is below one token's bytes ({} between two uses of a unit): LRU will hit 0 %",
            ByteSize(comparison.budget_bytes),
            ByteSize(cliff)
        );
    }
    Ok(())
}

fn table(out: &mut impl Write, trace: &Trace, predictor: &str, comparisons: &[Comparison]) -> std::io::Result<()> {
    writeln!(
        out,
        "{}: {} units of {}, {} tokens, {} uses of {}; predictor {predictor}",
        trace.model(),
        trace.units().len(),
        ByteSize(trace.total_bytes()),
        trace.tokens(),
        trace.accesses().len(),
        ByteSize(trace.accessed_bytes())
    )?;
    for comparison in comparisons {
        let share = comparison.budget_bytes as f64 / trace.total_bytes().max(1) as f64;
        writeln!(out, "\nmemory {}, {} of all units", ByteSize(comparison.budget_bytes), percent(share))?;
        writeln!(
            out,
            "{:<16}{:>10}{:>13}{:>11}{:>16}",
            "policy", "byte hits", "behind MIN", "unit hits", "read per token"
        )?;
        let min = comparison.min.byte_hit_rate();
        let per_token = |bytes: u64| match trace.tokens() {
            0 => "-".to_owned(),
            tokens => ByteSize(bytes / tokens).to_string(),
        };
        let name = if comparison.is_min_exact { "MIN" } else { "MIN, at most" };
        let missed = per_token(comparison.min.missed_bytes());
        writeln!(out, "{name:<16}{:>10}{:>13}{:>11}{missed:>16}", percent(min), "", "")?;
        for (name, outcome) in &comparison.outcomes {
            writeln!(
                out,
                "{name:<16}{:>10}{:>13}{:>11}{:>16}",
                percent(outcome.byte_hit_rate()),
                format!("{:.1} pt", 100.0 * (min - outcome.byte_hit_rate())),
                percent(outcome.unit_hit_rate()),
                per_token(outcome.loaded_bytes)
            )?;
        }
    }
    Ok(())
}

fn comparison_json(trace: &Trace, comparison: &Comparison) -> Value {
    let outcomes = comparison.outcomes.iter().map(|(name, outcome)| {
        json!({
            "policy": name,
            "byte_hit_rate": outcome.byte_hit_rate(),
            "unit_hit_rate": outcome.unit_hit_rate(),
            "loaded_bytes": outcome.loaded_bytes,
            "loaded_bytes_per_token": outcome.loaded_bytes_per_token(),
            "peak_bytes": outcome.peak_bytes,
        })
    });
    json!({
        "budget_bytes": comparison.budget_bytes,
        "min_byte_hit_rate": comparison.min.byte_hit_rate(),
        "min_loaded_bytes_per_token": comparison.min.missed_bytes() as f64 / trace.tokens().max(1) as f64,
        "is_min_exact": comparison.is_min_exact,
        "is_below_cliff": comparison.is_below_cliff,
        "policies": outcomes.collect::<Vec<_>>(),
    })
}

fn picture(trace: &Trace, curve: &[Comparison]) -> String {
    let points = |rate: &dyn Fn(&Comparison) -> f64| {
        curve.iter().map(|comparison| (comparison.budget_bytes as f64, 100.0 * rate(comparison))).collect()
    };
    let min = Series {
        name: "MIN".to_owned(),
        colour: "#333",
        style: Style::Dashed,
        points: points(&|comparison| comparison.min.byte_hit_rate()),
    };
    let names = curve.first().into_iter().flat_map(|comparison| &comparison.outcomes);
    let policies = names.enumerate().map(|(place, (name, _))| Series {
        name: name.clone(),
        colour: COLOURS[place % COLOURS.len()],
        style: Style::Line,
        points: points(&|comparison| comparison.outcomes[place].1.byte_hit_rate()),
    });
    let (x_unit, unit) = match trace.total_bytes() {
        1_000_000_000.. => (1e9, "GB"),
        1_000_000.. => (1e6, "MB"),
        _ => (1e3, "kB"),
    };
    let chart = Chart {
        title: &format!("{}: what stays in memory", trace.model()),
        x_label: &format!("memory for weights, {unit} (all of them: {:.4})", trace.total_bytes() as f64 / x_unit),
        x_unit,
        y_label: "bytes that hit, %",
        y_scale: Scale::To(100.0),
        mark: Some(trace.total_bytes() as f64),
        series: &std::iter::once(min).chain(policies).collect::<Vec<_>>(),
    };
    chart.svg()
}
