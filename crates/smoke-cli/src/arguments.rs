use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use smoke_replay::predictors;
use smoke_runtime::convert::DtypeRule;
use smoke_runtime::{
    ByteSize, Compression, DeviceKind, EXPERT_PREDICTOR_NAMES, KvEncoding, POLICY_NAMES, PlaceRule, Speculation,
};

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
    /// Turns texts into vectors that lie near one another where the texts mean the same.
    #[command(after_help = "Examples:
  smoke embed models/minilm --memory 30MB \"The cat sits on the mat.\" \"A feline rests on a rug.\"
  smoke embed models/minilm --memory 30MB --json --truncate < lines.txt > vectors.jsonl")]
    Embed(EmbedArguments),
    /// Lists a checkpoint's tensors and the units in which they are loaded.
    Inspect(InspectArguments),
    /// Says what stays in memory, what streams and how fast that will be, before anything is loaded.
    Plan(PlanArguments),
    /// Writes a checkpoint anew in the order of use, so that each unit is one read: worth it where tensors lie scattered.
    Pack(PackArguments),
    /// Writes a checkpoint in another format or with other dtypes.
    #[command(after_help = "Examples:
  smoke convert models/llama llama-q8_0.gguf --dtype q8_0
  smoke convert model.gguf models/model --dtype bf16 --shard-size 5GB
  smoke convert models/llama small.gguf --dtype 'lm_head.*=keep' --dtype '*.mlp.*=q4_0' --dtype q8_0")]
    Convert(ConvertArguments),
    /// Records which weights a model uses, and tries policies on such a recording.
    #[command(subcommand)]
    Trace(TraceCommand),
}

impl Command {
    /// The model, of the subcommands that take one.
    pub(crate) fn model(&mut self) -> Option<&mut ModelArguments> {
        Some(match self {
            Self::Run(arguments) => &mut arguments.model,
            Self::Embed(arguments) => &mut arguments.model,
            Self::Inspect(arguments) => &mut arguments.model,
            Self::Plan(arguments) => &mut arguments.model,
            Self::Pack(arguments) => &mut arguments.model,
            Self::Convert(arguments) => &mut arguments.model,
            Self::Trace(TraceCommand::Record(arguments)) => &mut arguments.run.model,
            Self::Trace(_) => return None,
        })
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
    /// Where weights stay between two uses: auto, ram, stream (read for each use, unless memory is left over) or device (on the GPU, read once), for all
    /// of them, or PATTERN=PLACE for those whose names match, where * is any text. May be given several times: the first
    /// that matches a tensor counts.
    #[arg(long, value_name = "[PATTERN=]PLACE")]
    pub(crate) place: Vec<PlaceRule>,
    /// How much of the GPU's own memory to fill with weights, beside --memory.
    #[arg(long, value_name = "SIZE", default_value = "0")]
    pub(crate) device_memory: ByteSize,
    /// Convert weights while they are read: f32, f16, bf16, q8_0, i8_1, q4_0 or q4_1 for all of them, or PATTERN=DTYPE for
    /// those whose names match, where * is any text and ? any character, and `keep` leaves them as stored. May be given
    /// several times: the first that matches a tensor counts. Half the bytes hold twice the model in the same memory, but
    /// what streams is converted each time; `smoke convert` does it once for all.
    #[arg(long, value_name = "[PATTERN=]DTYPE")]
    pub(crate) dtype: Vec<DtypeRule>,
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
    /// Keep compressed copies in memory of weights that would be read for every token: off; auto (as many as make tokens
    /// come faster by the rates that are measured on the way, of weights in bf16, f16 or f32, else none); or by lz4, zstd, zlib or bf16-planes
    /// as many as there is room for, to compare. They count in --memory and hold the same bytes. Mixtures of experts have none.
    #[arg(long, value_name = "CODEC", default_value_t = Compression::Off)]
    pub(crate) compressed: Compression,
    /// Who says which experts the next layers of a mixture of experts will choose: one that learns on the way; the later
    /// routers, run early; what mostly followed; what is chosen most; what the token before chose; or nobody.
    #[arg(long, value_name = "NAME", default_value = EXPERT_PREDICTOR_NAMES[0], value_parser = EXPERT_PREDICTOR_NAMES.to_vec())]
    pub(crate) predictor: String,
    /// Which experts are read before their router has chosen them: off, likely (whatever the disk has to do) or gated
    /// (where that is expected to pay).
    #[arg(long, value_name = "MODE", default_value = "gated", value_parser = speculation)]
    pub(crate) speculation: Speculation,
    /// Where to remember, from one run to the next, what was learnt of a mixture of experts and which experts were in memory;
    /// each model has a directory of its own there. Unless given, below the user's cache directory: $XDG_CACHE_HOME/smoke/models or
    /// ~/.cache/smoke/models. Only `smoke run` reads it and writes to it.
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Remember nothing, and use nothing that is remembered.
    #[arg(long, conflicts_with = "state")]
    pub(crate) no_state: bool,
    /// Do not read again in the background what was in memory at the end of the run before.
    #[arg(long)]
    pub(crate) no_warm: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EmbedArguments {
    #[command(flatten)]
    pub(crate) model: ModelArguments,
    /// The texts; each line of standard input is one if none are given here. Each gives one line of numbers, or with --json
    /// one object with `text` and `embedding`.
    pub(crate) texts: Vec<String>,
    #[command(flatten)]
    pub(crate) memory: MemoryArguments,
    /// Leave out the ends of texts that have more tokens than the model takes, instead of refusing them.
    #[arg(long)]
    pub(crate) truncate: bool,
    /// Give every vector the length 1, whatever the model's directory says.
    #[arg(long)]
    pub(crate) normalize: bool,
    /// Threads that compute; as many as the machine has cores unless given.
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
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
    /// Say what compressed copies of weights in memory would bring: off, auto, lz4, zstd, zlib or bf16-planes, as for `smoke run`.
    #[arg(long, value_name = "CODEC", default_value_t = Compression::Off)]
    pub(crate) compressed: Compression,
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

#[derive(Debug, Args)]
pub(crate) struct ConvertArguments {
    #[command(flatten)]
    pub(crate) model: ModelArguments,
    /// What is written: a GGUF file if the name ends in .gguf, one file of weights alone if it ends in .safetensors, else a
    /// directory with safetensors, configuration and tokenizer. Between safetensors and GGUF models of the LLaMA family can
    /// be converted; other dtypes in the same format can be had for every model.
    #[arg(value_name = "DST")]
    pub(crate) target: PathBuf,
    /// What tensors become: f32, f16, bf16, or in GGUF q8_0, q4_0 or q4_1, for all of them, or PATTERN=DTYPE for those whose
    /// names in the original match, where * is any text and ? any character, and `keep` leaves them. May be given several times: the
    /// first that matches a tensor counts. Unless said, tensors stay as they are; in safetensors quantised ones become f32,
    /// exactly what they stand for. In GGUF vectors are always f32.
    #[arg(long, value_name = "[PATTERN=]DTYPE")]
    pub(crate) dtype: Vec<DtypeRule>,
    /// The most bytes of a file, where safetensors are written to a directory: 5GB, 800MiB. One file unless given.
    #[arg(long, value_name = "SIZE")]
    pub(crate) shard_size: Option<ByteSize>,
    /// Replace what is there under that name, when all else is done.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TraceCommand {
    /// Runs a model and records which weights it uses, when, and what its predictors expect.
    ///
    /// Which weights a token uses does not depend on the memory that is allowed; in how many parts a long prompt goes
    /// through the model, and what is expected of experts, does.
    #[command(after_help = "Example:
  smoke trace record models/smollm2 --memory 50MB --prompt \"Why is the sky blue?\" --out smollm2.trace")]
    Record(Box<RecordArguments>),
    /// Says what a recording has in it.
    Show(ShowArguments),
    /// Replays a recording: what each policy would hit with some memory, beside the best that is possible.
    ///
    /// Nothing is read ahead in a replay, and all of the memory is for weights.
    #[command(after_help = "Examples:
  smoke trace replay smollm2.trace --memory 25MB,50MB,75MB
  smoke trace replay moe.trace --memory 1GB --policy hybrid,per-layer-lru,lru --svg moe.svg
  smoke trace replay moe.trace --memory 1GB --predictor routed,learned,popular,oracle")]
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
    /// Who says what is used next: the schedule of the shared weights; with it how often experts are used and what was
    /// expected of them in the recording (routed), or instead of the latter what is expected by what is learnt from their
    /// uses (learned, transitions, popular, previous); a Markov chain, the recording itself, or nobody. Several names, or `all`, give a
    /// table of policies and predictors.
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = predictors::NAMES[0], value_parser = predictor_names())]
    pub(crate) predictor: Vec<String>,
    /// Draw the hit rates over memory, from the least that runs the recording to all of its weights.
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Print one JSON object on standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Every policy, or every predictor.
pub(crate) const ALL: &str = "all";

fn predictor_names() -> Vec<&'static str> {
    predictors::NAMES.iter().copied().chain([ALL]).collect()
}

fn policy_names() -> Vec<&'static str> {
    POLICY_NAMES.iter().copied().chain([ALL]).collect()
}

fn speculation(name: &str) -> Result<Speculation, String> {
    match name {
        "off" => Ok(Speculation::Off),
        "likely" => Ok(Speculation::Likely),
        "gated" => Ok(Speculation::Gated),
        _ => Err("one of off, likely, gated".to_owned()),
    }
}
