use std::fmt::Debug;
use std::time::{Duration, Instant};

/// What time is measured with; tests bring one of their own.
pub trait Clock: Debug + Send + Sync {
    /// The time since any moment that stays the same. It never goes back.
    fn now(&self) -> Duration;
}

/// The system's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock(Instant);

impl Default for SystemClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}
