//! Files cut and flipped anywhere: an error, or an index that keeps its promises, and never a panic.

use std::fs;
use std::io::Cursor;

use smoke_storage::format::{parse_gguf, parse_pytorch, parse_safetensors};
use smoke_storage::{Checkpoint, FileInfo, FormatError, TensorIndex, TensorInfo, WeightSource};

use crate::files::{
    Gguf, Tensor, check_invariants, check_places, directory, gguf_text, noise, safetensors, shard_index, tensor, write,
};
use crate::pickles::{Saved, Width, entries, legacy, saved, state_dict, zip};

fn tensors() -> [Tensor; 3] {
    [tensor("a", 40).typed("F32", 0, &[2, 5]), tensor("b.weight", 36).typed("BF16", 30, &[18]), tensor("c", 64)]
}

fn a_gguf() -> Gguf {
    let texts = [8_u32.to_le_bytes().to_vec(), 2_u64.to_le_bytes().to_vec(), gguf_text("x"), gguf_text("yz")].concat();
    let gguf = Gguf::new(3, 16).key("general.architecture", 8, &gguf_text("llama")).key("texts", 9, &texts);
    tensors().iter().fold(gguf.key("eps", 6, &1e-5_f32.to_le_bytes()), Gguf::tensor)
}

/// The parsers behind one signature, with what a checkpoint does after them.
fn index_of(name: &str, file: &[u8]) -> Result<TensorIndex, FormatError> {
    let len = file.len() as u64;
    if name == "archive" || name == "legacy" {
        let tensors = parse_pytorch(Cursor::new(file), len)?;
        return TensorIndex::with_shared(vec![FileInfo { path: name.into(), len }], tensors);
    }
    let tensors: Vec<TensorInfo> = match name {
        "gguf" => parse_gguf(file, len)?.tensors,
        _ => parse_safetensors(file, len)?.tensors,
    };
    TensorIndex::new(vec![FileInfo { path: name.into(), len }], tensors)
}

#[test]
fn every_truncation_is_an_error() {
    for (name, file) in [("gguf", a_gguf().bytes()), ("safetensors", safetensors(&tensors()))] {
        let directory = directory();
        let path = directory.path().join(format!("model.{name}"));
        fs::write(&path, &file).unwrap();
        check_invariants(Checkpoint::open(&path).unwrap().index());
        for len in 0..file.len() {
            fs::write(&path, &file[..len]).unwrap();
            let error = Checkpoint::open(&path).expect_err("a file that was cut");
            let text = error.to_string();
            assert!(text.starts_with(&path.display().to_string()), "{len}: {text}");
            assert!(text.contains("fetch it again"), "{len}: {text}");
        }
    }
}

#[test]
fn every_flipped_bit_of_a_header_is_an_error_or_harmless() {
    let data_len = tensors().iter().map(|tensor| tensor.bytes.len()).sum::<usize>();
    let plain = safetensors(&tensors());
    for (name, file, header_len) in
        [("gguf", a_gguf().bytes(), a_gguf().header().len()), ("safetensors", plain.clone(), plain.len() - data_len)]
    {
        let (mut errors, mut accepted) = (0, 0);
        for at in 0..header_len {
            for mask in [1, 2, 4, 8, 16, 32, 64, 128, 255] {
                let mut damaged = file.clone();
                damaged[at] ^= mask;
                match index_of(name, &damaged) {
                    Ok(index) => {
                        check_invariants(&index);
                        accepted += 1;
                    }
                    Err(_) => errors += 1,
                }
            }
        }
        // Names may be changed unnoticed, lengths may not: both happen often in so small a header.
        assert!(errors > header_len && accepted > 100, "{name}: {errors} errors, {accepted} accepted");
    }
}

/// Three tensors in two storages, in both of PyTorch's forms.
fn pytorch_files() -> [(&'static str, Vec<u8>); 2] {
    let (a, b) = (noise(1, 40), noise(2, 36));
    let tied = Saved { name: "c".to_owned(), ..saved("a", "FloatStorage", "0", &[2, 5]) };
    let tensors = [saved("a", "FloatStorage", "0", &[2, 5]), saved("b.weight", "BFloat16Storage", "1", &[18]), tied];
    let pickle = state_dict(&tensors);
    let new = zip(&entries(&pickle, &[("0", &a), ("1", &b)]), Width::Bits32);
    [("archive", new), ("legacy", legacy(&pickle, &[("0", 10, &a), ("1", 18, &b)]))]
}

#[test]
fn every_truncation_of_a_pytorch_file_is_an_error() {
    let wide = zip(&entries(&state_dict(&[saved("w", "ByteStorage", "0", &[4])]), &[("0", &[7; 4])]), Width::Bits64);
    for (name, file) in pytorch_files().into_iter().chain([("archive", wide)]) {
        check_places(&index_of(name, &file).unwrap());
        for len in 0..file.len() {
            let text = index_of(name, &file[..len]).expect_err("a file that was cut").to_string();
            assert!(text.contains("fetch it again"), "{name} {len}: {text}");
        }
    }
}

#[test]
fn every_flipped_bit_of_a_pytorch_file_is_an_error_or_harmless() {
    for (name, file) in pytorch_files() {
        let (mut errors, mut accepted) = (0, 0);
        for at in 0..file.len() {
            for mask in [1, 2, 4, 8, 16, 32, 64, 128, 255] {
                let mut damaged = file.clone();
                damaged[at] ^= mask;
                match index_of(name, &damaged) {
                    Ok(index) => {
                        check_places(&index);
                        accepted += 1;
                    }
                    Err(_) => errors += 1,
                }
            }
        }
        // What is data, padding or a name may be changed unnoticed.
        assert!(errors > file.len() && accepted > 100, "{name}: {errors} errors, {accepted} accepted");
    }
}

#[test]
fn every_flipped_bit_of_a_shard_index_is_an_error_or_harmless() {
    let directory = directory();
    write(&directory, "one.safetensors", safetensors(&tensors()[..2]));
    write(&directory, "two.safetensors", safetensors(&tensors()[2..]));
    let map = [("a", "one.safetensors"), ("b.weight", "one.safetensors"), ("c", "two.safetensors")];
    let text = shard_index(&map);
    let path = write(&directory, "model.safetensors.index.json", &text);
    assert_eq!(Checkpoint::open(&path).unwrap().index().len(), 3);
    let (mut errors, mut accepted) = (0, 0);
    for at in 0..text.len() {
        for mask in [1, 2, 4, 8, 16, 32, 64, 128] {
            let mut damaged = text.clone().into_bytes();
            damaged[at] ^= mask;
            fs::write(&path, damaged).unwrap();
            match Checkpoint::open(&path) {
                Ok(checkpoint) => {
                    check_invariants(checkpoint.index());
                    accepted += 1;
                }
                Err(error) => {
                    assert!(error.to_string().contains(&*directory.path().to_string_lossy()));
                    errors += 1;
                }
            }
        }
    }
    assert!(errors > text.len() && accepted > 10, "{errors} errors, {accepted} accepted");
}
