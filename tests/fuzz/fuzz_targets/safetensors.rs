//! Safetensors: what is accepted keeps its promises, and the format's own library accepts it, too, and reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use safetensors::SafeTensors;
use smoke_storage::format::{FormatError, parse_safetensors};
use smoke_storage::{FileInfo, TensorIndex};

fuzz_target!(|file: &[u8]| {
    let len = file.len() as u64;
    let theirs = SafeTensors::deserialize(file);
    let ours = match parse_safetensors(file, len) {
        Ok(header) => header,
        // The library knows more encodings, and keeps the last of several tensors of one name.
        Err(FormatError::UnsupportedEncoding { .. } | FormatError::DuplicateName { .. }) => return,
        Err(error) => return assert!(theirs.is_err(), "the format's library accepts what is refused here: {error}"),
    };
    let theirs = theirs.expect("the format's library accepts what is accepted here");
    assert_eq!(theirs.len(), ours.tensors.len());
    let data_start = ours.tensors.first().map_or(len, |tensor| tensor.extent.offset);
    let mut end = data_start;
    for tensor in &ours.tensors {
        let view = theirs.tensor(&tensor.name).expect("the same names");
        assert!(tensor.shape.iter().eq(view.shape().iter().map(|&n| n as u64).collect::<Vec<_>>().iter()));
        let place = view.data().as_ptr().addr() - file.as_ptr().addr();
        assert!(tensor.extent.len == 0 || tensor.extent.offset == place as u64, "{} lies elsewhere", tensor.name);
        assert_eq!(tensor.extent.len, view.data().len() as u64);
        assert_eq!(tensor.encoding.to_string().to_uppercase(), format!("{:?}", view.dtype()).to_uppercase());
        assert_eq!(tensor.extent.offset, end, "a gap or shared bytes before {}", tensor.name);
        end = tensor.extent.end();
    }
    assert_eq!(end, len, "bytes that belong to no tensor");
    if len > 0 {
        let cut = &file[..file.len() - 1];
        assert!(parse_safetensors(cut, len - 1).is_err(), "a file that was cut is accepted");
    }
    let files = vec![FileInfo { path: "fuzz.safetensors".into(), len }];
    TensorIndex::new(files, ours.tensors).expect("what the parser accepts makes an index");
});
