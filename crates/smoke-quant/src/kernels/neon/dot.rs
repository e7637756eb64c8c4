//! Products of packed rows with one token, in the order of [`groups`](crate::kernels::groups).

use std::arch::aarch64::*;

use super::register::{load_floats, sum};
use crate::blocks::part;
use crate::kernels::groups::{ARRANGED, ELEMENTS, for_each_group};

/// Eight lanes.
pub(super) type Eight = [float32x4_t; 2];

/// The weights of 32 elements, but for their biases: `scale * (code - OFFSET)`.
#[derive(Clone, Copy)]
pub(super) struct Group {
    /// One code in each byte, in the order of the elements; bits outside `MASK` mean nothing.
    pub(super) codes: [uint8x16_t; 2],
    /// The scales of elements 0..16 and of 16..32, in all lanes.
    pub(super) scales: Eight,
}

/// The products of the rows in `bytes`, of which there are as many as elements in `y`, with an arranged token.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn dot_rows<const BYTES: usize, const GROUPS: usize, const OFFSET: u32, const MASK: u32, Header>(
    header: impl Fn(&[u8; BYTES]) -> (Header, Eight),
    group: impl Fn(&[u8; BYTES], &Header, usize) -> Group,
    bytes: &[u8],
    x: &[f32],
    y: &mut [f32],
) {
    let x = x.as_chunks::<ARRANGED>().0.as_chunks::<GROUPS>().0;
    for (row, y) in bytes.chunks_exact(bytes.len() / y.len()).zip(y) {
        let mut products = [vdupq_n_f32(0.0); 2];
        for (block, x) in row.as_chunks::<BYTES>().0.iter().zip(x) {
            let (header, biases) = header(block);
            if OFFSET == 0 {
                for h in 0..2 {
                    products[h] = vfmaq_f32(products[h], biases[h], load_floats(part(&x[0], ELEMENTS + 4 * h)));
                }
            }
            for_each_group!(GROUPS, g, {
                add_group::<OFFSET, MASK>(&mut products, group(block, &header, g), &x[g]);
            });
        }
        *y = sum(products);
    }
}

/// Adds the products of the first half of a group to the first register, those of the second half to the second.
#[inline]
#[target_feature(enable = "neon")]
fn add_group<const OFFSET: u32, const MASK: u32>(products: &mut Eight, group: Group, x: &[f32; ARRANGED]) {
    for (h, products) in products.iter_mut().enumerate() {
        let x = |i| load_floats(part(x, 8 * i + 4 * h));
        let codes = vreinterpretq_u32_u8(group.codes[h]);
        let byte = |k: usize| vcvtq_f32_u32(vandq_u32(codes, vdupq_n_u32(MASK << (8 * k))));
        let mut dot = vmulq_f32(byte(0), x(0));
        for k in 1..4 {
            dot = vfmaq_f32(dot, byte(k), x(k));
        }
        if OFFSET != 0 {
            dot = vfmaq_n_f32(dot, x(4), -(OFFSET as f32));
        }
        *products = vfmaq_f32(*products, dot, group.scales[h]);
    }
}
