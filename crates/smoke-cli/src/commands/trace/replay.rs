//! `smoke trace replay`

use std::io::Write;

use serde_json::{Value, json};
use smoke_replay::chart::{COLOURS, Chart, Scale, Series, Style};
use smoke_replay::{Comparison, Laboratory, Trace, predictors};
use smoke_runtime::{ByteSize, POLICY_NAMES};

use super::super::Result;
use crate::arguments::{ALL, ReplayArguments};
use crate::report::{percent, spinner};

/// Budgets of a curve, besides those that were asked for.
const CURVE_POINTS: usize = 24;

/// Replays a recording with each policy.
pub(crate) fn replay(arguments: &ReplayArguments) -> Result {
    let trace = Trace::open(&arguments.trace)?;
    let policies = names(&arguments.policy, POLICY_NAMES);
    let predictors = names(&arguments.predictor, predictors::NAMES);
    let asked: Vec<u64> = arguments.memory.iter().map(|size| size.bytes()).collect();
    let replaying = spinner("replaying");
    let mut replays = Vec::new();
    for predictor in predictors {
        let mut laboratory = Laboratory::new(&trace);
        laboratory.named_predictor(predictor)?;
        for policy in &policies {
            laboratory.named_policy(policy)?;
        }
        let at = |bytes: &u64| laboratory.at(*bytes);
        let comparisons = asked.iter().map(at).collect::<std::result::Result<Vec<_>, _>>()?;
        // The first predictor's is drawn.
        if let Some(path) = arguments.svg.as_ref().filter(|_| replays.is_empty()) {
            let curve = laboratory.budgets(CURVE_POINTS);
            let mut curve = curve.iter().map(at).collect::<std::result::Result<Vec<_>, _>>()?;
            curve.extend(comparisons.iter().cloned());
            std::fs::write(path, picture(&trace, &curve))
                .map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
        }
        replays.push(Replay { predictor, comparisons });
    }
    replaying.finish_and_clear();
    let mut out = std::io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", replays_json(&trace, &replays))?;
    } else if let [replay] = &replays[..] {
        table(&mut out, &trace, replay)?;
    } else {
        tables(&mut out, &trace, &asked, &replays)?;
    }
    let comparisons = replays.first().map_or(&[][..], |replay| &replay.comparisons);
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

/// What all policies did with one predictor, budget by budget.
struct Replay<'a> {
    predictor: &'a str,
    comparisons: Vec<Comparison>,
}

/// The names that were chosen, or all.
fn names<'a>(chosen: &'a [String], all: &[&'a str]) -> Vec<&'a str> {
    if chosen.iter().any(|name| name == ALL) { all.to_vec() } else { chosen.iter().map(String::as_str).collect() }
}

fn heading(trace: &Trace) -> String {
    format!(
        "{}: {} units of {}, {} tokens, {} uses of {}",
        trace.model(),
        trace.units().len(),
        ByteSize(trace.total_bytes()),
        trace.tokens(),
        trace.accesses().len(),
        ByteSize(trace.accessed_bytes())
    )
}

fn memory(trace: &Trace, budget_bytes: u64) -> String {
    let share = budget_bytes as f64 / trace.total_bytes().max(1) as f64;
    format!("memory {}, {} of all units", ByteSize(budget_bytes), percent(share))
}

/// Bytes that hit, for each policy and predictor.
fn tables(out: &mut impl Write, trace: &Trace, asked: &[u64], replays: &[Replay<'_>]) -> std::io::Result<()> {
    writeln!(out, "{}; byte hits by predictor", heading(trace))?;
    for (place, &budget_bytes) in asked.iter().enumerate() {
        writeln!(out, "\n{}", memory(trace, budget_bytes))?;
        write!(out, "{:<16}", "policy")?;
        replays.iter().try_for_each(|replay| write!(out, "{:>13}", replay.predictor))?;
        writeln!(out)?;
        let at: Vec<&Comparison> = replays.iter().map(|replay| &replay.comparisons[place]).collect();
        let Some(first) = at.first() else { continue };
        let name = if first.is_min_exact { "MIN" } else { "MIN, at most" };
        writeln!(out, "{name:<16}{:>13}", percent(first.min.byte_hit_rate()))?;
        for (row, (policy, _)) in first.outcomes.iter().enumerate() {
            write!(out, "{policy:<16}")?;
            at.iter().try_for_each(|comparison| {
                write!(out, "{:>13}", percent(comparison.outcomes[row].1.byte_hit_rate()))
            })?;
            writeln!(out)?;
        }
    }
    Ok(())
}

fn table(out: &mut impl Write, trace: &Trace, Replay { predictor, comparisons }: &Replay<'_>) -> std::io::Result<()> {
    writeln!(out, "{}; predictor {predictor}", heading(trace))?;
    for comparison in comparisons {
        writeln!(out, "\n{}", memory(trace, comparison.budget_bytes))?;
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

/// One predictor's replay as one object; of several, each with its name and budgets.
fn replays_json(trace: &Trace, replays: &[Replay<'_>]) -> Value {
    let one = |Replay { predictor, comparisons }: &Replay<'_>| {
        let budgets: Vec<Value> = comparisons.iter().map(|comparison| comparison_json(trace, comparison)).collect();
        json!({ "predictor": predictor, "budgets": budgets })
    };
    let mut value = match replays {
        [replay] => one(replay),
        _ => json!({ "replays": replays.iter().map(one).collect::<Vec<_>>() }),
    };
    value["model"] = json!(trace.model());
    value["tokens"] = json!(trace.tokens());
    value["total_bytes"] = json!(trace.total_bytes());
    value["cliff_bytes"] = json!(trace.cliff_bytes());
    value
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
