//! Any range into any buffer, by every reader.

use std::fs;

use proptest::prelude::*;
use smoke_storage::{AlignedBuffer, Checkpoint, DiskProfile, Extent, ReaderKind, SourceErrorKind, WeightSource};

use crate::files::{READERS, directory, safetensors, tensor, write};

const LEN: u64 = 3_000_003;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_range_into_any_buffer(
        reads in prop::collection::vec((0..LEN, 0..LEN, prop_oneof![Just(0_usize), Just(1), Just(512), 0..4096_usize], any::<[bool; 2]>()), 1..8),
        block_pages in 1..40_u64,
        queue_depth in 1..12_u32,
    ) {
        let directory = directory();
        let path = write(&directory, "m.safetensors", safetensors(&[tensor("t", LEN as usize)]));
        let file = fs::read(&path).unwrap();
        let mut profile = DiskProfile::default();
        (profile.block_bytes, profile.queue_depth) = (block_pages * 4096, queue_depth);
        let mut checkpoints: Vec<Checkpoint> =
            READERS.iter().map(|&kind| Checkpoint::open_with(&path, kind).unwrap()).collect();
        checkpoints.push(Checkpoint::open_profiled(&path, &profile).unwrap());
        let mut memory = AlignedBuffer::zeroed(LEN as usize + 8192);
        for (mut offset, mut len, mut shift, [align_offset, align_len]) in reads {
            if align_offset {
                (offset, shift) = (offset & !4095, 0);
            }
            if align_len {
                len &= !4095;
            }
            let len = len.min(LEN - offset) as usize;
            for checkpoint in &checkpoints {
                memory.fill(0xA5);
                let buf = &mut memory[shift..shift + len];
                checkpoint.read_at(Extent { file: 0, offset, len: len as u64 }, buf).unwrap();
                let kinds: Vec<_> = checkpoint.reader_kinds().collect();
                prop_assert!(buf == &file[offset as usize..][..len], "{:?}: {} at {}", kinds, len, offset);
                let outside = memory[..shift].iter().chain(&memory[shift + len..]);
                prop_assert!(outside.copied().all(|byte| byte == 0xA5), "{:?} writes outside of the buffer", kinds);
            }
        }
    }
}

#[test]
fn reads_stop_when_they_are_told_to() {
    let directory = directory();
    let len = 20 << 20;
    let path = write(&directory, "m.safetensors", safetensors(&[tensor("t", len)]));
    for kind in READERS {
        let checkpoint = Checkpoint::open_with(&path, kind).unwrap();
        let mut buffer = AlignedBuffer::zeroed(len);
        let all = Extent { file: 0, offset: 0, len: len as u64 };
        for stop_at in [0, 1, 3] {
            let asked = std::cell::Cell::new(0);
            let stop = || asked.replace(asked.get() + 1) == stop_at;
            let error = checkpoint.read_cancellable(all, &mut buffer, &stop).expect_err("stopped");
            assert_eq!(error.kind(), SourceErrorKind::Cancelled, "{kind:?}");
            assert_eq!(asked.get(), stop_at + 1, "{kind:?} goes on after it was stopped");
        }
        checkpoint.read_cancellable(all, &mut buffer, &|| false).unwrap();
        assert!(buffer[..] == fs::read(&path).unwrap()[..len]);
    }
}

#[test]
fn auto_is_decided_when_a_file_is_opened() {
    let directory = directory();
    let path = write(&directory, "m.safetensors", safetensors(&[tensor("t", 10_000)]));
    for kind in READERS {
        let checkpoint = Checkpoint::open_with(&path, kind).unwrap();
        let kinds: Vec<_> = checkpoint.reader_kinds().collect();
        match kind {
            ReaderKind::Auto => assert!(matches!(kinds[..], [ReaderKind::Uring | ReaderKind::Direct]), "{kinds:?}"),
            kind => assert_eq!(kinds, [kind]),
        }
    }
}
