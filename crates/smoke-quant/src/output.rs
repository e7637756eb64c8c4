use std::marker::PhantomData;
use std::ops::Range;

/// A matrix of results, `[tokens, width]` with a stride, that threads write to side by side.
pub(crate) struct Output<'a> {
    start: *mut f32,
    tokens: usize,
    stride: usize,
    width: usize,
    borrowed: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is the mutable borrow of a slice of f32, which may be sent, and shared access reaches the elements only
// through `piece`, whose caller sees to it that no element is reached twice.
unsafe impl Send for Output<'_> {}
// SAFETY: as for `Send`.
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    /// Takes the first `width` of every `stride` elements of `y`.
    ///
    /// # Panics
    /// If `y` does not hold them, or tokens overlap.
    pub(crate) fn new(y: &'a mut [f32], tokens: usize, stride: usize, width: usize) -> Self {
        assert_strided(y.len(), tokens, stride, width);
        Self { start: y.as_mut_ptr(), tokens, stride, width, borrowed: PhantomData }
    }

    /// The number of tokens.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// The elements `range` of every token.
    ///
    /// # Safety
    /// While a piece lives no other piece may live whose range has an element in common with it.
    ///
    /// # Panics
    /// If the range reaches beyond the width.
    pub(crate) unsafe fn piece(&self, range: Range<usize>) -> Piece<'_> {
        assert!(range.start <= range.end && range.end <= self.width, "the piece lies inside the output");
        // SAFETY: `new` checked that the first token's `width` elements exist, and `range` lies in them.
        let start = unsafe { self.start.add(range.start) };
        Piece { start, tokens: self.tokens, stride: self.stride, width: range.len(), borrowed: PhantomData }
    }
}

/// Some neighbouring elements of every token of an [`Output`], of which it has exclusive use.
pub(crate) struct Piece<'a> {
    start: *mut f32,
    tokens: usize,
    stride: usize,
    width: usize,
    borrowed: PhantomData<&'a mut [f32]>,
}

impl Piece<'_> {
    /// The number of tokens.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// The elements of each token.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// The elements of a token.
    ///
    /// # Panics
    /// If there is no such token.
    pub(crate) fn token(&mut self, token: usize) -> &mut [f32] {
        let [elements] = self.tokens_from(token);
        elements
    }

    /// The elements of `N` tokens from `first` on.
    ///
    /// # Panics
    /// If there are not so many.
    pub(crate) fn tokens_from<const N: usize>(&mut self, first: usize) -> [&mut [f32]; N] {
        assert!(first.checked_add(N).is_some_and(|end| end <= self.tokens), "there are so many tokens");
        std::array::from_fn(|t| {
            // SAFETY: `Output::new` checked that `tokens` tokens lie inside the borrowed slice and do not overlap, and
            // `Output::piece` that the width lies inside a token; the slices are of different tokens and borrow `self`
            // mutably, which has exclusive use of the elements.
            unsafe { std::slice::from_raw_parts_mut(self.start.add((first + t) * self.stride), self.width) }
        })
    }
}

/// Checks that `len` elements hold so many tokens.
///
/// # Panics
/// If they do not, or tokens overlap.
pub(crate) fn assert_strided(len: usize, tokens: usize, stride: usize, width: usize) {
    assert!(tokens <= 1 || stride >= width, "a stride of {stride} is less than the {width} elements of a token");
    let needed = tokens.checked_sub(1).map_or(Some(0), |last| last.checked_mul(stride)?.checked_add(width));
    assert!(needed.is_some_and(|needed| needed <= len), "{len} elements do not hold {tokens} tokens");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_their_elements_and_no_others() {
        let mut y = [0.0; 14];
        let output = Output::new(&mut y, 3, 5, 4);
        // SAFETY: the ranges have no element in common.
        let (mut left, mut right) = unsafe { (output.piece(0..1), output.piece(1..4)) };
        for t in 0..3 {
            left.token(t).fill(1.0);
        }
        let [a, b] = right.tokens_from(1);
        a.fill(2.0);
        b.fill(3.0);
        assert_eq!(y, [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 2.0, 2.0, 0.0, 1.0, 3.0, 3.0, 3.0]);
    }

    #[test]
    #[should_panic(expected = "do not hold 2 tokens")]
    fn a_short_slice_panics() {
        Output::new(&mut [0.0; 5], 2, 4, 2);
    }

    #[test]
    #[should_panic(expected = "lies inside")]
    fn a_range_beyond_the_width_panics() {
        let mut y = [0.0; 5];
        // SAFETY: it is the only piece.
        unsafe { Output::new(&mut y, 1, 4, 2).piece(1..3) };
    }
}
