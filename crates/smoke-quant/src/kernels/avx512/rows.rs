//! What is done with the codes of every encoding: [`unpack`] stores them as a panel, [`multiply_few`] multiplies by them
//! while they are in registers.
//!
//! For a token and 32 weights of sixteen rows that takes 131 (Q4_0) to 167 (Q5_1) instructions, 103 (Q4_K) to 158 (Q6_K) in
//! large blocks: 24 products by the three bytes of the token, 20 to 40 that put rows into lanes, 12 to 32 that unpack codes,
//! a dozen for scales, a dozen for sums, and prefetches.

use std::arch::x86_64::*;

use smoke_core::Encoding;

use super::codes::{self, Blocks, Codes, Emit, Scales};
use super::register::{
    PAGE, broadcast, broadcast_float, known_after, load_floats, look_up_page, prefetch, store_floats, store_words,
};
use super::tile::add_group;
use crate::kernels::integer::{ROWS, TOKEN_WORDS};

/// See [`IntegerKernels::unpack`](crate::kernels::IntegerKernels::unpack).
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn unpack(encoding: Encoding, rows: &[&[u8]; ROWS], ahead: usize, panel: &mut [u32]) {
    match encoding {
        Encoding::Q8_0 => q8_0::unpack(rows, ahead, panel),
        Encoding::I8_1 => i8_1::unpack(rows, ahead, panel),
        Encoding::Q4_0 => q4_0::unpack(rows, ahead, panel),
        Encoding::Q4_1 => q4_1::unpack(rows, ahead, panel),
        Encoding::Q5_0 => q5_0::unpack(rows, ahead, panel),
        Encoding::Q5_1 => q5_1::unpack(rows, ahead, panel),
        Encoding::Q4_K => q4_k::unpack(rows, ahead, panel),
        Encoding::Q5_K => q5_k::unpack(rows, ahead, panel),
        Encoding::Q6_K => q6_k::unpack(rows, ahead, panel),
        other => unreachable!("{other} has no codes"),
    }
}

/// See [`IntegerKernels::multiply_few`](crate::kernels::IntegerKernels::multiply_few).
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn multiply_few(
    encoding: Encoding,
    rows: &[&[u8]; ROWS],
    ahead: usize,
    tile: &[u32],
    sums: &mut [[f32; ROWS]],
) {
    match encoding {
        Encoding::Q8_0 => q8_0::multiply(rows, ahead, tile, sums),
        Encoding::I8_1 => i8_1::multiply(rows, ahead, tile, sums),
        Encoding::Q4_0 => q4_0::multiply(rows, ahead, tile, sums),
        Encoding::Q4_1 => q4_1::multiply(rows, ahead, tile, sums),
        Encoding::Q5_0 => q5_0::multiply(rows, ahead, tile, sums),
        Encoding::Q5_1 => q5_1::multiply(rows, ahead, tile, sums),
        Encoding::Q4_K => q4_k::multiply(rows, ahead, tile, sums),
        Encoding::Q5_K => q5_k::multiply(rows, ahead, tile, sums),
        Encoding::Q6_K => q6_k::multiply(rows, ahead, tile, sums),
        other => unreachable!("{other} has no codes"),
    }
}

/// The two uses of a block function of [`codes`], compiled for each: blocks have so many bytes and groups, so many words of
/// codes share scales, and there are biases or not.
macro_rules! uses {
    ($name:ident, $bytes:literal, $groups:literal, $words:literal, $biased:literal) => {
        mod $name {
            use super::*;

            const GROUPS: usize = $groups;
            const WORDS: usize = $words;
            const BIASED: bool = $biased;
            /// Codes, scales, and what goes with them.
            const VECTORS: usize = 8 + 8 / WORDS + BIASED as usize;

            /// Stores the groups of block `b`.
            struct Unpack<'a> {
                rows: &'a Rows<'a, $bytes>,
                ahead: usize,
                b: usize,
                groups: &'a mut [[[u32; ROWS]; VECTORS]; GROUPS],
            }

            impl Emit for Unpack<'_> {
                #[inline(always)]
                fn group(&mut self, g: usize, codes: Codes, scales: Scales) {
                    self.rows.prefetch_group(self.ahead, GROUPS, self.b * GROUPS + g);
                    let vectors = &mut self.groups[g];
                    // SAFETY: only `unpack` makes one of these, which has the instructions.
                    unsafe {
                        for i in 0..8 {
                            store_words(&mut vectors[i], codes[i]);
                        }
                        for i in 8..VECTORS {
                            store_words(&mut vectors[i], _mm512_castps_si512(scales[i - 8]));
                        }
                    }
                }
            }

            /// Multiplies the groups of block `b` by those of tokens.
            struct Multiply<'a, 'x, const TOKENS: usize> {
                rows: &'a Rows<'a, $bytes>,
                ahead: usize,
                b: usize,
                x: &'x [[[u32; TOKEN_WORDS]; TOKENS]; GROUPS],
                waiting: &'a mut Waiting<'x, TOKENS>,
                totals: &'a mut [__m512; TOKENS],
            }

            impl<const TOKENS: usize> Emit for Multiply<'_, '_, TOKENS> {
                #[inline(always)]
                fn group(&mut self, g: usize, codes: Codes, scales: Scales) {
                    self.rows.prefetch_group(self.ahead, GROUPS, self.b * GROUPS + g);
                    let mut group = Waiting { codes, scales, x: &self.x[g] };
                    if waits(GROUPS, TOKENS) {
                        (group, *self.waiting) = (*self.waiting, group);
                        // SAFETY: as below.
                        group.x = unsafe { known_after(group.x, [codes[0], codes[7], _mm512_castps_si512(scales[0])]) };
                    }
                    let totals = &mut *self.totals;
                    // SAFETY: only `multiply_tokens` makes one of these, which has the instructions.
                    unsafe { add_group!(TOKENS, WORDS, BIASED, group.codes, group.scales, group.x, totals) };
                }
            }

            #[inline(never)]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
            pub(super) fn unpack(rows: &[&[u8]; ROWS], ahead: usize, panel: &mut [u32]) {
                let panel = panel.as_chunks_mut::<ROWS>().0.as_chunks_mut::<VECTORS>().0.as_chunks_mut::<GROUPS>().0;
                let rows = Rows::<$bytes>::new(rows, panel.len());
                for (i, panel) in panel.chunks_mut(blocks_of_page($bytes)).enumerate() {
                    let first = i * blocks_of_page($bytes);
                    rows.look_up_page(ahead, first);
                    for (b, groups) in (first..).zip(panel) {
                        codes::$name(&rows.blocks(b), &mut Unpack { rows: &rows, ahead, b, groups });
                    }
                }
            }

            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
            pub(super) fn multiply(rows: &[&[u8]; ROWS], ahead: usize, tile: &[u32], sums: &mut [[f32; ROWS]]) {
                match sums.len() {
                    1 => multiply_tokens::<1>(rows, ahead, tile, sums),
                    2 => multiply_tokens::<2>(rows, ahead, tile, sums),
                    3 => multiply_tokens::<3>(rows, ahead, tile, sums),
                    4 => multiply_tokens::<4>(rows, ahead, tile, sums),
                    5 => multiply_tokens::<5>(rows, ahead, tile, sums),
                    6 => multiply_tokens::<6>(rows, ahead, tile, sums),
                    7 => multiply_tokens::<7>(rows, ahead, tile, sums),
                    8 => multiply_tokens::<8>(rows, ahead, tile, sums),
                    other => unreachable!("few tokens are one to eight, not {other}"),
                }
            }

            #[inline(never)]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
            fn multiply_tokens<const TOKENS: usize>(
                rows: &[&[u8]; ROWS],
                ahead: usize,
                tile: &[u32],
                sums: &mut [[f32; ROWS]],
            ) {
                let sums: &mut [[f32; ROWS]; TOKENS] = sums.first_chunk_mut().expect("there are so many tokens");
                let tile = tile.as_chunks::<TOKEN_WORDS>().0.as_chunks::<TOKENS>().0.as_chunks::<GROUPS>().0;
                let rows = Rows::<$bytes>::new(rows, tile.len());
                let mut totals = [_mm512_setzero_ps(); TOKENS];
                for t in 0..TOKENS {
                    totals[t] = load_floats(&sums[t]);
                }
                let nothing = [[0; TOKEN_WORDS]; TOKENS];
                let mut waiting = Waiting::new(&nothing);
                for (i, tile) in tile.chunks(blocks_of_page($bytes)).enumerate() {
                    let first = i * blocks_of_page($bytes);
                    rows.look_up_page(ahead, first);
                    for (b, x) in (first..).zip(tile) {
                        codes::$name(
                            &rows.blocks(b),
                            &mut Multiply { rows: &rows, ahead, b, x, waiting: &mut waiting, totals: &mut totals },
                        );
                    }
                }
                if waits(GROUPS, TOKENS) {
                    let Waiting { codes, scales, x } = waiting;
                    add_group!(TOKENS, WORDS, BIASED, codes, scales, x, totals);
                }
                for t in 0..TOKENS {
                    store_floats(&mut sums[t], totals[t]);
                }
            }
        }
    };
}

uses!(q8_0, 34, 1, 8, false);
uses!(i8_1, 36, 1, 8, true);
uses!(q4_0, 18, 1, 8, false);
uses!(q4_1, 20, 1, 8, true);
uses!(q5_0, 22, 1, 8, false);
uses!(q5_1, 24, 1, 8, true);
uses!(q4_k, 144, 8, 8, true);
uses!(q5_k, 176, 8, 8, true);
uses!(q6_k, 210, 8, 4, false);

/// Blocks that sixteen rows have on a page.
const fn blocks_of_page(bytes: usize) -> usize {
    PAGE / (ROWS * bytes)
}

/// Whether a group waits. More tokens leave no registers for that, and blocks of several groups gain nothing.
const fn waits(groups: usize, tokens: usize) -> bool {
    groups == 1 && tokens <= 2
}

/// A group that was unpacked, and waits to be multiplied until the next one is unpacked: the processor looks little more
/// than a group ahead, and shall find instructions of both. It takes a tenth of the time away.
#[derive(Clone, Copy)]
struct Waiting<'x, const TOKENS: usize> {
    codes: Codes,
    scales: Scales,
    x: &'x [[u32; TOKEN_WORDS]; TOKENS],
}

impl<'x, const TOKENS: usize> Waiting<'x, TOKENS> {
    /// Codes and scales of zero.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(x: &'x [[u32; TOKEN_WORDS]; TOKENS]) -> Self {
        Self { codes: [_mm512_setzero_si512(); 8], scales: [_mm512_setzero_ps(); 2], x }
    }
}

/// Sixteen rows of as many blocks each.
struct Rows<'a, const BYTES: usize> {
    rows: [&'a [[u8; BYTES]]; ROWS],
    len: usize,
}

impl<'a, const BYTES: usize> Rows<'a, BYTES> {
    /// The first `len` blocks of rows.
    ///
    /// # Panics
    /// If one of them has fewer.
    #[inline(always)]
    fn new(rows: &[&'a [u8]; ROWS], len: usize) -> Self {
        Self { rows: std::array::from_fn(|r| &rows[r].as_chunks::<BYTES>().0[..len]), len }
    }

    /// Block `b` of every row. Always inlined, and looks but once whether the blocks are there: sixteen looks took one
    /// part in twenty of the time of a product.
    ///
    /// # Panics
    /// If there is no such block.
    #[inline(always)]
    fn blocks(&self, b: usize) -> Blocks<'a, BYTES> {
        assert!(b < self.len, "the block lies inside the rows");
        let mut blocks: Blocks<'a, BYTES> = [&[0; BYTES]; ROWS];
        for (block, row) in blocks.iter_mut().zip(&self.rows) {
            // SAFETY: `new` gave every row `len` blocks, and `b` is less than that.
            *block = unsafe { row.get_unchecked(b) };
        }
        blocks
    }

    /// Prefetches as much memory as a group of sixteen rows takes: the part that falls to group `group`, from so far `ahead`
    /// of the first row on. Group by group, because of more misses at once than the processor can keep in mind some are
    /// dropped, and loads wait.
    #[inline(always)]
    fn prefetch_group(&self, ahead: usize, groups: usize, group: usize) {
        let bytes = ROWS * BYTES / groups;
        let start = self.rows[0].as_ptr().wrapping_byte_add(ahead + group * bytes);
        for line in 0..bytes.div_ceil(64) {
            prefetch(start.wrapping_byte_add(64 * line));
        }
    }

    /// Has the page looked up that follows the one where prefetches are at block `b`. A page has
    /// [`blocks_of_page`], so none is left out.
    #[inline(always)]
    fn look_up_page(&self, ahead: usize, b: usize) {
        look_up_page(self.rows[0].as_ptr().wrapping_byte_add(ahead + b * ROWS * BYTES + PAGE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_those_of_their_rows() {
        let bytes: Vec<u8> = (0..ROWS as u8 * 6).collect();
        let rows: [&[u8]; ROWS] = std::array::from_fn(|r| &bytes[6 * r..6 * r + 6]);
        let rows = Rows::<2>::new(&rows, 3);
        for b in 0..3 {
            let expected: [[u8; 2]; ROWS] = std::array::from_fn(|r| [(6 * r + 2 * b) as u8, (6 * r + 2 * b + 1) as u8]);
            assert_eq!(rows.blocks(b), expected.each_ref());
        }
    }

    #[test]
    #[should_panic(expected = "lies inside")]
    fn a_block_behind_the_rows_panics() {
        Rows::<2>::new(&[&[0; 4]; ROWS], 1).blocks(1);
    }
}
