use std::time::Duration;

use smoke_storage::SourceError;

use crate::clock::Clock;

/// How often a read is tried whose failure may pass.
///
/// Only [transient](SourceError::is_transient) errors are tried again; what is permanent is reported at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Attempts in all; 1 means never again, 0 is read as 1.
    pub attempts: u32,
    /// The pause before the second attempt; it doubles with each further one, up to [`Self::LONGEST_PAUSE`].
    pub backoff: Duration,
}

impl Default for Retry {
    /// Four attempts, with pauses of 10, 20 and 40 ms.
    fn default() -> Self {
        Self { attempts: 4, backoff: Duration::from_millis(10) }
    }
}

impl Retry {
    /// No pause is longer than this.
    pub const LONGEST_PAUSE: Duration = Duration::from_secs(2);
    /// Between two questions whether to stop.
    const NAP: Duration = Duration::from_millis(10);

    /// Calls `attempt` until it succeeds, fails for good, has been called often enough, or `should_stop`; `on_retry` is
    /// called before each attempt but the first.
    pub(crate) fn run<T>(
        &self,
        clock: &dyn Clock,
        should_stop: &dyn Fn() -> bool,
        on_retry: impl Fn(),
        mut attempt: impl FnMut() -> Result<T, SourceError>,
    ) -> Result<T, SourceError> {
        let mut pause = self.backoff;
        for _ in 1..self.attempts {
            match attempt() {
                Err(error) if error.is_transient() && !should_stop() => {}
                ended => return ended,
            }
            let mut left = pause.min(Self::LONGEST_PAUSE);
            while left > Duration::ZERO && !should_stop() {
                let nap = left.min(Self::NAP);
                clock.sleep(nap);
                left -= nap;
            }
            pause = pause.saturating_mul(2);
            on_retry();
        }
        attempt()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::sync::Mutex;

    use smoke_storage::SourceErrorKind;

    use super::*;

    /// Notes how long it was asked to sleep, and does not.
    #[derive(Debug, Default)]
    struct Sleepless(Mutex<Duration>);

    impl Clock for Sleepless {
        fn now(&self) -> Duration {
            *self.0.lock().unwrap()
        }
        fn sleep(&self, duration: Duration) {
            *self.0.lock().unwrap() += duration;
        }
    }

    fn run(retry: Retry, failures: &[SourceErrorKind]) -> (Result<(), SourceErrorKind>, u32, Vec<u128>) {
        let clock = Sleepless::default();
        let calls = Cell::new(0);
        let started_ms = RefCell::new(Vec::new());
        let result = retry.run(
            &clock,
            &|| false,
            || {},
            || {
                started_ms.borrow_mut().push(clock.now().as_millis());
                calls.set(calls.get() + 1);
                match failures.get(calls.get() as usize - 1) {
                    Some(&kind) => Err(SourceError::new(kind, "made to fail")),
                    None => Ok(()),
                }
            },
        );
        (result.map_err(|error| error.kind()), calls.get(), started_ms.into_inner())
    }

    #[test]
    fn pauses_double() {
        let retry = Retry { attempts: 5, backoff: Duration::from_millis(25) };
        let (result, _, started_ms) = run(retry, &[SourceErrorKind::Transient; 4]);
        assert_eq!(result, Ok(()));
        assert_eq!(started_ms, [0, 25, 75, 175, 375]);
    }

    #[test]
    fn gives_up_after_the_last_attempt() {
        let retry = Retry { attempts: 3, backoff: Duration::from_millis(1) };
        assert_eq!(run(retry, &[SourceErrorKind::Transient; 9]).1, 3);
        assert_eq!(run(Retry { attempts: 0, ..retry }, &[SourceErrorKind::Transient; 9]).1, 1);
    }

    #[test]
    fn permanent_errors_are_not_tried_again() {
        let (result, calls, _) = run(Retry::default(), &[SourceErrorKind::Truncated]);
        assert_eq!((result, calls), (Err(SourceErrorKind::Truncated), 1));
    }

    #[test]
    fn pauses_are_bounded() {
        let retry = Retry { attempts: 3, backoff: Duration::from_secs(9) };
        assert_eq!(run(retry, &[SourceErrorKind::Transient; 2]).2, [0, 2_000, 4_000]);
    }
}
