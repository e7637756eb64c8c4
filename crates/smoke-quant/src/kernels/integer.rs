//! Products of several tokens in integer arithmetic.
//!
//! A token is rounded to 24-bit integers with a scale for every group of 32 elements; their three bytes lie apart.
//! Sixteen rows of weights are unpacked into a panel of unsigned bytes with a row in each lane, so that one instruction
//! multiplies four elements of sixteen rows by four elements of a token, and the sums of a group meet the scales of all
//! rows at once. Integer sums are exact, and the rounding is that of an f32 as large as the largest element of the group.
//! Two bytes would be a third faster, but activations of language models have outliers, whose neighbours suffer: logits
//! that reach 30 came out 0.01 off.
//!
//! Both stand in scratch of 32-bit words, in an order that is fixed here.

use std::ops::Range;

use smoke_core::Encoding;

use super::Shape;
use crate::output::Piece;
use crate::scratch::with_scratch;

/// Elements that share the scale of a token.
pub(super) const GROUP: usize = 32;
/// Rows of a panel.
pub(super) const ROWS: usize = 16;
/// Tokens of a tile: what lies together, and is multiplied together.
pub(super) const TILE: usize = 8;
/// Up to so many tokens go without a panel.
pub(super) const FEW: usize = 8;
/// Groups of a panel, a multiple of the groups of every block. A panel and the elements of a tile fill five sixths of a
/// first-level cache of 32 KiB.
pub(super) const PANEL_GROUPS: usize = 16;
/// Words of a group of a token: see [`IntegerKernels::quantize`].
pub(super) const TOKEN_WORDS: usize = 32;

/// How the weights of an encoding are made of unsigned codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `scale * (code - offset)`, with a scale for each group.
    Offset(i32),
    /// `scale * (code - offset)`, with a scale for each half of a group.
    HalfOffset(i32),
    /// `scale * code + bias`, with both for each group.
    Bias,
}

impl Layout {
    /// The layout of an encoding, or `None` for plain floats.
    pub(super) fn of(encoding: Encoding) -> Option<Self> {
        match encoding {
            Encoding::Q8_0 => Some(Self::Offset(128)),
            Encoding::Q4_0 => Some(Self::Offset(8)),
            Encoding::Q5_0 => Some(Self::Offset(16)),
            Encoding::Q6_K => Some(Self::HalfOffset(32)),
            Encoding::I8_1 | Encoding::Q4_1 | Encoding::Q5_1 | Encoding::Q4_K | Encoding::Q5_K => Some(Self::Bias),
            _ => None,
        }
    }

    /// Words of a group of a panel: see [`IntegerKernels::unpack`].
    pub(super) fn panel_words(self) -> usize {
        let vectors = match self {
            Self::Offset(_) => 9,
            Self::HalfOffset(_) | Self::Bias => 10,
        };
        vectors * ROWS
    }
}

fn layout_of(encoding: Encoding) -> Layout {
    Layout::of(encoding).expect("only encodings with a layout are multiplied in integers")
}

/// What an instruction set does in integers.
pub(crate) trait IntegerKernels: Sync {
    /// Rounds a token. Its group `g` takes the [`TOKEN_WORDS`] from `g * stride` on: eight words each of high, middle and
    /// low bytes, all signed; then 256 times the scale, and the scale times the sum of the integers, both as bits of an
    /// f32; then what the offset of the codes adds to the sums of products, negative, for the whole group and 0 or for each
    /// half: first to that of the upper two bytes, then to that of the low ones.
    fn quantize(&self, x: &[f32], layout: Layout, stride: usize, words: &mut [u32]);

    /// Unpacks [`ROWS`] rows of whole blocks. A group takes [`Layout::panel_words`]: for each four elements a word of
    /// codes for every row, then the scales of the rows as bits of an f32, then the scales of the second half or the
    /// biases, if there are any. As many bytes as are read, from `ahead` bytes behind the start of the first row on, are
    /// prefetched.
    fn unpack(&self, encoding: Encoding, rows: &[&[u8]; ROWS], ahead: usize, panel: &mut [u32]);

    /// What [`unpack`](Self::unpack) and then [`multiply`](Self::multiply) give, for at most [`FEW`] tokens.
    fn multiply_few(
        &self,
        encoding: Encoding,
        rows: &[&[u8]; ROWS],
        ahead: usize,
        tile: &[u32],
        sums: &mut [[f32; ROWS]],
    );

    /// Adds the products of a panel with a tile of at most [`TILE`] tokens, as many as `sums` has elements, to `sums`.
    fn multiply(&self, layout: Layout, panel: &[u32], tile: &[u32], sums: &mut [[f32; ROWS]]);
}

/// Tokens as integers, in tiles: all tokens of a group lie side by side.
#[derive(Clone, Copy)]
pub(crate) struct Quantized<'a> {
    words: &'a [u32],
    tokens: usize,
    groups: usize,
}

impl<'a> Quantized<'a> {
    /// Words that `elements` elements of all tokens together take.
    pub(crate) fn words(elements: usize) -> usize {
        elements / GROUP * TOKEN_WORDS
    }

    /// Rounds the tokens in `x`, of `columns` elements each.
    pub(crate) fn new(
        kernels: &dyn IntegerKernels,
        encoding: Encoding,
        x: &[f32],
        columns: usize,
        words: &'a mut [u32],
    ) -> Self {
        let layout = layout_of(encoding);
        let tiles = x.chunks(TILE * columns).zip(words.chunks_mut(TILE * Self::words(columns)));
        for (x, words) in tiles {
            let stride = x.len() / columns * TOKEN_WORDS;
            for (t, x) in x.chunks_exact(columns).enumerate() {
                kernels.quantize(x, layout, stride, &mut words[t * TOKEN_WORDS..]);
            }
        }
        Self { words, tokens: x.len() / columns, groups: columns / GROUP }
    }

    /// Some groups of the tile that begins with token `first`.
    fn tile(&self, first: usize, groups: Range<usize>) -> &'a [u32] {
        let tokens = TILE.min(self.tokens - first);
        let tile = &self.words[first * self.groups * TOKEN_WORDS..];
        &tile[groups.start * tokens * TOKEN_WORDS..groups.end * tokens * TOKEN_WORDS]
    }
}

/// Multiplies tokens by the rows in `bytes`; `y` has an element of each token for each row.
pub(crate) fn product(kernels: &dyn IntegerKernels, shape: &Shape, bytes: &[u8], x: Quantized<'_>, y: &mut Piece<'_>) {
    if x.tokens <= FEW {
        product_of_few(kernels, shape, bytes, x, y)
    } else {
        product_of_many(kernels, shape, bytes, x, y)
    }
}

fn product_of_few(kernels: &dyn IntegerKernels, shape: &Shape, bytes: &[u8], x: Quantized<'_>, y: &mut Piece<'_>) {
    let mut sums = [[0.0; ROWS]; FEW];
    let sums = &mut sums[..x.tokens];
    for first in (0..y.width()).step_by(ROWS) {
        sums.fill([0.0; ROWS]);
        let rows = rows_within(shape, bytes, first, 0..shape.row_bytes);
        // While these rows are read side by side, the next ones are fetched in the order of memory.
        let ahead = ROWS * shape.row_bytes;
        kernels.multiply_few(shape.encoding, &rows, ahead, x.tile(0, 0..x.groups), sums);
        write(sums, first, y);
    }
}

fn product_of_many(kernels: &dyn IntegerKernels, shape: &Shape, bytes: &[u8], x: Quantized<'_>, y: &mut Piece<'_>) {
    let layout = layout_of(shape.encoding);
    with_scratch(PANEL_GROUPS * layout.panel_words(), |panel: &mut [u32]| {
        with_scratch(x.tokens * ROWS, |sums: &mut [f32]| {
            let sums = sums.as_chunks_mut::<ROWS>().0;
            for first in (0..y.width()).step_by(ROWS) {
                sums.fill([0.0; ROWS]);
                for start in (0..x.groups).step_by(PANEL_GROUPS) {
                    let groups = start..x.groups.min(start + PANEL_GROUPS);
                    let within = shape.bytes_of(start * GROUP, groups.len() * GROUP);
                    let ahead = ROWS * shape.row_bytes + (ROWS - 1) * within.start;
                    let rows = rows_within(shape, bytes, first, within);
                    let panel = &mut panel[..groups.len() * layout.panel_words()];
                    kernels.unpack(shape.encoding, &rows, ahead, panel);
                    for (t, sums) in sums.chunks_mut(TILE).enumerate() {
                        kernels.multiply(layout, panel, x.tile(t * TILE, groups.clone()), sums);
                    }
                }
                write(sums, first, y);
            }
        });
    });
}

/// The bytes `within` of [`ROWS`] rows from `first` on. Where there are fewer, the last one is taken again.
fn rows_within<'a>(shape: &Shape, bytes: &'a [u8], first: usize, within: Range<usize>) -> [&'a [u8]; ROWS] {
    let last = bytes.len() / shape.row_bytes - 1;
    std::array::from_fn(|r| &bytes[(first + r).min(last) * shape.row_bytes..][within.clone()])
}

/// Writes the sums of all tokens with the rows from `first` on, as far as there are rows.
fn write(sums: &[[f32; ROWS]], first: usize, y: &mut Piece<'_>) {
    let len = ROWS.min(y.width() - first);
    for (t, sums) in sums.iter().enumerate() {
        y.token(t)[first..first + len].copy_from_slice(&sums[..len]);
    }
}
