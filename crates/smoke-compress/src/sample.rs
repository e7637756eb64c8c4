use std::time::{Duration, Instant};

use crate::codec::Codec;
use crate::pieces::{PIECE, scratch_bytes};

/// What a codec makes of some bytes, and how fast one thread does it here and now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Compressed bytes by raw bytes.
    pub ratio: f64,
    /// Raw bytes per second.
    pub compress_bytes_per_second: f64,
    /// Raw bytes per second.
    pub decode_bytes_per_second: f64,
}

impl Sample {
    /// Enough to know, in raw bytes: an even share of it from each of several places knows more.
    pub const ENOUGH: usize = 4 << 20;

    /// The most memory that [`of`](Self::of) takes for places of at most so many bytes.
    pub fn scratch_bytes(longest: usize) -> u64 {
        let piece = longest.min(PIECE);
        piece as u64 + scratch_bytes(piece)
    }

    /// Compresses `places` and decodes them again, a MiB at a time. `None` without any bytes, or if the codec breaks its
    /// contract.
    pub fn of(codec: &dyn Codec, places: &[&[u8]]) -> Option<Self> {
        let (mut raw_bytes, mut compressed_bytes) = (0, 0);
        let (mut compressing, mut decoding) = (Duration::ZERO, Duration::ZERO);
        let longest = places.iter().map(|place| place.len()).fold(0, usize::max);
        // Its pages are made before time counts, as those of a unit's buffer are.
        let mut decoded = vec![1; longest.min(PIECE)];
        for piece in places.iter().flat_map(|place| place.chunks(PIECE)) {
            let decoded = &mut decoded[..piece.len()];
            let start = Instant::now();
            let compressed = codec.compress(piece);
            let between = Instant::now();
            codec.decompress(&compressed, decoded).ok()?;
            decoding += between.elapsed();
            compressing += between - start;
            if decoded != piece {
                return None;
            }
            raw_bytes += piece.len();
            compressed_bytes += compressed.len();
        }
        let rate = |time: Duration| raw_bytes as f64 / time.as_secs_f64().max(1e-9);
        (raw_bytes > 0).then(|| Self {
            ratio: compressed_bytes as f64 / raw_bytes as f64,
            compress_bytes_per_second: rate(compressing),
            decode_bytes_per_second: rate(decoding),
        })
    }
}
