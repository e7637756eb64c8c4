use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use smoke_replay::predictors;
use smoke_runtime::{ByteSize, DeviceKind, POLICY_NAMES};

/// Runs language models larger than memory: weights stream from the disk just before they are needed, and the memory
/// that you allow is never exceeded.
#[derive(Debug, Parser)]
#[command(name = "smoke", version, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Answers a prompt, token by token.
    #[command(after_help = "Examples:
  smoke run models/smollm2 --memory 50MB --prompt \"Why is the sky blue?\"
  smoke run model.gguf --memory 4GB --raw --prompt \"Once upon a time\" --temperature 0.8 --seed 7
  smoke run models/llama --memory 3.5GiB --prompt-ids 1,2,3 --max-tokens 16 --json")]
    Run(RunArguments),
    /// Lists a checkpoint's tensors and the units in which they are loaded.
    Inspect(InspectArguments),
    /// Says what stays in memory, what streams and how fast that will be, before anything is loaded.
    Plan(PlanArguments),
    /// Writes a checkpoint anew in the order of use, so that each unit is one read: worth it where tensors lie scattered.
    Pack(PackArguments),
    /// Records which weights a model uses, and tries policies on such a recording.
    #[command(subcommand)]
    Trace(TraceCommand),
}

/// The model and where it runs.
#[derive(Debug, Args)]
pub(crate) struct ModelArguments {
    /// A directory with a model as Hugging Face lays it out, or a safetensors or GGUF file.
    pub(crate) model: PathBuf,
    /// Where tensors are computed: cpu, or wgpu or cuda in a program that was built with that feature.
    #[arg(long, default_value_t = DeviceKind::Cpu)]
    pub(crate) device: DeviceKind,
    /// Print one JSON object on standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    #[command(flatten)]
    pub(crate) model: ModelArguments,
    /// The most memory for weights, keys and values and activations together: 4GB, 3.5GiB, 800M.
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: ByteSize,
    /// What to answer; read from standard input if neither this nor --prompt-ids is given.
    #[arg(long, value_name = "TEXT", conflicts_with = "prompt_ids")]
    pub(crate) prompt: Option<String>,
    /// The prompt as token ids, separated by commas.
    #[arg(long, value_name = "1,2,3", value_delimiter = ',')]
    pub(crate) prompt_ids: Option<Vec<u32>>,
    /// Continue the prompt as it is, without the model's chat template.
    #[arg(long)]
    pub(crate) raw: bool,
    /// The most tokens to generate. Keys and values of prompt and answer get their memory before the first token.
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub(crate) max_tokens: usize,
    /// Go on after the model's end-of-text token.
    #[arg(long)]
    pub(crate) ignore_eos: bool,
    /// Above zero, tokens are drawn at random: the higher, the wilder. Zero takes the likeliest.
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub(crate) temperature: f32,
    /// Draw only from the K likeliest tokens.
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<NonZeroUsize>,
    /// Draw only from the likeliest tokens that hold this share of the probability.
    #[arg(long, value_name = "P")]
    pub(crate) top_p: Option<f32>,
    /// The same seed draws the same tokens.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Threads that compute; as many as the machine has cores unless given.
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// What to evict when memory is full; the default reads least, the others are there to compare with.
    #[arg(long, value_name = "NAME", default_value = POLICY_NAMES[0], value_parser = POLICY_NAMES.to_vec())]
    pub(crate) policy: String,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArguments {
    #[command(flatten)]
    pub(crate) model: ModelArguments,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArguments {
    #[command(flatten)]
    pub(crate) model: ModelArguments,
    /// The most memory for weights, keys and values and activations together: 4GB, 3.5GiB, 800M.
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: ByteSize,
    /// Tokens of prompt and answer to plan for.
    #[arg(long, value_name = "N", default_value = "256")]
    pub(crate) context: NonZeroUsize,
    /// Threads that compute; as many as the machine has cores unless given.
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
}

#[derive(Debug, Args)]
pub(crate) struct PackArguments {
    #[command(flatten)]
    pub(crate) model: ModelArguments,
    /// The new file: it ends in .gguf or .safetensors, as the original does, and takes as much disk as the original. One
    /// with safetensors must lie beside the model's config.json.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TraceCommand {
    /// Runs a model and records which weights it uses, when, and what its predictors expect.
    ///
    /// What is recorded does not depend on the memory that is allowed.
    #[command(after_help = "Example:
  smoke trace record models/smollm2 --memory 50MB --prompt \"Why is the sky blue?\" --out smollm2.trace")]
    Record(RecordArguments),
    /// Says what a recording has in it.
    Show(ShowArguments),
    /// Replays a recording: what each policy would hit with some memory, beside the best that is possible.
    ///
    /// Nothing is read ahead in a replay, and all of the memory is for weights.
    #[command(after_help = "Examples:
  smoke trace replay smollm2.trace --memory 25MB,50MB,75MB
  smoke trace replay moe.trace --memory 1GB --policy hybrid,per-layer-lru,lru --svg moe.svg")]
    Replay(ReplayArguments),
}

#[derive(Debug, Args)]
pub(crate) struct RecordArguments {
    #[command(flatten)]
    pub(crate) run: RunArguments,
    /// The recording.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArguments {
    /// A recording.
    pub(crate) trace: PathBuf,
    /// Print one JSON object on standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArguments {
    /// A recording.
    pub(crate) trace: PathBuf,
    /// How much memory weights may take: one size or several, as in 800M,1.5GB,3GiB.
    #[arg(long, value_name = "SIZE", value_delimiter = ',', required = true)]
    pub(crate) memory: Vec<ByteSize>,
    /// What to evict when memory is full: one name, several, or `all`.
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = ALL, value_parser = policy_names())]
    pub(crate) policy: Vec<String>,
    /// Who says what is used next: the schedule of the shared weights, a Markov chain, the recording itself, or nobody.
    #[arg(long, value_name = "NAME", default_value = predictors::NAMES[0], value_parser = predictors::NAMES.to_vec())]
    pub(crate) predictor: String,
    /// Draw the hit rates over memory, from the least that runs the recording to all of its weights.
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Print one JSON object on standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Every policy.
pub(crate) const ALL: &str = "all";

fn policy_names() -> Vec<&'static str> {
    POLICY_NAMES.iter().copied().chain([ALL]).collect()
}
