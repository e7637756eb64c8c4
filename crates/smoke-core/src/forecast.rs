use std::fmt::Debug;

use crate::UnitId;

/// When a unit will be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NextUse {
    /// Nothing is known of the unit's future.
    Unknown,
    /// In so many steps from now, at least 1; the expectation where it is uncertain.
    In(u64),
    /// Not again.
    Never,
}

impl NextUse {
    /// A key that sorts units by how soon they are needed: smaller is sooner, unknown is after every known distance and
    /// before never.
    ///
    /// ```
    /// use smoke_core::NextUse;
    /// assert!(NextUse::In(3).distance() < NextUse::In(4).distance());
    /// assert!(NextUse::In(u64::MAX).distance() < NextUse::Unknown.distance());
    /// assert!(NextUse::Unknown.distance() < NextUse::Never.distance());
    /// ```
    pub fn distance(self) -> u64 {
        match self {
            Self::In(steps) => steps.min(u64::MAX - 2),
            Self::Unknown => u64::MAX - 1,
            Self::Never => u64::MAX,
        }
    }
}

/// A use that is expected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExpectedUse {
    /// The unit that will be used.
    pub unit: UnitId,
    /// Steps from now, at least 1.
    pub distance: u64,
    /// How likely the use is, in (0, 1].
    pub probability: f32,
}

/// What is expected of the future: the read half of prediction.
///
/// Eviction asks [`next_use`](Self::next_use) of units that are resident; prefetch asks [`upcoming`](Self::upcoming).
/// Questions change nothing.
pub trait Forecast: Debug {
    /// When `unit` will be used next, seen from the step after the latest observed access.
    fn next_use(&self, unit: UnitId) -> NextUse;

    /// Appends the uses expected within `horizon` steps to `out`, nearest first, each unit once.
    fn upcoming(&self, horizon: u64, out: &mut Vec<ExpectedUse>);
}

impl<T: Forecast + ?Sized> Forecast for &T {
    fn next_use(&self, unit: UnitId) -> NextUse {
        (**self).next_use(unit)
    }
    fn upcoming(&self, horizon: u64, out: &mut Vec<ExpectedUse>) {
        (**self).upcoming(horizon, out);
    }
}

impl<T: Forecast + ?Sized> Forecast for Box<T> {
    fn next_use(&self, unit: UnitId) -> NextUse {
        (**self).next_use(unit)
    }
    fn upcoming(&self, horizon: u64, out: &mut Vec<ExpectedUse>) {
        (**self).upcoming(horizon, out);
    }
}

/// The forecast of somebody who knows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoForecast;

impl Forecast for NoForecast {
    fn next_use(&self, _unit: UnitId) -> NextUse {
        NextUse::Unknown
    }
    fn upcoming(&self, _horizon: u64, _out: &mut Vec<ExpectedUse>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forecast_is_object_safe() {
        let boxed: Box<dyn Forecast> = Box::new(NoForecast);
        assert_eq!(boxed.next_use(UnitId(0)), NextUse::Unknown);
    }
}
