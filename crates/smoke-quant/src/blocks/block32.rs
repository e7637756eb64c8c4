use super::{half_at, part};

/// Bytes 0..2 scale, then 16 bytes of codes: the low nibbles are elements 0..16, the high ones 16..32.
#[inline(always)]
pub(crate) fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    let codes: &[u8; 16] = part(block, 2);
    for i in 0..16 {
        out[i] = scale * (i32::from(codes[i] & 15) - 8) as f32;
        out[i + 16] = scale * (i32::from(codes[i] >> 4) - 8) as f32;
    }
}

/// As [`q4_0`], with a minimum in bytes 2..4 that is added instead of an offset.
#[inline(always)]
pub(crate) fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let codes: &[u8; 16] = part(block, 4);
    for i in 0..16 {
        out[i] = scale * f32::from(codes[i] & 15) + minimum;
        out[i + 16] = scale * f32::from(codes[i] >> 4) + minimum;
    }
}

/// Bytes 0..2 scale, 2..6 the fifth bits (bit i belongs to element i), then nibbles as in [`q4_0`].
#[inline(always)]
pub(crate) fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    let codes = five_bits(part(block, 2), part(block, 6));
    for (out, code) in out.iter_mut().zip(codes) {
        *out = scale * (i32::from(code) - 16) as f32;
    }
}

/// As [`q5_0`], with a minimum in bytes 2..4 that is added instead of an offset.
#[inline(always)]
pub(crate) fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let codes = five_bits(part(block, 4), part(block, 8));
    for (out, code) in out.iter_mut().zip(codes) {
        *out = scale * f32::from(code) + minimum;
    }
}

#[inline(always)]
fn five_bits(fifth: &[u8; 4], nibbles: &[u8; 16]) -> [u8; 32] {
    let fifth = u32::from_le_bytes(*fifth);
    std::array::from_fn(|i| {
        let nibble = if i < 16 { nibbles[i] & 15 } else { nibbles[i - 16] >> 4 };
        nibble | ((fifth >> i & 1) as u8) << 4
    })
}

/// What the codes of [`iq4_nl`] and [`iq4_xs`](super::iq4_xs) stand for: about where normal values need them. The numbers
/// are part of the format.
pub(super) const NON_LINEAR: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// As [`q4_0`], with codes that stand for the numbers in [`NON_LINEAR`].
#[inline(always)]
pub(crate) fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    non_linear(half_at(block, 0), part(block, 2), out);
}

#[inline(always)]
pub(super) fn non_linear(scale: f32, codes: &[u8; 16], out: &mut [f32; 32]) {
    for i in 0..16 {
        out[i] = scale * f32::from(NON_LINEAR[usize::from(codes[i] & 15)]);
        out[i + 16] = scale * f32::from(NON_LINEAR[usize::from(codes[i] >> 4)]);
    }
}

/// Bytes 0..2 scale, then 32 signed codes.
#[inline(always)]
pub(crate) fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    let codes: &[u8; 32] = part(block, 2);
    for (out, code) in out.iter_mut().zip(codes) {
        *out = scale * f32::from(*code as i8);
    }
}

/// Bytes 0..2 scale, 2..4 minimum, then 32 unsigned codes.
#[inline(always)]
pub(crate) fn i8_1(block: &[u8; 36], out: &mut [f32; 32]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let codes: &[u8; 32] = part(block, 4);
    for (out, code) in out.iter_mut().zip(codes) {
        *out = scale * f32::from(*code) + minimum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The one encoding that no other program could give a reference for: computed by hand.
    #[test]
    fn i8_1_is_scale_times_code_plus_minimum() {
        let mut block = [0; 36];
        block[..4].copy_from_slice(&[0x00, 0x38, 0x00, 0xc0]);
        block[4..8].copy_from_slice(&[0, 1, 128, 255]);
        let mut out = [f32::NAN; 32];
        i8_1(&block, &mut out);
        assert_eq!(out[..5], [-2.0, -1.5, 62.0, 125.5, -2.0]);
    }
}
