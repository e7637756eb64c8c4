use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use smoke_runtime::{ByteSize, DeviceKind, KvEncoding, POLICY_NAMES, Speculation};

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
  smoke run HuggingFaceTB/SmolLM2-135M-Instruct --memory 200MB --prompt \"Why is the sky blue?\"
  smoke run model.gguf --memory 4GB --raw --prompt \"Once upon a time\" --temperature 0.8 --seed 7
  smoke run models/llama --memory 3.5GiB --prompt-ids 1,2,3 --max-tokens 16 --json")]
    Run(RunArguments),
    /// Lists a checkpoint's tensors and the units in which they are loaded.
    Inspect(InspectArguments),
    /// Says what stays in memory, what streams and how fast that will be, before anything is loaded.
    Plan(PlanArguments),
    /// Writes a checkpoint anew in the order of use, so that each unit is one read: worth it where tensors lie scattered.
    Pack(PackArguments),
}

impl Command {
    /// What every subcommand has in common.
    pub(crate) fn model(&mut self) -> &mut ModelArguments {
        match self {
            Self::Run(arguments) => &mut arguments.model,
            Self::Inspect(arguments) => &mut arguments.model,
            Self::Plan(arguments) => &mut arguments.model,
            Self::Pack(arguments) => &mut arguments.model,
        }
    }
}

/// The model and where it runs.
#[derive(Debug, Args)]
pub(crate) struct ModelArguments {
    /// A directory with a model as Hugging Face lays it out, or a safetensors, GGUF or PyTorch file; or, where no such path is, a
    /// model of the hub: OWNER/NAME, OWNER/NAME@REVISION or OWNER/NAME/FILE.gguf. It is fetched into the hub's usual
    /// cache, as HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE say.
    pub(crate) model: PathBuf,
    /// Which file of weights, where the directory or the repository has several.
    #[arg(long, value_name = "NAME")]
    pub(crate) file: Option<String>,
    /// Where tensors are computed: cpu, or wgpu or cuda in a program that was built with that feature.
    #[arg(long, default_value_t = DeviceKind::Cpu)]
    pub(crate) device: DeviceKind,
    /// Print one JSON object on standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

/// How much memory there is and what it is spent on.
#[derive(Debug, Args)]
pub(crate) struct MemoryArguments {
    /// The most memory for weights, keys and values and activations together: 4GB, 3.5GiB, 800M.
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: ByteSize,
    /// How keys and values are kept: f32, f16 or int8. Less leaves more of the memory to weights.
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    pub(crate) kv_cache: KvEncoding,
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    #[command(flatten)]
    pub(crate) model: ModelArguments,
    #[command(flatten)]
    pub(crate) memory: MemoryArguments,
    /// What to answer; read from standard input if neither this nor --prompt-ids is given.
    #[arg(long, value_name = "TEXT", conflicts_with = "prompt_ids")]
    pub(crate) prompt: Option<String>,
    /// The prompt as token ids, separated by commas.
    #[arg(long, value_name = "1,2,3", value_delimiter = ',')]
    pub(crate) prompt_ids: Option<Vec<u32>>,
    /// Continue the prompt as it is, without the model's chat template.
    #[arg(long)]
    pub(crate) raw: bool,
    /// The most tokens to generate. The plan keeps memory for the keys and values of prompt and answer.
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
    /// Which experts are read before their router has chosen them: off, likely (whatever the disk has to do) or gated
    /// (where that is expected to pay).
    #[arg(long, value_name = "MODE", default_value = "gated", value_parser = speculation)]
    pub(crate) speculation: Speculation,
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
    #[command(flatten)]
    pub(crate) memory: MemoryArguments,
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
    /// The new file: it ends in .gguf where the original does, else in .safetensors, and takes as much disk as the
    /// original. One with safetensors must lie beside the model's config.json.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

fn speculation(name: &str) -> Result<Speculation, String> {
    match name {
        "off" => Ok(Speculation::Off),
        "likely" => Ok(Speculation::Likely),
        "gated" => Ok(Speculation::Gated),
        _ => Err("one of off, likely, gated".to_owned()),
    }
}
