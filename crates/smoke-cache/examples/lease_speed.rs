//! What the cache itself costs: the time of a lease, and of a reservation that evicts.
//!
//! `cargo run --release -p smoke-cache --example lease_speed [-- --json]`
//!
//! Both are paid per access, beside a read of milliseconds. Victims are found by a scan over what is resident, which is
//! meant for thousands of units. The forecast is a table, so that only the cache and the policy are measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use smoke_cache::policy::{self, Known, PinnedUnits};
use smoke_cache::{Budget, Cache, EvictionPolicy, EvictionRequest, Incoming};
use smoke_core::{ExpectedUse, Forecast, NextUse, Purpose, UnitId, UnitInfo, UnitKind};

const SIZES: [u32; 3] = [10, 1_000, 100_000];
const REPEATS: usize = 5;

/// Every unit in turn, for ever.
#[derive(Debug)]
struct Turn {
    units: u32,
    position: u32,
}

impl Forecast for Turn {
    fn next_use(&self, unit: UnitId) -> NextUse {
        NextUse::In(u64::from((unit.0 + self.units - self.position) % self.units) + 1)
    }

    fn upcoming(&self, _horizon: u64, _out: &mut Vec<ExpectedUse>) {}
}

/// Notes which unit left last.
#[derive(Debug)]
struct Noting {
    policy: Box<dyn EvictionPolicy>,
    evicted: Arc<AtomicU32>,
}

impl EvictionPolicy for Noting {
    fn on_insert(&mut self, unit: UnitId, bytes: u64) {
        self.policy.on_insert(unit, bytes);
    }

    fn on_access(&mut self, unit: UnitId) {
        self.policy.on_access(unit);
    }

    fn on_remove(&mut self, unit: UnitId) {
        self.evicted.store(unit.0, Ordering::Relaxed);
        self.policy.on_remove(unit);
    }

    fn victim(&mut self, request: &EvictionRequest<'_>) -> Option<UnitId> {
        self.policy.victim(request)
    }
}

fn policies(units: u32) -> Vec<(&'static str, Box<dyn EvictionPolicy>)> {
    let known = Known {
        // Of 64 layers.
        units: (0..units).map(|unit| UnitInfo { bytes: 1, layer: Some(unit % 64), kind: UnitKind::Expert }).collect(),
        pinned: PinnedUnits::new((0..units).filter(|unit| unit % 4 > 0).map(UnitId)),
    };
    policy::NAMES.iter().filter_map(|&name| Some((name, policy::by_name(name, &known)?))).collect()
}

fn load(cache: &Cache<()>, unit: u32, units: u32) {
    let incoming = Incoming { unit: UnitId(unit), bytes: 1, purpose: Purpose::Demand };
    let reservation = cache.reserve(incoming, &Turn { units, position: unit }).expect("nothing is leased");
    drop(reservation.fill(()));
    drop(cache.lease(UnitId(unit)));
}

/// The median of some repeats, in nanoseconds for each of `count` calls.
fn measure(count: u32, mut call: impl FnMut(u32)) -> f64 {
    let mut times: Vec<f64> = (0..REPEATS)
        .map(|_| {
            let start = Instant::now();
            (0..count).for_each(&mut call);
            start.elapsed().as_nanos() as f64 / f64::from(count)
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[REPEATS / 2]
}

fn main() {
    let json = std::env::args().any(|argument| argument == "--json");
    let mut rows = Vec::new();
    for units in SIZES {
        for (name, policy) in policies(units) {
            // Room for all units but one.
            let evicted = Arc::new(AtomicU32::new(units - 1));
            let policy = Noting { policy, evicted: Arc::clone(&evicted) };
            let cache = Cache::new(Budget::new(u64::from(units) - 1), policy);
            (0..units - 1).for_each(|unit| load(&cache, unit, units));
            let mut next = 0;
            let lease_ns = measure(200_000, |_| {
                next = (next + 1) % (units - 1);
                drop(cache.lease(UnitId(next)).expect("it is resident"));
            });
            // Always the unit that is not there, which the policy gives up another one for.
            let loads = if units > 10_000 { 50 } else { 2_000 };
            let evict_ns = measure(loads, |_| load(&cache, evicted.load(Ordering::Relaxed), units));
            rows.push((name, units, lease_ns, evict_ns));
        }
    }
    if json {
        let row = |(name, units, lease, evict): &(&str, u32, f64, f64)| {
            format!(r#"{{"policy":"{name}","units":{units},"lease_ns":{lease:.1},"reserve_and_evict_ns":{evict:.1}}}"#)
        };
        println!("[{}]", rows.iter().map(row).collect::<Vec<_>>().join(","));
        return;
    }
    println!("{:<14} {:>8} {:>12} {:>22}", "policy", "units", "lease, ns", "reserve and evict, us");
    for (name, units, lease_ns, evict_ns) in rows {
        println!("{name:<14} {units:>8} {lease_ns:>12.0} {:>22.2}", evict_ns / 1000.0);
    }
}
