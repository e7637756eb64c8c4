use crate::UnitId;

/// A position in the access sequence: a logical clock that counts accesses, not time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Step(pub u64);

impl Step {
    /// The step after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// One use of one unit at one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// When the unit was used.
    pub step: Step,
    /// Which unit was used.
    pub unit: UnitId,
}
