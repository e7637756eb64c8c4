//! Random matrices in every encoding.

use smoke_core::Encoding;

/// Every encoding of weights.
pub(crate) const ENCODINGS: [Encoding; 17] = [
    Encoding::F64,
    Encoding::F32,
    Encoding::F16,
    Encoding::BF16,
    Encoding::Q8_0,
    Encoding::I8_1,
    Encoding::Q4_0,
    Encoding::Q4_1,
    Encoding::Q5_0,
    Encoding::Q5_1,
    Encoding::Q4_K,
    Encoding::Q5_K,
    Encoding::Q6_K,
    Encoding::Q2_K,
    Encoding::Q3_K,
    Encoding::IQ4_NL,
    Encoding::IQ4_XS,
];

/// A SplitMix64 generator: a test that fails names its seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.bits() % bound as u64) as usize
    }

    /// About normal, with deviation 1.
    pub(crate) fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.bits() as u32 as f32 / u32::MAX as f32).sum::<f32>() - 6.0
    }

    /// Activations: normal, and one in a hundred is thirty times as large, as in language models.
    pub(crate) fn activations(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.normal() * if self.below(100) == 0 { 30.0 } else { 1.0 }).collect()
    }

    /// `blocks` blocks: codes of random bits, scales and minima of ordinary size.
    pub(crate) fn blocks(&mut self, encoding: Encoding, blocks: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..blocks {
            match encoding {
                Encoding::F64 => bytes.extend(f64::from(self.normal()).to_le_bytes()),
                Encoding::F32 => bytes.extend(self.normal().to_le_bytes()),
                Encoding::F16 => bytes.extend(half::f16::from_f32(self.normal()).to_le_bytes()),
                Encoding::BF16 => bytes.extend(half::bf16::from_f32(self.normal()).to_le_bytes()),
                _ => {
                    let mut block: Vec<u8> = (0..encoding.block_bytes()).map(|_| self.bits() as u8).collect();
                    for &place in halves(encoding) {
                        let value = half::f16::from_f32(self.normal() * 0.02);
                        block[place..place + 2].copy_from_slice(&value.to_le_bytes());
                    }
                    bytes.extend(block);
                }
            }
        }
        bytes
    }
}

/// Where a block has f16 numbers.
fn halves(encoding: Encoding) -> &'static [usize] {
    match encoding {
        Encoding::I8_1 | Encoding::Q4_1 | Encoding::Q5_1 | Encoding::Q4_K | Encoding::Q5_K => &[0, 2],
        Encoding::Q6_K => &[208],
        Encoding::Q2_K => &[80, 82],
        Encoding::Q3_K => &[108],
        _ => &[0],
    }
}
