/// An element of F64, rounded to f32.
#[inline(always)]
pub(crate) fn f64(element: &[u8; 8], out: &mut [f32; 1]) {
    *out = [f64::from_le_bytes(*element) as f32];
}

/// An element of F32.
#[inline(always)]
pub(crate) fn f32(element: &[u8; 4], out: &mut [f32; 1]) {
    *out = [f32::from_le_bytes(*element)];
}

/// An element of F16.
#[inline(always)]
pub(crate) fn f16(element: &[u8; 2], out: &mut [f32; 1]) {
    *out = [f16_to_f32(u16::from_le_bytes(*element))];
}

/// An element of BF16: the upper half of an f32.
#[inline(always)]
pub(crate) fn bf16(element: &[u8; 2], out: &mut [f32; 1]) {
    *out = [f32::from_bits(u32::from(u16::from_le_bytes(*element)) << 16)];
}

/// Widens an f16. `half` does the same, but behind a feature check on every call, which keeps the loops around it from
/// being vectorised.
#[inline(always)]
pub(crate) fn f16_to_f32(bits: u16) -> f32 {
    // With its exponent moved to the place of an f32's the number is too small by the difference of the biases. The
    // product puts that right, for subnormal numbers too, exactly.
    let scaled = f32::from_bits(u32::from(bits & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
    let not_finite = u32::from(bits & 0x7c00 == 0x7c00) * 0x7f80_0000;
    // A signalling NaN is made a quiet one, as the processor's own conversion does.
    let quiet = u32::from(bits & 0x7fff > 0x7c00) << 22;
    f32::from_bits(scaled.to_bits() | not_finite | quiet | u32::from(bits & 0x8000) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_float_widens_as_the_standard_says() {
        for bits in 0..=u16::MAX {
            let expected = half::f16::from_bits(bits).to_f32();
            assert_eq!(f16_to_f32(bits).to_bits(), expected.to_bits(), "{bits:#06x}");
            let mut out = [0.0];
            bf16(&bits.to_le_bytes(), &mut out);
            let expected = half::bf16::from_bits(bits).to_f32();
            assert!(out[0] == expected || out[0].is_nan() && expected.is_nan(), "{bits:#06x}");
        }
    }
}
