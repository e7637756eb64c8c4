//! Traces: what is accepted keeps its promises, is written again as it was, and is not whole where it was cut.
#![no_main]

use std::io::{self, Read};

use libfuzzer_sys::fuzz_target;
use smoke_replay::{Trace, TraceReader};

/// Gives one byte at a time.
struct Drops<'a>(&'a [u8]);

impl Read for Drops<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let one = buffer.len().min(1);
        self.0.read(&mut buffer[..one])
    }
}

fuzz_target!(|file: &[u8]| {
    if let Ok(reader) = TraceReader::new(file, "fuzz") {
        let mut records = reader.peekable();
        // An error is the last of all.
        while let Some(record) = records.next() {
            assert!(record.is_ok() || records.peek().is_none());
        }
    }
    let read = Trace::read(file, "fuzz");
    assert_eq!(
        format!("{read:?}"),
        format!("{:?}", Trace::read(Drops(file), "fuzz")),
        "it depends on how bytes arrive"
    );
    let Ok(trace) = read else { return };

    assert!(trace.units().len() <= file.len() && trace.accesses().len() <= file.len(), "more than there are bytes");
    assert_eq!(trace.steps().map(<[_]>::len).sum::<usize>(), trace.accesses().len());
    let sum = trace.accesses().iter().map(|unit| trace.units()[unit.index()].bytes).sum::<u64>();
    assert_eq!(trace.accessed_bytes(), sum);
    assert!(trace.largest_step_bytes() <= trace.total_bytes());
    assert!(trace.cliff_bytes().is_none_or(|bytes| bytes <= trace.total_bytes()));
    for (step, expected) in trace.hints() {
        assert!(step <= trace.steps().len());
        assert!(expected.iter().all(|use_| use_.distance > 0 && use_.probability > 0.0 && use_.probability <= 1.0));
    }

    let written = trace.write(Vec::new()).expect("memory takes everything");
    let again = Trace::read(&written[..], "fuzz").expect("what was written is read");
    assert!(again.is_complete());
    assert_eq!(
        format!("{:?}{:?}", again.accesses(), again.tokens()),
        format!("{:?}{:?}", trace.accesses(), trace.tokens())
    );
    if trace.is_complete() {
        assert_eq!(again, trace);
        let cut = Trace::read(&file[..file.len() - 1], "fuzz");
        assert!(!cut.is_ok_and(|cut| cut.is_complete()), "a trace that was cut is whole");
    }
});
