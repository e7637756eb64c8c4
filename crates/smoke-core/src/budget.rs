use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The byte ledger of a tier: whoever holds memory holds a [`Permit`] for it.
///
/// Clones share one ledger. Cached units, units in flight, staging, the KV cache and activations all draw on it, so
/// [`peak_bytes`](Self::peak_bytes) is the whole truth about a tier, and it never passes the limit in force when the
/// bytes were taken.
#[derive(Clone)]
pub struct Budget {
    ledger: Arc<Ledger>,
}

struct Ledger {
    limit_bytes: AtomicU64,
    used_bytes: AtomicU64,
    peak_bytes: AtomicU64,
}

impl Budget {
    /// A ledger that grants at most `limit_bytes` at any time.
    pub fn new(limit_bytes: u64) -> Self {
        Self {
            ledger: Arc::new(Ledger {
                limit_bytes: AtomicU64::new(limit_bytes),
                used_bytes: AtomicU64::new(0),
                peak_bytes: AtomicU64::new(0),
            }),
        }
    }

    /// Takes `bytes` from the ledger, or nothing if they are not free. Zero bytes are always granted.
    pub fn try_acquire(&self, bytes: u64) -> Option<Permit> {
        let ledger = &*self.ledger;
        let before = ledger
            .used_bytes
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
                used.checked_add(bytes).filter(|&sum| bytes == 0 || sum <= ledger.limit_bytes.load(Ordering::Acquire))
            })
            .ok()?;
        ledger.peak_bytes.fetch_max(before + bytes, Ordering::AcqRel);
        Some(Permit { budget: self.clone(), bytes })
    }

    /// The limit in bytes.
    pub fn limit_bytes(&self) -> u64 {
        self.ledger.limit_bytes.load(Ordering::Acquire)
    }

    /// The bytes that permits hold now.
    pub fn used_bytes(&self) -> u64 {
        self.ledger.used_bytes.load(Ordering::Acquire)
    }

    /// The bytes that may be taken now: the limit less what is used, zero after the limit was lowered below the use.
    pub fn free_bytes(&self) -> u64 {
        self.limit_bytes().saturating_sub(self.used_bytes())
    }

    /// The most bytes that permits held at any one time.
    pub fn peak_bytes(&self) -> u64 {
        self.ledger.peak_bytes.load(Ordering::Acquire)
    }

    /// Sets another limit. Permits stay valid; where they hold more than the new limit, nothing is granted until enough
    /// of them are dropped, which is the caller's to bring about.
    pub fn set_limit_bytes(&self, limit_bytes: u64) {
        self.ledger.limit_bytes.store(limit_bytes, Ordering::Release);
    }

    /// Whether both are handles of one ledger.
    pub fn same_ledger(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.ledger, &other.ledger)
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget")
            .field("limit_bytes", &self.limit_bytes())
            .field("used_bytes", &self.used_bytes())
            .field("peak_bytes", &self.peak_bytes())
            .finish()
    }
}

/// Bytes taken from a [`Budget`]; dropping it gives them back.
#[must_use = "the bytes are given back when the permit is dropped"]
pub struct Permit {
    budget: Budget,
    bytes: u64,
}

impl Permit {
    /// The bytes that this permit holds.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The ledger that the bytes were taken from.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Cuts `bytes` off into a permit of their own; all there are if it holds less.
    pub fn split(&mut self, bytes: u64) -> Permit {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Permit { budget: self.budget.clone(), bytes }
    }

    /// Adds the bytes of another permit of the same ledger.
    ///
    /// # Panics
    /// If `other` is of another ledger.
    pub fn merge(&mut self, mut other: Permit) {
        assert!(self.budget.same_ledger(&other.budget), "permits of two ledgers");
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Gives back all but `bytes`; does nothing if it holds no more than that.
    pub fn shrink_to(&mut self, bytes: u64) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.bytes -= surplus;
        self.budget.ledger.used_bytes.fetch_sub(surplus, Ordering::AcqRel);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("bytes", &self.bytes).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn overflow_is_refused() {
        let budget = Budget::new(u64::MAX);
        let _all = budget.try_acquire(u64::MAX).unwrap();
        assert!(budget.try_acquire(1).is_none());
        assert!(budget.try_acquire(0).is_some());
    }

    #[test]
    fn lowering_the_limit_grants_nothing_until_enough_is_returned() {
        let budget = Budget::new(10);
        let permit = budget.try_acquire(8).unwrap();
        budget.set_limit_bytes(5);
        assert_eq!(budget.free_bytes(), 0);
        assert!(budget.try_acquire(1).is_none());
        drop(permit);
        assert!(budget.try_acquire(5).is_some());
    }

    #[test]
    fn splitting_and_merging_keep_the_sum() {
        let budget = Budget::new(10);
        let mut whole = budget.try_acquire(10).unwrap();
        let part = whole.split(4);
        assert_eq!((whole.bytes(), part.bytes(), budget.used_bytes()), (6, 4, 10));
        let rest = whole.split(99);
        assert_eq!((whole.bytes(), rest.bytes()), (0, 6));
        whole.merge(part);
        drop(rest);
        assert_eq!((whole.bytes(), budget.used_bytes(), budget.peak_bytes()), (4, 4, 10));
    }

    #[test]
    fn threads_never_overdraw() {
        let budget = Budget::new(100);
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let budget = &budget;
                scope.spawn(move || {
                    for i in 0..2_000 {
                        let _permit = budget.try_acquire((i * 7 + thread * 13) % 60);
                    }
                });
            }
        });
        assert_eq!(budget.used_bytes(), 0);
        assert!(budget.peak_bytes() <= 100);
    }

    proptest! {
        #[test]
        fn used_is_the_sum_of_permits_and_within_the_limit(limit in 0..500_u64, ops in prop::collection::vec((0..200_u64, any::<bool>()), 0..60)) {
            let budget = Budget::new(limit);
            let mut held: Vec<Permit> = Vec::new();
            for (bytes, release) in ops {
                if release && !held.is_empty() {
                    let at = bytes as usize % held.len();
                    drop(held.swap_remove(at));
                } else {
                    let fits = bytes <= budget.free_bytes();
                    let permit = budget.try_acquire(bytes);
                    prop_assert_eq!(permit.is_some(), fits);
                    held.extend(permit);
                }
                prop_assert_eq!(budget.used_bytes(), held.iter().map(Permit::bytes).sum::<u64>());
                prop_assert!(budget.used_bytes() <= limit && budget.peak_bytes() <= limit);
            }
        }
    }
}
