//! A source that notes what is read of it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use smoke_runtime::RuntimeBuilder;
use smoke_runtime::storage::{Extent, SourceError, TensorIndex, WeightSource};

/// What was read of a source.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reads(Arc<Mutex<Vec<Extent>>>);

impl Reads {
    /// Of the weights that a model is opened with, each read taking some time.
    pub(crate) fn of(builder: RuntimeBuilder, delay: Duration) -> (RuntimeBuilder, Self) {
        let reads = Self::default();
        let watched = reads.clone();
        let around = move |source| Arc::new(Watched { source, reads: watched, delay }) as Arc<dyn WeightSource>;
        (builder.source_around(around), reads)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.lock().unwrap().iter().map(|extent| extent.len).sum()
    }

    /// All reads since the last time.
    pub(crate) fn take(&self) -> Vec<Extent> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

#[derive(Debug)]
struct Watched {
    source: Arc<dyn WeightSource>,
    reads: Reads,
    delay: Duration,
}

impl WeightSource for Watched {
    fn index(&self) -> &TensorIndex {
        self.source.index()
    }
    fn read_at(&self, extent: Extent, buf: &mut [u8]) -> Result<(), SourceError> {
        std::thread::sleep(self.delay);
        self.reads.0.lock().unwrap().push(extent);
        self.source.read_at(extent, buf)
    }
    fn alignment(&self) -> u64 {
        self.source.alignment()
    }
}
