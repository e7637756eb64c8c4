//! Elements from one encoding to another, through floats.

use smoke_core::Encoding;
use smoke_quant::{PackedError, decode, encode};

/// Elements that are converted at once: a whole number of blocks of every encoding, and few enough to stay in the cache
/// and on the calling thread.
pub(crate) const PIECE_ELEMENTS: usize = 1 << 14;

/// Memory that conversions use again.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    floats: Vec<f32>,
    back: Vec<f32>,
    bytes: Vec<u8>,
}

/// Why elements cannot be converted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum RecodeError {
    /// A number that the new encoding has not.
    #[error("it holds {value}, which {to} cannot hold")]
    OutOfRange { value: String, to: Encoding },
    /// The bytes are no whole blocks.
    #[error(transparent)]
    Packed(#[from] PackedError),
}

/// Converts `elements` elements of `from` in `bytes` to `to`: at most [`PIECE_ELEMENTS`], whole blocks of both.
///
/// Plain floats become the nearest value, of two the one whose last bit is zero (IEEE 754, round to nearest, ties to even);
/// NaN stays NaN and infinity infinity. F64 is rounded to F32 on its way.
///
/// # Errors
/// [`RecodeError`] if a finite number would become infinite, or a block would have to hold what is not finite.
pub(crate) fn recode<'a>(
    from: Encoding,
    to: Encoding,
    bytes: &[u8],
    elements: usize,
    scratch: &'a mut Scratch,
) -> Result<&'a [u8], RecodeError> {
    let Scratch { floats, back, bytes: out } = scratch;
    floats.resize(elements, 0.0);
    decode(from, bytes, floats)?;
    out.clear();
    encode(to, floats, out)?;
    // What was written is read again: the one check that sees every way in which a number may be too large.
    back.resize(elements, 0.0);
    decode(to, out, back)?;
    // Looked at without a branch; which one it is, and whether it may be, is asked only where there is one.
    let all_finite = floats.iter().chain(&*back).fold(true, |finite, value| finite & value.is_finite());
    if !all_finite {
        check_each(from, to, bytes, floats, back)?;
    }
    Ok(out)
}

/// Finds the element that is out of range, if there is one: plain floats may have been infinite before.
fn check_each(from: Encoding, to: Encoding, bytes: &[u8], floats: &[f32], back: &[f32]) -> Result<(), RecodeError> {
    for (at, (&before, &after)) in floats.iter().zip(back).enumerate() {
        let value = match from {
            Encoding::F64 => bytes.as_chunks::<8>().0.get(at).map_or(f64::NAN, |bytes| f64::from_le_bytes(*bytes)),
            _ => f64::from(before),
        };
        let is_kept = to.block_elements() == 1 && !value.is_finite();
        let is_right = value.is_finite() && after.is_finite();
        if !is_kept && !is_right {
            // With as few digits as tell it from its neighbours.
            let value = if from == Encoding::F64 { format!("{value:e}") } else { format!("{before:e}") };
            return Err(RecodeError::OutOfRange { value, to });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn to(from: Encoding, to: Encoding, bytes: &[u8]) -> Result<Vec<u8>, RecodeError> {
        let elements = bytes.len() as u64 / from.block_bytes() * from.block_elements();
        recode(from, to, bytes, elements as usize, &mut Scratch::default()).map(<[u8]>::to_vec)
    }

    fn half_bits(encoding: Encoding, value: f32) -> Result<u16, RecodeError> {
        let bytes = to(Encoding::F32, encoding, &value.to_le_bytes())?;
        Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    /// The exact value of a pattern, with the exponent going on where the encoding ends: what comes after its largest number
    /// is where numbers begin to round to infinity.
    fn value(encoding: Encoding, bits: u16) -> f64 {
        let (mantissa_bits, bias) = if encoding == Encoding::F16 { (10, 15) } else { (7, 127) };
        let (exponent, mantissa) = (i32::from(bits & 0x7fff) >> mantissa_bits, bits & ((1 << mantissa_bits) - 1));
        let fraction = f64::from(mantissa) / f64::from(1 << mantissa_bits);
        let magnitude = match exponent {
            0 => fraction * f64::from(1 - bias).exp2(),
            _ => (1.0 + fraction) * f64::from(exponent - bias).exp2(),
        };
        if bits & 0x8000 == 0 { magnitude } else { -magnitude }
    }

    fn infinity(encoding: Encoding) -> u16 {
        if encoding == Encoding::F16 { 0x7c00 } else { 0x7f80 }
    }

    #[test]
    fn every_half_float_comes_back_and_every_middle_goes_to_the_even_one() {
        for encoding in [Encoding::F16, Encoding::BF16] {
            for bits in 0..infinity(encoding) {
                for sign in [0, 0x8000] {
                    let exact = value(encoding, bits | sign) as f32;
                    assert_eq!(half_bits(encoding, exact), Ok(bits | sign), "{encoding} {bits:#06x}");
                    let next = bits + 1;
                    let middle = (value(encoding, bits | sign) + value(encoding, next | sign)) / 2.0;
                    if middle as f32 == 0.0 || f64::from(middle as f32) != middle {
                        continue; // below the smallest of f32
                    }
                    let expect = |value: f32, expected: u16| match half_bits(encoding, value) {
                        Ok(bits) => assert_eq!(bits, expected | sign, "{encoding} {value:e}"),
                        Err(RecodeError::OutOfRange { .. }) => assert_eq!(expected, infinity(encoding), "{value:e}"),
                        Err(other) => panic!("{other}"),
                    };
                    let middle = middle as f32;
                    expect(middle, if bits % 2 == 0 { bits } else { next });
                    expect(f32::from_bits(middle.to_bits() - 1), bits);
                    expect(f32::from_bits(middle.to_bits() + 1), next);
                }
            }
        }
    }

    #[test]
    fn every_half_float_is_widened_as_half_does_and_narrowed_to_the_other_kind() {
        for bits in 0..=u16::MAX {
            let (half, brain) = (half::f16::from_bits(bits), half::bf16::from_bits(bits));
            for (from, wide) in [(Encoding::F16, half.to_f32()), (Encoding::BF16, brain.to_f32())] {
                let widened = to(from, Encoding::F32, &bits.to_le_bytes()).unwrap();
                let widened = f32::from_le_bytes(widened.try_into().unwrap());
                assert!(widened.to_bits() == wide.to_bits() || widened.is_nan() && wide.is_nan(), "{from} {bits:#06x}");
                let other = if from == Encoding::F16 { Encoding::BF16 } else { Encoding::F16 };
                let expected = match other {
                    Encoding::F16 => half::f16::from_f32(wide).to_bits(),
                    _ => half::bf16::from_f32(wide).to_bits(),
                };
                match to(from, other, &bits.to_le_bytes()) {
                    Ok(narrow) => assert_eq!(narrow, expected.to_le_bytes(), "{from} {bits:#06x}"),
                    Err(_) => assert!(wide.is_finite() && wide.abs() >= 65520.0, "{from} {bits:#06x}: {wide:e}"),
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

        #[test]
        fn any_float_becomes_a_nearest_one(bits in any::<u32>(), is_f16 in any::<bool>()) {
            let encoding = if is_f16 { Encoding::F16 } else { Encoding::BF16 };
            let number = f32::from_bits(bits);
            match half_bits(encoding, number) {
                Ok(half) if number.is_nan() => prop_assert!(half & 0x7fff > infinity(encoding)),
                Ok(half) if number.is_infinite() => prop_assert_eq!(half & 0x7fff, infinity(encoding)),
                Ok(half) => {
                    prop_assert!(half & 0x7fff < infinity(encoding));
                    let exact = f64::from(number);
                    let error = (value(encoding, half) - exact).abs();
                    for other in [half.wrapping_sub(1), half + 1] {
                        let other_error = (value(encoding, other) - exact).abs();
                        prop_assert!(error < other_error || error == other_error && half.is_multiple_of(2));
                    }
                }
                Err(_) => {
                    let largest = value(encoding, infinity(encoding) - 1);
                    let step = value(encoding, infinity(encoding)) - largest;
                    prop_assert!(f64::from(number).abs() >= largest + step / 2.0);
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error_and_infinity_stays() {
        let floats = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
        let error = to(Encoding::F32, Encoding::F16, &floats(&[1.0, -7e4])).unwrap_err();
        assert_eq!(error, RecodeError::OutOfRange { value: "-7e4".to_owned(), to: Encoding::F16 });
        assert!(to(Encoding::F32, Encoding::BF16, &floats(&[f32::MAX])).is_err());
        assert!(to(Encoding::F32, Encoding::F16, &floats(&[f32::INFINITY, f32::NAN])).is_ok());
        assert!(to(Encoding::F64, Encoding::F32, &1e300_f64.to_le_bytes()).is_err());
        assert!(to(Encoding::F64, Encoding::F32, &f64::INFINITY.to_le_bytes()).is_ok());
        for encoding in [Encoding::Q8_0, Encoding::I8_1, Encoding::Q4_0, Encoding::Q4_1] {
            assert!(to(Encoding::F32, encoding, &floats(&[1.5; 32])).is_ok());
            for bad in [f32::NAN, f32::INFINITY, 1e30] {
                let mut values = [1.5; 32];
                values[7] = bad;
                assert!(to(Encoding::F32, encoding, &floats(&values)).is_err(), "{bad} in {encoding}");
            }
        }
    }
}
