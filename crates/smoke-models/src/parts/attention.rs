use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{DType, Tensor, TensorData, module};
use rayon::prelude::*;
use smoke_burn::{Activations, Weights};
use smoke_quant::PackedMatrix;

use super::KvCache;
use super::host::softmax;

/// Which keys the queries of one pass may see.
#[derive(Clone, Debug)]
pub struct Mask {
    sight: Sight,
    /// On a device other than the host: a term added to the scores, `[batch, 1, queries, keys]`, where anything is hidden.
    /// The host leaves out what may not be seen.
    tensor: Option<Tensor<4>>,
}

#[derive(Clone, Copy, Debug)]
enum Sight {
    /// A token sees itself and at most so many less one before it.
    Back(usize),
    /// Every query sees every key.
    All,
}

/// Added to the scores of keys that must not be seen. Finite, so that a padded query, which sees no key at all, gets
/// some average and not NaN.
const UNSEEN: f32 = -1e30;

/// Scores that a thread on the host has at once: queries are taken in parts, so that a long prompt needs no square.
const SCORES: usize = 32 << 10;

/// Multiplications that are worth a second thread.
const PARALLEL: usize = 1 << 18;

impl Mask {
    /// Each of the next `tokens` tokens sees itself and what came before it in its row, but no padding.
    pub fn causal(cache: &KvCache, tokens: usize, weights: &Weights) -> Self {
        Self::new(Sight::Back(usize::MAX), cache, tokens, cache.len() + tokens, weights)
    }

    /// The same, but each sees only the nearest `window` tokens, itself among them (Beltagy et al., 2020).
    pub fn window(window: usize, cache: &KvCache, tokens: usize, weights: &Weights) -> Self {
        Self::new(Sight::Back(window), cache, tokens, cache.len() + tokens, weights)
    }

    /// Each of `queries` queries in a row sees all of the row's first `keys` slots but the padding: for encoders, and for
    /// what looks at another sequence.
    pub fn all(cache: &KvCache, queries: usize, keys: usize, weights: &Weights) -> Self {
        Self::new(Sight::All, cache, queries, keys, weights)
    }

    fn new(sight: Sight, cache: &KvCache, queries: usize, keys: usize, weights: &Weights) -> Self {
        let first = keys.saturating_sub(queries);
        let visible = |query: usize, padding: usize| sight.visible(first + query, keys, padding);
        let hides = || cache.padding().iter().any(|&pad| (0..queries).any(|query| visible(query, pad) != (0, keys)));
        if weights.on_host() || !hides() {
            return Self { sight, tensor: None };
        }
        let mut values = Vec::with_capacity(cache.batch() * queries * keys);
        for &padding in cache.padding() {
            for query in 0..queries {
                let (from, to) = visible(query, padding);
                values.extend((0..keys).map(|key| if (from..to).contains(&key) { 0.0 } else { UNSEEN }));
            }
        }
        let data = TensorData::new(values, [cache.batch(), 1, queries, keys]);
        Self { sight, tensor: Some(Tensor::from_data(data, (weights.device(), DType::F32))) }
    }
}

impl Sight {
    /// The slots that a query in `slot` sees of the first `keys`, the first `padding` of which hold nothing.
    fn visible(self, slot: usize, keys: usize, padding: usize) -> (usize, usize) {
        match self {
            Self::Back(window) => (padding.max((slot + 1).saturating_sub(window)), slot + 1),
            Self::All => (padding, keys),
        }
    }
}

/// How scores are made from the products of queries and keys: `softcap · tanh(scale · product / softcap) + bias`.
#[derive(Clone, Copy, Debug)]
pub struct Scores<'a> {
    /// Multiplies every product.
    pub scale: f64,
    /// Scores stay within plus and minus this (Gemma 2, 2024).
    pub softcap: Option<f64>,
    /// Added by head and distance.
    pub bias: Option<&'a DistanceBias>,
}

impl Scores<'_> {
    /// Scaled products, and nothing else.
    pub fn scaled(scale: f64) -> Self {
        Self { scale, softcap: None, bias: None }
    }

    fn cap(&self, scores: &mut [f32]) {
        if let Some(cap) = self.softcap {
            let cap = cap as f32;
            scores.iter_mut().for_each(|score| *score = cap * (*score / cap).tanh());
        }
    }
}

/// A term for every head and every distance between a query and a key (Raffel et al., 2020).
#[derive(Clone, Debug)]
pub struct DistanceBias {
    /// `[heads, span]`.
    values: Vec<f32>,
    span: usize,
    /// Distances begin at minus this.
    reach: usize,
    /// On a device other than the host: `[1, heads, queries, keys]`.
    tensor: Option<Tensor<4>>,
}

impl DistanceBias {
    /// For queries that are the last `queries` of `keys` slots. `bias` gets the head and how far behind the query the key
    /// lies in slots, negative where it lies ahead.
    pub fn new(heads: usize, queries: usize, keys: usize, weights: &Weights, bias: impl Fn(usize, i64) -> f32) -> Self {
        let reach = queries.saturating_sub(1);
        let span = keys + reach;
        let first = -(reach as i64);
        let values: Vec<f32> = (0..heads)
            .flat_map(|head| (0..span as i64).map(move |i| (head, first + i)))
            .map(|(h, d)| bias(h, d))
            .collect();
        let tensor = (!weights.on_host()).then(|| {
            let first = keys - queries;
            let row = |head: usize, query: usize| (0..keys).map(move |key| head * span + first + query + reach - key);
            let places = (0..heads).flat_map(|head| (0..queries).flat_map(move |query| row(head, query)));
            let data =
                TensorData::new(places.map(|place| values[place]).collect::<Vec<_>>(), [1, heads, queries, keys]);
            Tensor::from_data(data, (weights.device(), DType::F32))
        });
        Self { values, span, reach, tensor }
    }

    /// Adds the terms of one query in `slot` to its scores of the keys from `from` on.
    fn add(&self, head: usize, slot: usize, from: usize, scores: &mut [f32]) {
        // The nearest key first: distances fall as slots rise.
        let nearest = head * self.span + self.reach + slot - from;
        scores.iter_mut().zip(0..).for_each(|(score, i)| *score += self.values[nearest - i]);
    }
}

/// Scaled dot-product attention (Vaswani et al., 2017) with grouped queries (Ainslie et al., 2023).
///
/// `queries` are `[batch · tokens, heads · head_dim]`; where the mask looks back they belong to the tokens that were
/// appended to the layer last. `heads` is a multiple of the cache's heads: consecutive queries share a key head, which is
/// not repeated in memory. Returns the same shape.
///
/// # Panics
/// If the queries are no whole number of tokens or heads of the cache.
pub fn attend(
    weights: &Weights,
    queries: Activations,
    cache: &KvCache,
    layer: usize,
    mask: &Mask,
    scores: &Scores<'_>,
) -> Activations {
    assert!(queries.rows().is_multiple_of(cache.batch()), "{} queries in {} rows", queries.rows(), cache.batch());
    let tokens = queries.rows() / cache.batch();
    let group = queries.features() / (cache.kv_heads() * cache.head_dim());
    match queries.on_host() {
        Some(queries) => {
            let seen = cache.written();
            on_host(weights, queries, &Heads { cache, layer, tokens, group, seen, sight: mask.sight, scores })
        }
        None => {
            let keys_and_values = cache.tensors(layer, cache.written()).expect("the cache lies where the queries do");
            Activations::from_tensor(on_device(queries.tensor(weights), keys_and_values, group, mask, scores))
        }
    }
}

fn on_device(
    queries: Tensor<2>,
    [keys, values]: [Tensor<4>; 2],
    group: usize,
    mask: &Mask,
    Scores { scale, softcap, bias }: &Scores<'_>,
) -> Tensor<2> {
    let [batch, kv_heads, seen, dim] = keys.dims();
    let [rows, features] = queries.dims();
    let (tokens, heads) = (rows / batch, kv_heads * group);
    let queries: Tensor<4> = queries.reshape([batch, tokens, heads, dim]).swap_dims(1, 2);
    let queries: Tensor<4> = queries.reshape([batch, kv_heads, group * tokens, dim]);
    let terms = [bias.and_then(|bias| bias.tensor.clone()), mask.tensor.clone()].into_iter().flatten();
    let term = terms.reduce(|sum, term| sum + term);
    let term: Option<Tensor<4>> =
        term.map(|term| term.expand([batch, heads, tokens, seen]).reshape([batch, kv_heads, group * tokens, seen]));
    let options = AttentionModuleOptions { scale: Some(*scale), softcap: *softcap, is_causal: false };
    // A flash kernel where the backend has one.
    let mixed = module::attention(queries, keys, values, None, term, options);
    let mixed: Tensor<4> = mixed.reshape([batch, heads, tokens, dim]).swap_dims(1, 2);
    mixed.reshape([rows, features])
}

/// What the key heads on the host have in common.
struct Heads<'a> {
    cache: &'a KvCache,
    layer: usize,
    tokens: usize,
    group: usize,
    seen: usize,
    sight: Sight,
    scores: &'a Scores<'a>,
}

fn on_host(weights: &Weights, queries: &[f32], heads: &Heads<'_>) -> Activations {
    let Heads { cache, tokens, group, seen, .. } = heads;
    let (kv_heads, dim) = (cache.kv_heads(), cache.head_dim());
    let features = kv_heads * group * dim;
    // Key head after key head, so that each is one piece of memory: the right order already for one token.
    let mut by_head = weights.floats(queries.len());
    let head = |(place, out): (usize, &mut [f32])| heads.one(weights, queries, place / kv_heads, place % kv_heads, out);
    let each = (tokens * group * dim).max(1);
    if queries.len() * seen < PARALLEL {
        by_head.chunks_exact_mut(each).enumerate().for_each(head);
    } else {
        by_head.par_chunks_exact_mut(each).enumerate().for_each(head);
    }
    if *tokens == 1 {
        return Activations::from_host(by_head, features);
    }
    let mut mixed = weights.floats(queries.len());
    for (place, head) in by_head.chunks_exact(each).enumerate() {
        let (batch, first) = (place / kv_heads, place % kv_heads * group * dim);
        for (token, head) in head.chunks_exact(group * dim).enumerate() {
            mixed[(batch * tokens + token) * features + first..][..group * dim].copy_from_slice(head);
        }
    }
    Activations::from_host(mixed, features)
}

impl Heads<'_> {
    /// Attention of the queries that share one key head; `out` is `[tokens, group, head_dim]`.
    fn one(&self, weights: &Weights, queries: &[f32], batch: usize, head: usize, out: &mut [f32]) {
        let Self { cache, layer, tokens, group, seen, .. } = *self;
        let dim = cache.head_dim();
        let rows = query_rows(tokens * group, seen);
        let (mut scaled, mut scores) = (weights.floats(rows * dim), weights.floats(rows * seen));
        let features = cache.kv_heads() * group * dim;
        let scale = self.scores.scale as f32;
        let visible = |row: usize| {
            let (from, to) =
                self.sight.visible(seen.saturating_sub(tokens) + row / group, seen, cache.padding()[batch]);
            (from.min(to), to)
        };
        out.fill(0.0);
        for (part, out) in out.chunks_mut(rows * dim).enumerate() {
            let rows = part * rows..part * rows + out.len() / dim;
            // What the part's queries see between them: it begins where the first begins and ends where the last ends.
            let (from, to) = (visible(rows.start).0, visible(rows.end - 1).1);
            if from == to {
                continue;
            }
            for (row, scaled) in rows.clone().zip(scaled.chunks_exact_mut(dim)) {
                let query =
                    &queries[(batch * tokens + row / group) * features + (head * group + row % group) * dim..][..dim];
                scaled.iter_mut().zip(query).for_each(|(scaled, query)| *scaled = query * scale);
            }
            let width = to - from;
            let scores = &mut scores[..rows.len() * width];
            let mut first = 0;
            for (slots, [keys, _]) in cache.pieces((layer, batch, head), from, to) {
                self.matrix(slots, keys).multiply(&scaled[..rows.len() * dim], &mut scores[first..], width);
                first += slots;
            }
            for (row, scores) in rows.zip(scores.chunks_exact_mut(width)) {
                let (begin, end) = visible(row);
                let (before, rest) = scores.split_at_mut(begin - from);
                let (seen_scores, after) = rest.split_at_mut(end - begin);
                self.scores.cap(seen_scores);
                if let Some(bias) = self.scores.bias {
                    let slot = seen.saturating_sub(tokens) + row / group;
                    bias.add(head * group + row % group, slot, begin, seen_scores);
                }
                softmax(seen_scores);
                before.fill(0.0);
                after.fill(0.0);
            }
            let mut first = 0;
            for (slots, [_, values]) in cache.pieces((layer, batch, head), from, to) {
                self.matrix(slots, values).multiply_transposed(&scores[first..], width, out);
                first += slots;
            }
        }
    }

    fn matrix<'a>(&self, slots: usize, bytes: &'a [u8]) -> PackedMatrix<'a> {
        let cache = self.cache;
        PackedMatrix::new(cache.encoding(), slots, cache.head_dim(), bytes).expect("whole heads of the cache")
    }
}

/// How many queries are taken at once.
fn query_rows(queries: usize, seen: usize) -> usize {
    (SCORES / seen.max(1)).clamp(1, queries.max(1))
}

/// The most floats beside queries, keys, values and results that attention on the host takes at once.
pub(crate) fn scratch_floats(tasks: usize, queries: usize, seen: usize, dim: usize) -> usize {
    tasks.min(rayon::current_num_threads()) * query_rows(queries, seen) * (seen + dim)
}
