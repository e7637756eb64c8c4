use smoke_core::Encoding;

use super::tape::Span;

/// A name that a pickle may ask for. There are no others.
#[derive(Clone, Copy, Debug)]
pub(super) enum Global {
    /// `collections.OrderedDict`: makes a dictionary.
    OrderedDict,
    /// `torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`: make a tensor of a storage, offset, shape and strides.
    RebuildTensor,
    /// `torch._utils._rebuild_parameter`: makes a parameter of a tensor, which is the tensor itself here.
    RebuildParameter,
    /// `torch.Size`: makes a shape of a tuple, which is the tuple itself here.
    Size,
    /// `torch.float32` and its like, which stand in configurations and need no reading.
    Dtype,
    /// `torch.FloatStorage` and its like: says in which encoding a storage is. The span is its name.
    Storage(Span),
}

impl Global {
    /// The global of this name, or `None` for all that are not known; `span` is where `name` lies.
    pub(super) fn find(module: &[u8], name: &[u8], span: Span) -> Option<Self> {
        Some(match (module, name) {
            (b"collections", b"OrderedDict") => Self::OrderedDict,
            (b"torch._utils", b"_rebuild_tensor" | b"_rebuild_tensor_v2") => Self::RebuildTensor,
            (b"torch._utils", b"_rebuild_parameter") => Self::RebuildParameter,
            (b"torch", b"Size") => Self::Size,
            (b"torch", dtype) if DTYPES.contains(&dtype) => Self::Dtype,
            (b"torch" | b"torch.cuda", name) if STORAGES.iter().any(|(known, _)| *known == name) => Self::Storage(span),
            _ => return None,
        })
    }
}

const DTYPES: [&[u8]; 10] =
    [b"float64", b"float32", b"float16", b"bfloat16", b"int64", b"int32", b"int16", b"int8", b"uint8", b"bool"];

/// The kinds of storages, and how their elements are written where that is supported.
const STORAGES: [(&[u8], Option<Encoding>); 17] = [
    (b"DoubleStorage", Some(Encoding::F64)),
    (b"FloatStorage", Some(Encoding::F32)),
    (b"HalfStorage", Some(Encoding::F16)),
    (b"BFloat16Storage", Some(Encoding::BF16)),
    (b"LongStorage", Some(Encoding::I64)),
    (b"IntStorage", Some(Encoding::I32)),
    (b"ShortStorage", Some(Encoding::I16)),
    (b"CharStorage", Some(Encoding::I8)),
    (b"ByteStorage", Some(Encoding::U8)),
    (b"BoolStorage", Some(Encoding::Bool)),
    (b"ComplexFloatStorage", None),
    (b"ComplexDoubleStorage", None),
    (b"QInt8Storage", None),
    (b"QUInt8Storage", None),
    (b"QInt32Storage", None),
    (b"QUInt4x2Storage", None),
    (b"QUInt2x4Storage", None),
];

/// How the elements of a storage of this kind are written; `None` where that is not supported.
pub(super) fn encoding(storage: &[u8]) -> Option<Encoding> {
    STORAGES.iter().find(|(known, _)| *known == storage)?.1
}
