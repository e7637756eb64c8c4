use burn::tensor::{DType, Device, Tensor, TensorData, activation};

use super::KvCache;

/// Which keys a query may see, as a term added to the scores, shaped `[batch, 1, queries, keys]`.
#[derive(Clone, Debug)]
pub struct Mask(Option<Tensor<4>>);

/// Added to the scores of keys that must not be seen. Finite, so that a padded query, which sees no key at all, gets
/// some average and not NaN.
const UNSEEN: f32 = -1e30;

impl Mask {
    /// Each of the next `tokens` tokens sees itself and what came before it in its row, but no padding.
    pub fn causal(cache: &KvCache, tokens: usize, device: &Device) -> Self {
        let start = cache.len();
        if tokens == 1 && cache.padding().iter().all(|&pad| pad == 0) {
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
        Self(Some(Tensor::from_data(data, (device, DType::F32))))
    }
}

/// `[batch, tokens, heads · head_dim]` to `[batch, heads, tokens, head_dim]`.
pub fn split_heads(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, tokens, width] = x.dims();
    x.reshape([batch, tokens, heads, width / heads]).swap_dims(1, 2)
}

/// Scaled dot-product attention (Vaswani et al., 2017) with grouped queries (Ainslie et al., 2023).
///
/// `queries` are `[batch, heads, tokens, head_dim]`; `keys` and `values` have the same rank with `kv_heads`, of which
/// `heads` is a multiple: consecutive queries share a key head, which is not repeated in memory. Returns
/// `[batch, tokens, heads · head_dim]`.
pub fn attend(queries: Tensor<4>, keys: Tensor<4>, values: Tensor<4>, mask: &Mask, scale: f64) -> Tensor<3> {
    let [batch, heads, tokens, dim] = queries.dims();
    let [_, kv_heads, seen, _] = keys.dims();
    let group = heads / kv_heads;
    let queries = (queries * scale).reshape([batch, kv_heads, group * tokens, dim]);
    let mut scores = queries.matmul(keys.swap_dims(2, 3));
    if let Mask(Some(mask)) = mask {
        let by_head: Tensor<4> = scores.reshape([batch, heads, tokens, seen]);
        scores = (by_head + mask.clone()).reshape([batch, kv_heads, group * tokens, seen]);
    }
    let mixed = activation::softmax(scores, 3).matmul(values);
    mixed.reshape([batch, heads, tokens, dim]).swap_dims(1, 2).reshape([batch, tokens, heads * dim])
}
