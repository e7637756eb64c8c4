use half::bf16;
use proptest::prelude::*;
use smoke_compress::Codec;
use smoke_compress::codec::{self, CODEC_NAMES};

fn codecs() -> impl Iterator<Item = Box<dyn Codec>> {
    CODEC_NAMES.iter().map(|name| codec::by_name(name).unwrap())
}

fn restored(codec: &dyn Codec, compressed: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut raw = vec![0xA5; len];
    codec.decompress(compressed, &mut raw).ok().map(|()| raw)
}

/// Noise, or few values, or one.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let noise = prop::collection::vec(any::<u8>(), 0..3000);
    let few = prop::collection::vec(0..4_u8, 0..3000);
    prop_oneof![noise, few, (any::<u8>(), 0..3000_usize).prop_map(|(byte, len)| vec![byte; len])]
}

/// Weights as a trained model has them: near zero, by a normal distribution (Irwin and Hall's sum of twelve).
fn weights(count: u32) -> Vec<u8> {
    let mut state = 1_u32;
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32
    };
    (0..count)
        .flat_map(|_| bf16::from_f32(((0..12).map(|_| uniform()).sum::<f32>() - 6.0) * 0.02).to_le_bytes())
        .collect()
}

#[test]
fn long_blocks_return_whatever_their_length() {
    let raw = weights(150_000);
    for codec in codecs() {
        for len in [raw.len(), raw.len() - 1, 131_072, 131_073, 131_074, 262_144, 1, 0] {
            let compressed = codec.compress(&raw[..len]);
            assert_eq!(restored(&*codec, &compressed, len).as_deref(), Some(&raw[..len]), "{} of {len}", codec.name());
        }
    }
}

#[test]
fn planes_save_what_the_exponents_do_not_need() {
    let raw = weights(200_000);
    let ratio = |name: &str| codec::by_name(name).unwrap().compress(&raw).len() as f64 / raw.len() as f64;
    // The high byte of such weights has about 3.6 bits of entropy: 11.6 of 16 bits are needed.
    let entropy = 0.5 + 0.5 * entropy_of_high_bytes(&raw) / 8.0;
    let planes = ratio("bf16-planes");
    assert!(entropy <= planes && planes < entropy + 0.02, "{planes} where {entropy} is the least");
    assert!(ratio("lz4") > 0.95, "without an entropy code there is nothing to gain");
}

fn entropy_of_high_bytes(raw: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    raw.iter().skip(1).step_by(2).for_each(|&byte| counts[byte as usize] += 1);
    let total: u32 = counts.iter().sum();
    let shares = counts.iter().filter(|&&count| count > 0).map(|&count| f64::from(count) / f64::from(total));
    shares.map(|share| -share * share.log2()).sum()
}

proptest! {
    #[test]
    fn what_was_compressed_returns(raw in bytes()) {
        for codec in codecs() {
            let compressed = codec.compress(&raw);
            prop_assert_eq!(restored(&*codec, &compressed, raw.len()), Some(raw.clone()), "{}", codec.name());
            prop_assert!(compressed.capacity() <= raw.len() * 9 / 8 + 128, "{}", codec.name());
        }
    }

    #[test]
    fn another_length_is_an_error(raw in bytes(), off in 1..50_usize) {
        for codec in codecs() {
            let compressed = codec.compress(&raw);
            prop_assert!(restored(&*codec, &compressed, raw.len() + off).is_none(), "{} longer", codec.name());
            if let Some(shorter) = raw.len().checked_sub(off) {
                prop_assert!(restored(&*codec, &compressed, shorter).is_none(), "{} shorter", codec.name());
            }
        }
    }

    #[test]
    fn truncation_is_an_error(raw in bytes(), cut in any::<prop::sample::Index>()) {
        prop_assume!(!raw.is_empty());
        for codec in codecs() {
            let compressed = codec.compress(&raw);
            let kept = &compressed[..cut.index(compressed.len())];
            prop_assert!(restored(&*codec, kept, raw.len()).is_none(), "{}", codec.name());
        }
    }

    #[test]
    fn noise_and_changed_bytes_do_not_panic(raw in bytes(), noise in bytes(), at in any::<prop::sample::Index>(), by in 1..=255_u8) {
        for codec in codecs() {
            let _ = restored(&*codec, &noise, raw.len());
            let mut compressed = codec.compress(&raw);
            if !compressed.is_empty() {
                let at = at.index(compressed.len());
                compressed[at] ^= by;
                let found = restored(&*codec, &compressed, raw.len());
                // Zlib alone has a checksum. Its header's own check and the hint of the level change nothing.
                if codec.name() == "zlib" {
                    prop_assert!(found.is_none_or(|found| found == raw));
                }
            }
        }
    }
}
