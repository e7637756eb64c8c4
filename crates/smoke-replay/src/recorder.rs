use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smoke_core::{ExpectedUse, UnitId};

use crate::writer::{RecordError, TraceWriter};

/// A handle on a [`TraceWriter`] that several parties feed: whoever uses the units, and whoever knows where a pass ends.
///
/// What is told of uses cannot be answered with an error, so the first one ends the recording and is kept for
/// [`finish`](Self::finish).
#[derive(Debug)]
pub struct Recorder<W: Write> {
    recording: Arc<Mutex<Recording<W>>>,
}

#[derive(Debug)]
enum Recording<W: Write> {
    Writing(TraceWriter<W>),
    Failed(RecordError),
    Finished,
}

impl<W: Write> Clone for Recorder<W> {
    fn clone(&self) -> Self {
        Self { recording: Arc::clone(&self.recording) }
    }
}

impl<W: Write> Recorder<W> {
    /// Goes on with what `writer` has begun.
    pub fn new(writer: TraceWriter<W>) -> Self {
        Self { recording: Arc::new(Mutex::new(Recording::Writing(writer))) }
    }

    /// These units are used together.
    pub fn step(&self, units: &[UnitId]) {
        self.write(|writer| writer.step(units));
    }

    /// Somebody expects these uses. Those that are no expectations, at distance 0 or with a probability outside (0, 1],
    /// are left out.
    pub fn hint(&self, expected: &[ExpectedUse]) {
        let sensible = |expected: &&ExpectedUse| {
            expected.distance > 0 && expected.probability > 0.0 && expected.probability <= 1.0
        };
        let expected: Vec<ExpectedUse> = expected.iter().filter(sensible).copied().collect();
        self.write(|writer| writer.hint(&expected));
    }

    /// The steps since the end of the pass before computed so many tokens.
    pub fn end_pass(&self, tokens: u32) {
        self.write(|writer| writer.end_pass(tokens));
    }

    /// Marks the end, and returns the output, or `None` if another handle has done so. What is told later is not recorded.
    ///
    /// # Errors
    /// [`RecordError`] if anything could not be written, now or before.
    pub fn finish(&self) -> Result<Option<W>, RecordError> {
        match std::mem::replace(&mut *self.lock(), Recording::Finished) {
            Recording::Writing(writer) => writer.finish().map(Some),
            Recording::Failed(error) => Err(error),
            Recording::Finished => Ok(None),
        }
    }

    fn write(&self, write: impl FnOnce(&mut TraceWriter<W>) -> Result<(), RecordError>) {
        let mut recording = self.lock();
        if let Recording::Writing(writer) = &mut *recording
            && let Err(error) = write(writer)
        {
            *recording = Recording::Failed(error);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Recording<W>> {
        self.recording.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
