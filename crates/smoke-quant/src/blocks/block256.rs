use super::{half_at, part};

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
