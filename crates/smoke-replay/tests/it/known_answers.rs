//! Traces whose hit rates are known.

use smoke_core::UnitId;
use smoke_replay::synthetic::{self, MoeShape};
use smoke_replay::{Laboratory, Trace};

fn laboratory<'a>(trace: &'a Trace, policies: &[&str], predictor: &str) -> Laboratory<'a> {
    let mut laboratory = Laboratory::new(trace);
    laboratory.named_predictor(predictor).unwrap();
    for name in policies {
        laboratory.named_policy(name).unwrap();
    }
    laboratory
}

/// N equal units in turn with room for C.
#[test]
fn a_scan_that_does_not_fit() {
    const N: u64 = 12;
    // Whole periods of MIN's pattern, of N − 1 passes, but for the first pass, which misses everything.
    let passes = 1 + 20 * (N - 1);
    let trace = synthetic::dense(N as u32, 1000, passes as u32);
    for predictor in ["schedule", "oracle"] {
        let laboratory = laboratory(&trace, &["lru", "fifo", "next-use", "pinned", "hybrid"], predictor);
        for c in 1..N {
            let comparison = laboratory.at(1000 * c + 999).unwrap();
            let hits: Vec<u64> = comparison.outcomes.iter().map(|(_, outcome)| outcome.hits).collect();
            // (C − 1)/(N − 1) of all uses but the first N.
            let min = (c - 1) * N * (passes - 1) / (N - 1);
            assert_eq!(comparison.min.hit_bytes, 1000 * min, "room for {c}");
            assert!(comparison.is_min_exact && comparison.is_below_cliff);
            assert_eq!(hits[..2], [0, 0], "room for {c}");
            assert_eq!(hits[2], min, "room for {c}");
            // C − 1 units are pinned and hit in each pass but the first.
            assert_eq!(hits[3..], [(c - 1) * (passes - 1); 2], "room for {c}");
        }
        let all = laboratory.at(1000 * N).unwrap();
        assert!(!all.is_below_cliff);
        assert!(all.outcomes.iter().all(|(_, outcome)| outcome.hits == N * (passes - 1)));
    }
}

const SHAPE: MoeShape = MoeShape { layers: 8, experts: 16, top_k: 2, expert_bytes: 1000, shared_bytes: 0 };

#[test]
fn below_the_experts_of_one_token_only_lru_hits_nothing() {
    let trace = synthetic::markov_moe(SHAPE, 0.8, 0.5, 300, 1);
    let token_bytes = 8 * 2 * 1000;
    // Between two uses of an expert lie those of seven layers and its own.
    assert_eq!(trace.cliff_bytes(), Some(token_bytes - 1000));
    let laboratory = laboratory(&trace, &["lru", "per-layer-lru", "hybrid"], "none");
    let rates = |bytes| laboratory.at(bytes).unwrap().outcomes.iter().map(|(_, o)| o.hits).collect::<Vec<_>>();
    let below = rates(token_bytes - 2000);
    assert_eq!(below[0], 0);
    assert!(below[1] > 0 && below[2] > 0, "{below:?}");
    let above = rates(2 * token_bytes);
    assert!(above.iter().all(|&hits| hits > 0), "{above:?}");
}

/// Three of four experts stay. With room for 32 of 128, about four of a layer's 16 are those used last: the fourth is drawn
/// among 15, three of which are there, or, where none stays, among 16.
#[test]
fn an_expert_that_stays_is_a_hit() {
    let trace = synthetic::markov_moe(SHAPE, 0.0, 0.75, 2000, 3);
    let comparison = laboratory(&trace, &["lru"], "none").at(32 * 1000).unwrap();
    let rate = comparison.outcomes[0].1.unit_hit_rate();
    let expected = 0.75 + 0.25 * 3.0 / 15.0;
    assert!((rate - expected).abs() < 0.01, "{rate}, {expected} expected");
}

#[test]
fn popular_experts_are_kept_by_those_who_count() {
    let trace = synthetic::zipf_moe(SHAPE, 1.5, 1000, 5);
    let comparison = laboratory(&trace, &["lru", "lfu", "hybrid"], "none").at(8 * 5 * 1000).unwrap();
    let rate = |at: usize| comparison.outcomes[at].1.byte_hit_rate();
    assert!(rate(1) > rate(0) + 0.02 && rate(2) > rate(0) + 0.02, "{} {} {}", rate(0), rate(1), rate(2));
    assert!(comparison.min.byte_hit_rate() > rate(2));
}

/// Where all experts are used alike and half of them stay, frequency tells nothing and recency everything: the hybrid policy
/// has to learn that.
#[test]
fn hybrid_leans_to_recency_where_that_pays() {
    let trace = synthetic::markov_moe(SHAPE, 0.0, 0.5, 1000, 5);
    let comparison = laboratory(&trace, &["lru", "lfu", "hybrid"], "none").at(8 * 5 * 1000).unwrap();
    let rate = |at: usize| comparison.outcomes[at].1.byte_hit_rate();
    assert!(rate(2) > rate(1) + 0.1 && rate(2) > rate(0) - 0.03, "{} {} {}", rate(0), rate(1), rate(2));
}

#[test]
fn shapes_and_seeds() {
    let shape = MoeShape { shared_bytes: 7000, ..SHAPE };
    let trace = synthetic::zipf_moe(shape, 1.0, 10, 5);
    assert_eq!(trace.units().len(), 8 * 17);
    assert_eq!(trace.total_bytes(), 8 * (7000 + 16 * 1000));
    assert_eq!((trace.tokens(), trace.steps().len()), (10, 10 * 8 * 2));
    let pass: Vec<UnitId> = trace.passes().next().unwrap().to_vec();
    assert_eq!(pass.len(), 8 * 3);
    assert!(pass.is_sorted(), "layers in turn, and experts in order");
    assert_eq!(trace, synthetic::zipf_moe(shape, 1.0, 10, 5));
    assert_ne!(trace, synthetic::zipf_moe(shape, 1.0, 10, 6));
    assert_eq!(trace.largest_step_bytes(), 7000);
}
