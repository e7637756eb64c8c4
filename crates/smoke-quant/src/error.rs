use smoke_core::Encoding;

/// Why bytes and numbers do not fit one another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PackedError {
    /// The encoding is one of integers or truth values, which weights are not.
    #[error("{encoding} holds no weights: only floats and the block encodings can be decoded")]
    NotWeights {
        /// The encoding that was asked for.
        encoding: Encoding,
    },
    /// Decoding is known, encoding is not.
    #[error("cannot encode to {encoding}: only F32, F16, BF16, Q8_0, I8_1, Q4_0 and Q4_1 can be written")]
    NotEncodable {
        /// The encoding that was asked for.
        encoding: Encoding,
    },
    /// A row (or a run of elements) is no whole number of blocks.
    #[error("{elements} elements are no whole number of {encoding} blocks of {}", encoding.block_elements())]
    PartialBlock {
        /// The encoding.
        encoding: Encoding,
        /// Elements of the row or run.
        elements: usize,
    },
    /// There are more or fewer bytes than the elements take.
    #[error("{elements} elements of {encoding} take {expected_bytes} bytes, but there are {bytes}")]
    WrongLength {
        /// The encoding.
        encoding: Encoding,
        /// Elements that the bytes are to hold.
        elements: usize,
        /// Bytes that so many elements take.
        expected_bytes: usize,
        /// Bytes given.
        bytes: usize,
    },
    /// The rows of a matrix have no elements.
    #[error("a matrix of {rows} rows has no columns")]
    NoColumns {
        /// Rows of the matrix.
        rows: usize,
    },
    /// The size of the matrix overflows the address space.
    #[error("a matrix of {rows} rows and {columns} columns is too large for this machine")]
    TooLarge {
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        columns: usize,
    },
}

/// The bytes that `elements` elements take.
pub(crate) fn bytes_for(encoding: Encoding, elements: usize) -> Result<usize, PackedError> {
    if !encoding.is_real() || !crate::blocks::is_known(encoding) {
        return Err(PackedError::NotWeights { encoding });
    }
    if !(elements as u64).is_multiple_of(encoding.block_elements()) {
        return Err(PackedError::PartialBlock { encoding, elements });
    }
    encoding
        .bytes_for(elements as u64)
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or(PackedError::TooLarge { rows: 1, columns: elements })
}
