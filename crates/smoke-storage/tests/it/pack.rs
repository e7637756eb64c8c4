//! A packed checkpoint has what the original has, in the order of use.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;

use smoke_storage::pack::{Pack, PackError};
use smoke_storage::{Checkpoint, ReaderKind, UnitMap, UnitMapBuilder, WeightSource};

use crate::files::{
    Gguf, Tensor, assets, check_invariants, directory, gguf_text, safetensors, shard_index, tensor, write,
};

/// Every other tensor backwards, two to a unit: nothing like the order in the file. Some tensors are in no unit, and one
/// is cut in two.
fn scattered(checkpoint: &Checkpoint) -> (UnitMap, Vec<String>) {
    let mut names: Vec<String> = checkpoint.index().iter().map(|tensor| tensor.name.clone()).collect();
    names.reverse();
    names = names.iter().step_by(2).chain(names.iter().skip(1).step_by(2)).cloned().collect();
    names.truncate(names.len() - 1);
    let mut builder = UnitMapBuilder::new(checkpoint.alignment());
    for (at, name) in names.iter().enumerate() {
        let extent = checkpoint.index().get(name).unwrap().extent;
        if at % 2 == 0 {
            builder.begin_unit();
        }
        let half = smoke_storage::Extent { len: extent.len / 2, ..extent };
        let rest = smoke_storage::Extent { offset: extent.offset + half.len, len: extent.len - half.len, ..extent };
        builder.push(half);
        builder.push(rest);
    }
    (builder.finish(checkpoint.index()).unwrap(), names)
}

fn content(checkpoint: &Checkpoint, name: &str) -> Vec<u8> {
    let mut bytes = vec![0; checkpoint.index().get(name).unwrap().extent.len as usize];
    checkpoint.read_at(checkpoint.index().get(name).unwrap().extent, &mut bytes).unwrap();
    bytes
}

/// Packs, and compares with the original; returns the new file.
fn check(original: &Path, target: &Path) -> PathBuf {
    let checkpoint = Checkpoint::open(original).unwrap();
    let (units, names) = scattered(&checkpoint);
    let pack = Pack::plan(&checkpoint, &units, target).unwrap();
    let promised = pack.bytes();
    let mut told = Vec::new();
    let packed = pack.write(&mut |done| told.push(done)).unwrap();
    assert_eq!(fs::metadata(target).unwrap().len(), promised);
    assert_eq!(told.last(), Some(&checkpoint.index().total_bytes()));
    check_invariants(packed.index());
    assert_eq!(packed.index().len(), checkpoint.index().len());
    for tensor in checkpoint.index() {
        let new = packed.index().get(&tensor.name).unwrap();
        assert_eq!((new.encoding, &new.shape, new.extent.len), (tensor.encoding, &tensor.shape, tensor.extent.len));
        assert!(content(&packed, &tensor.name) == content(&checkpoint, &tensor.name), "{}", tensor.name);
        let element = if tensor.encoding.block_elements() == 1 { tensor.encoding.block_bytes() } else { 1 };
        assert!(new.extent.offset.is_multiple_of(element), "{} is not aligned", tensor.name);
    }
    assert_eq!(packed.metadata().texts, checkpoint.metadata().texts);
    assert_eq!(packed.metadata().format, checkpoint.metadata().format);
    // Each unit is one read now, and the units follow one another.
    let mut builder = UnitMapBuilder::new(packed.alignment());
    for (at, name) in names.iter().enumerate() {
        if at % 2 == 0 {
            builder.begin_unit();
        }
        builder.push(packed.index().get(name).unwrap().extent);
    }
    let units = builder.finish(packed.index()).unwrap();
    let begins: Vec<u64> = units.units().map(|unit| units.runs(unit)[0].extent.offset).collect();
    assert!(units.units().all(|unit| units.runs(unit).len() == 1), "a unit is several reads");
    assert!(begins.is_sorted(), "units do not follow one another: {begins:?}");
    target.to_owned()
}

/// What is in a directory: a failure must leave nothing of its own there.
fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn tensors() -> Vec<Tensor> {
    (0..9).map(|at| tensor(&format!("t{at}"), 8000 + at * 40_000)).collect()
}

#[test]
fn safetensors_are_packed() {
    let directory = directory();
    let path = write(&directory, "model.safetensors", safetensors(&tensors()));
    let packed = check(&path, &directory.path().join("packed.safetensors"));
    // The format's library agrees.
    let bytes = fs::read(packed).unwrap();
    let parsed = SafeTensors::deserialize(&bytes).unwrap();
    for tensor in tensors() {
        assert_eq!(parsed.tensor(&tensor.name).unwrap().data(), tensor.bytes);
    }
    assert_eq!(names_in(directory.path()), ["model.safetensors", "packed.safetensors"]);
}

#[test]
fn shards_become_one_file() {
    let directory = directory();
    let tensors = tensors();
    write(&directory, "a.safetensors", safetensors(&tensors[..4]));
    write(&directory, "b.safetensors", safetensors(&tensors[4..]));
    let shard_of = |at| if at < 4 { "a.safetensors" } else { "b.safetensors" };
    let map: Vec<(&str, &str)> = tensors.iter().enumerate().map(|(at, tensor)| (&*tensor.name, shard_of(at))).collect();
    let path = write(&directory, "model.safetensors.index.json", shard_index(&map));
    check(&path, &directory.path().join("packed.safetensors"));
}

#[test]
fn tensors_of_odd_lengths_leave_the_others_aligned() {
    let directory = directory();
    let mixed = [
        tensor("f32", 4000).typed("F32", 0, &[1000]),
        tensor("u8", 7),
        tensor("bf16", 6).typed("BF16", 30, &[3]),
        tensor("f32.odd", 12).typed("F32", 0, &[3]),
        tensor("i64", 16).typed("I64", 27, &[2]),
        tensor("none", 0),
        tensor("u8.odd", 1),
    ];
    let original = Checkpoint::open(write(&directory, "m.safetensors", safetensors(&mixed))).unwrap();
    let mut builder = UnitMapBuilder::new(1);
    for name in ["u8", "bf16", "f32.odd", "i64", "f32"] {
        builder.push(original.index().get(name).unwrap().extent);
    }
    let units = builder.finish(original.index()).unwrap();
    let target = directory.path().join("p.safetensors");
    let packed = Pack::plan(&original, &units, &target).unwrap().write(&mut |_| {}).unwrap();
    for tensor in packed.index() {
        assert!(tensor.extent.offset.is_multiple_of(tensor.encoding.block_bytes()), "{} is not aligned", tensor.name);
        assert_eq!(content(&packed, &tensor.name), content(&original, &tensor.name));
    }
}

#[test]
fn gguf_is_packed_with_all_it_says() {
    for alignment in [32, 64] {
        let directory = directory();
        let array = [&4_u32.to_le_bytes()[..], &2_u64.to_le_bytes(), &[1, 0, 0, 0, 2, 0, 0, 0]].concat();
        let keys = Gguf::new(2, alignment).key("general.name", 8, &gguf_text("fog")).key("kinds", 9, &array);
        let path = write(&directory, "m.gguf", tensors().iter().fold(keys.key("n", 0, &[3]), Gguf::tensor).bytes());
        let elsewhere = crate::files::directory();
        let packed = Checkpoint::open(check(&path, &elsewhere.path().join("p.gguf"))).unwrap();
        let original = Checkpoint::open(&path).unwrap();
        let values = |checkpoint: &Checkpoint| {
            let gguf = checkpoint.metadata().gguf.clone().unwrap();
            let all = gguf.iter().filter(|(key, _)| *key != "general.alignment");
            all.map(|(key, value)| (key.to_owned(), value.clone())).collect::<Vec<_>>()
        };
        assert_eq!(values(&packed), values(&original));
        assert_eq!(packed.metadata().gguf.as_ref().unwrap().u64("general.alignment"), Some(4096));
        assert!(packed.index().iter().all(|tensor| tensor.extent.offset.is_multiple_of(4096)));
    }
    // A file of another program, with a tokenizer inside.
    let directory = directory();
    check(&assets().join("quant/llama-mixed.gguf"), &directory.path().join("mixed.gguf"));
}

#[test]
fn what_cannot_be_packed_is_refused() {
    let directory = directory();
    let path = write(&directory, "model.safetensors", safetensors(&tensors()));
    let checkpoint = Checkpoint::open_with(&path, ReaderKind::Pread).unwrap();
    let (units, _) = scattered(&checkpoint);
    let refusal = |target: &Path| Pack::plan(&checkpoint, &units, target).expect_err("a target that is wrong");
    let elsewhere = crate::files::directory();
    for (target, part) in [
        (directory.path().join("model.safetensors"), "remove it first"),
        (directory.path().join("packed.gguf"), ".safetensors"),
        (directory.path().join("packed"), ".safetensors"),
        (elsewhere.path().join("packed.safetensors"), "pack into that directory"),
        (directory.path().join("absent/packed.safetensors"), "pack into that directory"),
    ] {
        let text = refusal(&target).to_string();
        assert!(text.contains(part) && text.contains(&target.display().to_string()), "{text}");
    }
    assert_eq!(names_in(directory.path()), ["model.safetensors"]);
}

#[test]
fn a_failure_leaves_nothing_behind() {
    let directory = directory();
    let path = write(&directory, "model.safetensors", safetensors(&tensors()));
    let checkpoint = Checkpoint::open(&path).unwrap();
    let (units, _) = scattered(&checkpoint);
    let target = directory.path().join("packed.safetensors");
    // The original becomes shorter.
    let pack = Pack::plan(&checkpoint, &units, &target).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(100_000).unwrap();
    assert!(matches!(pack.write(&mut |_| {}), Err(PackError::Source(_))));
    assert_eq!(names_in(directory.path()), ["model.safetensors"]);
    // Somebody else makes the target, or whoever is told of the progress panics.
    fs::write(&path, safetensors(&tensors())).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let pack = Pack::plan(&checkpoint, &units, &target).unwrap();
    let error = pack.write(&mut |_| fs::write(&target, "mine").unwrap()).expect_err("the target is there");
    assert!(matches!(error, PackError::Io { .. }));
    assert_eq!(fs::read_to_string(&target).unwrap(), "mine");
    fs::remove_file(&target).unwrap();
    let pack = Pack::plan(&checkpoint, &units, &target).unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pack.write(&mut |_| panic!("made to"))));
    assert!(panicked.is_err());
    assert_eq!(names_in(directory.path()), ["model.safetensors"]);
}
