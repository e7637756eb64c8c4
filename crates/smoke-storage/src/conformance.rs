//! Rules that every weight source must keep, to run against your own, and sources that count and fail. Not covered by
//! semantic versioning.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{SourceError, SourceErrorKind};
use crate::index::TensorIndex;
use crate::source::{Extent, WeightSource};

/// Checks a source against the bytes that its tensors should have.
///
/// # Panics
/// If a rule is broken.
pub fn weight_source(source: &dyn WeightSource, expected: &[(&str, &[u8])]) {
    let read = |extent: Extent| {
        let mut bytes = vec![0xA5; extent.len as usize];
        source.read_at(extent, &mut bytes).map(|()| bytes)
    };
    assert!(source.alignment() > 0, "an alignment of nothing");
    assert_eq!(source.index().len(), expected.len(), "the index has other tensors");
    for &(name, bytes) in expected {
        let extent = source.index().get(name).unwrap_or_else(|| panic!("no tensor {name}")).extent;
        assert_eq!(read(extent).unwrap_or_else(|error| panic!("{name}: {error}")), bytes, "{name}");
        // The whole is the sum of its parts, wherever it is cut.
        for cut in [0, 1, extent.len / 3, extent.len / 2, extent.len].map(|cut| cut.min(extent.len)) {
            let head = Extent { len: cut, ..extent };
            let tail = Extent { offset: extent.offset + cut, len: extent.len - cut, ..extent };
            let parts =
                [head, tail].map(|part| read(part).unwrap_or_else(|error| panic!("{name} cut at {cut}: {error}")));
            assert_eq!(parts.concat(), bytes, "{name} cut at {cut}");
        }
        // Threads do not disturb one another.
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert_eq!(read(extent).expect("it was read before"), bytes, "{name} in a thread"));
            }
        });
    }
    for (file, info) in source.index().files().iter().enumerate() {
        let file = file as u32;
        assert!(read(Extent { file, offset: info.len, len: 1 }).is_err(), "a read after the end of file {file}");
        assert!(read(Extent { file, offset: u64::MAX, len: 2 }).is_err(), "a read beyond all files");
        assert!(read(Extent { file, offset: info.len, len: 0 }).is_ok(), "no bytes at the end of file {file}");
    }
    let file = source.index().files().len() as u32;
    assert!(read(Extent { file, offset: 0, len: 1 }).is_err(), "a read from a file that is not there");
}

/// Counts what is read from another source.
#[derive(Debug)]
pub struct CountingSource<S> {
    source: S,
    bytes: AtomicU64,
    calls: AtomicU64,
}

impl<S> CountingSource<S> {
    /// Nothing counted yet.
    pub fn new(source: S) -> Self {
        Self { source, bytes: AtomicU64::new(0), calls: AtomicU64::new(0) }
    }

    /// Bytes asked for so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }

    /// Reads so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }
}

impl<S: WeightSource> WeightSource for CountingSource<S> {
    fn index(&self) -> &TensorIndex {
        self.source.index()
    }

    fn read_at(&self, extent: Extent, buf: &mut [u8]) -> Result<(), SourceError> {
        self.bytes.fetch_add(extent.len, Ordering::SeqCst);
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.source.read_at(extent, buf)
    }

    fn alignment(&self) -> u64 {
        self.source.alignment()
    }
}

/// Fails at chosen reads of another source.
#[derive(Debug)]
pub struct FaultySource<S> {
    source: S,
    calls: AtomicU64,
    faults: Mutex<HashMap<u64, SourceErrorKind>>,
}

impl<S> FaultySource<S> {
    /// Fails at the reads of these numbers, counted from 0.
    pub fn new(source: S, faults: impl IntoIterator<Item = (u64, SourceErrorKind)>) -> Self {
        Self { source, calls: AtomicU64::new(0), faults: Mutex::new(faults.into_iter().collect()) }
    }
}

impl<S: WeightSource> WeightSource for FaultySource<S> {
    fn index(&self) -> &TensorIndex {
        self.source.index()
    }

    fn read_at(&self, extent: Extent, buf: &mut [u8]) -> Result<(), SourceError> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        let fault = self.faults.lock().expect("no thread panics here").remove(&call);
        match fault {
            Some(kind) => Err(SourceError::new(kind, format!("read {call} was made to fail"))),
            None => self.source.read_at(extent, buf),
        }
    }

    fn alignment(&self) -> u64 {
        self.source.alignment()
    }
}
