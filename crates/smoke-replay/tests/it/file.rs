//! What is written is read, and nothing else is.

use std::io::{self, Write};

use proptest::prelude::*;
use smoke_core::{ExpectedUse, UnitId, UnitInfo, UnitKind};
use smoke_replay::{Record, RecordError, Recorder, Trace, TraceError, TraceReader, TraceWriter};

const SHARED: UnitInfo = UnitInfo { bytes: 300, layer: None, kind: UnitKind::Shared };
const EXPERT: UnitInfo = UnitInfo { bytes: 5, layer: Some(2), kind: UnitKind::Expert };

fn small() -> Trace {
    let mut trace = Trace::new("né", vec![SHARED, EXPERT, EXPERT]);
    trace.push_step(&[UnitId(0)]);
    trace.push_hint(vec![ExpectedUse { unit: UnitId(2), distance: 200, probability: 0.75 }]);
    trace.push_step(&[UnitId(2), UnitId(1)]);
    trace.end_pass(7);
    trace
}

/// By hand, from the description of the format.
const SMALL: &[u8] = &[
    b'S', b'M', b'O', b'K', b'E', b'T', b'R', b'C', 1, // version
    3, b'n', 0xc3, 0xa9, // name
    3,    // units
    0xac, 2, 0, 0, // 300 bytes, no layer, shared
    5, 3, 1, // 5 bytes, layer 2, expert
    5, 3, 1, 4, 0, // a step of one unit, the one after −1
    5, // a hint of one use
    2, 0xc8, 1, // unit 2 where 1 would be 0; in 200 steps
    0xff, 0xbf, // 49151 + 1 of 65536
    8,    // a step of two units
    2,    // 2, where 1 would be 0
    3,    // 1, where 3 would be 0: −2
    30,   // the end of a pass over 7 tokens
    3,    // the end
];

fn written(trace: &Trace) -> Vec<u8> {
    trace.write(Vec::new()).unwrap()
}

fn read(bytes: &[u8]) -> Result<Trace, TraceError> {
    Trace::read(bytes, "my.trace")
}

#[test]
fn the_bytes_are_those_that_are_documented() {
    let bytes = written(&small());
    assert_eq!(&bytes[..SMALL.len()], SMALL);
    // FNV-1a over what precedes the last record, computed here.
    let fnv = SMALL[..SMALL.len() - 1].iter();
    let fnv = fnv.fold(0xcbf2_9ce4_8422_2325_u64, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(1_099_511_628_211));
    assert_eq!(bytes[SMALL.len()..], fnv.to_le_bytes());
    assert_eq!(read(&bytes).unwrap(), small());
}

#[test]
fn a_step_of_a_scan_takes_two_bytes() {
    let scan = |tokens| written(&smoke_replay::synthetic::dense(100, 1, tokens)).len();
    // A pass goes back to the first unit, which takes a byte more, and its end takes one.
    assert_eq!(scan(3) - scan(2), 100 * 2 + 2);
}

#[test]
fn wherever_it_is_cut_it_is_not_whole() {
    let bytes = written(&small());
    for cut in 0..bytes.len() {
        match read(&bytes[..cut]) {
            Ok(trace) => assert!(!trace.is_complete() && trace.accesses().len() <= 3, "{cut}"),
            Err(TraceError::NotATrace { .. }) => assert!(cut < 8),
            Err(TraceError::Truncated { at, .. }) => assert_eq!(at, cut as u64),
            Err(error) => panic!("{cut}: {error}"),
        }
    }
    let message = read(&bytes[..30]).unwrap_err().to_string();
    assert!(message.contains("my.trace") && message.contains("byte 30"), "{message}");
}

#[test]
fn whatever_bit_is_turned_it_is_not_whole() {
    let bytes = written(&small());
    for (at, bit) in (0..bytes.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1 << bit;
        if let Ok(trace) = read(&bytes) {
            assert!(!trace.is_complete(), "byte {at}, bit {bit}");
        }
    }
}

/// The small trace's header, and then these bytes.
fn after_header(records: &[u8]) -> Result<Trace, TraceError> {
    read(&[&SMALL[..24], records].concat())
}

#[test]
fn what_cannot_be_is_refused() {
    let header = |bytes: &[u8]| read(&[b"SMOKETRC", bytes].concat());
    let overlong = [0xff; 9];
    for (result, part) in [
        (header(&[2]), "version 2"),
        (header(&[1, 0x81, 0x20]), "4097 bytes"),
        (header(&[1, 1, 0xff]), "UTF-8"),
        (header(&[1, 0, 0xff, 0xff, 0xff, 0xff, 0x7f]), "so many"),
        (header(&[1, 0, 1, 1, 0, 7]), "kind 7"),
        (header(&[&[1, 0, 1, 1][..], &[0x82, 0x80, 0x80, 0x80, 0x10, 0]].concat()), "of layer 4294967297"),
        (header(&[&[1, 0, 2][..], &overlong, &[1, 0, 0, 1, 0, 0]].concat()), "than can be counted"),
        (header(&[&[1, 0, 1][..], &overlong, &[2]].concat()), "64 bits"),
        (header(&[1, 0, 0xff, 0xff, 0xff, 0x7f]), "cut"),
        (after_header(&[0]), "kind 0 has 0"),
        (after_header(&[4, 6]), "not among the 3"),
        (after_header(&[4, 1]), "not among the 3"),
        (after_header(&[&[4][..], &overlong, &[1]].concat()), "not among the 3"),
        (after_header(&[0x84, 0x80, 0x10]), "kind 0 has 65537"),
        (after_header(&[5, 0, 0, 0, 0]), "0 steps"),
        (after_header(&[7]), "kind 3 has 1"),
        (after_header(&[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 1]), "tokens"),
        (after_header(&[3, 0, 0, 0, 0, 0, 0, 0, 0]), "checksum"),
        (read(&[&written(&small())[..], &[0]].concat()), "follows"),
        (read(b"GGUF and more"), "not a trace"),
        (read(b""), "not a trace"),
    ] {
        let message = result.map(|trace| format!("{trace:?}")).unwrap_err().to_string();
        assert!(message.contains(part) && message.contains("my.trace"), "no `{part}` in: {message}");
    }
    // Uses of 2^63 bytes, twice.
    let unit = UnitInfo { bytes: 1 << 63, ..SHARED };
    let mut bytes = Vec::new();
    let mut writer = TraceWriter::new(&mut bytes, "", &[unit]).unwrap();
    (0..2).for_each(|_| writer.step(&[UnitId(0)]).unwrap());
    writer.finish().unwrap();
    assert!(read(&bytes).unwrap_err().to_string().contains("counted"));
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("absent.trace");
    let error = Trace::open(&path).unwrap_err();
    assert!(error.to_string().contains("absent.trace"));
    std::fs::write(&path, written(&small())).unwrap();
    assert_eq!(Trace::open(&path).unwrap(), small());
    assert!(Trace::open(folder.path()).unwrap_err().to_string().contains("read"));
}

/// An output that shares what it got, and fails after some bytes.
#[derive(Clone)]
struct Disk(std::rc::Rc<std::cell::RefCell<Vec<u8>>>, usize);

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut disk = self.0.borrow_mut();
        let room = bytes.len().min(self.1 - disk.len());
        if room == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        disk.extend(&bytes[..room]);
        Ok(room)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_recording_that_goes_on_can_be_read() {
    let disk = Disk(Default::default(), usize::MAX);
    let on_disk = || read(&disk.0.borrow()).unwrap();
    let mut writer = TraceWriter::new(disk.clone(), "", &[SHARED; 2]).unwrap();
    assert_eq!(on_disk().accesses().len(), 0);
    writer.step(&[UnitId(1)]).unwrap();
    writer.flush().unwrap();
    assert_eq!(on_disk().accesses(), [UnitId(1)]);
    // Without being told it writes whole records.
    for _ in 0..100_000 {
        writer.step(&[UnitId(0), UnitId(1), UnitId(0)]).unwrap();
    }
    let trace = on_disk();
    assert!(!trace.is_complete() && trace.accesses().len() > 200_000, "{}", trace.accesses().len());
    drop(writer);
    assert_eq!(on_disk().accesses().len(), 300_001);
    assert!(!on_disk().is_complete());
}

#[test]
fn a_full_disk_is_an_error_and_leaves_what_was_written() {
    let disk = Disk(Default::default(), 1000);
    let mut writer = TraceWriter::new(disk.clone(), "", &[SHARED; 2]).unwrap();
    let failed = (0..1_000_000).find_map(|_| writer.step(&[UnitId(0)]).err()).unwrap();
    assert!(matches!(&failed, RecordError::Write(error) if error.kind() == io::ErrorKind::StorageFull), "{failed:?}");
    assert!(writer.step(&[UnitId(0)]).is_err() && writer.end_pass(1).is_err() && writer.finish().is_err());
    assert_eq!(disk.0.borrow().len(), 1000);
}

#[test]
fn senseless_records_are_refused_and_leave_no_trace() {
    let mut writer = TraceWriter::new(Vec::new(), "", &[SHARED; 2]).unwrap();
    let hint = |unit, distance, probability| [ExpectedUse { unit: UnitId(unit), distance, probability }];
    assert!(matches!(writer.step(&[]), Err(RecordError::Count { count: 0 })));
    assert!(matches!(writer.step(&[UnitId(0); 65_537]), Err(RecordError::Count { count: 65_537 })));
    assert!(matches!(writer.step(&[UnitId(0), UnitId(2)]), Err(RecordError::UnknownUnit { units: 2, .. })));
    assert!(matches!(writer.hint(&hint(2, 1, 0.5)), Err(RecordError::UnknownUnit { .. })));
    for (distance, probability) in [(0, 0.5), (1, 0.0), (1, -1.0), (1, 1.5), (1, f32::NAN)] {
        assert!(matches!(writer.hint(&hint(1, distance, probability)), Err(RecordError::NoExpectation(_))));
    }
    assert_eq!(read(&writer.finish().unwrap()).unwrap(), Trace::new("", vec![SHARED; 2]));
    let long = "x".repeat(4097);
    assert!(matches!(TraceWriter::new(Vec::new(), &long, &[]), Err(RecordError::LongName { bytes: 4097 })));
}

fn traces() -> impl Strategy<Value = Trace> {
    let unit = (0..1_u64 << 40, prop::option::of(any::<u32>()), any::<bool>()).prop_map(|(bytes, layer, is_expert)| {
        UnitInfo { bytes, layer, kind: if is_expert { UnitKind::Expert } else { UnitKind::Shared } }
    });
    (".{0,9}", prop::collection::vec(unit, 1..9)).prop_flat_map(|(model, units)| {
        let count = units.len() as u32;
        let step = prop::collection::vec((0..count).prop_map(UnitId), 1..5).prop_map(Record::Step);
        let expected = (0..count, 1..=u64::MAX, 1..=65_536_u32).prop_map(|(unit, distance, code)| ExpectedUse {
            unit: UnitId(unit),
            distance,
            probability: code as f32 / 65_536.0,
        });
        let hint = prop::collection::vec(expected, 0..4).prop_map(Record::Hint);
        let pass = any::<u32>().prop_map(|tokens| Record::EndOfPass { tokens });
        let records = prop::collection::vec(prop_oneof![3 => step, 1 => hint, 1 => pass], 0..30);
        records.prop_map(move |records| {
            let mut trace = Trace::new(model.clone(), units.clone());
            for record in records {
                match record {
                    Record::Step(units) => trace.push_step(&units),
                    Record::Hint(expected) => trace.push_hint(expected),
                    Record::EndOfPass { tokens } => trace.end_pass(tokens),
                    other => panic!("{other:?}"),
                }
            }
            trace
        })
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(trace in traces()) {
        prop_assert_eq!(read(&written(&trace)).unwrap(), trace);
    }

    #[test]
    fn no_bytes_are_too_strange(records in prop::collection::vec(any::<u8>(), 0..200), keep in 0..=SMALL.len()) {
        let bytes = [&SMALL[..keep], &records].concat();
        if let Ok(reader) = TraceReader::new(&bytes[..], "noise") {
            // Ends, and after an error stays ended.
            let results: Vec<_> = reader.collect();
            prop_assert!(results.len() <= bytes.len());
            prop_assert!(results.iter().rev().skip(1).all(Result::is_ok));
        }
        let _ = read(&bytes);
    }
}

#[test]
fn a_recorder_keeps_the_first_error_for_the_end() {
    let recorder = Recorder::new(TraceWriter::new(Vec::new(), "", &[SHARED; 2]).unwrap());
    let other = recorder.clone();
    recorder.step(&[UnitId(1)]);
    let expected = ExpectedUse { unit: UnitId(0), distance: 1, probability: 1.0 };
    recorder.hint(&[expected, ExpectedUse { probability: 0.0, ..expected }, ExpectedUse { distance: 0, ..expected }]);
    other.end_pass(3);
    let trace = read(&recorder.finish().unwrap().unwrap()).unwrap();
    assert_eq!((trace.accesses(), trace.tokens()), (&[UnitId(1)][..], 3));
    assert_eq!(trace.hints().collect::<Vec<_>>(), [(1, &[expected][..])]);
    other.step(&[UnitId(1)]);
    assert!(other.finish().unwrap().is_none());

    let recorder = Recorder::new(TraceWriter::new(Vec::new(), "", &[SHARED; 2]).unwrap());
    recorder.step(&[UnitId(2)]);
    recorder.step(&[UnitId(0)]);
    assert!(matches!(recorder.finish(), Err(RecordError::UnknownUnit { unit: UnitId(2), units: 2 })));
}
