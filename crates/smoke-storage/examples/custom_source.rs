//! A source of one's own: weights that lie encrypted on the disk. The conformance suite checks it.

use smoke_core::Encoding;
use smoke_storage::{Extent, MemorySource, SourceError, TensorIndex, WeightSource, conformance};

/// Decrypts what another source reads. A toy cipher, which has what a real one needs: each byte depends on where it
/// lies, so that any range can be decrypted by itself.
#[derive(Debug)]
struct Decrypting<S> {
    encrypted: S,
    key: u64,
}

impl<S> Decrypting<S> {
    fn key_stream(&self, offset: u64) -> u8 {
        (offset ^ self.key).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()[7]
    }
}

impl<S: WeightSource> WeightSource for Decrypting<S> {
    fn index(&self) -> &TensorIndex {
        self.encrypted.index()
    }

    fn read_at(&self, extent: Extent, buf: &mut [u8]) -> Result<(), SourceError> {
        self.encrypted.read_at(extent, buf)?;
        for (byte, offset) in buf.iter_mut().zip(extent.offset..) {
            *byte ^= self.key_stream(offset);
        }
        Ok(())
    }

    fn alignment(&self) -> u64 {
        self.encrypted.alignment()
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let secret = b"sixteen of these";
    // The cipher is its own inverse, so that reading plain bytes through it encrypts them.
    let tensor = |bytes: &[u8]| vec![("secret".to_owned(), Encoding::U8, vec![16], bytes.to_vec())];
    let plain = Decrypting { encrypted: MemorySource::new(tensor(secret))?, key: 42 };
    let mut encrypted = [0; 16];
    plain.read_at(Extent { file: 0, offset: 0, len: 16 }, &mut encrypted)?;
    assert_ne!(&encrypted, secret);

    let source = Decrypting { encrypted: MemorySource::new(tensor(&encrypted))?, key: 42 };
    conformance::weight_source(&source, &[("secret", secret)]);
    println!("{} bytes lie encrypted and read as they should", source.index().total_bytes());
    Ok(())
}
