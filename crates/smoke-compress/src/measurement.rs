use std::time::Duration;

/// Whether copies are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rule {
    /// Where a [`Measurement`] of the first few MiB says that it [pays](Measurement::pays).
    #[default]
    Measured,
    /// Of everything that becomes shorter, without measuring.
    Always,
}

/// A codec beside a source, on the same bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measurement {
    /// Compressed bytes by raw bytes.
    pub ratio: f64,
    /// Raw bytes per second of one thread that decodes.
    pub decode_bytes_per_second: f64,
    /// Bytes per second of one thread that reads the source, while the others did what they do.
    pub source_bytes_per_second: f64,
}

impl Measurement {
    /// Less is not saved for the trouble: the bytes would have done more as they are, in the cache.
    pub const MAX_RATIO: f64 = 0.95;

    /// Whether copies are worth their memory: decoded faster than the source is read, and shorter by a twentieth at least.
    pub fn pays(&self) -> bool {
        self.decode_bytes_per_second > self.source_bytes_per_second && self.ratio < Self::MAX_RATIO
    }
}

/// What was sampled so far.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    pub(crate) raw_bytes: u64,
    pub(crate) compressed_bytes: u64,
    pub(crate) decoding: Duration,
    pub(crate) read_bytes: u64,
    pub(crate) reading: Duration,
}

impl Samples {
    /// Enough for a decision, in raw bytes.
    pub(crate) const ENOUGH: u64 = 4 << 20;

    pub(crate) fn measurement(&self) -> Option<Measurement> {
        let rate = |bytes: u64, time: Duration| bytes as f64 / time.as_secs_f64().max(1e-9);
        (self.raw_bytes >= Self::ENOUGH).then(|| Measurement {
            ratio: self.compressed_bytes as f64 / self.raw_bytes as f64,
            decode_bytes_per_second: rate(self.raw_bytes, self.decoding),
            source_bytes_per_second: rate(self.read_bytes, self.reading),
        })
    }
}
