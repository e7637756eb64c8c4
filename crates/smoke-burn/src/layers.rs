//! Layers whose weights are streamed and multiplied by in their stored encoding.

use std::array;
use std::ops::Range;
use std::sync::Arc;

use burn::tensor::Tensor;
use smoke_core::Encoding;
use smoke_prefetch::{StreamError, UnitLease};
use smoke_quant::{PackedMatrix, Product};
use smoke_storage::Extent;

use crate::activations::{Activations, Place};
use crate::layout::{Cut, Layout, LayoutError, Piece, PlacedTensor};
use crate::weights::{WeightError, Weights};

/// Pieces of matrices that are multiplied in one job.
const JOB_PIECES: usize = 32;

/// How the matrix of a linear layer lies in the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Orientation {
    OutputsByInputs,
    InputsByOutputs,
}

/// A linear layer, `y = x Wᵀ + b`, that holds no weights.
///
/// On the host it multiplies by the packed bytes in the cache; on other devices each piece is decoded and uploaded for
/// the moment of its use.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Arc<PlacedTensor>,
    bias: Option<Arc<PlacedTensor>>,
    orientation: Orientation,
}

impl Linear {
    /// Places the matrix `name.weight` of shape `[outputs, inputs]`, as PyTorch's `Linear` stores it.
    ///
    /// # Errors
    /// [`LayoutError`] if the checkpoint has no such tensor.
    pub fn place(layout: &mut Layout<'_>, name: &str, inputs: usize, outputs: usize) -> Result<Self, LayoutError> {
        Self::place_as(layout, name, [outputs, inputs], Orientation::OutputsByInputs)
    }

    /// Places the matrix `name.weight` of shape `[inputs, outputs]`, as GPT-2's `Conv1D` stores it.
    ///
    /// # Errors
    /// [`LayoutError`] if the checkpoint has no such tensor.
    pub fn place_conv1d(
        layout: &mut Layout<'_>,
        name: &str,
        inputs: usize,
        outputs: usize,
    ) -> Result<Self, LayoutError> {
        Self::place_as(layout, name, [inputs, outputs], Orientation::InputsByOutputs)
    }

    /// Places a matrix of shape `[outputs, inputs]` that is some rows of the tensor `name` (with its ending), which has
    /// `shape` and holds the matrices of all experts: see [`Layout::place_rows`].
    ///
    /// # Errors
    /// [`LayoutError`] if the checkpoint has no such tensor.
    ///
    /// # Panics
    /// If the tensor has not so many rows.
    pub fn place_rows(
        layout: &mut Layout<'_>,
        name: &str,
        shape: &[usize],
        rows: Range<usize>,
    ) -> Result<Self, LayoutError> {
        let weight = layout.place_rows(name, shape, rows)?;
        Ok(Self { weight, bias: None, orientation: Orientation::OutputsByInputs })
    }

    /// Places the vector `name.bias`, too, of the same `name`.
    ///
    /// # Errors
    /// [`LayoutError`] if the checkpoint has no such tensor.
    pub fn with_bias(mut self, layout: &mut Layout<'_>) -> Result<Self, LayoutError> {
        let name = format!("{}.bias", self.weight.name.trim_end_matches(".weight"));
        self.bias = Some(layout.place(&name, &[self.outputs()], Cut::Whole)?);
        Ok(self)
    }

    fn place_as(
        layout: &mut Layout<'_>,
        name: &str,
        shape: [usize; 2],
        orientation: Orientation,
    ) -> Result<Self, LayoutError> {
        let weight = layout.place(&format!("{name}.weight"), &shape, Cut::ByRow)?;
        Ok(Self { weight, bias: None, orientation })
    }

    /// Applies the layer to every row of `x`: `[rows, inputs]` to `[rows, outputs]`.
    ///
    /// # Errors
    /// [`WeightError`] if the weights cannot be loaded or are corrupt.
    ///
    /// # Panics
    /// If `x` has another number of features than `inputs`.
    pub fn forward(&self, weights: &Weights, x: &Activations) -> Result<Activations, WeightError> {
        assert_eq!(x.features(), self.inputs(), "{}: the input has another number of features", self.weight.name);
        let y = match (x.on_host(), self.orientation) {
            (Some(x), Orientation::OutputsByInputs) => {
                let [y] = Self::multiply_all([self], weights, x)?;
                y
            }
            (Some(x), Orientation::InputsByOutputs) => self.multiply_transposed(weights, x)?,
            (None, _) => Activations::from_tensor(self.forward_on_device(weights, x.tensor(weights))?),
        };
        match &self.bias {
            Some(bias) => add_vector(weights, y, bias),
            None => Ok(y),
        }
    }

    /// Applies layers to the same `x`, with the results of [`forward`](Self::forward) for each, to the bit. On the host, what
    /// is in memory is multiplied in one job: `x` is rounded once, and threads wait for one another once.
    ///
    /// # Errors
    /// [`WeightError`] if the weights cannot be loaded or are corrupt.
    ///
    /// # Panics
    /// If `x` has another number of features than a layer has `inputs`.
    pub fn forward_all<const N: usize>(
        layers: [&Self; N],
        weights: &Weights,
        x: &Activations,
    ) -> Result<[Activations; N], WeightError> {
        // A bias is used before the matrix that was placed after it.
        let joins = |layer: &&Self| {
            layer.orientation == Orientation::OutputsByInputs && layer.bias.is_none() && layer.inputs() == x.features()
        };
        if let Some(x) = x.on_host().filter(|_| layers.iter().all(joins)) {
            return Self::multiply_all(layers, weights, x);
        }
        let mut outputs = layers.map(|_| None);
        for (layer, output) in layers.iter().zip(&mut outputs) {
            *output = Some(layer.forward(weights, x)?);
        }
        Ok(outputs.map(|output| output.expect("every layer has one")))
    }

    /// The same where all of the matrix is in memory and `x` on the host, else nothing; no use is counted, and nothing is
    /// loaded. For a look ahead that is not worth a read.
    ///
    /// # Errors
    /// [`WeightError`] if the weights are corrupt.
    ///
    /// # Panics
    /// If `x` has another number of features than `inputs`, or the layer has a bias or a transposed matrix.
    pub fn forward_if_resident(&self, weights: &Weights, x: &Activations) -> Result<Option<Activations>, WeightError> {
        assert_eq!(x.features(), self.inputs(), "{}: the input has another number of features", self.weight.name);
        assert!(self.bias.is_none() && self.orientation == Orientation::OutputsByInputs, "{}", self.weight.name);
        let Some(x) = x.on_host() else { return Ok(None) };
        let outputs = self.outputs();
        let mut y = weights.floats(x.len() / self.inputs().max(1) * outputs);
        for piece in &self.weight.pieces {
            let Some(lease) = weights.streamer().peek(piece.part.unit) else { return Ok(None) };
            self.packed(piece, lease.part(piece.part))?.multiply(x, &mut y[piece.first_row..], outputs);
        }
        Ok(Some(Activations::from_host(y, outputs)))
    }

    /// Features that go in.
    pub fn inputs(&self) -> usize {
        match self.orientation {
            Orientation::OutputsByInputs => self.weight.columns(),
            Orientation::InputsByOutputs => self.weight.rows(),
        }
    }

    /// Features that come out.
    pub fn outputs(&self) -> usize {
        match self.orientation {
            Orientation::OutputsByInputs => self.weight.rows(),
            Orientation::InputsByOutputs => self.weight.columns(),
        }
    }

    /// On the host, without biases: a job for every run of pieces that are there at once.
    fn multiply_all<const N: usize>(
        layers: [&Self; N],
        weights: &Weights,
        x: &[f32],
    ) -> Result<[Activations; N], WeightError> {
        let tokens = x.len() / layers[0].inputs().max(1);
        let mut outputs = layers.map(|layer| weights.floats(tokens * layer.outputs()));
        let pieces = || layers.iter().flat_map(|layer| layer.weight.pieces.iter().map(move |piece| (*layer, piece)));
        let count = pieces().count();
        let mut first = 0;
        while first < count {
            let mut leases: [Option<UnitLease>; JOB_PIECES] = [const { None }; JOB_PIECES];
            let mut run = pieces().skip(first);
            let (layer, piece) = run.next().expect("a piece is left");
            leases[0] = Some(weights.lease(&layer.weight, piece)?);
            for (lease, (_, piece)) in leases[1..].iter_mut().zip(run) {
                *lease = weights.lease_beside(piece);
                if lease.is_none() {
                    break;
                }
            }
            let nothing = PackedMatrix::new(Encoding::F32, 0, 1, &[]).expect("no rows are a matrix");
            let mut matrices = [nothing; JOB_PIECES];
            let leased = pieces().skip(first).zip(leases.iter().map_while(Option::as_ref));
            for (matrix, ((layer, piece), lease)) in matrices.iter_mut().zip(leased) {
                *matrix = layer.packed(piece, lease.part(piece.part))?;
            }
            let end = first + leases.iter().flatten().count();
            let mut start_of_layer = 0;
            let mut all = layers.iter().zip(&mut outputs);
            let mut products: [Product<'_>; N] = array::from_fn(|_| {
                let (layer, y) = all.next().expect("as many outputs as layers");
                let of_layer = start_of_layer..start_of_layer + layer.weight.pieces.len();
                start_of_layer = of_layer.end;
                let range = of_layer.start.clamp(first, end)..of_layer.end.clamp(first, end);
                let row = layer.weight.pieces.get(range.start.saturating_sub(of_layer.start));
                let row = row.map_or(0, |piece| piece.first_row);
                Product::new(&matrices[range.start - first..range.end - first], tokens, &mut y[row..], layer.outputs())
            });
            smoke_quant::multiply_all(x, &mut products);
            first = end;
        }
        let mut outputs = outputs.into_iter();
        Ok(layers.map(|layer| Activations::from_host(outputs.next().expect("as many as layers"), layer.outputs())))
    }

    fn multiply_transposed(&self, weights: &Weights, x: &[f32]) -> Result<Activations, WeightError> {
        let (inputs, outputs) = (self.inputs(), self.outputs());
        let mut y = weights.floats(x.len() / inputs.max(1) * outputs);
        y.fill(0.0);
        for piece in &self.weight.pieces {
            let lease = weights.lease(&self.weight, piece)?;
            let matrix = self.packed(piece, lease.part(piece.part))?;
            matrix.multiply_transposed(&x[piece.first_row..], inputs, &mut y);
        }
        Ok(Activations::from_host(y, outputs))
    }

    fn forward_on_device(&self, weights: &Weights, x: Tensor<2>) -> Result<Tensor<2>, WeightError> {
        let mut columns = Vec::new();
        let mut sum: Option<Tensor<2>> = None;
        for piece in &self.weight.pieces {
            let matrix = weights.matrix(&self.weight, piece)?;
            match self.orientation {
                Orientation::OutputsByInputs => columns.push(x.clone().matmul(matrix.transpose())),
                Orientation::InputsByOutputs => {
                    let rows = piece.first_row..piece.first_row + piece.rows;
                    let part = x.clone().slice([0..x.dims()[0], rows]).matmul(matrix);
                    sum = Some(match sum {
                        Some(sum) => sum + part,
                        None => part,
                    });
                }
            }
        }
        Ok(sum.unwrap_or_else(|| Tensor::cat(columns, 1)))
    }

    fn packed<'a>(&self, piece: &Piece, bytes: &'a [u8]) -> Result<PackedMatrix<'a>, WeightError> {
        PackedMatrix::new(self.weight.encoding, piece.rows, self.weight.columns(), bytes)
            .map_err(WeightError::packed(&self.weight.name))
    }
}

/// Adds a vector of weights to every row.
fn add_vector(weights: &Weights, x: Activations, vector: &PlacedTensor) -> Result<Activations, WeightError> {
    let features = x.features();
    match x.place() {
        Place::Host(mut floats) => {
            weights.with_floats(vector, |vector| {
                let rows = floats.chunks_exact_mut(features.max(1));
                rows.for_each(|row| row.iter_mut().zip(vector).for_each(|(x, term)| *x += term));
            })?;
            Ok(Activations::from_host(floats, features))
        }
        Place::Device(x) => Ok(Activations::from_tensor(x + weights.tensor::<1>(vector)?.unsqueeze())),
    }
}

/// A vector of weights, such as a norm's scale.
#[derive(Clone, Debug)]
pub struct Vector {
    placed: Arc<PlacedTensor>,
}

impl Vector {
    /// Places the tensor `name` of `len` elements.
    ///
    /// # Errors
    /// [`LayoutError`] if the checkpoint has no such tensor.
    pub fn place(layout: &mut Layout<'_>, name: &str, len: usize) -> Result<Self, LayoutError> {
        Ok(Self { placed: layout.place(name, &[len], Cut::Whole)? })
    }

    /// The vector as floats, shaped `[1, .., 1, len]`.
    ///
    /// # Errors
    /// [`WeightError`] if it cannot be loaded or decoded.
    pub fn tensor<const D: usize>(&self, weights: &Weights) -> Result<Tensor<D>, WeightError> {
        Ok(weights.tensor::<1>(&self.placed)?.unsqueeze())
    }

    /// Adds the vector to every row of `x`.
    ///
    /// # Errors
    /// [`WeightError`] if it cannot be loaded or decoded.
    pub fn add_to(&self, weights: &Weights, x: Activations) -> Result<Activations, WeightError> {
        add_vector(weights, x, &self.placed)
    }

    /// Lends `use_it` the vector as floats on the host.
    ///
    /// # Errors
    /// [`WeightError`] if it cannot be loaded or decoded.
    pub fn with_floats<R>(&self, weights: &Weights, use_it: impl FnOnce(&[f32]) -> R) -> Result<R, WeightError> {
        weights.with_floats(&self.placed, use_it)
    }
}

/// A table of rows, one for each token or position, of which a forward pass uses a few.
///
/// Rows are read one by one, past the cache: a vocabulary matrix is never loaded to look up a word. Where the table is
/// also the output head ([`shared_with`](Self::shared_with)), rows that happen to be resident are taken from the cache.
#[derive(Clone, Debug)]
pub struct Embedding {
    name: String,
    encoding: Encoding,
    extent: Extent,
    rows: usize,
    columns: usize,
    shared: Option<Arc<PlacedTensor>>,
}

impl Embedding {
    /// Finds the table `name` of `rows` rows and `columns` columns.
    ///
    /// # Errors
    /// [`LayoutError`] if the checkpoint has no such tensor.
    pub fn find(layout: &Layout<'_>, name: &str, rows: usize, columns: usize) -> Result<Self, LayoutError> {
        let info = layout.find(name, &[rows, columns])?;
        if info.encoding.bytes_for(columns as u64).is_none() {
            return Err(LayoutError::Row { name: name.to_owned(), encoding: info.encoding, columns });
        }
        let name = name.to_owned();
        Ok(Self { name, encoding: info.encoding, extent: info.extent, rows, columns, shared: None })
    }

    /// Takes rows that are resident from the cache where `head` multiplies by this same table.
    pub fn shared_with(mut self, head: &Linear) -> Self {
        self.shared = (head.weight.name == self.name).then(|| Arc::clone(&head.weight));
        self
    }

    /// The rows of `ids`: `[ids.len(), columns]`. An id that comes several times is read once.
    ///
    /// # Errors
    /// [`WeightError`] if a row cannot be read or decoded.
    ///
    /// # Panics
    /// If an id is not below the number of rows.
    pub fn forward(&self, weights: &Weights, ids: &[u32]) -> Result<Activations, WeightError> {
        let mut values = weights.floats(ids.len() * self.columns);
        let row_bytes = (self.extent.len / self.rows.max(1) as u64) as usize;
        let mut row = weights.floats(row_bytes.div_ceil(size_of::<f32>()));
        let row = &mut bytemuck::cast_slice_mut(&mut row)[..row_bytes];
        for (place, &id) in ids.iter().enumerate() {
            assert!((id as usize) < self.rows, "{}: row {id} of {} rows", self.name, self.rows);
            let range = |place: usize| place * self.columns..(place + 1) * self.columns;
            if let Some(first) = ids[..place].iter().position(|&before| before == id) {
                values.copy_within(range(first), range(place).start);
                continue;
            }
            let out = &mut values[range(place)];
            self.read_row(weights, id as usize, row).map_err(WeightError::stream(&self.name))?;
            smoke_quant::decode(self.encoding, row, out).map_err(WeightError::packed(&self.name))?;
        }
        Ok(Activations::placed(weights, values, self.columns))
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    fn read_row(&self, weights: &Weights, id: usize, row: &mut [u8]) -> Result<(), StreamError> {
        let resident = self.shared.as_ref().and_then(|shared| {
            let piece =
                shared.pieces.iter().find(|piece| (piece.first_row..piece.first_row + piece.rows).contains(&id))?;
            Some((weights.streamer().peek(piece.part.unit)?, piece))
        });
        if let Some((lease, piece)) = resident {
            let start = (id - piece.first_row) * row.len();
            row.copy_from_slice(&lease.part(piece.part)[start..start + row.len()]);
            return Ok(());
        }
        let len = row.len() as u64;
        let extent = Extent { offset: self.extent.offset + id as u64 * len, len, ..self.extent };
        weights.streamer().read_uncached(extent, row)
    }
}
