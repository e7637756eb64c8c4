//! The bytes of a trace file; `format.md` says what they are.

use smoke_core::UnitKind;

pub(crate) const MAGIC: &[u8; 8] = b"SMOKETRC";
pub(crate) const VERSION: u64 = 1;
/// The longest name of a model, in bytes.
pub(crate) const LONGEST_NAME: u64 = 4096;
/// The most units of a step, and uses of a hint.
pub(crate) const LONGEST_RECORD: usize = 1 << 16;

pub(crate) const STEP: u64 = 0;
pub(crate) const HINT: u64 = 1;
pub(crate) const PASS: u64 = 2;
pub(crate) const END: u64 = 3;

/// FNV-1a, Fowler, Noll and Vo 1991.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checksum(pub(crate) u64);

impl Checksum {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

pub(crate) fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

pub(crate) fn probability_code(probability: f32) -> u16 {
    (f64::from(probability) * 65_536.0 - 1.0).round().clamp(0.0, 65_535.0) as u16
}

pub(crate) fn probability(code: u16) -> f32 {
    (f32::from(code) + 1.0) / 65_536.0
}

pub(crate) fn kind_code(kind: UnitKind) -> u8 {
    match kind {
        UnitKind::Expert => 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_bytes() {
        let varint = |value| {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            out
        };
        assert_eq!(varint(0), [0]);
        assert_eq!(varint(300), [0xac, 2]);
        assert_eq!(varint(u64::MAX), [255, 255, 255, 255, 255, 255, 255, 255, 255, 1]);
        assert_eq!([0, -1, 1, -2, i64::MIN, i64::MAX].map(zigzag), [0, 1, 2, 3, u64::MAX, u64::MAX - 1]);
        // From the draft of the authors: the empty text, "a" and "foobar".
        let mut checksum = Checksum::new();
        checksum.add(b"a");
        assert_eq!(checksum.0, 0xaf63_dc4c_8601_ec8c);
        let mut checksum = Checksum::new();
        checksum.add(b"foobar");
        assert_eq!(checksum.0, 0x8594_4171_f739_67e8);
    }

    #[test]
    fn probabilities_survive_to_a_65536th() {
        for probability_ in [1e-9, 1.0 / 65_536.0, 0.1, 0.5, 0.999_99, 1.0] {
            let read = probability(probability_code(probability_));
            assert!((read - probability_).abs() <= 1.0 / 65_536.0 && read > 0.0 && read <= 1.0);
        }
        assert_eq!((probability(u16::MAX), probability(0)), (1.0, 1.0 / 65_536.0));
    }
}
