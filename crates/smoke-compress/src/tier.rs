use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smoke_core::Permit;
use smoke_storage::{Extent, SourceError, SourceErrorKind, TensorIndex, WeightSource};

use crate::codec::Codec;
use crate::pieces::{PIECE, Pieces, scratch_bytes};
use crate::rule::MAX_RATIO;

/// A source that keeps compressed copies of some of what is read from another.
///
/// - It keeps nothing before it is told what, and how much memory that may take: by [`keep`](Self::keep).
/// - An extent that is to be kept is copied at its next read, by the thread that read it. A copy serves reads of the same
///   extent only, decoded straight into the caller's buffer.
/// - Copies stay. Where reads repeat in a cycle a fixed set is the best there is (Belady, 1966), so what finds no room
///   is read from the source for ever.
/// - Copies, and what compressing takes beside them, are inside the share of the budget; a codec's own tables, below 2 MB
///   for each thread that compresses, are not.
#[derive(Debug)]
pub struct CompressedTier {
    source: Arc<dyn WeightSource>,
    codec: Box<dyn Codec>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Counts the calls of `keep`: what belongs to an earlier one comes too late.
    round: u64,
    entries: HashMap<Extent, Entry>,
    /// What of the share is not taken; `None` once nothing more is to be copied.
    share: Option<Permit>,
    /// What was taken of the share, for copies and for making them.
    taken_bytes: u64,
    report: TierReport,
}

#[derive(Debug)]
enum Entry {
    Wanted,
    /// A thread makes a copy.
    InWork,
    Copied(Arc<Pieces>),
}

/// What a [`CompressedTier`] holds and did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TierReport {
    /// What the copies stand for, in raw bytes.
    pub copied_bytes: u64,
    /// What the copies take, in bytes.
    pub held_bytes: u64,
    /// What else of the share is not given back: it is left for further copies, or they are being made in it. In bytes.
    pub left_bytes: u64,
    /// Extents that are still to be copied, or are being copied.
    pub pending: usize,
    /// Raw bytes that were served from copies since the tier was made.
    pub served_bytes: u64,
}

/// Why there is no copy.
enum NoCopy {
    /// Asked to stop: the next read tries again.
    Stopped,
    /// There is no room, or too little is saved.
    NotWorthIt,
}

impl CompressedTier {
    /// Keeps nothing yet.
    pub fn new(source: Arc<dyn WeightSource>, codec: Box<dyn Codec>) -> Self {
        Self { source, codec, state: Mutex::default() }
    }

    /// The bytes of the share that a thread needs while it copies an extent of so many bytes.
    pub fn scratch_bytes(extent_bytes: u64) -> u64 {
        scratch_bytes(extent_bytes.min(PIECE as u64) as usize)
    }

    /// What copies are compressed with.
    pub fn codec(&self) -> &dyn Codec {
        &*self.codec
    }

    /// Forgets all copies, and makes copies of `extents` from now on: each once it is read, as far as they fit into `share`.
    /// What is left of the share is given back when all of them were read.
    ///
    /// They should be what is read as one. Each thread that reads needs [scratch](Self::scratch_bytes) beside the copies.
    pub fn keep(&self, extents: impl IntoIterator<Item = Extent>, share: Permit) {
        self.begin(extents.into_iter().map(|extent| (extent, Entry::Wanted)).collect(), Some(share));
    }

    /// Forgets all copies and gives the share back: at once, but for what other threads are reading at the moment.
    pub fn clear(&self) {
        self.begin(HashMap::new(), None);
    }

    fn begin(&self, entries: HashMap<Extent, Entry>, share: Option<Permit>) {
        let pending = entries.len();
        let share = share.filter(|_| pending > 0);
        let mut state = self.state();
        let report = TierReport { pending, served_bytes: state.report.served_bytes, ..TierReport::default() };
        let next = State { round: state.round + 1, entries, share, taken_bytes: 0, report };
        let before = std::mem::replace(&mut *state, next);
        // Freeing takes a while, and others want the lock.
        drop(state);
        drop(before);
    }

    /// What is held and was done so far.
    pub fn report(&self) -> TierReport {
        let state = self.state();
        let left_bytes = state.share.as_ref().map_or(0, Permit::bytes) + state.taken_bytes - state.report.held_bytes;
        TierReport { left_bytes, ..state.report }
    }

    /// Whether there is a copy of the extent.
    pub fn has_copy(&self, extent: Extent) -> bool {
        matches!(self.state().entries.get(&extent), Some(Entry::Copied(_)))
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
                self.state().report.served_bytes += extent.len;
                Ok(true)
            }
            Ok(false) => Err(SourceError::new(SourceErrorKind::Cancelled, "reading was cancelled")),
            // A codec that breaks its contract costs time, not the answer.
            Err(_) => {
                self.state().forget(extent, &copy);
                Ok(false)
            }
        }
    }

    /// Copies what was read, if it is to be kept.
    fn admit(&self, extent: Extent, raw: &[u8], should_stop: &dyn Fn() -> bool) {
        let round = {
            let mut state = self.state();
            match state.entries.get_mut(&extent) {
                Some(entry @ Entry::Wanted) => *entry = Entry::InWork,
                _ => return,
            }
            state.round
        };
        let copy = self.compress(raw, round, should_stop);
        let mut state = self.state();
        if state.round == round {
            state.settle(extent, copy);
        }
    }

    fn compress(&self, raw: &[u8], round: u64, should_stop: &dyn Fn() -> bool) -> Result<Pieces, NoCopy> {
        let mut copy = Pieces(Vec::with_capacity(raw.len().div_ceil(PIECE)));
        for piece in raw.chunks(PIECE) {
            let room = match should_stop() {
                true => Err(NoCopy::Stopped),
                false => self.state().take(round, scratch_bytes(piece.len())),
            };
            let mut permit = match room {
                Ok(permit) => permit,
                Err(reason) => {
                    copy.0.into_iter().for_each(|(_, permit)| self.state().give_back(round, permit));
                    return Err(reason);
                }
            };
            let compressed = self.codec.compress(piece).into_boxed_slice();
            let surplus = permit.split(permit.bytes().saturating_sub(compressed.len() as u64));
            self.state().give_back(round, surplus);
            copy.0.push((compressed, permit));
        }
        if copy.bytes() as f64 >= raw.len() as f64 * MAX_RATIO {
            copy.0.into_iter().for_each(|(_, permit)| self.state().give_back(round, permit));
            return Err(NoCopy::NotWorthIt);
        }
        Ok(copy)
    }
}

impl State {
    fn take(&mut self, round: u64, bytes: u64) -> Result<Permit, NoCopy> {
        match &mut self.share {
            Some(share) if self.round == round && share.bytes() >= bytes => {
                self.taken_bytes += bytes;
                Ok(share.split(bytes))
            }
            _ => Err(NoCopy::NotWorthIt),
        }
    }

    /// To the share; to the ledger where that is another one by now.
    fn give_back(&mut self, round: u64, permit: Permit) {
        if let Some(share) = self.share.as_mut().filter(|_| self.round == round) {
            self.taken_bytes -= permit.bytes();
            share.merge(permit);
        }
    }

    fn settle(&mut self, extent: Extent, copy: Result<Pieces, NoCopy>) {
        match copy {
            Err(NoCopy::Stopped) => {
                self.entries.insert(extent, Entry::Wanted);
                return;
            }
            Err(NoCopy::NotWorthIt) => drop(self.entries.remove(&extent)),
            Ok(copy) => {
                self.report.copied_bytes += extent.len;
                self.report.held_bytes += copy.bytes();
                self.entries.insert(extent, Entry::Copied(Arc::new(copy)));
            }
        }
        self.report.pending -= 1;
        if self.report.pending == 0 {
            self.share = None;
        }
    }

    /// If it is still this copy.
    fn forget(&mut self, extent: Extent, copy: &Arc<Pieces>) {
        if matches!(self.entries.get(&extent), Some(Entry::Copied(there)) if Arc::ptr_eq(there, copy)) {
            self.entries.remove(&extent);
            self.report.copied_bytes -= extent.len;
            self.report.held_bytes -= copy.bytes();
            self.taken_bytes -= copy.bytes();
        }
    }
}

impl WeightSource for CompressedTier {
    fn index(&self) -> &TensorIndex {
        self.source.index()
    }

    fn read_at(&self, extent: Extent, buf: &mut [u8]) -> Result<(), SourceError> {
        self.read_cancellable(extent, buf, &|| false)
    }

    fn read_cancellable(
        &self,
        extent: Extent,
        buf: &mut [u8],
        should_stop: &dyn Fn() -> bool,
    ) -> Result<(), SourceError> {
        if !self.serve(extent, buf, should_stop)? {
            self.source.read_cancellable(extent, buf, should_stop)?;
            self.admit(extent, buf, should_stop);
        }
        Ok(())
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
        if !missing.is_empty() {
            self.source.read_all_cancellable(&mut missing, should_stop)?;
        }
        missing.iter().for_each(|(extent, raw)| self.admit(*extent, raw, should_stop));
        Ok(())
    }

    fn alignment(&self) -> u64 {
        self.source.alignment()
    }
}
