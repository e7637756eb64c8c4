//! A policy of one's own: evicts at random, from a small generator.
//!
//! `cargo run -p smoke-cache --features conformance --example custom_policy`

use smoke_cache::policy::{Lru, NextUse};
use smoke_cache::{EvictionPolicy, EvictionRequest, bound};
use smoke_core::UnitId;

#[derive(Debug)]
struct RandomEviction(u64);

impl EvictionPolicy for RandomEviction {
    fn on_insert(&mut self, _unit: UnitId, _bytes: u64) {}

    fn on_access(&mut self, _unit: UnitId) {}

    fn on_remove(&mut self, _unit: UnitId) {}

    fn victim(&mut self, request: &EvictionRequest<'_>) -> Option<UnitId> {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let count = request.candidates.len() as u64;
        (count > 0).then(|| request.candidates[((self.0 >> 33) % count) as usize].unit)
    }
}

fn main() {
    smoke_cache::conformance::all(|| RandomEviction(1));

    let pass = (0..10).map(UnitId);
    let trace: Vec<UnitId> = (0..50).flat_map(|_| pass.clone()).collect();
    let hit_rate = |policy: &mut dyn EvictionPolicy| bound::replay(&trace, &[1; 10], 7, policy).byte_hit_rate();
    println!("10 units in turn, room for 7:");
    println!("least recently used {:.2}", hit_rate(&mut Lru::default()));
    println!("random              {:.2}", hit_rate(&mut RandomEviction(1)));
    println!("next use            {:.2}", hit_rate(&mut NextUse));
}
