//! The block layouts, each as a plain function from the bytes of one block to its elements.
//!
//! These functions are the definition that everything else is held to: [`decode`](crate::decode()) gives their results on
//! every machine, and the kernels of an instruction set are tested against them. They are written without branches on
//! data, so that the compiler can vectorise them for machines that have no kernels of their own.

mod block256;
mod block32;
mod float;

use smoke_core::Encoding;

pub(crate) use block32::{i8_1, iq4_nl, q4_0, q4_1, q5_0, q5_1, q8_0};
pub(crate) use block256::{iq4_xs, q2_k, q3_k, q4_k, q5_k, q6_k, scales_and_minima};
pub(crate) use float::{bf16, f16, f32, f64};

/// Whether the crate has a layout for `encoding`. `Encoding` may grow; what it grows by is refused, not misread.
pub(crate) fn is_known(encoding: Encoding) -> bool {
    matches!(
        encoding,
        Encoding::F64
            | Encoding::F32
            | Encoding::F16
            | Encoding::BF16
            | Encoding::Q4_0
            | Encoding::Q4_1
            | Encoding::Q5_0
            | Encoding::Q5_1
            | Encoding::Q8_0
            | Encoding::I8_1
            | Encoding::IQ4_NL
            | Encoding::Q2_K
            | Encoding::Q3_K
            | Encoding::Q4_K
            | Encoding::Q5_K
            | Encoding::Q6_K
            | Encoding::IQ4_XS
    )
}

/// Calls `$function` with the block function of `$encoding` as its first argument. Each block function has a type of its
/// own, so that `$function` is compiled once for each encoding, and what it must know of the layout (bytes and elements
/// of a block) it takes from that type.
macro_rules! with_block {
    ($encoding:expr, $function:ident($($argument:expr),*)) => {
        match $encoding {
            smoke_core::Encoding::F64 => $function($crate::blocks::f64, $($argument),*),
            smoke_core::Encoding::F32 => $function($crate::blocks::f32, $($argument),*),
            smoke_core::Encoding::F16 => $function($crate::blocks::f16, $($argument),*),
            smoke_core::Encoding::BF16 => $function($crate::blocks::bf16, $($argument),*),
            smoke_core::Encoding::Q4_0 => $function($crate::blocks::q4_0, $($argument),*),
            smoke_core::Encoding::Q4_1 => $function($crate::blocks::q4_1, $($argument),*),
            smoke_core::Encoding::Q5_0 => $function($crate::blocks::q5_0, $($argument),*),
            smoke_core::Encoding::Q5_1 => $function($crate::blocks::q5_1, $($argument),*),
            smoke_core::Encoding::Q8_0 => $function($crate::blocks::q8_0, $($argument),*),
            smoke_core::Encoding::I8_1 => $function($crate::blocks::i8_1, $($argument),*),
            smoke_core::Encoding::IQ4_NL => $function($crate::blocks::iq4_nl, $($argument),*),
            smoke_core::Encoding::Q2_K => $function($crate::blocks::q2_k, $($argument),*),
            smoke_core::Encoding::Q3_K => $function($crate::blocks::q3_k, $($argument),*),
            smoke_core::Encoding::IQ4_XS => $function($crate::blocks::iq4_xs, $($argument),*),
            smoke_core::Encoding::Q4_K => $function($crate::blocks::q4_k, $($argument),*),
            smoke_core::Encoding::Q5_K => $function($crate::blocks::q5_k, $($argument),*),
            smoke_core::Encoding::Q6_K => $function($crate::blocks::q6_k, $($argument),*),
            other => unreachable!("{other} was refused when the bytes were checked"),
        }
    };
}
pub(crate) use with_block;

/// `N` elements of a block from `start` on; the compiler sees that they lie inside and checks nothing.
#[inline(always)]
pub(crate) fn part<T, const N: usize>(block: &[T], start: usize) -> &[T; N] {
    block[start..].first_chunk().expect("the part lies inside the block")
}

/// The f16 number at `start`.
#[inline(always)]
pub(crate) fn half_at(block: &[u8], start: usize) -> f32 {
    float::f16_to_f32(u16::from_le_bytes(*part(block, start)))
}
