use std::cell::RefCell;
use std::thread::LocalKey;

/// Bytes in a cache line.
const LINE: usize = 64;

/// The most words of a piece that a thread keeps: 8 MiB, enough for 64 tokens of 16 Ki elements.
const KEPT: usize = 2 << 20;

/// What scratch is made of: 32-bit words of one type.
pub(crate) trait Word: Copy + Default + 'static {
    /// Where a thread keeps its scratch.
    fn spare() -> &'static LocalKey<RefCell<Vec<Vec<Self>>>>;
}

thread_local! {
    static FLOATS: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
    static INTEGERS: RefCell<Vec<Vec<u32>>> = const { RefCell::new(Vec::new()) };
}

impl Word for f32 {
    fn spare() -> &'static LocalKey<RefCell<Vec<Vec<Self>>>> {
        &FLOATS
    }
}

impl Word for u32 {
    fn spare() -> &'static LocalKey<RefCell<Vec<Vec<Self>>>> {
        &INTEGERS
    }
}

/// Lends `use_it` `len` words of scratch that start at a cache line; what they hold is left over from earlier uses.
///
/// A thread keeps its scratch, one piece for each level of nesting, so that a steady state allocates nothing; but not what
/// a product of a great many tokens took.
pub(crate) fn with_scratch<W: Word, R>(len: usize, use_it: impl FnOnce(&mut [W]) -> R) -> R {
    let mut words = W::spare().with_borrow_mut(Vec::pop).unwrap_or_default();
    let line = LINE / size_of::<W>();
    if words.len() < len + line {
        words.resize(len + line, W::default());
    }
    let skipped = words.as_ptr().align_offset(LINE).min(line);
    let result = use_it(&mut words[skipped..skipped + len]);
    if words.len() <= KEPT {
        W::spare().with_borrow_mut(|spare| spare.push(words));
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_uses_do_not_share() {
        with_scratch(5, |outer: &mut [f32]| {
            outer.fill(1.0);
            with_scratch(9, |inner: &mut [f32]| inner.fill(2.0));
            assert_eq!(outer, [1.0; 5]);
            assert_eq!(outer.as_ptr().align_offset(64), 0);
        });
    }

    #[test]
    fn only_what_is_often_needed_is_kept() {
        let kept = || u32::spare().with_borrow(|spare| spare.iter().map(Vec::len).sum::<usize>());
        with_scratch(KEPT + 1, |_: &mut [u32]| ());
        assert_eq!(kept(), 0);
        with_scratch(100, |_: &mut [u32]| ());
        assert!((100..200).contains(&kept()));
    }
}
