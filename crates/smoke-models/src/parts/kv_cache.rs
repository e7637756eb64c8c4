use std::fmt;

use burn::tensor::{DType, Device, Tensor};
use smoke_core::Permit;
use smoke_prefetch::{StreamError, Streamer};

use crate::model::LmConfig;

/// Keys and values of the tokens seen so far, for every layer, in memory drawn from the budget.
///
/// Rows of a batch may be padded on the left: the first `padding[row]` slots of a row are never attended to and its
/// positions count from there.
pub struct KvCache {
    layers: Vec<Option<(Tensor<4>, Tensor<4>)>>,
    len: usize,
    capacity: usize,
    padding: Vec<usize>,
    _permit: Permit,
}

impl KvCache {
    /// An empty cache for rows of up to `capacity` tokens, one row for each entry of `padding`.
    ///
    /// # Errors
    /// [`StreamError`] if the budget has no room for it.
    pub fn new(
        config: &LmConfig,
        capacity: usize,
        padding: Vec<usize>,
        streamer: &Streamer,
        device: &Device,
    ) -> Result<Self, StreamError> {
        let permit = streamer.make_room(config.kv_cache_bytes(padding.len(), capacity))?;
        let shape = [padding.len(), config.kv_heads, capacity, config.head_dim];
        let zeros = || Tensor::zeros(shape, (device, DType::F32));
        let layers = (0..config.layers).map(|_| Some((zeros(), zeros()))).collect();
        Ok(Self { layers, len: 0, capacity, padding, _permit: permit })
    }

    /// Tokens seen so far, padding included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token was seen.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens that fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Rows of the batch.
    pub fn batch(&self) -> usize {
        self.padding.len()
    }

    /// Padded slots of each row.
    pub fn padding(&self) -> &[usize] {
        &self.padding
    }

    /// The positions of the next `tokens` tokens of each row, row after row; padded slots count as position 0.
    pub fn next_positions(&self, tokens: usize) -> Vec<u32> {
        let slots = self.len..self.len + tokens;
        self.padding.iter().flat_map(|&pad| slots.clone().map(move |slot| slot.saturating_sub(pad) as u32)).collect()
    }

    /// Adds the keys and values of new tokens to a layer, shaped `[batch, kv_heads, tokens, head_dim]`, and returns
    /// those of all tokens. The same slots are written for every layer until [`advance`](Self::advance).
    ///
    /// # Panics
    /// If the tokens do not fit the capacity.
    pub fn append(&mut self, layer: usize, keys: Tensor<4>, values: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let [batch, heads, tokens, dim] = keys.dims();
        let end = self.len + tokens;
        assert!(end <= self.capacity, "{end} tokens in a key-value cache for {}", self.capacity);
        let new = [0..batch, 0..heads, self.len..end, 0..dim];
        // Taken out, the tensors have one owner and are written in place.
        let (all_keys, all_values) = self.layers[layer].take().expect("a layer is put back below");
        let all_keys = all_keys.slice_assign(new.clone(), keys);
        let all_values = all_values.slice_assign(new, values);
        let seen = [0..batch, 0..heads, 0..end, 0..dim];
        let result = (all_keys.clone().slice(seen.clone()), all_values.clone().slice(seen));
        self.layers[layer] = Some((all_keys, all_values));
        result
    }

    /// Counts `tokens` as seen, after every layer got them.
    pub fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }
}

impl fmt::Debug for KvCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvCache")
            .field("layers", &self.layers.len())
            .field("len", &self.len)
            .field("capacity", &self.capacity)
            .field("padding", &self.padding)
            .finish_non_exhaustive()
    }
}
