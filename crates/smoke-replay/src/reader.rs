use std::io::{self, Read};

use smoke_core::{ExpectedUse, UnitId, UnitInfo, UnitKind};

use crate::format::{self, Checksum};

/// Reads a trace record by record, in memory that grows with the number of units only.
///
/// Nothing in the file is believed before it is compared with what was read: memory is taken as bytes arrive, and every
/// unit, distance and length is checked. It is an iterator of [`Record`]s that ends after an error.
#[derive(Debug)]
pub struct TraceReader<R> {
    input: Input<R>,
    model: String,
    units: Vec<UnitInfo>,
    previous: i64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Reading,
    Complete,
    /// The input ended between records, or failed.
    Cut,
}

/// What a trace tells, in order.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Record {
    /// These units are used together.
    Step(Vec<UnitId>),
    /// These uses are expected after the latest step.
    Hint(Vec<ExpectedUse>),
    /// The steps since the end of the pass before computed so many tokens.
    EndOfPass {
        /// How many.
        tokens: u32,
    },
}

/// Why a trace cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The file cannot be opened or read.
    #[error("{name} cannot be read")]
    Io {
        /// The trace, as the caller calls it.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The file is something else.
    #[error("{name} is not a trace: it does not begin with SMOKETRC. `smoke trace record` writes one")]
    NotATrace {
        /// The trace, as the caller calls it.
        name: String,
    },
    /// The trace was written by a later version.
    #[error(
        "{name} is a trace of version {version}, and this program reads version 1: use a newer one, or record again"
    )]
    Version {
        /// The trace, as the caller calls it.
        name: String,
        /// Its version.
        version: u64,
    },
    /// The trace ends too early.
    #[error("{name} was cut: it ends within {what} at byte {at}. Copy or record it again")]
    Truncated {
        /// The trace, as the caller calls it.
        name: String,
        /// Where it ends.
        at: u64,
        /// What it ends within.
        what: &'static str,
    },
    /// What is written cannot be.
    #[error("{name} is damaged at byte {at}: {what}. Copy or record it again")]
    Corrupt {
        /// The trace, as the caller calls it.
        name: String,
        /// Where.
        at: u64,
        /// What is wrong.
        what: String,
    },
}

impl<R: Read> TraceReader<R> {
    /// Reads the header. `name` is what errors call the trace: its path, if it has one. `input` is read in small pieces,
    /// so that a file should come with a buffer.
    ///
    /// # Errors
    /// [`TraceError`] if the input is no trace, or is cut, damaged or cannot be read.
    pub fn new(input: R, name: impl Into<String>) -> Result<Self, TraceError> {
        let mut input = Input { input, name: name.into(), at: 0, checksum: Checksum::new() };
        let mut magic = [0; 8];
        let read = input.read_up_to(&mut magic)?;
        if read < magic.len() || magic != *format::MAGIC {
            return Err(TraceError::NotATrace { name: input.name });
        }
        let version = input.varint("its header")?;
        if version != format::VERSION {
            return Err(TraceError::Version { name: input.name, version });
        }
        let len = input.varint("its header")?;
        if len > format::LONGEST_NAME {
            return Err(input.corrupt(format!("the model's name has {len} bytes, of which 4096 are allowed")));
        }
        let mut model = vec![0; len as usize];
        input.fill(&mut model, "its header")?;
        let model = String::from_utf8(model).map_err(|_| input.corrupt("the model's name is not UTF-8"))?;
        let count = input.varint("its header")?;
        if count > u64::from(u32::MAX) {
            return Err(input.corrupt(format!("it lists {count} units, of which no model has so many")));
        }
        let (mut units, mut total_bytes) = (Vec::new(), 0_u64);
        for number in 0..count {
            let unit = input.unit(number)?;
            let sum = total_bytes.checked_add(unit.bytes);
            total_bytes = sum.ok_or_else(|| input.corrupt("its units have more bytes than can be counted"))?;
            units.push(unit);
        }
        Ok(Self { input, model, units, previous: -1, state: State::Reading })
    }

    /// The model's name.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// All units, by number.
    pub fn units(&self) -> &[UnitInfo] {
        &self.units
    }

    /// Whether the mark of the end was read, and the checksum was right. A trace that was still being written has none.
    pub fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// That what was read last cannot be.
    pub(crate) fn corrupt(&self, what: impl Into<String>) -> TraceError {
        self.input.corrupt(what)
    }

    fn record(&mut self) -> Result<Option<Record>, TraceError> {
        let before = self.input.checksum;
        let Some(head) = self.input.varint_or_end("a record")? else {
            self.state = State::Cut;
            return Ok(None);
        };
        let (count, kind) = (head >> 2, head & 3);
        let most = format::LONGEST_RECORD as u64;
        match kind {
            format::STEP if (1..=most).contains(&count) => self.step(count).map(Some),
            format::HINT if count <= most => self.hint(count).map(Some),
            format::PASS => match u32::try_from(count) {
                Ok(tokens) => Ok(Some(Record::EndOfPass { tokens })),
                Err(_) => Err(self.corrupt(format!("a pass computes {count} tokens"))),
            },
            format::END if count == 0 => self.end(before).map(|()| None),
            _ => Err(self.corrupt(format!("a record of kind {kind} has {count} entries"))),
        }
    }

    fn step(&mut self, count: u64) -> Result<Record, TraceError> {
        let mut units = Vec::new();
        for _ in 0..count {
            let unit = self.unit_after(self.previous, "a step")?;
            self.previous = i64::from(unit.0);
            units.push(unit);
        }
        Ok(Record::Step(units))
    }

    fn hint(&mut self, count: u64) -> Result<Record, TraceError> {
        let mut hint = Vec::new();
        let mut previous = self.previous;
        for _ in 0..count {
            let unit = self.unit_after(previous, "a hint")?;
            previous = i64::from(unit.0);
            let distance = self.input.varint("a hint")?;
            if distance == 0 {
                return Err(self.corrupt("a use is expected in 0 steps"));
            }
            let mut code = [0; 2];
            self.input.fill(&mut code, "a hint")?;
            hint.push(ExpectedUse { unit, distance, probability: format::probability(u16::from_le_bytes(code)) });
        }
        Ok(Record::Hint(hint))
    }

    fn unit_after(&mut self, previous: i64, what: &'static str) -> Result<UnitId, TraceError> {
        let difference = format::unzigzag(self.input.varint(what)?);
        let number = difference.checked_add(previous + 1).and_then(|number| u32::try_from(number).ok());
        match number.map(UnitId).filter(|unit| unit.index() < self.units.len()) {
            Some(unit) => Ok(unit),
            None => Err(self.corrupt(format!("{what} names a unit that is not among the {} listed", self.units.len()))),
        }
    }

    /// `before` is the checksum of what precedes the last record.
    fn end(&mut self, before: Checksum) -> Result<(), TraceError> {
        let mut stored = [0; 8];
        self.input.fill(&mut stored, "its last record")?;
        if u64::from_le_bytes(stored) != before.0 {
            return Err(self.corrupt("the checksum does not fit what was read"));
        }
        if self.input.read_up_to(&mut [0])? > 0 {
            return Err(self.corrupt("something follows its last record"));
        }
        self.state = State::Complete;
        Ok(())
    }
}

impl<R: Read> Iterator for TraceReader<R> {
    type Item = Result<Record, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.state != State::Reading {
            return None;
        }
        let record = self.record();
        if record.is_err() {
            self.state = State::Cut;
        }
        record.transpose()
    }
}

/// The input, where it stands, and the checksum so far.
#[derive(Debug)]
struct Input<R> {
    input: R,
    name: String,
    at: u64,
    checksum: Checksum,
}

impl<R: Read> Input<R> {
    fn corrupt(&self, what: impl Into<String>) -> TraceError {
        TraceError::Corrupt { name: self.name.clone(), at: self.at, what: what.into() }
    }

    /// Fills the buffer as far as the input goes, and says how far.
    fn read_up_to(&mut self, buffer: &mut [u8]) -> Result<usize, TraceError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.input.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(TraceError::Io { name: self.name.clone(), source }),
            }
        }
        self.at += filled as u64;
        self.checksum.add(&buffer[..filled]);
        Ok(filled)
    }

    fn fill(&mut self, buffer: &mut [u8], what: &'static str) -> Result<(), TraceError> {
        if self.read_up_to(buffer)? == buffer.len() {
            return Ok(());
        }
        Err(TraceError::Truncated { name: self.name.clone(), at: self.at, what })
    }

    fn varint(&mut self, what: &'static str) -> Result<u64, TraceError> {
        let at_end = |input: &Self| TraceError::Truncated { name: input.name.clone(), at: input.at, what };
        self.varint_or_end(what)?.ok_or_else(|| at_end(self))
    }

    /// A varint, or nothing where the input ends before it.
    fn varint_or_end(&mut self, what: &'static str) -> Result<Option<u64>, TraceError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            if shift == 0 {
                if self.read_up_to(&mut byte)? == 0 {
                    return Ok(None);
                }
            } else {
                self.fill(&mut byte, what)?;
            }
            let bits = u64::from(byte[0] & 0x7f);
            // Of the tenth byte there is room for one bit.
            if shift == 63 && byte[0] > 1 {
                break;
            }
            value |= bits << shift;
            if byte[0] < 0x80 {
                return Ok(Some(value));
            }
        }
        Err(self.corrupt("a number has more than 64 bits"))
    }

    fn unit(&mut self, number: u64) -> Result<UnitInfo, TraceError> {
        let bytes = self.varint("its header")?;
        let layer = match self.varint("its header")? {
            0 => None,
            layer => match u32::try_from(layer - 1) {
                Ok(layer) => Some(layer),
                Err(_) => return Err(self.corrupt(format!("unit {number} is of layer {}", layer - 1))),
            },
        };
        let mut kind = [0];
        self.fill(&mut kind, "its header")?;
        let kind = match kind[0] {
            0 => UnitKind::Shared,
            1 => UnitKind::Expert,
            other => return Err(self.corrupt(format!("unit {number} is of the unknown kind {other}"))),
        };
        Ok(UnitInfo { bytes, layer, kind })
    }
}
