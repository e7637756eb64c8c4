//! PyTorch's own files, in both forms and in shards, against the same tensors in safetensors.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use smoke_core::Encoding;
use smoke_storage::pack::Pack;
use smoke_storage::{Checkpoint, Extent, Format, UnitMapBuilder, WeightSource};

use crate::files::{READERS, assets, check_places, directory, noise, safetensors, tensor, write};
use crate::pickles::{Pickle, Saved, Width, archive, entries, legacy, saved, state_dict, zip};

/// Encoding, shape and bytes by name.
type Content = BTreeMap<String, (String, Vec<u64>, Vec<u8>)>;

fn content(checkpoint: &Checkpoint) -> Content {
    check_places(checkpoint.index());
    let content = checkpoint.index().iter().map(|tensor| {
        let mut bytes = vec![0; tensor.extent.len as usize];
        checkpoint.read_at(tensor.extent, &mut bytes).unwrap();
        (tensor.name.clone(), (tensor.encoding.to_string(), tensor.shape.clone(), bytes))
    });
    content.collect()
}

#[test]
fn every_model_among_the_assets_has_the_bytes_of_its_twin() {
    for (twin, count) in [("llama", 30), ("gpt2", 40)] {
        let file = fs::read(assets().join("tiny").join(twin).join("model.safetensors")).unwrap();
        let parsed = SafeTensors::deserialize(&file).unwrap();
        let expected: Content = parsed
            .iter()
            .map(|(name, view)| {
                let shape = view.shape().iter().map(|&n| n as u64).collect();
                (name.to_owned(), (format!("{:?}", view.dtype()), shape, view.data().to_vec()))
            })
            .collect();
        assert_eq!(expected.len(), count, "{twin}");
        for form in ["bin", "bin-legacy", "bin-sharded"] {
            let directory = assets().join("tiny").join(format!("{twin}-{form}"));
            for kind in READERS {
                let checkpoint = Checkpoint::open_with(&directory, kind).unwrap();
                assert_eq!(checkpoint.metadata().format, Format::PyTorch);
                assert_eq!(checkpoint.metadata().directory, directory);
                assert_eq!(checkpoint.index().files().len(), if form == "bin-sharded" { 3 } else { 1 });
                assert!(content(&checkpoint) == expected, "{twin}-{form} reads otherwise by {kind:?}");
            }
        }
    }
}

const KINDS: [(&str, Encoding); 10] = [
    ("DoubleStorage", Encoding::F64),
    ("FloatStorage", Encoding::F32),
    ("HalfStorage", Encoding::F16),
    ("BFloat16Storage", Encoding::BF16),
    ("LongStorage", Encoding::I64),
    ("IntStorage", Encoding::I32),
    ("ShortStorage", Encoding::I16),
    ("CharStorage", Encoding::I8),
    ("ByteStorage", Encoding::U8),
    ("BoolStorage", Encoding::Bool),
];

/// Writes these tensors and storages in all forms, and gives what each reads as.
fn in_all_forms(tensors: &[Saved], storages: &[(&str, u64, &[u8])]) -> Vec<Checkpoint> {
    let pickle = state_dict(tensors);
    let bytes: Vec<(&str, &[u8])> = storages.iter().map(|&(key, _, bytes)| (key, bytes)).collect();
    let wide = zip(&entries(&pickle, &bytes), Width::Bits64);
    let files = [archive(&pickle, &bytes), wide, legacy(&pickle, storages)];
    let directory = directory();
    let open = |(name, file)| Checkpoint::open(write(&directory, name, file)).unwrap();
    ["new.pt", "wide.pt", "old.pt"].into_iter().zip(files).map(open).collect()
}

#[test]
fn every_encoding_and_every_rank_is_known() {
    let shapes: [&[i64]; 4] = [&[], &[5], &[3, 0], &[2, 3, 4]];
    let (mut tensors, mut storages, mut expected) = (Vec::new(), Vec::new(), Content::new());
    for (kind, encoding) in KINDS {
        for shape in shapes {
            let (name, key) = (format!("{kind} {shape:?} \u{1F32B}"), format!("key{}", tensors.len()));
            let elements = shape.iter().product::<i64>() as u64;
            let bytes = noise(tensors.len() as u32, (elements * encoding.block_bytes()) as usize);
            tensors.push(saved(&name, kind, &key, shape));
            let shape = shape.iter().map(|&n| n as u64).collect();
            expected.insert(name, (encoding.to_string(), shape, bytes.clone()));
            storages.push((key, elements, bytes));
        }
    }
    let storages: Vec<(&str, u64, &[u8])> = storages.iter().map(|(key, n, bytes)| (&**key, *n, &**bytes)).collect();
    for checkpoint in in_all_forms(&tensors, &storages) {
        assert!(content(&checkpoint) == expected);
    }
}

#[test]
fn tensors_share_storages() {
    let bytes = noise(3, 48);
    let whole = Saved { elements: 12, ..saved("whole", "FloatStorage", "k", &[3, 4]) };
    let tied = Saved { name: "tied".to_owned(), ..whole.clone() };
    let rows = Saved { elements: 12, first: 4, ..saved("rows", "FloatStorage", "k", &[2, 4]) };
    // Strides along dimensions of one element mean nothing.
    let strides = vec![99, 1, -7];
    let row = Saved { elements: 12, first: 8, strides, ..saved("row", "FloatStorage", "k", &[1, 4, 1]) };
    let none = Saved { elements: 12, first: 12, strides: vec![5, 9], ..saved("none", "FloatStorage", "k", &[0, 2]) };
    for checkpoint in in_all_forms(&[whole, tied, rows, row, none], &[("k", 12, &bytes)]) {
        let index = checkpoint.index();
        let Extent { offset, .. } = index.get("whole").unwrap().extent;
        assert_eq!(index.get("tied").unwrap().extent, index.get("whole").unwrap().extent);
        for (name, start, len) in [("whole", 0, 48), ("rows", 16, 32), ("row", 32, 16), ("none", 48, 0)] {
            assert_eq!(index.get(name).unwrap().extent, Extent { file: 0, offset: offset + start, len }, "{name}");
        }
        assert_eq!(index.total_bytes(), 48, "shared bytes are counted once");
        let content = content(&checkpoint);
        assert_eq!(content["whole"].2, bytes);
        assert_eq!(content["rows"].2, bytes[16..]);
    }
}

#[test]
fn tensors_stand_among_other_things() {
    let tensor = || saved("w", "ByteStorage", "0", &[4]);
    let cyclic = Pickle::new().op(b"}q\x00").text("self").op(b"h\x00s");
    let parameter = Pickle::new().op(b"}").text("w").global("torch._utils", "_rebuild_parameter").op(b"(");
    let parameter = parameter.nameless(&tensor()).op(&[0x88]).ordered_dict().op(b"tRs");
    let nested = Pickle::new().op(b"}").text("step").int(7).op(b"s").text("lr").op(b"G").op(&[0; 8]).op(b"s");
    let nested = nested.text("optimizer").op(b"}").int(0).op(b"}").tensor(&tensor()).op(b"sss");
    let nested = nested.text("dtype").global("torch", "bfloat16").op(b"s");
    let nested = nested.text("size").global("torch", "Size").ints(&[2, 3]).op(b"\x85Rs");
    let nested = nested.text("model").ordered_dict().tensor(&tensor()).op(b"ss");
    // What newer protocols have: frames, short texts, memos by count, globals from the stack.
    let modern =
        Pickle::new().op(&[0x95]).op(&[9; 8]).op(b"\x8c\x0bcollections\x94\x8c\x0bOrderedDict\x94\x93\x94)R\x94");
    let modern = modern.op(b"(").tensor(&tensor()).op(b"u");
    // A value that is dropped, a mark that is dropped, and a value that is doubled.
    let odd = Pickle::new().op(b"N0(0(N1}N2s").tensor(&tensor()).op(b"s");
    for (name, pickle) in [
        ("cyclic", cyclic.tensor(&tensor()).op(b"s")),
        ("parameter", parameter),
        ("nested", nested),
        ("modern", modern),
        ("dict", Pickle::new().op(b"(").tensor(&tensor()).op(b"d")),
        ("odd", odd),
    ] {
        let directory = directory();
        let path = write(&directory, "model.bin", archive(&pickle.stop(), &[("0", b"abcd")]));
        let checkpoint = Checkpoint::open(path).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(content(&checkpoint).into_keys().collect::<Vec<_>>(), ["w"], "{name}");
        assert_eq!(content(&checkpoint)["w"], ("U8".to_owned(), vec![4], b"abcd".to_vec()), "{name}");
    }
}

#[test]
fn other_checkpoints_come_first() {
    let directory = directory();
    let find = |expected: &str| {
        let checkpoint = Checkpoint::open(directory.path()).unwrap();
        let path: &Path = &checkpoint.index().files()[0].path;
        assert_eq!(path.file_name().unwrap(), expected);
    };
    let file = |byte: u8| archive(&state_dict(&[saved("w", "ByteStorage", "0", &[1])]), &[("0", &[byte])]);
    write(&directory, "other.pth", file(0));
    find("other.pth");
    write(&directory, "pytorch_model.bin", file(1));
    find("pytorch_model.bin");
    write(&directory, "shard.bin", file(2));
    write(&directory, "pytorch_model.bin.index.json", r#"{"weight_map":{"w":"shard.bin"}}"#);
    find("shard.bin");
    write(&directory, "x.gguf", crate::files::gguf(&[tensor("w", 1)]));
    find("x.gguf");
    write(&directory, "x.safetensors", safetensors(&[tensor("w", 1)]));
    find("x.safetensors");
}

#[test]
fn packing_makes_safetensors() {
    let directory = directory();
    let bytes = noise(3, 4000);
    let tied = Saved { name: "tied".to_owned(), ..saved("first", "FloatStorage", "a", &[10, 100]) };
    let tensors = [saved("first", "FloatStorage", "a", &[10, 100]), tied, saved("last", "ByteStorage", "b", &[8])];
    let file = archive(&state_dict(&tensors), &[("a", &bytes), ("b", &bytes[..8])]);
    let checkpoint = Checkpoint::open(write(&directory, "pytorch_model.bin", file)).unwrap();
    let mut units = UnitMapBuilder::new(checkpoint.alignment());
    for name in ["last", "tied", "first"] {
        units.begin_unit();
        units.push(checkpoint.index().get(name).unwrap().extent);
    }
    let units = units.finish(checkpoint.index()).unwrap();
    let target = directory.path().join("packed.safetensors");
    let packed = Pack::plan(&checkpoint, &units, &target).unwrap().write(&mut |_| ()).unwrap();
    assert!(content(&packed) == content(&checkpoint));
    let file = fs::read(&target).unwrap();
    let (_, header) = SafeTensors::read_metadata(&file).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
    assert_eq!(packed.index().iter().next().unwrap().name, "last");
    // It is what the directory has now.
    assert_eq!(Checkpoint::open(directory.path()).unwrap().metadata().format, Format::Safetensors);
}
