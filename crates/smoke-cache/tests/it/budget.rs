//! The budget holds and leased units stay, whatever happens in whatever order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use proptest::prelude::*;
use smoke_cache::conformance::ScriptedForecast;
use smoke_cache::policy::{Lru, NextUse};
use smoke_cache::{Budget, Cache, Incoming, Lease, Permit, Reservation, ReserveError};
use smoke_core::{NoForecast, Purpose, UnitId};

/// A value whose memory is counted apart from the ledger.
#[derive(Debug)]
struct Memory {
    unit: UnitId,
    bytes: u64,
    held: Arc<AtomicU64>,
}

impl Memory {
    fn new(unit: UnitId, bytes: u64, held: &Arc<AtomicU64>, limit: u64) -> Self {
        let now = held.fetch_add(bytes, Ordering::SeqCst) + bytes;
        assert!(now <= limit, "{now} bytes are held where {limit} are allowed");
        Self { unit, bytes, held: Arc::clone(held) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Reserve(u32, bool),
    Fill(usize),
    GiveUp(usize),
    Lease(u32),
    Release(usize),
    Other(u64),
    GiveBack(usize),
    Limit(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..8_u32, any::<bool>()).prop_map(|(unit, demand)| Step::Reserve(unit, demand)),
        any::<usize>().prop_map(Step::Fill),
        any::<usize>().prop_map(Step::GiveUp),
        (0..8_u32).prop_map(Step::Lease),
        any::<usize>().prop_map(Step::Release),
        (0..60_u64).prop_map(Step::Other),
        any::<usize>().prop_map(Step::GiveBack),
        (40..160_u64).prop_map(Step::Limit),
    ];
    prop::collection::vec(step, 0..80)
}

fn take<T>(from: &mut Vec<T>, at: usize) -> Option<T> {
    (!from.is_empty()).then(|| from.swap_remove(at % from.len()))
}

proptest! {
    #[test]
    fn the_budget_holds_and_leases_stay(steps in steps(), sizes in prop::array::uniform8(1..60_u64)) {
        for policy in crate::policies::all() {
            let held = Arc::new(AtomicU64::new(0));
            let cache: Cache<Memory> = Cache::new(Budget::new(100), policy);
            let mut reserved: Vec<Reservation<Memory>> = Vec::new();
            let mut leases: Vec<Lease<Memory>> = Vec::new();
            let mut others: Vec<Permit> = Vec::new();
            for step in steps.clone() {
                let limit = cache.budget().limit_bytes();
                let used_before = cache.budget().used_bytes();
                match step {
                    Step::Reserve(unit, demand) => {
                        let purpose = if demand { Purpose::Demand } else { Purpose::Prefetch };
                        let incoming = Incoming { unit: UnitId(unit), bytes: sizes[unit as usize], purpose };
                        let before = cache.resident();
                        match cache.reserve(incoming, &NoForecast) {
                            Ok(reservation) => {
                                prop_assert!(cache.budget().used_bytes() <= limit);
                                reserved.push(reservation);
                            }
                            Err(_) => prop_assert_eq!(cache.resident(), before, "a refusal evicts nothing"),
                        }
                    }
                    Step::Fill(at) => {
                        if let Some(reservation) = take(&mut reserved, at) {
                            let (unit, bytes) = (reservation.unit(), reservation.bytes());
                            leases.push(reservation.fill(Memory::new(unit, bytes, &held, 160)));
                        }
                    }
                    Step::GiveUp(at) => drop(take(&mut reserved, at)),
                    Step::Lease(unit) => {
                        let lease = cache.lease(UnitId(unit));
                        prop_assert_eq!(lease.is_some(), cache.contains(UnitId(unit)));
                        leases.extend(lease);
                    }
                    Step::Release(at) => drop(take(&mut leases, at)),
                    Step::Other(bytes) => others.extend(cache.make_room(bytes, &NoForecast).ok()),
                    Step::GiveBack(at) => drop(take(&mut others, at)),
                    Step::Limit(bytes) => {
                        cache.budget().set_limit_bytes(bytes);
                        cache.evict_to_limit(&NoForecast);
                    }
                }
                for lease in &leases {
                    prop_assert!(cache.contains(lease.unit()), "a leased unit was evicted");
                    prop_assert_eq!(lease.unit, lease.unit());
                }
                let resident: u64 = cache.resident().iter().map(|unit| unit.bytes).sum();
                let in_flight: u64 = reserved.iter().map(Reservation::bytes).sum();
                let other: u64 = others.iter().map(Permit::bytes).sum();
                prop_assert_eq!(cache.budget().used_bytes(), resident + in_flight + other, "every byte has an owner");
                prop_assert_eq!(held.load(Ordering::SeqCst), resident);
                let limit = cache.budget().limit_bytes().max(used_before);
                prop_assert!(cache.budget().used_bytes() <= limit);
            }
            drop((reserved, leases, others));
            cache.budget().set_limit_bytes(0);
            cache.evict_to_limit(&NoForecast);
            prop_assert_eq!((cache.budget().used_bytes(), held.load(Ordering::SeqCst)), (0, 0));
        }
    }
}

#[test]
fn threads_share_a_budget_without_passing_it() {
    const LIMIT: u64 = 100;
    let held = Arc::new(AtomicU64::new(0));
    let cache: Cache<Memory> = Cache::new(Budget::new(LIMIT), Lru::default());
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            let (cache, held) = (&cache, &held);
            scope.spawn(move || {
                for step in 0..3_000_u32 {
                    let unit = UnitId((step * 7 + thread * 3) % 10);
                    let bytes = u64::from(unit.0 % 5) * 6 + 4;
                    if let Some(lease) = cache.lease(unit) {
                        assert_eq!(lease.unit, unit);
                        continue;
                    }
                    match cache.reserve(Incoming { unit, bytes, purpose: Purpose::Demand }, &NoForecast) {
                        Ok(reservation) if step % 5 > 0 => {
                            drop(reservation.fill(Memory::new(unit, bytes, held, LIMIT)))
                        }
                        _ => {}
                    }
                }
            });
        }
    });
    assert!(cache.budget().peak_bytes() <= LIMIT);
    assert_eq!(cache.budget().used_bytes(), cache.resident().iter().map(|unit| unit.bytes).sum::<u64>());
}

#[test]
fn refusals_say_why() {
    let cache: Cache<()> = Cache::new(Budget::new(10), NextUse);
    let reserve = |unit, bytes, purpose| cache.reserve(Incoming { unit: UnitId(unit), bytes, purpose }, &NoForecast);
    assert_eq!(reserve(0, 11, Purpose::Demand).unwrap_err(), ReserveError::TooLarge { bytes: 11, limit_bytes: 10 });
    let first = reserve(0, 6, Purpose::Demand).unwrap();
    assert_eq!(reserve(0, 6, Purpose::Demand).unwrap_err(), ReserveError::InFlight { unit: UnitId(0) });
    let lease = first.fill(());
    assert_eq!(reserve(0, 6, Purpose::Demand).unwrap_err(), ReserveError::AlreadyResident { unit: UnitId(0) });
    let no_room = ReserveError::NoRoom { bytes: 6, free_bytes: 4, leased_bytes: 6 };
    assert_eq!(reserve(1, 6, Purpose::Demand).unwrap_err(), no_room);
    drop(lease);
    assert_eq!(reserve(1, 6, Purpose::Prefetch).unwrap_err(), ReserveError::Declined { unit: UnitId(1) });
    assert!(reserve(1, 6, Purpose::Demand).is_ok());
}

#[test]
fn the_first_use_of_what_was_read_is_no_hit() {
    let cache: Cache<()> = Cache::new(Budget::new(10), NextUse);
    let incoming = Incoming { unit: UnitId(0), bytes: 6, purpose: Purpose::Demand };
    drop(cache.reserve(incoming, &NoForecast).unwrap().fill(()));
    drop(cache.peek(UnitId(0)));
    assert_eq!(cache.stats().accesses, 0);
    for (uses, hit_bytes) in [(1, 0), (2, 6), (3, 12)] {
        drop(cache.lease(UnitId(0)));
        let stats = cache.stats();
        assert_eq!((stats.accesses, stats.hit_bytes, stats.accessed_bytes), (uses, hit_bytes, 6 * uses));
    }
    assert_eq!(cache.stats().byte_hit_rate(), 12.0 / 18.0);
}

#[test]
fn a_clone_of_a_lease_holds_the_unit() {
    let cache: Cache<u8> = Cache::new(Budget::new(10), NextUse);
    let reserve =
        |unit| cache.reserve(Incoming { unit: UnitId(unit), bytes: 10, purpose: Purpose::Demand }, &NoForecast);
    let lease = reserve(0).unwrap().fill(7);
    let clone = lease.clone();
    drop(lease);
    assert!(reserve(1).is_err());
    assert_eq!(*clone, 7);
    drop(clone);
    assert!(reserve(1).is_ok());
    assert_eq!(cache.stats().accesses, 0, "a clone is no use");
}

#[test]
fn asking_for_a_unit_that_was_never_loaded_costs_no_memory() {
    // A table up to this number would be tens of gigabytes.
    let cache: Cache<u8> = Cache::new(Budget::new(10), NextUse);
    assert!(cache.lease(UnitId(u32::MAX)).is_none() && cache.peek(UnitId(u32::MAX)).is_none());
    assert!(!cache.contains(UnitId(u32::MAX)));
}

/// Leases that come and go while the victims are counted must not keep the rest from being evicted.
#[test]
fn evicting_to_a_limit_leaves_only_what_is_in_use() {
    const UNITS: u32 = 20;
    let cache: Cache<u32> = Cache::new(Budget::new(u64::from(UNITS)), Lru::default());
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (cache, is_done) = (&cache, &is_done);
            scope.spawn(move || {
                let mut unit = thread;
                while !is_done.load(Ordering::SeqCst) {
                    drop(cache.lease(UnitId(unit % UNITS)));
                    unit += 3;
                }
            });
        }
        let most_used_bytes = (0..10_000).map(|_| {
            cache.budget().set_limit_bytes(u64::from(UNITS));
            for unit in (0..UNITS).map(UnitId) {
                if let Ok(room) = cache.reserve(Incoming { unit, bytes: 1, purpose: Purpose::Demand }, &NoForecast) {
                    drop(room.fill(unit.0));
                }
            }
            cache.budget().set_limit_bytes(1);
            let freed_bytes = cache.evict_to_limit(&NoForecast);
            (freed_bytes, cache.budget().used_bytes())
        });
        let unlike = most_used_bytes.filter(|&(freed, used)| used > 2 || freed + used != u64::from(UNITS)).count();
        is_done.store(true, Ordering::SeqCst);
        assert_eq!(unlike, 0, "rounds that left more than the two units in use");
    });
}

/// Whatever the policy would give up: it has to be read again before what comes in is used.
#[test]
fn a_prefetch_evicts_nothing_that_is_needed_before_it() {
    let distances = [(0, 4), (1, 6), (2, 5), (3, 5)].map(|(unit, distance)| (UnitId(unit), distance));
    let forecast = ScriptedForecast { distances: distances.into() };
    for policy in crate::policies::all() {
        let name = format!("{policy:?}");
        let cache: Cache<()> = Cache::new(Budget::new(3), policy);
        let reserve = |unit, bytes| cache.reserve(Incoming { unit, bytes, purpose: Purpose::Prefetch }, &forecast);
        for unit in (0..3).map(UnitId) {
            drop(reserve(unit, 1).unwrap().fill(()));
        }
        assert_eq!(reserve(UnitId(3), 2).unwrap_err(), ReserveError::Declined { unit: UnitId(3) }, "{name}");
        drop(reserve(UnitId(3), 1).unwrap().fill(()));
        let resident: Vec<u32> = cache.resident().iter().map(|candidate| candidate.unit.0).collect();
        assert_eq!(resident, [0, 2, 3], "{name}");
    }
}

/// The memory of a victim goes to the unit that it was evicted for, and every byte of it stays charged.
#[test]
fn what_was_evicted_may_be_used_again() {
    let forecast = ScriptedForecast::default();
    for (old, new, free) in [(60, 60, 0), (60, 50, 10), (60, 70, 5), (60, 70, 40)] {
        let budget = Budget::new(60 + free);
        let cache = Cache::new(budget.clone(), Lru::default());
        let incoming = |unit, bytes| Incoming { unit: UnitId(unit), bytes, purpose: Purpose::Demand };
        drop(cache.reserve(incoming(0, old), &forecast).unwrap().fill("victim"));
        let Ok((reservation, spare)) = cache.reserve_reusing(incoming(1, new), &forecast) else {
            assert!(new > 60 + free);
            continue;
        };
        assert_eq!(spare.is_some(), new > free, "{old} for {new} with {free} free");
        let surplus = spare.as_ref().map_or(0, |spare| spare.surplus.bytes());
        assert_eq!(budget.used_bytes(), new + surplus + if spare.is_some() { 0 } else { old });
        if let Some(spare) = spare {
            assert_eq!((spare.value, surplus), ("victim", old.saturating_sub(new)));
        }
        drop(reservation.fill("successor"));
        assert_eq!(budget.used_bytes(), cache.resident().iter().map(|unit| unit.bytes).sum::<u64>());
    }
}
