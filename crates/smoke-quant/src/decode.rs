use smoke_core::Encoding;

use crate::error::bytes_for;
use crate::output::Output;
use crate::{Isa, PackedError, threads};

/// Elements that one thread decodes at a time; a whole number of blocks of every encoding.
const PIECE_ELEMENTS: usize = 1 << 16;

/// Decodes `bytes` to as many elements as `out` has.
///
/// The result is the same on every machine, bit for bit. F64 is rounded to f32; every other value is exact or, where an
/// encoding's formula has more than one rounding, rounded as the formula is written. Long inputs are decoded on
/// several threads, as many as for [`PackedMatrix::multiply`](crate::PackedMatrix::multiply).
///
/// ```
/// use smoke_core::Encoding;
/// let mut out = [0.0; 2];
/// smoke_quant::decode(Encoding::BF16, &[0x80, 0x3f, 0x20, 0xc0], &mut out)?;
/// assert_eq!(out, [1.0, -2.5]);
/// # Ok::<(), smoke_quant::PackedError>(())
/// ```
///
/// # Errors
/// [`PackedError`] if the encoding holds no weights, or `out.len()` elements do not take `bytes.len()` bytes.
pub fn decode(encoding: Encoding, bytes: &[u8], out: &mut [f32]) -> Result<(), PackedError> {
    decode_with(Isa::best(), encoding, bytes, out)
}

/// [`decode`] with the instructions of `isa`; for tests and measurements, since the result is the same.
///
/// # Errors
/// As [`decode`].
///
/// # Panics
/// If the machine does not have `isa`.
pub fn decode_with(isa: Isa, encoding: Encoding, bytes: &[u8], out: &mut [f32]) -> Result<(), PackedError> {
    let expected_bytes = bytes_for(encoding, out.len())?;
    if bytes.len() != expected_bytes {
        return Err(PackedError::WrongLength { encoding, elements: out.len(), expected_bytes, bytes: bytes.len() });
    }
    let kernels = isa.kernels();
    if out.len() <= PIECE_ELEMENTS {
        kernels.decode(encoding, bytes, out);
    } else {
        let (elements, piece_bytes) = (out.len(), bytes_for(encoding, PIECE_ELEMENTS)?);
        let out = Output::new(out, 1, elements, elements);
        threads::for_each(elements.div_ceil(PIECE_ELEMENTS), |i| {
            let range = i * PIECE_ELEMENTS..elements.min((i + 1) * PIECE_ELEMENTS);
            let bytes = &bytes[i * piece_bytes..bytes.len().min((i + 1) * piece_bytes)];
            // SAFETY: `for_each` gives every piece once, and pieces do not overlap.
            let mut piece = unsafe { out.piece(range) };
            kernels.decode(encoding, bytes, piece.token(0));
        });
    }
    Ok(())
}
