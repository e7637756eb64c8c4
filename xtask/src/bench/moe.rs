//! Decoding a mixture of experts under memory limits that the operating system enforces.
//!
//! Random weights make greedy text run in circles, so tokens are drawn; llama.cpp is made to take the same ones.
//!
//! For every limit each way to run Smoke runs twice, before and after llama.cpp and in the opposite order, each in a
//! control group of its own and with the model out of the page cache. The bound is what MIN would have read of the same
//! accesses, at the disk's rate, or the products of a token at the memory's, whichever takes longer.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::cold::{Outcome, forget, run_cold};
use super::decode::limit_name;
use super::llama_cpp::LlamaCpp;
use super::random_model::{self, RandomModel};
use super::smoke::{Smoke, number, shown, spread};

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct Moe {
    /// A GGUF file; unless given, a random Qwen3-MoE of 4 GB is made: 24 layers, hidden 1024, 64 experts of width 768.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Memory limits in megabytes, page cache included; 0 is no limit.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 3000, 1500])]
    limits: Vec<u64>,
    /// Ways to run Smoke: a policy and what is read for likely uses, as in lru:off.
    #[arg(long, value_delimiter = ',', default_values_t = ["pinned:off", "pinned:likely", "pinned:gated", "lru:off", "lfu:off", "fifo:off"].map(String::from))]
    ways: Vec<String>,
    /// Leave llama.cpp out.
    #[arg(long)]
    alone: bool,
    /// How often the sequence runs for each limit.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Tokens generated.
    #[arg(long, default_value_t = 32)]
    tokens: usize,
    /// Tokens that llama.cpp generates.
    #[arg(long, default_value_t = 12)]
    llama_cpp_tokens: usize,
    /// Tokens of the prompt.
    #[arg(long, default_value_t = 16)]
    prompt: usize,
    /// Threads that compute.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// What a process takes beside weights, keys and values and activations, in megabytes: Smoke gets this much less than
    /// the limit as its budget.
    #[arg(long, default_value_t = 32)]
    overhead: u64,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// The runs of one way under one limit.
#[derive(Debug)]
struct Case {
    way: String,
    runs: Vec<Value>,
}

/// Runs the benchmark and prints its report.
pub(crate) fn bench(arguments: &Moe) -> Result<()> {
    let model = match &arguments.model {
        Some(model) => model.clone(),
        None => random_model::make(&RandomModel::mixture_of_experts())?,
    };
    let smoke = Smoke::build()?;
    let llama_cpp = if arguments.alone { None } else { Some(LlamaCpp::ensure()?) };
    let model_bytes = number(&smoke.json("inspect", &model, &[])?, "model_bytes")? as u64;
    let ids = (10..10 + arguments.prompt).map(|id| id.to_string()).collect::<Vec<_>>().join(",");
    let (tokens, threads) = (arguments.tokens.to_string(), arguments.threads.to_string());
    let mut report = Vec::new();
    for limit_bytes in arguments.limits.iter().map(|limit| limit * 1_000_000) {
        let limit = if limit_bytes == 0 { model_bytes * 5 / 4 } else { limit_bytes };
        let memory = limit.saturating_sub(arguments.overhead * 1_000_000).to_string();
        let mut cases: Vec<Case> =
            arguments.ways.iter().map(|way| Case { way: way.clone(), runs: Vec::new() }).collect();
        let (mut plans, mut llama_cpp_runs) = (Vec::new(), Vec::new());
        let run = |case: &mut Case| -> Result<()> {
            let (policy, speculation) =
                case.way.split_once(':').context("a way is a policy and off, likely or gated")?;
            let mut command = smoke.command(
                "run",
                &model,
                &[
                    "--memory",
                    &memory,
                    "--prompt-ids",
                    &ids,
                    "--max-tokens",
                    &tokens,
                    "--ignore-eos",
                    "--threads",
                    &threads,
                    // As llama.cpp keeps them.
                    "--kv-cache",
                    "f16",
                    "--policy",
                    policy,
                    "--speculation",
                    speculation,
                    "--temperature",
                    "1",
                    "--seed",
                    "7",
                ],
            );
            let Outcome { report, peak_bytes: peak } = run_cold(&model, limit_bytes, &mut command)?;
            ensure!(peak.is_none_or(|peak| peak <= limit_bytes), "the limit was passed: {peak:?}");
            case.runs.push(report.with_context(|| format!("{} ran out of memory", case.way))?);
            Ok(())
        };
        for round in 1..=arguments.rounds {
            eprintln!("round {round} of {}: limit {}", arguments.rounds, limit_name(limit_bytes));
            forget(&model)?;
            plans.push(smoke.json("plan", &model, &["--memory", &memory, "--threads", &threads])?);
            cases.iter_mut().try_for_each(run)?;
            if let Some(llama_cpp) = &llama_cpp {
                let tokens = arguments.llama_cpp_tokens.to_string();
                let mut command = llama_cpp.command(&model, &ids, &tokens, &threads);
                // The same tokens, and so the same experts.
                let drawn = cases.iter().flat_map(|case| &case.runs).map(|run| &run["tokens"]).next();
                let drawn = drawn.and_then(Value::as_array).into_iter().flatten().map(Value::to_string);
                command.args(["--forced-ids", &drawn.collect::<Vec<_>>().join(",")]);
                let report = run_cold(&model, limit_bytes, &mut command)?.report;
                llama_cpp_runs.push(report.context("llama.cpp ran out of memory")?);
            }
            cases.iter_mut().rev().try_for_each(run)?;
        }
        report.push(json!({
            "limit_bytes": limit_bytes,
            "plans": plans,
            "llama_cpp": llama_cpp_runs,
            "smoke": cases.into_iter().map(|case| json!({ "way": case.way, "runs": case.runs })).collect::<Vec<_>>(),
        }));
    }
    check_tokens(&report)?;
    if arguments.json {
        println!("{}", Value::Array(report));
        return Ok(());
    }
    println!(
        "{}: {:.2} GB; {} prompt tokens, {} generated ({} by llama.cpp), {} threads, {} round(s), cold.\n",
        model.file_name().unwrap_or_default().to_string_lossy(),
        model_bytes as f64 / 1e9,
        arguments.prompt,
        arguments.tokens,
        arguments.llama_cpp_tokens,
        arguments.threads,
        arguments.rounds,
    );
    report.iter().try_for_each(print_limit)
}

fn numbers(runs: &Value, key: &str) -> Result<Vec<f64>> {
    runs.as_array().into_iter().flatten().map(|run| number(run, key)).collect()
}

fn print_limit(report: &Value) -> Result<()> {
    let limit = report["limit_bytes"].as_u64().unwrap_or(0);
    let llama_cpp = numbers(&report["llama_cpp"], "tokens_per_second")?;
    let llama_cpp = (!llama_cpp.is_empty()).then(|| spread(llama_cpp)[1]);
    let disk = spread(numbers(&report["plans"], "disk_bytes_per_second")?)[1];
    let compute = spread(numbers(&report["plans"], "compute_bytes_per_second")?)[1];
    let pass = spread(numbers(&report["plans"], "pass_bytes")?)[1];
    println!(
        "Limit {}: llama.cpp {} tok/s; disk {:.2} GB/s, kernels {:.1} GB/s\n",
        limit_name(limit),
        shown(llama_cpp, 2),
        disk / 1e9,
        compute / 1e9
    );
    println!(
        "| policy:speculation | tok/s | x llama.cpp | MB read per token | MIN | byte hit rate | MIN | bound, tok/s | of the bound | by the run's own rates | stall, s | speculative reads: made, used, switched off |"
    );
    println!("|{}", "---|".repeat(12));
    for case in report["smoke"].as_array().into_iter().flatten() {
        let middle = |key: &str| Ok::<_, anyhow::Error>(spread(numbers(&case["runs"], key)?)[1]);
        let [slowest, rate, fastest] = spread(numbers(&case["runs"], "tokens_per_second")?);
        let min_bytes = middle("min_bytes_read_per_token")?;
        let bound = 1.0 / (min_bytes / disk).max(pass / compute);
        println!(
            "| {} | {rate:.2} ({slowest:.2}–{fastest:.2}) | {} | {:.1} | {:.1} | {:.3} | {:.3} | {bound:.2} | {:.2} | {:.2} | {:.2} | {:.0}, {:.0}, {:.0} |",
            case["way"].as_str().unwrap_or_default(),
            shown(llama_cpp.map(|llama_cpp| rate / llama_cpp), 2),
            middle("bytes_read_per_token")? / 1e6,
            min_bytes / 1e6,
            middle("byte_hit_rate")?,
            middle("min_byte_hit_rate")?,
            rate / bound,
            middle("share_of_bound")?,
            middle("stall_seconds")?,
            middle("speculative_reads")?,
            middle("speculative_reads_used")?,
            middle("speculation_switched_off")?,
        );
    }
    println!();
    Ok(())
}

/// Greedy tokens must not depend on memory, policy or speculation.
fn check_tokens(report: &[Value]) -> Result<()> {
    let cases = report.iter().flat_map(|limit| limit["smoke"].as_array().into_iter().flatten());
    let mut tokens = cases.flat_map(|case| case["runs"].as_array().into_iter().flatten()).map(|run| &run["tokens"]);
    let first = tokens.next();
    ensure!(tokens.all(|other| Some(other) == first), "the tokens depend on memory, policy or speculation");
    Ok(())
}
