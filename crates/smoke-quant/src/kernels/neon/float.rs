//! Plain floats. Tokens stay as they are.

use std::arch::aarch64::*;

use smoke_core::Encoding;

use super::register::{load_bytes, load_floats, load_half_bytes, store_floats, sum};
use crate::blocks::{self, part};
use crate::kernels::scalar::decode_blocks;

/// Independent sums, enough to keep additions from waiting for one another.
const SUMS: usize = 8;

/// The products of the rows in `bytes` with a token.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn dot_rows(encoding: Encoding, bytes: &[u8], x: &[f32], y: &mut [f32]) {
    match encoding {
        Encoding::F64 => dot_rows_of(|four| load_f64(four), blocks::f64, bytes, x, y),
        Encoding::F32 => dot_rows_of(|four| load_f32(four), blocks::f32, bytes, x, y),
        Encoding::F16 => dot_rows_of(|four| load_f16(four), blocks::f16, bytes, x, y),
        _ => dot_rows_of(|four| load_bf16(four), blocks::bf16, bytes, x, y),
    }
}

/// `FOUR` is the bytes of four elements, `ONE` those of one.
#[inline]
#[target_feature(enable = "neon")]
fn dot_rows_of<const FOUR: usize, const ONE: usize>(
    load: impl Fn(&[u8; FOUR]) -> float32x4_t,
    element: impl Fn(&[u8; ONE], &mut [f32; 1]),
    bytes: &[u8],
    x: &[f32],
    y: &mut [f32],
) {
    let (x, x_rest) = x.as_chunks::<4>();
    let (x_many, x_single) = x.as_chunks::<SUMS>();
    for (row, y) in bytes.chunks_exact(bytes.len() / y.len()).zip(y) {
        let (fours, rest) = row.as_chunks::<FOUR>();
        let (many, single) = fours.as_chunks::<SUMS>();
        let mut products = [vdupq_n_f32(0.0); SUMS];
        for (w, x) in many.iter().zip(x_many) {
            for i in 0..SUMS {
                products[i] = vfmaq_f32(products[i], load(&w[i]), load_floats(&x[i]));
            }
        }
        for (w, x) in single.iter().zip(x_single) {
            products[0] = vfmaq_f32(products[0], load(w), load_floats(x));
        }
        let [a, b, c, d] = std::array::from_fn(|i| vaddq_f32(products[i], products[i + SUMS / 2]));
        *y = sum([vaddq_f32(a, c), vaddq_f32(b, d)]);
        for (w, x) in rest.as_chunks::<ONE>().0.iter().zip(x_rest) {
            let mut value = [0.0];
            element(w, &mut value);
            *y += value[0] * x;
        }
    }
}

/// Decodes F16, of which the compiler does not know that there is an instruction for it.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn decode_f16(bytes: &[u8], out: &mut [f32]) {
    let (fours, rest) = bytes.as_chunks::<8>();
    let (out, out_rest) = out.as_chunks_mut::<4>();
    for (four, out) in fours.iter().zip(out) {
        store_floats(out, load_f16(four));
    }
    decode_blocks(blocks::f16, rest, out_rest);
}

#[inline]
#[target_feature(enable = "neon")]
fn load_f64(four: &[u8; 32]) -> float32x4_t {
    let [low, high] = [0, 16].map(|start| vreinterpretq_f64_u8(load_bytes(part(four, start))));
    vcvt_high_f32_f64(vcvt_f32_f64(low), high)
}

#[inline]
#[target_feature(enable = "neon")]
fn load_f32(four: &[u8; 16]) -> float32x4_t {
    vreinterpretq_f32_u8(load_bytes(four))
}

#[inline]
#[target_feature(enable = "neon")]
fn load_f16(four: &[u8; 8]) -> float32x4_t {
    vcvt_f32_f16(vreinterpret_f16_u8(load_half_bytes(four)))
}

#[inline]
#[target_feature(enable = "neon")]
fn load_bf16(four: &[u8; 8]) -> float32x4_t {
    vreinterpretq_f32_u32(vshll_n_u16::<16>(vreinterpret_u16_u8(load_half_bytes(four))))
}
