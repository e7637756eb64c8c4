//! Safetensors, in one file and in shards, against the reading of the format's own library.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize};
use smoke_core::Encoding;
use smoke_storage::{Checkpoint, Format, WeightSource};

use crate::files::{assets, check_invariants, directory, noise, write};

/// Encoding, shape and bytes by name.
type Content = BTreeMap<String, (String, Vec<u64>, Vec<u8>)>;

/// What the format's library reads.
fn by_library(file: &[u8]) -> Content {
    let parsed = SafeTensors::deserialize(file).unwrap();
    let content = parsed.iter().map(|(name, view)| {
        let shape = view.shape().iter().map(|&n| n as u64).collect();
        (name.to_owned(), (format!("{:?}", view.dtype()).to_uppercase(), shape, view.data().to_vec()))
    });
    content.collect()
}

fn by_us(path: &Path) -> Content {
    let checkpoint = Checkpoint::open(path).unwrap();
    check_invariants(checkpoint.index());
    assert_eq!(checkpoint.metadata().format, Format::Safetensors);
    let content = checkpoint.index().iter().map(|tensor| {
        let mut bytes = vec![0; tensor.extent.len as usize];
        checkpoint.read_at(tensor.extent, &mut bytes).unwrap();
        (tensor.name.clone(), (tensor.encoding.to_string().to_uppercase(), tensor.shape.clone(), bytes))
    });
    content.collect()
}

#[test]
fn every_model_among_the_assets_reads_as_its_library_reads_it() {
    for name in ["gpt2", "gpt2-sharded", "llama", "llama-sharded", "llama-tied", "llama3-rope"] {
        let directory = assets().join("tiny").join(name);
        let entries = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
        let is_weights = |path: &std::path::PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with("model") && name.ends_with(".safetensors")
        };
        let files: Vec<_> = entries.filter(is_weights).collect();
        assert_eq!(files.len(), if name.ends_with("sharded") { 3 } else { 1 });
        let expected: Content = files.iter().flat_map(|file| by_library(&fs::read(file).unwrap())).collect();
        let content = by_us(&directory);
        assert!(content.len() > 10, "{name}");
        assert!(content == expected, "{name} reads otherwise");
    }
}

#[test]
fn shards_have_the_weights_of_the_single_file() {
    assert!(by_us(&assets().join("tiny/llama")) == by_us(&assets().join("tiny/llama-sharded")));
}

#[test]
fn every_encoding_is_known() {
    let encodings = [
        (Dtype::F64, Encoding::F64, 8),
        (Dtype::F32, Encoding::F32, 4),
        (Dtype::F16, Encoding::F16, 2),
        (Dtype::BF16, Encoding::BF16, 2),
        (Dtype::I64, Encoding::I64, 8),
        (Dtype::I32, Encoding::I32, 4),
        (Dtype::I16, Encoding::I16, 2),
        (Dtype::I8, Encoding::I8, 1),
        (Dtype::U8, Encoding::U8, 1),
        (Dtype::BOOL, Encoding::Bool, 1),
    ];
    let shapes: [&[usize]; 4] = [&[], &[5], &[3, 0], &[2, 3, 4]];
    let mut contents = Vec::new();
    for (dtype, encoding, size) in encodings {
        for shape in shapes {
            let bytes = noise(contents.len() as u32, shape.iter().product::<usize>() * size);
            contents.push((format!("{encoding} {shape:?} \u{1F32B} \"quoted\""), dtype, encoding, shape, bytes));
        }
    }
    let views = contents
        .iter()
        .map(|(name, dtype, _, shape, bytes)| (name, TensorView::new(*dtype, shape.to_vec(), bytes).unwrap()));
    let texts = [("format".to_owned(), "pt".to_owned())];
    let file = serialize(views, Some(texts.clone().into())).unwrap();
    let directory = directory();
    let path = write(&directory, "model.safetensors", &file);
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.metadata().texts, texts.into());
    assert_eq!(checkpoint.metadata().directory, directory.path());
    assert_eq!(checkpoint.index().len(), contents.len());
    let total: usize = contents.iter().map(|content| content.4.len()).sum();
    assert_eq!(checkpoint.index().total_bytes(), total as u64);
    for (name, _, encoding, shape, bytes) in &contents {
        let tensor = checkpoint.index().get(name).unwrap();
        assert_eq!(tensor.encoding, *encoding);
        assert_eq!(tensor.shape, shape.iter().map(|&n| n as u64).collect::<Vec<_>>());
        assert_eq!(tensor.elements(), shape.iter().product::<usize>() as u64);
        let there = &file[tensor.extent.offset as usize..tensor.extent.end() as usize];
        assert_eq!(there, bytes, "{name}");
    }
}
