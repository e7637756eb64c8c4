use std::fmt;

/// How the elements of a tensor are written as bytes.
///
/// The plain encodings store one element after another, little-endian. The `Q…` and `IQ…` encodings are those of GGUF files: rows
/// are cut into blocks of [`block_elements`](Self::block_elements) elements that share scales, and a block takes
/// [`block_bytes`](Self::block_bytes) bytes. `I8_1` is this project's own, in the same style: what GGUF files lack, 8-bit
/// codes with a minimum. `smoke-quant` decodes all of them and multiplies by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(non_camel_case_types, reason = "the names that GGUF files and their users know")]
pub enum Encoding {
    /// IEEE 754 binary64.
    F64,
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
    /// Signed 64-bit integer.
    I64,
    /// Signed 32-bit integer.
    I32,
    /// Signed 16-bit integer.
    I16,
    /// Signed 8-bit integer.
    I8,
    /// Unsigned 8-bit integer.
    U8,
    /// One byte, zero or one.
    Bool,
    /// 32 elements: f16 scale, 4-bit codes with offset 8.
    Q4_0,
    /// 32 elements: f16 scale and minimum, 4-bit codes.
    Q4_1,
    /// 32 elements: f16 scale, 5-bit codes with offset 16.
    Q5_0,
    /// 32 elements: f16 scale and minimum, 5-bit codes.
    Q5_1,
    /// 32 elements: f16 scale, 8-bit codes.
    Q8_0,
    /// 32 elements: f16 scale and minimum, unsigned 8-bit codes. Asymmetric, for values that lie to one side of zero, as
    /// `Q4_1` and `Q5_1` are; `Q4_0` and `Q8_0` are symmetric.
    I8_1,
    /// 32 elements: f16 scale, 4-bit codes that stand for 16 values, dense about zero.
    IQ4_NL,
    /// 256 elements: 2-bit codes, 4-bit scales and minima of 16 sub-blocks.
    Q2_K,
    /// 256 elements: 3-bit codes, 6-bit scales of 16 sub-blocks.
    Q3_K,
    /// 256 elements: 4-bit codes, 6-bit scales and minima of 8 sub-blocks.
    Q4_K,
    /// 256 elements: 5-bit codes, 6-bit scales and minima of 8 sub-blocks.
    Q5_K,
    /// 256 elements: 6-bit codes, 8-bit scales of 16 sub-blocks.
    Q6_K,
    /// 256 elements: the codes of `IQ4_NL`, 6-bit scales of 8 sub-blocks.
    IQ4_XS,
}

impl Encoding {
    /// Elements in one block; 1 for the plain encodings.
    pub fn block_elements(self) -> u64 {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::I8_1 | Self::IQ4_NL => 32,
            Self::Q2_K | Self::Q3_K | Self::Q4_K | Self::Q5_K | Self::Q6_K | Self::IQ4_XS => 256,
            _ => 1,
        }
    }

    /// Bytes of one block; the size of an element for the plain encodings.
    pub fn block_bytes(self) -> u64 {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
            Self::Q4_0 | Self::IQ4_NL => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::I8_1 => 36,
            Self::Q2_K => 84,
            Self::Q3_K => 110,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
            Self::IQ4_XS => 136,
        }
    }

    /// Bytes of `elements` elements in a row, or `None` where they fill no whole number of blocks or the count
    /// overflows.
    ///
    /// ```
    /// use smoke_core::Encoding;
    /// assert_eq!(Encoding::Q4_0.bytes_for(64), Some(36));
    /// assert_eq!(Encoding::Q4_0.bytes_for(63), None);
    /// ```
    pub fn bytes_for(self, elements: u64) -> Option<u64> {
        if !elements.is_multiple_of(self.block_elements()) {
            return None;
        }
        (elements / self.block_elements()).checked_mul(self.block_bytes())
    }

    /// Whether elements are real numbers (plain floats or quantised), which weights must be.
    pub fn is_real(self) -> bool {
        !matches!(self, Self::I64 | Self::I32 | Self::I16 | Self::I8 | Self::U8 | Self::Bool)
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
