use std::error::Error;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use smoke_runtime::storage::{Checkpoint, ReaderKind, WeightSource};
use smoke_runtime::{
    AtEnd, ByteSize, GenerateOptions, Limit, Plan, Probe, Prompt, Runtime, RuntimeError, Sampling, Statistics,
};

use crate::arguments::{InspectArguments, ModelArguments, PlanArguments, RunArguments};
use crate::report::{bytes_bar, percent, spinner};

type Result = std::result::Result<(), Box<dyn Error>>;

/// `smoke run`
pub(crate) fn run(arguments: &RunArguments) -> Result {
    if let Some(threads) = arguments.threads {
        smoke_runtime::set_threads(threads.get())?;
    }
    let runtime = open(&arguments.model, arguments.memory, &arguments.policy)?;
    let options = GenerateOptions {
        max_tokens: arguments.max_tokens,
        sampling: Sampling {
            temperature: arguments.temperature,
            top_k: arguments.top_k,
            top_p: arguments.top_p,
            seed: arguments.seed,
        },
        at_end: if arguments.ignore_eos { AtEnd::Ignore } else { AtEnd::Stop },
    };
    let mut generation = runtime.generate(prompt(arguments)?, options)?;
    let waiting = Loading::start(&runtime, generation.plan());
    let (mut ids, mut text) = (Vec::new(), String::new());
    let mut out = std::io::stdout().lock();
    while let Some(token) = generation.next() {
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
        writeln!(out, "{}", run_json(&ids, &text, &statistics))?;
    } else {
        writeln!(out, "{rest}")?;
    }
    summary(&statistics);
    Ok(())
}

fn open(model: &ModelArguments, memory: ByteSize, policy: &str) -> std::result::Result<Runtime, RuntimeError> {
    let opening = spinner(format!("opening {}", model.model.display()));
    let builder = Runtime::builder(&model.model).memory_bytes(memory.bytes()).device(model.device);
    let runtime = builder.policy_name(policy).open();
    opening.finish_and_clear();
    runtime
}

fn prompt(arguments: &RunArguments) -> std::io::Result<Prompt> {
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

fn run_json(ids: &[u32], text: &str, statistics: &Statistics) -> serde_json::Value {
    json!({
        "tokens": ids,
        "text": text,
        "prompt_tokens": statistics.prompt_tokens,
        "tokens_per_second": statistics.tokens_per_second(),
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
    eprintln!(
        "cache      {} of bytes hit (MIN {}), {} on time, {:.2} s stalled",
        percent(statistics.byte_hit_rate),
        percent(statistics.min_byte_hit_rate),
        percent(statistics.on_time_rate),
        statistics.stall.as_secs_f64()
    );
}

/// `smoke inspect`
pub(crate) fn inspect(arguments: &InspectArguments) -> Result {
    let runtime = open_everything(&arguments.model);
    let checkpoint = Checkpoint::open_with(&arguments.model.model, ReaderKind::Pread)?;
    let index = checkpoint.index();
    // A checkpoint whose architecture is unknown has tensors, but no units.
    let units = runtime.as_ref().map(|runtime| runtime.weights().streamer().units());
    if arguments.model.json {
        let tensors = index.iter().map(|tensor| {
            json!({
                "name": tensor.name,
                "encoding": tensor.encoding.to_string(),
                "shape": tensor.shape,
                "bytes": tensor.extent.len,
                "file": index.files()[tensor.extent.file as usize].path,
                "offset": tensor.extent.offset,
            })
        });
        let units = units.as_ref().ok().map(|units| {
            units.units().map(|unit| {
                json!({ "unit": unit.0, "bytes": units.payload_bytes(unit), "reads": units.runs(unit).len() })
            }).collect::<Vec<_>>()
        });
        let tensors: Vec<_> = tensors.collect();
        println!("{}", json!({ "model_bytes": index.total_bytes(), "tensors": tensors, "units": units }));
        return Ok(());
    }
    for tensor in index.iter() {
        let shape = tensor.shape.iter().map(u64::to_string).collect::<Vec<_>>().join(" × ");
        println!(
            "{:<48} {:>6} {:>20} {:>10}",
            tensor.name,
            tensor.encoding.to_string(),
            shape,
            ByteSize(tensor.extent.len).to_string()
        );
    }
    println!("{} tensors, {} in {} file(s)", index.len(), ByteSize(index.total_bytes()), index.files().len());
    match units {
        Ok(units) => {
            let largest = units.units().map(|unit| units.payload_bytes(unit)).max().unwrap_or(0);
            let reads: usize = units.units().map(|unit| units.runs(unit).len()).sum();
            println!("{} units of up to {}, {reads} reads", units.len(), ByteSize(largest));
        }
        Err(error) => eprintln!("no units: {error}"),
    }
    Ok(())
}

/// Opens the model with room for all of it, to look at it.
fn open_everything(model: &ModelArguments) -> std::result::Result<Runtime, RuntimeError> {
    Runtime::builder(&model.model).device(model.device).open()
}

/// `smoke plan`
pub(crate) fn plan(arguments: &PlanArguments) -> Result {
    if let Some(threads) = arguments.threads {
        smoke_runtime::set_threads(threads.get())?;
    }
    let runtime = open(&arguments.model, arguments.memory, "pinned")?;
    let plan = runtime.plan(arguments.context)?;
    let measuring = spinner("measuring disk and kernels");
    let probe = Probe::measure(&Checkpoint::open(&arguments.model.model)?)?;
    measuring.finish_and_clear();
    let prediction = plan.predict(&probe);
    let limit = match prediction.limit {
        Limit::Disk => "disk",
        Limit::Compute => "compute",
    };
    if arguments.model.json {
        let value = json!({
            "model_bytes": plan.model_bytes,
            "budget_bytes": plan.budget_bytes,
            "minimum_bytes": plan.minimum_bytes,
            "context_tokens": plan.context_tokens,
            "kv_cache_bytes": plan.kv_cache_bytes,
            "activation_bytes": plan.activation_bytes,
            "pinned_bytes": plan.pinned_bytes,
            "streaming_bytes": plan.streaming_bytes,
            "streamed_bytes_per_token": plan.streamed_bytes,
            "units": plan.units,
            "largest_unit_bytes": plan.largest_unit_bytes,
            "disk_bytes_per_second": probe.disk_bytes_per_second,
            "compute_bytes_per_second": probe.compute_bytes_per_second,
            "tokens_per_second": prediction.tokens_per_second,
            "bound_tokens_per_second": prediction.bound_tokens_per_second,
            "limit": limit,
        });
        println!("{value}");
        return Ok(());
    }
    println!(
        "model        {} in {} units of up to {}",
        ByteSize(plan.model_bytes),
        plan.units,
        ByteSize(plan.largest_unit_bytes)
    );
    println!(
        "budget       {} for {} tokens (smallest that works: {})",
        ByteSize(plan.budget_bytes),
        plan.context_tokens,
        ByteSize(plan.minimum_bytes)
    );
    println!("  stays      {} of weights", ByteSize(plan.pinned_bytes));
    println!("  streaming  {} for units on their way", ByteSize(plan.streaming_bytes));
    println!("  keys/values {}, activations {}", ByteSize(plan.kv_cache_bytes), ByteSize(plan.activation_bytes));
    println!("per token    {} streams from the disk", ByteSize(plan.streamed_bytes));
    println!(
        "measured     disk {}/s, kernels {}/s",
        ByteSize(probe.disk_bytes_per_second as u64),
        ByteSize(probe.compute_bytes_per_second as u64)
    );
    println!(
        "predicted    {:.2} tok/s, limited by {limit} (bound {:.2})",
        prediction.tokens_per_second, prediction.bound_tokens_per_second
    );
    Ok(())
}
