//! PyTorch files that would run code elsewhere, or claim what is not there: one clear error each, and nothing is run.

use std::io::Cursor;

use smoke_storage::format::parse_pytorch;
use smoke_storage::{Checkpoint, FormatError, WeightSource};

use crate::files::{directory, shard_index, write};
use crate::messages;
use crate::pickles::{
    Entry, Pickle, Saved, Width, archive, entries, entry, legacy, legacy_head, saved, state_dict, zip,
};

const FETCH: &str = "fetch it again";
const SAVE: &str = "state_dict()";

/// Writes a pickle in both forms; neither may open, and both must say this.
fn check(pickle: &[u8], parts: &[&str]) {
    let directory = directory();
    let storages: [(&str, &[u8]); 1] = [("0", b"abcd")];
    messages::check(&write(&directory, "new.bin", archive(pickle, &storages)), parts);
    messages::check(&write(&directory, "old.pt", legacy(pickle, &[("0", 4, b"abcd")])), parts);
}

fn good() -> Saved {
    saved("w", "ByteStorage", "0", &[4])
}

/// A dictionary with a good tensor and, under another key, what is given.
fn beside(value: impl FnOnce(Pickle) -> Pickle) -> Vec<u8> {
    value(Pickle::new().op(b"}").tensor(&good()).op(b"s").text("x")).op(b"s").stop()
}

#[test]
fn nothing_is_run() {
    let directory = directory();
    let proof = directory.path().join("proof");
    let command = format!("touch {}", proof.display());
    let system = |pickle: Pickle| pickle.global("os", "system");
    let command_tuple = |pickle: Pickle| pickle.text(&command).op(b"\x85");
    for (pickle, named) in [
        (beside(|pickle| command_tuple(system(pickle)).op(b"R")), "`os.system`"),
        (beside(|pickle| command_tuple(pickle.text("posix").text("system").op(b"\x93")).op(b"R")), "`posix.system`"),
        (beside(|pickle| pickle.op(b"(").text(&command).op(b"ios\nsystem\n")), "`os.system`"),
        (beside(|pickle| system(pickle.op(b"(")).text(&command).op(b"o")), "`os.system`"),
        (beside(|pickle| command_tuple(system(pickle)).op(b"\x81")), "`os.system`"),
        (beside(|pickle| command_tuple(system(pickle)).op(b"}\x92")), "`os.system`"),
        (beside(|pickle| pickle.global("builtins", "eval").text("1").op(b"\x85R")), "`builtins.eval`"),
        (beside(|pickle| pickle.global("__builtin__", "getattr")), "`__builtin__.getattr`"),
        (beside(|pickle| pickle.global("torch", "load")), "`torch.load`"),
        (beside(|pickle| pickle.global("torch.hub", "FloatStorage")), "`torch.hub.FloatStorage`"),
        (beside(|pickle| pickle.global("torch", "_utils._rebuild_tensor_v2")), "`torch._utils._rebuild_tensor_v2`"),
        (beside(|pickle| pickle.global("collections", "OrderedDict.fromkeys")), "`collections.OrderedDict.fromkeys`"),
        // Known globals, but by other opcodes than those that call them.
        (beside(|pickle| pickle.global("collections", "OrderedDict").op(b")\x81")), "(opcode NEWOBJ)"),
        (beside(|pickle| pickle.global("collections", "OrderedDict").op(b")}\x92")), "(opcode NEWOBJ_EX)"),
        (beside(|pickle| pickle.op(b"(").global("collections", "OrderedDict").op(b"o")), "(opcode OBJ)"),
        (beside(|pickle| pickle.op(b"(icollections\nOrderedDict\n")), "`collections.OrderedDict`"),
        (beside(|pickle| pickle.op(b"\x82\x01")), "(opcode EXT)"),
        // State for what is no dictionary.
        (beside(|pickle| pickle.nameless(&good()).op(b"}b")), "sets attributes of what is no dictionary"),
        (beside(|pickle| pickle.global("torch", "Size").op(b"}b")), "sets attributes of what is no dictionary"),
        (beside(|pickle| pickle.op(b"]}b")), "sets attributes of what is no dictionary"),
        // Names that would spoil a terminal.
        (beside(|pickle| pickle.global("\u{1b}[2J", "x\0")), "`\\u{1b}[2J.x\\0`"),
    ] {
        check(&pickle, &[named, "state_dict()", "convert it to safetensors"]);
    }
    assert!(!proof.exists());
    // The long name of what is asked for is not all shown.
    let long = beside(|pickle| pickle.global("os", &"x".repeat(1 << 20)));
    assert!(parse(&archive(&long, &[])).unwrap_err().to_string().len() < 500);
}

fn parse(file: &[u8]) -> Result<usize, FormatError> {
    parse_pytorch(Cursor::new(file), file.len() as u64).map(|tensors| tensors.len())
}

#[test]
fn pickles_that_are_wrong() {
    let call = |module: &'static str, name: &'static str, arguments: &'static [u8]| {
        beside(move |pickle| pickle.global(module, name).op(arguments).op(b"R"))
    };
    for (pickle, part) in [
        (beside(|pickle| pickle.op(b"j\xff\xff\xff\xff")), "was not remembered"),
        (beside(|pickle| pickle.op(b"h\x05")), "was not remembered"),
        (beside(|pickle| pickle.op(b"u")), "no mark"),
        (beside(|pickle| pickle.op(b"(\x85")), "too few values"),
        (beside(|pickle| pickle.op(b"NNa")), "no list"),
        (beside(|pickle| pickle.op(b"](NNu")), "no dictionary"),
        (beside(|pickle| pickle.op(b"}(Nu")), "no dictionary"),
        (beside(|pickle| pickle.op(b"NQ")), "names no storage"),
        (beside(|pickle| pickle.storage("FloatStorage", "1", -1)), "names no storage"),
        (beside(|pickle| pickle.op(b"N)R")), "what is called is no global"),
        (call("torch", "Size", b"N"), "a call without arguments"),
        (call("torch", "Size", b"(NNt"), "with other arguments"),
        (call("torch", "Size", b")"), "with other arguments"),
        (call("torch", "FloatStorage", b")"), "with other arguments"),
        (call("torch", "float32", b")"), "with other arguments"),
        (call("collections", "OrderedDict", b"N\x85"), "with other arguments"),
        (call("torch._utils", "_rebuild_parameter", b"NNN\x87"), "with other arguments"),
        (call("torch._utils", "_rebuild_tensor_v2", b")"), "with other arguments"),
        (call("torch._utils", "_rebuild_tensor_v2", b"(NK\x00))t"), "a tensor without a storage"),
        (beside(|pickle| pickle.op(b"X\xff\xff\xff\xff")), "a text claims 4294967295 bytes"),
        (beside(|pickle| pickle.op(b"\x8d").op(&[0xff; 8])), "a text claims 18446744073709551615 bytes"),
        (beside(|pickle| pickle.op(b"\x8e").op(&[0xff; 8])), "bytes claims 18446744073709551615 bytes"),
        (beside(|pickle| pickle.op(b"\x8b\xff\xff\xff\xff")), "an integer claims 4294967295 bytes"),
        (Pickle::new().op(b"}U\x01\xff").nameless(&good()).op(b"s").stop(), "is no text"),
    ] {
        check(&pickle, &[part, FETCH]);
    }
    for (pickle, part) in [
        (beside(|pickle| pickle.op(b"I1\n")), "the opcode 0x49"),
        (beside(|pickle| pickle.op(b"P1\n")), "the opcode 0x50"),
        (Pickle::new().nameless(&good()).stop(), "does not hold a dictionary"),
        (Pickle::new().op(b"}").text("x").op(b"Ns").stop(), "holds no tensors"),
        (Pickle::new().op(b"}K\x01").nameless(&good()).op(b"s").stop(), "a tensor without a name"),
    ] {
        check(&pickle, &[part, SAVE]);
    }
    let two = Pickle::new().op(b"}").text("model").op(b"}").tensor(&good()).op(b"ss");
    let two = two.text("ema").op(b"}").tensor(&good()).op(b"ss").stop();
    check(&two, &["several dictionaries", "`model` and `ema`", "by itself"]);
    let twice = Pickle::new().op(b"}").tensor(&good()).op(b"s").tensor(&good()).op(b"s").stop();
    check(&twice, &["`w` stands twice"]);
}

#[test]
fn tensors_that_are_wrong() {
    let big = 1 << 62;
    for (tensor, parts) in [
        (Saved { first: 1, ..good() }, &["`w`", "not inside its storage of 4", FETCH][..]),
        (Saved { first: -1, ..good() }, &["`w`", "not inside its storage"]),
        (Saved { first: i64::MAX, ..good() }, &["`w`", "not inside its storage"]),
        (Saved { elements: 3, ..good() }, &["`w`", "not inside its storage of 3"]),
        (Saved { shape: vec![-4], ..good() }, &["`w`", "[-4]"]),
        (Saved { shape: vec![4, 1], ..good() }, &["`w`", "[4, 1]", "strides [1]"]),
        (Saved { shape: vec![4; 32], strides: vec![1; 32], ..good() }, &["`w`", "not inside its storage"]),
        (Saved { shape: vec![i64::MAX; 2], strides: vec![1; 2], ..good() }, &["`w`", "not inside its storage"]),
        (
            Saved { shape: vec![2, 2], strides: vec![1, 2], ..good() },
            &["`w`", "[1, 2]", ".contiguous()", "safetensors"],
        ),
        (Saved { shape: vec![2], strides: vec![2], ..good() }, &["`w`", "row by row"]),
        (Saved { shape: vec![3], strides: vec![0], ..good() }, &["`w`", "row by row"]),
        (Saved { shape: vec![4], strides: vec![-1], ..good() }, &["`w`", "row by row"]),
        (Saved { kind: "ComplexFloatStorage", ..good() }, &["`w`", "ComplexFloatStorage", "convert it to F32"]),
        (Saved { kind: "QInt8Storage", ..good() }, &["`w`", "QInt8Storage", "convert it to F32"]),
        (Saved { kind: "DoubleStorage", elements: big, shape: vec![big], ..good() }, &["`w`", FETCH]),
        (Saved { key: "../../../etc/passwd".to_owned(), ..good() }, &["storage of tensor `w` is missing", FETCH]),
    ] {
        let directory = directory();
        let pickle = state_dict(std::slice::from_ref(&tensor));
        messages::check(&write(&directory, "new.bin", archive(&pickle, &[("0", b"abcd")])), parts);
        if tensor.key == "0" {
            let file = legacy(&pickle, &[("0", tensor.elements as u64, b"abcd")]);
            messages::check(&write(&directory, "old.bin", file), parts);
        }
    }
}

#[test]
fn storages_that_are_wrong() {
    let pickle = state_dict(&[good()]);
    let directory = directory();
    let check = |name: &str, file: Vec<u8>, parts: &[&str]| messages::check(&write(&directory, name, file), parts);
    check("new.bin", archive(&pickle, &[]), &["storage of tensor `w` is missing", FETCH]);
    check("new.bin", archive(&pickle, &[("0", b"abc")]), &["`w`", "3 bytes", "4 are claimed", FETCH]);

    let old = |keys: &[(&str, u64, &[u8])]| legacy(&pickle, keys);
    check("old.bin", old(&[]), &["storage of tensor `w` is missing", FETCH]);
    check("old.bin", old(&[("0", 3, b"abc")]), &["3 elements, not 4", FETCH]);
    check("old.bin", old(&[("0", u64::MAX, b"abcd")]), &["elements, not 4", FETCH]);
    check("old.bin", old(&[("0", 4, b"abc")]), &["a storage takes 4 bytes, but 3 are left", FETCH]);
    check("old.bin", old(&[("x", 4, b"abcd")]), &["nothing says what the storage `x` holds", FETCH]);
    check("old.bin", old(&[("0", 4, b"abcd"), ("0", 4, b"abcd")]), &["`0` stands twice"]);
    let ways = state_dict(&[good(), Saved { name: "v".to_owned(), kind: "CharStorage", ..good() }]);
    check("old.bin", legacy(&ways, &[("0", 4, b"abcd")]), &["`0` is named in two ways", FETCH]);
    let tail = [pickle.clone(), Pickle::new().op(b"]").stop()].concat();
    check("old.bin", [legacy_head(false), tail.clone()].concat(), &["big-endian", "convert it to safetensors"]);
    check("old.bin", Pickle::new().op(b"N").stop(), &["not one of torch.save", SAVE]);
    check("old.bin", [vec![0x80, 1], tail].concat(), &["unknown protocol", SAVE]);
    let view = Pickle::new().op(b"}").text("w").op(b"(").text("storage").global("torch", "FloatStorage");
    let view = view.text("0").text("cpu").int(4).ints(&[0, 0, 0]).op(b"tQs").stop();
    check("old.bin", legacy(&view, &[]), &["views of others", SAVE]);
}

#[test]
fn archives_that_are_wrong() {
    let pickle = state_dict(&[good()]);
    let directory = directory();
    let check = |file: Vec<u8>, parts: &[&str]| messages::check(&write(&directory, "model.bin", file), parts);
    let changed = |change: &dyn Fn(&mut Vec<Entry>), width| {
        let mut entries = entries(&pickle, &[("0", b"abcd")]);
        change(&mut entries);
        zip(&entries, width)
    };
    let widths = [Width::Bits32, Width::Bits64];
    for width in widths {
        assert_eq!(parse(&changed(&|_| (), width)), Ok(1));
        // A bomb: little that claims to become much.
        let bomb = |entries: &mut Vec<Entry>| (entries[0].method, entries[0].lens[1]) = (8, 1 << 31);
        check(changed(&bomb, width), &["`m/data.pkl` is compressed", SAVE]);
        check(changed(&|entries| entries[2].method = 8, width), &["`m/data/0` is compressed", SAVE]);
        check(changed(&|entries| entries[2].flags = 1, width), &["encrypted", SAVE]);
        check(changed(&|entries| entries[2].lens[1] = 1 << 30, width), &["`m/data/0` is compressed", SAVE]);
        check(changed(&|entries| entries[2].lens = [1 << 30; 2], width), &["`m/data/0` is not inside the file", FETCH]);
        check(
            changed(&|entries| entries[0].lens = [1 << 30; 2], width),
            &["`m/data.pkl` is not inside the file", FETCH],
        );
        check(changed(&|entries| entries.push(entry("m/data/0", b"x")), width), &["`m/data/0` stands twice"]);
        check(changed(&|entries| entries[1].bytes = b"big   ".to_vec(), width), &["big-endian", "safetensors"]);
        check(changed(&|entries| entries.push(entry("m/constants.pkl", b"")), width), &["TorchScript", SAVE]);
        check(changed(&|entries| entries[0].name = "m/else.pkl".to_owned(), width), &["not one of torch.save", SAVE]);
        check(changed(&|entries| entries.push(entry("n/data.pkl", b"")), width), &["not one of torch.save", SAVE]);
        // The directory and the header before the bytes do not agree.
        check(changed(&|entries| entries[2].lens = [100; 2], width), &["`m/data/0` is not valid", FETCH]);
    }
    let wide = |lens| changed(&|entries| entries[2].lens = lens, Width::Bits64);
    check(wide([u64::MAX; 2]), &["`m/data/0` is not inside the file", FETCH]);
    check(wide([u64::MAX - 1, u64::MAX]), &["`m/data/0` is compressed", SAVE]);

    // Two storages in one place: the directory names one header twice.
    let two = state_dict(&[good(), saved("v", "ByteStorage", "1", &[4])]);
    let mut file = archive(&two, &[("0", b"abcd"), ("1", b"efgh")]);
    assert_eq!(parse(&file), Ok(2));
    let place_of = |file: &[u8], name: &[u8]| {
        let at = file.windows(name.len()).rposition(|window| window == name).unwrap();
        at - 4..at
    };
    let (first, second) = (place_of(&file, b"m/data/0"), place_of(&file, b"m/data/1"));
    file.copy_within(first, second.start);
    check(file, &["the storages `0` and `1` share bytes", FETCH]);

    // The end of the archive claims another directory.
    for (at, value, part) in [
        (-10, 1_u32 << 30, "its directory claims 1073741824 bytes"),
        (-6, u32::MAX - 1, "its directory claims"),
        (-6, 0, "no entry"),
        (-10, 3, "an entry of the directory takes 46 bytes, but 3 are left"),
        (-10, u32::MAX, "this one does not"),
    ] {
        let mut file = changed(&|_| (), Width::Bits32);
        let at = file.len().checked_add_signed(at).unwrap();
        file[at..at + 4].copy_from_slice(&value.to_le_bytes());
        check(file, &[part, FETCH]);
    }
    check([changed(&|_| (), Width::Bits32), vec![0]].concat(), &["ends with its directory", FETCH]);
    check(b"PK".to_vec(), &["ends with its directory", FETCH]);
    // A comment at the end is allowed.
    let mut file = changed(&|_| (), Width::Bits32);
    *file.iter_mut().nth_back(1).unwrap() = 2;
    assert_eq!(parse(&[file, b"hi".to_vec()].concat()), Ok(1));
}

/// Nothing recurses, and memory is bounded by what was read.
#[test]
fn depth_and_size_are_bounded() {
    const DEEP: usize = 1 << 20;
    let deep = |open: &[u8], close: &[u8]| beside(|pickle| pickle.op(&open.repeat(DEEP)).op(&close.repeat(DEEP)));
    for (open, close) in [(&b"]"[..], &b""[..]), (b"(", b"t"), (b"(", b"l"), (b"N\x85\x85", b""), (b"(", b"0")] {
        // Lists that are left open stay on the stack, so that there is no dictionary below: an error or not, it ends.
        let _ = parse(&archive(&deep(open, close), &[("0", b"abcd")]));
    }
    let nested = beside(|pickle| pickle.op(b"N").op(&b"\x85".repeat(DEEP)));
    assert_eq!(parse(&archive(&nested, &[("0", b"abcd")])), Ok(1));
    let lists = beside(|pickle| pickle.op(&b"]".repeat(DEEP)).op(&b"a".repeat(DEEP - 1)));
    assert_eq!(parse(&archive(&lists, &[("0", b"abcd")])), Ok(1));
    let cyclic = beside(|pickle| pickle.op(b"]q\x00h\x00a"));
    assert_eq!(parse(&archive(&cyclic, &[("0", b"abcd")])), Ok(1));
    let remembered = beside(|pickle| pickle.op(b"Nr\xff\xff\xff\xff0j\xff\xff\xff\xff"));
    assert_eq!(parse(&archive(&remembered, &[("0", b"abcd")])), Ok(1));

    let endless = beside(|pickle| pickle.op(&b"N0".repeat(5 << 20)).op(b"N"));
    let error = parse(&archive(&endless, &[("0", b"abcd")])).unwrap_err().to_string();
    assert!(error.contains("opcodes") && error.contains("shards"), "{error}");
    let long = beside(|pickle| pickle.text(&"x".repeat(65 << 20)));
    let error = parse(&archive(&long, &[("0", b"abcd")])).unwrap_err().to_string();
    assert!(error.contains("too much for a pickle"), "{error}");
}

#[test]
fn shards_stay_in_their_directory() {
    let directory = directory();
    let shard = archive(&state_dict(&[good()]), &[("0", b"abcd")]);
    write(&directory, "one.bin", &shard);
    let index = |map: &[(&str, &str)]| write(&directory, "pytorch_model.bin.index.json", shard_index(map));
    assert!(Checkpoint::open(index(&[("w", "one.bin")])).is_ok_and(|checkpoint| checkpoint.index().len() == 1));
    for outside in ["../one.bin", "/one.bin", "x/one.bin", "x\\\\one.bin", "..", ""] {
        let path = index(&[("w", outside)]);
        messages::check(&path, &["`w`", "which is not a file's name"]);
    }
    let open = |map| Checkpoint::open(index(map)).unwrap_err().to_string();
    let text = open(&[("w", "one.bin"), ("v", "two.bin")]);
    assert!(text.contains("two.bin") && text.contains("`v`") && text.contains("download it"), "{text}");
    let text = open(&[("v", "one.bin")]);
    assert!(text.contains("one.bin") && text.contains("lacks tensor `v`"), "{text}");
    write(&directory, "two.bin", &shard);
    let text = open(&[("w", "one.bin"), ("w2", "two.bin")]);
    assert!(text.contains("two.bin") && text.contains("`w2`"), "{text}");
    write(&directory, "two.bin", beside(|pickle| pickle.global("os", "system")));
    let text = open(&[("v", "two.bin"), ("w", "one.bin")]);
    assert!(text.contains("two.bin"), "{text}");
}
