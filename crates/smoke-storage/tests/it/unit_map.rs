//! Whatever is cut out of whatever, every part has its bytes, and neighbours are read at once.

use proptest::prelude::*;
use smoke_core::{Encoding, UnitId};
use smoke_storage::conformance::{CountingSource, FaultySource};
use smoke_storage::{
    AlignedBuffer, Checkpoint, Extent, MemorySource, PartId, SourceError, SourceErrorKind, TensorIndex, UnitMap,
    UnitMapBuilder, WeightSource,
};

use crate::files::{READERS, directory, noise, safetensors, shard_index, tensor, write};

/// A source in memory that claims an alignment.
#[derive(Debug)]
struct Aligned(MemorySource, u64);

impl WeightSource for Aligned {
    fn index(&self) -> &TensorIndex {
        self.0.index()
    }
    fn read_at(&self, extent: Extent, buf: &mut [u8]) -> Result<(), SourceError> {
        let end = extent.end();
        let file_len = self.index().files()[0].len;
        assert!(extent.offset.is_multiple_of(self.1), "a read that begins off the alignment");
        assert!(end.is_multiple_of(self.1) || end == file_len, "a read that ends off the alignment");
        assert!(!self.1.is_multiple_of(4096) || buf.as_ptr().addr().is_multiple_of(4096), "a buffer off the alignment");
        self.0.read_at(extent, buf)
    }
    fn alignment(&self) -> u64 {
        self.1
    }
}

fn memory(len: usize) -> (MemorySource, Vec<u8>) {
    let bytes = noise(3, len);
    (MemorySource::new(vec![("all".to_owned(), Encoding::U8, vec![len as u64], bytes.clone())]).unwrap(), bytes)
}

/// Units from lists of extents, with the parts' names.
fn map(source: &dyn WeightSource, units: &[Vec<Extent>]) -> (UnitMap, Vec<(PartId, Extent)>) {
    let mut builder = UnitMapBuilder::new(source.alignment());
    let mut parts = Vec::new();
    for unit in units {
        builder.begin_unit();
        parts.extend(unit.iter().map(|&extent| (builder.push(extent), extent)));
    }
    (builder.finish(source.index()).unwrap(), parts)
}

/// Cuts out of `len` bytes: some touch, some overlap, some are empty, in any order.
fn cuts(len: u64) -> impl Strategy<Value = Vec<Vec<Extent>>> {
    let cut = (0..=len, prop_oneof![Just(0), 1..64_u64, 1..20_000_u64, Just(4096)])
        .prop_map(move |(offset, wanted)| Extent { file: 0, offset, len: wanted.min(len - offset) });
    prop::collection::vec(prop::collection::vec(cut, 0..8), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_part_has_its_bytes(
        (len, units) in (1..60_000_u64).prop_flat_map(|len| (Just(len), cuts(len))),
        alignment in prop_oneof![Just(1_u64), Just(3), Just(512), Just(4096), Just(16_384)],
    ) {
        let (source, bytes) = memory(len as usize);
        let source = Aligned(source, alignment);
        let (map, parts) = map(&source, &units);
        prop_assert_eq!(map.len(), units.len());
        for (unit, extents) in map.units().zip(&units) {
            let buffer = map.load(unit, &source, &|| false).unwrap();
            for &(part, extent) in parts.iter().filter(|(part, _)| part.unit == unit) {
                let expected = &bytes[extent.offset as usize..extent.end() as usize];
                prop_assert!(&buffer[map.locate(part)] == expected, "{:?} at {:?}", part, extent);
            }
            prop_assert_eq!(map.payload_bytes(unit), extents.iter().map(|extent| extent.len).sum::<u64>());
            prop_assert_eq!(map.buffer_bytes(unit), buffer.capacity_bytes());
            let runs = map.runs(unit);
            for pair in runs.windows(2) {
                let gap = pair[1].extent.offset.checked_sub(pair[0].extent.end());
                prop_assert!(gap.is_some_and(|gap| gap > 4096), "runs {:?} should have been one", pair);
                let before = pair[0].buffer_offset + pair[0].extent.len;
                prop_assert!(pair[1].buffer_offset >= before, "runs share memory: {:?}", pair);
                prop_assert_eq!(pair[1].buffer_offset % 4096, 0);
            }
        }
        prop_assert_eq!(map.total_buffer_bytes(), map.units().map(|unit| map.buffer_bytes(unit)).sum::<u64>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn every_reader_loads_what_the_file_holds(units in cuts(150_000)) {
        let directory = directory();
        let file = safetensors(&[tensor("t", 150_000)]);
        let path = write(&directory, "model.safetensors", &file);
        for kind in READERS {
            let checkpoint = Checkpoint::open_with(&path, kind).unwrap();
            let (map, parts) = map(&checkpoint, &units);
            for unit in map.units() {
                let buffer = map.load(unit, &checkpoint, &|| false).unwrap();
                for &(part, extent) in parts.iter().filter(|(part, _)| part.unit == unit) {
                    prop_assert!(buffer[map.locate(part)] == file[extent.offset as usize..extent.end() as usize]);
                }
            }
        }
    }
}

#[test]
fn tensors_that_touch_are_one_read() {
    let (source, _) = memory(100_000);
    let touching: Vec<Extent> = (0..10).map(|at| Extent { file: 0, offset: 500 + at * 700, len: 700 }).collect();
    let mut backwards = touching.clone();
    backwards.reverse();
    for extents in [touching, backwards] {
        let source = CountingSource::new(&source);
        let (map, _) = map(&source, &[extents]);
        map.load(UnitId(0), &source, &|| false).unwrap();
        assert_eq!((source.calls(), source.bytes()), (1, 7000));
    }
}

#[test]
fn parts_in_two_files_are_two_reads() {
    let directory = directory();
    let tensors = [tensor("a", 5000), tensor("b", 6000)];
    write(&directory, "1.safetensors", safetensors(&tensors[..1]));
    write(&directory, "2.safetensors", safetensors(&tensors[1..]));
    let index = shard_index(&[("a", "1.safetensors"), ("b", "2.safetensors")]);
    write(&directory, "model.safetensors.index.json", index);
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    let extents = tensors.each_ref().map(|tensor| checkpoint.index().get(&tensor.name).unwrap().extent);
    let (map, parts) = map(&checkpoint, &[extents.to_vec()]);
    assert_eq!(map.runs(UnitId(0)).len(), 2);
    let buffer = map.load(UnitId(0), &checkpoint, &|| false).unwrap();
    for ((part, _), tensor) in parts.iter().zip(&tensors) {
        assert_eq!(buffer[map.locate(*part)], tensor.bytes);
    }
}

#[test]
fn parts_outside_their_file_are_refused() {
    let (source, _) = memory(100);
    for extent in [
        Extent { file: 0, offset: 90, len: 11 },
        Extent { file: 0, offset: 101, len: 0 },
        Extent { file: 0, offset: u64::MAX, len: 2 },
        Extent { file: 1, offset: 0, len: 1 },
    ] {
        let mut builder = UnitMapBuilder::new(4096);
        builder.push(extent);
        let error = builder.finish(source.index()).expect_err("a part outside");
        assert_eq!(error.kind(), SourceErrorKind::OutOfRange);
    }
}

#[test]
fn loads_stop_when_told_to_and_report_what_failed() {
    let (source, _) = memory(9 << 20);
    let all = vec![vec![Extent { file: 0, offset: 0, len: 9 << 20 }]];
    let counting = CountingSource::new(&source);
    let (map, _) = map(&counting, &all);
    let asked = std::cell::Cell::new(0);
    let stop_at_second = || asked.replace(asked.get() + 1) == 1;
    let error = map.load(UnitId(0), &counting, &stop_at_second).expect_err("stopped");
    assert_eq!(error.kind(), SourceErrorKind::Cancelled);
    assert_eq!(counting.bytes(), 4 << 20, "it reads no more than 4 MiB before it asks again");

    let faulty = FaultySource::new(&source, [(2, SourceErrorKind::Transient)]);
    let error = map.load(UnitId(0), &faulty, &|| false).expect_err("made to fail");
    assert!(error.is_transient());
    assert!(map.load(UnitId(0), &faulty, &|| false).is_ok(), "the fault is over");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn buffers_used_again_hold_the_new_unit(units in cuts(60_000), alignment in prop_oneof![Just(1_u64), Just(4096)]) {
        let (source, bytes) = memory(60_000);
        let source = Aligned(source, alignment);
        let (map, parts) = map(&source, &units);
        let mut buffer = AlignedBuffer::zeroed(0);
        for unit in map.units().chain(map.units()) {
            map.load_into(unit, &source, &mut buffer, &|| false).unwrap();
            prop_assert_eq!(buffer.capacity_bytes(), map.buffer_bytes(unit));
            for &(part, extent) in parts.iter().filter(|(part, _)| part.unit == unit) {
                prop_assert!(buffer[map.locate(part)] == bytes[extent.offset as usize..extent.end() as usize]);
            }
            buffer.fill(0xEE);
        }
    }
}
