//! Plain floats. Tokens stay as they are.

use std::arch::x86_64::*;

use smoke_core::Encoding;

use super::register::{load_bytes, load_floats, load_half_bytes, prefetch_after, store_floats, sum};
use crate::blocks::{self, part};

/// Independent sums, enough to keep additions from waiting for one another.
const SUMS: usize = 4;

/// The products of the rows in `bytes` with a token.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot_rows(encoding: Encoding, bytes: &[u8], x: &[f32], y: &mut [f32]) {
    match encoding {
        Encoding::F64 => dot_rows_of(|eight| load_f64(eight), blocks::f64, bytes, x, y),
        Encoding::F32 => dot_rows_of(|eight| load_f32(eight), blocks::f32, bytes, x, y),
        Encoding::F16 => dot_rows_of(|eight| load_f16(eight), blocks::f16, bytes, x, y),
        _ => dot_rows_of(|eight| load_bf16(eight), blocks::bf16, bytes, x, y),
    }
}

/// `EIGHT` is the bytes of eight elements, `ONE` those of one.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot_rows_of<const EIGHT: usize, const ONE: usize>(
    load: impl Fn(&[u8; EIGHT]) -> __m256,
    element: impl Fn(&[u8; ONE], &mut [f32; 1]),
    bytes: &[u8],
    x: &[f32],
    y: &mut [f32],
) {
    let (x, x_rest) = x.as_chunks::<8>();
    let (x_many, x_single) = x.as_chunks::<SUMS>();
    for (row, y) in bytes.chunks_exact(bytes.len() / y.len()).zip(y) {
        let (eights, rest) = row.as_chunks::<EIGHT>();
        let (many, single) = eights.as_chunks::<SUMS>();
        let mut products = [_mm256_setzero_ps(); SUMS];
        for (w, x) in many.iter().zip(x_many) {
            w.as_flattened().chunks(64).for_each(|line| prefetch_after(line));
            for i in 0..SUMS {
                products[i] = _mm256_fmadd_ps(load(&w[i]), load_floats(&x[i]), products[i]);
            }
        }
        for (w, x) in single.iter().zip(x_single) {
            products[0] = _mm256_fmadd_ps(load(w), load_floats(x), products[0]);
        }
        let [a, b, c, d] = products;
        *y = sum(_mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d)));
        for (w, x) in rest.as_chunks::<ONE>().0.iter().zip(x_rest) {
            let mut value = [0.0];
            element(w, &mut value);
            *y += value[0] * x;
        }
    }
}

/// Decodes F16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn decode_f16(bytes: &[u8], out: &mut [f32]) {
    let (eights, rest) = bytes.as_chunks::<16>();
    let (out, out_rest) = out.as_chunks_mut::<8>();
    for (eight, out) in eights.iter().zip(out) {
        store_floats(out, load_f16(eight));
    }
    super::decode_blocks(blocks::f16, rest, out_rest);
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_f64(eight: &[u8; 64]) -> __m256 {
    let half = |start| _mm256_cvtpd_ps(_mm256_castsi256_pd(load_bytes(part(eight, start))));
    _mm256_set_m128(half(32), half(0))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_f32(eight: &[u8; 32]) -> __m256 {
    _mm256_castsi256_ps(load_bytes(eight))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_f16(eight: &[u8; 16]) -> __m256 {
    _mm256_cvtph_ps(load_half_bytes(eight))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_bf16(eight: &[u8; 16]) -> __m256 {
    let wide = _mm256_cvtepu16_epi32(load_half_bytes(eight));
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
}
