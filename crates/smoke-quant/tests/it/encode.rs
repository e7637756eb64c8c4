//! Encoding: how far values may move, and what cannot be encoded.

use smoke_core::Encoding;
use smoke_quant::{PackedError, decode, encode};

use crate::weights::Random;

fn round_trip(encoding: Encoding, values: &[f32]) -> Vec<f32> {
    let mut bytes = vec![0xaa];
    encode(encoding, values, &mut bytes).expect("the lengths fit");
    assert_eq!(bytes[0], 0xaa, "what was there stays");
    let mut out = vec![f32::NAN; values.len()];
    decode(encoding, &bytes[1..], &mut out).expect("the lengths fit");
    out
}

/// The largest error that a block may have.
fn bound(encoding: Encoding, block: &[f32]) -> f32 {
    let most = block.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
    let least = block.iter().fold(f32::INFINITY, |m, v| m.min(*v));
    let largest = most.max(-least);
    // Half a step, and what an f16 scale (and minimum) is rounded by, once for every step.
    let half_ulp = 1.0 / 2048.0;
    match encoding {
        Encoding::F32 => 0.0,
        Encoding::F16 => largest * half_ulp,
        Encoding::BF16 => largest / 256.0,
        Encoding::Q8_0 => largest * (0.5 / 127.0 + half_ulp),
        Encoding::I8_1 => (most - least) * (0.5 / 255.0 + half_ulp) + largest * half_ulp,
        // Code 15 lies at 7 steps, while the opposite extreme may lie at 8: a whole step there.
        Encoding::Q4_0 => largest * (1.0 / 8.0 + half_ulp),
        Encoding::Q4_1 => (most - least) * (0.5 / 15.0 + half_ulp) + largest * half_ulp,
        other => unreachable!("{other} has no encoder"),
    }
}

const ENCODABLE: [Encoding; 7] =
    [Encoding::F32, Encoding::F16, Encoding::BF16, Encoding::Q8_0, Encoding::I8_1, Encoding::Q4_0, Encoding::Q4_1];

#[test]
fn values_come_back_within_the_step_of_their_block() {
    let mut random = Random(1);
    for encoding in ENCODABLE {
        for shift in [0.0, 3.0, -20.0] {
            let values: Vec<f32> = (0..64 * 32).map(|_| random.normal() * 2.0 + shift).collect();
            let decoded = round_trip(encoding, &values);
            for (values, decoded) in values.chunks(32).zip(decoded.chunks(32)) {
                let bound = bound(encoding, values) * 1.001;
                for (value, decoded) in values.iter().zip(decoded) {
                    assert!((value - decoded).abs() <= bound, "{encoding}: {value} became {decoded}, bound {bound}");
                }
            }
        }
    }
}

#[test]
fn zeros_stay_zeros_and_equal_values_stay_equal() {
    for encoding in ENCODABLE {
        assert_eq!(round_trip(encoding, &[0.0; 64]), [0.0; 64], "{encoding}");
        let equal = round_trip(encoding, &[-1.5; 32]);
        assert!(equal.iter().all(|v| *v == equal[0]), "{encoding}: {equal:?}");
    }
}

#[test]
fn values_that_are_not_finite_do_not_panic() {
    for encoding in ENCODABLE {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
            let mut values = [1.0; 32];
            values[3] = bad;
            let mut bytes = Vec::new();
            encode(encoding, &values, &mut bytes).unwrap();
            assert_eq!(bytes.len() as u64, encoding.bytes_for(32).unwrap());
        }
    }
}

#[test]
fn what_cannot_be_encoded_is_an_error_and_appends_nothing() {
    let mut bytes = vec![1];
    let error = encode(Encoding::Q4_0, &[0.0; 33], &mut bytes).unwrap_err();
    assert_eq!(error, PackedError::PartialBlock { encoding: Encoding::Q4_0, elements: 33 });
    let error = encode(Encoding::Q6_K, &[0.0; 256], &mut bytes).unwrap_err();
    assert_eq!(error, PackedError::NotEncodable { encoding: Encoding::Q6_K });
    assert_eq!(bytes, [1]);
}
