use super::block32::non_linear;
use super::{half_at, part};

/// Bytes 0..16 scales (low nibbles) and minima (high ones) of 16 sub-blocks of 16, 16..80 codes, 80..82 scale of the scales,
/// 82..84 scale of the minima. Each half of 128 elements is four quarters of 32: quarter q has bits 2q and 2q + 1 of the
/// half's 32 bytes.
#[inline(always)]
pub(crate) fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (scale, minimum) = (half_at(block, 80), half_at(block, 82));
    for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (half, quarter) = (g / 4, g % 4);
        let codes: &[u8; 32] = part(block, 16 + 32 * half);
        let s = [block[2 * g], block[2 * g + 1]].map(|both| scale * f32::from(both & 15));
        let m = [block[2 * g], block[2 * g + 1]].map(|both| minimum * f32::from(both >> 4));
        for l in 0..32 {
            out[l] = s[l / 16] * f32::from(codes[l] >> (2 * quarter) & 3) - m[l / 16];
        }
    }
}

/// Bytes 0..32 third bits (bit g of byte l belongs to element l of group g of 32), 32..96 pairs of bits as in [`q2_k`],
/// 96..108 scales of 16 sub-blocks of 16, 108..110 scale of the scales. Scales have 6 bits and an offset of 32: the lower
/// four of the first eight are the low nibbles of the first 8 bytes, those of the last eight the high ones, and the upper
/// two of scale j are pair j / 4 of byte j % 4 of the last 4 bytes.
#[inline(always)]
pub(crate) fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let scale = half_at(block, 108);
    let third: &[u8; 32] = part(block, 0);
    let packed: &[u8; 12] = part(block, 96);
    let scale_of = |j: usize| {
        let code = packed[j % 8] >> (j / 8 * 4) & 15 | (packed[8 + j % 4] >> (j / 4 * 2) & 3) << 4;
        scale * (i32::from(code) - 32) as f32
    };
    for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (half, quarter) = (g / 4, g % 4);
        let codes: &[u8; 32] = part(block, 32 + 32 * half);
        let s = [scale_of(2 * g), scale_of(2 * g + 1)];
        for l in 0..32 {
            let code = codes[l] >> (2 * quarter) & 3 | (third[l] >> g & 1) << 2;
            out[l] = s[l / 16] * (i32::from(code) - 4) as f32;
        }
    }
}

/// Bytes 0..2 scale of the scales, 2..4 upper pairs of the 6-bit scales of 8 sub-blocks of 32, 4..8 their low nibbles, both
/// from the lowest bit on and with an offset of 32; then codes as in [`iq4_nl`](super::iq4_nl).
#[inline(always)]
pub(crate) fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let scale = half_at(block, 0);
    let upper = u16::from_le_bytes(*part(block, 2));
    let lower = u32::from_le_bytes(*part(block, 4));
    for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let code = (lower >> (4 * g) & 15) as i32 | i32::from(upper >> (2 * g) & 3) << 4;
        non_linear(scale * (code - 32) as f32, part(block, 8 + 16 * g), out);
    }
}

/// Bytes 0..2 scale of the scales, 2..4 scale of the minima, 4..16 both, 6 bits each, for 8 sub-blocks of 32; then
/// codes: 32 bytes hold sub-block 2i in their low nibbles and 2i + 1 in their high ones.
#[inline(always)]
pub(crate) fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let (scales, minima) = scales_and_minima(part(block, 4));
    for (i, out) in out.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        let codes: &[u8; 32] = part(block, 16 + 32 * i);
        let (s, m) = (scale * f32::from(scales[2 * i]), minimum * f32::from(minima[2 * i]));
        for l in 0..32 {
            out[l] = s * f32::from(codes[l] & 15) - m;
        }
        let (s, m) = (scale * f32::from(scales[2 * i + 1]), minimum * f32::from(minima[2 * i + 1]));
        for l in 0..32 {
            out[l + 32] = s * f32::from(codes[l] >> 4) - m;
        }
    }
}

/// As [`q4_k`], with the fifth bits in bytes 16..48 (bit j of byte l belongs to element l of sub-block j) before the
/// nibbles.
#[inline(always)]
pub(crate) fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let (scales, minima) = scales_and_minima(part(block, 4));
    let fifth: &[u8; 32] = part(block, 16);
    for (i, out) in out.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        let codes: &[u8; 32] = part(block, 48 + 32 * i);
        let (s, m) = (scale * f32::from(scales[2 * i]), minimum * f32::from(minima[2 * i]));
        for l in 0..32 {
            out[l] = s * f32::from(codes[l] & 15 | (fifth[l] >> (2 * i) & 1) << 4) - m;
        }
        let (s, m) = (scale * f32::from(scales[2 * i + 1]), minimum * f32::from(minima[2 * i + 1]));
        for l in 0..32 {
            out[l + 32] = s * f32::from(codes[l] >> 4 | (fifth[l] >> (2 * i + 1) & 1) << 4) - m;
        }
    }
}

/// Bytes 0..128 low nibbles, 128..192 upper pairs of bits, 192..208 signed scales of 16 sub-blocks of 16, 208..210 scale
/// of the scales. Each half of 128 elements is four quarters of 32: quarters 0 and 1 are the low nibbles of the half's 64
/// bytes, 2 and 3 the high ones, and quarter q has bits 2q and 2q + 1 of the half's 32 bytes of upper pairs.
#[inline(always)]
pub(crate) fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let scale = half_at(block, 208);
    let scales: &[u8; 16] = part(block, 192);
    for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (half, quarter) = (g / 4, g % 4);
        let low: &[u8; 32] = part(block, 64 * half + 32 * (quarter % 2));
        let high: &[u8; 32] = part(block, 128 + 32 * half);
        let s = [2 * g, 2 * g + 1].map(|j| scale * f32::from(scales[j] as i8));
        for l in 0..32 {
            let code = low[l] >> (quarter / 2 * 4) & 15 | (high[l] >> (2 * quarter) & 3) << 4;
            out[l] = s[l / 16] * (i32::from(code) - 32) as f32;
        }
    }
}

/// Takes the 6-bit scales and minima of 8 sub-blocks out of their 12 bytes. Bytes 0..4 and 4..8 hold the first four of
/// either in their lower 6 bits; the last four have their lower nibbles in bytes 8..12 and their upper pairs in the upper
/// pairs of bytes 0..4 and 4..8.
#[inline(always)]
pub(crate) fn scales_and_minima(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let [a, b, c] = [0, 4, 8].map(|start| u32::from_le_bytes(*part(packed, start)));
    let join = |first: u32, last: u32| (u64::from(first) | u64::from(last) << 32).to_le_bytes();
    let scales = join(a & 0x3f3f_3f3f, c & 0x0f0f_0f0f | a >> 2 & 0x3030_3030);
    let minima = join(b & 0x3f3f_3f3f, c >> 4 & 0x0f0f_0f0f | b >> 2 & 0x3030_3030);
    (scales, minima)
}
