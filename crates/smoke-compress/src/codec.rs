//! Lossless codecs of bytes.

use std::fmt::Debug;
use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;

pub use bf16_planes::Bf16Planes;

mod bf16_planes;

/// The names that [`by_name`] knows.
pub const CODEC_NAMES: [&str; 4] = ["lz4", "zstd", "zlib", "bf16-planes"];

/// Compresses bytes and gives the same bytes back.
///
/// # Contract
/// `decompress(compress(raw))` is `raw`, whatever its bytes and length. Many threads use one codec at once.
pub trait Codec: Debug + Send + Sync {
    /// What people call it.
    fn name(&self) -> &'static str;

    /// The bytes, compressed: any number of them, for what cannot be compressed becomes longer. Takes no more memory for them
    /// than nine eighths of the raw bytes and 128 more.
    fn compress(&self, raw: &[u8]) -> Vec<u8>;

    /// Fills `raw`, which is as long as what was compressed. After a failure it holds anything.
    ///
    /// # Errors
    /// [`CodecError`] if these are not the whole of the compressed bytes of that many. Not every changed byte is noticed:
    /// copies in memory carry no checksum.
    fn decompress(&self, compressed: &[u8], raw: &mut [u8]) -> Result<(), CodecError>;
}

/// Compressed bytes that are not what they should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The codec does not understand them.
    #[error("{codec}: the compressed bytes are corrupt: {reason}")]
    Corrupt {
        /// Which codec.
        codec: &'static str,
        /// What it says.
        reason: String,
    },
    /// They are the bytes of something shorter or longer.
    #[error("{codec}: {expected} bytes were compressed, not {found}")]
    Length {
        /// Which codec.
        codec: &'static str,
        /// How many bytes were asked for.
        expected: usize,
        /// How many there are; where there are more than asked for, any larger number.
        found: usize,
    },
}

/// A built-in codec, by one of [`CODEC_NAMES`].
pub fn by_name(name: &str) -> Option<Box<dyn Codec>> {
    Some(match name {
        "lz4" => Box::new(Lz4),
        "zstd" => Box::new(Zstd),
        "zlib" => Box::new(Zlib),
        "bf16-planes" => Box::new(Bf16Planes),
        _ => return None,
    })
}

/// LZ4's block format (Collet, 2011): the quickest to decode. It finds repetitions and knows no entropy coding.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lz4;

impl Codec for Lz4 {
    fn name(&self) -> &'static str {
        "lz4"
    }

    fn compress(&self, raw: &[u8]) -> Vec<u8> {
        lz4_flex::block::compress(raw)
    }

    fn decompress(&self, compressed: &[u8], raw: &mut [u8]) -> Result<(), CodecError> {
        let found = lz4_flex::block::decompress_into(compressed, raw).map_err(|error| corrupt(self, error))?;
        check_length(self, raw.len(), found)
    }
}

/// Zstandard (RFC 8878, 2021) at level 1: repetitions, then Huffman and finite-state entropy coding.
#[derive(Clone, Copy, Debug, Default)]
pub struct Zstd;

impl Codec for Zstd {
    fn name(&self) -> &'static str {
        "zstd"
    }

    fn compress(&self, raw: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(raw, 1).expect("its buffer is as large as it asks for")
    }

    fn decompress(&self, compressed: &[u8], raw: &mut [u8]) -> Result<(), CodecError> {
        let found = zstd::bulk::decompress_to_buffer(compressed, raw).map_err(|error| corrupt(self, error))?;
        check_length(self, raw.len(), found)
    }
}

/// Zlib (RFC 1950, 1996) at level 1, with its checksum.
#[derive(Clone, Copy, Debug, Default)]
pub struct Zlib;

impl Codec for Zlib {
    fn name(&self) -> &'static str {
        "zlib"
    }

    fn compress(&self, raw: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::with_capacity(raw.len() + raw.len() / 64 + 64), Compression::new(1));
        encoder.write_all(raw).and_then(|()| encoder.finish()).expect("a vector takes everything")
    }

    fn decompress(&self, compressed: &[u8], raw: &mut [u8]) -> Result<(), CodecError> {
        let mut decoder = ZlibDecoder::new(compressed);
        decoder.read_exact(raw).map_err(|error| corrupt(self, error))?;
        // The end of the stream is where the checksum is compared.
        let rest = decoder.read(&mut [0]).map_err(|error| corrupt(self, error))?;
        check_length(self, raw.len(), raw.len() + rest)
    }
}

fn corrupt(codec: &dyn Codec, reason: impl ToString) -> CodecError {
    CodecError::Corrupt { codec: codec.name(), reason: reason.to_string() }
}

fn check_length(codec: &dyn Codec, expected: usize, found: usize) -> Result<(), CodecError> {
    if expected == found { Ok(()) } else { Err(CodecError::Length { codec: codec.name(), expected, found }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_finds_its_codec() {
        for name in CODEC_NAMES {
            assert_eq!(by_name(name).map(|codec| codec.name()), Some(name));
        }
        assert!(by_name("rar").is_none());
    }
}
