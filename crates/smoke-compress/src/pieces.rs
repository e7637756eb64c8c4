use smoke_core::Permit;

use crate::codec::{Codec, CodecError};

/// The compressed copy of an extent, in pieces that are compressed by themselves: what is needed meanwhile stays small, and
/// between two of them one may stop. Each is inside its permit.
#[derive(Debug)]
pub(crate) struct Pieces(pub(crate) Vec<(Box<[u8]>, Permit)>);

/// Raw bytes of a piece.
pub(crate) const PIECE: usize = 1 << 20;

/// The most that a piece of `raw` bytes takes while it is compressed: codecs ask for a little more than they need in the
/// worst case.
pub(crate) fn scratch_bytes(raw: usize) -> u64 {
    raw as u64 * 9 / 8 + 128
}

impl Pieces {
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

    /// Compressed bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.iter().map(|(_, permit)| permit.bytes()).sum()
    }
}
