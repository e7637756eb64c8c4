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

    /// Like [`read_at`](Self::read_at), for what takes long: asks `should_stop` before it begins and now and then, and
    /// returns early where the answer is yes.
    ///
    /// As it stands it calls `read_at` for pieces of 4 MiB. A source that reads faster what it knows as a whole does it
    /// in its own way; one that wraps another should forward it.
    ///
    /// # Errors
    /// As `read_at`, and of kind [`Cancelled`](crate::SourceErrorKind::Cancelled) if it was stopped.
    fn read_cancellable(
        &self,
        extent: Extent,
        buf: &mut [u8],
        should_stop: &dyn Fn() -> bool,
    ) -> Result<(), SourceError> {
        if buf.len() as u64 != extent.len {
            // A mistake of the caller, which this reports.
            return self.read_at(extent, buf);
        }
        for (piece, number) in buf.chunks_mut(PIECE).zip(0..) {
            if should_stop() {
                return Err(SourceError::cancelled());
            }
            let offset = extent.offset.saturating_add(number * PIECE as u64);
            self.read_at(Extent { offset, len: piece.len() as u64, ..extent }, piece)?;
        }
        Ok(())
    }

    /// Like [`read_cancellable`](Self::read_cancellable) for several ranges, each with its own buffer.
    ///
    /// As it stands they are read one after another. A source that can read them at once should.
    ///
    /// # Errors
    /// As `read_cancellable`; then all of the buffers hold anything.
    fn read_all_cancellable(
        &self,
        reads: &mut [(Extent, &mut [u8])],
        should_stop: &dyn Fn() -> bool,
    ) -> Result<(), SourceError> {
        reads.iter_mut().try_for_each(|(extent, buf)| self.read_cancellable(*extent, buf, should_stop))
    }

    /// Reads whose offset, length and buffer address are multiples of this many bytes are the fastest. Any other read
    /// works, too.
    fn alignment(&self) -> u64 {
        1
    }
}

/// The most that is read between two looks at whether to stop, in bytes.
pub(crate) const PIECE: usize = 4 << 20;

macro_rules! forward {
    ($pointer:ty) => {
        impl<S: WeightSource + ?Sized> WeightSource for $pointer {
            fn index(&self) -> &TensorIndex {
                (**self).index()
            }
            fn read_at(&self, extent: Extent, buf: &mut [u8]) -> Result<(), SourceError> {
                (**self).read_at(extent, buf)
            }
            fn read_cancellable(
                &self,
                extent: Extent,
                buf: &mut [u8],
                should_stop: &dyn Fn() -> bool,
            ) -> Result<(), SourceError> {
                (**self).read_cancellable(extent, buf, should_stop)
            }
            fn read_all_cancellable(
                &self,
                reads: &mut [(Extent, &mut [u8])],
                should_stop: &dyn Fn() -> bool,
            ) -> Result<(), SourceError> {
                (**self).read_all_cancellable(reads, should_stop)
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
