use std::fmt;
use std::str::FromStr;

use burn::tensor::{DType, Tensor};
use smoke_burn::{Activations, Place, Weights};
use smoke_core::{Encoding, Permit};
use smoke_prefetch::StreamError;

use crate::error::ModelError;

/// Slots of a page. Small enough that a short generation takes little, large enough that a page is worth a product.
const PAGE_SLOTS: usize = 32;

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum KvEncoding {
    /// As they are computed.
    #[default]
    F32,
    /// In half the bytes; a relative error of at most 2⁻¹¹.
    F16,
    /// In about a quarter: 32 elements share a scale, as in `Q8_0`. Heads must be a multiple of 32 elements.
    Int8,
}

impl KvEncoding {
    fn encoding(self) -> Encoding {
        match self {
            Self::F32 => Encoding::F32,
            Self::F16 => Encoding::F16,
            Self::Int8 => Encoding::Q8_0,
        }
    }
}

impl FromStr for KvEncoding {
    type Err = ModelError;

    fn from_str(name: &str) -> Result<Self, ModelError> {
        match name {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "int8" | "q8_0" => Ok(Self::Int8),
            _ => Err(ModelError::unsupported("encoding of keys and values", name, "f32, f16, int8")),
        }
    }
}

/// The sizes that keys and values have in every layer, and how they are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// The number of layers.
    pub layers: usize,
    /// Heads of keys and values.
    pub heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// How they are kept on the host; other devices keep `f32`.
    pub encoding: KvEncoding,
}

impl KvShape {
    /// Bytes of the pages that `tokens` tokens in each of `batch` rows take.
    pub fn bytes(&self, batch: usize, tokens: usize) -> u64 {
        (tokens.div_ceil(PAGE_SLOTS) as u64).saturating_mul(self.page_bytes(batch))
    }

    /// One page holds [`PAGE_SLOTS`] slots of every row, head and layer, keys and values.
    fn page_bytes(&self, batch: usize) -> u64 {
        let factors = [2, self.layers, batch, self.heads, PAGE_SLOTS, self.head_bytes()];
        factors.into_iter().fold(1_u64, |product, factor| product.saturating_mul(factor as u64))
    }

    fn head_bytes(&self) -> usize {
        let encoding = self.encoding.encoding();
        encoding.bytes_for(self.head_dim as u64).map_or(self.head_dim * size_of::<f32>(), |bytes| bytes as usize)
    }
}

/// Keys and values of the tokens seen so far, for every layer, in memory drawn from the budget: on the host page by page
/// as tokens come (Kwon et al., 2023), on other devices at once.
///
/// Rows of a batch may be padded on the left: the first `padding[row]` slots of a row are never attended to and its
/// positions count from there.
pub struct KvCache {
    store: Store,
    shape: KvShape,
    len: usize,
    /// Slots beyond `len` that the pass which runs has written.
    pending: usize,
    capacity: usize,
    padding: Vec<usize>,
    permits: Vec<Permit>,
}

enum Store {
    Host {
        /// Each `[layers, batch, heads, 2, PAGE_SLOTS]` encoded heads.
        pages: Vec<Vec<u8>>,
        /// One new head, encoded.
        scratch: Vec<u8>,
    },
    /// Keys and values of each layer, `[batch, heads, capacity, head_dim]`; taken out while they are written.
    Device(Vec<Option<[Tensor<4>; 2]>>),
}

impl KvCache {
    /// An empty cache for rows of up to `capacity` tokens, one row for each entry of `padding`, where `weights` are used.
    ///
    /// # Errors
    /// [`ModelError`] if the budget has no room for it, or heads cannot be kept in the encoding.
    pub fn new(shape: KvShape, capacity: usize, padding: Vec<usize>, weights: &Weights) -> Result<Self, ModelError> {
        if shape.encoding.encoding().bytes_for(shape.head_dim as u64).is_none() {
            let value = format!("int8 for heads of {} elements", shape.head_dim);
            return Err(ModelError::unsupported("encoding of keys and values", &value, "f32, f16"));
        }
        let (store, permits) = if weights.on_host() {
            (Store::Host { pages: Vec::new(), scratch: Vec::new() }, Vec::new())
        } else {
            let shape = KvShape { encoding: KvEncoding::F32, ..shape };
            let permit = weights.streamer().make_room(shape.bytes(padding.len(), capacity))?;
            let dims = [padding.len(), shape.heads, capacity, shape.head_dim];
            let zeros = || Tensor::zeros(dims, (weights.device(), DType::F32));
            (Store::Device((0..shape.layers).map(|_| Some([zeros(), zeros()])).collect()), vec![permit])
        };
        Ok(Self { store, shape, len: 0, pending: 0, capacity, padding, permits })
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

    /// Bytes of the budget that are taken at the moment.
    pub fn bytes(&self) -> u64 {
        self.permits.iter().map(Permit::bytes).sum()
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
        self.shape.heads
    }

    /// Elements of a head.
    pub fn head_dim(&self) -> usize {
        self.shape.head_dim
    }

    /// The positions of the next `tokens` tokens of each row, row after row; padded slots count as position 0.
    pub fn next_positions(&self, tokens: usize) -> impl Iterator<Item = u32> + Clone {
        let slots = self.len..self.len + tokens;
        self.padding.iter().flat_map(move |&pad| slots.clone().map(move |slot| slot.saturating_sub(pad) as u32))
    }

    /// Takes memory for `tokens` more tokens. To be called before they are appended.
    ///
    /// # Errors
    /// [`StreamError`] if the budget has no room.
    pub fn reserve(&mut self, tokens: usize, weights: &Weights) -> Result<(), StreamError> {
        let page_bytes = self.shape.page_bytes(self.batch());
        let Store::Host { pages, .. } = &mut self.store else { return Ok(()) };
        while pages.len() * PAGE_SLOTS < self.len + tokens {
            self.permits.push(weights.streamer().make_room(page_bytes)?);
            pages.push(vec![0; page_bytes as usize]);
        }
        Ok(())
    }

    /// Adds the keys and values of new tokens to a layer, `[batch · tokens, heads · head_dim]`. The same slots are
    /// written for every layer until [`advance`](Self::advance).
    ///
    /// # Panics
    /// If the tokens do not fit the capacity, no memory was [reserved](Self::reserve) for them, or the heads are others.
    pub fn append(&mut self, layer: usize, keys: Activations, values: Activations) {
        let tokens = keys.rows() / self.batch().max(1);
        let (start, end) = (self.len, self.len + tokens);
        assert!(end <= self.capacity, "{end} tokens in a key-value cache for {}", self.capacity);
        self.pending = tokens;
        let KvShape { heads, head_dim, .. } = self.shape;
        match (&mut self.store, keys.place(), values.place()) {
            (Store::Host { pages, scratch }, Place::Host(keys), Place::Host(values)) => {
                for (side, new) in [keys, values].iter().enumerate() {
                    for (row, new) in new.chunks_exact(heads * head_dim).enumerate() {
                        let (batch, slot) = (row / tokens, start + row % tokens);
                        let page = &mut pages[slot / PAGE_SLOTS];
                        for (head, new) in new.chunks_exact(head_dim).enumerate() {
                            scratch.clear();
                            let encoding = self.shape.encoding.encoding();
                            smoke_quant::encode(encoding, new, scratch).expect("the encoding was checked");
                            let place = block(&self.shape, self.padding.len(), layer, batch, head, side);
                            page[place..][slot % PAGE_SLOTS * scratch.len()..][..scratch.len()]
                                .copy_from_slice(scratch);
                        }
                    }
                }
            }
            (Store::Device(layers), Place::Device(keys), Place::Device(values)) => {
                let shape = [self.padding.len(), tokens, heads, head_dim];
                let slots = [0..shape[0], 0..heads, start..end, 0..head_dim];
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
        self.pending = 0;
    }

    /// Forgets all tokens and keeps the memory.
    pub fn clear(&mut self) {
        (self.len, self.pending) = (0, 0);
    }

    /// Slots that hold something: those seen, and those that the pass which runs has appended.
    pub(super) fn written(&self) -> usize {
        self.len + self.pending
    }

    /// How keys and values are encoded on the host.
    pub(super) fn encoding(&self) -> Encoding {
        self.shape.encoding.encoding()
    }

    /// On the host: the pieces that hold the slots `from..to` of one head, in order: the number of slots, their keys and
    /// their values, each `[slots, head_dim]` encoded.
    pub(super) fn pieces(
        &self,
        (layer, batch, head): (usize, usize, usize),
        from: usize,
        to: usize,
    ) -> impl Iterator<Item = (usize, [&[u8]; 2])> {
        let Store::Host { pages, .. } = &self.store else { panic!("the cache lies where the queries do") };
        let head_bytes = self.shape.head_bytes();
        let sides = [0, 1].map(|side| block(&self.shape, self.batch(), layer, batch, head, side));
        let pages = pages.iter().enumerate().take(to.div_ceil(PAGE_SLOTS)).skip(from / PAGE_SLOTS);
        pages.map(move |(number, page)| {
            let first = from.saturating_sub(number * PAGE_SLOTS);
            let last = (to - number * PAGE_SLOTS).min(PAGE_SLOTS);
            (last - first, sides.map(|side| &page[side + first * head_bytes..side + last * head_bytes]))
        })
    }

    /// On another device: the keys and the values of the first `slots` slots, `[batch, heads, slots, head_dim]`.
    pub(super) fn tensors(&self, layer: usize, slots: usize) -> Option<[Tensor<4>; 2]> {
        let Store::Device(layers) = &self.store else { return None };
        let seen = [0..self.batch(), 0..self.shape.heads, 0..slots, 0..self.shape.head_dim];
        layers[layer].clone().map(|both| both.map(|all| all.slice(seen.clone())))
    }
}

/// Where in a page the keys (`side` 0) or values (1) of one head begin.
fn block(shape: &KvShape, rows: usize, layer: usize, batch: usize, head: usize, side: usize) -> usize {
    (((layer * rows + batch) * shape.heads + head) * 2 + side) * PAGE_SLOTS * shape.head_bytes()
}

impl fmt::Debug for KvCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvCache")
            .field("shape", &self.shape)
            .field("len", &self.len)
            .field("capacity", &self.capacity)
            .field("padding", &self.padding)
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}
