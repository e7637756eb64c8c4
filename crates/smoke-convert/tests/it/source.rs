//! A converted source against its tensors converted whole.

use proptest::prelude::*;
use smoke_convert::{Converted, DtypeRules};
use smoke_core::Encoding;
use smoke_storage::conformance::{CountingSource, weight_source};
use smoke_storage::{Extent, MemorySource, SourceErrorKind, UnitMapBuilder, WeightSource};

fn rules(texts: &[&str]) -> DtypeRules {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Numbers that no encoding holds exactly.
fn floats(count: usize, seed: u32) -> Vec<f32> {
    (0..count as u32).map(|at| ((at.wrapping_mul(2_654_435_761) ^ seed) as f32 / u32::MAX as f32 - 0.5) * 3.0).collect()
}

fn encoded(encoding: Encoding, values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    smoke_quant::encode(encoding, values, &mut bytes).unwrap();
    bytes
}

fn decoded(encoding: Encoding, bytes: &[u8], elements: usize) -> Vec<f32> {
    let mut values = vec![0.0; elements];
    smoke_quant::decode(encoding, bytes, &mut values).unwrap();
    values
}

/// Several encodings, sizes below and above what is converted at once, an empty tensor and one of integers.
fn tensors() -> Vec<(String, Encoding, Vec<u64>, Vec<u8>)> {
    let tensor = |name: &str, encoding, shape: &[u64]| {
        let elements = shape.iter().product::<u64>() as usize;
        (name.to_owned(), encoding, shape.to_vec(), encoded(encoding, &floats(elements, elements as u32)))
    };
    vec![
        tensor("a.norm", Encoding::F32, &[33]),
        tensor("a.up", Encoding::F32, &[3, 64]),
        tensor("empty", Encoding::F32, &[0, 64]),
        ("ids".to_owned(), Encoding::I32, vec![3], (0..12).collect()),
        tensor("b.up", Encoding::Q8_0, &[700, 96]),
        tensor("b.down", Encoding::F16, &[5, 4096]),
        tensor("c.down", Encoding::BF16, &[5, 31]),
        tensor("c.up", Encoding::F32, &[2, 32]),
    ]
}

/// What `converted` must read as, tensor by tensor.
fn expected(converted: &dyn WeightSource) -> Vec<(String, Vec<u8>)> {
    let convert = |(name, from, shape, bytes): (String, Encoding, Vec<u64>, Vec<u8>)| {
        let to = converted.index().get(&name).unwrap().encoding;
        let elements = shape.iter().product::<u64>() as usize;
        let bytes = if from == to { bytes } else { encoded(to, &decoded(from, &bytes, elements)) };
        (name, bytes)
    };
    tensors().into_iter().map(convert).collect()
}

const RULES: [&[&str]; 5] =
    [&["bf16"], &["*.norm=f32", "f16"], &["*.up=q4_0", "f32"], &["*.down=keep", "q8_0"], &["c.*=f32", "*.up=q4_1"]];

#[test]
fn a_converted_source_keeps_the_rules_of_sources() {
    for texts in RULES {
        let converted = Converted::new(MemorySource::new(tensors()).unwrap(), &rules(texts)).unwrap();
        let expected = expected(&converted);
        let expected: Vec<(&str, &[u8])> = expected.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
        weight_source(&converted, &expected);
    }
}

#[test]
fn the_index_has_the_new_encodings_and_sizes() {
    let converted = Converted::new(MemorySource::new(tensors()).unwrap(), &rules(RULES[3])).unwrap();
    let encodings: Vec<(&str, Encoding, u64)> = converted
        .index()
        .iter()
        .filter(|tensor| tensor.extent.len > 0)
        .map(|tensor| (tensor.name.as_str(), tensor.encoding, tensor.extent.len))
        .collect();
    assert_eq!(
        encodings,
        [
            ("a.norm", Encoding::F32, 33 * 4),
            ("a.up", Encoding::Q8_0, 3 * 2 * 34),
            ("ids", Encoding::I32, 12),
            ("b.up", Encoding::Q8_0, 700 * 3 * 34),
            ("b.down", Encoding::F16, 5 * 4096 * 2),
            ("c.down", Encoding::BF16, 5 * 31 * 2),
            ("c.up", Encoding::Q8_0, 2 * 34),
        ]
    );
}

#[test]
fn units_of_rows_load_with_any_alignment() {
    let converted = Converted::new(MemorySource::new(tensors()).unwrap(), &rules(&["*.up=q4_0", "f16"])).unwrap();
    let expected = expected(&converted);
    for alignment in [1, 512, 4096] {
        let mut builder = UnitMapBuilder::new(alignment);
        let mut parts = Vec::new();
        for (name, bytes) in &expected {
            let tensor = converted.index().get(name).unwrap();
            let rows = if tensor.shape.len() < 2 { 1 } else { tensor.shape[0] };
            let row_bytes = tensor.extent.len.checked_div(rows).unwrap_or(0);
            for first in (0..rows).step_by(2) {
                let len = row_bytes * 2.min(rows - first);
                let offset = first * row_bytes;
                builder.begin_unit();
                let part = builder.push(Extent { offset: tensor.extent.offset + offset, len, ..tensor.extent });
                parts.push((part, &bytes[offset as usize..(offset + len) as usize]));
            }
        }
        let units = builder.finish(converted.index()).unwrap();
        for (part, bytes) in parts {
            let buffer = units.load(part.unit, &converted, &|| false).unwrap();
            assert_eq!(&buffer[units.locate(part)], bytes, "{part:?} with {alignment}");
        }
    }
}

proptest! {
    #[test]
    fn any_range_has_the_bytes_of_the_whole(rule in 0..RULES.len(), start in 0.0..1.0_f64, len in 0.0..1.0_f64) {
        let converted = Converted::new(MemorySource::new(tensors()).unwrap(), &rules(RULES[rule])).unwrap();
        let file_bytes = converted.index().files()[0].len;
        let mut whole = vec![0xA5; file_bytes as usize];
        converted.read_at(Extent { file: 0, offset: 0, len: file_bytes }, &mut whole).unwrap();
        for (name, bytes) in expected(&converted) {
            let Extent { offset, len, .. } = converted.index().get(&name).unwrap().extent;
            prop_assert_eq!(&whole[offset as usize..(offset + len) as usize], &bytes);
        }
        let offset = (file_bytes as f64 * start) as u64;
        let len = ((file_bytes - offset) as f64 * len * len) as u64;
        let mut part = vec![0x5A; len as usize];
        converted.read_at(Extent { file: 0, offset, len }, &mut part).unwrap();
        prop_assert_eq!(&part, &whole[offset as usize..(offset + len) as usize]);
    }
}

#[test]
fn only_what_is_asked_for_is_read() {
    let source = CountingSource::new(MemorySource::new(tensors()).unwrap());
    let converted = Converted::new(&source, &rules(&["f32"])).unwrap();
    let tensor = converted.index().get("b.down").unwrap();
    let mut row = vec![0; 4096 * 4];
    converted
        .read_at(Extent { offset: tensor.extent.offset + 4096 * 4, len: 4096 * 4, ..tensor.extent }, &mut row)
        .unwrap();
    assert_eq!((source.bytes(), source.calls()), (4096 * 2, 1));
}

#[test]
fn a_number_that_does_not_fit_names_its_tensor_and_a_remedy() {
    let mut values = floats(40_000, 1);
    values[39_999] = 70_000.0;
    let large = ("large".to_owned(), Encoding::F32, vec![40_000], encoded(Encoding::F32, &values));
    let converted = Converted::new(MemorySource::new(vec![large]).unwrap(), &rules(&["f16"])).unwrap();
    let extent = converted.index().get("large").unwrap().extent;
    let error = converted.read_at(extent, &mut vec![0; extent.len as usize]).unwrap_err();
    let text = error.to_string();
    for part in ["large", "7e4", "F16", "large=keep"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!error.is_transient());
    // The rest of it can be read.
    converted.read_at(Extent { len: 30_000 * 2, ..extent }, &mut vec![0; 60_000]).unwrap();
}

#[test]
fn a_pattern_for_nothing_and_a_stop_are_errors() {
    let source = MemorySource::new(tensors()).unwrap();
    let error = Converted::new(&source, &rules(&["mpl.*=f16", "f32"])).unwrap_err().to_string();
    assert!(error.contains("mpl.*"), "{error}");
    let converted = Converted::new(&source, &rules(&["f16"])).unwrap();
    let extent = converted.index().get("b.up").unwrap().extent;
    let error = converted.read_cancellable(extent, &mut vec![0; extent.len as usize], &|| true).unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Cancelled);
}
