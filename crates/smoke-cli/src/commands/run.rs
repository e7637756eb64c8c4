//! `smoke run`

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use smoke_runtime::storage::cache_directory;
use smoke_runtime::{
    Achieved, AtEnd, ByteSize, ExpertScore, GenerateOptions, Limit, Plan, Prompt, Runtime, RuntimeBuilder, Sampling,
    Statistics, Weighed,
};

use super::{Result, open};
use crate::arguments::RunArguments;
use crate::report::{bytes_bar, note, of_codec, percent, weighed_json};

/// Answers a prompt.
pub(crate) fn run(arguments: &RunArguments) -> Result {
    if let Some(threads) = arguments.threads {
        smoke_runtime::set_threads(threads.get())?;
    }
    let begun = Instant::now();
    let runtime = open(&arguments.model, &arguments.memory, |builder| {
        let builder = choose(builder, arguments).warm(!arguments.no_warm);
        state_directory(arguments).into_iter().fold(builder, RuntimeBuilder::state)
    })?;
    runtime.ignored_state().iter().for_each(|error| note(error));
    let mut generation = runtime.generate(prompt(arguments)?, options(arguments))?;
    let load = begun.elapsed();
    let waiting = Loading::start(&runtime, generation.plan());
    let (mut ids, mut text) = (Vec::new(), String::new());
    let mut out = std::io::stdout().lock();
    for token in generation.by_ref() {
        waiting.finish();
        let token = token?;
        ids.push(token.id);
        text.push_str(&token.text);
        if !arguments.model.json {
            if token.text.is_empty() && runtime.tokenizer().is_err() {
                write!(out, "{} ", token.id)?;
            }
            write!(out, "{}", token.text)?;
            out.flush()?;
        }
    }
    waiting.finish();
    let rest = generation.rest();
    text.push_str(&rest);
    let statistics = generation.statistics();
    if arguments.model.json {
        writeln!(out, "{}", run_json(&ids, &text, load, &statistics))?;
    } else {
        writeln!(out, "{rest}")?;
    }
    summary(&statistics);
    drop(generation);
    // The answer is there: what cannot be remembered is no failure.
    runtime.save_state().unwrap_or_else(|error| note(&error));
    Ok(())
}

/// Who evicts and who predicts.
pub(super) fn choose(builder: RuntimeBuilder, arguments: &RunArguments) -> RuntimeBuilder {
    let builder = builder.policy_name(&arguments.policy).speculation(arguments.speculation);
    let builder = builder.compressed(arguments.compressed);
    builder.expert_predictor_name(&arguments.predictor)
}

fn state_directory(arguments: &RunArguments) -> Option<PathBuf> {
    if arguments.no_state {
        return None;
    }
    arguments.state.clone().or_else(|| Some(cache_directory()?.join("models")))
}

pub(super) fn options(arguments: &RunArguments) -> GenerateOptions {
    GenerateOptions {
        max_tokens: arguments.max_tokens,
        sampling: Sampling {
            temperature: arguments.temperature,
            top_k: arguments.top_k,
            top_p: arguments.top_p,
            seed: arguments.seed,
        },
        at_end: if arguments.ignore_eos { AtEnd::Ignore } else { AtEnd::Stop },
    }
}

pub(super) fn prompt(arguments: &RunArguments) -> std::io::Result<Prompt> {
    if let Some(ids) = &arguments.prompt_ids {
        return Ok(Prompt::Tokens(ids.clone()));
    }
    let text = match &arguments.prompt {
        Some(text) => text.clone(),
        None => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            text.trim_end_matches('\n').to_owned()
        }
    };
    Ok(if arguments.raw { Prompt::Raw(text) } else { Prompt::chat(text) })
}

/// The bar that fills while the first pass reads the weights.
struct Loading {
    bar: indicatif::ProgressBar,
    done: Arc<AtomicBool>,
}

impl Loading {
    fn start(runtime: &Runtime, plan: &Plan) -> Self {
        let bar = bytes_bar(plan.pass_bytes, "reading weights");
        let done = Arc::new(AtomicBool::new(bar.is_hidden()));
        let (watched, streamer, stop) = (bar.clone(), runtime.weights().streamer().clone(), Arc::clone(&done));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                watched.set_position(streamer.stats().bytes_read);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        Self { bar, done }
    }

    fn finish(&self) {
        if !self.done.swap(true, Ordering::Relaxed) {
            self.bar.finish_and_clear();
        }
    }
}

fn run_json(ids: &[u32], text: &str, load: Duration, statistics: &Statistics) -> serde_json::Value {
    json!({
        "tokens": ids,
        "text": text,
        "prompt_tokens": statistics.prompt_tokens,
        "tokens_per_second": statistics.tokens_per_second(),
        "load_seconds": load.as_secs_f64(),
        "prefill_seconds": statistics.prefill.as_secs_f64(),
        "decode_seconds": statistics.decode.as_secs_f64(),
        "budget_bytes": statistics.budget_bytes,
        "peak_bytes": statistics.peak_bytes,
        "model_bytes": statistics.model_bytes,
        "bytes_read": statistics.bytes_read,
        "bytes_read_per_token": statistics.bytes_read_per_token,
        "min_bytes_read_per_token": statistics.min_bytes_read_per_token,
        "byte_hit_rate": statistics.byte_hit_rate,
        "min_byte_hit_rate": statistics.min_byte_hit_rate,
        "on_time_rate": statistics.on_time_rate,
        "stall_seconds": statistics.stall.as_secs_f64(),
        "decode_stall_seconds": statistics.decode_stall.as_secs_f64(),
        "decode_reading_seconds": statistics.decode_reading.as_secs_f64(),
        "share_of_bound": statistics.achieved().map(|achieved| achieved.share),
        "disk_bytes_per_second": statistics.achieved().and_then(|achieved| achieved.disk_bytes_per_second),
        "compressed": statistics.copies.as_ref().map(weighed_json),
        "compressed_bytes": statistics.compressed_bytes,
        "copied_bytes": statistics.copied_bytes,
        "decompressed_bytes": statistics.decompressed_bytes,
        "speculative_reads": statistics.speculation.issued,
        "speculative_bytes": statistics.speculation.issued_bytes,
        "speculative_reads_used": statistics.speculation.used,
        "speculation_switched_off": statistics.speculation.switched_off,
        "speculation_is_on": statistics.speculation.is_on,
        "experts": statistics.experts.iter().map(score_json).collect::<Vec<_>>(),
    })
}

fn score_json(ExpertScore { predictor, layers_ahead, score, .. }: &ExpertScore) -> serde_json::Value {
    json!({
        "predictor": predictor,
        "layers_ahead": layers_ahead,
        "predictions": score.routings(),
        "slot_recall": score.slot_recall(),
        "slot_recall_in_twice": score.slot_recall_in_twice(),
        "whole_routings": score.whole_routings(),
        "calibration_error": score.calibration_error(),
    })
}

fn summary(statistics: &Statistics) {
    let Statistics { generated_tokens, prompt_tokens, .. } = statistics;
    eprintln!();
    eprintln!(
        "{generated_tokens} tokens at {:.2} tok/s after {prompt_tokens} prompt tokens in {:.2} s",
        statistics.tokens_per_second(),
        statistics.prefill.as_secs_f64()
    );
    eprintln!(
        "memory     peak {} of {}, model {}",
        ByteSize(statistics.peak_bytes),
        ByteSize(statistics.budget_bytes),
        ByteSize(statistics.model_bytes)
    );
    eprintln!(
        "disk       {} read, {} per token (least possible {})",
        ByteSize(statistics.bytes_read),
        ByteSize(statistics.bytes_read_per_token),
        ByteSize(statistics.min_bytes_read_per_token)
    );
    // Beside copies, what is decoded counts as not there.
    let min = match statistics.decompressed_bytes {
        0 => format!(" (MIN {})", percent(statistics.min_byte_hit_rate)),
        _ => String::new(),
    };
    eprintln!(
        "cache      {} of bytes hit{min}, {} on time, {:.2} s stalled",
        percent(statistics.byte_hit_rate),
        percent(statistics.on_time_rate),
        statistics.stall.as_secs_f64()
    );
    if let Some(weighed) = &statistics.copies {
        eprintln!("compressed {}", copies(weighed, statistics));
    }
    if let Some(achieved) = statistics.achieved() {
        eprintln!("bound      {}", of_the_bound(&achieved));
    }
    for ahead in [1, 2] {
        let of_that = |score: &&ExpertScore| score.layers_ahead == ahead && score.score.routings() > 0;
        let scores: Vec<&ExpertScore> = statistics.experts.iter().filter(of_that).collect();
        if let [used, others @ ..] = &scores[..] {
            eprintln!("experts    {}", predicted(used, others));
        }
    }
}

/// What compressed copies held and gave, or why there were none.
fn copies(weighed: &Weighed, statistics: &Statistics) -> String {
    let Statistics { compressed_bytes, copied_bytes, decompressed_bytes, .. } = *statistics;
    if decompressed_bytes == 0 && compressed_bytes == 0 {
        return format!("none: {}", of_codec(weighed));
    }
    format!(
        "{} hold {} of weights, {} decoded instead of read; {}",
        ByteSize(compressed_bytes),
        ByteSize(copied_bytes),
        ByteSize(decompressed_bytes),
        of_codec(weighed)
    )
}

/// How well experts were predicted, beside what costs less to know.
fn predicted(used: &ExpertScore, others: &[&ExpertScore]) -> String {
    let recall = |score: &ExpertScore| format!("{} {}", score.predictor, percent(score.score.slot_recall()));
    let layers = if used.layers_ahead == 1 { "the next layer" } else { "the layer after it" };
    let mut line = format!("of {layers} known by {}", recall(used));
    for (place, other) in others.iter().enumerate() {
        let before = if place == 0 { " (" } else { ", " };
        let _ = write!(line, "{before}{}", recall(other));
    }
    let end = if others.is_empty() { "" } else { ")" };
    format!("{line}{end}; probabilities off by {:.3}", used.score.calibration_error())
}

/// How near to the bound, and where the rest went.
fn of_the_bound(achieved: &Achieved) -> String {
    let rate = achieved
        .disk_bytes_per_second
        .map_or_else(String::new, |rate| format!(", the disk gave {:.2} GB/s", rate / 1e9));
    let (limit, rest) = match achieved.limit {
        Limit::Disk => (
            "disk",
            format!(
                "{} reads beyond the least, {} disk idle",
                percent(achieved.excess_reads),
                percent(achieved.disk_idle)
            ),
        ),
        Limit::Compute => ("computing", format!("{} waiting for weights", percent(achieved.waiting))),
    };
    format!("{} of what {limit} allows{rate}; the rest: {rest}", percent(achieved.share))
}
