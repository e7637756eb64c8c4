use std::fmt::Debug;
use std::sync::Arc;

use crate::error::SourceError;
use crate::index::TensorIndex;

/// A range of bytes in one of a source's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// The file's number in [`TensorIndex::files`].
    pub file: u32,
    /// Where the range begins, in bytes.
    pub offset: u64,
    /// How many bytes it has.
    pub len: u64,
}

impl Extent {
    /// Where the range ends: the offset of the byte after it.
    pub fn end(&self) -> u64 {
        self.offset + self.len
    }
}

/// Weights that lie somewhere and are read in ranges.
///
/// # Contract
/// The index never changes. Many threads read at once. Reading blocks; queueing, order and cancellation are the
/// caller's. The same range gives the same bytes every time.
pub trait WeightSource: Debug + Send + Sync {
    /// What there is: validated when the source was opened.
    fn index(&self) -> &TensorIndex;

    /// Fills `buf`, whose length must be `extent.len`, or fails; after a failure `buf` holds anything.
    ///
    /// # Errors
    /// [`SourceError`] if the range is outside its file or cannot be read.
    fn read_at(&self, extent: Extent, buf: &mut [u8]) -> Result<(), SourceError>;

    /// Reads whose offset, length and buffer address are multiples of this many bytes are the fastest. Any other read
    /// works, too.
    fn alignment(&self) -> u64 {
        1
    }
}

macro_rules! forward {
    ($pointer:ty) => {
        impl<S: WeightSource + ?Sized> WeightSource for $pointer {
            fn index(&self) -> &TensorIndex {
                (**self).index()
            }
            fn read_at(&self, extent: Extent, buf: &mut [u8]) -> Result<(), SourceError> {
                (**self).read_at(extent, buf)
            }
            fn alignment(&self) -> u64 {
                (**self).alignment()
            }
        }
    };
}

forward!(Arc<S>);
forward!(Box<S>);
forward!(&S);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_object_safe() {
        fn _takes(_: &dyn WeightSource) {}
    }
}
