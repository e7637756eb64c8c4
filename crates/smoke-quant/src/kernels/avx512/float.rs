//! Plain floats.

use std::arch::x86_64::*;
use std::ops::Range;

use smoke_core::Encoding;

use super::register::{PAGE, load_doubles, load_floats, load_halves, load_line, look_up_page, prefetch};
use crate::output::Piece;

/// Elements of a register.
pub(super) const LANES: usize = 16;
/// Tokens that are multiplied without a panel.
pub(super) const MOST_TOKENS: usize = 8;
/// Rows of a tile, with up to half of the tokens and with more: sixteen sums at most.
const ROWS: usize = 4;
const ROWS_OF_MANY: usize = 2;

/// Interleaves tokens: the first [`LANES`] elements of all tokens, then the next; zeros fill up the last. Tokens whose
/// elements lie a power of two apart would push one another out of the first-level cache.
pub(super) fn arrange(x: &[f32], columns: usize, arranged: &mut [f32]) {
    let tokens = x.len() / columns;
    for (t, x) in x.chunks_exact(columns).enumerate() {
        for (x, arranged) in x.chunks(LANES).zip(arranged[t * LANES..].chunks_mut(tokens * LANES)) {
            arranged[..x.len()].copy_from_slice(x);
            arranged[x.len()..LANES].fill(0.0);
        }
    }
}

/// See [`Kernels::dot_few`](crate::kernels::Kernels::dot_few).
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn dot_few(encoding: Encoding, bytes: &[u8], x: &[f32], rows: Range<usize>, y: &mut Piece<'_>) {
    match encoding {
        Encoding::F64 => dot_few_of::<128>(|w| load_doubles(w), bytes, x, rows, y),
        Encoding::F32 => dot_few_of::<64>(|w| _mm512_castsi512_ps(load_line(w)), bytes, x, rows, y),
        Encoding::F16 => dot_few_of::<32>(|w| _mm512_cvtph_ps(load_halves(w)), bytes, x, rows, y),
        Encoding::BF16 => dot_few_of::<32>(|w| widen_bf16(load_halves(w)), bytes, x, rows, y),
        other => unreachable!("{other} is no plain float"),
    }
}

/// Widens BF16: the upper half of an f32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn widen_bf16(halves: __m256i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
}

/// `LINE` is the bytes of [`LANES`] elements.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn dot_few_of<const LINE: usize>(
    load: impl Fn(&[u8; LINE]) -> __m512,
    bytes: &[u8],
    x: &[f32],
    rows: Range<usize>,
    y: &mut Piece<'_>,
) {
    let row_bytes = bytes.len() / rows.len();
    let rows_of_tile = if y.tokens() <= MOST_TOKENS / 2 { ROWS } else { ROWS_OF_MANY };
    for (i, bytes) in bytes.chunks(rows_of_tile * row_bytes).enumerate() {
        let row = rows.start + i * rows_of_tile;
        match y.tokens() {
            1 => dot_tile::<LINE, ROWS, 1>(&load, bytes, row_bytes, x, row, y.tokens_from(0)),
            2 => dot_tile::<LINE, ROWS, 2>(&load, bytes, row_bytes, x, row, y.tokens_from(0)),
            3 => dot_tile::<LINE, ROWS, 3>(&load, bytes, row_bytes, x, row, y.tokens_from(0)),
            4 => dot_tile::<LINE, ROWS, 4>(&load, bytes, row_bytes, x, row, y.tokens_from(0)),
            5 => dot_tile::<LINE, ROWS_OF_MANY, 5>(&load, bytes, row_bytes, x, row, y.tokens_from(0)),
            6 => dot_tile::<LINE, ROWS_OF_MANY, 6>(&load, bytes, row_bytes, x, row, y.tokens_from(0)),
            7 => dot_tile::<LINE, ROWS_OF_MANY, 7>(&load, bytes, row_bytes, x, row, y.tokens_from(0)),
            8 => dot_tile::<LINE, ROWS_OF_MANY, 8>(&load, bytes, row_bytes, x, row, y.tokens_from(0)),
            other => unreachable!("few tokens are one to eight, not {other}"),
        }
    }
}

/// The products of at most `ROWS` rows with all tokens. The sums of a row and a token do not depend on what else is in
/// the tile.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn dot_tile<const LINE: usize, const ROWS: usize, const TOKENS: usize>(
    load: &impl Fn(&[u8; LINE]) -> __m512,
    bytes: &[u8],
    row_bytes: usize,
    x: &[f32],
    row: usize,
    y: [&mut [f32]; TOKENS],
) {
    // Where there are fewer rows, the last one is taken again and its sums are not written.
    let len = bytes.len() / row_bytes;
    let rows: [&[u8]; ROWS] = std::array::from_fn(|r| &bytes[r.min(len - 1) * row_bytes..][..row_bytes]);
    let whole = row_bytes / LINE;
    let lines: [&[[u8; LINE]]; ROWS] = rows.map(|row| &row.as_chunks().0[..whole]);
    let x = x.as_chunks::<LANES>().0.as_chunks::<TOKENS>().0;
    let mut sums = [[_mm512_setzero_ps(); TOKENS]; ROWS];
    // While these rows are read side by side, the next ones are fetched in the order of memory.
    let next = bytes.as_ptr().wrapping_add(bytes.len());
    let steps_of_page = PAGE / (ROWS * LINE);
    for (p, x) in x[..whole].chunks(steps_of_page).enumerate() {
        let first = p * steps_of_page;
        look_up_page(next.wrapping_add(first * ROWS * LINE + PAGE));
        for (i, x) in (first..).zip(x) {
            for line in 0..(ROWS * LINE).div_ceil(64) {
                prefetch(next.wrapping_add(i * ROWS * LINE + 64 * line));
            }
            let mut w = [_mm512_setzero_ps(); ROWS];
            for r in 0..ROWS {
                w[r] = load(&lines[r][i]);
            }
            for t in 0..TOKENS {
                let x = load_floats(&x[t]);
                for r in 0..ROWS {
                    sums[r][t] = _mm512_fmadd_ps(w[r], x, sums[r][t]);
                }
            }
        }
    }
    if let Some(x) = x.get(whole) {
        for r in 0..ROWS {
            let mut line = [0; LINE];
            let rest = &rows[r][whole * LINE..];
            line[..rest.len()].copy_from_slice(rest);
            let w = load(&line);
            for t in 0..TOKENS {
                sums[r][t] = _mm512_fmadd_ps(w, load_floats(&x[t]), sums[r][t]);
            }
        }
    }
    for t in 0..TOKENS {
        for r in 0..len {
            y[t][row + r] = _mm512_reduce_add_ps(sums[r][t]);
        }
    }
}
