use std::fmt;

/// Names a unit: the smallest thing that is loaded, cached and evicted whole.
///
/// A dense index: the units of one model are numbered from zero without gaps, in the order in which a forward pass
/// first touches them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitId(pub u32);

impl UnitId {
    /// The number as an index into a table of units.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for UnitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unit {}", self.0)
    }
}
