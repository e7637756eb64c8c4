//! What flows between streamed layers.

use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{DType, Tensor, TensorData};

use crate::weights::Weights;

/// A matrix of floats, `[rows, features]`: plain memory on the host, a tensor on other devices.
///
/// On the host its memory is lent by [`Weights`] and goes back when it is dropped, so that decoding token after token
/// allocates nothing here. What is written with Burn's operations runs on every device; the host has code of its own where
/// a chain of operations would read and write the same few kilobytes again and again.
pub struct Activations {
    rows: usize,
    features: usize,
    store: Store,
}

enum Store {
    Host(Floats),
    Device(Box<Tensor<2>>),
}

impl Activations {
    /// Floats on the host, `features` to a row.
    ///
    /// # Panics
    /// If they are no whole number of rows.
    pub fn from_host(floats: Floats, features: usize) -> Self {
        assert!(floats.len().is_multiple_of(features.max(1)), "{} floats are no rows of {features}", floats.len());
        Self { rows: floats.len() / features.max(1), features, store: Store::Host(floats) }
    }

    /// A tensor on another device.
    pub fn from_tensor(tensor: Tensor<2>) -> Self {
        let [rows, features] = tensor.dims();
        Self { rows, features, store: Store::Device(Box::new(tensor)) }
    }

    /// Brings floats on the host to where `weights` are used.
    pub(crate) fn placed(weights: &Weights, floats: Floats, features: usize) -> Self {
        if weights.on_host() {
            return Self::from_host(floats, features);
        }
        Self::from_tensor(Self::from_host(floats, features).tensor(weights))
    }

    /// The number of rows: tokens of all sequences of a batch.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of features in a row.
    pub fn features(&self) -> usize {
        self.features
    }

    /// Takes the matrix apart for code that is written for both kinds.
    pub fn place(self) -> Place {
        match self.store {
            Store::Host(floats) => Place::Host(floats),
            Store::Device(tensor) => Place::Device(*tensor),
        }
    }

    /// The floats, if they lie on the host.
    pub fn on_host(&self) -> Option<&[f32]> {
        match &self.store {
            Store::Host(floats) => Some(floats),
            Store::Device(_) => None,
        }
    }

    /// The matrix as a tensor on `weights`' device; on the host this copies.
    pub fn tensor(&self, weights: &Weights) -> Tensor<2> {
        match &self.store {
            Store::Host(floats) => {
                let data = TensorData::new(floats.to_vec(), [self.rows, self.features]);
                Tensor::from_data(data, (weights.device(), DType::F32))
            }
            Store::Device(tensor) => (**tensor).clone(),
        }
    }

    /// Copies the floats into `out`, row after row, whatever it held before; waits for the device.
    pub fn copy_into(&self, out: &mut Vec<f32>) {
        out.clear();
        match &self.store {
            Store::Host(floats) => out.extend_from_slice(floats),
            Store::Device(tensor) => {
                let data = (**tensor).clone().into_data();
                out.extend_from_slice(data.as_slice::<f32>().expect("activations are f32"));
            }
        }
    }

    /// The floats, row after row; waits for the device.
    pub fn to_vec(&self) -> Vec<f32> {
        let mut floats = Vec::new();
        self.copy_into(&mut floats);
        floats
    }

    /// Adds `other`, element by element.
    ///
    /// # Panics
    /// If the shapes differ, or one lies on the host and the other does not.
    pub fn add(&mut self, other: Self) {
        assert_eq!((self.rows, self.features), (other.rows, other.features), "the shapes differ");
        match (&mut self.store, other.store) {
            (Store::Host(a), Store::Host(b)) => a.iter_mut().zip(b.iter()).for_each(|(a, b)| *a += b),
            (Store::Device(a), Store::Device(b)) => **a = (**a).clone() + *b,
            _ => panic!("activations on different devices"),
        }
    }

    /// Multiplies every element by `factor`.
    pub fn scale(&mut self, factor: f32) {
        match &mut self.store {
            Store::Host(floats) => floats.iter_mut().for_each(|x| *x *= factor),
            Store::Device(tensor) => **tensor = (**tensor).clone() * factor,
        }
    }

    /// The rows at these places, in this order; at least one.
    ///
    /// # Panics
    /// If there are none, or one is not there.
    pub fn select_rows(&self, weights: &Weights, places: &[usize]) -> Self {
        // A device may not look whether a row is there.
        assert!(
            !places.is_empty() && places.iter().all(|&place| place < self.rows),
            "rows {places:?} of {}",
            self.rows
        );
        match &self.store {
            Store::Host(floats) => {
                let mut out = weights.floats(places.len() * self.features);
                for (out, place) in out.chunks_exact_mut(self.features.max(1)).zip(places) {
                    out.copy_from_slice(&floats[place * self.features..][..self.features]);
                }
                Self::from_host(out, self.features)
            }
            Store::Device(tensor) => Self::from_tensor((**tensor).clone().select(0, weights.indices(places))),
        }
    }

    /// The features in `range` of every row.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn slice_features(&self, weights: &Weights, range: Range<usize>) -> Self {
        self.slice_groups(weights, self.features, range)
    }

    /// The features in `range` of every `group` features of every row, side by side.
    ///
    /// # Panics
    /// If a group has not so many, or the features are no whole number of groups.
    pub fn slice_groups(&self, weights: &Weights, group: usize, range: Range<usize>) -> Self {
        assert!(self.features.is_multiple_of(group.max(1)), "{} features are no groups of {group}", self.features);
        let groups = self.features / group.max(1);
        let (len, features) = (range.len(), groups * range.len());
        match &self.store {
            Store::Host(floats) => {
                let mut out = weights.floats(self.rows * features);
                let parts = floats.chunks_exact(group.max(1));
                for (out, part) in out.chunks_exact_mut(len.max(1)).zip(parts) {
                    out.copy_from_slice(&part[range.clone()]);
                }
                Self::from_host(out, features)
            }
            Store::Device(tensor) => {
                let parts: Tensor<3> = (**tensor).clone().reshape([self.rows, groups, group]);
                let parts = parts.slice([0..self.rows, 0..groups, range]);
                Self::from_tensor(parts.reshape([self.rows, features]))
            }
        }
    }

    /// The last of every `group` rows: of each sequence of a batch its last token.
    ///
    /// # Panics
    /// If the rows are no whole number of groups.
    pub fn last_of_each(&self, weights: &Weights, group: usize) -> Self {
        assert!(group > 0 && self.rows.is_multiple_of(group), "{} rows are no groups of {group}", self.rows);
        match &self.store {
            Store::Host(floats) => {
                let mut out = weights.floats(self.rows / group * self.features);
                let groups = floats.chunks_exact((group * self.features).max(1));
                for (out, group) in out.chunks_exact_mut(self.features.max(1)).zip(groups) {
                    out.copy_from_slice(&group[group.len() - self.features..]);
                }
                Self::from_host(out, self.features)
            }
            Store::Device(tensor) => {
                let grouped: Tensor<3> = (**tensor).clone().reshape([self.rows / group, group, self.features]);
                let last = grouped.slice([0..self.rows / group, group - 1..group, 0..self.features]);
                Self::from_tensor(last.reshape([self.rows / group, self.features]))
            }
        }
    }

    /// A copy: on the host of the floats, elsewhere of a handle.
    pub fn duplicate(&self, weights: &Weights) -> Self {
        match &self.store {
            Store::Host(floats) => {
                let mut copy = weights.floats(floats.len());
                copy.copy_from_slice(floats);
                Self::from_host(copy, self.features)
            }
            Store::Device(tensor) => Self::from_tensor((**tensor).clone()),
        }
    }
}

impl fmt::Debug for Activations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.on_host().is_some() { "host" } else { "device" };
        f.debug_struct("Activations")
            .field("rows", &self.rows)
            .field("features", &self.features)
            .field("place", &place)
            .finish()
    }
}

/// Where activations lie.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it is taken apart where it is made")]
pub enum Place {
    /// In plain memory, row after row.
    Host(Floats),
    /// On another device, shaped `[rows, features]`.
    Device(Tensor<2>),
}

/// Floats on the host, lent by [`Weights::floats`]; they go back when this is dropped.
pub struct Floats {
    values: Vec<f32>,
    len: usize,
    lender: FloatPool,
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values[..self.len]
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[..self.len]
    }
}

impl Drop for Floats {
    fn drop(&mut self) {
        self.lender.take_back(std::mem::take(&mut self.values));
    }
}

impl fmt::Debug for Floats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Floats").field("len", &self.len).finish_non_exhaustive()
    }
}

/// Memory for activations that goes round. What it keeps is charged by whoever planned the activations.
#[derive(Clone, Default)]
pub(crate) struct FloatPool {
    spare: Arc<Mutex<Vec<Vec<f32>>>>,
    /// What there is, lent and spare.
    floats: Arc<AtomicUsize>,
}

impl FloatPool {
    /// Lends `len` floats, which hold anything: the smallest spare memory that fits. Where none does, new memory takes
    /// the place of the largest, so that there is never more than what was lent at one time.
    pub(crate) fn lend(&self, len: usize) -> Floats {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = spare.iter().enumerate().filter(|(_, values)| values.len() >= len);
        let best = fitting.min_by_key(|(_, values)| values.len()).map(|(place, _)| place);
        let outgrown = || spare.iter().enumerate().max_by_key(|(_, values)| values.len()).map(|(place, _)| place);
        let taken = best.or_else(outgrown).map(|place| spare.swap_remove(place));
        drop(spare);
        let values = match taken {
            Some(values) if values.len() >= len => values,
            outgrown => {
                self.floats.fetch_sub(outgrown.map_or(0, |values| values.len()), Ordering::Relaxed);
                self.floats.fetch_add(rounded(len), Ordering::Relaxed);
                vec![0.0; rounded(len)]
            }
        };
        Floats { values, len, lender: self.clone() }
    }

    /// Frees what is not lent.
    pub(crate) fn clear(&self) {
        let spare = std::mem::take(&mut *self.spare.lock().unwrap_or_else(PoisonError::into_inner));
        self.floats.fetch_sub(spare.iter().map(Vec::len).sum(), Ordering::Relaxed);
    }

    /// Bytes of what there is, lent and spare.
    pub(crate) fn bytes(&self) -> u64 {
        (self.floats.load(Ordering::Relaxed) * size_of::<f32>()) as u64
    }

    fn take_back(&self, values: Vec<f32>) {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(values);
    }
}

/// Up to an eighth more, so that memory for something that grows token by token is not made anew each time.
fn rounded(len: usize) -> usize {
    len.next_multiple_of((len.next_power_of_two() / 16).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_go_round_and_the_smallest_that_fits_is_taken() {
        let pool = FloatPool::default();
        let (small, large) = (pool.lend(10), pool.lend(100));
        let (at_small, at_large) = (small.as_ptr(), large.as_ptr());
        drop((small, large));
        let again = pool.lend(8);
        assert_eq!((again.as_ptr(), again.len()), (at_small, 8));
        assert_eq!(pool.lend(11).as_ptr(), at_large);
        drop(again);
        // What was outgrown is not kept beside what replaces it: two were lent at one time, and two there are.
        for len in 100..5_000 {
            drop(pool.lend(len));
        }
        assert_eq!(pool.spare.lock().unwrap().len(), 2);
        let floats: usize = pool.spare.lock().unwrap().iter().map(Vec::len).sum();
        assert_eq!(pool.bytes(), 4 * floats as u64);
        pool.clear();
        assert!(pool.spare.lock().unwrap().is_empty());
        assert_eq!(pool.bytes(), 0);
    }
}
