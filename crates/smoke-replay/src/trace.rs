use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use smoke_core::{ExpectedUse, UnitId, UnitInfo};

use crate::reader::{Record, TraceError, TraceReader};
use crate::writer::{RecordError, TraceWriter};

/// A recording of which units a model used, in memory.
///
/// Takes some 20 bytes for each step and 16 for each expected use.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    model: String,
    units: Vec<UnitInfo>,
    accesses: Vec<UnitId>,
    /// For each step, how many accesses it and those before it have.
    step_ends: Vec<usize>,
    hints: Vec<Hint>,
    passes: Vec<Pass>,
    accessed_bytes: u64,
    is_complete: bool,
}

/// What is expected once some steps are done.
#[derive(Clone, Debug, PartialEq)]
struct Hint {
    step: usize,
    expected: Vec<ExpectedUse>,
}

/// The steps up to here, since the pass before, computed some tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pass {
    end_step: usize,
    tokens: u32,
}

impl Trace {
    /// A trace of a model with these units, in which nothing has happened yet.
    ///
    /// # Panics
    /// If the bytes of all units are more than 64 bits can count.
    pub fn new(model: impl Into<String>, units: Vec<UnitInfo>) -> Self {
        let sum = units.iter().try_fold(0_u64, |sum, unit| sum.checked_add(unit.bytes));
        assert!(sum.is_some(), "the bytes of all units are counted in 64 bits");
        Self { model: model.into(), units, is_complete: true, ..Self::default() }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`TraceError`] if it is no trace, or is cut, damaged or cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, TraceError> {
        let name = path.as_ref().display().to_string();
        match File::open(path) {
            Ok(file) => Self::read(BufReader::new(file), name),
            Err(source) => Err(TraceError::Io { name, source }),
        }
    }

    /// Reads everything; `name` is what errors call the trace.
    ///
    /// # Errors
    /// [`TraceError`] if it is no trace, or is cut, damaged or cannot be read.
    pub fn read(input: impl Read, name: impl Into<String>) -> Result<Self, TraceError> {
        let mut reader = TraceReader::new(input, name)?;
        let mut trace = Self::new(reader.model(), reader.units().to_vec());
        while let Some(record) = reader.next() {
            match record? {
                Record::Step(units) => {
                    if !trace.can_count(&units) {
                        return Err(reader.corrupt("more bytes are used than can be counted"));
                    }
                    trace.push_step(&units);
                }
                Record::Hint(expected) => trace.push_hint(expected),
                Record::EndOfPass { tokens } => trace.end_pass(tokens),
            }
        }
        trace.is_complete = reader.is_complete();
        Ok(trace)
    }

    /// Writes everything, with the mark of the end.
    ///
    /// # Errors
    /// [`RecordError`] if the output fails, or the model's name or a step is too long.
    pub fn write<W: Write>(&self, out: W) -> Result<W, RecordError> {
        let mut writer = TraceWriter::new(out, &self.model, &self.units)?;
        let (mut hints, mut passes) = (self.hints.iter().peekable(), self.passes.iter().peekable());
        for step in 0..=self.step_ends.len() {
            // What stood at the same place has no order among each other that matters.
            while let Some(pass) = passes.next_if(|pass| pass.end_step == step) {
                writer.end_pass(pass.tokens)?;
            }
            while let Some(hint) = hints.next_if(|hint| hint.step == step) {
                writer.hint(&hint.expected)?;
            }
            if step < self.step_ends.len() {
                writer.step(self.step(step))?;
            }
        }
        writer.finish()
    }

    fn can_count(&self, units: &[UnitId]) -> bool {
        let mut bytes = units.iter().map(|unit| self.units[unit.index()].bytes);
        bytes.try_fold(self.accessed_bytes, u64::checked_add).is_some()
    }

    /// Adds a step that uses these units together.
    ///
    /// # Panics
    /// If there are none, the trace has no such units, or the bytes of all uses are more than 64 bits can count.
    pub fn push_step(&mut self, units: &[UnitId]) {
        assert!(!units.is_empty(), "a step uses something");
        assert!(self.can_count(units), "the bytes of all uses are counted in 64 bits");
        self.accessed_bytes += units.iter().map(|unit| self.units[unit.index()].bytes).sum::<u64>();
        self.accesses.extend(units);
        self.step_ends.push(self.accesses.len());
    }

    /// Adds what is expected after the latest step.
    pub fn push_hint(&mut self, expected: Vec<ExpectedUse>) {
        self.hints.push(Hint { step: self.step_ends.len(), expected });
    }

    /// The steps since the end of the pass before computed so many tokens.
    pub fn end_pass(&mut self, tokens: u32) {
        self.passes.push(Pass { end_step: self.step_ends.len(), tokens });
    }

    /// The model's name.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// All units, by number.
    pub fn units(&self) -> &[UnitInfo] {
        &self.units
    }

    /// The sizes of all units, by number.
    pub fn unit_bytes(&self) -> Vec<u64> {
        self.units.iter().map(|unit| unit.bytes).collect()
    }

    /// The bytes of all units.
    pub fn total_bytes(&self) -> u64 {
        self.units.iter().map(|unit| unit.bytes).sum()
    }

    /// The bytes of all uses.
    pub fn accessed_bytes(&self) -> u64 {
        self.accessed_bytes
    }

    /// Every use of every unit, in order.
    pub fn accesses(&self) -> &[UnitId] {
        &self.accesses
    }

    fn step(&self, step: usize) -> &[UnitId] {
        let start = if step == 0 { 0 } else { self.step_ends[step - 1] };
        &self.accesses[start..self.step_ends[step]]
    }

    /// The units that are used together, step by step.
    pub fn steps(&self) -> impl ExactSizeIterator<Item = &[UnitId]> {
        (0..self.step_ends.len()).map(|step| self.step(step))
    }

    /// Every hint with the number of steps that were done before it.
    pub fn hints(&self) -> impl ExactSizeIterator<Item = (usize, &[ExpectedUse])> {
        self.hints.iter().map(|hint| (hint.step, &*hint.expected))
    }

    /// The uses of each pass that ended. What follows the last of them is not among them.
    pub fn passes(&self) -> impl ExactSizeIterator<Item = &[UnitId]> {
        let access = |end_step: usize| if end_step == 0 { 0 } else { self.step_ends[end_step - 1] };
        let mut start = 0;
        self.passes.iter().map(move |pass| {
            let end = access(pass.end_step);
            &self.accesses[std::mem::replace(&mut start, end)..end]
        })
    }

    /// How many tokens all passes that ended computed.
    pub fn tokens(&self) -> u64 {
        self.passes.iter().map(|pass| u64::from(pass.tokens)).sum()
    }

    /// The least memory in which least-recently-used eviction hits anything; `None` if no unit is used twice.
    ///
    /// A unit is still there at its next use only if it fits beside what all steps in between use, and it is the least of
    /// these sums. For a model that uses each unit once per token that is about one token's bytes: the cliff.
    pub fn cliff_bytes(&self) -> Option<u64> {
        let mut last_step = vec![None; self.units.len()];
        // The bytes of all steps before, by step.
        let mut sums = vec![0];
        let (mut latest_start, mut cliff) = (None, None);
        for (step, units) in self.steps().enumerate() {
            let latest_before = latest_start;
            for &unit in units {
                let bytes = self.units[unit.index()].bytes;
                let Some(start) = last_step[unit.index()].replace(step) else { continue };
                // Where another pair of uses lies in between, that one's sum is no larger; where none does, no unit
                // stands twice in between, and the sum of uses is the sum of units.
                if Some(start) > latest_before {
                    let between = if start == step { 0 } else { sums[step] - sums[start + 1] };
                    cliff = Some(cliff.unwrap_or(u64::MAX).min(bytes + between));
                }
                latest_start = latest_start.max(Some(start));
            }
            sums.push(sums[step] + units.iter().map(|unit| self.units[unit.index()].bytes).sum::<u64>());
        }
        cliff
    }

    /// The bytes of the units that the largest step uses together: no memory below this can run it.
    pub fn largest_step_bytes(&self) -> u64 {
        let mut last_step = vec![usize::MAX; self.units.len()];
        let bytes = |(step, units): (usize, &[UnitId])| {
            let first = |unit: &&UnitId| std::mem::replace(&mut last_step[unit.index()], step) != step;
            units.iter().filter(first).map(|unit| self.units[unit.index()].bytes).sum()
        };
        self.steps().enumerate().map(bytes).max().unwrap_or(0)
    }

    /// Whether the recording was ended, rather than cut off.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }
}
