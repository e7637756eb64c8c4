//! From tensors to units: which bytes of a checkpoint are loaded together, and in which order they are used.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use smoke_core::{Encoding, UnitId};
use smoke_predict::{RoutedUnit, Schedule};
use smoke_storage::{Extent, PartId, TensorIndex, TensorInfo, UnitMap, UnitMapBuilder};

/// A tensor that has its place in units: what a layer keeps instead of its weight.
#[derive(Clone, Debug)]
pub struct PlacedTensor {
    /// The tensor's name in the checkpoint.
    pub name: String,
    /// How its elements are written.
    pub encoding: Encoding,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// Where its rows lie, first row first. Rows are slices along the outermost dimension; a tensor of one dimension is
    /// one row.
    pub pieces: Vec<Piece>,
    /// Where it stays between two uses.
    pub residence: Residence,
}

/// Where weights stay between two uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Residence {
    /// In memory as far as the planner finds room, else on the disk.
    #[default]
    Planned,
    /// In memory.
    Memory,
    /// On the disk: the planner keeps no room for them, and they are the first to give way.
    Stream,
    /// On the device, decoded: read and uploaded at their first use and kept. For matrices; on the host it is as
    /// [`Planned`](Self::Planned).
    Device,
}

/// Says where a tensor stays, by its name and its elements.
type Reside<'a> = Box<dyn FnMut(&str, u64) -> Residence + 'a>;

/// Some rows of a tensor, in one unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where the bytes lie.
    pub part: PartId,
    /// The first row of the piece.
    pub first_row: usize,
    /// How many rows it has.
    pub rows: usize,
}

impl PlacedTensor {
    /// The number of rows: the outermost dimension, or 1 for a tensor of one dimension.
    pub fn rows(&self) -> usize {
        if self.shape.len() < 2 { 1 } else { self.shape[0] }
    }

    /// Elements of one row.
    pub fn columns(&self) -> usize {
        self.elements() / self.rows().max(1)
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Whether a tensor may be cut into pieces that lie in different units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The tensor stays whole, in a unit as large as it needs.
    Whole,
    /// Rows may be spread over units, none of which passes the layout's unit size (a single row may).
    ByRow,
}

/// When the tensors that are placed next are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Once before the passes: what an encoder–decoder model does with its prompt.
    Prologue,
    /// In every pass.
    #[default]
    Pass,
    /// Seldom, by whoever asks: a head that most callers do without. Loaded on demand and never ahead.
    Aside,
}

/// Why a tensor has no place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// The checkpoint has no tensor of this name.
    #[error("the checkpoint has no tensor `{name}`; it is not a checkpoint of this model, or a shard is missing")]
    Missing {
        /// The name that was looked for.
        name: String,
    },
    /// The tensor has another shape than the model.
    #[error("tensor `{name}` has shape {found:?} where the model needs {expected:?}: checkpoint and config disagree")]
    Shape {
        /// The tensor's name.
        name: String,
        /// Its shape in the checkpoint.
        found: Vec<u64>,
        /// The shape that the model needs.
        expected: Vec<usize>,
    },
    /// The tensor's elements are no real numbers.
    #[error("tensor `{name}` is stored as {encoding}, which cannot be a weight")]
    Encoding {
        /// The tensor's name.
        name: String,
        /// How it is stored.
        encoding: Encoding,
    },
    /// A quantised row is no whole number of blocks.
    #[error("tensor `{name}`: a row of {columns} elements is no whole number of {encoding} blocks")]
    Row {
        /// The tensor's name.
        name: String,
        /// How it is stored.
        encoding: Encoding,
        /// Elements of a row.
        columns: usize,
    },
}

/// Gives tensors their place in units, in the order in which a forward pass uses them.
///
/// Tensors that are placed one after another share a unit until it holds the unit size; a larger tensor is cut by rows
/// over several units. Small units cost less residency for what streams through, large ones fewer reads; see
/// [`unit_bytes_for`](Self::unit_bytes_for).
pub struct Layout<'a> {
    index: &'a TensorIndex,
    map: UnitMapBuilder,
    unit_bytes: u64,
    filled_bytes: Option<u64>,
    phase: Phase,
    schedule: Schedule,
    /// Whether an expert is being placed: into the unit that was begun last, whatever its size.
    is_routed: bool,
    routed: Vec<RoutedUnit>,
    reside: Option<Reside<'a>>,
    /// Of the tensors in the unit that is open.
    residence: Residence,
    /// By unit.
    residences: Vec<Residence>,
    placed: HashMap<String, Arc<PlacedTensor>>,
}

impl<'a> Layout<'a> {
    /// An empty layout of the tensors in `index` for reads aligned to `alignment` bytes, with units of about
    /// `unit_bytes`.
    pub fn new(index: &'a TensorIndex, alignment: u64, unit_bytes: u64) -> Self {
        Self {
            index,
            map: UnitMapBuilder::new(alignment),
            unit_bytes,
            filled_bytes: None,
            phase: Phase::default(),
            schedule: Schedule::default(),
            is_routed: false,
            routed: Vec::new(),
            reside: None,
            residence: Residence::default(),
            residences: Vec::new(),
            placed: HashMap::new(),
        }
    }

    /// The unit size for a model of `model_bytes`: a 256th of it, but at least 8 KiB and at most what fills 4 MiB when
    /// widened to whole blocks of the disk.
    ///
    /// Three or four units are in flight or in use at any time; at a 256th each they take less than two percent of the
    /// model from what can stay resident, and at 4 MiB a disk is as fast as it gets. Units that fill two huge pages, and
    /// are all the same size, are read into the memory of those that they replace.
    pub fn unit_bytes_for(model_bytes: u64) -> u64 {
        const WIDENING: u64 = 16 << 10;
        (model_bytes / 256).clamp(8 << 10, (4 << 20) - WIDENING)
    }

    /// The checkpoint's index.
    pub fn index(&self) -> &'a TensorIndex {
        self.index
    }

    /// Says when the tensors that are placed from here on are used; [`Phase::Pass`] unless said. No unit has tensors of
    /// two phases.
    pub fn begin(&mut self, phase: Phase) {
        if self.phase != phase {
            (self.phase, self.filled_bytes) = (phase, None);
        }
    }

    /// Asks `reside` where each tensor stays that is placed from here on, by its name and its number of elements. No unit
    /// has tensors that stay in different places. What stays on the device is used once, before the passes, as far as
    /// the schedule goes. Experts stay where the policy leaves them.
    pub fn reside(&mut self, reside: impl FnMut(&str, u64) -> Residence + 'a) {
        self.reside = Some(Box::new(reside));
    }

    /// Where the units stay, by number.
    pub fn residences(&self) -> &[Residence] {
        &self.residences
    }

    /// Finds `name` and checks that it is a weight of `shape`.
    ///
    /// # Errors
    /// [`LayoutError`] where it is absent or different.
    pub fn find(&self, name: &str, shape: &[usize]) -> Result<&'a TensorInfo, LayoutError> {
        let info = self.index.get(name).ok_or_else(|| LayoutError::Missing { name: name.to_owned() })?;
        if !info.shape.iter().copied().eq(shape.iter().map(|&n| n as u64)) {
            let (name, found) = (name.to_owned(), info.shape.clone());
            return Err(LayoutError::Shape { name, found, expected: shape.to_vec() });
        }
        if !info.encoding.is_real() {
            return Err(LayoutError::Encoding { name: name.to_owned(), encoding: info.encoding });
        }
        Ok(info)
    }

    /// Places the tensor `name`, which must have `shape`, as the next that is used. A tensor placed before is used
    /// again: its units return in the schedule.
    ///
    /// # Errors
    /// [`LayoutError`] where it is absent or different.
    pub fn place(&mut self, name: &str, shape: &[usize], cut: Cut) -> Result<Arc<PlacedTensor>, LayoutError> {
        let info = self.find(name, shape)?;
        if let Some(placed) = self.placed.get(name) {
            let placed = Arc::clone(placed);
            placed.pieces.iter().for_each(|piece| self.schedule_use(piece.part.unit));
            return Ok(placed);
        }
        let rows = if shape.len() < 2 { 1 } else { shape[0] };
        let columns = shape.iter().product::<usize>() / rows.max(1);
        let row_bytes = row_bytes(name, info.encoding, columns)?;
        let residence = self.residence_of(name, shape, cut);
        let mut pieces = Vec::new();
        let mut first_row = 0;
        while first_row < rows {
            let rows_left = rows - first_row;
            let rows = match cut {
                Cut::Whole => rows_left,
                Cut::ByRow if self.is_routed => rows_left,
                Cut::ByRow => self.rows_that_fit(row_bytes, rows_left),
            };
            let extent = Extent {
                offset: info.extent.offset + first_row as u64 * row_bytes,
                len: rows as u64 * row_bytes,
                ..info.extent
            };
            pieces.push(Piece { part: self.push(extent), first_row, rows });
            first_row += rows;
        }
        let (name, shape) = (name.to_owned(), shape.to_vec());
        let placed = PlacedTensor { name: name.clone(), encoding: info.encoding, shape, pieces, residence };
        let placed = Arc::new(placed);
        self.placed.insert(name, Arc::clone(&placed));
        Ok(placed)
    }

    /// Places `rows` of the tensor `name`, which must have `shape`; the rows are those of the matrix that the tensor is when
    /// all dimensions but the last are one. The result is a matrix of these rows.
    ///
    /// For tensors that hold the matrices of all experts of a layer.
    ///
    /// # Errors
    /// [`LayoutError`] where the tensor is absent or different.
    ///
    /// # Panics
    /// If the tensor has not so many rows.
    pub fn place_rows(
        &mut self,
        name: &str,
        shape: &[usize],
        rows: Range<usize>,
    ) -> Result<Arc<PlacedTensor>, LayoutError> {
        let info = self.find(name, shape)?;
        let columns = shape.last().copied().unwrap_or(1);
        let all_rows = shape.iter().product::<usize>() / columns.max(1);
        assert!(rows.start <= rows.end && rows.end <= all_rows, "{name}: rows {rows:?} of {all_rows}");
        let row_bytes = row_bytes(name, info.encoding, columns)?;
        let (offset, len) = (info.extent.offset + rows.start as u64 * row_bytes, rows.len() as u64 * row_bytes);
        let part = self.push(Extent { offset, len, ..info.extent });
        let pieces = vec![Piece { part, first_row: 0, rows: rows.len() }];
        let shape = vec![rows.len(), columns];
        let residence = Residence::Planned;
        Ok(Arc::new(PlacedTensor { name: name.to_owned(), encoding: info.encoding, shape, pieces, residence }))
    }

    /// Places an expert: whatever `place` places becomes one unit, which is no part of the schedule but used, if a router
    /// says so, right after what was placed last. `share` is the share of tokens that use it where all experts of the
    /// layer are used alike.
    ///
    /// Experts have to be placed after their router, and before what is used next; that begins in a unit of its own, so
    /// that each layer's experts have a place in the schedule that tells them from those of other layers.
    ///
    /// # Errors
    /// Those of `place`.
    pub fn place_routed<T, E>(
        &mut self,
        share: f32,
        place: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<(UnitId, T), E> {
        let unit = self.map.begin_unit();
        self.is_routed = true;
        let placed = place(self);
        (self.is_routed, self.filled_bytes) = (false, None);
        self.routed.push(RoutedUnit { unit, place: self.schedule.cycle.len().saturating_sub(1), share });
        Ok((unit, placed?))
    }

    /// The experts placed so far.
    pub fn routed(&self) -> &[RoutedUnit] {
        &self.routed
    }

    /// The units, and the order in which those are used that are not [routed](Self::routed).
    pub fn finish(self) -> (UnitMap, Schedule) {
        (self.map.finish(self.index).expect("every extent is of a validated index"), self.schedule)
    }

    /// Where a tensor stays; the next unit begins with it if that is another place than before.
    fn residence_of(&mut self, name: &str, shape: &[usize], cut: Cut) -> Residence {
        if self.is_routed {
            return Residence::Planned;
        }
        let elements = shape.iter().map(|&n| n as u64).product();
        let residence = match self.reside.as_mut().map_or(Residence::Planned, |reside| reside(name, elements)) {
            // Vectors are small, and used by the host's code for tensors.
            Residence::Device if cut == Cut::Whole => Residence::Memory,
            other => other,
        };
        if residence != self.residence {
            (self.residence, self.filled_bytes) = (residence, None);
        }
        residence
    }

    /// Rows for the next piece: what the open unit still takes, or what an empty one takes if that are only a few.
    fn rows_that_fit(&self, row_bytes: u64, rows_left: usize) -> usize {
        /// A product with fewer rows costs more than the room that it would use.
        const FEWEST: u64 = 16;
        let row_bytes = row_bytes.max(1);
        let room = self.filled_bytes.map_or(0, |filled| self.unit_bytes.saturating_sub(filled)) / row_bytes;
        let rows = if room >= FEWEST.min(rows_left as u64) { room } else { self.unit_bytes / row_bytes };
        rows.clamp(1, rows_left as u64) as usize
    }

    fn push(&mut self, extent: Extent) -> PartId {
        if self.is_routed {
            return self.map.push(extent);
        }
        let fits = self.filled_bytes.is_some_and(|filled| filled + extent.len <= self.unit_bytes);
        if !fits {
            let unit = self.map.begin_unit();
            self.residences.resize(unit.index(), Residence::Planned);
            self.residences.push(self.residence);
            self.filled_bytes = Some(0);
        }
        self.filled_bytes = self.filled_bytes.map(|filled| filled + extent.len);
        let part = self.map.push(extent);
        self.schedule_use(part.unit);
        part
    }

    fn schedule_use(&mut self, unit: UnitId) {
        let stays_on_device = self.residences.get(unit.index()) == Some(&Residence::Device);
        let units = match self.phase {
            Phase::Aside => return,
            _ if stays_on_device => &mut self.schedule.prologue,
            Phase::Prologue => &mut self.schedule.prologue,
            Phase::Pass => &mut self.schedule.cycle,
        };
        if units.last() != Some(&unit) {
            units.push(unit);
        }
    }
}

impl fmt::Debug for Layout<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layout")
            .field("unit_bytes", &self.unit_bytes)
            .field("schedule", &self.schedule)
            .field("routed", &self.routed)
            .field("residences", &self.residences)
            .finish_non_exhaustive()
    }
}

fn row_bytes(name: &str, encoding: Encoding, columns: usize) -> Result<u64, LayoutError> {
    encoding.bytes_for(columns as u64).ok_or_else(|| LayoutError::Row { name: name.to_owned(), encoding, columns })
}
