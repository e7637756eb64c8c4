//! Every reader on every format keeps the rules for sources.

use std::path::Path;

use smoke_core::Encoding;
use smoke_storage::conformance::weight_source;
use smoke_storage::{Checkpoint, MemorySource, WeightSource};

use crate::files::{READERS, Tensor, directory, gguf, safetensors, shard_index, tensor, write};
use crate::pickles::{archive, legacy, saved, state_dict};

/// Sizes around pages and around what readers read at once.
fn tensors() -> Vec<Tensor> {
    let sizes = [0, 1, 31, 4095, 4096, 4097, 65_536, 70_001, 3, 1_300_003];
    sizes.iter().map(|&len| tensor(&format!("tensor.{len}"), len)).collect()
}

fn check_all_readers(path: &Path, tensors: &[Tensor]) {
    let expected: Vec<(&str, &[u8])> = tensors.iter().map(|tensor| (&*tensor.name, &*tensor.bytes)).collect();
    for kind in READERS {
        let checkpoint = Checkpoint::open_with(path, kind).unwrap_or_else(|error| panic!("{kind:?}: {error}"));
        weight_source(&checkpoint, &expected);
    }
}

#[test]
fn safetensors_in_one_file() {
    let directory = directory();
    let path = write(&directory, "model.safetensors", safetensors(&tensors()));
    check_all_readers(&path, &tensors());
    check_all_readers(directory.path(), &tensors());
}

#[test]
fn safetensors_in_shards() {
    let directory = directory();
    let tensors = tensors();
    let (first, second) = tensors.split_at(5);
    write(&directory, "a.safetensors", safetensors(first));
    write(&directory, "b.safetensors", safetensors(second));
    let shard_of = |at: usize| if at < 5 { "a.safetensors" } else { "b.safetensors" };
    let map: Vec<(&str, &str)> = tensors.iter().enumerate().map(|(at, tensor)| (&*tensor.name, shard_of(at))).collect();
    let path = write(&directory, "model.safetensors.index.json", shard_index(&map));
    check_all_readers(&path, &tensors);
    check_all_readers(directory.path(), &tensors);
}

#[test]
fn gguf_files() {
    let directory = directory();
    let path = write(&directory, "model.gguf", gguf(&tensors()));
    check_all_readers(&path, &tensors());
    check_all_readers(directory.path(), &tensors());
}

/// Each tensor in a storage of its own.
fn saved_bytes(tensors: &[Tensor]) -> (Vec<u8>, Vec<(&str, &[u8])>) {
    let saved = |tensor: &Tensor| saved(&tensor.name, "ByteStorage", &tensor.name, &[tensor.bytes.len() as i64]);
    let pickle = state_dict(&tensors.iter().map(saved).collect::<Vec<_>>());
    (pickle, tensors.iter().map(|tensor| (&*tensor.name, &*tensor.bytes)).collect())
}

#[test]
fn pytorch_archives() {
    let directory = directory();
    let tensors = tensors();
    let (pickle, storages) = saved_bytes(&tensors);
    let path = write(&directory, "pytorch_model.bin", archive(&pickle, &storages));
    check_all_readers(&path, &tensors);
    check_all_readers(directory.path(), &tensors);
}

#[test]
fn pytorch_files_of_old() {
    let directory = directory();
    let tensors = tensors();
    let (pickle, storages) = saved_bytes(&tensors);
    let storages: Vec<_> = storages.into_iter().map(|(key, bytes)| (key, bytes.len() as u64, bytes)).collect();
    let path = write(&directory, "model.pt", legacy(&pickle, &storages));
    check_all_readers(&path, &tensors);
    check_all_readers(directory.path(), &tensors);
}

#[test]
fn pytorch_in_shards() {
    let directory = directory();
    let tensors = tensors();
    for (name, tensors) in [("a.bin", &tensors[..5]), ("b.bin", &tensors[5..])] {
        let (pickle, storages) = saved_bytes(tensors);
        write(&directory, name, archive(&pickle, &storages));
    }
    let shard_of = |at: usize| if at < 5 { "a.bin" } else { "b.bin" };
    let map: Vec<(&str, &str)> = tensors.iter().enumerate().map(|(at, tensor)| (&*tensor.name, shard_of(at))).collect();
    let path = write(&directory, "pytorch_model.bin.index.json", shard_index(&map));
    check_all_readers(&path, &tensors);
    check_all_readers(directory.path(), &tensors);
}

#[test]
fn memory() {
    let tensors = tensors();
    let of_memory = |tensor: &Tensor| {
        let Tensor { name, shape, bytes, .. } = tensor.clone();
        (name, Encoding::U8, shape, bytes)
    };
    let source = MemorySource::new(tensors.iter().map(of_memory).collect()).unwrap();
    let expected: Vec<(&str, &[u8])> = tensors.iter().map(|tensor| (&*tensor.name, &*tensor.bytes)).collect();
    weight_source(&source, &expected);
    // Pointers to a source are sources.
    weight_source(&Box::new(&source), &expected);
    let shared: std::sync::Arc<dyn WeightSource> = std::sync::Arc::new(source);
    weight_source(&shared, &expected);
}
