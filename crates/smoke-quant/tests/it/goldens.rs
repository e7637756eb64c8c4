//! Decoding against what the `gguf` Python package decoded: see `tests/assets/README.md`.

use safetensors::SafeTensors;
use smoke_core::Encoding;
use smoke_quant::{Isa, decode, decode_with};

/// The encodings of the file.
const ENCODINGS: [Encoding; 14] = [
    Encoding::F16,
    Encoding::BF16,
    Encoding::Q4_0,
    Encoding::Q4_1,
    Encoding::Q5_0,
    Encoding::Q5_1,
    Encoding::Q8_0,
    Encoding::Q4_K,
    Encoding::Q5_K,
    Encoding::Q6_K,
    Encoding::Q2_K,
    Encoding::Q3_K,
    Encoding::IQ4_NL,
    Encoding::IQ4_XS,
];

fn golden_file() -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/assets/quant/gguf-blocks.safetensors");
    std::fs::read(path).expect("the golden file is part of the repository")
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn every_encoding_decodes_to_the_bits_of_the_goldens() {
    let file = golden_file();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let mut checked = 0;
    for encoding in ENCODINGS {
        for kind in [format!("{encoding}"), format!("{encoding}.quantize")] {
            let Ok(bytes) = tensors.tensor(&format!("{kind}.bytes")) else { continue };
            let expected = floats(tensors.tensor(&format!("{kind}.values")).unwrap().data());
            for &isa in Isa::available() {
                let mut out = vec![f32::NAN; expected.len()];
                decode_with(isa, encoding, bytes.data(), &mut out).unwrap();
                assert_eq!(bits(&out), bits(&expected), "{kind} on {isa:?}");
            }
            checked += 1;
        }
    }
    assert_eq!(checked, 19, "fourteen kinds of random bits, five of quantised values");
}

#[test]
fn a_long_run_decodes_as_its_blocks_do() {
    let file = golden_file();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let bytes = tensors.tensor("Q6_K.bytes").unwrap().data().repeat(40);
    let expected = floats(tensors.tensor("Q6_K.values").unwrap().data()).repeat(40);
    let mut out = vec![f32::NAN; expected.len()];
    decode(Encoding::Q6_K, &bytes, &mut out).unwrap();
    assert_eq!(bits(&out), bits(&expected));
}

#[test]
fn plain_floats_decode_to_themselves() {
    let values = [0.0, -0.0, 1.5, f32::MIN_POSITIVE / 4.0, f32::INFINITY, -3.4e38, 7.0, 8.0, 9.0];
    let single: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let double: Vec<u8> = values.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect();
    for &isa in Isa::available() {
        for (encoding, bytes) in [(Encoding::F32, &single), (Encoding::F64, &double)] {
            let mut out = [f32::NAN; 9];
            decode_with(isa, encoding, bytes, &mut out).unwrap();
            assert_eq!(bits(&out), bits(&values), "{encoding} on {isa:?}");
        }
    }
}
