use smoke_core::{Budget, Permit};

use crate::codec::{Codec, CodecError};
use crate::measurement::Measurement;

/// The compressed copy of an extent, in pieces that are compressed by themselves: what is needed meanwhile stays small, and
/// between two of them one may stop.
#[derive(Debug)]
pub(crate) struct Pieces(Vec<(Box<[u8]>, Permit)>);

/// Raw bytes of a piece.
pub(crate) const PIECE: usize = 1 << 20;

/// The most that a piece of `raw` bytes takes while it is compressed: codecs ask for a little more than they need in the
/// worst case.
pub(crate) fn scratch_bytes(raw: usize) -> u64 {
    raw as u64 * 9 / 8 + 4096
}

impl Pieces {
    /// Compresses `raw`, taking the bytes from `room`. `None` if there is not enough of it, if too little is saved, or
    /// if asked to stop.
    pub(crate) fn compress(
        codec: &dyn Codec,
        raw: &[u8],
        room: &Budget,
        should_stop: &dyn Fn() -> bool,
    ) -> Option<Self> {
        let mut pieces = Vec::with_capacity(raw.len().div_ceil(PIECE));
        for piece in raw.chunks(PIECE) {
            if should_stop() {
                return None;
            }
            let mut permit = room.try_acquire(scratch_bytes(piece.len()))?;
            let compressed = codec.compress(piece).into_boxed_slice();
            permit.shrink_to(compressed.len() as u64);
            pieces.push((compressed, permit));
        }
        let copy = Self(pieces);
        (copy.bytes() as f64 / (raw.len().max(1) as f64) < Measurement::MAX_RATIO).then_some(copy)
    }

    /// Decodes into `raw`, which is as long as what was compressed. `Ok(false)` if asked to stop.
    pub(crate) fn decompress(
        &self,
        codec: &dyn Codec,
        raw: &mut [u8],
        should_stop: &dyn Fn() -> bool,
    ) -> Result<bool, CodecError> {
        for (piece, (compressed, _)) in raw.chunks_mut(PIECE).zip(&self.0) {
            if should_stop() {
                return Ok(false);
            }
            codec.decompress(compressed, piece)?;
        }
        Ok(true)
    }

    fn bytes(&self) -> u64 {
        self.0.iter().map(|(_, permit)| permit.bytes()).sum()
    }
}
