//! Products of packed rows with one token.
//!
//! Making a float of a code costs more than multiplying by it, so it is made as cheap as it can be. A group's 32 codes are
//! eight lanes of four bytes; byte k of all lanes is taken by one mask, which leaves the codes times 256^k, and
//! that is a float by one conversion. The token is arranged beforehand to meet them in this order, with the powers of 256
//! taken out of it (exactly, being powers of two).

use std::arch::x86_64::*;

use super::groups::{ELEMENTS, Group, for_each_group};
use super::register::{load_floats, prefetch_after, sum};
use crate::blocks::part;

/// Floats that a group of a token takes when arranged: elements 4i + k, for k = 0 to 3, in lanes i = 0 to 7, then sums of
/// elements: those of each lane, or, where a block has [`SHARED_GROUPS`] groups with biases, in the first group of the
/// block those of each group.
pub(super) const ARRANGED: usize = ELEMENTS + 8;

/// As many groups as a register has lanes: the biases of all of them are then added at once.
const SHARED_GROUPS: usize = 8;

/// Blocks of one group that are taken at once, for the sake of loop counters and prefetches.
const BLOCKS: usize = 4;

/// What byte k of a lane is left multiplied by. The last one does not reach the sign: codes have six bits at most.
const POWERS: [f32; 4] = [1.0, 256.0, 65_536.0, 16_777_216.0];

/// Arranges a token for [`dot_rows`]. With `totals` the sums are those that groups with a shared bias want.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn arrange(x: &[f32], totals: bool, arranged: &mut [f32]) {
    for (x, arranged) in x.as_chunks::<ELEMENTS>().0.iter().zip(arranged.as_chunks_mut::<ARRANGED>().0) {
        let mut sums = [0.0; 8];
        for k in 0..4 {
            for i in 0..8 {
                arranged[8 * k + i] = x[4 * i + k] / POWERS[k];
                sums[i] += x[4 * i + k];
            }
        }
        arranged[ELEMENTS..].copy_from_slice(&sums);
    }
    if totals {
        for block in arranged.as_chunks_mut::<ARRANGED>().0.as_chunks_mut::<SHARED_GROUPS>().0 {
            let sums: [f32; SHARED_GROUPS] = std::array::from_fn(|g| block[g][ELEMENTS..].iter().sum());
            block[0][ELEMENTS..].copy_from_slice(&sums);
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arranged_token_keeps_every_element() {
        let Some(_) = super::super::Avx2::detect() else { return };
        let x: Vec<f32> = (0..64).map(|i| i as f32).collect();
        let mut arranged = vec![0.0; 2 * ARRANGED];
        // SAFETY: the machine has the instructions, as was just asked.
        unsafe { arrange(&x, false, &mut arranged) };
        assert_eq!(arranged[ARRANGED + 8 * 2 + 3], (32 + 4 * 3 + 2) as f32 / 65_536.0);
        assert_eq!(arranged[ELEMENTS + 1], (4 + 5 + 6 + 7) as f32);
    }
}
