//! Panels of codes: see [`IntegerKernels::unpack`](crate::kernels::IntegerKernels::unpack), and `blocks` for the layouts.

use std::arch::x86_64::*;

use smoke_core::Encoding;

use super::register::{load_halves, load_quarter, load_words, prefetch, store_words};
use crate::blocks::part;
use crate::kernels::integer::{PANEL_GROUPS, ROWS};

/// One block of every row.
type Blocks<'a, const BYTES: usize> = [&'a [u8; BYTES]; ROWS];
/// Words of a group: codes, then one or two vectors of scales or biases.
const SCALED: usize = 9 * ROWS;
const BIASED: usize = 10 * ROWS;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn unpack(encoding: Encoding, rows: &[&[u8]; ROWS], ahead: usize, panel: &mut [u32]) {
    match encoding {
        Encoding::Q8_0 => scaled(|block: &Blocks<'_, 34>| q8_0(block), rows, ahead, panel),
        Encoding::Q4_0 => scaled(|block: &Blocks<'_, 18>| nibbles(block, 2), rows, ahead, panel),
        Encoding::Q5_0 => scaled(|block: &Blocks<'_, 22>| five_bits(block, 2), rows, ahead, panel),
        Encoding::Q4_1 => biased(|block: &Blocks<'_, 20>| nibbles(block, 4), rows, ahead, panel),
        Encoding::Q5_1 => biased(|block: &Blocks<'_, 24>| five_bits(block, 4), rows, ahead, panel),
        Encoding::Q4_K => for_each_block(|block, panel| q4_k(block, panel), rows, ahead, panel),
        Encoding::Q5_K => for_each_block(|block, panel| q5_k(block, panel), rows, ahead, panel),
        Encoding::Q6_K => for_each_block(|block, panel| q6_k(block, panel), rows, ahead, panel),
        other => unreachable!("{other} has no codes"),
    }
}

/// Blocks of 32 elements that start with a scale.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn scaled<const BYTES: usize>(
    codes: impl Fn(&Blocks<'_, BYTES>) -> [__m512i; 8],
    rows: &[&[u8]; ROWS],
    ahead: usize,
    panel: &mut [u32],
) {
    // Scales are gathered by way of memory, and used when they have long arrived there.
    let mut scales = [[0_u16; ROWS]; PANEL_GROUPS];
    let groups = panel.as_chunks_mut::<SCALED>().0;
    for (b, (group, scales)) in groups.iter_mut().zip(&mut scales).enumerate() {
        let block = blocks(rows, b, ahead);
        store_codes(group, codes(&block));
        for (scale, block) in scales.iter_mut().zip(block) {
            *scale = u16::from_le_bytes(*part(block, 0));
        }
    }
    for (group, scales) in groups.iter_mut().zip(&scales) {
        store_vector(group, 8, load_halves(scales));
    }
}

/// Blocks of 32 elements that start with a scale and a bias.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn biased<const BYTES: usize>(
    codes: impl Fn(&Blocks<'_, BYTES>) -> [__m512i; 8],
    rows: &[&[u8]; ROWS],
    ahead: usize,
    panel: &mut [u32],
) {
    let mut both = [[0_u32; ROWS]; PANEL_GROUPS];
    let groups = panel.as_chunks_mut::<BIASED>().0;
    for (b, (group, both)) in groups.iter_mut().zip(&mut both).enumerate() {
        let block = blocks(rows, b, ahead);
        store_codes(group, codes(&block));
        for (both, block) in both.iter_mut().zip(block) {
            *both = u32::from_le_bytes(*part(block, 0));
        }
    }
    for (group, both) in groups.iter_mut().zip(&both) {
        let [scales, biases] = pairs_of_halves(load_words(both));
        store_vector(group, 8, scales);
        store_vector(group, 9, biases);
    }
}

/// Blocks of 256 elements.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn for_each_block<const BYTES: usize>(
    unpack: impl Fn(&Blocks<'_, BYTES>, &mut [[u32; BIASED]; 8]),
    rows: &[&[u8]; ROWS],
    ahead: usize,
    panel: &mut [u32],
) {
    for (b, groups) in panel.as_chunks_mut::<BIASED>().0.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        unpack(&blocks(rows, b, ahead), groups);
    }
}

/// Block `b` of every row; the one `ahead` bytes further is prefetched.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn blocks<'a, const BYTES: usize>(rows: &[&'a [u8]; ROWS], b: usize, ahead: usize) -> Blocks<'a, BYTES> {
    rows.map(|row| {
        let block = &row.as_chunks::<BYTES>().0[b];
        block.chunks(64).for_each(|line| prefetch(line, ahead));
        block
    })
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn q8_0(block: &Blocks<'_, 34>) -> [__m512i; 8] {
    // Signed codes plus 128.
    let unsigned = |codes| _mm512_xor_si512(codes, _mm512_set1_epi8(-128));
    join(transposed(block, 2), transposed(block, 18)).map(unsigned)
}

/// 16 bytes from `start` on: low nibbles are the first half.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn nibbles<const BYTES: usize>(block: &Blocks<'_, BYTES>, start: usize) -> [__m512i; 8] {
    let bytes = transposed(block, start);
    join(bytes.map(|bytes| low_nibbles(bytes)), bytes.map(|bytes| high_nibbles(bytes)))
}

/// Fifth bits in the four bytes from `start` on, nibbles after them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn five_bits<const BYTES: usize>(block: &Blocks<'_, BYTES>, start: usize) -> [__m512i; 8] {
    let fifth = transposed(block, start)[0];
    let nibbles = nibbles(block, start + 4);
    std::array::from_fn(|g| {
        // Four bits, then four copies of them seven bits apart, of which one bit lies at the lowest place of each byte.
        let four = _mm512_and_si512(_mm512_srlv_epi32(fifth, _mm512_set1_epi32(4 * g as i32)), _mm512_set1_epi32(15));
        let copies = _mm512_mullo_epi32(four, _mm512_set1_epi32(0x0020_4081));
        let lowest = _mm512_and_si512(copies, _mm512_set1_epi8(1));
        _mm512_or_si512(nibbles[g], _mm512_slli_epi32::<4>(lowest))
    })
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn q4_k(block: &Blocks<'_, 144>, groups: &mut [[u32; BIASED]; 8]) {
    scales_and_biases(block, groups);
    for i in 0..4 {
        let bytes = join(transposed(block, 16 + 32 * i), transposed(block, 32 + 32 * i));
        store_codes(&mut groups[2 * i], bytes.map(|bytes| low_nibbles(bytes)));
        store_codes(&mut groups[2 * i + 1], bytes.map(|bytes| high_nibbles(bytes)));
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn q5_k(block: &Blocks<'_, 176>, groups: &mut [[u32; BIASED]; 8]) {
    scales_and_biases(block, groups);
    let fifth = join(transposed(block, 16), transposed(block, 32));
    // Bit g of each byte becomes bit 4.
    let fifth_bits = |g: usize, word: usize| {
        let lowest = _mm512_srlv_epi32(fifth[word], _mm512_set1_epi32(g as i32));
        _mm512_slli_epi32::<4>(_mm512_and_si512(lowest, _mm512_set1_epi8(1)))
    };
    for i in 0..4 {
        let bytes = join(transposed(block, 48 + 32 * i), transposed(block, 64 + 32 * i));
        let low = std::array::from_fn(|w| _mm512_or_si512(low_nibbles(bytes[w]), fifth_bits(2 * i, w)));
        let high = std::array::from_fn(|w| _mm512_or_si512(high_nibbles(bytes[w]), fifth_bits(2 * i + 1, w)));
        store_codes(&mut groups[2 * i], low);
        store_codes(&mut groups[2 * i + 1], high);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn q6_k(block: &Blocks<'_, 210>, groups: &mut [[u32; BIASED]; 8]) {
    // The last word of bytes 196..212 would lie outside; bytes 194..210 end with the scale of the scales.
    let scale = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(transposed(block, 194)[3])));
    let codes = transposed(block, 192);
    for (g, group) in groups.iter_mut().enumerate() {
        for half in 0..2 {
            let up = _mm512_set1_epi32(24 - 8 * ((2 * g + half) % 4) as i32);
            let code = _mm512_srai_epi32::<24>(_mm512_sllv_epi32(codes[g / 2], up));
            store_vector(group, 8 + half, _mm512_mul_ps(scale, _mm512_cvtepi32_ps(code)));
        }
    }
    for (i, groups) in groups.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let high = join(transposed(block, 128 + 32 * i), transposed(block, 144 + 32 * i));
        for quarter in 0..2 {
            let low = 64 * i + 32 * quarter;
            let low = join(transposed(block, low), transposed(block, low + 16));
            // Bits 2q and 2q + 1 of each byte become bits 4 and 5.
            let upper = |q: usize, w: usize| {
                let pair = _mm512_srlv_epi32(high[w], _mm512_set1_epi32(2 * q as i32));
                _mm512_slli_epi32::<4>(_mm512_and_si512(pair, _mm512_set1_epi8(3)))
            };
            let first = std::array::from_fn(|w| _mm512_or_si512(low_nibbles(low[w]), upper(quarter, w)));
            let second = std::array::from_fn(|w| _mm512_or_si512(high_nibbles(low[w]), upper(quarter + 2, w)));
            store_codes(&mut groups[quarter], first);
            store_codes(&mut groups[quarter + 2], second);
        }
    }
}

/// Scales and biases of the eight groups of a Q4_K or Q5_K block: as `blocks::scales_and_minima`, for all rows at once.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn scales_and_biases<const BYTES: usize>(block: &Blocks<'_, BYTES>, groups: &mut [[u32; BIASED]; 8]) {
    let [halves, a, b, c] = transposed(block, 0);
    let [scale, minimum] = pairs_of_halves(halves);
    let minimum = _mm512_sub_ps(_mm512_setzero_ps(), minimum);
    let six_bits = |word| _mm512_and_si512(word, _mm512_set1_epi8(0x3f));
    let upper = |word| _mm512_and_si512(_mm512_srli_epi32::<2>(word), _mm512_set1_epi8(0x30));
    let scales = [six_bits(a), _mm512_or_si512(low_nibbles(c), upper(a))];
    let minima = [six_bits(b), _mm512_or_si512(high_nibbles(c), upper(b))];
    for (g, group) in groups.iter_mut().enumerate() {
        let byte = |words: [__m512i; 2]| {
            let lowest = _mm512_srlv_epi32(words[g / 4], _mm512_set1_epi32(8 * (g % 4) as i32));
            _mm512_cvtepi32_ps(_mm512_and_si512(lowest, _mm512_set1_epi32(0xff)))
        };
        store_vector(group, 8, _mm512_mul_ps(scale, byte(scales)));
        store_vector(group, 9, _mm512_mul_ps(minimum, byte(minima)));
    }
}

/// Four words from byte `start` on of sixteen rows: register w of the result has word w of row r in lane r.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn transposed<const BYTES: usize>(block: &Blocks<'_, BYTES>, start: usize) -> [__m512i; 4] {
    // Quarter q of register j is row 4q + j.
    let rows: [__m512i; 4] = std::array::from_fn(|j| {
        let quarter = |q: usize| load_quarter(part(block[4 * q + j], start));
        let low = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(quarter(0)), quarter(1));
        let high = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(quarter(2)), quarter(3));
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
    });
    let [a, b, c, d] = rows;
    let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
    let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
    [
        _mm512_unpacklo_epi64(ab, cd),
        _mm512_unpackhi_epi64(ab, cd),
        _mm512_unpacklo_epi64(ab_high, cd_high),
        _mm512_unpackhi_epi64(ab_high, cd_high),
    ]
}

#[inline]
#[target_feature(enable = "avx512f")]
fn join(first: [__m512i; 4], second: [__m512i; 4]) -> [__m512i; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (first, second);
    [a, b, c, d, e, f, g, h]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn low_nibbles(bytes: __m512i) -> __m512i {
    _mm512_and_si512(bytes, _mm512_set1_epi8(15))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn high_nibbles(bytes: __m512i) -> __m512i {
    low_nibbles(_mm512_srli_epi32::<4>(bytes))
}

/// The f16 numbers in the lower and in the upper half of each word.
#[inline]
#[target_feature(enable = "avx512f")]
fn pairs_of_halves(words: __m512i) -> [__m512; 2] {
    [words, _mm512_srli_epi32::<16>(words)].map(|words| _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words)))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store_codes(group: &mut [u32], codes: [__m512i; 8]) {
    for (words, codes) in group.as_chunks_mut::<ROWS>().0.iter_mut().zip(codes) {
        store_words(words, codes);
    }
}

/// Stores scales or biases as vector `i` of a group.
#[inline]
#[target_feature(enable = "avx512f")]
fn store_vector<const WORDS: usize>(group: &mut [u32; WORDS], i: usize, floats: __m512) {
    store_words(&mut group.as_chunks_mut::<ROWS>().0[i], _mm512_castps_si512(floats));
}
