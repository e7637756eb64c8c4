use std::io;
use std::sync::Arc;

use smoke_cache::ReserveError;
use smoke_core::{ByteSize, UnitId};
use smoke_storage::SourceError;

/// Why a [`Streamer`](crate::Streamer) could not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The largest unit does not fit, so that no pass could ever end.
    #[error(
        "a budget of {} is too small: the largest unit ({unit}) needs {}, and {} are in other use; the smallest budget \
         that works is {smallest_bytes} bytes",
        ByteSize(*limit_bytes), ByteSize(*unit_bytes), ByteSize(smallest_bytes - unit_bytes)
    )]
    BudgetTooSmall {
        /// The limit of the budget.
        limit_bytes: u64,
        /// The unit that is largest in memory.
        unit: UnitId,
        /// What it occupies.
        unit_bytes: u64,
        /// The least limit that works.
        smallest_bytes: u64,
    },
    /// The unit is not in the map.
    #[error("{unit} does not exist: the map has {units} units, numbered from 0")]
    UnknownUnit {
        /// What was asked for.
        unit: UnitId,
        /// How many there are.
        units: usize,
    },
    /// Everything that is not in use was evicted, and it is still not enough.
    #[error(
        "no room for {}: {} of {} are free and {} are leased; drop leases before taking more, or raise the budget",
        ByteSize(*wanted_bytes), ByteSize(*free_bytes), ByteSize(*limit_bytes), ByteSize(*leased_bytes)
    )]
    NoRoom {
        /// What was asked for, in all.
        wanted_bytes: u64,
        /// What nobody holds.
        free_bytes: u64,
        /// What is held by leases.
        leased_bytes: u64,
        /// The limit of the budget.
        limit_bytes: u64,
    },
    /// A unit could not be read.
    #[error("cannot load {unit}")]
    Load {
        /// The unit.
        unit: UnitId,
        /// What the source said; shared with everybody who waited for it.
        #[source]
        error: Arc<SourceError>,
    },
    /// Bytes beside the units could not be read.
    #[error("cannot read past the cache")]
    Read(#[source] Arc<SourceError>),
    /// The code that reads the unit panicked.
    #[error("reading {unit} panicked, which is a bug in the source")]
    Panicked {
        /// The unit.
        unit: UnitId,
    },
    /// The cache refused for a reason that a sound eviction policy does not give.
    #[error("the cache refused to make room")]
    Policy(#[source] Arc<ReserveError>),
    /// The system started no more threads.
    #[error("cannot start the I/O threads")]
    Threads(#[source] Arc<io::Error>),
}
