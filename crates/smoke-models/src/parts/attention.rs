use burn::tensor::{DType, Tensor, TensorData, activation};
use rayon::prelude::*;
use smoke_burn::{Activations, Weights};
use smoke_core::Encoding;
use smoke_quant::PackedMatrix;

use super::KvCache;
use super::host::softmax;

/// Which keys a query on a device other than the host may see, as a term added to the scores, shaped
/// `[batch, 1, queries, keys]`; the host leaves out what may not be seen.
#[derive(Clone, Debug)]
pub struct Mask(Option<Tensor<4>>);

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
        let start = cache.len();
        if weights.on_host() || tokens == 1 && cache.padding().iter().all(|&pad| pad == 0) {
            return Self(None);
        }
        let keys = start + tokens;
        let mut values = Vec::with_capacity(cache.batch() * tokens * keys);
        for &padding in cache.padding() {
            for query in start..keys {
                values.extend((0..keys).map(|key| if key > query || key < padding { UNSEEN } else { 0.0 }));
            }
        }
        let data = TensorData::new(values, [cache.batch(), 1, tokens, keys]);
        Self(Some(Tensor::from_data(data, (weights.device(), DType::F32))))
    }
}

/// Causal scaled dot-product attention (Vaswani et al., 2017) with grouped queries (Ainslie et al., 2023).
///
/// `queries` are `[batch · tokens, heads · head_dim]` and belong to the tokens that were appended to the layer last, which
/// are not counted by [`KvCache::len`] yet. `heads` is a multiple of the cache's heads: consecutive queries share a key
/// head, which is not repeated in memory. Returns the same shape.
///
/// # Panics
/// If the queries are no whole number of tokens or heads of the cache.
pub fn attend(
    weights: &Weights,
    queries: Activations,
    cache: &KvCache,
    layer: usize,
    mask: &Mask,
    scale: f64,
) -> Activations {
    assert!(queries.rows().is_multiple_of(cache.batch()), "{} queries in {} rows", queries.rows(), cache.batch());
    let tokens = queries.rows() / cache.batch();
    let group = queries.features() / (cache.kv_heads() * cache.head_dim());
    match queries.on_host() {
        Some(queries) => on_host(weights, queries, &Heads { cache, layer, tokens, group, scale: scale as f32 }),
        None => {
            let keys_and_values =
                cache.tensors(layer, cache.len() + tokens).expect("the cache lies where the queries do");
            Activations::from_tensor(on_device(queries.tensor(weights), keys_and_values, group, mask, scale))
        }
    }
}

fn on_device(queries: Tensor<2>, [keys, values]: [Tensor<4>; 2], group: usize, mask: &Mask, scale: f64) -> Tensor<2> {
    let [batch, kv_heads, seen, dim] = keys.dims();
    let [rows, features] = queries.dims();
    let (tokens, heads) = (rows / batch, kv_heads * group);
    let queries: Tensor<4> = (queries * scale).reshape([batch, tokens, heads, dim]).swap_dims(1, 2);
    let queries: Tensor<4> = queries.reshape([batch, kv_heads, group * tokens, dim]);
    let mut scores = queries.matmul(keys.swap_dims(2, 3));
    if let Mask(Some(mask)) = mask {
        let by_head: Tensor<4> = scores.reshape([batch, heads, tokens, seen]);
        scores = (by_head + mask.clone()).reshape([batch, kv_heads, group * tokens, seen]);
    }
    let mixed = activation::softmax(scores, 3).matmul(values);
    let mixed: Tensor<4> = mixed.reshape([batch, heads, tokens, dim]).swap_dims(1, 2);
    mixed.reshape([rows, features])
}

/// What the key heads on the host have in common.
struct Heads<'a> {
    cache: &'a KvCache,
    layer: usize,
    tokens: usize,
    group: usize,
    scale: f32,
}

fn on_host(weights: &Weights, queries: &[f32], heads: &Heads<'_>) -> Activations {
    let Heads { cache, tokens, group, .. } = heads;
    let (kv_heads, dim) = (cache.kv_heads(), cache.head_dim());
    let features = kv_heads * group * dim;
    // Key head after key head, so that each is one piece of memory: the right order already for one token.
    let mut by_head = weights.floats(queries.len());
    let head = |(place, out): (usize, &mut [f32])| heads.one(weights, queries, place / kv_heads, place % kv_heads, out);
    let each = (tokens * group * dim).max(1);
    if queries.len() * (cache.len() + tokens) < PARALLEL {
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
        let Self { cache, layer, tokens, group, scale } = *self;
        let dim = cache.head_dim();
        let (start, seen, padding) = (cache.len(), cache.len() + tokens, cache.padding()[batch]);
        let [keys, values] = cache.head(layer, batch, head, seen).expect("the cache lies where the queries do");
        let rows = query_rows(tokens * group, seen);
        let (mut scaled, mut scores) = (weights.floats(rows * dim), weights.floats(rows * seen));
        let features = cache.kv_heads() * group * dim;
        out.fill(0.0);
        for (part, out) in out.chunks_mut(rows * dim).enumerate() {
            let rows = part * rows..part * rows + out.len() / dim;
            // What the last query of the part sees.
            let end = start + (rows.end - 1) / group + 1;
            let visible = end.saturating_sub(padding);
            if visible == 0 {
                continue;
            }
            for (row, scaled) in rows.clone().zip(scaled.chunks_exact_mut(dim)) {
                let query =
                    &queries[(batch * tokens + row / group) * features + (head * group + row % group) * dim..][..dim];
                scaled.iter_mut().zip(query).for_each(|(scaled, query)| *scaled = query * scale);
            }
            let window = padding * dim..end * dim;
            let scores = &mut scores[..rows.len() * visible];
            matrix(&keys[window.clone()], dim).multiply(&scaled[..rows.len() * dim], scores, visible);
            for (row, scores) in rows.zip(scores.chunks_exact_mut(visible)) {
                let seen = (start + row / group + 1).saturating_sub(padding);
                let (seen, unseen) = scores.split_at_mut(seen);
                softmax(seen);
                unseen.fill(0.0);
            }
            matrix(&values[window], dim).multiply_transposed(scores, visible, out);
        }
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

fn matrix(floats: &[f32], columns: usize) -> PackedMatrix<'_> {
    let bytes = bytemuck::cast_slice(floats);
    PackedMatrix::new(Encoding::F32, floats.len() / columns, columns, bytes).expect("whole rows of floats")
}
