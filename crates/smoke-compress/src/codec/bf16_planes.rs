use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::CParameter;

use super::{Codec, CodecError, corrupt};

/// For weights in `bf16`: the planes of high and of low bytes lie apart, and only the high one is compressed.
///
/// Of a two-byte word, little-endian, the high byte is the sign and most of the exponent, and the exponents of trained
/// weights carry about 2.6 bits of their eight (Zhang et al., "70% Size, 100% Accuracy", 2025): Zstandard's Huffman code
/// finds that. The low byte is nearly all mantissa, which is noise, and is stored as it is. Other bytes are restored as well, only
/// less of them is saved.
///
/// A block of words is the length of its high plane in compressed bytes (`u32`, little-endian), that plane, and the low
/// plane; an odd last byte ends the whole.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bf16Planes;

/// Words in a block: both of its planes fit in the processor's second cache.
const WORDS: usize = 64 << 10;

impl Codec for Bf16Planes {
    fn name(&self) -> &'static str {
        "bf16-planes"
    }

    fn compress(&self, raw: &[u8]) -> Vec<u8> {
        const INFALLIBLE: &str = "its buffer is as large as it asks for";
        let mut compressor = Compressor::new(1).expect(INFALLIBLE);
        // Short repetitions in noise cost more time than they save.
        compressor.set_parameter(CParameter::MinMatch(7)).expect("7 is allowed");
        let mut compressed = Vec::with_capacity(raw.len() + raw.len() / 64 + 128);
        let (words, odd) = raw.as_chunks::<2>();
        let mut high = Vec::with_capacity(words.len().min(WORDS));
        for block in words.chunks(WORDS) {
            high.clear();
            high.extend(block.iter().map(|word| word[1]));
            let plane = compressor.compress(&high).expect(INFALLIBLE);
            compressed.extend((plane.len() as u32).to_le_bytes());
            compressed.extend(plane);
            compressed.extend(block.iter().map(|word| word[0]));
        }
        compressed.extend(odd);
        compressed
    }

    fn decompress(&self, compressed: &[u8], raw: &mut [u8]) -> Result<(), CodecError> {
        let short = || corrupt(self, "they end too early");
        let mut decompressor = Decompressor::new().map_err(|error| corrupt(self, error))?;
        let (words, odd) = raw.as_chunks_mut::<2>();
        let mut high = vec![0; words.len().min(WORDS)];
        let mut rest = compressed;
        for block in words.chunks_mut(WORDS) {
            let (len, after) = rest.split_first_chunk().ok_or_else(short)?;
            let (plane, after) = after.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or_else(short)?;
            let (low, after) = after.split_at_checked(block.len()).ok_or_else(short)?;
            rest = after;
            let high = &mut high[..block.len()];
            let found = decompressor.decompress_to_buffer(plane, high).map_err(|error| corrupt(self, error))?;
            super::check_length(self, block.len(), found)?;
            for ((word, &high), &low) in block.iter_mut().zip(&*high).zip(low) {
                *word = [low, high];
            }
        }
        if rest.len() != odd.len() {
            return Err(corrupt(self, format!("{} bytes follow where {} should", rest.len(), odd.len())));
        }
        odd.copy_from_slice(rest);
        Ok(())
    }
}
