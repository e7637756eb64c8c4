//! `smoke trace show`

use std::io::Write;

use serde_json::json;
use smoke_replay::Trace;
use smoke_runtime::ByteSize;
use smoke_runtime::core::UnitKind;

use super::super::Result;
use crate::arguments::ShowArguments;

/// Says what a recording has in it.
pub(crate) fn show(arguments: &ShowArguments) -> Result {
    let mut out = std::io::stdout().lock();
    let trace = Trace::open(&arguments.trace)?;
    let units = trace.units();
    let experts = units.iter().filter(|unit| unit.kind == UnitKind::Expert).count();
    let mut layers: Vec<u32> = units.iter().filter_map(|unit| unit.layer).collect();
    layers.sort_unstable();
    layers.dedup();
    let (tokens, passes, hints) = (trace.tokens(), trace.passes().len(), trace.hints().len());
    let bytes_per_pass = trace.accessed_bytes().checked_div(passes as u64);
    if arguments.json {
        let value = json!({
            "model": trace.model(),
            "units": units.len(),
            "experts": experts,
            "layers": layers.len(),
            "total_bytes": trace.total_bytes(),
            "steps": trace.steps().len(),
            "uses": trace.accesses().len(),
            "used_bytes": trace.accessed_bytes(),
            "hints": hints,
            "passes": passes,
            "tokens": tokens,
            "least_memory_bytes": trace.largest_step_bytes(),
            "cliff_bytes": trace.cliff_bytes(),
            "is_complete": trace.is_complete(),
        });
        writeln!(out, "{value}")?;
        return Ok(());
    }
    writeln!(
        out,
        "model   {}, {} units of {} together, {experts} of them experts, in {} layers",
        trace.model(),
        units.len(),
        ByteSize(trace.total_bytes()),
        layers.len()
    )?;
    writeln!(
        out,
        "trace   {tokens} tokens in {passes} passes; {} uses in {} steps, {hints} hints",
        trace.accesses().len(),
        trace.steps().len()
    )?;
    if let Some(bytes) = bytes_per_pass {
        writeln!(out, "a pass  uses {} on average", ByteSize(bytes))?;
    }
    writeln!(out, "memory  at least {}", ByteSize(trace.largest_step_bytes()))?;
    if let Some(bytes) = trace.cliff_bytes() {
        writeln!(out, "        below {} least-recently-used eviction hits nothing", ByteSize(bytes))?;
    }
    if !trace.is_complete() {
        writeln!(out, "the recording was not ended: this is what was written before")?;
    }
    Ok(())
}
