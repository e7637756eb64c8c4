//! Codes, scales and biases of sixteen rows, a row in each lane: see `blocks` for the layouts.
//!
//! Each block function hands the groups of its blocks to `emit`, in their order: the number of the group in the block, its codes as
//! [`IntegerKernels::unpack`](crate::kernels::IntegerKernels::unpack) wants them, and its scales with what goes with them:
//! the biases, the scales of the second half, or nothing. `emit` is called in one place only, so that it is compiled into
//! the function and codes stay in registers.

use std::arch::x86_64::*;

use super::register::{load_halves, load_quarter, load_words, store_words};
use crate::blocks::part;
use crate::kernels::integer::ROWS;

/// One block of every row.
pub(super) type Blocks<'a, const BYTES: usize> = [&'a [u8; BYTES]; ROWS];
/// The codes of a group, four of every row in each register.
pub(super) type Codes = [__m512i; 8];
/// Scales, and what goes with them.
pub(super) type Scales = [__m512; 2];

/// What is done with a group of the blocks.
pub(super) trait Emit {
    /// Takes the codes and scales of group `g`. To be inlined always: codes shall stay in registers.
    fn group(&mut self, g: usize, codes: Codes, scales: Scales);
}

/// Repeats `body` for each value, so that shifts are constants: loops so large the compiler leaves as they are.
macro_rules! each {
    ($name:ident in [$($value:literal)*], $body:block) => {
        $({
            let $name = $value;
            $body
        })*
    };
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn q8_0(block: &Blocks<'_, 34>, emit: &mut impl Emit) {
    let mut codes = eight_transposed(block, 2);
    for codes in &mut codes {
        // Signed codes plus 128.
        *codes = _mm512_xor_si512(*codes, _mm512_set1_epi8(-128));
    }
    emit.group(0, codes, pairs_of_halves(transposed(block, 0)[0]));
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn i8_1(block: &Blocks<'_, 36>, emit: &mut impl Emit) {
    emit.group(0, eight_transposed(block, 4), pairs_of_halves(transposed(block, 0)[0]));
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn q4_0(block: &Blocks<'_, 18>, emit: &mut impl Emit) {
    emit.group(0, nibbles(transposed(block, 2)), pairs_of_halves(transposed(block, 0)[0]));
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn q4_1(block: &Blocks<'_, 20>, emit: &mut impl Emit) {
    emit.group(0, nibbles(transposed(block, 4)), pairs_of_halves(transposed(block, 0)[0]));
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn q5_0(block: &Blocks<'_, 22>, emit: &mut impl Emit) {
    // The scale, then the fifth bits from the second half of the first word on.
    let [first, second, ..] = transposed(block, 0);
    let fifth = _mm512_or_si512(_mm512_srli_epi32::<16>(first), _mm512_slli_epi32::<16>(second));
    emit.group(0, five_bits(fifth, nibbles(transposed(block, 6))), pairs_of_halves(first));
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn q5_1(block: &Blocks<'_, 24>, emit: &mut impl Emit) {
    let [halves, fifth, ..] = transposed(block, 0);
    emit.group(0, five_bits(fifth, nibbles(transposed(block, 8))), pairs_of_halves(halves));
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn q4_k(block: &Blocks<'_, 144>, emit: &mut impl Emit) {
    let vectors = scales_and_biases(block);
    for i in 0..4 {
        let bytes = eight_transposed(block, 16 + 32 * i);
        each!(half in [0 1], {
            let mut codes = bytes;
            for w in 0..8 {
                codes[w] = nibble(bytes[w], half);
            }
            let g = 2 * i + half;
            emit.group(g, codes, load_scales(&vectors[g]));
        });
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn q5_k(block: &Blocks<'_, 176>, emit: &mut impl Emit) {
    let vectors = scales_and_biases(block);
    let fifth = eight_transposed(block, 16);
    each!(i in [0 1 2 3], {
        let bytes = eight_transposed(block, 48 + 32 * i);
        each!(half in [0 1], {
            let g = 2 * i + half;
            let mut codes = bytes;
            for w in 0..8 {
                // Bit g of each byte becomes bit 4.
                codes[w] = _mm512_or_si512(nibble(bytes[w], half), moved(fifth[w], g, 4, 0x10));
            }
            emit.group(g, codes, load_scales(&vectors[g]));
        });
    });
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn q6_k(block: &Blocks<'_, 210>, emit: &mut impl Emit) {
    // The last of four words from byte 196 on would lie outside; bytes 194..210 end with the scale of the scales.
    let scale = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(transposed(block, 194)[3])));
    let words = transposed(block, 192);
    let mut vectors = [[[0_u32; ROWS]; 2]; 8];
    for (i, vector) in vectors.as_flattened_mut().iter_mut().enumerate() {
        let code = _mm512_dpbusd_epi32(_mm512_setzero_si512(), one_at(i % 4), words[i / 4]);
        store_words(vector, _mm512_castps_si512(_mm512_mul_ps(scale, _mm512_cvtepi32_ps(code))));
    }
    for i in 0..2 {
        let high = eight_transposed(block, 128 + 32 * i);
        let start = 64 * i;
        let low = [eight_transposed(block, start), eight_transposed(block, start + 32)];
        each!(quarter in [0 1 2 3], {
            let mut codes = low[quarter % 2];
            for w in 0..8 {
                // Bits 2q and 2q + 1 of each byte become bits 4 and 5.
                codes[w] = _mm512_or_si512(nibble(codes[w], quarter / 2), moved(high[w], 2 * quarter, 4, 0x30));
            }
            let g = 4 * i + quarter;
            emit.group(g, codes, load_scales(&vectors[g]));
        });
    }
}

/// Scales and biases of the eight groups of a Q4_K or Q5_K block: as `blocks::scales_and_minima`, for all rows at once.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn scales_and_biases<const BYTES: usize>(block: &Blocks<'_, BYTES>) -> [[[u32; ROWS]; 2]; 8] {
    let [halves, a, b, c] = transposed(block, 0);
    let [scale, minimum] = pairs_of_halves(halves);
    let minimum = _mm512_sub_ps(_mm512_setzero_ps(), minimum);
    let six_bits = |word| _mm512_and_si512(word, _mm512_set1_epi8(0x3f));
    let upper = |word| _mm512_and_si512(_mm512_srli_epi32::<2>(word), _mm512_set1_epi8(0x30));
    let scales = [six_bits(a), _mm512_or_si512(nibble(c, 0), upper(a))];
    let minima = [six_bits(b), _mm512_or_si512(nibble(c, 1), upper(b))];
    let byte = |words: [__m512i; 2], g: usize| {
        _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(_mm512_setzero_si512(), words[g / 4], one_at(g % 4)))
    };
    let mut vectors = [[[0; ROWS]; 2]; 8];
    for (g, [first, second]) in vectors.iter_mut().enumerate() {
        store_words(first, _mm512_castps_si512(_mm512_mul_ps(scale, byte(scales, g))));
        store_words(second, _mm512_castps_si512(_mm512_mul_ps(minimum, byte(minima, g))));
    }
    vectors
}

/// A one at byte `i` of each word: the product with it takes that byte out of other words, in one instruction.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn one_at(i: usize) -> __m512i {
    _mm512_set1_epi32(1 << (8 * i))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn load_scales(vectors: &[[u32; ROWS]; 2]) -> Scales {
    [_mm512_castsi512_ps(load_words(&vectors[0])), _mm512_castsi512_ps(load_words(&vectors[1]))]
}

/// Low nibbles, which are the first half, then high ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn nibbles(bytes: [__m512i; 4]) -> Codes {
    let [a, b, c, d] = bytes;
    let low = |bytes| nibble(bytes, 0);
    let high = |bytes| nibble(bytes, 1);
    [low(a), low(b), low(c), low(d), high(a), high(b), high(c), high(d)]
}

/// Nibbles with their fifth bits, which are the bits of a word for each row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn five_bits(fifth: __m512i, nibbles: Codes) -> Codes {
    let mut codes = nibbles;
    for g in 0..8 {
        // The byte with the four bits of these codes at every place, and at each place one of the bits.
        let byte = _mm512_shuffle_epi8(fifth, repeated(g / 2));
        let bits = _mm512_set1_epi32(0x0804_0201 << (4 * (g % 2)));
        codes[g] =
            _mm512_mask_add_epi8(nibbles[g], _mm512_test_epi8_mask(byte, bits), nibbles[g], _mm512_set1_epi8(16));
    }
    codes
}

/// Tells a shuffle to repeat byte `byte` of each word at the four places of the word.
#[inline]
#[target_feature(enable = "avx512f")]
fn repeated(byte: usize) -> __m512i {
    let quarter = [0, 4, 8, 12].map(|word| (word + byte as i32) * 0x0101_0101);
    _mm512_broadcast_i32x4(_mm_setr_epi32(quarter[0], quarter[1], quarter[2], quarter[3]))
}

/// The low nibble of each byte, or the high one.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn nibble(bytes: __m512i, high: usize) -> __m512i {
    _mm512_and_si512(shifted_down(bytes, 4 * high), _mm512_set1_epi8(15))
}

/// Bytes with bit `from` and those above it moved to bit `to`, and of those what `mask` has.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn moved(bytes: __m512i, from: usize, to: usize, mask: i8) -> __m512i {
    let moved = if from < to {
        _mm512_sllv_epi32(bytes, _mm512_set1_epi32((to - from) as i32))
    } else {
        shifted_down(bytes, from - to)
    };
    _mm512_and_si512(moved, _mm512_set1_epi8(mask))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn shifted_down(words: __m512i, bits: usize) -> __m512i {
    _mm512_srlv_epi32(words, _mm512_set1_epi32(bits as i32))
}

/// Four words from byte `start` on of sixteen rows: register w of the result has word w of row r in lane r.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn transposed<const BYTES: usize>(block: &Blocks<'_, BYTES>, start: usize) -> [__m512i; 4] {
    // Quarter q of register j is row 4q + j.
    let mut rows = [_mm512_setzero_si512(); 4];
    for j in 0..4 {
        let quarter = |q: usize| load_quarter(part(block[4 * q + j], start));
        let low = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(quarter(0)), quarter(1));
        let high = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(quarter(2)), quarter(3));
        rows[j] = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
    }
    quarters_transposed(rows)
}

/// As [`transposed`], with eight words: 40 instructions instead of 56.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn eight_transposed<const BYTES: usize>(block: &Blocks<'_, BYTES>, start: usize) -> [__m512i; 8] {
    // The halves of register j are row j and row j + 4, from `first` on.
    let words = |first: usize| {
        let mut rows = [_mm512_setzero_si512(); 4];
        for j in 0..4 {
            let half = |h: usize| load_halves(part(block[first + 4 * h + j], start));
            rows[j] = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(half(0)), half(1));
        }
        quarters_transposed(rows)
    };
    // Quarters 0 and 2 have the first four words of four rows, quarters 1 and 3 the last four.
    let (upper, lower) = (words(0), words(8));
    let mut all = [_mm512_setzero_si512(); 8];
    for w in 0..4 {
        all[w] = _mm512_shuffle_i32x4::<0b10_00_10_00>(upper[w], lower[w]);
        all[w + 4] = _mm512_shuffle_i32x4::<0b11_01_11_01>(upper[w], lower[w]);
    }
    all
}

/// Transposes the four words of the same quarter of four registers, in each quarter.
#[inline]
#[target_feature(enable = "avx512f")]
fn quarters_transposed([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
    let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
    [
        _mm512_unpacklo_epi64(ab, cd),
        _mm512_unpackhi_epi64(ab, cd),
        _mm512_unpacklo_epi64(ab_high, cd_high),
        _mm512_unpackhi_epi64(ab_high, cd_high),
    ]
}

/// The f16 numbers in the lower and in the upper half of each word.
#[inline]
#[target_feature(enable = "avx512f")]
fn pairs_of_halves(words: __m512i) -> [__m512; 2] {
    let widen = |words| _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words));
    [widen(words), widen(_mm512_srli_epi32::<16>(words))]
}
