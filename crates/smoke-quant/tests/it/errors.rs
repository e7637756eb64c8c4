//! Bytes and numbers that do not fit one another.

use smoke_core::Encoding;
use smoke_quant::{PackedError, PackedMatrix, decode};

use crate::weights::ENCODINGS;

#[test]
fn a_wrong_number_of_bytes_is_an_error() {
    for encoding in ENCODINGS {
        let expected_bytes = encoding.bytes_for(512).unwrap() as usize;
        for bytes in [0, expected_bytes - 1, expected_bytes + 1] {
            let data = vec![0; bytes];
            let expected = PackedError::WrongLength { encoding, elements: 512, expected_bytes, bytes };
            assert_eq!(decode(encoding, &data, &mut [0.0; 512]).unwrap_err(), expected);
            assert_eq!(PackedMatrix::new(encoding, 2, 256, &data).unwrap_err(), expected);
        }
    }
}

#[test]
fn a_partial_block_is_an_error() {
    for encoding in ENCODINGS.into_iter().filter(|e| e.block_elements() > 1) {
        let expected = PackedError::PartialBlock { encoding, elements: 100 };
        assert_eq!(decode(encoding, &[0; 7], &mut [0.0; 100]).unwrap_err(), expected);
        assert_eq!(PackedMatrix::new(encoding, 3, 100, &[0; 7]).unwrap_err(), expected);
    }
}

#[test]
fn integers_are_no_weights() {
    for encoding in [Encoding::I64, Encoding::I32, Encoding::I16, Encoding::I8, Encoding::U8, Encoding::Bool] {
        let expected = PackedError::NotWeights { encoding };
        assert_eq!(decode(encoding, &[0], &mut [0.0]).unwrap_err(), expected);
        assert_eq!(PackedMatrix::new(encoding, 1, 1, &[0]).unwrap_err(), expected);
    }
}

#[test]
fn impossible_shapes_are_errors() {
    assert_eq!(PackedMatrix::new(Encoding::F32, 3, 0, &[]).unwrap_err(), PackedError::NoColumns { rows: 3 });
    let (rows, columns) = (usize::MAX / 8, 64);
    let error = PackedMatrix::new(Encoding::Q4_0, rows, columns, &[]).unwrap_err();
    assert_eq!(error, PackedError::TooLarge { rows, columns });
}

#[test]
fn errors_say_what_is_wrong() {
    let error = PackedMatrix::new(Encoding::Q8_0, 2, 32, &[0; 3]).unwrap_err();
    assert_eq!(error.to_string(), "64 elements of Q8_0 take 68 bytes, but there are 3");
    let error = PackedMatrix::new(Encoding::Q8_0, 2, 33, &[0; 3]).unwrap_err();
    assert_eq!(error.to_string(), "33 elements are no whole number of Q8_0 blocks of 32");
}
