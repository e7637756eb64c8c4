//! GGUF: what is accepted keeps its promises, however the bytes arrive and wherever the file is cut.
#![no_main]

use std::io::{self, Read};

use libfuzzer_sys::fuzz_target;
use smoke_storage::format::parse_gguf;
use smoke_storage::{FileInfo, TensorIndex};

/// Gives one byte at a time.
struct Drops<'a>(&'a [u8]);

impl Read for Drops<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let one = buffer.len().min(1);
        self.0.read(&mut buffer[..one])
    }
}

fuzz_target!(|file: &[u8]| {
    let len = file.len() as u64;
    let parsed = parse_gguf(file, len);
    // By their text: not-a-number is not equal to itself.
    assert_eq!(format!("{parsed:?}"), format!("{:?}", parse_gguf(Drops(file), len)), "it depends on how bytes arrive");
    let Ok(header) = parsed else { return };

    let alignment = header.metadata.u64("general.alignment").unwrap_or(32);
    assert!(alignment.is_power_of_two());
    for tensor in &header.tensors {
        let elements = tensor.shape.iter().map(|&n| u128::from(n)).product::<u128>();
        let blocks = elements / u128::from(tensor.encoding.block_elements());
        assert_eq!(blocks * u128::from(tensor.encoding.block_elements()), elements);
        assert_eq!(u128::from(tensor.extent.len), blocks * u128::from(tensor.encoding.block_bytes()));
        assert!(tensor.shape.len() <= 4 && tensor.extent.offset.is_multiple_of(alignment));
        let end = u128::from(tensor.extent.offset) + u128::from(tensor.extent.len);
        assert!(end <= u128::from(len), "{} ends after the file", tensor.name);
    }
    let texts = header.metadata.iter().filter_map(|(key, _)| header.metadata.strings(key));
    // A byte that is no text becomes a sign of three bytes.
    assert!(texts.flatten().map(str::len).sum::<usize>() <= 3 * file.len(), "texts out of nothing");
    if let Some(last) = header.tensors.iter().map(|tensor| tensor.extent.end()).max() {
        let cut = last.saturating_sub(1);
        assert!(parse_gguf(&file[..cut as usize], cut).is_err(), "a file that was cut is accepted");
    }

    let mut tensors = header.tensors.clone();
    let files = vec![FileInfo { path: "fuzz.gguf".into(), len }];
    let accepted = TensorIndex::new(files, header.tensors);
    tensors.retain(|tensor| tensor.extent.len > 0);
    let overlap = tensors.iter().enumerate().any(|(at, first)| {
        let shares = |second: &smoke_storage::TensorInfo| {
            first.extent.offset < second.extent.end() && second.extent.offset < first.extent.end()
        };
        tensors[at + 1..].iter().any(shares)
    });
    assert!(!(overlap && accepted.is_ok()), "tensors that share bytes make an index");
});
