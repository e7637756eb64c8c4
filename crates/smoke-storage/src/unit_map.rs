use std::ops::Range;

use smoke_core::UnitId;

use crate::buffer::AlignedBuffer;
use crate::error::SourceError;
use crate::index::{FileInfo, TensorIndex};
use crate::source::{Extent, WeightSource};

/// A part of a unit: some rows of a tensor, say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PartId {
    /// The unit.
    pub unit: UnitId,
    /// The part's number in the unit, in the order in which parts were pushed.
    pub part: u32,
}

/// One read of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// What is read.
    pub extent: Extent,
    /// Where it begins in the unit's buffer: a multiple of 4096.
    pub buffer_offset: u64,
}

/// Which bytes make which unit, and where each lies in the buffer that the unit is read into.
///
/// Parts that touch, or nearly do, are read at once; each read is widened to the source's alignment, so that it goes
/// straight into the buffer that will be used.
#[derive(Clone, Debug)]
pub struct UnitMap {
    units: Vec<Unit>,
}

#[derive(Clone, Debug)]
struct Unit {
    runs: Vec<Run>,
    parts: Vec<Range<usize>>,
    buffer_len: u64,
    payload_bytes: u64,
}

/// Builds a [`UnitMap`].
#[derive(Clone, Debug)]
pub struct UnitMapBuilder {
    alignment: u64,
    units: Vec<Vec<Extent>>,
}

/// Every run begins on a page of the buffer.
const PAGE: u64 = 4096;

/// Reading so many bytes that nobody wants is cheaper than another read.
const SMALL_GAP: u64 = 4096;

impl UnitMapBuilder {
    /// No units yet, for a source of this [`alignment`](WeightSource::alignment).
    pub fn new(alignment: u64) -> Self {
        Self { alignment: alignment.max(1), units: Vec::new() }
    }

    /// Begins the next unit, and says which it is.
    pub fn begin_unit(&mut self) -> UnitId {
        self.units.push(Vec::new());
        UnitId(self.units.len() as u32 - 1)
    }

    /// Adds a part to the unit that was begun last, or to the first one.
    pub fn push(&mut self, extent: Extent) -> PartId {
        if self.units.is_empty() {
            self.begin_unit();
        }
        let unit = UnitId(self.units.len() as u32 - 1);
        let parts = &mut self.units[unit.index()];
        parts.push(extent);
        PartId { unit, part: parts.len() as u32 - 1 }
    }

    /// Lays every unit out in its buffer.
    ///
    /// # Errors
    /// [`OutOfRange`](crate::SourceErrorKind::OutOfRange) if a part is not inside its file.
    pub fn finish(self, index: &TensorIndex) -> Result<UnitMap, SourceError> {
        let units = self.units.iter().map(|parts| Unit::new(parts, self.alignment, index.files()));
        Ok(UnitMap { units: units.collect::<Result<_, _>>()? })
    }
}

impl Unit {
    fn new(parts: &[Extent], alignment: u64, files: &[FileInfo]) -> Result<Self, SourceError> {
        for &part in parts {
            crate::reader::check_range(part, files.get(part.file as usize), part.len as usize)?;
        }
        let mut order: Vec<usize> = (0..parts.len()).collect();
        order.sort_by_key(|&part| (parts[part].file, parts[part].offset));
        let mut places = vec![0..0; parts.len()];
        let mut runs: Vec<Run> = Vec::new();
        let mut run_of = vec![0; parts.len()];
        for part in order {
            let extent = widened(parts[part], alignment, files);
            match runs.last_mut() {
                Some(run)
                    if run.extent.file == extent.file
                        && extent.offset <= run.extent.end().saturating_add(SMALL_GAP.max(alignment)) =>
                {
                    run.extent.len = run.extent.end().max(extent.end()) - run.extent.offset;
                }
                _ => runs.push(Run { extent, buffer_offset: 0 }),
            }
            run_of[part] = runs.len() - 1;
        }
        let mut buffer_len = 0;
        for run in &mut runs {
            run.buffer_offset = buffer_len;
            buffer_len = (buffer_len + run.extent.len).next_multiple_of(PAGE);
        }
        for (part, extent) in parts.iter().enumerate() {
            let run = &runs[run_of[part]];
            let start = (run.buffer_offset + extent.offset - run.extent.offset) as usize;
            places[part] = start..start + extent.len as usize;
        }
        let payload_bytes = parts.iter().map(|part| part.len).sum();
        Ok(Self { runs, parts: places, buffer_len, payload_bytes })
    }
}

/// The extent, begun and ended on blocks; the last block of a file may be cut.
fn widened(extent: Extent, alignment: u64, files: &[FileInfo]) -> Extent {
    let offset = extent.offset - extent.offset % alignment;
    let file_len = files[extent.file as usize].len;
    let end = extent.end().checked_next_multiple_of(alignment).unwrap_or(file_len).min(file_len);
    Extent { offset, len: end - offset, ..extent }
}

impl UnitMap {
    /// The number of units.
    pub fn len(&self) -> usize {
        self.units.len()
    }

    /// Whether there are no units.
    pub fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// All units, in the order of their numbers.
    pub fn units(&self) -> impl Iterator<Item = UnitId> + use<> {
        (0..self.units.len() as u32).map(UnitId)
    }

    /// The bytes of a unit's parts.
    ///
    /// # Panics
    /// If there is no such unit; so for every question about one.
    pub fn payload_bytes(&self, unit: UnitId) -> u64 {
        self.units[unit.index()].payload_bytes
    }

    /// The memory that a loaded unit occupies: what a budget is charged.
    pub fn buffer_bytes(&self, unit: UnitId) -> u64 {
        AlignedBuffer::capacity_for(self.units[unit.index()].buffer_len)
    }

    /// The same of every unit, by number.
    pub fn all_buffer_bytes(&self) -> Vec<u64> {
        self.units().map(|unit| self.buffer_bytes(unit)).collect()
    }

    /// The memory that all units occupy together.
    pub fn total_buffer_bytes(&self) -> u64 {
        self.units().map(|unit| self.buffer_bytes(unit)).sum()
    }

    /// The reads that load a unit.
    pub fn runs(&self, unit: UnitId) -> &[Run] {
        &self.units[unit.index()].runs
    }

    /// Where a part lies in its unit's buffer.
    pub fn locate(&self, part: PartId) -> Range<usize> {
        self.units[part.unit.index()].parts[part.part as usize].clone()
    }

    /// Where a unit's parts lie in their files, in the order in which they were pushed.
    pub fn extents(&self, unit: UnitId) -> impl Iterator<Item = Extent> {
        let Unit { runs, parts, .. } = &self.units[unit.index()];
        parts.iter().map(move |part| {
            // Runs lie in the buffer one after another, and the first one at its begin.
            let run = runs.partition_point(|run| run.buffer_offset <= part.start as u64) - 1;
            let Run { extent, buffer_offset } = runs[run];
            Extent { offset: extent.offset + (part.start as u64 - buffer_offset), len: part.len() as u64, ..extent }
        })
    }

    /// Reads a unit into a new buffer. `should_stop` is asked every few MiB.
    ///
    /// # Errors
    /// [`SourceError`] if a read fails; of kind [`Cancelled`](crate::SourceErrorKind::Cancelled) if it was stopped.
    pub fn load(
        &self,
        unit: UnitId,
        source: &dyn WeightSource,
        should_stop: &dyn Fn() -> bool,
    ) -> Result<AlignedBuffer, SourceError> {
        let mut buffer = AlignedBuffer::zeroed(self.units[unit.index()].buffer_len as usize);
        self.load_into(unit, source, &mut buffer, should_stop)?;
        Ok(buffer)
    }

    /// Reads a unit into a buffer that held something else, which becomes as long as the unit wants: cheaper than a new
    /// one, whose pages must be made first. What lies between the unit's runs is anything that the buffer held.
    ///
    /// # Errors
    /// As [`load`](Self::load); the buffer then holds anything, and may be used again.
    pub fn load_into(
        &self,
        unit: UnitId,
        source: &dyn WeightSource,
        buffer: &mut AlignedBuffer,
        should_stop: &dyn Fn() -> bool,
    ) -> Result<(), SourceError> {
        let Unit { runs, buffer_len, .. } = &self.units[unit.index()];
        buffer.resize(*buffer_len as usize);
        if let [run] = runs.as_slice() {
            // Without a list, which would be an allocation.
            return source.read_cancellable(run.extent, &mut buffer[..run.extent.len as usize], should_stop);
        }
        let (mut reads, mut rest, mut at) = (Vec::with_capacity(runs.len()), &mut buffer[..], 0);
        for run in runs {
            let (_, from_here) = rest.split_at_mut(run.buffer_offset as usize - at);
            let (here, behind) = from_here.split_at_mut(run.extent.len as usize);
            reads.push((run.extent, here));
            (rest, at) = (behind, run.buffer_offset as usize + run.extent.len as usize);
        }
        source.read_all_cancellable(&mut reads, should_stop)
    }
}
