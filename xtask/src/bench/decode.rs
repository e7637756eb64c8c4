//! Decoding under memory limits that the operating system enforces, beside llama.cpp, with the physical bound.
//!
//! For every limit the engines run one after another, Smoke before and after the other, each in a control group of its
//! own and with the model out of the page cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use smoke_replay::chart::{Chart, Scale, Series, Style};

use super::cold::{forget, run_cold};
use super::llama_cpp::LlamaCpp;
use super::random_model::{self, RandomModel};
use super::smoke::{Smoke, number, spread};

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct Decode {
    /// A GGUF file; unless given, a random one is made of the shape that the other options say.
    #[arg(long, conflicts_with_all = ["layers", "hidden", "intermediate", "heads", "kv_heads", "vocabulary", "encoding"])]
    model: Option<PathBuf>,
    #[command(flatten)]
    random: RandomModel,
    /// Memory limits in megabytes, page cache included; 0 is no limit.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 2600, 2200, 1500, 800])]
    limits: Vec<u64>,
    /// What runs.
    #[arg(long, value_delimiter = ',', default_values_t = [Engine::Smoke, Engine::LlamaCpp])]
    engines: Vec<Engine>,
    /// How often the sequence of engines runs for each limit.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Tokens generated.
    #[arg(long, default_value_t = 12)]
    tokens: usize,
    /// Tokens of the prompt.
    #[arg(long, default_value_t = 64)]
    prompt: usize,
    /// Threads that compute.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// What a process takes beside weights, keys and values and activations (code, tokenizer, stacks), in megabytes:
    /// Smoke gets this much less than the limit as its budget.
    #[arg(long, default_value_t = 48)]
    overhead: u64,
    /// Let nothing limit the processes: Smoke keeps to its budget by itself, others take what there is.
    #[arg(long)]
    no_limit: bool,
    /// Write a picture of the result here.
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// A program that decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Engine {
    Smoke,
    LlamaCpp,
}

impl std::fmt::Display for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Smoke => "smoke",
            Self::LlamaCpp => "llama-cpp",
        })
    }
}

/// The runs under one limit.
#[derive(Debug, Default)]
struct Case {
    limit_bytes: u64,
    bounds: Vec<f64>,
    predictions: Vec<f64>,
    smoke: Vec<Value>,
    llama_cpp: Vec<Value>,
    peaks: Vec<(Engine, u64)>,
}

/// Runs the benchmark and prints its report.
pub(crate) fn bench(arguments: &Decode) -> Result<()> {
    let model = match &arguments.model {
        Some(model) => model.clone(),
        None => random_model::make(&arguments.random)?,
    };
    let smoke = Smoke::build()?;
    let wants = |engine| arguments.engines.contains(&engine);
    let llama_cpp = if wants(Engine::LlamaCpp) { Some(LlamaCpp::ensure()?) } else { None };
    let model_bytes = number(&smoke.json("inspect", &model, &[])?, "model_bytes")? as u64;
    let mut cases: Vec<Case> =
        arguments.limits.iter().map(|&limit| Case { limit_bytes: limit * 1_000_000, ..Case::default() }).collect();
    let session = Session { arguments, model: &model, model_bytes, smoke: &smoke, llama_cpp: llama_cpp.as_ref() };
    for round in 1..=arguments.rounds {
        for case in &mut cases {
            eprintln!("round {round} of {}: limit {}", arguments.rounds, limit_name(case.limit_bytes));
            session.run(case)?;
        }
    }
    check_tokens(&cases)?;
    if let Some(path) = &arguments.svg {
        let title = model.file_name().unwrap_or_default().to_string_lossy();
        std::fs::write(path, picture(&title, model_bytes, &cases)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if arguments.json { print_json(&cases) } else { session.print_table(&cases) }
}

struct Session<'a> {
    arguments: &'a Decode,
    model: &'a Path,
    model_bytes: u64,
    smoke: &'a Smoke,
    llama_cpp: Option<&'a LlamaCpp>,
}

impl Session<'_> {
    fn run(&self, case: &mut Case) -> Result<()> {
        let Decode { tokens, prompt, threads, .. } = self.arguments;
        let ids = (10..10 + prompt).map(|id| id.to_string()).collect::<Vec<_>>().join(",");
        let (context, tokens, threads) = ((tokens + prompt).to_string(), tokens.to_string(), threads.to_string());
        let limit = if case.limit_bytes == 0 { self.model_bytes * 5 / 4 } else { case.limit_bytes };
        let memory = limit.saturating_sub(self.arguments.overhead * 1_000_000).to_string();
        let options =
            ["--memory", &memory, "--prompt-ids", &ids, "--max-tokens", &tokens, "--ignore-eos", "--threads", &threads];
        forget(self.model)?;
        // What the whole limit would allow is the bound; what the budget allows is what was planned.
        let plan = |memory: &str| {
            self.smoke.json("plan", self.model, &["--memory", memory, "--context", &context, "--threads", &threads])
        };
        case.bounds.push(number(&plan(&limit.to_string())?, "bound_tokens_per_second")?);
        case.predictions.push(number(&plan(&memory)?, "tokens_per_second")?);
        let smoke = |case: &mut Case| -> Result<()> {
            if self.arguments.engines.contains(&Engine::Smoke) {
                let command = self.smoke.command("run", self.model, &options);
                case.smoke.push(self.limited(case.limit_bytes, &mut case.peaks, Engine::Smoke, command)?);
            }
            Ok(())
        };
        smoke(case)?;
        if let Some(llama_cpp) = self.llama_cpp {
            let command = llama_cpp.command(self.model, &ids, &tokens, &threads);
            case.llama_cpp.push(self.limited(case.limit_bytes, &mut case.peaks, Engine::LlamaCpp, command)?);
        }
        smoke(case)?;
        Ok(())
    }

    /// Runs a command under the limit, with nothing of the model in the page cache.
    fn limited(
        &self,
        limit_bytes: u64,
        peaks: &mut Vec<(Engine, u64)>,
        engine: Engine,
        mut command: Command,
    ) -> Result<Value> {
        let limit_bytes = if self.arguments.no_limit { 0 } else { limit_bytes };
        let (value, peak) = run_cold(self.model, limit_bytes, &mut command)?;
        peaks.extend(peak.map(|peak| (engine, peak)));
        Ok(value)
    }

    fn print_table(&self, cases: &[Case]) -> Result<()> {
        let Decode { tokens, prompt, threads, rounds, .. } = self.arguments;
        println!(
            "{}: {:.2} GB; {prompt} prompt tokens, {tokens} generated, {threads} threads, {rounds} round(s), cold.\n",
            self.model.file_name().unwrap_or_default().to_string_lossy(),
            self.model_bytes as f64 / 1e9,
        );
        println!(
            "| memory limit | smoke, tok/s | llama.cpp, tok/s | smoke / llama.cpp | bound, tok/s | of the bound | by the run's own rates | predicted | prefill, tok/s: smoke, llama.cpp | GB read per token | peak MB: smoke, llama.cpp |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|---|");
        for case in cases {
            let rates =
                |runs: &[Value]| runs.iter().map(|run| number(run, "tokens_per_second")).collect::<Result<Vec<_>>>();
            let prefill = |runs: &[Value]| {
                let seconds = runs.iter().map(|run| number(run, "prefill_seconds")).collect::<Result<Vec<_>>>();
                seconds.map(|seconds| *prompt as f64 / spread(seconds)[1])
            };
            let [slowest, smoke, fastest] = spread(rates(&case.smoke)?);
            let llama_cpp = spread(rates(&case.llama_cpp)?)[1];
            let (bound, predicted) = (spread(case.bounds.clone())[1], spread(case.predictions.clone())[1]);
            let read =
                spread(case.smoke.iter().map(|run| number(run, "bytes_read_per_token")).collect::<Result<Vec<_>>>()?)
                    [1];
            // Of what the disk and the processor allow, as fast as they were during the run.
            let share =
                spread(case.smoke.iter().map(|run| number(run, "share_of_bound")).collect::<Result<Vec<_>>>()?)[1];
            let peak =
                |engine| case.peaks.iter().filter(|(of, _)| *of == engine).map(|(_, bytes)| *bytes / 1_000_000).max();
            let shown = |peak: Option<u64>| peak.map_or_else(|| "-".to_owned(), |megabytes| megabytes.to_string());
            println!(
                "| {} | {smoke:.2} ({slowest:.2}–{fastest:.2}) | {llama_cpp:.2} | {:.2} | {bound:.2} | {:.2} | {share:.2} | {predicted:.2} | {:.1}, {:.1} | {:.3} | {}, {} |",
                limit_name(case.limit_bytes),
                smoke / llama_cpp,
                smoke / bound,
                prefill(&case.smoke)?,
                prefill(&case.llama_cpp)?,
                read / 1e9,
                shown(peak(Engine::Smoke)),
                shown(peak(Engine::LlamaCpp)),
            );
        }
        Ok(())
    }
}

pub(super) fn limit_name(bytes: u64) -> String {
    if bytes == 0 { "none (fits)".to_owned() } else { format!("{}M", bytes / 1_000_000) }
}

/// Greedy tokens must not depend on memory.
fn check_tokens(cases: &[Case]) -> Result<()> {
    let mut tokens = cases.iter().flat_map(|case| &case.smoke).map(|run| &run["tokens"]);
    let first = tokens.next();
    ensure!(tokens.all(|other| Some(other) == first), "the tokens depend on the memory limit");
    Ok(())
}

fn picture(title: &str, model_bytes: u64, cases: &[Case]) -> Result<String> {
    let at = |case: &Case| if case.limit_bytes == 0 { model_bytes as f64 * 1.25 } else { case.limit_bytes as f64 };
    let points = |runs: fn(&Case) -> &Vec<Value>| -> Result<Vec<(f64, f64)>> {
        let measured = cases.iter().filter(|case| !runs(case).is_empty());
        measured
            .map(|case| {
                let rates =
                    runs(case).iter().map(|run| number(run, "tokens_per_second")).collect::<Result<Vec<_>>>()?;
                Ok((at(case), spread(rates)[1]))
            })
            .collect()
    };
    let bound = cases.iter().map(|case| (at(case), spread(case.bounds.clone())[1])).collect();
    let series = |name: &str, colour, style, points| Series { name: name.to_owned(), colour, style, points };
    let all = [
        series("physical bound", "#888", Style::Dashed, bound),
        series("Smoke Runtime", "#d9480f", Style::Marked, points(|case| &case.smoke)?),
        series("llama.cpp (mmap)", "#1c7ed6", Style::Marked, points(|case| &case.llama_cpp)?),
    ];
    let chart = Chart {
        title,
        x_label: &format!("memory limit, GB (the model: {:.2})", model_bytes as f64 / 1e9),
        x_unit: 1e9,
        y_label: "tokens per second",
        y_scale: Scale::Logarithmic,
        mark: Some(model_bytes as f64),
        series: &all,
    };
    Ok(chart.svg())
}

fn print_json(cases: &[Case]) -> Result<()> {
    let cases = cases.iter().map(|case| {
        let peaks: Vec<Value> =
            case.peaks.iter().map(|(engine, bytes)| json!({ "engine": engine.to_string(), "bytes": bytes })).collect();
        json!({
            "limit_bytes": case.limit_bytes,
            "bound_tokens_per_second": case.bounds,
            "predicted_tokens_per_second": case.predictions,
            "smoke": case.smoke,
            "llama_cpp": case.llama_cpp,
            "peaks": peaks,
        })
    });
    println!("{}", Value::Array(cases.collect()));
    Ok(())
}
