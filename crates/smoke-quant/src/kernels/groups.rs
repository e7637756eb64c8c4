//! What the encodings with unsigned codes have in common, for instruction sets that multiply in floats.
//!
//! Making a float of a code costs more than multiplying by it, so it is made as cheap as it can be. A group's 32 codes are
//! eight lanes of four bytes; byte k of all lanes is taken by one mask, which leaves the codes times 256^k, and
//! that is a float by one conversion. The token is arranged beforehand to meet them in this order, with the powers of 256
//! taken out of it (exactly, being powers of two).

use smoke_core::Encoding;

/// Elements of a group.
pub(super) const ELEMENTS: usize = 32;

/// Floats that a group of a token takes when arranged: elements 4i + k, for k = 0 to 3, in lanes i = 0 to 7, then sums of
/// elements: those of each lane, or, where a block has [`SHARED_GROUPS`] groups with biases, in the first group of the
/// block those of each group.
pub(super) const ARRANGED: usize = ELEMENTS + 8;

/// As many groups as there are lanes: the biases of all of them are then added at once.
const SHARED_GROUPS: usize = 8;

/// What byte k of a lane is left multiplied by.
const POWERS: [f32; 4] = [1.0, 256.0, 65_536.0, 16_777_216.0];

/// Whether an encoding is made of groups. Codes of eight bits are not: as signed ones they need no offset.
pub(super) fn has_groups(encoding: Encoding) -> bool {
    matches!(
        encoding,
        Encoding::Q4_0
            | Encoding::Q4_1
            | Encoding::Q5_0
            | Encoding::Q5_1
            | Encoding::Q4_K
            | Encoding::Q5_K
            | Encoding::Q6_K
    )
}

/// Whether the biases of a block's groups come in a lane each.
fn share_biases(encoding: Encoding) -> bool {
    matches!(encoding, Encoding::Q4_K | Encoding::Q5_K)
}

/// Calls `$function` with the layout of `$encoding`: its groups per block, offset and the mask of a code as constants, then
/// functions for what the groups of a block share (and, as eight lanes, the biases: of the one group in all lanes, or of
/// the eight groups in a lane each) and for one group. These are functions of the instruction set `$isa`; to be used in
/// functions compiled for it, so that the closures are too.
macro_rules! with_groups {
    ($isa:ident, $encoding:expr, $($function:ident)::+($($argument:expr),*)) => {{
        use $crate::kernels::$isa::{block32, block256};
        match $encoding {
            Encoding::Q4_0 => $($function)::+::<_, 1, 8, 0x0f, _>(|b| block32::scale(b), |b, h, _| block32::q4_0(b, *h), $($argument),*),
            Encoding::Q4_1 => $($function)::+::<_, 1, 0, 0x0f, _>(|b| block32::scale_and_bias(b), |b, h, _| block32::q4_1(b, *h), $($argument),*),
            Encoding::Q5_0 => $($function)::+::<_, 1, 16, 0x1f, _>(|b| block32::scale(b), |b, h, _| block32::q5_0(b, *h), $($argument),*),
            Encoding::Q5_1 => $($function)::+::<_, 1, 0, 0x1f, _>(|b| block32::scale_and_bias(b), |b, h, _| block32::q5_1(b, *h), $($argument),*),
            Encoding::Q4_K => $($function)::+::<_, 8, 0, 0x0f, _>(|b| block256::scales_and_biases(b), |b, h, g| block256::q4_k(b, h, g), $($argument),*),
            Encoding::Q5_K => $($function)::+::<_, 8, 0, 0x1f, _>(|b| block256::scales_and_biases(b), |b, h, g| block256::q5_k(b, h, g), $($argument),*),
            Encoding::Q6_K => $($function)::+::<_, 8, 32, 0x3f, _>(|b| block256::scales(b), |b, h, g| block256::q6_k(b, h, g), $($argument),*),
            other => unreachable!("{other} has no groups"),
        }
    }};
}
pub(super) use with_groups;

/// Runs the body for each of 1 or 8 groups, written out: shifts and addresses become constants.
macro_rules! for_each_group {
    ($groups:expr, $g:ident, $body:block) => {
        for_each_group!(@one $g, $body, 0);
        if $groups == 8 {
            for_each_group!(@one $g, $body, 1);
            for_each_group!(@one $g, $body, 2);
            for_each_group!(@one $g, $body, 3);
            for_each_group!(@one $g, $body, 4);
            for_each_group!(@one $g, $body, 5);
            for_each_group!(@one $g, $body, 6);
            for_each_group!(@one $g, $body, 7);
        }
    };
    (@one $g:ident, $body:block, $number:literal) => {{
        let $g: usize = $number;
        $body
    }};
}
pub(super) use for_each_group;

/// Arranges a token of a matrix in `encoding`. Always inlined, so that it is compiled anew for the instructions of its
/// caller.
#[inline(always)]
pub(super) fn arrange(encoding: Encoding, x: &[f32], arranged: &mut [f32]) {
    for (x, arranged) in x.as_chunks::<ELEMENTS>().0.iter().zip(arranged.as_chunks_mut::<ARRANGED>().0) {
        let mut sums = [0.0; 8];
        for k in 0..4 {
            for i in 0..8 {
                arranged[8 * k + i] = x[4 * i + k] / POWERS[k];
                sums[i] += x[4 * i + k];
            }
        }
        arranged[ELEMENTS..].copy_from_slice(&sums);
    }
    if share_biases(encoding) {
        for block in arranged.as_chunks_mut::<ARRANGED>().0.as_chunks_mut::<SHARED_GROUPS>().0 {
            let sums: [f32; SHARED_GROUPS] = std::array::from_fn(|g| block[g][ELEMENTS..].iter().sum());
            block[0][ELEMENTS..].copy_from_slice(&sums);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arranged_token_keeps_every_element() {
        let x: Vec<f32> = (0..64).map(|i| i as f32).collect();
        let mut arranged = vec![0.0; 2 * ARRANGED];
        arrange(Encoding::Q4_0, &x, &mut arranged);
        assert_eq!(arranged[ARRANGED + 8 * 2 + 3], (32 + 4 * 3 + 2) as f32 / 65_536.0);
        assert_eq!(arranged[ELEMENTS + 1], (4 + 5 + 6 + 7) as f32);
    }

    #[test]
    fn groups_that_share_biases_have_their_sums_in_the_first_one() {
        let x: Vec<f32> = (0..256).map(|i| (i / 32) as f32).collect();
        let mut arranged = vec![0.0; 8 * ARRANGED];
        arrange(Encoding::Q4_K, &x, &mut arranged);
        assert_eq!(arranged[ELEMENTS..ARRANGED], [0.0, 32.0, 64.0, 96.0, 128.0, 160.0, 192.0, 224.0]);
    }
}
