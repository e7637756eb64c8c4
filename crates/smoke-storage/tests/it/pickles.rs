//! Files as PyTorch saves them, written opcode by opcode, so that they can be wrong in any way.

/// A pickle in the making, of protocol 2.
#[derive(Clone, Debug)]
pub(crate) struct Pickle(Vec<u8>);

impl Pickle {
    pub(crate) fn new() -> Self {
        Self(vec![0x80, 2])
    }

    pub(crate) fn op(mut self, opcodes: &[u8]) -> Self {
        self.0.extend(opcodes);
        self
    }

    pub(crate) fn text(self, text: &str) -> Self {
        self.op(b"X").op(&(text.len() as u32).to_le_bytes()).op(text.as_bytes())
    }

    /// In as few bytes as hold it and its sign.
    pub(crate) fn int(self, number: i64) -> Self {
        let holds = |len: &u8| (number << (64 - 8 * len)) >> (64 - 8 * len) == number;
        let len = (1..=8).find(holds).unwrap();
        self.op(&[0x8A, len]).op(&number.to_le_bytes()[..len.into()])
    }

    pub(crate) fn ints(self, numbers: &[i64]) -> Self {
        numbers.iter().fold(self.op(b"("), |pickle, &number| pickle.int(number)).op(b"t")
    }

    pub(crate) fn global(self, module: &str, name: &str) -> Self {
        self.op(format!("c{module}\n{name}\n").as_bytes())
    }

    /// An empty ordered dictionary.
    pub(crate) fn ordered_dict(self) -> Self {
        self.global("collections", "OrderedDict").op(b")R")
    }

    pub(crate) fn storage(self, kind: &str, key: &str, elements: i64) -> Self {
        self.op(b"(").text("storage").global("torch", kind).text(key).text("cpu").int(elements).op(b"tQ")
    }

    /// A name and its tensor.
    pub(crate) fn tensor(self, saved: &Saved) -> Self {
        self.text(&saved.name).nameless(saved)
    }

    pub(crate) fn nameless(self, saved: &Saved) -> Self {
        let Saved { kind, key, elements, first, shape, strides, .. } = saved;
        let pickle = self.global("torch._utils", "_rebuild_tensor_v2").op(b"(");
        let pickle = pickle.storage(kind, key, *elements).int(*first).ints(shape).ints(strides);
        pickle.op(&[0x89]).ordered_dict().op(b"tR")
    }

    pub(crate) fn stop(self) -> Vec<u8> {
        self.op(b".").0
    }
}

/// A tensor as a pickle describes it.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    pub(crate) key: String,
    pub(crate) elements: i64,
    pub(crate) first: i64,
    pub(crate) shape: Vec<i64>,
    pub(crate) strides: Vec<i64>,
}

/// A tensor that has a storage to itself.
pub(crate) fn saved(name: &str, kind: &'static str, key: &str, shape: &[i64]) -> Saved {
    let strides = (1..=shape.len()).map(|at| shape[at..].iter().product()).collect();
    let (name, key, elements) = (name.to_owned(), key.to_owned(), shape.iter().product());
    Saved { name, kind, key, elements, first: 0, shape: shape.to_vec(), strides }
}

/// A dictionary of tensors, as `state_dict()` makes it, with the attribute that modules' versions are kept in.
pub(crate) fn state_dict(tensors: &[Saved]) -> Vec<u8> {
    let pickle = tensors.iter().fold(Pickle::new().ordered_dict().op(b"("), Pickle::tensor).op(b"u");
    pickle.op(b"}").text("_metadata").ordered_dict().op(b"sb").stop()
}

/// An entry of a zip archive, and what is said about it.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) method: u16,
    pub(crate) flags: u16,
    /// The lengths that the directory states, packed and unpacked.
    pub(crate) lens: [u64; 2],
}

pub(crate) fn entry(name: &str, bytes: &[u8]) -> Entry {
    let len = bytes.len() as u64;
    Entry { name: name.to_owned(), bytes: bytes.to_vec(), method: 0, flags: 0, lens: [len, len] }
}

/// The entries of a checkpoint whose storages are these.
pub(crate) fn entries(pickle: &[u8], storages: &[(&str, &[u8])]) -> Vec<Entry> {
    let mut entries = vec![entry("m/data.pkl", pickle), entry("m/byteorder", b"little")];
    entries.extend(storages.iter().map(|(key, bytes)| entry(&format!("m/data/{key}"), bytes)));
    entries.push(entry("m/version", b"3\n"));
    entries
}

/// How numbers are written in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    Bits32,
    Bits64,
}

/// A zip archive. In 64 bits every number that may be is, however small.
pub(crate) fn zip(entries: &[Entry], width: Width) -> Vec<u8> {
    let wide = width == Width::Bits64;
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    let short = |number: u64| if wide { u32::MAX } else { number as u32 }.to_le_bytes();
    for Entry { name, bytes, method, flags, lens: [packed, len] } in entries {
        let start = file.len() as u64;
        let extra: Vec<u8> = if wide {
            // After another field, as archives have them for times.
            let numbers = [*len, *packed, start].map(u64::to_le_bytes).concat();
            [&[9, 9, 2, 0, 7, 7], &[1, 0, 24, 0][..], &numbers].concat()
        } else {
            Vec::new()
        };
        // PyTorch pads local headers so that storages are aligned, and leaves out the lengths.
        let padding = (64 - (file.len() + 30 + name.len() + 4) % 64) % 64;
        file.extend([b"PK\x03\x04", &[0; 2][..], &flags.to_le_bytes(), &method.to_le_bytes(), &[0; 16]].concat());
        file.extend((name.len() as u16).to_le_bytes());
        file.extend((padding as u16 + 4).to_le_bytes());
        file.extend([name.as_bytes(), b"FB", &(padding as u16).to_le_bytes(), &vec![b'Z'; padding]].concat());
        file.extend(bytes);
        directory.extend([b"PK\x01\x02", &[0; 4][..], &flags.to_le_bytes(), &method.to_le_bytes(), &[0; 8]].concat());
        directory.extend([short(*packed), short(*len)].concat());
        directory.extend([name.len() as u16, extra.len() as u16, 0, 0, 0, 0, 0].map(u16::to_le_bytes).concat());
        directory.extend(short(start));
        directory.extend([name.as_bytes(), &extra].concat());
    }
    let (start, len, count) = (file.len() as u64, directory.len() as u64, entries.len() as u64);
    file.extend(directory);
    if wide {
        let end = file.len() as u64;
        file.extend([b"PK\x06\x06", &44_u64.to_le_bytes()[..], &[0; 12]].concat());
        file.extend([count, count, len, start].map(u64::to_le_bytes).concat());
        file.extend([b"PK\x06\x07", &[0; 4][..], &end.to_le_bytes(), &1_u32.to_le_bytes()].concat());
    }
    let count = if wide { u16::MAX } else { count as u16 };
    file.extend([b"PK\x05\x06", &[0; 4][..], &count.to_le_bytes(), &count.to_le_bytes()].concat());
    file.extend([short(len), short(start)].concat());
    file.extend([0; 2]);
    file
}

/// A checkpoint in the form of today.
pub(crate) fn archive(pickle: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    zip(&entries(pickle, storages), Width::Bits32)
}

/// The pickles before that of the tensors in the old form.
pub(crate) fn legacy_head(little_endian: bool) -> Vec<u8> {
    let magic = [0x8A, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
    let machine = Pickle::new().op(b"}(").text("protocol_version").int(1001).text("little_endian");
    let machine = machine.op(&[if little_endian { 0x88 } else { 0x89 }]).op(b"u");
    [Pickle::new().op(&magic).stop(), Pickle::new().int(1001).stop(), machine.stop()].concat()
}

/// A checkpoint in the old form, whose storages have so many elements.
pub(crate) fn legacy(pickle: &[u8], storages: &[(&str, u64, &[u8])]) -> Vec<u8> {
    let keys = storages.iter().fold(Pickle::new().op(b"]("), |pickle, (key, ..)| pickle.text(key)).op(b"e");
    let mut file = [legacy_head(true), pickle.to_vec(), keys.stop()].concat();
    for (_, elements, bytes) in storages {
        file.extend([&elements.to_le_bytes(), *bytes].concat());
    }
    file
}
