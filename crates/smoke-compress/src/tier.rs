use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use smoke_core::{Budget, Permit};
use smoke_storage::{Extent, SourceError, SourceErrorKind, TensorIndex, WeightSource};

use crate::clock::{Clock, SystemClock};
use crate::codec::Codec;
use crate::measurement::{Measurement, Rule, Samples};
use crate::pieces::{PIECE, Pieces, scratch_bytes};
use crate::report::TierReport;

/// A source that keeps compressed copies of what is read from another.
///
/// - An extent is copied when it is read for the second time, by the thread that read it: what is read once, the cache above
///   keeps. A copy serves reads of the same extent only, decoded straight into the caller's buffer.
/// - Copies stay. Where reads repeat in a cycle a fixed set is the best there is (Belady, 1966), so what finds no room
///   is read from the source for ever.
/// - Copies, and what compressing takes beside them, are inside the share of the budget; a codec's own tables, below 2 MB
///   for each thread that compresses, are not.
/// - By [`Rule::Measured`] nothing is kept until 4 MiB were sampled, and if copies do not [pay](Measurement::pays)
///   the share is given back.
#[derive(Debug)]
pub struct CompressedTier {
    source: Arc<dyn WeightSource>,
    codec: Box<dyn Codec>,
    clock: Box<dyn Clock>,
    /// The share once more, as a ledger of its own that copies draw on.
    room: Budget,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    decision: Decision,
    share: Permit,
    measurement: Option<Measurement>,
    entries: HashMap<Extent, Entry>,
    served_bytes: u64,
}

#[derive(Debug)]
enum Decision {
    Sampling(Samples),
    On,
    Off,
}

#[derive(Debug)]
enum Entry {
    /// Read once.
    Seen,
    /// Being copied, or not worth it, or without room: not tried again.
    Settled,
    Copied(Arc<Pieces>),
}

impl CompressedTier {
    /// Nothing is kept yet; `share` is what copies may take, from the ledger that they count in.
    pub fn new(source: Arc<dyn WeightSource>, codec: Box<dyn Codec>, share: Permit) -> Self {
        let room = Budget::new(share.bytes());
        let state = State {
            decision: Decision::Sampling(Samples::default()),
            share,
            measurement: None,
            entries: HashMap::new(),
            served_bytes: 0,
        };
        Self { source, codec, clock: Box::new(SystemClock::default()), room, state: Mutex::new(state) }
    }

    /// Decides by another rule than [`Rule::Measured`].
    pub fn with_rule(self, rule: Rule) -> Self {
        self.state().decision = match rule {
            Rule::Measured => Decision::Sampling(Samples::default()),
            Rule::Always => Decision::On,
        };
        self
    }

    /// Measures with another clock than the system's.
    pub fn with_clock(self, clock: impl Clock + 'static) -> Self {
        Self { clock: Box::new(clock), ..self }
    }

    /// What was decided and done so far.
    pub fn report(&self) -> TierReport {
        let state = self.state();
        TierReport {
            codec: self.codec.name(),
            is_on: matches!(state.decision, Decision::On),
            measurement: state.measurement,
            served_bytes: state.served_bytes,
            held_bytes: self.room.used_bytes(),
        }
    }

    /// A panic elsewhere leaves nothing half done: each change under the lock is a whole one.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills `buf` if there is a copy of the extent.
    fn serve(&self, extent: Extent, buf: &mut [u8], should_stop: &dyn Fn() -> bool) -> Result<bool, SourceError> {
        let copy = match self.state().entries.get(&extent) {
            Some(Entry::Copied(copy)) if buf.len() as u64 == extent.len => Arc::clone(copy),
            _ => return Ok(false),
        };
        match copy.decompress(&*self.codec, buf, should_stop) {
            Ok(true) => {
                self.state().served_bytes += extent.len;
                Ok(true)
            }
            Ok(false) => Err(SourceError::new(SourceErrorKind::Cancelled, "reading was cancelled")),
            Err(_) => {
                // A codec that breaks its contract costs time, not the answer.
                self.state().entries.insert(extent, Entry::Settled);
                Ok(false)
            }
        }
    }

    /// Looks at what was read from the source.
    fn learn(&self, reads: &[(Extent, &mut [u8])], reading: Duration, should_stop: &dyn Fn() -> bool) {
        if let Decision::Sampling(samples) = &mut self.state().decision {
            samples.reading += reading;
            samples.read_bytes += reads.iter().map(|(extent, _)| extent.len).sum::<u64>();
        }
        for (extent, raw) in reads.iter().filter(|(extent, _)| extent.len > 0) {
            if should_stop() {
                return;
            }
            if matches!(self.state().decision, Decision::Sampling(_)) {
                self.sample(&raw[..raw.len().min(PIECE)]);
            }
            self.admit(*extent, raw, should_stop);
        }
    }

    fn sample(&self, raw: &[u8]) {
        let Some(scratch) = self.room.try_acquire(scratch_bytes(raw.len()) + raw.len() as u64) else { return };
        self.measure(raw);
        drop(scratch);
        let mut state = self.state();
        if matches!(state.decision, Decision::Off) {
            // All but what other threads still sample with.
            state.share.shrink_to(self.room.used_bytes());
        }
    }

    fn measure(&self, raw: &[u8]) {
        let compressed = self.codec.compress(raw);
        // Its pages are made before time counts, as those of a caller's buffer are.
        let mut decoded = vec![1; raw.len()];
        let start = self.clock.now();
        let is_decoded = self.codec.decompress(&compressed, &mut decoded).is_ok();
        let decoding = self.clock.now().saturating_sub(start);
        let mut state = self.state();
        let Decision::Sampling(samples) = &mut state.decision else { return };
        if !is_decoded || decoded != raw {
            state.switch_off();
            return;
        }
        samples.raw_bytes += raw.len() as u64;
        samples.compressed_bytes += compressed.len() as u64;
        samples.decoding += decoding;
        if let Some(measurement) = samples.measurement() {
            state.measurement = Some(measurement);
            if measurement.pays() { state.decision = Decision::On } else { state.switch_off() }
        }
    }

    /// Copies what is read for the second time.
    fn admit(&self, extent: Extent, raw: &[u8], should_stop: &dyn Fn() -> bool) {
        {
            let mut state = self.state();
            let is_on = match state.decision {
                Decision::On => true,
                Decision::Sampling(_) => false,
                Decision::Off => return,
            };
            match state.entries.get_mut(&extent) {
                None => {
                    state.entries.insert(extent, Entry::Seen);
                    return;
                }
                Some(entry @ Entry::Seen) if is_on => *entry = Entry::Settled,
                Some(_) => return,
            }
        }
        let copy = Pieces::compress(&*self.codec, raw, &self.room, should_stop);
        let entry = match copy {
            Some(copy) => Entry::Copied(Arc::new(copy)),
            None if should_stop() => Entry::Seen,
            None => return,
        };
        self.state().entries.insert(extent, entry);
    }
}

impl State {
    fn switch_off(&mut self) {
        self.decision = Decision::Off;
        self.entries = HashMap::new();
    }
}

impl WeightSource for CompressedTier {
    fn index(&self) -> &TensorIndex {
        self.source.index()
    }

    fn read_at(&self, extent: Extent, buf: &mut [u8]) -> Result<(), SourceError> {
        self.read_all_cancellable(&mut [(extent, buf)], &|| false)
    }

    fn read_cancellable(
        &self,
        extent: Extent,
        buf: &mut [u8],
        should_stop: &dyn Fn() -> bool,
    ) -> Result<(), SourceError> {
        self.read_all_cancellable(&mut [(extent, buf)], should_stop)
    }

    fn read_all_cancellable(
        &self,
        reads: &mut [(Extent, &mut [u8])],
        should_stop: &dyn Fn() -> bool,
    ) -> Result<(), SourceError> {
        let mut missing: Vec<(Extent, &mut [u8])> = Vec::with_capacity(reads.len());
        for (extent, buf) in reads {
            if !self.serve(*extent, buf, should_stop)? {
                missing.push((*extent, &mut **buf));
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let start = self.clock.now();
        self.source.read_all_cancellable(&mut missing, should_stop)?;
        let reading = self.clock.now().saturating_sub(start);
        self.learn(&missing, reading, should_stop);
        Ok(())
    }

    fn alignment(&self) -> u64 {
        self.source.alignment()
    }
}
