//! Blocks of 256 elements: see `blocks::block256` for the layouts.

use std::arch::aarch64::*;

use super::dot::{Eight, Group};
use super::register::{floats, half, load_bytes, signed_floats, store_floats};
use crate::blocks::{part, scales_and_minima};

/// The scales of the eight groups of a Q4_K or Q5_K block, and their biases in a lane each.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn scales_and_biases(block: &[u8]) -> ([f32; 8], Eight) {
    let (scales, minima) = scales_and_minima(part(block, 4));
    let mut products = [0.0; 8];
    for (products, scales) in products.as_chunks_mut().0.iter_mut().zip(floats(&scales)) {
        store_floats(products, vmulq_n_f32(scales, half(part(block, 0))));
    }
    (products, floats(&minima).map(|minima| vmulq_n_f32(minima, -half(part(block, 2)))))
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn q4_k(block: &[u8; 144], scales: &[f32; 8], g: usize) -> Group {
    Group { codes: nibbles(part(block, 16 + g / 2 * 32), g % 2 == 1), scales: [vdupq_n_f32(scales[g]); 2] }
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn q5_k(block: &[u8; 176], scales: &[f32; 8], g: usize) -> Group {
    let low = nibbles(part(block, 48 + g / 2 * 32), g % 2 == 1);
    // Bit g of each byte becomes bit 4.
    let codes = joined::<0x10>(low, part(block, 16), 4 - g as i8);
    Group { codes, scales: [vdupq_n_f32(scales[g]); 2] }
}

/// The scales of the sixteen sub-blocks of a Q6_K block.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn scales(block: &[u8; 210]) -> ([f32; 16], Eight) {
    let mut products = [0.0; 16];
    for (products, scales) in products.as_chunks_mut().0.iter_mut().zip(signed_floats(part(block, 192))) {
        store_floats(products, vmulq_n_f32(scales, half(part(block, 208))));
    }
    (products, [vdupq_n_f32(0.0); 2])
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn q6_k(block: &[u8; 210], scales: &[f32; 16], g: usize) -> Group {
    let (half, quarter) = (g / 4, g % 4);
    let low = nibbles(part(block, 64 * half + 32 * (quarter % 2)), quarter >= 2);
    // Bits 2q and 2q + 1 of each byte become bits 4 and 5.
    let codes = joined::<0x30>(low, part(block, 128 + 32 * half), 4 - 2 * quarter as i8);
    Group { codes, scales: [vdupq_n_f32(scales[2 * g]), vdupq_n_f32(scales[2 * g + 1])] }
}

/// Each byte with its high or its low nibble in the lower four bits.
#[inline]
#[target_feature(enable = "neon")]
fn nibbles(bytes: &[u8; 32], high: bool) -> [uint8x16_t; 2] {
    let down = |bytes| if high { vshrq_n_u8::<4>(bytes) } else { bytes };
    [down(load_bytes(part(bytes, 0))), down(load_bytes(part(bytes, 16)))]
}

/// The lower four bits of `low`, and above them those bits of `high` that are in `MASK` after a shift up by so many bits, or
/// down by as many as the number is negative.
#[inline]
#[target_feature(enable = "neon")]
fn joined<const MASK: u8>(low: [uint8x16_t; 2], high: &[u8; 32], up: i8) -> [uint8x16_t; 2] {
    let high = [load_bytes(part(high, 0)), load_bytes(part(high, 16))];
    std::array::from_fn(|h| {
        let high = vandq_u8(vshlq_u8(high[h], vdupq_n_s8(up)), vdupq_n_u8(MASK));
        vorrq_u8(vandq_u8(low[h], vdupq_n_u8(15)), high)
    })
}
