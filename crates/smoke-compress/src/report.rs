use std::fmt;

use smoke_core::ByteSize;

use crate::measurement::Measurement;

/// What a [`CompressedTier`](crate::CompressedTier) decided and did so far.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct TierReport {
    /// The codec's name.
    pub codec: &'static str,
    /// Whether copies are kept: not before it was decided so.
    pub is_on: bool,
    /// What the decision was made on; `None` before it, or where nothing is measured.
    pub measurement: Option<Measurement>,
    /// Bytes served from copies, raw.
    pub served_bytes: u64,
    /// Bytes of the copies, compressed.
    pub held_bytes: u64,
}

impl fmt::Display for TierReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.is_on { "on" } else { "off" };
        write!(f, "{} {state}", self.codec)?;
        match &self.measurement {
            Some(measured) => write!(
                f,
                " (to {:.0} %, decodes {}/s, the source {}/s)",
                measured.ratio * 100.0,
                ByteSize(measured.decode_bytes_per_second as u64),
                ByteSize(measured.source_bytes_per_second as u64)
            )?,
            None => write!(f, " (not measured)")?,
        }
        write!(f, ", {} held, {} served", ByteSize(self.held_bytes), ByteSize(self.served_bytes))
    }
}
