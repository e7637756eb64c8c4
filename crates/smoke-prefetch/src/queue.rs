use smoke_core::UnitId;

/// How urgent a load is: demand first, then what is needed soonest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Somebody waits for it.
    Demand,
    /// Nobody waits yet.
    Prefetch {
        /// The step at which the unit is expected to be used, smaller is sooner. All loads of one loader count from the
        /// same origin, so that those submitted at different times compare.
        distance: u64,
    },
}

/// Units that wait for an I/O thread, most urgent first, in order of arrival among equals.
///
/// A plain vector: what waits is bounded by the read-ahead, so a scan costs less than the bookkeeping of a heap whose
/// entries may change places.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: Vec<Waiting>,
    arrivals: u64,
}

#[derive(Debug)]
struct Waiting {
    priority: Priority,
    arrival: u64,
    unit: UnitId,
}

impl Queue {
    pub(crate) fn push(&mut self, unit: UnitId, priority: Priority) {
        self.waiting.push(Waiting { priority, arrival: self.arrivals, unit });
        self.arrivals += 1;
    }

    /// Makes `unit` at least as urgent as `priority`, if it waits here.
    pub(crate) fn raise(&mut self, unit: UnitId, priority: Priority) {
        if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.unit == unit) {
            waiting.priority = waiting.priority.min(priority);
        }
    }

    /// Takes `unit` out; false if it does not wait here.
    pub(crate) fn remove(&mut self, unit: UnitId) -> bool {
        let place = self.waiting.iter().position(|waiting| waiting.unit == unit);
        place.map(|place| self.waiting.swap_remove(place)).is_some()
    }

    pub(crate) fn pop(&mut self) -> Option<UnitId> {
        let order = |place: &usize| (self.waiting[*place].priority, self.waiting[*place].arrival);
        let first = (0..self.waiting.len()).min_by_key(order)?;
        Some(self.waiting.swap_remove(first).unit)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drain(mut queue: Queue) -> Vec<u32> {
        std::iter::from_fn(|| queue.pop()).map(|unit| unit.0).collect()
    }

    #[test]
    fn demand_comes_first_then_the_nearest() {
        let mut queue = Queue::default();
        queue.push(UnitId(0), Priority::Prefetch { distance: 3 });
        queue.push(UnitId(1), Priority::Prefetch { distance: 1 });
        queue.push(UnitId(2), Priority::Demand);
        queue.push(UnitId(3), Priority::Demand);
        assert_eq!(drain(queue), [2, 3, 1, 0]);
    }

    #[test]
    fn raising_never_lowers() {
        let mut queue = Queue::default();
        queue.push(UnitId(0), Priority::Prefetch { distance: 2 });
        queue.push(UnitId(1), Priority::Prefetch { distance: 3 });
        queue.raise(UnitId(1), Priority::Demand);
        queue.raise(UnitId(1), Priority::Prefetch { distance: 9 });
        queue.raise(UnitId(7), Priority::Demand);
        assert_eq!(drain(queue), [1, 0]);
    }

    proptest! {
        #[test]
        fn agrees_with_a_stable_sort(
            pushed in prop::collection::vec(prop::option::of(0..5_u64), 0..20),
            removed in prop::collection::vec(0..25_u32, 0..10),
        ) {
            let mut queue = Queue::default();
            let mut reference: Vec<(Priority, u32)> = Vec::new();
            for (unit, distance) in (0..).zip(pushed) {
                let priority = distance.map_or(Priority::Demand, |distance| Priority::Prefetch { distance });
                queue.push(UnitId(unit), priority);
                reference.push((priority, unit));
            }
            for unit in removed {
                let there = reference.iter().any(|(_, other)| *other == unit);
                prop_assert_eq!(queue.remove(UnitId(unit)), there);
                reference.retain(|(_, other)| *other != unit);
            }
            reference.sort_by_key(|(priority, _)| *priority);
            prop_assert_eq!(drain(queue), reference.into_iter().map(|(_, unit)| unit).collect::<Vec<_>>());
        }
    }
}
