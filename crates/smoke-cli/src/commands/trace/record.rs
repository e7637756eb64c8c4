//! `smoke trace record`

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;

use serde_json::json;
use smoke_replay::{Recorder, TraceWriter};
use smoke_runtime::core::UnitId;
use smoke_runtime::prefetch::Observed;
use smoke_runtime::{ByteSize, Plan, Runtime};

use super::super::{Result, open, run};
use crate::arguments::RecordArguments;
use crate::report::spinner;

/// What is read ahead, and cannot stay: nothing where all weights that every token uses stay, and only experts are read.
fn read_ahead_bytes(runtime: &Runtime, plan: &Plan) -> u64 {
    let units = runtime.units();
    let every_token: HashSet<UnitId> = runtime.schedule().cycle.iter().copied().collect();
    let every_token_bytes: u64 = every_token.iter().map(|unit| units[unit.index()].bytes).sum();
    if plan.routed_bytes > 0 && plan.pinned_bytes >= every_token_bytes {
        return 0;
    }
    plan.streaming_bytes.saturating_sub(plan.largest_unit_bytes)
}

/// Runs a model and records what it uses.
pub(crate) fn record(arguments: &RecordArguments) -> Result {
    let run = &arguments.run;
    if let Some(threads) = run.threads {
        smoke_runtime::set_threads(threads.get())?;
    }
    let runtime = open(&run.model, &run.memory, |builder| run::choose(builder, run))?;
    let streamer = runtime.weights().streamer();
    let path = arguments.out.display();
    let file = File::create(&arguments.out).map_err(|error| format!("{path} cannot be written: {error}"))?;
    let name = run.model.model.file_name().unwrap_or(run.model.model.as_os_str()).to_string_lossy();
    let recorder = Recorder::new(TraceWriter::new(file, &name, &runtime.units())?);
    let told = recorder.clone();
    let mut generation = runtime.generate(run::prompt(run)?, run::options(run))?;
    streamer.observe_with(move |observed| match observed {
        Observed::Uses(units) => told.step(units),
        Observed::Hints(expected) => told.hint(expected),
        _ => {}
    });
    let plan = generation.plan();
    let weight_bytes = plan.weight_capacity_bytes().saturating_sub(read_ahead_bytes(&runtime, plan));
    let recording = spinner("recording");
    let mut tokens = 0_u64;
    // The first pass computes the prompt, each later one a token.
    let mut pass_tokens = u32::try_from(generation.prompt().len())?;
    for token in generation.by_ref() {
        let _ = token?;
        recorder.end_pass(pass_tokens);
        tokens += u64::from(std::mem::replace(&mut pass_tokens, 1));
    }
    recording.finish_and_clear();
    streamer.stop_observing();
    recorder.finish()?;
    let bytes = std::fs::metadata(&arguments.out)?.len();
    let mut out = std::io::stdout().lock();
    if run.model.json {
        writeln!(
            out,
            "{}",
            json!({ "path": arguments.out, "bytes": bytes, "tokens": tokens, "weight_bytes": weight_bytes })
        )?;
    } else {
        writeln!(out, "{path}: {tokens} tokens in {}", ByteSize(bytes))?;
        eprintln!("weights could stay in {weight_bytes} bytes: `smoke trace replay {path} --memory {weight_bytes}`");
    }
    Ok(())
}
