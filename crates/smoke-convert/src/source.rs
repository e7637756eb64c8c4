//! A source whose tensors have other encodings than they are stored in.

use std::sync::{Mutex, PoisonError};

use smoke_core::Encoding;
use smoke_storage::{
    AlignedBuffer, Extent, FileInfo, SourceError, SourceErrorKind, TensorIndex, TensorInfo, WeightSource,
};

use crate::dtype::DtypeRules;
use crate::error::ConvertError;
use crate::recode::{PIECE_ELEMENTS, RecodeError, Scratch, recode};

/// Tensors begin on multiples of this, in bytes: enough for every element.
const ALIGNMENT: u64 = 64;
/// Elements that are read at once; of `F32` they are 4 MiB, which keeps a disk busy.
const READ_ELEMENTS: u64 = 1 << 20;

/// Another source's tensors, some of them in another encoding: converted whenever they are read.
///
/// Its index has the encodings, sizes and places that the tensors have here, in files of the same names with nothing but
/// tensors in them, and any range of bytes can be read. What is converted goes through a buffer of a few MiB for each thread
/// that reads at once; nothing of the size of a weight is allocated.
///
/// ```
/// use smoke_convert::{Converted, DtypeRules};
/// use smoke_core::Encoding;
/// use smoke_storage::{MemorySource, WeightSource};
///
/// let bias = ("bias".to_owned(), Encoding::F32, vec![2], vec![0, 0, 128, 63, 0, 0, 0, 64]);
/// let source = MemorySource::new(vec![bias])?;
/// let halves = Converted::new(source, &DtypeRules::from_iter(["bf16".parse()?]))?;
/// let tensor = halves.index().get("bias").expect("it was given");
/// let mut bytes = [0; 4];
/// halves.read_at(tensor.extent, &mut bytes)?;
/// assert_eq!((tensor.encoding, bytes), (Encoding::BF16, [128, 63, 0, 64]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Converted<S> {
    source: S,
    index: TensorIndex,
    /// The tensors of `index`, in its order, as the source has them.
    originals: Vec<TensorInfo>,
    spare: Mutex<Vec<Buffers>>,
}

#[derive(Debug)]
struct Buffers {
    raw: AlignedBuffer,
    scratch: Scratch,
}

/// A range of blocks to convert.
struct Blocks<'a> {
    original: &'a TensorInfo,
    to: Encoding,
    /// The elements of one step: whole blocks of both encodings.
    step: u64,
}

impl<S: WeightSource> Converted<S> {
    /// Gives the tensors of `source` the encodings that `rules` say.
    ///
    /// # Errors
    /// [`ConvertError::NoSuchTensor`] if a rule's pattern matches no tensor.
    pub fn new(source: S, rules: &DtypeRules) -> Result<Self, ConvertError> {
        rules.check(source.index())?;
        Ok(Self::with(source, |tensor| rules.encoding_of(tensor).unwrap_or(tensor.encoding)))
    }

    /// Gives every tensor the encoding that `encoding_of` says: one that its rows are whole blocks of.
    pub(crate) fn with(source: S, encoding_of: impl Fn(&TensorInfo) -> Encoding) -> Self {
        let mut ends = vec![0_u64; source.index().files().len()];
        let place = |tensor: &TensorInfo| {
            let encoding = encoding_of(tensor);
            let len = encoding.bytes_for(tensor.elements()).expect("rows are whole blocks");
            let end = &mut ends[tensor.extent.file as usize];
            let offset = end.next_multiple_of(ALIGNMENT);
            *end = offset + len;
            TensorInfo { encoding, extent: Extent { offset, len, ..tensor.extent }, ..tensor.clone() }
        };
        let tensors: Vec<TensorInfo> = source.index().iter().map(place).collect();
        let files =
            source.index().files().iter().zip(ends).map(|(file, len)| FileInfo { len, path: file.path.clone() });
        let index = TensorIndex::new(files.collect(), tensors).expect("tensors were laid out one after another");
        let original = |tensor: &TensorInfo| source.index().get(&tensor.name).expect("names are the same").clone();
        let originals = index.iter().map(original).collect();
        Self { source, index, originals, spare: Mutex::default() }
    }

    /// The source as it is stored.
    pub fn original(&self) -> &S {
        &self.source
    }

    fn check_range(&self, extent: Extent, buffer_bytes: usize) -> Result<(), SourceError> {
        let out_of_range = |reason: String| SourceError::new(SourceErrorKind::OutOfRange, reason);
        if buffer_bytes as u64 != extent.len {
            return Err(out_of_range(format!("{} bytes do not fit a buffer of {buffer_bytes}", extent.len)));
        }
        let Some(file) = self.index.files().get(extent.file as usize) else {
            return Err(out_of_range(format!("there is no file {}", extent.file)));
        };
        if extent.offset.checked_add(extent.len).is_none_or(|end| end > file.len) {
            let Extent { offset, len, .. } = extent;
            return Err(out_of_range(format!("{len} bytes from {offset} on are not inside {} bytes", file.len)));
        }
        Ok(())
    }

    /// Fills `out` with the bytes of a tensor from `start` on.
    fn read_tensor(
        &self,
        tensor: &TensorInfo,
        original: &TensorInfo,
        start: u64,
        out: &mut [u8],
        should_stop: &dyn Fn() -> bool,
    ) -> Result<(), SourceError> {
        if tensor.encoding == original.encoding {
            let extent = Extent { offset: original.extent.offset + start, len: out.len() as u64, ..original.extent };
            return self.source.read_cancellable(extent, out, should_stop);
        }
        let spare = || self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let popped = spare().pop();
        let mut buffers =
            popped.unwrap_or_else(|| Buffers { raw: AlignedBuffer::zeroed(0), scratch: Scratch::default() });
        let step = tensor.encoding.block_elements().max(original.encoding.block_elements());
        let blocks = Blocks { original, to: tensor.encoding, step };
        let result = blocks.convert(&self.source, start, out, &mut buffers, should_stop);
        spare().push(buffers);
        result
    }
}

impl Blocks<'_> {
    /// Converts what `out` needs: the bytes of the converted tensor from `start` on.
    fn convert(
        &self,
        source: &dyn WeightSource,
        start: u64,
        out: &mut [u8],
        buffers: &mut Buffers,
        should_stop: &dyn Fn() -> bool,
    ) -> Result<(), SourceError> {
        let step_bytes = bytes(self.to, self.step);
        let end = start + out.len() as u64;
        let (mut element, last) = (start / step_bytes * self.step, end.div_ceil(step_bytes) * self.step);
        while element < last {
            let count = READ_ELEMENTS.min(last - element);
            let raw = self.read(source, element, count, &mut buffers.raw, should_stop)?;
            let piece_bytes = bytes(self.original.encoding, PIECE_ELEMENTS as u64) as usize;
            for (piece, number) in raw.chunks(piece_bytes).zip(0..) {
                let first = element + number * PIECE_ELEMENTS as u64;
                let elements = (element + count - first).min(PIECE_ELEMENTS as u64) as usize;
                let converted = recode(self.original.encoding, self.to, piece, elements, &mut buffers.scratch)
                    .map_err(|error| self.error(error))?;
                let place = bytes(self.to, first);
                let from = start.max(place);
                let to = end.min(place + converted.len() as u64);
                out[(from - start) as usize..(to - start) as usize]
                    .copy_from_slice(&converted[(from - place) as usize..(to - place) as usize]);
            }
            element += count;
        }
        Ok(())
    }

    /// Reads elements as they are stored, from whole blocks of the disk into memory that is aligned for them.
    fn read<'b>(
        &self,
        source: &dyn WeightSource,
        first: u64,
        count: u64,
        raw: &'b mut AlignedBuffer,
        should_stop: &dyn Fn() -> bool,
    ) -> Result<&'b [u8], SourceError> {
        let Self { original, .. } = self;
        let (offset, len) = (original.extent.offset + bytes(original.encoding, first), bytes(original.encoding, count));
        let alignment = source.alignment();
        let file_bytes = source.index().files()[original.extent.file as usize].len;
        let widened = offset - offset % alignment;
        let end = (offset + len).checked_next_multiple_of(alignment).unwrap_or(file_bytes).min(file_bytes);
        let extent = Extent { offset: widened, len: end - widened, ..original.extent };
        if (raw.len() as u64) < extent.len {
            raw.resize(extent.len as usize);
        }
        source.read_cancellable(extent, &mut raw[..extent.len as usize], should_stop)?;
        Ok(&raw[(offset - widened) as usize..][..len as usize])
    }

    fn error(&self, error: RecodeError) -> SourceError {
        let name = &self.original.name;
        let remedy = match error {
            RecodeError::OutOfRange { .. } => {
                format!(": keep it as it is, with the rule '{name}=keep' before the others")
            }
            RecodeError::Packed(_) => String::new(),
        };
        SourceError::new(SourceErrorKind::Other, format!("tensor `{name}`: {error}{remedy}"))
    }
}

/// The bytes of whole blocks of a tensor that is there, so that they overflow nothing.
fn bytes(encoding: Encoding, elements: u64) -> u64 {
    elements / encoding.block_elements() * encoding.block_bytes()
}

impl<S: WeightSource> WeightSource for Converted<S> {
    fn index(&self) -> &TensorIndex {
        &self.index
    }

    fn read_at(&self, extent: Extent, buf: &mut [u8]) -> Result<(), SourceError> {
        self.read_cancellable(extent, buf, &|| false)
    }

    fn read_cancellable(
        &self,
        extent: Extent,
        buf: &mut [u8],
        should_stop: &dyn Fn() -> bool,
    ) -> Result<(), SourceError> {
        self.check_range(extent, buf.len())?;
        let tensors = self.index.iter().as_slice();
        let first =
            tensors.partition_point(|tensor| (tensor.extent.file, tensor.extent.end()) <= (extent.file, extent.offset));
        // Gaps between tensors are zeros.
        let mut done = extent.offset;
        for (tensor, original) in tensors[first..].iter().zip(&self.originals[first..]) {
            let place = tensor.extent;
            if place.file != extent.file || place.offset >= extent.end() {
                break;
            }
            let (from, to) = (place.offset.max(extent.offset), place.end().min(extent.end()));
            buf[(done - extent.offset) as usize..(from - extent.offset) as usize].fill(0);
            let out = &mut buf[(from - extent.offset) as usize..(to - extent.offset) as usize];
            self.read_tensor(tensor, original, from - place.offset, out, should_stop)?;
            done = to;
        }
        buf[(done - extent.offset) as usize..].fill(0);
        Ok(())
    }
}
