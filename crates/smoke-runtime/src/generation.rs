//! Text as it is generated, token by token.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use smoke_cache::bound::min_bound;
use smoke_core::{Permit, UnitId};
use smoke_models::Model;
use smoke_models::text::{Sampler, Sampling, StreamDecoder};
use smoke_prefetch::StreamStats;

use crate::compressed::{Compressed, Observation};
use crate::error::RuntimeError;
use crate::plan::{Plan, prefill_chunk};
use crate::runtime::Runtime;
use crate::session::Session;
use crate::statistics::Statistics;

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
    /// What compressed copies had served when the generation began, and at the first token.
    served_before: u64,
    served_at_first: u64,
    /// What compressed copies took of memory when units were last pinned.
    copies_bytes: u64,
}

impl Progress {
    /// Counts a pass in which weights could have so much memory, and copies held so many bytes of them beside it.
    fn count_pass(&mut self, plan: &Plan, weight_capacity_bytes: u64, copied_bytes: u64) {
        self.passes += 1;
        self.weight_capacity_bytes = self.weight_capacity_bytes.max(weight_capacity_bytes);
        if self.first.is_some() {
            self.least_bytes_read += plan.pass_bytes.saturating_sub(weight_capacity_bytes + copied_bytes);
        }
    }
}

impl<'a> Generation<'a> {
    /// Plans for a prompt, which is not empty, and takes the memory that it needs besides keys and values.
    pub(crate) fn begin(
        runtime: &'a Runtime,
        tokens: Vec<u32>,
        options: GenerateOptions,
    ) -> Result<Self, RuntimeError> {
        let load = Session::load(&runtime.model, tokens.len(), options.max_tokens)?;
        let sampler = Sampler::new(options.sampling.clone())?;
        let plan = runtime.follow(load)?;
        let streamer = runtime.weights.streamer();
        streamer.reset_stats();
        runtime.clear_expert_scores();
        let session = Session::new(&runtime.model, load, runtime.keys_and_values, &runtime.weights)?;
        let decoder = runtime.tokenizer.as_ref().ok().map(StreamDecoder::new);
        let ends = runtime.tokenizer.as_ref().map(|tokenizer| tokenizer.end_ids().to_vec()).unwrap_or_default();
        Ok(Generation {
            runtime,
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
            progress: Progress { served_before: served_bytes(runtime), ..Progress::default() },
        })
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
        let (copies, weighed) = (self.runtime.copies(), self.runtime.compressed.as_ref().and_then(Compressed::weighed));
        let served = served_bytes(self.runtime);
        let decompressing = |bytes| weighed.map_or(Duration::ZERO, |weighed| weighed.decompressing(bytes));
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
            copies: weighed,
            compressed_bytes: copies.taken_bytes,
            copied_bytes: copies.served_bytes,
            decompressed_bytes: served - self.progress.served_before,
            decode_decompressing: since_first(decompressing(served), decompressing(self.progress.served_at_first)),
            speculation,
            experts: self.runtime.expert_scores(),
        }
    }

    /// MIN on the accesses of this generation: what it reads for each token after the first, and its byte hit rate.
    fn min_of_trace(&self, later_passes: u64) -> (u64, f64) {
        let streamer = self.runtime.weights.streamer();
        let unit_bytes = streamer.units().all_buffer_bytes();
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
        let schedule = &self.runtime.schedule;
        let unit_bytes = self.runtime.weights.streamer().units().all_buffer_bytes();
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
                let Plan { kv_cache_bytes, activation_bytes, largest_unit_bytes, compressed_bytes, .. } = self.plan;
                let taken = kv_cache_bytes + activation_bytes + 2 * largest_unit_bytes + compressed_bytes;
                prefill_chunk(model.config(), *device, tokens.len(), limit.saturating_sub(taken) / 2)
            }
        };
        let tokens = &tokens[..count];
        *load = self.session.planned().with_pass(count);
        let context = self.session.cache().len() + count;
        let copies_bytes = self.runtime.copies().taken_bytes;
        let grows = keys_and_values.bytes(1, context) > self.session.cache().bytes();
        if grows || copies_bytes != self.progress.copies_bytes {
            self.progress.copies_bytes = copies_bytes;
            // What later tokens will need may hold weights until then; and so may what copies left of their share.
            let pinned = self.runtime.plan_beside_copies(self.session.load_at(context))?.pinned;
            self.runtime.pinned.set(pinned);
        }
        drop(load);
        let one_token = self.session.activation_bytes(*device, 1, self.session.planned().context());
        let bytes = self.session.activation_bytes(*device, count, context);
        let _beyond_one_token = weights.streamer().make_room(bytes.saturating_sub(one_token))?;
        let output = self.session.forward(weights, tokens)?;
        output.logits.copy_into(&mut self.logits);
        let copies = self.runtime.copies();
        let taken = self.session.kept_bytes() + self.plan.activation_bytes + copies.taken_bytes;
        self.progress.count_pass(&self.plan, limit.saturating_sub(taken), copies.served_bytes);
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

    /// Makes compressed copies if they are worth it, by what the pass for the second token took.
    fn consider_copies(&mut self, time: Duration) {
        let passes = self.options.max_tokens.saturating_sub(self.progress.generated + 1);
        if self.runtime.compressed.is_none() || passes == 0 {
            return;
        }
        let (before, now) = (&self.progress.at_first, self.runtime.weights.streamer().stats());
        let stall = now.stall.saturating_sub(before.stall);
        // Another generation that began meanwhile counts anew.
        let reading = now.reading.checked_sub(before.reading).filter(|reading| !reading.is_zero());
        let bytes = now.bytes_read.checked_sub(before.bytes_read).filter(|&bytes| bytes > 0);
        let Some((reading, bytes)) = reading.zip(bytes) else { return };
        let observed = Observation {
            whole: self.session.planned(),
            now: self.session.load_at(self.session.cache().len()),
            disk_bytes_per_second: bytes as f64 / reading.as_secs_f64(),
            compute_seconds: time.saturating_sub(stall).as_secs_f64(),
            passes,
        };
        self.runtime.weights.release();
        if let Some(plan) = self.runtime.consider_copies(observed) {
            self.plan = plan;
        }
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
                let start = Instant::now();
                self.pass(&[token])?;
                if self.progress.generated == 1 {
                    self.consider_copies(start.elapsed());
                }
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
            self.progress.served_at_first = served_bytes(self.runtime);
        }
        let text = self.decoder.as_mut().map(|decoder| decoder.push(id)).transpose()?.unwrap_or_default();
        Ok(Some(Token { id, text }))
    }
}

/// Raw bytes that compressed copies served since the model was opened.
fn served_bytes(runtime: &Runtime) -> u64 {
    runtime.compressed.as_ref().map_or(0, Compressed::served_bytes)
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
