use smoke_core::{ExpectedUse, UnitId};

/// What a streamer tells whoever watches it; see [`Streamer::observe_with`](crate::Streamer::observe_with).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Observed<'a> {
    /// These units were leased together, whether they were in memory or had to be read.
    Uses(&'a [UnitId]),
    /// Somebody outside expects these uses; distances count from the latest use on.
    Hints(&'a [ExpectedUse]),
}

/// Whoever watches.
pub(crate) type Observer = Box<dyn FnMut(Observed<'_>) + Send>;
