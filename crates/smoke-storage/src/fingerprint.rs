use crate::error::SourceError;
use crate::source::{Extent, WeightSource};
use crate::unit_map::UnitMap;

/// Pieces of the weights that are looked at.
const PIECES: u64 = 64;
/// The most bytes of each.
const PIECE_BYTES: u64 = 4096;

/// A number that tells a model from others, for what is remembered of it: it follows from its tensors' names, shapes,
/// encodings and places, and from 64 pieces of 4 KiB spread over their bytes. It does not depend on where the files lie.
///
/// Two models of one shape that differ nowhere in these pieces have the same; it is no proof that nothing was changed.
///
/// # Errors
/// [`SourceError`] if the pieces cannot be read.
pub fn fingerprint(source: &dyn WeightSource) -> Result<u64, SourceError> {
    let index = source.index();
    let mut hash = Fnv::new();
    let mut total_bytes = 0;
    for tensor in index {
        let Extent { file, offset, len } = tensor.extent;
        hash.add(tensor.name.as_bytes());
        hash.add(tensor.encoding.to_string().as_bytes());
        hash.add_number(tensor.shape.len() as u64);
        for number in tensor.shape.iter().copied().chain([u64::from(file), offset, len]) {
            hash.add_number(number);
        }
        total_bytes += len;
    }
    // One piece for each equal part of the bytes, as the tensors lie one after another.
    let (mut begun, mut piece) = (0, 0);
    let mut buffer = Vec::new();
    for Extent { file, offset, len } in index.iter().map(|tensor| tensor.extent) {
        let place = |piece: u64| (u128::from(total_bytes) * u128::from(piece) / u128::from(PIECES)) as u64;
        while piece < PIECES && place(piece) < begun + len {
            let within = place(piece) - begun;
            let extent = Extent { file, offset: offset + within, len: PIECE_BYTES.min(len - within) };
            buffer.resize(extent.len as usize, 0);
            source.read_at(extent, &mut buffer)?;
            hash.add(&buffer);
            piece += 1;
        }
        begun += len;
    }
    Ok(hash.0)
}

impl UnitMap {
    /// A number that tells how weights are divided into units from other ways to divide them: it follows from what each
    /// unit occupies and where its parts lie.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = Fnv::new();
        for unit in self.units() {
            hash.add_number(self.buffer_bytes(unit));
            for Extent { file, offset, len } in self.extents(unit) {
                [u64::from(file), offset, len].into_iter().for_each(|number| hash.add_number(number));
            }
        }
        hash.0
    }
}

/// FNV-1a, Fowler, Noll and Vo 1991.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn add_number(&mut self, number: u64) {
        self.add(&number.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use smoke_core::Encoding;

    use super::*;
    use crate::{MemorySource, UnitMapBuilder};

    fn of(tensors: &[(&str, Vec<u64>, Vec<u8>)]) -> u64 {
        let tensors =
            tensors.iter().map(|(name, shape, bytes)| ((*name).to_owned(), Encoding::U8, shape.clone(), bytes.clone()));
        fingerprint(&MemorySource::new(tensors.collect()).unwrap()).unwrap()
    }

    #[test]
    fn it_tells_models_apart_and_the_same_model_not() {
        let bytes: Vec<u8> = (0..300_000_u32).map(|place| (place % 251) as u8).collect();
        let model = of(&[("a", vec![300_000], bytes.clone()), ("b", vec![2], vec![1, 2])]);
        assert_eq!(model, of(&[("a", vec![300_000], bytes.clone()), ("b", vec![2], vec![1, 2])]));
        assert_ne!(model, of(&[("a", vec![300_000], bytes.clone()), ("c", vec![2], vec![1, 2])]), "a name");
        assert_ne!(model, of(&[("a", vec![300, 1000], bytes.clone()), ("b", vec![2], vec![1, 2])]), "a shape");
        // The last piece begins at 63 parts of 64.
        let mut changed = bytes.clone();
        changed[300_002 * 63 / 64] ^= 1;
        assert_ne!(model, of(&[("a", vec![300_000], changed), ("b", vec![2], vec![1, 2])]), "a byte");
        assert_ne!(of(&[]), of(&[("a", vec![0], Vec::new())]));
    }

    #[test]
    fn it_tells_divisions_apart() {
        let source = MemorySource::new(vec![("a".to_owned(), Encoding::U8, vec![8], vec![0; 8])]).unwrap();
        let extent = source.index().get("a").unwrap().extent;
        let divided = |lens: &[u64]| {
            let mut map = UnitMapBuilder::new(1);
            let mut offset = extent.offset;
            for &len in lens {
                map.begin_unit();
                map.push(Extent { offset, len, ..extent });
                offset += len;
            }
            map.finish(source.index()).unwrap().fingerprint()
        };
        assert_eq!(divided(&[4, 4]), divided(&[4, 4]));
        assert!(divided(&[4, 4]) != divided(&[8]) && divided(&[4, 4]) != divided(&[5, 3]));
    }
}
