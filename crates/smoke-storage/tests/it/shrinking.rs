//! A file that becomes shorter after it was opened: a clean error from every reader, and no SIGBUS.

use std::fs::OpenOptions;

use smoke_storage::{Checkpoint, SourceErrorKind, WeightSource};

use crate::files::{READERS, directory, gguf, safetensors, tensor, write};

#[test]
fn a_file_that_shrinks_is_a_clean_error() {
    let tensors = [tensor("first", 8192), tensor("second", 300_000)];
    for (name, bytes) in [("model.safetensors", safetensors(&tensors)), ("model.gguf", gguf(&tensors))] {
        for kind in READERS {
            let directory = directory();
            let path = write(&directory, name, &bytes);
            let checkpoint = Checkpoint::open_with(&path, kind).unwrap();
            let [first, second] = ["first", "second"].map(|name| checkpoint.index().get(name).unwrap().extent);
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            // Inside a page, on a page, and nothing left.
            for left in [second.end() - 1, second.offset + 4097, (second.offset + 8192) & !4095, second.offset, 0] {
                file.set_len(left).unwrap();
                let mut buffer = vec![0; second.len as usize];
                let error = checkpoint.read_at(second, &mut buffer).expect_err("bytes that are gone");
                assert_eq!(error.kind(), SourceErrorKind::Truncated, "{kind:?}, {left} left: {error}");
                let text = error.to_string();
                assert!(text.contains(name) && text.contains("restore it and open it again"), "{text}");
                if left >= first.end() {
                    let mut buffer = vec![0; first.len as usize];
                    checkpoint.read_at(first, &mut buffer).unwrap();
                    assert_eq!(buffer, tensors[0].bytes, "what is still there, {kind:?}");
                }
            }
        }
    }
}
