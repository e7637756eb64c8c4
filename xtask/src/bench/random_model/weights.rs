//! Random weights, and how they are stored.

use clap::ValueEnum;

/// What a code stands for.
pub(super) const UNIT: f32 = 1.0 / 4096.0;

/// How weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Encoding {
    F32,
    F16,
    Bf16,
    #[value(name = "q8-0")]
    Q8_0,
    #[value(name = "q4-0")]
    Q4_0,
}

impl Encoding {
    /// Bytes of so many weights, which fill whole blocks.
    pub(super) fn bytes(self, elements: u64) -> u64 {
        match self {
            Self::F32 => elements * 4,
            Self::F16 | Self::Bf16 => elements * 2,
            Self::Q8_0 => elements / 32 * 34,
            Self::Q4_0 => elements / 32 * 18,
        }
    }

    /// Its number in GGUF files.
    pub(super) fn gguf_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q8_0 => 8,
            Self::Bf16 => 30,
        }
    }

    /// Appends 32 weights of `code · unit`, which is a power of two; 4 bits keep the upper half of the code.
    pub(super) fn encode(self, codes: &[i8; 32], unit: f32, out: &mut Vec<u8>) {
        let value = |code: i8| f32::from(code) * unit;
        match self {
            Self::F32 => codes.iter().for_each(|&code| out.extend(value(code).to_le_bytes())),
            // Eight bits are exact in both half floats: the upper half of a float, or a shift of exponent and mantissa.
            Self::Bf16 => {
                codes.iter().for_each(|&code| out.extend(((value(code).to_bits() >> 16) as u16).to_le_bytes()))
            }
            Self::F16 => codes.iter().for_each(|&code| out.extend(half(value(code)).to_le_bytes())),
            Self::Q8_0 => {
                out.extend(half(unit).to_le_bytes());
                out.extend(codes.map(|code| code as u8));
            }
            Self::Q4_0 => {
                out.extend(half(16.0 * unit).to_le_bytes());
                let nibble = |code: i8| ((code >> 4) + 8) as u8;
                out.extend((0..16).map(|i| nibble(codes[i]) | nibble(codes[i + 16]) << 4));
            }
        }
    }
}

/// The binary16 of a number that is zero or one of its normal numbers, exactly.
fn half(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    if value == 0.0 { sign } else { sign | ((bits >> 13 & 0x3_FFFF) - (112 << 10)) as u16 }
}

/// Random codes, eight to a step of SplitMix64 (Steele, Lea and Flood, 2014).
pub(super) struct Codes(u64);

impl Codes {
    /// Those of the tensor of this name.
    pub(super) fn of(name: &str) -> Self {
        // FNV-1a.
        Self(
            name.bytes()
                .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3)),
        )
    }

    pub(super) fn next_block(&mut self) -> [i8; 32] {
        let mut codes = [0; 32];
        for eight in codes.as_chunks_mut::<8>().0 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut mixed = self.0;
            mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
            *eight = (mixed ^ mixed >> 31).to_le_bytes().map(|byte| byte as i8);
        }
        codes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_those_of_the_standard() {
        for (value, bits) in
            [(0.0, 0), (1.0, 0x3C00), (-2.0, 0xC000), (1.0 / 4096.0, 0x0C00), (-128.0 / 4096.0, 0xA800)]
        {
            assert_eq!(half(value), bits, "{value}");
        }
    }

    #[test]
    fn four_bits_keep_the_upper_half_of_a_code() {
        let mut codes = [0_i8; 32];
        (codes[0], codes[16], codes[1]) = (127, -128, -1);
        let mut block = Vec::new();
        Encoding::Q4_0.encode(&codes, UNIT, &mut block);
        assert_eq!((block[2], block[3], block.len()), (0x0F, 0x87, 18));
    }
}
