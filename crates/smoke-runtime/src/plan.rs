//! What stays in memory and what streams, decided before anything is loaded.

use std::collections::{BTreeSet, HashSet};

use smoke_burn::{DeviceKind, Residence};
use smoke_core::{ByteSize, UnitId};
use smoke_models::parts::KvShape;
use smoke_models::{Keep, LmConfig, Model, Want};
use smoke_predict::{RoutedUnit, Schedule};
use smoke_prefetch::planner::{PinPlan, pin_plan};
use smoke_storage::UnitMap;

use crate::compressed::Copies;
use crate::error::RuntimeError;

/// How a budget is spent on a number of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// Bytes of all weights as stored.
    pub model_bytes: u64,
    /// Bytes that one decoded token touches.
    pub pass_bytes: u64,
    /// The number of units.
    pub units: usize,
    /// Bytes of the largest unit.
    pub largest_unit_bytes: u64,
    /// The budget.
    pub budget_bytes: u64,
    /// Tokens of prompt and answer that the plan holds for; of the text, in a model that embeds.
    pub context_tokens: usize,
    /// Bytes of their keys and values.
    pub kv_cache_bytes: u64,
    /// Bytes of the activations of one token; in a model that embeds, of a text.
    pub activation_bytes: u64,
    /// Bytes kept for units that stream through.
    pub streaming_bytes: u64,
    /// Bytes of the units that stay.
    pub pinned_bytes: u64,
    /// Bytes of memory that compressed copies of weights take.
    pub compressed_bytes: u64,
    /// Bytes of weights that these copies hold: for every token they are decoded and not read.
    pub copied_bytes: u64,
    /// Bytes that are read from the disk for every token; of experts the share that is expected where all are used alike.
    pub streamed_bytes: u64,
    /// Bytes of all experts, of which `pass_bytes` has a token's share.
    pub routed_bytes: u64,
    /// The smallest budget that works for this many tokens.
    pub minimum_bytes: u64,
    pub(crate) pinned: Vec<UnitId>,
}

impl Plan {
    /// All the memory that weights, as they are, may have while a token is decoded.
    pub fn weight_capacity_bytes(&self) -> u64 {
        self.budget_bytes - self.kv_cache_bytes - self.activation_bytes - self.compressed_bytes
    }

    /// The least that any policy can read per token, decoding without end, with the copies that there are.
    ///
    /// With experts that depends on which are used. Then it is what a policy reads that knows nothing of them, all being
    /// used alike: there are better ones.
    pub fn least_streamed_bytes(&self) -> u64 {
        if self.routed_bytes > 0 {
            return self.streamed_bytes;
        }
        self.pass_bytes.saturating_sub(self.weight_capacity_bytes() + self.copied_bytes)
    }
}

/// What a plan holds for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// One text, of which a decoder sees `context` tokens in all, `pass` of them at once, and an encoder, where there is
    /// one, `source` at once.
    Generation { context: usize, source: usize, pass: usize },
    /// Texts side by side in an encoder, each padded to as many tokens.
    Embedding { rows: usize, tokens: usize },
}

impl Load {
    /// Tokens that a decoder sees.
    pub(crate) fn context(self) -> usize {
        match self {
            Self::Generation { context, .. } => context,
            Self::Embedding { .. } => 0,
        }
    }

    /// The same with so many tokens in the decoder at once.
    pub(crate) fn with_pass(self, tokens: usize) -> Self {
        match self {
            Self::Generation { context, source, .. } => Self::Generation { context, source, pass: tokens },
            other => other,
        }
    }
}

/// The memory that a load takes beside weights.
#[derive(Clone, Copy, Debug)]
struct Needs {
    /// Keys and values, until the end.
    kept_bytes: u64,
    /// Activations of the pass that is repeated: one token of a decoder, or the texts in an encoder.
    pass_bytes: u64,
    /// Activations of the prompt, all at once.
    prompt_bytes: u64,
    /// The same where it may go through in as many parts as it takes.
    least_prompt_bytes: u64,
    /// Keys and values that are held only while the prompt goes through.
    prompt_kv_bytes: u64,
}

/// The sizes that a plan is made from.
#[derive(Debug)]
pub(crate) struct Sizes<'a> {
    pub(crate) model: &'a Model,
    pub(crate) units: &'a UnitMap,
    pub(crate) schedule: &'a Schedule,
    pub(crate) routed: &'a [RoutedUnit],
    /// By unit, as far as there are any that are not [`Residence::Planned`].
    pub(crate) residences: &'a [Residence],
    pub(crate) model_bytes: u64,
    pub(crate) device: DeviceKind,
    pub(crate) keys_and_values: KvShape,
    pub(crate) reading: Reading,
    pub(crate) copies: Copies,
}

/// How units are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// Units at a time.
    pub(crate) at_once: usize,
    /// As the disk was measured, if it was.
    pub(crate) bytes_per_second: Option<u64>,
}

impl Reading {
    /// Room for the unit in use and for those in flight, which costs hits: for each that is read at once, one that waits and
    /// one in use, or for what the disk gives in 8 ms if that is more, so that neither side notices when the other is late
    /// by as much. With three units and two readers the disk was idle for a tenth of the time, with more than four nothing
    /// was gained. No more than a fortieth of the capacity, but at least three units.
    fn room_bytes(self, capacity: u64, largest_unit_bytes: u64) -> u64 {
        let in_flight = (self.at_once as u64 + 2) * largest_unit_bytes;
        let late = self.bytes_per_second.unwrap_or(0) / 125;
        in_flight.max(late).min(capacity / 40).max(3 * largest_unit_bytes).min(capacity)
    }
}

impl Sizes<'_> {
    /// The load that so many tokens are: of prompt and answer together; of each in a model with an encoder and a decoder;
    /// of one text in an encoder.
    pub(crate) fn load(&self, tokens: usize) -> Load {
        let tokens = tokens.clamp(1, self.model.config().max_positions);
        match self.model {
            Model::Encoder(_) => Load::Embedding { rows: 1, tokens },
            Model::EncoderDecoder(_) => Load::Generation { context: tokens, source: tokens, pass: 1 },
            _ => Load::Generation { context: tokens, source: 0, pass: 1 },
        }
    }

    fn needs(&self, load: Load) -> Needs {
        let (config, device) = (self.model.config(), self.device);
        match (load, self.model) {
            (Load::Embedding { rows, tokens }, _) => {
                let pass_bytes = config.encoder_activation_bytes(device, rows, tokens, Keep::Last);
                Needs {
                    kept_bytes: config.encoder_kv_shape().bytes(rows, tokens),
                    pass_bytes,
                    prompt_bytes: pass_bytes,
                    least_prompt_bytes: pass_bytes,
                    prompt_kv_bytes: 0,
                }
            }
            (Load::Generation { context, source, .. }, Model::EncoderDecoder(model)) => {
                let prompt_bytes = model.encode_activation_bytes(device, 1, source, Keep::Last);
                Needs {
                    kept_bytes: self.keys_and_values.bytes(1, context) + self.keys_and_values.bytes(1, source),
                    pass_bytes: model.decode_activation_bytes(device, 1, 1, context, source, Want::LastLogits),
                    prompt_bytes,
                    least_prompt_bytes: prompt_bytes,
                    prompt_kv_bytes: model.encoder().encoder_kv_shape().bytes(1, source),
                }
            }
            (Load::Generation { context, pass, .. }, _) => {
                let bytes = |tokens| config.activation_bytes(device, 1, tokens, context, Want::LastLogits);
                Needs {
                    kept_bytes: self.keys_and_values.bytes(1, context),
                    pass_bytes: bytes(1),
                    prompt_bytes: bytes(context),
                    least_prompt_bytes: bytes(pass),
                    prompt_kv_bytes: 0,
                }
            }
        }
    }

    /// The budget at which nothing streams for `load`.
    pub(crate) fn everything_bytes(&self, load: Load) -> u64 {
        let Needs { kept_bytes, pass_bytes, prompt_bytes, prompt_kv_bytes, .. } = self.needs(load);
        let working_bytes = kept_bytes + prompt_kv_bytes + pass_bytes.max(prompt_bytes) + self.unpack_bytes();
        working_bytes + self.units.total_buffer_bytes()
    }

    /// Bytes of the activations that the prompt needs beyond a pass, if all of it goes through at once.
    pub(crate) fn prompt_bytes(&self, load: Load) -> u64 {
        let Needs { pass_bytes, prompt_bytes, .. } = self.needs(load);
        prompt_bytes.saturating_sub(pass_bytes)
    }

    /// Plans `load` in `budget_bytes`.
    ///
    /// # Errors
    /// [`RuntimeError::BudgetTooSmall`] if not even one unit at a time fits.
    pub(crate) fn plan(&self, budget_bytes: u64, load: Load) -> Result<Plan, RuntimeError> {
        let unit_bytes = self.units.all_buffer_bytes();
        let largest_unit_bytes = unit_bytes.iter().copied().max().unwrap_or(0);
        let context_tokens = match load {
            Load::Generation { context, source, .. } => context.saturating_add(source),
            Load::Embedding { rows, tokens } => rows.saturating_mul(tokens),
        };
        let needs = self.needs(load);
        let kv_cache_bytes = needs.kept_bytes;
        let activation_bytes = needs.pass_bytes + self.unpack_bytes();
        let working_bytes = kv_cache_bytes.saturating_add(activation_bytes).saturating_add(self.copies.taken_bytes);
        let at_prompt_bytes = needs.least_prompt_bytes.saturating_sub(needs.pass_bytes) + needs.prompt_kv_bytes;
        let minimum_bytes = working_bytes.saturating_add(at_prompt_bytes).saturating_add(2 * largest_unit_bytes);
        if budget_bytes < minimum_bytes {
            return Err(RuntimeError::BudgetTooSmall {
                budget: ByteSize(budget_bytes),
                minimum_bytes,
                context_tokens,
                kv_cache: ByteSize(kv_cache_bytes),
                activations: ByteSize(activation_bytes + at_prompt_bytes),
                units: ByteSize(2 * largest_unit_bytes),
            });
        }
        let capacity = budget_bytes - working_bytes;
        let streaming_bytes = self.reading.room_bytes(capacity, largest_unit_bytes);
        let routed_bytes: u64 = self.routed.iter().map(|routed| unit_bytes[routed.unit.index()]).sum();
        // What a token uses of the experts, where all are used alike.
        let share = |routed: &RoutedUnit| f64::from(routed.share) * unit_bytes[routed.unit.index()] as f64;
        let token_bytes = self.routed.iter().map(share).sum::<f64>() as u64;
        // Experts take what the shared weights leave, and at least the room for streaming.
        let (shared_capacity, shared_streaming) =
            if routed_bytes > 0 { (capacity - streaming_bytes, 0) } else { (capacity, streaming_bytes) };
        let PinPlan { pinned, pinned_bytes, streamed_bytes, .. } =
            self.pins(&unit_bytes, shared_capacity, shared_streaming)?;
        let missing_bytes = (routed_bytes + pinned_bytes).saturating_sub(capacity);
        let missed_bytes = token_bytes as f64 * missing_bytes as f64 / routed_bytes.max(1) as f64;
        let touched: HashSet<UnitId> = self.schedule.cycle.iter().copied().collect();
        Ok(Plan {
            model_bytes: self.model_bytes,
            pass_bytes: touched.iter().map(|unit| unit_bytes[unit.index()]).sum::<u64>() + token_bytes,
            units: unit_bytes.len(),
            largest_unit_bytes,
            budget_bytes,
            context_tokens,
            kv_cache_bytes,
            activation_bytes,
            streaming_bytes,
            pinned_bytes,
            compressed_bytes: self.copies.taken_bytes,
            copied_bytes: self.copies.served_bytes,
            streamed_bytes: (streamed_bytes + missed_bytes as u64).saturating_sub(self.copies.served_bytes),
            routed_bytes,
            minimum_bytes,
            pinned,
        })
    }

    /// Where a unit stays. What has a copy is decoded for each use.
    pub(crate) fn residence(&self, unit: UnitId) -> Residence {
        match self.copies.units.binary_search(&unit).is_ok() {
            true => Residence::Stream,
            false => self.residences.get(unit.index()).copied().unwrap_or_default(),
        }
    }

    /// The units that a rule keeps in memory.
    pub(crate) fn kept(&self) -> BTreeSet<UnitId> {
        self.schedule.cycle.iter().copied().filter(|&unit| self.residence(unit) == Residence::Memory).collect()
    }

    /// What stays and what streams: what the rules say, and the best of the others.
    fn pins(&self, unit_bytes: &[u64], capacity: u64, streaming: u64) -> Result<PinPlan, RuntimeError> {
        let cycle = &self.schedule.cycle;
        let of = |wanted: Residence| cycle.iter().copied().filter(move |&unit| self.residence(unit) == wanted);
        if cycle.iter().all(|&unit| self.residence(unit) == Residence::Planned) {
            return Ok(pin_plan(cycle, unit_bytes, capacity, streaming));
        }
        let bytes = |unit: &UnitId| unit_bytes[unit.index()];
        let kept = self.kept();
        let kept_bytes: u64 = kept.iter().map(bytes).sum();
        let streamed_bytes: u64 = of(Residence::Stream).map(|unit| bytes(&unit)).sum();
        let planned: Vec<UnitId> = of(Residence::Planned).collect();
        // Where something streams, its room is not the others' even if all of them would fit.
        let (room, streaming) =
            if streamed_bytes > 0 { (capacity.saturating_sub(streaming), 0) } else { (capacity, streaming) };
        let Some(room) = room.checked_sub(kept_bytes) else {
            return Err(RuntimeError::TooMuchToKeep { wanted: ByteSize(kept_bytes), room: ByteSize(room) });
        };
        let mut plan = pin_plan(&planned, unit_bytes, room, streaming);
        plan.pinned.extend(kept);
        plan.pinned_bytes += kept_bytes;
        plan.streamed_bytes += streamed_bytes;
        Ok(plan)
    }

    /// Bytes that a device needs beside the host to unpack the largest piece, host and device together.
    fn unpack_bytes(&self) -> u64 {
        if self.device == DeviceKind::Cpu {
            return 0;
        }
        // A packed weight has at least 4 bits and becomes 32, once on the host and once on the device.
        self.units.units().map(|unit| self.units.payload_bytes(unit)).max().unwrap_or(0) * 16
    }
}

/// The largest number of prompt tokens that one pass takes, at least 1: more tokens in a pass save reads, but their
/// activations push out weights. `room_bytes` is what they may take.
pub(crate) fn prefill_chunk(config: &LmConfig, device: DeviceKind, prompt_tokens: usize, room_bytes: u64) -> usize {
    let fits =
        |&tokens: &usize| config.activation_bytes(device, 1, tokens, prompt_tokens, Want::LastLogits) <= room_bytes;
    // Halving finds a chunk that splits the prompt evenly.
    let passes = (1..=prompt_tokens).map(|passes| prompt_tokens.div_ceil(passes));
    passes.into_iter().find(fits).unwrap_or(1)
}
