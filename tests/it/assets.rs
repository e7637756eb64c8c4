//! Test models and their golden outputs, read by another library than the one under test.

use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

/// A file or directory in `tests/assets`.
pub fn asset(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets").join(name)
}

/// The trained model that `cargo xtask model smollm2` obtains.
///
/// # Panics
/// If it was not obtained: tests that need it must fail, not pass without it.
pub fn smollm2() -> PathBuf {
    obtained("smollm2")
}

/// The trained encoder that `cargo xtask model minilm` obtains.
///
/// # Panics
/// If it was not obtained.
pub fn minilm() -> PathBuf {
    obtained("minilm")
}

fn obtained(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(name);
    assert!(path.is_dir(), "the model is not there; obtain it with `cargo xtask model {name}`");
    path
}

/// Golden outputs in a safetensors file.
#[derive(Debug)]
pub struct Goldens(Vec<u8>);

impl Goldens {
    /// Reads a file in `tests/assets`.
    ///
    /// # Panics
    /// If the file is absent.
    pub fn read(name: &str) -> Self {
        let path = asset(name);
        Self(std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    }

    /// A tensor of floats.
    ///
    /// # Panics
    /// If there is no such tensor.
    pub fn floats(&self, name: &str) -> Vec<f32> {
        let (bytes, dtype) = self.tensor(name);
        assert_eq!(dtype, Dtype::F32, "{name}");
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    /// A tensor of integers that are token ids, masks or counts.
    ///
    /// # Panics
    /// If there is no such tensor.
    pub fn ids(&self, name: &str) -> Vec<u32> {
        let (bytes, dtype) = self.tensor(name);
        assert_eq!(dtype, Dtype::I64, "{name}");
        let ids = bytes.chunks_exact(8).map(|b| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]));
        ids.map(|id| id as u32).collect()
    }

    fn tensor(&self, name: &str) -> (Vec<u8>, Dtype) {
        let file = SafeTensors::deserialize(&self.0).expect("goldens are valid");
        let tensor = file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        (tensor.data().to_vec(), tensor.dtype())
    }
}

/// The largest difference between two lists of numbers.
///
/// # Panics
/// If their lengths differ or a number is not finite.
pub fn largest_difference(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    let differences = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs());
    let largest = differences.fold(0.0, |max: f32, d| if d.is_nan() { f32::NAN } else { max.max(d) });
    assert!(largest.is_finite(), "outputs are not finite");
    largest
}
