use std::io::{self, Write};

use smoke_core::{ExpectedUse, UnitId, UnitInfo};

use crate::format::{self, Checksum, put_varint, zigzag};

/// Writes a trace while it happens.
///
/// Whole records go out, in pieces of about 64 KiB and on [`flush`](Self::flush), so that a program that is killed leaves
/// a trace that can be read up to there; a step of a scan takes two bytes. Dropping it flushes, but only
/// [`finish`](Self::finish) writes the mark that tells a whole trace from one that was cut.
///
/// ```
/// use smoke_core::{UnitId, UnitInfo, UnitKind};
/// use smoke_replay::{Trace, TraceWriter};
///
/// let unit = UnitInfo { bytes: 1000, layer: Some(0), kind: UnitKind::Shared };
/// let mut writer = TraceWriter::new(Vec::new(), "a model", &[unit; 3])?;
/// for _token in 0..2 {
///     (0..3).try_for_each(|unit| writer.step(&[UnitId(unit)]))?;
///     writer.end_pass(1)?;
/// }
/// let bytes = writer.finish()?;
/// let trace = Trace::read(&bytes[..], "in memory")?;
/// assert_eq!((trace.accesses().len(), trace.tokens()), (6, 2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct TraceWriter<W: Write> {
    /// `None` once it was finished.
    out: Option<W>,
    units: usize,
    buffer: Vec<u8>,
    checksum: Checksum,
    previous: i64,
    /// A write failed, and may have left half a record: nothing can follow.
    is_broken: bool,
}

/// Why a record was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The header does not list the unit.
    #[error("{unit} is not among the {units} units of the trace's header")]
    UnknownUnit {
        /// The unit.
        unit: UnitId,
        /// How many there are.
        units: usize,
    },
    /// A step uses nothing, or a record has too much.
    #[error("a record of {count} units cannot be written: a step has 1 to 65536, a hint no more")]
    Count {
        /// How many units.
        count: usize,
    },
    /// A hint that is none.
    #[error("{0:?} is no expectation: its distance is 0, or its probability not in (0, 1]")]
    NoExpectation(ExpectedUse),
    /// The name of the model is too long.
    #[error("the model's name has {bytes} bytes, of which a trace takes up to 4096")]
    LongName {
        /// Its length.
        bytes: usize,
    },
    /// The output failed; the trace ends with what was written before.
    #[error("the trace cannot be written")]
    Write(#[from] io::Error),
}

const PIECE_BYTES: usize = 64 << 10;

impl<W: Write> TraceWriter<W> {
    /// Begins a trace of a model with these units, listed by number.
    ///
    /// # Errors
    /// [`RecordError`] if the name is too long, or `out` fails.
    pub fn new(out: W, model: &str, units: &[UnitInfo]) -> Result<Self, RecordError> {
        if model.len() as u64 > format::LONGEST_NAME {
            return Err(RecordError::LongName { bytes: model.len() });
        }
        let mut buffer = format::MAGIC.to_vec();
        put_varint(&mut buffer, format::VERSION);
        put_varint(&mut buffer, model.len() as u64);
        buffer.extend(model.as_bytes());
        put_varint(&mut buffer, units.len() as u64);
        for unit in units {
            put_varint(&mut buffer, unit.bytes);
            put_varint(&mut buffer, unit.layer.map_or(0, |layer| u64::from(layer) + 1));
            buffer.push(format::kind_code(unit.kind));
        }
        let (checksum, out) = (Checksum::new(), Some(out));
        let mut writer = Self { out, units: units.len(), buffer, checksum, previous: -1, is_broken: false };
        writer.flush()?;
        Ok(writer)
    }

    /// These units are used together, in this order.
    ///
    /// # Errors
    /// [`RecordError`] if they cannot be written; then none of them is.
    pub fn step(&mut self, units: &[UnitId]) -> Result<(), RecordError> {
        if units.is_empty() || units.len() > format::LONGEST_RECORD {
            return Err(RecordError::Count { count: units.len() });
        }
        units.iter().try_for_each(|&unit| self.check(unit))?;
        put_varint(&mut self.buffer, (units.len() as u64) << 2 | format::STEP);
        for unit in units {
            put_varint(&mut self.buffer, zigzag(i64::from(unit.0) - self.previous - 1));
            self.previous = i64::from(unit.0);
        }
        self.end_record()
    }

    /// Somebody expects these uses after the latest step.
    ///
    /// # Errors
    /// [`RecordError`] if they cannot be written; then none of them is.
    pub fn hint(&mut self, expected: &[ExpectedUse]) -> Result<(), RecordError> {
        if expected.len() > format::LONGEST_RECORD {
            return Err(RecordError::Count { count: expected.len() });
        }
        for expected in expected {
            self.check(expected.unit)?;
            if expected.distance == 0 || !(expected.probability > 0.0 && expected.probability <= 1.0) {
                return Err(RecordError::NoExpectation(*expected));
            }
        }
        put_varint(&mut self.buffer, (expected.len() as u64) << 2 | format::HINT);
        let mut previous = self.previous;
        for expected in expected {
            put_varint(&mut self.buffer, zigzag(i64::from(expected.unit.0) - previous - 1));
            previous = i64::from(expected.unit.0);
            put_varint(&mut self.buffer, expected.distance);
            self.buffer.extend(format::probability_code(expected.probability).to_le_bytes());
        }
        self.end_record()
    }

    /// The steps since the end of the pass before computed so many tokens.
    ///
    /// # Errors
    /// [`RecordError::Write`] if the output fails.
    pub fn end_pass(&mut self, tokens: u32) -> Result<(), RecordError> {
        put_varint(&mut self.buffer, u64::from(tokens) << 2 | format::PASS);
        self.end_record()
    }

    /// Hands everything to the output.
    ///
    /// # Errors
    /// [`RecordError::Write`] if the output fails, now or before.
    pub fn flush(&mut self) -> Result<(), RecordError> {
        if self.is_broken {
            return Err(io::Error::other("an earlier write failed").into());
        }
        let Some(out) = &mut self.out else { return Ok(()) };
        self.checksum.add(&self.buffer);
        let written = out.write_all(&self.buffer).and_then(|()| out.flush());
        self.buffer.clear();
        self.is_broken = written.is_err();
        Ok(written?)
    }

    /// Marks the end, and returns the output.
    ///
    /// # Errors
    /// [`RecordError::Write`] if the output fails, now or before.
    pub fn finish(mut self) -> Result<W, RecordError> {
        self.flush()?;
        put_varint(&mut self.buffer, format::END);
        let checksum = self.checksum.0.to_le_bytes();
        self.buffer.extend(checksum);
        self.flush()?;
        Ok(self.out.take().expect("it is taken only here"))
    }

    fn check(&self, unit: UnitId) -> Result<(), RecordError> {
        let units = self.units;
        if unit.index() < units { Ok(()) } else { Err(RecordError::UnknownUnit { unit, units }) }
    }

    fn end_record(&mut self) -> Result<(), RecordError> {
        if self.buffer.len() < PIECE_BYTES && !self.is_broken { Ok(()) } else { self.flush() }
    }
}

impl<W: Write> Drop for TraceWriter<W> {
    fn drop(&mut self) {
        // Whoever wants to know whether it works finishes.
        let _ = self.flush();
    }
}
