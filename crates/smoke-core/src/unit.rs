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

/// What is known of a unit before anything is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UnitInfo {
    /// What it takes in memory.
    pub bytes: u64,
    /// The layer that it belongs to, where it belongs to one.
    pub layer: Option<u32>,
    /// How it is used.
    pub kind: UnitKind,
}

/// How a unit is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UnitKind {
    /// By every pass.
    #[default]
    Shared,
    /// By the passes whose router chooses it: an expert of a layer.
    Expert,
}
