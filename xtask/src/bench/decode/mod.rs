//! Decoding under memory limits that the operating system enforces, beside llama.cpp and Accelerate, with the physical
//! bound.
//!
//! For every limit the engines run one after another, Smoke before and after the others, each in a control group of its
//! own and with the model out of the page cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use super::accelerate::Accelerate;
use super::cold::{Outcome, forget, run_cold};
use super::llama_cpp::LlamaCpp;
use super::random_model::{self, RandomModel};
use super::smoke::{Smoke, number};

mod report;

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct Decode {
    /// A GGUF file, or a directory with safetensors; unless given, a random model is made of the shape that the other
    /// options say, in models/.
    #[arg(long, conflicts_with_all = ["layers", "hidden", "intermediate", "heads", "kv_heads", "vocabulary", "encoding", "experts", "safetensors"])]
    model: Option<PathBuf>,
    #[command(flatten)]
    random: RandomModel,
    /// Memory limits in megabytes, page cache included; 0 is no limit.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 2600, 2200, 1500, 800])]
    limits: Vec<u64>,
    /// What runs; unless given, all that can read the model. On first use llama.cpp is compiled, which takes some
    /// minutes, and PyTorch is downloaded for Accelerate, 0.9 GB, both into .venv.
    #[arg(long, value_delimiter = ',')]
    engines: Vec<Engine>,
    /// How often the sequence of engines runs for each limit.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Tokens generated.
    #[arg(long, default_value_t = 12)]
    tokens: usize,
    /// Tokens that Accelerate generates.
    #[arg(long, default_value_t = 3)]
    accelerate_tokens: usize,
    /// Tokens of the prompt.
    #[arg(long, default_value_t = 64)]
    prompt: usize,
    /// Threads that compute.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// What a process takes beside weights, keys and values and activations (code, tokenizer, stacks), in megabytes:
    /// Smoke gets this much less than the limit as its budget.
    #[arg(long, default_value_t = 28)]
    overhead: u64,
    /// How Smoke keeps keys and values: unless said as llama.cpp does.
    #[arg(long, default_value = "f16")]
    kv_cache: String,
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
    /// This one.
    Smoke,
    /// llama.cpp, which maps its file into memory. It reads GGUF only.
    LlamaCpp,
    /// Accelerate's disk offload. It reads safetensors only: of a random GGUF the same weights, or, where those are in
    /// blocks, a model of about the same bytes in bf16.
    Accelerate,
}

impl std::fmt::Display for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Smoke => "smoke",
            Self::LlamaCpp => "llama.cpp",
            Self::Accelerate => "Accelerate",
        })
    }
}

/// The runs under one limit, in their order, and what was foretold of Smoke's.
#[derive(Debug, Default)]
struct Case {
    limit_bytes: u64,
    bounds: Vec<f64>,
    predictions: Vec<f64>,
    runs: Vec<(Engine, Outcome)>,
}

/// Runs the benchmark and prints its report.
pub(crate) fn bench(arguments: &Decode) -> Result<()> {
    ensure!(arguments.tokens > 1 && arguments.accelerate_tokens > 1, "the time between tokens takes two at least");
    let model = match &arguments.model {
        Some(model) => model.clone(),
        None => random_model::make(&arguments.random)?,
    };
    let engines = engines(arguments, model.is_dir())?;
    let of = |engine, path: &Path| engines.contains(&engine).then(|| path.to_owned());
    let accelerate_model = match of(Engine::Accelerate, &model) {
        Some(_) if model.is_file() => Some(random_model::make(&arguments.random.in_safetensors())?),
        model => model,
    };
    let smoke = Smoke::build()?;
    let session = Session {
        arguments,
        model_bytes: number(&smoke.json("inspect", &model, &[])?, "model_bytes")? as u64,
        runs_smoke: engines.contains(&Engine::Smoke),
        smoke,
        llama_cpp: of(Engine::LlamaCpp, &model).map(|_| LlamaCpp::ensure()).transpose()?,
        accelerate: accelerate_model.map(|model| Ok::<_, anyhow::Error>((Accelerate::ensure()?, model))).transpose()?,
        model,
    };
    let mut cases: Vec<Case> =
        arguments.limits.iter().map(|&limit| Case { limit_bytes: limit * 1_000_000, ..Case::default() }).collect();
    for round in 1..=arguments.rounds {
        for case in &mut cases {
            eprintln!("round {round} of {}: limit {}", arguments.rounds, limit_name(case.limit_bytes));
            session.run(case)?;
        }
    }
    let report = report::Report { session: &session, engines: &engines, cases: &cases };
    report.check_tokens()?;
    if let Some(path) = &arguments.svg {
        std::fs::write(path, report.picture()?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if arguments.json { report.print_json() } else { report.print_table() }
}

/// Those that were asked for, or all that can read the model.
fn engines(arguments: &Decode, is_directory: bool) -> Result<Vec<Engine>> {
    let reads = |engine| match engine {
        Engine::Smoke => true,
        Engine::LlamaCpp => !is_directory,
        Engine::Accelerate => is_directory || arguments.model.is_none(),
    };
    for engine in &arguments.engines {
        ensure!(reads(*engine), "{engine} does not read this model: llama.cpp reads GGUF only, Accelerate safetensors");
    }
    let all = Engine::value_variants();
    let asked = if arguments.engines.is_empty() { all } else { &arguments.engines[..] };
    Ok(all.iter().copied().filter(|engine| asked.contains(engine) && reads(*engine)).collect())
}

struct Session<'a> {
    arguments: &'a Decode,
    model: PathBuf,
    model_bytes: u64,
    smoke: Smoke,
    runs_smoke: bool,
    llama_cpp: Option<LlamaCpp>,
    /// With the model in its form.
    accelerate: Option<(Accelerate, PathBuf)>,
}

impl Session<'_> {
    fn run(&self, case: &mut Case) -> Result<()> {
        let Decode { tokens, prompt, threads, .. } = *self.arguments;
        let ids = (10..10 + prompt).map(|id| id.to_string()).collect::<Vec<_>>().join(",");
        let (context, tokens, of_threads) = ((tokens + prompt).to_string(), tokens.to_string(), threads.to_string());
        let limit = if case.limit_bytes == 0 { self.model_bytes * 5 / 4 } else { case.limit_bytes };
        let memory = limit.saturating_sub(self.arguments.overhead * 1_000_000).to_string();
        let kv_cache = &self.arguments.kv_cache;
        let options = [
            &["--memory", &memory, "--kv-cache", kv_cache, "--prompt-ids", &ids, "--max-tokens", &tokens][..],
            &["--ignore-eos", "--threads", &of_threads],
        ]
        .concat();
        forget(&self.model)?;
        // What the whole limit would allow is the bound; what the budget allows is what was planned. Both before and after
        // the runs, for disks drift.
        let plan = |case: &mut Case| -> Result<()> {
            let plan = |memory: &str| {
                let options =
                    ["--memory", memory, "--kv-cache", kv_cache, "--context", &context, "--threads", &of_threads];
                self.smoke.json("plan", &self.model, &options)
            };
            case.bounds.push(number(&plan(&limit.to_string())?, "bound_tokens_per_second")?);
            case.predictions.push(number(&plan(&memory)?, "tokens_per_second")?);
            Ok(())
        };
        plan(case)?;
        let smoke = |case: &mut Case| -> Result<()> {
            if self.runs_smoke {
                self.limited(case, Engine::Smoke, &self.model, self.smoke.command("run", &self.model, &options))?;
            }
            Ok(())
        };
        smoke(case)?;
        if let Some(llama_cpp) = &self.llama_cpp {
            let command = llama_cpp.command(&self.model, &ids, &tokens, &of_threads);
            self.limited(case, Engine::LlamaCpp, &self.model, command)?;
        }
        if let Some((accelerate, model)) = &self.accelerate {
            // Without a limit all of it shall stay.
            let limit_bytes = if case.limit_bytes == 0 { self.model_bytes * 2 } else { case.limit_bytes };
            let command = accelerate.command(model, &ids, self.arguments.accelerate_tokens, threads, limit_bytes);
            self.limited(case, Engine::Accelerate, model, command)?;
        }
        smoke(case)?;
        plan(case)
    }

    /// Runs a command under the limit, with nothing of the model in the page cache.
    fn limited(&self, case: &mut Case, engine: Engine, model: &Path, mut command: Command) -> Result<()> {
        let limit_bytes = if self.arguments.no_limit { 0 } else { case.limit_bytes };
        let outcome = run_cold(model, limit_bytes, &mut command)?;
        ensure!(outcome.report.is_some() || engine != Engine::Smoke, "Smoke passed the limit");
        case.runs.push((engine, outcome));
        Ok(())
    }
}

pub(super) fn limit_name(bytes: u64) -> String {
    if bytes == 0 { "none (fits)".to_owned() } else { format!("{}M", bytes / 1_000_000) }
}
