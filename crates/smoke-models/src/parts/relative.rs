use std::sync::Arc;

use smoke_burn::{Cut, DeviceKind, Layout, LayoutError, PlacedTensor, WeightError, Weights};

use super::DistanceBias;

/// Positions as T5 has them (Raffel et al., 2020): a learnt term for each head and each bucket of distances between a
/// query and a key. Small distances have buckets of their own; larger ones share buckets that widen with their logarithm,
/// and all beyond a limit share the last.
#[derive(Clone, Debug)]
pub struct RelativeBias {
    /// `[buckets, heads]`.
    table: Arc<PlacedTensor>,
    directions: Directions,
    max_distance: usize,
}

/// Whether keys ahead of a query have buckets of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Directions {
    /// They share bucket 0 with the query itself: for decoders, which never look ahead.
    Back,
    /// Half of the buckets are theirs: for encoders.
    Both,
}

impl RelativeBias {
    /// Places the table `name`, which has `buckets` rows and a column for each of `heads` heads.
    ///
    /// # Errors
    /// [`LayoutError`] if the checkpoint has no such tensor.
    pub fn place(
        layout: &mut Layout<'_>,
        name: &str,
        [buckets, heads]: [usize; 2],
        directions: Directions,
        max_distance: usize,
    ) -> Result<Self, LayoutError> {
        Ok(Self { table: layout.place(name, &[buckets, heads], Cut::Whole)?, directions, max_distance })
    }

    /// The terms for queries that are the last `queries` of `keys` slots.
    ///
    /// # Errors
    /// [`WeightError`] if the table cannot be loaded.
    pub fn at(&self, queries: usize, keys: usize, weights: &Weights) -> Result<DistanceBias, WeightError> {
        let (buckets, heads) = (self.table.rows(), self.table.columns());
        weights.with_floats(&self.table, |table| {
            DistanceBias::new(heads, queries, keys, weights, |head, behind| {
                table[bucket(behind, buckets, self.directions, self.max_distance) * heads + head]
            })
        })
    }

    /// An upper bound of the bytes that the terms take, and the scores with them on devices other than the host.
    pub(crate) fn bytes(device: DeviceKind, batch: usize, heads: usize, queries: usize, keys: usize) -> u64 {
        let by_distance = heads * (queries + keys);
        let floats = match device {
            DeviceKind::Cpu => by_distance,
            // Twice on their way to the device, once there, and added to the scores of every row.
            _ => by_distance + (3 + batch) * heads * queries * keys,
        };
        (floats * size_of::<f32>()) as u64
    }
}

/// The bucket of a key that lies so many slots behind its query.
fn bucket(behind: i64, buckets: usize, directions: Directions, max_distance: usize) -> usize {
    let (buckets, first, distance) = match directions {
        Directions::Back => (buckets, 0, behind.max(0) as usize),
        Directions::Both => {
            let half = buckets / 2;
            (half, if behind < 0 { half } else { 0 }, behind.unsigned_abs() as usize)
        }
    };
    let exact = buckets / 2;
    if distance < exact.max(1) {
        return first + distance;
    }
    // In f32, as those who trained the tables had it: a bucket may begin at a whole logarithm.
    let part = (distance as f32 / exact as f32).ln() / (max_distance as f64 / exact as f64).ln() as f32;
    let wide = exact + (part * (buckets - exact) as f32) as usize;
    first + wide.min(buckets.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From Transformers' `T5Attention._relative_position_bucket`, of minus the distances here.
    #[test]
    fn buckets_are_those_of_transformers() {
        let behind = [0, 1, 7, 8, 15, 16, 19, 20, 32, 64, 127, 128, 1000];
        let back = behind.map(|behind| bucket(behind, 32, Directions::Back, 128));
        assert_eq!(back, [0, 1, 7, 8, 15, 16, 17, 17, 21, 26, 31, 31, 31]);
        let both = behind.map(|behind| bucket(behind, 32, Directions::Both, 128));
        assert_eq!(both, [0, 1, 7, 8, 9, 10, 10, 10, 12, 14, 15, 15, 15]);
        let ahead = behind.map(|behind| bucket(-behind, 32, Directions::Both, 128));
        assert_eq!(ahead, [0, 17, 23, 24, 25, 26, 26, 26, 28, 30, 31, 31, 31]);
        assert_eq!(bucket(-5, 32, Directions::Back, 128), 0);
    }
}
