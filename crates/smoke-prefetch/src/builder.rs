use std::sync::Arc;
use std::time::Duration;

use smoke_cache::EvictionPolicy;
use smoke_cache::policy::NextUse;
use smoke_core::{Budget, UnitId};
use smoke_predict::{AccessPredictor, CyclicPredictor};
use smoke_storage::{UnitMap, WeightSource};

use crate::clock::{Clock, SystemClock};
use crate::error::StreamError;
use crate::gate::Speculation;
use crate::reader::Reader;
use crate::retry::Retry;
use crate::stats::{Counted, Counters};
use crate::streamer::{Setting, Streamer};

/// Puts a [`Streamer`] together; made by [`Streamer::builder`]. Everything has a default.
#[derive(Debug)]
#[must_use = "nothing happens before `build`"]
pub struct StreamerBuilder {
    source: Arc<dyn WeightSource>,
    through: Option<Arc<dyn WeightSource>>,
    counters: Arc<Counters>,
    units: UnitMap,
    budget: Option<Budget>,
    policy: Box<dyn EvictionPolicy>,
    predictor: Option<Box<dyn AccessPredictor>>,
    clock: Arc<dyn Clock>,
    io_threads: usize,
    retry: Retry,
    read_ahead_bytes: Option<u64>,
    speculation: Speculation,
    record_trace: bool,
    patience: Duration,
}

impl StreamerBuilder {
    pub(crate) fn new(source: Arc<dyn WeightSource>, units: UnitMap) -> Self {
        Self {
            source,
            through: None,
            counters: Arc::default(),
            units,
            budget: None,
            policy: Box::new(NextUse),
            predictor: None,
            clock: Arc::new(SystemClock::new()),
            io_threads: 4,
            retry: Retry::default(),
            read_ahead_bytes: None,
            speculation: Speculation::default(),
            record_trace: false,
            patience: Duration::from_secs(30),
        }
    }

    /// The ledger that units are charged to, which others may draw on too. Without one, all units fit.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = Some(budget);
        self
    }

    /// What is evicted; by default what the predictor expects last.
    pub fn policy(mut self, policy: impl EvictionPolicy + 'static) -> Self {
        self.policy = Box::new(policy);
        self
    }

    /// What is expected; by default the units in the order of their numbers, over and over.
    pub fn predictor(mut self, predictor: impl AccessPredictor + 'static) -> Self {
        self.predictor = Some(Box::new(predictor));
        self
    }

    /// Whether [`Streamer::trace`] records; off by default.
    pub fn record_trace(mut self, record: bool) -> Self {
        self.record_trace = record;
        self
    }

    /// How many bytes may be read ahead of their use; 0 turns reading ahead off. Without a number it follows the limit
    /// of the budget, see [`default_read_ahead_bytes`](crate::planner::default_read_ahead_bytes).
    pub fn read_ahead_bytes(mut self, bytes: u64) -> Self {
        self.read_ahead_bytes = Some(bytes);
        self
    }

    /// Which uses that are not certain are read ahead.
    pub fn speculation(mut self, speculation: Speculation) -> Self {
        self.speculation = speculation;
        self
    }

    /// How many threads read; 4 by default, at least 1.
    pub fn io_threads(mut self, threads: usize) -> Self {
        self.io_threads = threads;
        self
    }

    /// How often a read is tried whose error may pass.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// What stalls are measured with and retries wait on; for tests.
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// How long a call that finds no room waits for leases that other threads took, before it returns an error; 30
    /// seconds by default, in all and not from one change to the next. A lease that the caller itself took is never
    /// waited for, and a load in flight as long as it takes.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The source that units lie in, which counts for the streamer what is read of it: to put another one around it, for
    /// [`through`](Self::through). The [clock](Self::clock) must have been set before.
    pub fn counted_source(&self) -> Arc<dyn WeightSource> {
        counted(&self.source, &self.counters, &self.clock)
    }

    /// Asks `source` for units instead: one around the [`counted_source`](Self::counted_source), as with copies of what lies
    /// there. What it answers by itself is in no count of bytes and reads.
    pub fn through(mut self, source: Arc<dyn WeightSource>) -> Self {
        self.through = Some(source);
        self
    }

    /// Starts the threads.
    ///
    /// # Errors
    ///
    /// If the largest unit does not fit the budget beside what others hold of it already (the error says what would
    /// do), or no thread can be started.
    pub fn build(self) -> Result<Streamer, StreamError> {
        let unit_bytes = self.units.all_buffer_bytes();
        let budget = self.budget.unwrap_or_else(|| Budget::new(unit_bytes.iter().sum()));
        let predictor = self.predictor.unwrap_or_else(|| {
            Box::new(CyclicPredictor::new((0..unit_bytes.len() as u32).map(UnitId).collect::<Vec<_>>()))
        });
        let setting = Setting {
            unit_bytes,
            io_threads: self.io_threads,
            read_ahead_bytes: self.read_ahead_bytes,
            speculation: self.speculation,
            record_trace: self.record_trace,
            patience: self.patience,
        };
        let reader = Reader {
            source: self.through.unwrap_or_else(|| counted(&self.source, &self.counters, &self.clock)),
            disk: self.source,
            units: self.units,
            retry: self.retry,
            clock: self.clock,
            counters: self.counters,
        };
        Streamer::start(setting, reader, budget, self.policy, predictor)
    }
}

fn counted(source: &Arc<dyn WeightSource>, counters: &Arc<Counters>, clock: &Arc<dyn Clock>) -> Arc<dyn WeightSource> {
    Arc::new(Counted { source: Arc::clone(source), counters: Arc::clone(counters), clock: Arc::clone(clock) })
}
