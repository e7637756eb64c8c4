//! Checkpoints of the repository, and what is in them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use smoke_convert::{Conversion, ConvertError, ConvertOptions};
use smoke_core::Encoding;
use smoke_storage::{Checkpoint, ReaderKind, WeightSource};

/// A file or directory in the repository's assets.
pub(crate) fn asset(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/assets").join(name)
}

pub(crate) fn open(path: impl AsRef<Path>) -> Checkpoint {
    Checkpoint::open_with(path, ReaderKind::Pread).unwrap()
}

/// Rules as a person writes them.
pub(crate) fn dtypes(texts: &[&str]) -> ConvertOptions {
    ConvertOptions { dtypes: texts.iter().map(|text| text.parse().unwrap()).collect(), ..ConvertOptions::default() }
}

/// Converts, checks what was promised, and returns the notes.
pub(crate) fn convert(source: &Path, target: &Path, options: &ConvertOptions) -> Result<Vec<String>, ConvertError> {
    let checkpoint = open(source);
    let conversion = Conversion::plan(&checkpoint, target, options)?;
    let (bytes, tensor_bytes, notes) = (conversion.bytes(), conversion.tensor_bytes(), conversion.notes().to_vec());
    let mut told = 0;
    conversion.write(&mut |done| {
        assert!(done >= told);
        told = done;
    })?;
    assert_eq!(told, tensor_bytes);
    let len = |path: PathBuf| std::fs::metadata(path).unwrap().len();
    let written = if target.is_dir() {
        std::fs::read_dir(target).unwrap().map(|entry| len(entry.unwrap().path())).sum()
    } else {
        len(target.to_owned())
    };
    assert_eq!(written, bytes, "what was promised");
    Ok(notes)
}

/// Every tensor: its encoding, shape and bytes.
pub(crate) fn tensors(path: impl AsRef<Path>) -> BTreeMap<String, (Encoding, Vec<u64>, Vec<u8>)> {
    let checkpoint = open(path);
    let read = |tensor: &smoke_storage::TensorInfo| {
        let mut bytes = vec![0; tensor.extent.len as usize];
        checkpoint.read_at(tensor.extent, &mut bytes).unwrap();
        (tensor.name.clone(), (tensor.encoding, tensor.shape.clone(), bytes))
    };
    checkpoint.index().iter().map(read).collect()
}

pub(crate) fn json(path: impl AsRef<Path>) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The names in a directory, hidden ones among them.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
