//! Blocks of 32 elements: see `blocks::block32` for the layouts.

use std::arch::aarch64::*;

use super::dot::{Eight, Group};
use super::register::{half, load_bytes, load_floats, signed_floats, sum};
use crate::blocks::part;

/// The scale of a block in all lanes, and no bias.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn scale(block: &[u8]) -> (Eight, Eight) {
    ([vdupq_n_f32(half(part(block, 0))); 2], [vdupq_n_f32(0.0); 2])
}

/// Scale and bias of a block, in all lanes.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn scale_and_bias(block: &[u8]) -> (Eight, Eight) {
    ([vdupq_n_f32(half(part(block, 0))); 2], [vdupq_n_f32(half(part(block, 2))); 2])
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn q4_0(block: &[u8; 18], scales: Eight) -> Group {
    Group { codes: nibbles(part(block, 2)), scales }
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn q4_1(block: &[u8; 20], scales: Eight) -> Group {
    Group { codes: nibbles(part(block, 4)), scales }
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn q5_0(block: &[u8; 22], scales: Eight) -> Group {
    Group { codes: five_bits(part(block, 2), part(block, 6)), scales }
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn q5_1(block: &[u8; 24], scales: Eight) -> Group {
    Group { codes: five_bits(part(block, 4), part(block, 8)), scales }
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn i8_1(block: &[u8; 36], scales: Eight) -> Group {
    Group { codes: [load_bytes(part(block, 4)), load_bytes(part(block, 20))], scales }
}

/// The low nibbles, with the high ones still above them, then the high nibbles.
#[inline]
#[target_feature(enable = "neon")]
fn nibbles(bytes: &[u8; 16]) -> [uint8x16_t; 2] {
    let bytes = load_bytes(bytes);
    [bytes, vshrq_n_u8::<4>(bytes)]
}

/// Nibbles with the fifth bits above them: bit i belongs to nibble i.
#[inline]
#[target_feature(enable = "neon")]
fn five_bits(fifth: &[u8; 4], low: &[u8; 16]) -> [uint8x16_t; 2] {
    let bits = vreinterpretq_u8_u32(vdupq_n_u32(u32::from_le_bytes(*fifth)));
    // Eight copies of each byte, then a different bit of each copy.
    let single = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
    let set = |first| {
        let source = vcombine_u8(vdup_n_u8(first), vdup_n_u8(first + 1));
        vandq_u8(vtstq_u8(vqtbl1q_u8(bits, source), single), vdupq_n_u8(16))
    };
    let [low, high] = nibbles(low);
    [vorrq_u8(vandq_u8(low, vdupq_n_u8(15)), set(0)), vorrq_u8(high, set(2))]
}

/// Q8_0 has signed codes, which cost more to widen but need no offset, whose sum would have to cancel out; tokens stay as
/// they are.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn dot_rows_q8_0(bytes: &[u8], x: &[f32], y: &mut [f32]) {
    let x = x.as_chunks::<16>().0.as_chunks::<2>().0;
    for (row, y) in bytes.chunks_exact(bytes.len() / y.len()).zip(y) {
        let mut products = [vdupq_n_f32(0.0); 2];
        for (block, x) in row.as_chunks::<34>().0.iter().zip(x) {
            let scale = half(part(block, 0));
            for (h, products) in products.iter_mut().enumerate() {
                let [a, b, c, d] = signed_floats(part(block, 2 + 16 * h));
                let x = |i: usize| load_floats(part(&x[h], 4 * i));
                let dot = vfmaq_f32(vmulq_f32(a, x(0)), b, x(1));
                let dot = vfmaq_f32(vfmaq_f32(dot, c, x(2)), d, x(3));
                *products = vfmaq_n_f32(*products, dot, scale);
            }
        }
        *y = sum(products);
    }
}
