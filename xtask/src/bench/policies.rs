//! Decoding at memory budgets below the model, policy beside policy, in one run.
//!
//! Rounds are interleaved, since machines drift: every combination of budget and policy runs once before any runs
//! twice. The bound is computed from rates measured in the same rounds.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::smoke::{Smoke, number, spread};
use crate::model;

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct Policies {
    /// The model: a directory or file; SmolLM2 unless given.
    #[arg(long)]
    model: Option<PathBuf>,
    /// How often every combination runs.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Tokens generated in each run.
    #[arg(long, default_value_t = 32)]
    tokens: usize,
    /// Budgets, in percent of the model's bytes.
    #[arg(long, value_delimiter = ',', default_values_t = [25, 50, 75, 100])]
    percent: Vec<u64>,
    /// Eviction policies.
    #[arg(long, value_delimiter = ',', default_values_t = ["pinned", "next-use", "lru", "lfu", "fifo"].map(String::from))]
    policies: Vec<String>,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// The runs of one budget with one policy.
#[derive(Debug)]
struct Case {
    percent: u64,
    policy: String,
    budget_bytes: u64,
    runs: Vec<Value>,
    bounds: Vec<f64>,
}

/// Runs the benchmark and prints its report.
pub(crate) fn bench(arguments: &Policies) -> Result<()> {
    let model = match &arguments.model {
        Some(model) => model.clone(),
        None => crate::root().join(model::ensure(model::Name::Smollm2)?),
    };
    let smoke = Smoke::build()?;
    let model_bytes = number(&smoke.json("inspect", &model, &[])?, "model_bytes")? as u64;
    let combinations = arguments.percent.iter().flat_map(|&percent| {
        arguments.policies.iter().map(move |policy| Case {
            percent,
            policy: policy.clone(),
            budget_bytes: model_bytes * percent / 100,
            runs: Vec::new(),
            bounds: Vec::new(),
        })
    });
    let mut cases: Vec<Case> = combinations.collect();
    let tokens = arguments.tokens.to_string();
    for round in 1..=arguments.rounds {
        for case in &mut cases {
            eprintln!("round {round} of {}: {} % {}", arguments.rounds, case.percent, case.policy);
            let memory = case.budget_bytes.to_string();
            let context = (arguments.tokens + PROMPT.split(',').count()).to_string();
            let plan = smoke.json("plan", &model, &["--memory", &memory, "--context", &context])?;
            case.bounds.push(number(&plan, "tokens_per_second")?);
            let options = ["--memory", &memory, "--policy", &case.policy, "--max-tokens", &tokens];
            let prompt = ["--prompt-ids", PROMPT, "--ignore-eos"];
            case.runs.push(smoke.json("run", &model, &[&options[..], &prompt[..]].concat())?);
        }
    }
    if arguments.json { print_json(&cases) } else { print_table(&model, model_bytes, arguments, &cases) }
}

/// Token ids that any vocabulary has.
const PROMPT: &str = "10,11,12,13,14,15,16,17";

impl Case {
    /// Smallest, median and largest of a figure over the rounds.
    fn spread(&self, key: &str) -> Result<[f64; 3]> {
        let values = self.runs.iter().map(|run| number(run, key)).collect::<Result<Vec<_>>>()?;
        Ok(spread(values))
    }

    /// The medians of the achieved share of the bound, round by round.
    fn share_of_bound(&self) -> Result<f64> {
        let shares = self.runs.iter().zip(&self.bounds);
        let shares = shares.map(|(run, bound)| Ok(number(run, "tokens_per_second")? / bound));
        Ok(spread(shares.collect::<Result<Vec<_>>>()?)[1])
    }
}

fn print_table(model: &Path, model_bytes: u64, arguments: &Policies, cases: &[Case]) -> Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "{}: {:.1} MB, {} tokens, {} rounds, {threads} threads. Medians; (smallest–largest).\n",
        model.file_name().unwrap_or_default().to_string_lossy(),
        model_bytes as f64 / 1e6,
        arguments.tokens,
        arguments.rounds,
    );
    println!(
        "| memory | policy | tok/s | of the bound | MB read per token | least possible | byte hits | MIN | on time | stalled |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for case in cases {
        let [slowest, median, fastest] = case.spread("tokens_per_second")?;
        let middle = |key| case.spread(key).map(|[_, median, _]| median);
        let stalled = middle("stall_seconds")? / (middle("decode_seconds")? + middle("prefill_seconds")?);
        println!(
            "| {} % | {} | {median:.2} ({slowest:.2}–{fastest:.2}) | {:.2} | {:.1} | {:.1} | {:.1} % | {:.1} % | {:.1} % | {:.0} % |",
            case.percent,
            case.policy,
            case.share_of_bound()?,
            middle("bytes_read_per_token")? / 1e6,
            middle("min_bytes_read_per_token")? / 1e6,
            100.0 * middle("byte_hit_rate")?,
            100.0 * middle("min_byte_hit_rate")?,
            100.0 * middle("on_time_rate")?,
            100.0 * stalled,
        );
    }
    println!("\nThe bound is the speed at perfect overlap, from disk and kernel rates measured before each run.");
    Ok(())
}

fn print_json(cases: &[Case]) -> Result<()> {
    let cases = cases.iter().map(|case| {
        json!({
            "percent": case.percent,
            "policy": case.policy,
            "budget_bytes": case.budget_bytes,
            "bound_tokens_per_second": case.bounds,
            "runs": case.runs,
        })
    });
    println!("{}", Value::Array(cases.collect()));
    Ok(())
}
