//! Products of packed rows with one token, in the order of [`groups`].

use std::arch::x86_64::*;

use smoke_core::Encoding;

use super::groups::Group;
use super::register::{load_floats, prefetch_after, sum};
use crate::blocks::part;
use crate::kernels::groups::{self, ARRANGED, ELEMENTS, for_each_group};

/// Blocks of one group that are taken at once, for the sake of loop counters and prefetches.
const BLOCKS: usize = 4;

/// Arranges a token for [`dot_rows`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn arrange(encoding: Encoding, x: &[f32], arranged: &mut [f32]) {
    groups::arrange(encoding, x, arranged);
}

/// The products of the rows in `bytes`, of which there are as many as elements in `y`, with an arranged token.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot_rows<const BYTES: usize, const GROUPS: usize, const OFFSET: i32, const MASK: i32, Header>(
    header: impl Fn(&[u8; BYTES]) -> (Header, __m256),
    group: impl Fn(&[u8; BYTES], &Header, usize) -> Group,
    bytes: &[u8],
    x: &[f32],
    y: &mut [f32],
) {
    let add_block = |products: [__m256; 2], block: &[u8; BYTES], x: &[[f32; ARRANGED]; GROUPS]| {
        let [mut scaled, mut biased] = products;
        let (header, biases) = header(block);
        if OFFSET == 0 {
            biased = _mm256_fmadd_ps(biases, load_floats(part(&x[0], ELEMENTS)), biased);
        }
        for_each_group!(GROUPS, g, {
            scaled = add_group::<OFFSET, MASK>(scaled, group(block, &header, g), &x[g]);
        });
        [scaled, biased]
    };
    let x = x.as_chunks::<ARRANGED>().0.as_chunks::<GROUPS>().0;
    for (row, y) in bytes.chunks_exact(bytes.len() / y.len()).zip(y) {
        let mut products = [_mm256_setzero_ps(); 2];
        let blocks = row.as_chunks::<BYTES>().0;
        let (blocks_at_once, blocks) = if GROUPS == 1 { blocks.as_chunks::<BLOCKS>() } else { (&[][..], blocks) };
        let (x_at_once, x) = x.split_at(blocks_at_once.len() * BLOCKS);
        for (blocks, x) in blocks_at_once.iter().zip(x_at_once.as_chunks::<BLOCKS>().0) {
            blocks.as_flattened().chunks(64).for_each(|line| prefetch_after(line));
            for i in 0..BLOCKS {
                products = add_block(products, &blocks[i], &x[i]);
            }
        }
        for (block, x) in blocks.iter().zip(x) {
            block.chunks(64).for_each(|line| prefetch_after(line));
            products = add_block(products, block, x);
        }
        *y = sum(_mm256_add_ps(products[0], products[1]));
    }
}

/// The conversion is one of signed numbers, but byte 3 does not reach the sign: codes have six bits at most.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_group<const OFFSET: i32, const MASK: i32>(scaled: __m256, group: Group, x: &[f32; ARRANGED]) -> __m256 {
    let x = x.as_chunks::<8>().0;
    let codes = group.codes;
    let byte = |k: i32| _mm256_cvtepi32_ps(_mm256_and_si256(codes, _mm256_set1_epi32(MASK << (8 * k))));
    let mut dot = _mm256_mul_ps(byte(0), load_floats(&x[0]));
    if OFFSET != 0 {
        dot = _mm256_fmadd_ps(_mm256_set1_ps(-OFFSET as f32), load_floats(&x[4]), dot);
    }
    dot = _mm256_fmadd_ps(byte(1), load_floats(&x[1]), dot);
    dot = _mm256_fmadd_ps(byte(2), load_floats(&x[2]), dot);
    dot = _mm256_fmadd_ps(byte(3), load_floats(&x[3]), dot);
    _mm256_fmadd_ps(group.scale, dot, scaled)
}
