use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use smoke_burn::{DeviceKind, Residence, Weights};
use smoke_cache::policy::PinnedUnits;
use smoke_core::UnitInfo;
use smoke_models::parts::KvShape;
use smoke_models::text::{AddSpecial, Message, Tokenizer, TokenizerError};
use smoke_models::{LmConfig, Model};
use smoke_predict::{RoutedUnit, Schedule};
use smoke_prefetch::Warming;
use smoke_storage::SourceError;

use crate::builder::{RuntimeBuilder, expert_layers, units_known};
use crate::compressed::{Compressed, Copies};
use crate::error::RuntimeError;
use crate::experts::{self, ExpertScore, Learning};
use crate::generation::{GenerateOptions, Generation};
use crate::held::Held;
use crate::plan::{Load, Plan, Reading, Sizes};
use crate::probe::{Probe, streamed};
use crate::state::{State, StateError};

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
    /// What holds compressed copies, if there are to be any.
    pub(crate) compressed: Option<Compressed>,
    pub(crate) model_bytes: u64,
    pub(crate) device: DeviceKind,
    pub(crate) keys_and_values: KvShape,
    pub(crate) reading: Reading,
    /// Where files that belong to the checkpoint lie.
    pub(crate) directory: PathBuf,
    /// What the latest generation planned for.
    pub(crate) load: Mutex<Load>,
    /// Where what is learnt is kept, if it is.
    pub(crate) state: Option<State>,
    /// What was in memory at the end of an earlier run.
    pub(crate) held: Option<Held>,
    pub(crate) warming: Mutex<Option<Warming>>,
    pub(crate) learning: Option<Learning>,
    pub(crate) ignored: Vec<StateError>,
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

    /// What is remembered of the model and could not be read: it runs without it.
    pub fn ignored_state(&self) -> &[StateError] {
        &self.ignored
    }

    /// Waits until all that was in memory at the end of an earlier run, and for which there is room, is there again. There is
    /// no need to: it goes on while tokens are generated.
    pub fn wait_until_warm(&self) {
        let warming = self.warming.lock().unwrap_or_else(PoisonError::into_inner).take();
        warming.into_iter().for_each(Warming::wait);
    }

    /// Writes what is to be remembered of the model, in place of what was there: whole or not at all. How often experts were
    /// used is counted in the latest generation. Does nothing where the builder was given no
    /// [directory](RuntimeBuilder::state). A file with what was learnt that could not be read is not written over.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be written; what was there before is unchanged.
    pub fn save_state(&self) -> Result<(), StateError> {
        let Some(state) = &self.state else { return Ok(()) };
        let streamer = self.weights.streamer();
        state.keep_held(&Held::now(state.model, streamer, &self.schedule, &self.routed, self.held.as_ref()))?;
        self.learning.as_ref().map_or(Ok(()), |learning| learning.save(state))
    }

    /// How well experts were predicted since the latest generation began.
    pub(crate) fn expert_scores(&self) -> Vec<ExpertScore> {
        expert_layers(&self.model).map(experts::scores).unwrap_or_default()
    }

    pub(crate) fn clear_expert_scores(&self) {
        let Some(layers) = expert_layers(&self.model) else { return };
        if let Some(adviser) = &mut *layers.adviser() {
            adviser.clear_scores();
        }
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

    /// How fast the disk and the kernels are while a plan is followed, for [`Plan::predict`]: what it streams is read, as
    /// many units at a time, and conversion, where there is any, belongs to them. Takes about two seconds, and beside the
    /// budget 160 MB and a few units.
    ///
    /// # Errors
    /// [`SourceError`] if the weights cannot be read.
    pub fn probe(&self, plan: &Plan) -> Result<Probe, SourceError> {
        let order = streamed(&self.schedule.cycle, &self.routed, &plan.pinned);
        Probe::measure(self.weights.streamer(), order)
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
            reading: self.reading,
            copies: self.copies(),
        }
    }

    /// The same; compressed copies give way where there is no room for both. The lock on the load is held meanwhile.
    pub(crate) fn plan_beside_copies(&self, load: Load) -> Result<Plan, RuntimeError> {
        self.plan_load(load).or_else(|_| {
            self.forget_copies();
            self.plan_load(load)
        })
    }

    /// Plans `load`, and keeps what the plan pins from here on.
    pub(crate) fn follow(&self, load: Load) -> Result<Plan, RuntimeError> {
        let mut current = self.load.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = self.plan_beside_copies(load)?;
        *current = load;
        self.pinned.set(plan.pinned.iter().copied());
        Ok(plan)
    }

    /// Plans for nothing any more.
    pub(crate) fn finish(&self) {
        *self.load.lock().unwrap_or_else(PoisonError::into_inner) = self.sizes().load(1);
    }

    /// Sets another budget, from any thread, also while tokens are generated: they stay the same, only their speed
    /// changes. When this returns, no more than `bytes` are used, but for the unit and the activations in use at the
    /// moment, which give way within the next product. Of two generations that go on at once, the one that began last is
    /// taken care of. Compressed copies are given up until the next generation.
    ///
    /// # Errors
    /// [`RuntimeError`] if the budget cannot hold the generation that runs; then nothing changes.
    pub fn set_memory_bytes(&self, bytes: u64) -> Result<(), RuntimeError> {
        let load = self.load.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = Sizes { copies: Copies::default(), ..self.sizes() }.plan(bytes, *load)?;
        // They were weighed for another budget.
        self.forget_copies();
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
        Generation::begin(self, tokens, options)
    }
}
