//! Registers from and to memory: the only place of this module that touches memory by pointer.

use std::arch::aarch64::*;

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_floats(from: &[f32; 4]) -> float32x4_t {
    // SAFETY: the reference covers the 16 bytes that are read.
    unsafe { vld1q_f32(from.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn store_floats(to: &mut [f32; 4], floats: float32x4_t) {
    // SAFETY: the reference covers the 16 bytes that are written.
    unsafe { vst1q_f32(to.as_mut_ptr(), floats) }
}

/// Adds to the first floats of `to`, at most four.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn add_to_floats(to: &mut [f32], floats: float32x4_t) {
    if let Some(to) = to.first_chunk_mut() {
        let total = vaddq_f32(load_floats(to), floats);
        return store_floats(to, total);
    }
    let mut sums = [0.0; 4];
    store_floats(&mut sums, floats);
    to.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum);
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_bytes(from: &[u8; 16]) -> uint8x16_t {
    // SAFETY: the reference covers the 16 bytes that are read.
    unsafe { vld1q_u8(from.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_half_bytes(from: &[u8; 8]) -> uint8x8_t {
    // SAFETY: the reference covers the 8 bytes that are read.
    unsafe { vld1_u8(from.as_ptr()) }
}

/// Unsigned bytes as floats.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn floats(bytes: &[u8; 8]) -> [float32x4_t; 2] {
    let wide = vmovl_u8(load_half_bytes(bytes));
    [vcvtq_f32_u32(vmovl_u16(vget_low_u16(wide))), vcvtq_f32_u32(vmovl_high_u16(wide))]
}

/// Signed bytes as floats.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn signed_floats(bytes: &[u8; 16]) -> [float32x4_t; 4] {
    let bytes = vreinterpretq_s8_u8(load_bytes(bytes));
    let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
    [vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)]
        .map(|four| vcvtq_f32_s32(four))
}

/// The sum of eight lanes.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn sum([low, high]: [float32x4_t; 2]) -> f32 {
    vaddvq_f32(vaddq_f32(low, high))
}

/// The sums of the lanes of each of four.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn sums([a, b, c, d]: [float32x4_t; 4]) -> float32x4_t {
    vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d))
}

/// The f16 number with these bytes.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn half(bytes: &[u8; 2]) -> f32 {
    vgetq_lane_f32::<0>(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(u16::from_le_bytes(*bytes)))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::part;
    use crate::kernels::Neon;

    #[test]
    fn sums_of_lanes_are_added_to_no_more_floats_than_there_are() {
        let Some(_) = Neon::detect() else { return };
        for len in 0..=5 {
            let mut to = [1.0; 6];
            // SAFETY: the machine has the instructions, as was just asked.
            unsafe {
                let lanes = load_floats(&[1.0, 2.0, 3.0, 4.0]);
                let other = load_floats(&[5.0, 6.0, 7.0, 8.0]);
                add_to_floats(&mut to[..len], sums([lanes, other, lanes, other]));
                assert_eq!(sum([lanes, other]), 36.0);
            }
            let expected = [11.0, 27.0, 11.0, 27.0, 1.0, 1.0];
            let expected = std::array::from_fn(|i| if i < len { expected[i] } else { 1.0 });
            assert_eq!(to, expected, "{len}");
        }
    }

    #[test]
    fn bytes_become_floats_in_their_order() {
        let Some(_) = Neon::detect() else { return };
        let bytes: [u8; 16] = std::array::from_fn(|i| 16 * i as u8 + 7);
        let (mut unsigned, mut signed) = ([0.0; 8], [0.0; 16]);
        // SAFETY: the machine has the instructions, as was just asked.
        unsafe {
            for (to, floats) in unsigned.as_chunks_mut().0.iter_mut().zip(floats(part(&bytes, 8))) {
                store_floats(to, floats);
            }
            for (to, floats) in signed.as_chunks_mut().0.iter_mut().zip(signed_floats(&bytes)) {
                store_floats(to, floats);
            }
        }
        assert_eq!(unsigned, std::array::from_fn(|i| f32::from(bytes[i + 8])));
        assert_eq!(signed, std::array::from_fn(|i| f32::from(bytes[i] as i8)));
    }

    #[test]
    fn every_half_float_widens_as_in_portable_code() {
        let Some(_) = Neon::detect() else { return };
        for bits in 0..=u16::MAX {
            let mut expected = [0.0];
            crate::blocks::f16(&bits.to_le_bytes(), &mut expected);
            // SAFETY: the machine has the instructions, as was just asked.
            let widened = unsafe { half(&bits.to_le_bytes()) };
            assert_eq!(widened.to_bits(), expected[0].to_bits(), "{bits:#06x}");
        }
    }
}
