use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Time, as the streamer sees it: what stalls are measured with and what a retry waits on.
///
/// Everybody but a test wants [`SystemClock`].
pub trait Clock: Debug + Send + Sync {
    /// The time since some fixed moment. Never goes back.
    fn now(&self) -> Duration;

    /// Returns when `duration` has passed.
    fn sleep(&self, duration: Duration);
}

/// The clock of the system.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock that starts at zero now.
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}
