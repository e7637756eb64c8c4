use smoke_core::UnitId;

/// Why a unit, or other memory, gets no bytes. Whatever the reason, nothing was evicted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReserveError {
    /// The unit is loaded.
    #[error("{unit} is resident")]
    AlreadyResident {
        /// The unit.
        unit: UnitId,
    },
    /// The unit has a reservation.
    #[error("{unit} is being loaded")]
    InFlight {
        /// The unit.
        unit: UnitId,
    },
    /// More is wanted than the budget has in all.
    #[error("{bytes} bytes do not fit a budget of {limit_bytes}")]
    TooLarge {
        /// Bytes wanted.
        bytes: u64,
        /// The budget's limit.
        limit_bytes: u64,
    },
    /// What is not in use is not enough.
    #[error("no room for {bytes} bytes: {free_bytes} are free and {leased_bytes} in use")]
    NoRoom {
        /// Bytes wanted.
        bytes: u64,
        /// Bytes free in the budget.
        free_bytes: u64,
        /// Bytes of units that are leased.
        leased_bytes: u64,
    },
    /// The policy finds the unit worth less than what is here.
    #[error("the policy keeps what is resident rather than {unit}")]
    Declined {
        /// The unit.
        unit: UnitId,
    },
    /// The policy broke its contract.
    #[error("the policy named {unit:?}, which is no candidate")]
    NotACandidate {
        /// What it named; `None` where it had to name a unit.
        unit: Option<UnitId>,
    },
}
