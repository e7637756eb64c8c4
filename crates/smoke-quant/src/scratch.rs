use std::cell::Cell;

/// Floats in a cache line.
const LINE: usize = 16;

thread_local! {
    static SPARE: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Lends `use_it` `len` floats of scratch that start at a cache line; what they hold is left over from earlier uses.
///
/// A thread keeps its scratch, so that a steady state allocates nothing. While `use_it` waits for other threads, rayon may
/// run another product on this one: that finds no spare scratch and makes its own, which is why the scratch is taken out
/// of the thread-local and not borrowed.
pub(crate) fn with_scratch<R>(len: usize, use_it: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut floats = SPARE.take();
    if floats.len() < len + LINE {
        floats.resize(len + LINE, 0.0);
    }
    let skipped = floats.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
    let result = use_it(&mut floats[skipped..skipped + len]);
    SPARE.set(floats);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_uses_do_not_share() {
        with_scratch(5, |outer| {
            outer.fill(1.0);
            with_scratch(9, |inner| inner.fill(2.0));
            assert_eq!(outer, [1.0; 5]);
            assert_eq!(outer.as_ptr().align_offset(64), 0);
        });
    }
}
