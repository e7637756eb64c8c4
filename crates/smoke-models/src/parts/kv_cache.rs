use std::fmt;

use burn::tensor::{DType, Tensor};
use smoke_burn::{Activations, Place, Weights};
use smoke_core::Permit;
use smoke_prefetch::StreamError;

use crate::model::LmConfig;

/// Keys and values of the tokens seen so far, for every layer, in memory drawn from the budget.
///
/// Rows of a batch may be padded on the left: the first `padding[row]` slots of a row are never attended to and its
/// positions count from there.
pub struct KvCache {
    store: Store,
    kv_heads: usize,
    head_dim: usize,
    len: usize,
    capacity: usize,
    padding: Vec<usize>,
    _permit: Permit,
}

enum Store {
    /// Keys and values of each layer, `[batch, kv_heads, capacity, head_dim]`.
    Host(Vec<[Vec<f32>; 2]>),
    /// The same as tensors; taken out while they are written.
    Device(Vec<Option<[Tensor<4>; 2]>>),
}

impl KvCache {
    /// An empty cache for rows of up to `capacity` tokens, one row for each entry of `padding`, where `weights` are used.
    ///
    /// # Errors
    /// [`StreamError`] if the budget has no room for it.
    pub fn new(
        config: &LmConfig,
        capacity: usize,
        padding: Vec<usize>,
        weights: &Weights,
    ) -> Result<Self, StreamError> {
        let permit = weights.streamer().make_room(config.kv_cache_bytes(padding.len(), capacity))?;
        let shape = [padding.len(), config.kv_heads, capacity, config.head_dim];
        let store = if weights.on_host() {
            // Zeros that nobody has touched yet take no memory.
            let zeros = || vec![0.0; shape.iter().product()];
            Store::Host((0..config.layers).map(|_| [zeros(), zeros()]).collect())
        } else {
            let zeros = || Tensor::zeros(shape, (weights.device(), DType::F32));
            Store::Device((0..config.layers).map(|_| Some([zeros(), zeros()])).collect())
        };
        let (kv_heads, head_dim) = (config.kv_heads, config.head_dim);
        Ok(Self { store, kv_heads, head_dim, len: 0, capacity, padding, _permit: permit })
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

    /// Heads of keys and values.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Elements of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// The positions of the next `tokens` tokens of each row, row after row; padded slots count as position 0.
    pub fn next_positions(&self, tokens: usize) -> impl Iterator<Item = u32> + Clone {
        let slots = self.len..self.len + tokens;
        self.padding.iter().flat_map(move |&pad| slots.clone().map(move |slot| slot.saturating_sub(pad) as u32))
    }

    /// Adds the keys and values of new tokens to a layer, `[batch · tokens, kv_heads · head_dim]`. The same slots are
    /// written for every layer until [`advance`](Self::advance).
    ///
    /// # Panics
    /// If the tokens do not fit the capacity, or the heads are others.
    pub fn append(&mut self, layer: usize, keys: Activations, values: Activations) {
        let tokens = keys.rows() / self.batch().max(1);
        let (start, end) = (self.len, self.len + tokens);
        assert!(end <= self.capacity, "{end} tokens in a key-value cache for {}", self.capacity);
        let shape = [self.batch(), tokens, self.kv_heads, self.head_dim];
        match (&mut self.store, keys.place(), values.place()) {
            (Store::Host(layers), Place::Host(keys), Place::Host(values)) => {
                let row = self.kv_heads * self.head_dim;
                for (all, new) in layers[layer].iter_mut().zip([keys, values]) {
                    for (slot, new) in new.chunks_exact(row).enumerate() {
                        let (batch, slot) = (slot / tokens, start + slot % tokens);
                        for (head, new) in new.chunks_exact(self.head_dim).enumerate() {
                            let place = (batch * self.kv_heads + head) * self.capacity + slot;
                            all[place * self.head_dim..][..self.head_dim].copy_from_slice(new);
                        }
                    }
                }
            }
            (Store::Device(layers), Place::Device(keys), Place::Device(values)) => {
                let slots = [0..shape[0], 0..self.kv_heads, start..end, 0..self.head_dim];
                let write = |all: Tensor<4>, new: Tensor<2>| {
                    let new: Tensor<4> = new.reshape(shape).swap_dims(1, 2);
                    all.slice_assign(slots.clone(), new)
                };
                // Taken out, the tensors have one owner and are written in place.
                let [all_keys, all_values] = layers[layer].take().expect("a layer is put back below");
                layers[layer] = Some([write(all_keys, keys), write(all_values, values)]);
            }
            _ => panic!("keys and values on another device than their cache"),
        }
    }

    /// Counts `tokens` as seen, after every layer got them.
    pub fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// On the host: the keys and the values of the first `slots` slots of one head, each `[slots, head_dim]`.
    pub(super) fn head(&self, layer: usize, batch: usize, head: usize, slots: usize) -> Option<[&[f32]; 2]> {
        let Store::Host(layers) = &self.store else { return None };
        let start = (batch * self.kv_heads + head) * self.capacity * self.head_dim;
        let [keys, values] = &layers[layer];
        Some([keys, values].map(|all| &all[start..][..slots * self.head_dim]))
    }

    /// On another device: the keys and the values of the first `slots` slots, `[batch, kv_heads, slots, head_dim]`.
    pub(super) fn tensors(&self, layer: usize, slots: usize) -> Option<[Tensor<4>; 2]> {
        let Store::Device(layers) = &self.store else { return None };
        let seen = [0..self.batch(), 0..self.kv_heads, 0..slots, 0..self.head_dim];
        layers[layer].clone().map(|both| both.map(|all| all.slice(seen.clone())))
    }
}

impl fmt::Debug for KvCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvCache")
            .field("kv_heads", &self.kv_heads)
            .field("head_dim", &self.head_dim)
            .field("len", &self.len)
            .field("capacity", &self.capacity)
            .field("padding", &self.padding)
            .finish_non_exhaustive()
    }
}
