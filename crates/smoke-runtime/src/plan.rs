//! What stays in memory and what streams, decided before anything is loaded.

use smoke_burn::DeviceKind;
use smoke_core::{ByteSize, UnitId};
use smoke_models::parts::KvShape;
use smoke_models::{CausalLm, Want};
use smoke_prefetch::planner::{PinPlan, pin_plan};
use smoke_storage::UnitMap;

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
    /// Tokens of prompt and answer that the plan holds for.
    pub context_tokens: usize,
    /// Bytes of their keys and values.
    pub kv_cache_bytes: u64,
    /// Bytes of the activations of one token.
    pub activation_bytes: u64,
    /// Bytes kept for units that stream through.
    pub streaming_bytes: u64,
    /// Bytes of the units that stay.
    pub pinned_bytes: u64,
    /// Bytes that stream through memory for every token.
    pub streamed_bytes: u64,
    /// The smallest budget that works for this many tokens.
    pub minimum_bytes: u64,
    pub(crate) pinned: Vec<UnitId>,
}

impl Plan {
    /// All the memory that weights may have while a token is decoded.
    pub fn weight_capacity_bytes(&self) -> u64 {
        self.budget_bytes - self.kv_cache_bytes - self.activation_bytes
    }

    /// The least that any policy can read per token, decoding without end.
    pub fn least_streamed_bytes(&self) -> u64 {
        self.pass_bytes.saturating_sub(self.weight_capacity_bytes())
    }
}

/// The sizes that a plan is made from.
#[derive(Debug)]
pub(crate) struct Sizes<'a> {
    pub(crate) model: &'a dyn CausalLm,
    pub(crate) units: &'a UnitMap,
    pub(crate) schedule: &'a [UnitId],
    pub(crate) model_bytes: u64,
    pub(crate) device: DeviceKind,
    pub(crate) keys_and_values: KvShape,
}

impl Sizes<'_> {
    /// The budget at which nothing streams for `context_tokens` tokens.
    pub(crate) fn everything_bytes(&self, context_tokens: usize) -> u64 {
        let config = self.model.config();
        self.keys_and_values.bytes(1, context_tokens)
            + config.activation_bytes(self.device, 1, context_tokens, context_tokens, Want::LastLogits)
            + self.unpack_bytes()
            + self.units.total_buffer_bytes()
    }

    /// Plans `context_tokens` tokens in `budget_bytes`.
    ///
    /// # Errors
    /// [`RuntimeError::BudgetTooSmall`] if not even one unit at a time fits.
    pub(crate) fn plan(&self, budget_bytes: u64, context_tokens: usize) -> Result<Plan, RuntimeError> {
        let config = self.model.config();
        let unit_bytes: Vec<u64> = self.units.units().map(|unit| self.units.buffer_bytes(unit)).collect();
        let largest_unit_bytes = unit_bytes.iter().copied().max().unwrap_or(0);
        let context_tokens = context_tokens.clamp(1, config.max_positions);
        let kv_cache_bytes = self.keys_and_values.bytes(1, context_tokens);
        let activation_bytes =
            config.activation_bytes(self.device, 1, 1, context_tokens, Want::LastLogits) + self.unpack_bytes();
        let working_bytes = kv_cache_bytes.saturating_add(activation_bytes);
        let minimum_bytes = working_bytes.saturating_add(2 * largest_unit_bytes);
        if budget_bytes < minimum_bytes {
            return Err(RuntimeError::BudgetTooSmall {
                budget: ByteSize(budget_bytes),
                minimum_bytes,
                context_tokens,
                kv_cache: ByteSize(kv_cache_bytes),
                activations: ByteSize(activation_bytes),
                units: ByteSize(2 * largest_unit_bytes),
            });
        }
        let capacity = budget_bytes - working_bytes;
        let streaming_bytes = streaming_bytes(capacity, largest_unit_bytes);
        let PinPlan { pinned, pinned_bytes, streamed_bytes, .. } =
            pin_plan(self.schedule, &unit_bytes, capacity, streaming_bytes);
        Ok(Plan {
            model_bytes: self.model_bytes,
            pass_bytes: unit_bytes.iter().sum(),
            units: unit_bytes.len(),
            largest_unit_bytes,
            budget_bytes,
            context_tokens,
            kv_cache_bytes,
            activation_bytes,
            streaming_bytes,
            pinned_bytes,
            streamed_bytes,
            minimum_bytes,
            pinned,
        })
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

/// Room for the unit in use and for those in flight: a fortieth of the capacity, which costs few hits, but at least
/// three units, so that one is read while one is used and one waits, and at most 32 MiB, which keeps a disk busy.
fn streaming_bytes(capacity: u64, largest_unit_bytes: u64) -> u64 {
    (capacity / 40).min(32 << 20).max(3 * largest_unit_bytes).min(capacity)
}

/// The largest number of prompt tokens that one pass takes, at least 1: more tokens in a pass save reads, but their
/// activations push out weights. `room_bytes` is what they may take.
pub(crate) fn prefill_chunk(model: &dyn CausalLm, device: DeviceKind, prompt_tokens: usize, room_bytes: u64) -> usize {
    let fits = |&tokens: &usize| {
        model.config().activation_bytes(device, 1, tokens, prompt_tokens, Want::LastLogits) <= room_bytes
    };
    // Halving finds a chunk that splits the prompt evenly.
    let passes = (1..=prompt_tokens).map(|passes| prompt_tokens.div_ceil(passes));
    passes.into_iter().find(fits).unwrap_or(1)
}
