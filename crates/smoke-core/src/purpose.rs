/// Why a unit is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Nobody waits yet: the unit is expected to be used soon.
    Prefetch,
    /// Somebody waits for the unit now.
    Demand,
}
