use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use smoke_burn::{DeviceKind, Residence, Weights};
use smoke_cache::bound::min_bound;
use smoke_cache::policy::PinnedUnits;
use smoke_core::{Permit, UnitId, UnitInfo};
use smoke_models::parts::KvShape;
use smoke_models::text::{AddSpecial, Message, Sampler, Sampling, StreamDecoder, Tokenizer, TokenizerError};
use smoke_models::{LmConfig, Model};
use smoke_predict::{RoutedUnit, Schedule};
use smoke_prefetch::StreamStats;

use crate::builder::{RuntimeBuilder, units_known};
use crate::error::RuntimeError;
use crate::plan::{Load, Plan, Sizes, prefill_chunk};
use crate::session::Session;
use crate::statistics::Statistics;

/// A model that is open: it generates text within a memory budget.
///
/// ```no_run
/// use smoke_runtime::{GenerateOptions, Prompt, Runtime};
///
/// let runtime = Runtime::builder("models/smollm2").memory("50MB").open()?;
/// for token in runtime.generate(Prompt::chat("Why is the sky blue?"), GenerateOptions::default())? {
///     print!("{}", token?.text);
/// }
/// # Ok::<(), smoke_runtime::RuntimeError>(())
/// ```
#[derive(Debug)]
pub struct Runtime {
    pub(crate) model: Model,
    pub(crate) weights: Weights,
    pub(crate) tokenizer: Result<Tokenizer, TokenizerError>,
    pub(crate) schedule: Schedule,
    pub(crate) routed: Vec<RoutedUnit>,
    pub(crate) residences: Vec<Residence>,
    pub(crate) pinned: PinnedUnits,
    pub(crate) model_bytes: u64,
    pub(crate) device: DeviceKind,
    pub(crate) keys_and_values: KvShape,
    /// Where files that belong to the checkpoint lie.
    pub(crate) directory: PathBuf,
    /// What the latest generation planned for.
    pub(crate) load: Mutex<Load>,
}

/// What a generation begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Prompt {
    /// Messages, put into the model's chat template; without a template, the last message as it is.
    Chat(Vec<Message>),
    /// Text as it is.
    Raw(String),
    /// Token ids as they are.
    Tokens(Vec<u32>),
}

impl Prompt {
    /// One message of the user's.
    pub fn chat(text: impl Into<String>) -> Self {
        Self::Chat(vec![Message::user(text)])
    }
}

/// How a generation goes on and when it ends.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// The most tokens that are generated.
    pub max_tokens: usize,
    /// How a token is chosen.
    pub sampling: Sampling,
    /// What happens at the model's end-of-text token.
    pub at_end: AtEnd,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self { max_tokens: 128, sampling: Sampling::default(), at_end: AtEnd::Stop }
    }
}

/// What happens at the model's end-of-text token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AtEnd {
    /// The generation ends; the token is not part of it.
    #[default]
    Stop,
    /// The generation goes on.
    Ignore,
}

/// A generated token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// The text that it completes; empty where a character needs more tokens.
    pub text: String,
}

impl Runtime {
    /// Says which model is opened: a directory with a checkpoint, or a safetensors, GGUF or PyTorch file.
    pub fn builder(path: impl AsRef<Path>) -> RuntimeBuilder {
        RuntimeBuilder::new(path.as_ref())
    }

    /// The model's sizes; of an encoder–decoder model those of the decoder.
    pub fn config(&self) -> &LmConfig {
        self.model.config()
    }

    /// The model itself, to run single passes.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The order in which the model uses its units.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The model's weights: their statistics, budget and controls.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// What is loaded as one, unit by unit: its bytes in memory, and of experts the number of the layer among those that
    /// have experts.
    pub fn units(&self) -> Vec<UnitInfo> {
        units_known(self.weights.streamer().units(), &self.routed)
    }

    /// The model's tokenizer.
    ///
    /// # Errors
    /// [`RuntimeError::Tokenizer`] if the model came without one.
    pub fn tokenizer(&self) -> Result<&Tokenizer, RuntimeError> {
        self.tokenizer.as_ref().map_err(|error| error.clone().into())
    }

    /// How the budget is spent on `context_tokens` tokens of prompt and answer together, on as many of each in an
    /// encoder–decoder model, or on a text of as many in an encoder.
    ///
    /// # Errors
    /// [`RuntimeError::BudgetTooSmall`] if it cannot hold them.
    pub fn plan(&self, context_tokens: usize) -> Result<Plan, RuntimeError> {
        self.plan_load(self.sizes().load(context_tokens))
    }

    /// How the budget is spent on `load`.
    pub(crate) fn plan_load(&self, load: Load) -> Result<Plan, RuntimeError> {
        self.sizes().plan(self.weights.streamer().budget().limit_bytes(), load)
    }

    pub(crate) fn sizes(&self) -> Sizes<'_> {
        Sizes {
            model: &self.model,
            units: self.weights.streamer().units(),
            schedule: &self.schedule,
            routed: &self.routed,
            residences: &self.residences,
            model_bytes: self.model_bytes,
            device: self.device,
            keys_and_values: self.keys_and_values,
        }
    }

    /// Keeps the units of `plan`, which is made for `load`, from here on.
    pub(crate) fn follow(&self, plan: &Plan, load: Load) {
        *self.load.lock().unwrap_or_else(PoisonError::into_inner) = load;
        self.pinned.set(plan.pinned.iter().copied());
    }

    /// Plans for nothing any more.
    pub(crate) fn finish(&self) {
        *self.load.lock().unwrap_or_else(PoisonError::into_inner) = self.sizes().load(1);
    }

    /// Sets another budget, from any thread, also while tokens are generated: they stay the same, only their speed
    /// changes. When this returns, no more than `bytes` are used, but for the unit and the activations in use at the
    /// moment, which give way within the next product. Of two generations that go on at once, the one that began last is
    /// taken care of.
    ///
    /// # Errors
    /// [`RuntimeError`] if the budget cannot hold the generation that runs; then nothing changes.
    pub fn set_memory_bytes(&self, bytes: u64) -> Result<(), RuntimeError> {
        let load = self.load.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = self.sizes().plan(bytes, *load)?;
        // First what is to stay, so that the right units go.
        self.pinned.set(plan.pinned.iter().copied());
        Ok(self.weights.streamer().set_memory_limit(bytes)?)
    }

    /// The prompt's token ids.
    ///
    /// # Errors
    /// [`RuntimeError`] if there is no tokenizer, or the chat template fails.
    pub fn encode(&self, prompt: &Prompt) -> Result<Vec<u32>, RuntimeError> {
        let text = match prompt {
            Prompt::Tokens(ids) => return Ok(ids.clone()),
            Prompt::Raw(text) => return Ok(self.tokenizer()?.encode(text, AddSpecial::Yes)?),
            Prompt::Chat(messages) => match self.tokenizer()?.chat_template() {
                Some(template) => template.render(messages)?,
                None => {
                    let text = messages.last().map(|message| message.content.as_str()).unwrap_or_default();
                    return Ok(self.tokenizer()?.encode(text, AddSpecial::Yes)?);
                }
            },
        };
        Ok(self.tokenizer()?.encode(&text, AddSpecial::No)?)
    }

    /// Generates tokens one by one, each when it is asked for. Statistics count from here on, so those of two generations
    /// that go on at once are mixed.
    ///
    /// # Errors
    /// [`RuntimeError`] if the prompt is empty or cannot be encoded, or the budget is too small for prompt and answer.
    pub fn generate(&self, prompt: Prompt, options: GenerateOptions) -> Result<Generation<'_>, RuntimeError> {
        let tokens = self.encode(&prompt)?;
        if tokens.is_empty() {
            return Err(RuntimeError::EmptyPrompt);
        }
        let load = Session::load(&self.model, tokens.len(), options.max_tokens)?;
        let sampler = Sampler::new(options.sampling.clone())?;
        let plan = self.plan_load(load)?;
        self.follow(&plan, load);
        let streamer = self.weights.streamer();
        streamer.reset_stats();
        let session = Session::new(&self.model, load, self.keys_and_values, &self.weights)?;
        let decoder = self.tokenizer.as_ref().ok().map(StreamDecoder::new);
        let ends = self.tokenizer.as_ref().map(|tokenizer| tokenizer.end_ids().to_vec()).unwrap_or_default();
        Ok(Generation {
            runtime: self,
            sampler,
            options,
            session,
            _activations: streamer.make_room(plan.activation_bytes)?,
            decoder,
            plan,
            ends,
            prompt: tokens,
            logits: Vec::new(),
            next: Next::Prompt,
            progress: Progress::default(),
        })
    }
}

/// Tokens as they are generated: an iterator that computes the next token when asked. Dropping it ends the generation
/// and gives its memory back.
#[derive(Debug)]
pub struct Generation<'a> {
    runtime: &'a Runtime,
    sampler: Sampler,
    options: GenerateOptions,
    plan: Plan,
    session: Session<'a>,
    _activations: Permit,
    decoder: Option<StreamDecoder<'a>>,
    ends: Vec<u32>,
    prompt: Vec<u32>,
    logits: Vec<f32>,
    next: Next,
    progress: Progress,
}

/// What the next pass takes in.
#[derive(Clone, Copy, Debug)]
enum Next {
    Prompt,
    Token(u32),
    Nothing,
}

#[derive(Clone, Debug, Default)]
struct Progress {
    generated: usize,
    passes: usize,
    started: Option<Instant>,
    first: Option<Instant>,
    last: Option<Instant>,
    /// Of the streamer, at the first token.
    at_first: StreamStats,
    passes_at_first: usize,
    /// The most memory that weights could have in any pass.
    weight_capacity_bytes: u64,
    /// What no policy could help reading in the passes after the first token, had they gone on for ever.
    least_bytes_read: u64,
}

impl Progress {
    /// Counts a pass in which weights could have so much memory.
    fn count_pass(&mut self, plan: &Plan, weight_capacity_bytes: u64) {
        self.passes += 1;
        self.weight_capacity_bytes = self.weight_capacity_bytes.max(weight_capacity_bytes);
        if self.first.is_some() {
            self.least_bytes_read += plan.pass_bytes.saturating_sub(weight_capacity_bytes);
        }
    }
}

impl Generation<'_> {
    /// The prompt's token ids.
    pub fn prompt(&self) -> &[u32] {
        &self.prompt
    }

    /// How the budget is spent.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The text of tokens that were held back for more to come; empty unless the generation ended inside a character.
    pub fn rest(&mut self) -> String {
        self.decoder.as_mut().and_then(|decoder| decoder.finish().ok()).unwrap_or_default()
    }

    /// What was done so far and what it cost.
    pub fn statistics(&self) -> Statistics {
        let streamer = self.runtime.weights.streamer();
        let StreamStats { cache, accesses, on_time, stall, reading, bytes_read, speculation, .. } = streamer.stats();
        let Progress { generated, started, first, last, ref at_first, .. } = self.progress;
        let between = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
            (Some(from), Some(to)) => to.duration_since(from),
            _ => Default::default(),
        };
        let later_passes = (self.progress.passes - self.progress.passes_at_first) as u64;
        let decode_bytes_read = if first.is_some() { bytes_read.saturating_sub(at_first.bytes_read) } else { 0 };
        let since_first =
            |now: Duration, at_first| if first.is_some() { now.saturating_sub(at_first) } else { Duration::ZERO };
        let (min_bytes_read_per_token, min_byte_hit_rate) = if self.runtime.routed.is_empty() {
            (self.progress.least_bytes_read.checked_div(later_passes).unwrap_or(0), self.min_byte_hit_rate())
        } else {
            self.min_of_trace(later_passes)
        };
        Statistics {
            prompt_tokens: self.prompt.len(),
            generated_tokens: generated,
            prefill: between(started, first),
            decode: between(first, last),
            model_bytes: self.runtime.model_bytes,
            budget_bytes: streamer.budget().limit_bytes(),
            peak_bytes: streamer.budget().peak_bytes(),
            bytes_read,
            bytes_read_per_token: decode_bytes_read.checked_div(later_passes).unwrap_or(0),
            min_bytes_read_per_token,
            byte_hit_rate: cache.byte_hit_rate(),
            min_byte_hit_rate,
            on_time_rate: if accesses == 0 { 1.0 } else { on_time as f64 / accesses as f64 },
            stall,
            decode_stall: since_first(stall, at_first.stall),
            decode_reading: since_first(reading, at_first.reading),
            decode_bytes_read,
            speculation,
        }
    }

    /// MIN on the accesses of this generation: what it reads for each token after the first, and its byte hit rate.
    fn min_of_trace(&self, later_passes: u64) -> (u64, f64) {
        let streamer = self.runtime.weights.streamer();
        let unit_bytes: Vec<u64> = streamer.units().units().map(|unit| streamer.units().buffer_bytes(unit)).collect();
        let trace = streamer.trace();
        let min = |trace: &[UnitId]| min_bound(trace.chunks(1), &unit_bytes, self.progress.weight_capacity_bytes);
        let until_first = &trace[..trace.len().min(self.progress.at_first.accesses as usize)];
        let (all, first) = (min(&trace), min(until_first));
        let later_bytes = all.missed_bytes().saturating_sub(first.missed_bytes());
        (later_bytes.checked_div(later_passes).unwrap_or(0), all.byte_hit_rate())
    }

    /// MIN on the same accesses from an empty cache, with all the memory that weights may have had.
    fn min_byte_hit_rate(&self) -> f64 {
        /// Passes that are simulated; from the middle of them on, one pass is like another.
        const SIMULATED: usize = 32;
        let streamer = self.runtime.weights.streamer();
        let schedule = &self.runtime.schedule;
        let unit_bytes: Vec<u64> = streamer.units().units().map(|unit| streamer.units().buffer_bytes(unit)).collect();
        let hits = |passes: usize| {
            let cycles = (0..passes).flat_map(|_| schedule.cycle.iter());
            let trace: Vec<UnitId> = schedule.prologue.iter().chain(cycles).copied().collect();
            min_bound(trace.chunks(1), &unit_bytes, self.progress.weight_capacity_bytes)
        };
        let passes = self.progress.passes;
        let whole = hits(passes.min(SIMULATED));
        if passes <= SIMULATED {
            return whole.byte_hit_rate();
        }
        let half = hits(SIMULATED / 2);
        let scale = (passes - SIMULATED) as f64 / (SIMULATED / 2) as f64;
        let beyond = |whole: u64, half: u64| whole as f64 + (whole - half) as f64 * scale;
        beyond(whole.hit_bytes, half.hit_bytes) / beyond(whole.accessed_bytes, half.accessed_bytes)
    }

    /// Runs as many of `tokens` through the model as memory allows at once, keeps the logits of the last, and says how many
    /// that were.
    fn pass(&mut self, tokens: &[u32]) -> Result<usize, RuntimeError> {
        let Runtime { model, weights, device, keys_and_values, .. } = self.runtime;
        // Nobody changes the budget until it is known what this pass needs; then nobody changes it to less.
        let mut load = self.runtime.load.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = weights.streamer().budget().limit_bytes();
        let count = match tokens {
            [_] => 1,
            _ => {
                let taken = self.plan.kv_cache_bytes + self.plan.activation_bytes + 2 * self.plan.largest_unit_bytes;
                prefill_chunk(model.config(), *device, tokens.len(), limit.saturating_sub(taken) / 2)
            }
        };
        let tokens = &tokens[..count];
        *load = self.session.planned().with_pass(count);
        let context = self.session.cache().len() + count;
        if keys_and_values.bytes(1, context) > self.session.cache().bytes() {
            // What later tokens will need may hold weights until then.
            let pinned = self.runtime.plan_load(self.session.load_at(context))?.pinned;
            self.runtime.pinned.set(pinned);
        }
        drop(load);
        let one_token = self.session.activation_bytes(*device, 1, self.session.planned().context());
        let bytes = self.session.activation_bytes(*device, count, context);
        let _beyond_one_token = weights.streamer().make_room(bytes.saturating_sub(one_token))?;
        let output = self.session.forward(weights, tokens)?;
        output.logits.copy_into(&mut self.logits);
        self.progress
            .count_pass(&self.plan, limit.saturating_sub(self.session.kept_bytes() + self.plan.activation_bytes));
        Ok(count)
    }

    fn prefill(&mut self) -> Result<(), RuntimeError> {
        let prompt = std::mem::take(&mut self.prompt);
        let result = self.prefill_with(&prompt);
        self.prompt = prompt;
        // What many tokens took is more than what one token is charged for.
        self.runtime.weights.release();
        *self.runtime.load.lock().unwrap_or_else(PoisonError::into_inner) = self.session.planned();
        result
    }

    fn prefill_with(&mut self, prompt: &[u32]) -> Result<(), RuntimeError> {
        let Runtime { model, weights, keys_and_values, .. } = self.runtime;
        if let Model::EncoderDecoder(_) = model {
            let prompt_bytes = self.runtime.sizes().prompt_bytes(self.session.planned());
            let activations = weights.streamer().make_room(prompt_bytes)?;
            let start = self.session.read(weights, prompt, *keys_and_values)?;
            weights.release();
            drop(activations);
            return start.map_or(Ok(()), |start| self.pass(&[start]).map(drop));
        }
        let mut rest = prompt;
        while !rest.is_empty() {
            rest = &rest[self.pass(rest)?..];
        }
        Ok(())
    }

    fn step(&mut self) -> Result<Option<Token>, RuntimeError> {
        if self.progress.generated >= self.options.max_tokens {
            return Ok(None);
        }
        self.progress.started.get_or_insert_with(Instant::now);
        match self.next {
            Next::Prompt => self.prefill()?,
            Next::Token(_) if self.session.cache().len() >= self.session.cache().capacity() => return Ok(None),
            Next::Token(token) => {
                self.pass(&[token])?;
            }
            Next::Nothing => return Ok(None),
        }
        let id = self.sampler.sample(&self.logits)?;
        if self.options.at_end == AtEnd::Stop && self.ends.contains(&id) {
            return Ok(None);
        }
        self.next = Next::Token(id);
        self.progress.generated += 1;
        self.progress.last = Some(Instant::now());
        if self.progress.first.is_none() {
            self.progress.first = self.progress.last;
            self.progress.at_first = self.runtime.weights.streamer().stats();
            self.progress.passes_at_first = self.progress.passes;
        }
        let text = self.decoder.as_mut().map(|decoder| decoder.push(id)).transpose()?.unwrap_or_default();
        Ok(Some(Token { id, text }))
    }
}

impl Drop for Generation<'_> {
    fn drop(&mut self) {
        self.runtime.finish();
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<Token, RuntimeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step().transpose();
        if !matches!(step, Some(Ok(_))) {
            self.next = Next::Nothing;
            self.runtime.weights.release();
        }
        step
    }
}
