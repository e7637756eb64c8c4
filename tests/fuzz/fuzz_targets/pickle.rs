//! PyTorch files: what is accepted keeps its promises, however the bytes arrive and wherever the file is cut.
#![no_main]

use std::io::{self, Cursor, Read, Seek, SeekFrom};

use libfuzzer_sys::fuzz_target;
use smoke_storage::format::{FormatError, parse_pytorch};
use smoke_storage::{FileInfo, TensorIndex, TensorInfo};

/// Gives one byte at a time.
struct Drops<'a>(Cursor<&'a [u8]>);

impl Read for Drops<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let one = buffer.len().min(1);
        self.0.read(&mut buffer[..one])
    }
}

impl Seek for Drops<'_> {
    fn seek(&mut self, place: SeekFrom) -> io::Result<u64> {
        self.0.seek(place)
    }
}

/// What files of the old form begin with: the magic number, the version, and which machine it was.
const HEAD: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}U\x0dlittle_endian\x88s.";

fn parse(file: &[u8]) -> Result<Vec<TensorInfo>, FormatError> {
    parse_pytorch(Cursor::new(file), file.len() as u64)
}

fn check(file: &[u8]) {
    let len = file.len() as u64;
    let parsed = parse(file);
    assert_eq!(parsed, parse_pytorch(Drops(Cursor::new(file)), len), "it depends on how bytes arrive");
    let Ok(tensors) = parsed else { return };

    for tensor in &tensors {
        let elements = tensor.shape.iter().map(|&n| u128::from(n)).product::<u128>();
        assert_eq!(u128::from(tensor.extent.len), elements * u128::from(tensor.encoding.block_bytes()));
        let end = u128::from(tensor.extent.offset) + u128::from(tensor.extent.len);
        assert!(end <= u128::from(len), "{} ends after the file", tensor.name);
    }
    // An archive that is cut may be another archive.
    let last = tensors.iter().filter(|tensor| tensor.extent.len > 0).map(|tensor| tensor.extent.end()).max();
    if let Some(last) = last.filter(|_| !file.starts_with(b"PK")) {
        assert!(parse(&file[..last as usize - 1]).is_err(), "a file that was cut is accepted");
    }
    match TensorIndex::with_shared(vec![FileInfo { path: "fuzz.bin".into(), len }], tensors) {
        Ok(index) => {
            let owned = |at: &u64| index.iter().any(|t| (t.extent.offset..t.extent.end()).contains(at));
            assert_eq!(
                index.total_bytes(),
                (0..len).filter(owned).count() as u64,
                "bytes are counted twice or not at all"
            );
        }
        Err(error) => assert!(matches!(error, FormatError::DuplicateName { .. }), "no index: {error}"),
    }
}

fuzz_target!(|file: &[u8]| {
    check(file);
    // Most mutations spoil the beginning; after a good one the pickle of the tensors is reached.
    check(&[HEAD, file].concat());
});
