//! Every error names the file, the tensor where there is one, and what to do about it.

use std::fs;
use std::path::Path;

use smoke_storage::{Checkpoint, ReaderKind};
use tempfile::TempDir;

use crate::files::{Gguf, Tensor, directory, safetensors, safetensors_of, shard_index, tensor, write};

/// Opens what must not open, with each reader, and wants these parts in the message.
pub(crate) fn check(path: &Path, parts: &[&str]) {
    for kind in [ReaderKind::Auto, ReaderKind::Mmap] {
        let error = Checkpoint::open_with(path, kind).expect_err("a file that is wrong");
        let text = error.to_string();
        assert!(text.contains(&path.display().to_string()), "the path is missing: {text}");
        for part in parts {
            assert!(text.contains(part), "`{part}` is missing: {text}");
        }
    }
}

const FETCH: &str = "fetch it again";

#[test]
fn safetensors_that_are_wrong() {
    let directory = directory();
    let entry = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#""w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
    };
    let other = r#""v":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}"#;
    let one = |dtype, shape, offsets| format!("{{{}}}", entry(dtype, shape, offsets));
    let two = |offsets| format!("{{{other},{}}}", entry("U8", "[4]", offsets));
    for (json, data_len, parts) in [
        (one("U8", "[4]", "[0,4]"), 3, &["`w`", "ends after the file", FETCH][..]),
        (one("U8", "[4]", "[0,4]"), 5, &["1 bytes after the last tensor", FETCH]),
        (one("U8", "[4]", "[0,5]"), 5, &["`w`", "[4]", "5 bytes", FETCH]),
        (one("U8", "[4]", "[4,0]"), 4, &["`w`", "from 4 to 0", FETCH]),
        (one("U8", "[4]", "[1,5]"), 5, &["`w`", "begins at", FETCH]),
        (one("U8", "[4]", "[18446744073709551612,18446744073709551615]"), 4, &["`w`", FETCH]),
        (one("U8", "[0]", "[18446744073709551615,18446744073709551615]"), 0, &["`w`", FETCH]),
        (one("F32", "[4294967296,4294967296]", "[0,0]"), 0, &["`w`", "F32", FETCH]),
        (one("F32", "[2305843009213693952,2]", "[0,16]"), 16, &["`w`", "F32", FETCH]),
        (one("F8_E4M3", "[4]", "[0,4]"), 4, &["`w`", "F8_E4M3", "convert it to F32, F16 or BF16"]),
        (one("f32", "[1]", "[0,4]"), 4, &["`w`", "f32", "convert it to"]),
        (one("U8", "[-4]", "[0,4]"), 4, &["`w`", "-4", FETCH]),
        (one("U8", "4", "[0,4]"), 4, &["`w`", FETCH]),
        (one("U8", "[4]", "[0]"), 4, &["`w`", FETCH]),
        (two("[0,4]"), 4, &["`w`", "begins at", FETCH]),
        (two("[2,6]"), 6, &["`w`", "begins at", FETCH]),
        (two("[5,9]"), 9, &["`w`", "begins at", FETCH]),
        (two("[4,8]"), 7, &["`w`", "ends after the file", FETCH]),
        (format!("{{{other},{other}}}"), 4, &["`v` stands twice", "fetch or convert it again"]),
        (r#"{"__metadata__":{"a":7}}"#.to_owned(), 0, &["`__metadata__`", FETCH]),
        ("[]".to_owned(), 0, &["object of tensors", FETCH]),
        ("{".to_owned(), 0, &[FETCH]),
        ("\u{0}\u{0}".to_owned(), 0, &[FETCH]),
    ] {
        let path = write(&directory, "model.safetensors", safetensors_of(&json, &vec![0; data_len]));
        check(&path, parts);
    }
    let path = write(&directory, "model.safetensors", b"");
    check(&path, &["the length of the header", "not downloaded whole", FETCH]);
    let path = write(&directory, "model.safetensors", u64::MAX.to_le_bytes());
    check(&path, &["it claims 18446744073709551615 bytes", "no safetensors file", FETCH]);
    let path = write(&directory, "model.safetensors", 4096_u64.to_le_bytes());
    check(&path, &["the header takes 4096 bytes, but 0 are left", FETCH]);
}

#[test]
fn gguf_that_is_wrong() {
    let directory = directory();
    let new = || Gguf::new(3, 32);
    let floats = |offset| new().describe("w", 0, &[8], offset);
    let big = u64::MAX / 4 - 7;
    for (gguf, parts) in [
        (Gguf::new(1, 32), &["version 1 is not supported", "2 and 3"][..]),
        (Gguf::new(0, 32), &["version 0 is not supported"]),
        (Gguf::new(4, 32), &["version 4 is not supported"]),
        (Gguf::new(3_u32.swap_bytes(), 32), &["big-endian", "not supported"]),
        (floats(0).data(&[0; 31]), &["`w`", "ends after the file", FETCH]),
        (floats(1 << 40), &["`w`", "ends after the file", FETCH]),
        (floats(u64::MAX - 31), &["`w`", "ends after the file", FETCH]),
        (floats(16).data(&[0; 64]), &["`w`", "off the alignment", FETCH]),
        (floats(0).describe("v", 24, &[32], 0).data(&[0; 32]), &["`w`", "`v`", "share bytes", FETCH]),
        (floats(0).describe("w", 24, &[32], 32).data(&[0; 64]), &["`w` stands twice", "fetch or convert it again"]),
        (new().describe("w", 99, &[1], 0), &["`w`", "GGML type 99", "convert it to", "Q4_K"]),
        (new().describe("w", 8, &[33], 0).data(&[0; 99]), &["`w`", "Q8_0", "[33]", FETCH]),
        (new().describe("w", 8, &[16, 2], 0).data(&[0; 99]), &["`w`", "Q8_0", "[2, 16]", FETCH]),
        (new().describe("w", 0, &[big, 2], 0), &["`w`", FETCH]),
        (new().describe("w", 0, &[u64::MAX, u64::MAX], 0), &["`w`", FETCH]),
        (new().describe("w", 0, &[1, 1, 1, 1, 1], 0).data(&[0; 4]), &["`w` has 5 dimensions", FETCH]),
        (new().key("k", 13, &[]), &["`k`", "no type of value 13", FETCH]),
        (new().key("k", 7, &[2]), &["`k`", "2 is neither true nor false", FETCH]),
        (new().key("k", 0, &[1]).key("k", 0, &[1]), &["`k` stands twice"]),
        (new().key("general.alignment", 4, &0_u32.to_le_bytes()), &["alignment of 0", FETCH]),
        (new().key("general.alignment", 4, &48_u32.to_le_bytes()), &["alignment of 48", FETCH]),
        (new().key("general.alignment", 10, &(1_u64 << 63).to_le_bytes()), &["alignment of", FETCH]),
        (new().key("general.alignment", 6, &32_f32.to_le_bytes()), &["alignment is no number", FETCH]),
        (new().key("split.count", 2, &2_u16.to_le_bytes()), &["one of several parts", "merge them"]),
    ] {
        check(&write(&directory, "model.gguf", gguf.bytes()), parts);
    }
    check(&write(&directory, "model.gguf", b""), &["the magic number", FETCH]);
    check(&write(&directory, "model.gguf", b"GGML and more"), &["no GGUF file", FETCH]);
}

/// Two good shards, with `a` and `b`, and an index of one's own.
fn sharded(map: &[(&str, &str)]) -> (TempDir, std::path::PathBuf) {
    let directory = directory();
    write(&directory, "one.safetensors", safetensors(&[tensor("a", 8)]));
    write(&directory, "two.safetensors", safetensors(&[tensor("b", 8)]));
    let path = write(&directory, "model.safetensors.index.json", shard_index(map));
    (directory, path)
}

/// What opening says, which must name this file beside the parts.
fn check_shards(map: &[(&str, &str)], file: &str, parts: &[&str]) {
    let (directory, path) = sharded(map);
    let file = directory.path().join(file).display().to_string();
    for path in [path.as_path(), directory.path()] {
        let text = Checkpoint::open(path).expect_err("shards that are wrong").to_string();
        assert!(text.contains(&file), "{file} is missing: {text}");
        for part in parts {
            assert!(text.contains(part), "`{part}` is missing: {text}");
        }
    }
}

#[test]
fn shards_that_are_wrong() {
    assert!(Checkpoint::open(sharded(&[("a", "one.safetensors"), ("b", "two.safetensors")]).1).is_ok());
    let index = "model.safetensors.index.json";
    let missing = [("a", "one.safetensors"), ("c", "three.safetensors"), ("d", "three.safetensors")];
    check_shards(&missing, "three.safetensors", &["2 tensors", "`c`", "download it"]);
    check_shards(
        &[("a", "one.safetensors"), ("x", "two.safetensors")],
        "two.safetensors",
        &["`x`", "fetch them again"],
    );
    for outside in
        ["../one.safetensors", "/one.safetensors", "x/one.safetensors", "x\\\\one.safetensors", "..", ".", ""]
    {
        let shown = outside.replace("\\\\", "\\");
        let shown = format!("`{shown}`, which is not a file's name");
        check_shards(&[("a", "one.safetensors"), ("b", outside)], index, &["`b`", &shown]);
    }
    check_shards(&[("a", "one.safetensors"), ("a", "two.safetensors")], index, &["`a` stands twice", FETCH]);
    check_shards(&[], index, &["it names no shard", FETCH]);

    let same = safetensors(&[tensor("b", 8), tensor("a", 4)]);
    let (directory, path) = sharded(&[("a", "one.safetensors"), ("b", "two.safetensors")]);
    write(&directory, "two.safetensors", same);
    let text = Checkpoint::open(&path).expect_err("a tensor in two shards").to_string();
    for part in ["`a`", "one.safetensors", "two.safetensors", "fetch them again"] {
        assert!(text.contains(part), "`{part}` is missing: {text}");
    }
    // An error of a later shard names that shard.
    write(&directory, "two.safetensors", &safetensors(&[tensor("b", 8)])[..40]);
    let text = Checkpoint::open(&path).expect_err("a shard that was cut").to_string();
    assert!(text.contains("two.safetensors") && text.contains(FETCH), "{text}");
    let twice = Tensor { shape: vec![9], ..tensor("b", 8) };
    write(&directory, "two.safetensors", safetensors(&[twice]));
    let text = Checkpoint::open(&path).expect_err("a size that is wrong").to_string();
    assert!(text.contains("two.safetensors") && text.contains("`b`"), "{text}");
}

#[test]
fn paths_that_are_wrong() {
    let directory = directory();
    let good = safetensors(&[tensor("a", 8)]);
    check(&directory.path().join("absent.safetensors"), &["No such file", "is the path right?"]);
    let file = write(&directory, "a.safetensors", &good);
    check(&file.join("model.gguf"), &["is the path right?"]);
    check(&write(&directory, "weights.npz", &good), &["does not end in .safetensors, .gguf, .bin, .pt or .pth"]);

    let empty = directory.path().join("empty");
    fs::create_dir(&empty).unwrap();
    check(&empty, &["neither a safetensors, nor a GGUF, nor a PyTorch file", "directory of a model?"]);
    // A directory is no checkpoint, whatever its name.
    fs::create_dir(empty.join("model.gguf")).unwrap();
    check(&empty, &["neither a safetensors, nor a GGUF, nor a PyTorch file"]);
    fs::write(empty.join("training_args.bin"), b"x").unwrap();
    check(&empty, &["no PyTorch file", FETCH]);
    fs::write(empty.join("scheduler.pt"), b"x").unwrap();
    check(&empty, &["scheduler.pt", "training_args.bin", "name the file"]);

    write(&directory, "b.safetensors", &good);
    check(directory.path(), &["a.safetensors", "b.safetensors", "name the file"]);
    write(&directory, "model.safetensors", &good);
    assert!(Checkpoint::open(directory.path()).is_ok());

    // Opening a pipe would wait for a writer for ever.
    let pipe = directory.path().join("pipe.gguf");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    if made.is_ok_and(|status| status.success()) {
        check(&pipe, &["no regular file"]);
    }
}
