//! GGUF against files built by hand and against the same weights in safetensors.

use std::fs;

use safetensors::SafeTensors;
use smoke_core::Encoding;
use smoke_storage::format::parse_gguf;
use smoke_storage::{Checkpoint, Format, GgufValue, WeightSource};

use crate::files::{Gguf, assets, check_invariants, directory, gguf_text, tensor, write};

#[test]
fn versions_and_alignments() {
    for version in [2, 3] {
        for alignment in [8, 32, 64, 4096] {
            let tensors = [tensor("bytes", 45), tensor("floats", 48).typed("F32", 0, &[3, 4]), tensor("none", 0)];
            let built = tensors.iter().fold(Gguf::new(version, alignment), Gguf::tensor);
            let file = built.bytes();
            let directory = directory();
            let checkpoint = Checkpoint::open(write(&directory, "m.gguf", &file)).unwrap();
            check_invariants(checkpoint.index());
            assert_eq!(checkpoint.metadata().format, Format::Gguf);
            let floats = checkpoint.index().get("floats").unwrap();
            assert_eq!((floats.encoding, &*floats.shape), (Encoding::F32, &[3, 4][..]));
            let data_start = (built.header().len() as u64).next_multiple_of(alignment);
            assert_eq!(floats.extent.offset, data_start + 45_u64.next_multiple_of(alignment));
            for tensor in &tensors {
                let extent = checkpoint.index().get(&tensor.name).unwrap().extent;
                assert_eq!(file[extent.offset as usize..extent.end() as usize], tensor.bytes);
            }
        }
    }
}

#[test]
fn every_encoding_is_known() {
    // GGML's number of the type, its elements and bytes per block: from the format's description.
    let encodings = [
        (0, Encoding::F32, 1, 4),
        (1, Encoding::F16, 1, 2),
        (2, Encoding::Q4_0, 32, 18),
        (3, Encoding::Q4_1, 32, 20),
        (6, Encoding::Q5_0, 32, 22),
        (7, Encoding::Q5_1, 32, 24),
        (8, Encoding::Q8_0, 32, 34),
        (10, Encoding::Q2_K, 256, 84),
        (11, Encoding::Q3_K, 256, 110),
        (12, Encoding::Q4_K, 256, 144),
        (13, Encoding::Q5_K, 256, 176),
        (14, Encoding::Q6_K, 256, 210),
        (20, Encoding::IQ4_NL, 32, 18),
        (23, Encoding::IQ4_XS, 256, 136),
        (24, Encoding::I8, 1, 1),
        (25, Encoding::I16, 1, 2),
        (26, Encoding::I32, 1, 4),
        (27, Encoding::I64, 1, 8),
        (28, Encoding::F64, 1, 8),
        (30, Encoding::BF16, 1, 2),
    ];
    let tensors: Vec<_> = encodings
        .iter()
        .map(|&(kind, encoding, elements, bytes)| {
            tensor(&encoding.to_string(), 6 * bytes).typed("", kind, &[3, 2 * elements])
        })
        .collect();
    let file = tensors.iter().fold(Gguf::new(3, 32), Gguf::tensor).bytes();
    let header = parse_gguf(&file[..], file.len() as u64).unwrap();
    assert_eq!(header.tensors.len(), encodings.len());
    for ((tensor, (_, encoding, elements, bytes)), written) in header.tensors.iter().zip(encodings).zip(&tensors) {
        assert_eq!((&tensor.name, tensor.encoding), (&written.name, encoding));
        assert_eq!(tensor.shape, [3, 2 * elements]);
        assert_eq!(tensor.extent.len, 6 * bytes as u64);
        assert_eq!(file[tensor.extent.offset as usize..tensor.extent.end() as usize], written.bytes);
    }
}

#[test]
fn every_kind_of_value_is_read() {
    let array =
        |kind: u32, count: u64, elements: &[u8]| [&kind.to_le_bytes(), &count.to_le_bytes()[..], elements].concat();
    let texts = [gguf_text("fog"), gguf_text(""), gguf_text("\u{2581}mist")].concat();
    let inner = array(0, 2, &[4, 5]);
    let file = Gguf::new(3, 32)
        .key("u8", 0, &[200])
        .key("i8", 1, &[0x80])
        .key("u16", 2, &60_000_u16.to_le_bytes())
        .key("i16", 3, &(-300_i16).to_le_bytes())
        .key("u32", 4, &4_000_000_000_u32.to_le_bytes())
        .key("i32", 5, &(-5_i32).to_le_bytes())
        .key("f32", 6, &1.5_f32.to_le_bytes())
        .key("bool", 7, &[1])
        .key("text", 8, &gguf_text("fog"))
        .key("texts", 9, &array(8, 3, &texts))
        .key("integers", 9, &array(3, 2, &[0xFF, 0xFF, 7, 0]))
        .key("floats", 9, &array(6, 1, &0.25_f32.to_le_bytes()))
        .key("bools", 9, &array(7, 2, &[0, 1]))
        .key("nested", 9, &array(9, 2, &[inner.clone(), inner].concat()))
        .key("u64", 10, &u64::MAX.to_le_bytes())
        .key("i64", 11, &i64::MIN.to_le_bytes())
        .key("f64", 12, &0.1_f64.to_le_bytes())
        .bytes();
    let metadata = parse_gguf(&file[..], file.len() as u64).unwrap().metadata;
    let integers = GgufValue::Integers(vec![4, 5]);
    for (key, value) in [
        ("u8", GgufValue::Unsigned(200)),
        ("i8", GgufValue::Signed(-128)),
        ("u16", GgufValue::Unsigned(60_000)),
        ("i16", GgufValue::Signed(-300)),
        ("u32", GgufValue::Unsigned(4_000_000_000)),
        ("i32", GgufValue::Signed(-5)),
        ("f32", GgufValue::Float(1.5)),
        ("bool", GgufValue::Bool(true)),
        ("text", GgufValue::Text("fog".to_owned())),
        ("integers", GgufValue::Integers(vec![-1, 7])),
        ("floats", GgufValue::Floats(vec![0.25])),
        ("bools", GgufValue::Array(vec![GgufValue::Bool(false), GgufValue::Bool(true)])),
        ("nested", GgufValue::Array(vec![integers.clone(), integers])),
        ("u64", GgufValue::Unsigned(u64::MAX)),
        ("i64", GgufValue::Signed(i64::MIN)),
        ("f64", GgufValue::Float(0.1)),
    ] {
        assert_eq!(metadata.get(key), Some(&value), "{key}");
    }
    assert_eq!(metadata.strings("texts"), Some(vec!["fog", "", "\u{2581}mist"]));
    assert_eq!(metadata.i32s("integers"), Some(vec![-1, 7]));
    assert_eq!(metadata.f32s("floats"), Some(vec![0.25]));
    assert_eq!((metadata.u64("i32"), metadata.u64("u8")), (None, Some(200)));
    assert_eq!(
        (metadata.f64("u8"), metadata.bool("bool"), metadata.str("text")),
        (Some(200.0), Some(true), Some("fog"))
    );
    assert_eq!(metadata.iter().count(), 17);
}

/// The name of a tensor in the safetensors file; `None` for queries and keys, whose rows GGUF has in another order.
fn safetensors_name(gguf: &str) -> Option<String> {
    let name = match gguf {
        "token_embd.weight" => "model.embed_tokens.weight".to_owned(),
        "output_norm.weight" => "model.norm.weight".to_owned(),
        "output.weight" => "lm_head.weight".to_owned(),
        _ => {
            let (block, rest) = gguf.strip_prefix("blk.")?.split_once('.')?;
            let part = match rest.strip_suffix(".weight")? {
                "attn_norm" => "input_layernorm",
                "ffn_norm" => "post_attention_layernorm",
                "attn_v" => "self_attn.v_proj",
                "attn_output" => "self_attn.o_proj",
                "ffn_gate" => "mlp.gate_proj",
                "ffn_up" => "mlp.up_proj",
                "ffn_down" => "mlp.down_proj",
                _ => return None,
            };
            format!("model.layers.{block}.{part}.weight")
        }
    };
    Some(name)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

/// IEEE binary16 as the standard defines it; the scales of weights are neither infinite nor NaN.
fn half(bytes: [u8; 2]) -> f32 {
    let bits = u16::from_le_bytes(bytes);
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    let magnitude =
        if exponent == 0 { fraction * 2_f32.powi(-24) } else { (1024.0 + fraction) * 2_f32.powi(exponent - 25) };
    if bits >> 15 == 1 { -magnitude } else { magnitude }
}

#[test]
fn gguf_files_of_other_programs_hold_the_weights_that_safetensors_hold() {
    let original = fs::read(assets().join("tiny/llama/model.safetensors")).unwrap();
    let original = SafeTensors::deserialize(&original).unwrap();
    for (file, least_compared) in [("llama-f32.gguf", 24), ("llama-f16.gguf", 24), ("llama-q8_0.gguf", 24)] {
        let checkpoint = Checkpoint::open(assets().join("quant").join(file)).unwrap();
        check_invariants(checkpoint.index());
        assert_eq!(checkpoint.index().len(), original.len());
        assert_eq!(checkpoint.metadata().gguf.as_ref().unwrap().str("general.architecture"), Some("llama"));
        let mut compared = 0;
        for tensor in checkpoint.index() {
            let Some(name) = safetensors_name(&tensor.name) else { continue };
            let view = original.tensor(&name).unwrap();
            assert_eq!(tensor.shape, view.shape().iter().map(|&n| n as u64).collect::<Vec<_>>(), "{name}");
            let mut bytes = vec![0; tensor.extent.len as usize];
            checkpoint.read_at(tensor.extent, &mut bytes).unwrap();
            let values: Vec<f32> = match tensor.encoding {
                Encoding::F32 => floats(&bytes),
                Encoding::F16 => bytes.chunks_exact(2).map(|bytes| half([bytes[0], bytes[1]])).collect(),
                Encoding::Q8_0 => bytes
                    .chunks_exact(34)
                    .flat_map(|block| {
                        let scale = half([block[0], block[1]]);
                        block[2..].iter().map(move |&code| scale * f32::from(code.cast_signed()))
                    })
                    .collect(),
                other => panic!("{name} is {other}"),
            };
            let exact = floats(view.data());
            assert_eq!(values.len(), exact.len());
            let largest = exact.iter().fold(0_f32, |largest, x| largest.max(x.abs()));
            let tolerance = if tensor.encoding == Encoding::F32 { 0.0 } else { largest / 200.0 };
            let off = values.iter().zip(&exact).find(|(value, exact)| (**value - **exact).abs() > tolerance);
            assert_eq!(off, None, "{file}: {name}, {}", tensor.encoding);
            compared += 1;
        }
        assert!(compared >= least_compared, "{file}: only {compared} tensors were compared");
    }
}

#[test]
fn mixed_encodings_have_the_shapes_of_the_original() {
    let plain = Checkpoint::open(assets().join("quant/llama-f32.gguf")).unwrap();
    for (file, encodings) in [
        ("llama-q4_0.gguf", &[Encoding::F32, Encoding::F16, Encoding::Q4_0][..]),
        ("llama-mixed.gguf", &[Encoding::F32, Encoding::F16, Encoding::Q8_0, Encoding::Q5_0, Encoding::Q4_1]),
    ] {
        let checkpoint = Checkpoint::open(assets().join("quant").join(file)).unwrap();
        check_invariants(checkpoint.index());
        assert_eq!(checkpoint.index().len(), plain.index().len());
        for tensor in checkpoint.index() {
            assert_eq!(tensor.shape, plain.index().get(&tensor.name).unwrap().shape);
            assert!(encodings.contains(&tensor.encoding), "{} is {}", tensor.name, tensor.encoding);
        }
        for encoding in encodings {
            assert!(checkpoint.index().iter().any(|tensor| tensor.encoding == *encoding), "{file} has no {encoding}");
        }
    }
}
