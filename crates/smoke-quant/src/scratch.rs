use std::cell::RefCell;
use std::thread::LocalKey;

/// Bytes in a cache line.
const LINE: usize = 64;

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
/// A thread keeps its scratch, one piece for each level of nesting, so that a steady state allocates nothing.
pub(crate) fn with_scratch<W: Word, R>(len: usize, use_it: impl FnOnce(&mut [W]) -> R) -> R {
    let mut words = W::spare().with_borrow_mut(Vec::pop).unwrap_or_default();
    let line = LINE / size_of::<W>();
    if words.len() < len + line {
        words.resize(len + line, W::default());
    }
    let skipped = words.as_ptr().align_offset(LINE).min(line);
    let result = use_it(&mut words[skipped..skipped + len]);
    W::spare().with_borrow_mut(|spare| spare.push(words));
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
}
