//! What to keep and what to load next: pure functions, a snapshot in and a plan out.
//!
//! [`pin_plan`] decides once, for a known schedule, what stays in memory. [`next_loads`] decides after every access what
//! to read ahead.

use smoke_core::{ExpectedUse, UnitId};

/// What stays in memory and what is read on every pass; see [`pin_plan`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PinPlan {
    /// The units that stay, by number.
    pub pinned: Vec<UnitId>,
    /// What they occupy.
    pub pinned_bytes: u64,
    /// What is read on every pass: the bytes of the other units, each as often as it is used.
    pub streamed_bytes: u64,
}

/// Chooses what to pin for a pass of `schedule` that repeats, in `capacity_bytes` of memory.
///
/// Everything is pinned if it fits. Otherwise `streaming_bytes` are left to the units that flow through (the one in use
/// and those read ahead), and the rest is filled with pinned units: first those used more than once in a pass, for they
/// would be read more than once; then enough of the others that no further unit fits. Those that stream are spread
/// evenly over the bytes of the pass, so that there is always something computed while something is read; in one lump,
/// the disk would idle through the pinned part and the computation would wait through the rest.
///
/// `unit_bytes` is what each unit occupies, by number.
///
/// # Panics
///
/// If the schedule names a unit that `unit_bytes` does not have.
pub fn pin_plan(schedule: &[UnitId], unit_bytes: &[u64], capacity_bytes: u64, streaming_bytes: u64) -> PinPlan {
    let mut uses = vec![0_u64; unit_bytes.len()];
    let mut in_order = Vec::new();
    for &unit in schedule {
        if uses[unit.index()] == 0 {
            in_order.push(unit);
        }
        uses[unit.index()] += 1;
    }
    let bytes = |unit: &UnitId| unit_bytes[unit.index()];
    let total_bytes: u64 = in_order.iter().map(bytes).sum();
    let room_bytes =
        if total_bytes <= capacity_bytes { total_bytes } else { capacity_bytes.saturating_sub(streaming_bytes) };

    let mut choice = Choice { unit_bytes, is_pinned: vec![false; unit_bytes.len()], free_bytes: room_bytes };
    let mut by_uses: Vec<UnitId> = in_order.iter().copied().filter(|unit| uses[unit.index()] > 1).collect();
    by_uses.sort_by_key(|unit| std::cmp::Reverse(uses[unit.index()]));
    by_uses.into_iter().for_each(|unit| choice.pin_if_fits(unit));

    // Error diffusion: each unit brings its share of the room, and is pinned when half of it has come together.
    let spread: Vec<UnitId> = in_order.iter().copied().filter(|unit| uses[unit.index()] == 1).collect();
    let spread_bytes = i128::from(spread.iter().map(bytes).sum::<u64>());
    let spread_room_bytes = i128::from(choice.free_bytes);
    let mut carry = 0;
    for &unit in &spread {
        let whole = i128::from(bytes(&unit)) * spread_bytes;
        carry += i128::from(bytes(&unit)) * spread_room_bytes;
        if carry * 2 >= whole && bytes(&unit) <= choice.free_bytes {
            choice.pin_if_fits(unit);
            carry -= whole;
        }
    }
    // What rounding left over, to the largest that still fit.
    let mut left_out: Vec<UnitId> = spread.into_iter().filter(|unit| !choice.is_pinned[unit.index()]).collect();
    left_out.sort_by_key(|unit| std::cmp::Reverse(bytes(unit)));
    left_out.into_iter().for_each(|unit| choice.pin_if_fits(unit));

    let (mut pinned, streamed): (Vec<_>, Vec<_>) = in_order.iter().partition(|unit| choice.is_pinned[unit.index()]);
    pinned.sort_unstable();
    PinPlan {
        pinned_bytes: pinned.iter().map(bytes).sum(),
        streamed_bytes: streamed.iter().map(|unit| bytes(unit) * uses[unit.index()]).sum(),
        pinned,
    }
}

struct Choice<'a> {
    unit_bytes: &'a [u64],
    is_pinned: Vec<bool>,
    free_bytes: u64,
}

impl Choice<'_> {
    fn pin_if_fits(&mut self, unit: UnitId) {
        let bytes = self.unit_bytes[unit.index()];
        if !self.is_pinned[unit.index()] && bytes <= self.free_bytes {
            self.is_pinned[unit.index()] = true;
            self.free_bytes -= bytes;
        }
    }
}

/// How much to read ahead if nobody said: enough to keep a disk busy, little enough to cost few hits.
///
/// A byte read ahead is a byte that nothing else can stay in, so this is a fortieth of the memory (and at most 64 MiB),
/// but at least the largest unit, for with less nothing overlaps; and never so much that the unit in use would not fit
/// beside it.
pub fn default_read_ahead_bytes(limit_bytes: u64, largest_unit_bytes: u64) -> u64 {
    const MOST_BYTES: u64 = 64 << 20;
    (limit_bytes / 40).min(MOST_BYTES).max(largest_unit_bytes).min(limit_bytes.saturating_sub(largest_unit_bytes))
}

/// How many steps to look ahead: far enough to see twice the read-ahead among the units that are missing, which lie the
/// further apart the more is resident; at most once around, and at most 4096, for it is looked after every access.
pub fn horizon_steps(read_ahead_bytes: u64, resident_bytes: u64, total_bytes: u64, units: usize) -> u64 {
    const LEAST: u64 = 16;
    const MOST: u64 = 4096;
    let mean_bytes = (total_bytes / (units as u64).max(1)).max(1);
    let missing_bytes = total_bytes.saturating_sub(resident_bytes).max(mean_bytes);
    let if_all_were_missing = u128::from(read_ahead_bytes / mean_bytes * 2);
    let steps = if_all_were_missing * u128::from(total_bytes) / u128::from(missing_bytes);
    u64::try_from(steps).unwrap_or(MOST).clamp(LEAST, MOST.min(units as u64).max(LEAST))
}

/// What [`next_loads`] looks at.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "it holds closures")]
pub struct Snapshot<'a> {
    /// What is expected, nearest first.
    pub upcoming: &'a [ExpectedUse],
    /// What each unit occupies, by number.
    pub unit_bytes: &'a [u64],
    /// Bytes that are being read ahead, or were and have not been used yet.
    pub ahead_bytes: u64,
    /// How many there may be of them.
    pub read_ahead_bytes: u64,
    /// Uses less likely than this are not worth a read.
    pub least_probability: f32,
    /// Whether a unit is in memory or on its way there.
    pub is_present: &'a dyn Fn(UnitId) -> bool,
}

/// Appends to `loads` what to load now, the nearest first.
///
/// Units are taken in the order in which they are expected, as long as their bytes and
/// [`ahead_bytes`](Snapshot::ahead_bytes) stay within [`read_ahead_bytes`](Snapshot::read_ahead_bytes); a unit that is
/// too large ends the plan and is not overtaken by a later one. When nothing at all is ahead, one unit is taken whatever
/// its size, unless reading ahead is off (0 bytes). Units that are not in the table are passed over.
pub fn next_loads(snapshot: &Snapshot<'_>, loads: &mut Vec<ExpectedUse>) {
    let mut ahead_bytes = snapshot.ahead_bytes;
    for expected in snapshot.upcoming {
        if ahead_bytes >= snapshot.read_ahead_bytes {
            return;
        }
        let Some(&bytes) = snapshot.unit_bytes.get(expected.unit.index()) else { continue };
        if expected.probability < snapshot.least_probability || (snapshot.is_present)(expected.unit) {
            continue;
        }
        let after_bytes = ahead_bytes.saturating_add(bytes);
        if after_bytes > snapshot.read_ahead_bytes && ahead_bytes > 0 {
            return;
        }
        ahead_bytes = after_bytes;
        loads.push(*expected);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn units(numbers: impl IntoIterator<Item = u32>) -> Vec<UnitId> {
        numbers.into_iter().map(UnitId).collect()
    }

    fn planned(upcoming: &[(u32, f32)], unit_bytes: &[u64], ahead: u64, read_ahead: u64, present: &[u32]) -> Vec<u32> {
        let upcoming: Vec<_> = (1..)
            .zip(upcoming)
            .map(|(distance, &(unit, probability))| ExpectedUse { unit: UnitId(unit), distance, probability })
            .collect();
        let mut loads = Vec::new();
        next_loads(
            &Snapshot {
                upcoming: &upcoming,
                unit_bytes,
                ahead_bytes: ahead,
                read_ahead_bytes: read_ahead,
                least_probability: 0.5,
                is_present: &|unit| present.contains(&unit.0),
            },
            &mut loads,
        );
        loads.iter().map(|expected| expected.unit.0).collect()
    }

    #[test]
    fn loads_in_order_up_to_the_read_ahead() {
        let soon: Vec<_> = (0..6).map(|unit| (unit, 1.0)).collect();
        let bytes = [10; 6];
        for (ahead, read_ahead, present, expected) in [
            (0, 30, &[][..], &[0, 1, 2][..]),
            (0, 30, &[1], &[0, 2, 3]),
            (20, 30, &[0, 1], &[2]),
            (30, 30, &[0, 1, 2], &[]),
            (0, 35, &[], &[0, 1, 2]),
            (0, 0, &[], &[]),
            (0, 5, &[], &[0]),
            (5, 6, &[], &[]),
        ] {
            assert_eq!(
                planned(&soon, &bytes, ahead, read_ahead, present),
                expected,
                "{ahead} of {read_ahead}, {present:?}"
            );
        }
    }

    #[test]
    fn a_large_unit_is_not_overtaken() {
        assert_eq!(planned(&[(0, 1.0), (1, 1.0), (2, 1.0)], &[10, 100, 10], 0, 50, &[]), [0]);
    }

    #[test]
    fn the_unlikely_and_the_unknown_are_passed_over() {
        assert_eq!(planned(&[(0, 0.3), (9, 1.0), (1, 0.6)], &[10, 10], 0, 50, &[]), [1]);
    }

    #[test]
    fn everything_is_pinned_if_it_fits() {
        let plan = pin_plan(&units(0..4), &[10, 20, 30, 40], 100, 50);
        assert_eq!(plan, PinPlan { pinned: units(0..4), pinned_bytes: 100, streamed_bytes: 0 });
    }

    #[test]
    fn nothing_is_pinned_if_all_memory_streams() {
        let plan = pin_plan(&units(0..4), &[10; 4], 20, 20);
        assert_eq!(plan, PinPlan { pinned: Vec::new(), pinned_bytes: 0, streamed_bytes: 40 });
    }

    #[test]
    fn a_unit_used_twice_stays_first_and_counts_twice_where_it_streams() {
        let schedule = units([0, 1, 2, 3, 0]);
        assert!(pin_plan(&schedule, &[10; 4], 30, 20).pinned.contains(&UnitId(0)));
        assert_eq!(pin_plan(&schedule, &[10; 4], 20, 20).streamed_bytes, 50);
    }

    #[test]
    fn streamed_units_are_spread_evenly() {
        for (pinned_of_100, longest) in [(50, 1), (75, 1), (90, 1), (25, 3), (10, 9)] {
            let plan = pin_plan(&units(0..100), &[8; 100], pinned_of_100 * 8 + 16, 16);
            assert_eq!(plan.pinned_bytes, pinned_of_100 * 8);
            let streamed = (0..100).map(|unit| !plan.pinned.contains(&UnitId(unit))).collect::<Vec<_>>();
            let runs = streamed.split(|streams| !streams).map(<[bool]>::len).max();
            assert_eq!(runs, Some(longest), "{pinned_of_100} of 100: {:?}", plan.pinned);
        }
    }

    #[test]
    fn the_default_leaves_room_for_the_unit_in_use() {
        for (limit, largest, expected) in
            [(1000, 10, 25), (100, 10, 10), (15, 10, 5), (10, 10, 0), (5, 10, 0), (u64::MAX, 10, 64 << 20)]
        {
            assert_eq!(default_read_ahead_bytes(limit, largest), expected, "{largest} of {limit}");
        }
    }

    #[test]
    fn the_horizon_reaches_past_what_is_resident() {
        // A hundred units of ten bytes.
        for (read_ahead, resident, expected) in [(70, 0, 16), (200, 0, 40), (70, 500, 28), (70, 900, 100), (0, 0, 16)] {
            assert_eq!(horizon_steps(read_ahead, resident, 1000, 100), expected, "{read_ahead}, {resident} resident");
        }
    }

    proptest! {
        #[test]
        fn pinned_units_fit_and_no_other_would(
            unit_bytes in prop::collection::vec(1..100_u64, 1..40),
            capacity in 0..3000_u64,
            streaming in 0..500_u64,
        ) {
            let schedule = units(0..unit_bytes.len() as u32);
            let plan = pin_plan(&schedule, &unit_bytes, capacity, streaming);
            let total: u64 = unit_bytes.iter().sum();
            prop_assert_eq!(plan.pinned_bytes + plan.streamed_bytes, total);
            prop_assert_eq!(plan.pinned_bytes, plan.pinned.iter().map(|unit| unit_bytes[unit.index()]).sum::<u64>());
            if total > capacity {
                let room = capacity.saturating_sub(streaming);
                prop_assert!(plan.pinned_bytes <= room);
                let left = room - plan.pinned_bytes;
                for unit in schedule.iter().filter(|unit| !plan.pinned.contains(unit)) {
                    prop_assert!(unit_bytes[unit.index()] > left);
                }
            }
        }

        #[test]
        fn loads_stay_within_the_read_ahead(
            unit_bytes in prop::collection::vec(1..50_u64, 10),
            order in prop::collection::vec(0..10_u32, 0..10),
            read_ahead in 0..300_u64,
        ) {
            let upcoming: Vec<_> = order.iter().map(|&unit| (unit, 1.0)).collect();
            let loads = planned(&upcoming, &unit_bytes, 0, read_ahead, &[]);
            let bytes: u64 = loads.iter().map(|&unit| unit_bytes[unit as usize]).sum();
            prop_assert!(bytes <= read_ahead || loads.len() == 1);
            prop_assert!(order.starts_with(&loads));
        }
    }
}
