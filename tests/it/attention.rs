//! Attention and its cache against the definition, computed plainly in double precision.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use smoke_runtime::burn::{Activations, Weights};
use smoke_runtime::models::parts::{DistanceBias, KvCache, KvEncoding, KvShape, Mask, Scores, attend};
use smoke_runtime::{DeviceKind, Runtime};
use smoke_tests::asset;

#[derive(Clone, Debug)]
struct Case {
    kv_heads: usize,
    group: usize,
    head_dim: usize,
    /// Tokens of each pass.
    passes: Vec<usize>,
    padding: Vec<usize>,
    window: Option<usize>,
    softcap: Option<f64>,
    bias: bool,
    seed: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    let sizes = (1_usize..3, 1_usize..4, prop::sample::select(vec![2_usize, 8, 32]));
    let passes = prop::collection::vec(1_usize..40, 1..4);
    let options = (prop::option::of(1_usize..50), prop::option::of(1.0_f64..30.0), any::<bool>(), any::<u64>());
    (sizes, passes, prop::collection::vec(0_usize..12, 1..3), options).prop_map(
        |((kv_heads, group, head_dim), passes, padding, (window, softcap, bias, seed))| {
            let padding = padding.into_iter().map(|pad| pad.min(passes[0] - 1)).collect();
            Case { kv_heads, group, head_dim, passes, padding, window, softcap, bias, seed }
        },
    )
}

/// Numbers between -1 and 1.
fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn bias(head: usize, distance: i64) -> f32 {
    (head as f32 + 1.0) * (distance as f32 * 0.37).sin()
}

impl Case {
    fn shape(&self, encoding: KvEncoding) -> KvShape {
        KvShape { layers: 2, heads: self.kv_heads, head_dim: self.head_dim, encoding }
    }

    fn total(&self) -> usize {
        self.passes.iter().sum()
    }

    /// Queries, keys and values of all tokens, `[batch, tokens, features]`.
    fn data(&self) -> [Vec<f32>; 3] {
        let tokens = self.padding.len() * self.total() * self.head_dim;
        let sizes = [tokens * self.kv_heads * self.group, tokens * self.kv_heads, tokens * self.kv_heads];
        [0, 1, 2].map(|i| noise(self.seed.wrapping_add(i), sizes[i as usize]))
    }

    /// What the definition gives, in the same layout as the queries.
    fn expected(&self, sees: impl Fn(usize, usize) -> bool) -> Vec<f32> {
        let [queries, keys, values] = self.data();
        let (heads, dim, total) = (self.kv_heads * self.group, self.head_dim, self.total());
        let mut out = vec![0.0; queries.len()];
        for batch in 0..self.padding.len() {
            for query in self.padding[batch]..total {
                for head in 0..heads {
                    let at = |slot: usize| ((batch * total + slot) * self.kv_heads + head / self.group) * dim;
                    let place = ((batch * total + query) * heads + head) * dim;
                    let seen: Vec<usize> = (self.padding[batch]..total).filter(|&key| sees(query, key)).collect();
                    let score = |&key: &usize| {
                        let product: f64 =
                            (0..dim).map(|i| f64::from(queries[place + i]) * f64::from(keys[at(key) + i])).sum();
                        let capped = self.softcap.map_or(product * 2.0, |cap| cap * (product * 2.0 / cap).tanh());
                        let biased = if self.bias { f64::from(bias(head, query as i64 - key as i64)) } else { 0.0 };
                        (capped + biased).exp()
                    };
                    let weights: Vec<f64> = seen.iter().map(score).collect();
                    let sum: f64 = weights.iter().sum();
                    for i in 0..dim {
                        let mixed = seen.iter().zip(&weights).map(|(&key, w)| w / sum * f64::from(values[at(key) + i]));
                        out[place + i] = mixed.sum::<f64>() as f32;
                    }
                }
            }
        }
        out
    }

    /// What [`attend`] gives, pass after pass.
    fn attended(&self, weights: &Weights, encoding: KvEncoding) -> Vec<f32> {
        let [queries, keys, values] = self.data();
        let (rows, total) = (self.padding.len(), self.total());
        let mut cache = KvCache::new(self.shape(encoding), total, self.padding.clone(), weights).unwrap();
        let mut out = vec![0.0; queries.len()];
        for &tokens in &self.passes {
            let start = cache.len();
            cache.reserve(tokens, weights).unwrap();
            let mask = match self.window {
                Some(window) => Mask::window(window, &cache, tokens, weights),
                None => Mask::causal(&cache, tokens, weights),
            };
            let heads = self.kv_heads * self.group;
            let bias = self.bias.then(|| DistanceBias::new(heads, tokens, start + tokens, weights, bias));
            let scores = Scores { scale: 2.0, softcap: self.softcap, bias: bias.as_ref() };
            for layer in [1, 0] {
                let part = |all: &[f32]| self.rows(all, start, tokens);
                cache.append(
                    layer,
                    placed(weights, part(&keys), rows * tokens),
                    placed(weights, part(&values), rows * tokens),
                );
                let mixed =
                    attend(weights, placed(weights, part(&queries), rows * tokens), &cache, layer, &mask, &scores);
                let mixed = mixed.to_vec();
                let features = queries.len() / (rows * total);
                for (row, mixed) in mixed.chunks_exact(features).enumerate() {
                    let (batch, slot) = (row / tokens, start + row % tokens);
                    out[(batch * total + slot) * features..][..features].copy_from_slice(mixed);
                }
            }
            cache.advance(tokens);
        }
        for batch in 0..rows {
            let features = queries.len() / (rows * total);
            out[batch * total * features..][..self.padding[batch] * features].fill(0.0);
        }
        out
    }

    /// Of `[batch, total, features]` the tokens from `start` on.
    fn rows(&self, all: &[f32], start: usize, tokens: usize) -> Vec<f32> {
        let (rows, total) = (self.padding.len(), self.total());
        let features = all.len() / (rows * total);
        let row = |batch: usize| &all[(batch * total + start) * features..][..tokens * features];
        (0..rows).flat_map(row).copied().collect()
    }
}

fn placed(weights: &Weights, values: Vec<f32>, rows: usize) -> Activations {
    let features = values.len() / rows;
    let mut floats = weights.floats(values.len());
    floats.copy_from_slice(&values);
    let activations = Activations::from_host(floats, features);
    if weights.on_host() { activations } else { Activations::from_tensor(activations.tensor(weights)) }
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn runtime(device: DeviceKind) -> Runtime {
    Runtime::builder(asset("tiny/llama")).memory("64MB").device(device).open().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_pass_attends_to_what_its_tokens_may_see(case in cases()) {
        let runtime = runtime(DeviceKind::Cpu);
        let window = case.window.unwrap_or(usize::MAX);
        let expected = case.expected(|query, key| key <= query && query - key < window);
        prop_assert!(largest_difference(&case.attended(runtime.weights(), KvEncoding::F32), &expected) < 2e-5);
        prop_assert!(largest_difference(&case.attended(runtime.weights(), KvEncoding::F16), &expected) < 2e-2);
        if case.head_dim % 32 == 0 {
            prop_assert!(largest_difference(&case.attended(runtime.weights(), KvEncoding::Int8), &expected) < 1e-1);
        }
        prop_assert_eq!(runtime.weights().streamer().budget().used_bytes(), 0);
    }
}

#[cfg(feature = "wgpu")]
#[test]
fn the_graphics_device_attends_as_the_host_does() {
    let (host, device) = (runtime(DeviceKind::Cpu), runtime(DeviceKind::Wgpu));
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for _ in 0..12 {
        let case = cases().new_tree(&mut runner).unwrap().current();
        let host = case.attended(host.weights(), KvEncoding::F32);
        assert!(largest_difference(&case.attended(device.weights(), KvEncoding::F32), &host) < 1e-4, "{case:?}");
    }
}

#[test]
fn encoders_see_both_ways_but_no_padding() {
    let runtime = runtime(DeviceKind::Cpu);
    let weights = runtime.weights();
    let case = Case {
        kv_heads: 2,
        group: 1,
        head_dim: 8,
        passes: vec![37],
        padding: vec![0, 9],
        window: None,
        softcap: None,
        bias: true,
        seed: 3,
    };
    let [queries, keys, values] = case.data();
    let mut cache = KvCache::new(case.shape(KvEncoding::F32), 37, case.padding.clone(), weights).unwrap();
    cache.reserve(37, weights).unwrap();
    cache.append(0, placed(weights, keys, 74), placed(weights, values, 74));
    let bias = DistanceBias::new(2, 37, 37, weights, bias);
    let scores = Scores { scale: 2.0, softcap: None, bias: Some(&bias) };
    let mask = Mask::all(&cache, 37, 37, weights);
    let mut mixed = attend(weights, placed(weights, queries, 74), &cache, 0, &mask, &scores).to_vec();
    let row = mixed.len() / 2;
    mixed[row..][..9 * 16].fill(0.0);
    assert!(largest_difference(&mixed, &case.expected(|_, _| true)) < 2e-5);
}

#[test]
fn pages_come_out_of_the_budget_as_tokens_come() {
    let runtime = runtime(DeviceKind::Cpu);
    let (weights, budget) = (runtime.weights(), runtime.weights().streamer().budget());
    let shape = KvShape { layers: 2, heads: 3, head_dim: 32, encoding: KvEncoding::F32 };
    let mut cache = KvCache::new(shape, 1000, vec![0], weights).unwrap();
    assert_eq!(budget.used_bytes(), 0);
    for (tokens, expected) in [(1, 1), (32, 1), (33, 2), (320, 10), (321, 11)] {
        cache.reserve(tokens, weights).unwrap();
        assert_eq!(cache.bytes(), expected * 2 * 2 * 3 * 32 * 32 * 4);
        assert_eq!(budget.used_bytes(), cache.bytes());
        assert_eq!(shape.bytes(1, tokens), cache.bytes());
    }
    let bytes = |encoding| KvShape { encoding, ..shape }.bytes(1, 32);
    assert_eq!(bytes(KvEncoding::F16) * 2, bytes(KvEncoding::F32));
    assert_eq!(bytes(KvEncoding::Int8), 2 * 2 * 3 * 32 * 34);
    budget.set_limit_bytes(cache.bytes());
    let error = cache.reserve(400, weights).unwrap_err().to_string();
    assert!(error.contains("no room") || error.contains("room"), "{error}");
    drop(cache);
    assert_eq!(budget.used_bytes(), 0);
}

#[test]
fn int8_needs_whole_blocks() {
    let runtime = runtime(DeviceKind::Cpu);
    let shape = KvShape { layers: 1, heads: 1, head_dim: 16, encoding: KvEncoding::Int8 };
    let error = KvCache::new(shape, 8, vec![0], runtime.weights()).unwrap_err().to_string();
    assert!(error.contains("16 elements") && error.contains("f16"), "{error}");
}
