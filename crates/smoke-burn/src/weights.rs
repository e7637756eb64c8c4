//! The weights of one model on one device: bytes on the disk that become tensors for the moment of their use.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::tensor::{AllocationProperty, Bytes, DType, Device, Int, Tensor, TensorData};
use smoke_core::{Encoding, Permit, UnitId};
use smoke_prefetch::{StreamError, Streamer, UnitLease};
use smoke_quant::PackedError;
use smoke_storage::PartId;

use crate::activations::{FloatPool, Floats};
use crate::layout::{Piece, PlacedTensor, Residence};

/// Why a weight could not be used.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightError {
    /// Its bytes could not be loaded, or found no room.
    #[error("tensor `{name}` cannot be used")]
    Stream {
        /// The tensor's name.
        name: String,
        /// Why.
        #[source]
        cause: StreamError,
    },
    /// Its bytes are not what its encoding says.
    #[error("tensor `{name}` is corrupt")]
    Packed {
        /// The tensor's name.
        name: String,
        /// What is wrong.
        #[source]
        cause: PackedError,
    },
}

impl WeightError {
    pub(crate) fn stream(name: &str) -> impl FnOnce(StreamError) -> Self + '_ {
        |cause| Self::Stream { name: name.to_owned(), cause }
    }

    pub(crate) fn packed(name: &str) -> impl FnOnce(PackedError) -> Self + '_ {
        |cause| Self::Packed { name: name.to_owned(), cause }
    }
}

/// Hands out the weights of one model on one device.
///
/// Clones share everything. Between two uses nothing is held but the unit used last, so a layer whose tensors share a
/// unit takes it once.
#[derive(Clone)]
pub struct Weights {
    shared: Arc<Shared>,
}

struct Shared {
    streamer: Streamer,
    device: Device,
    on_host: bool,
    current: Mutex<Option<UnitLease>>,
    floats: FloatPool,
    /// Matrices that stay on the device.
    on_device: Mutex<HashMap<PartId, Tensor<2>>>,
}

impl Weights {
    /// Weights that come from `streamer` and are used on `device`.
    pub fn new(streamer: Streamer, device: Device) -> Self {
        let on_host = is_host(&device);
        Self {
            shared: Arc::new(Shared {
                streamer,
                device,
                on_host,
                current: Mutex::new(None),
                floats: FloatPool::default(),
                on_device: Mutex::default(),
            }),
        }
    }

    /// Where the weights come from: its statistics, budget and controls.
    pub fn streamer(&self) -> &Streamer {
        &self.shared.streamer
    }

    /// The device that tensors are made on.
    pub fn device(&self) -> &Device {
        &self.shared.device
    }

    /// Whether the device computes in the memory that the cache lies in, so that weights are used in place.
    pub fn on_host(&self) -> bool {
        self.shared.on_host
    }

    /// The bytes of one piece of a tensor, held until the lease is dropped. Waits until they are loaded.
    ///
    /// # Errors
    /// [`WeightError`] if they cannot be read or find no room.
    pub fn lease(&self, placed: &PlacedTensor, piece: &Piece) -> Result<UnitLease, WeightError> {
        let unit = piece.part.unit;
        // Let go of another one first: the next unit may need the room.
        let held = self.current().take_if(|lease| lease.unit() != unit);
        drop(held);
        if let Some(lease) = &*self.current() {
            return Ok(lease.clone());
        }
        // Without the lock: who waits for the disk must not keep others from letting go.
        let lease = self.with_room(|streamer| streamer.acquire(unit)).map_err(WeightError::stream(&placed.name))?;
        *self.current() = Some(lease.clone());
        Ok(lease)
    }

    /// The bytes of a piece that is used together with those leased before, if it lies in the same unit as the last, or
    /// the whole model is in memory: elsewhere a lease keeps others from being read.
    pub(crate) fn lease_beside(&self, piece: &Piece) -> Option<UnitLease> {
        let unit = piece.part.unit;
        let in_use = self.current().clone().filter(|lease| lease.unit() == unit);
        if in_use.is_some() {
            return in_use;
        }
        let lease = self.shared.streamer.acquire_resident(unit)?;
        let before = self.current().replace(lease.clone());
        drop(before);
        Some(lease)
    }

    /// Leases `units` one after another as they arrive, and gives the place of each in the list: until the next is asked
    /// for, its tensors are used without another lease. All loads begin at once; see
    /// [`Streamer::acquire_each`]. `name` is named in errors.
    ///
    /// # Errors
    /// [`WeightError`] if a unit does not exist; if it cannot be read or finds no room, when its turn comes.
    pub fn each<'a>(
        &'a self,
        name: &'a str,
        units: &[UnitId],
    ) -> Result<impl Iterator<Item = Result<usize, WeightError>> + 'a, WeightError> {
        self.let_go();
        let mut arrivals = self.shared.streamer.acquire_each(units).map_err(WeightError::stream(name))?;
        let next = move || {
            self.let_go();
            let arrival = arrivals.next()?.map_err(WeightError::stream(name));
            Some(arrival.map(|(place, lease)| {
                *self.current() = Some(lease);
                place
            }))
        };
        Ok(std::iter::from_fn(next))
    }

    fn current(&self) -> MutexGuard<'_, Option<UnitLease>> {
        self.shared.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn let_go(&self) {
        let held = self.current().take();
        drop(held);
    }

    /// Tries again where there is no room until the device has taken what was queued for upload, which holds leases.
    fn with_room<T>(&self, take: impl Fn(&Streamer) -> Result<T, StreamError>) -> Result<T, StreamError> {
        match take(&self.shared.streamer) {
            Err(StreamError::NoRoom { .. }) if !self.shared.on_host && self.shared.device.sync().is_ok() => {
                take(&self.shared.streamer)
            }
            result => result,
        }
    }

    /// Lets go of the unit used last and of spare memory for activations, as between two requests.
    pub fn release(&self) {
        self.let_go();
        self.shared.floats.clear();
    }

    /// Numbers of rows as a tensor on the device, to select rows by or to add to them.
    pub fn indices(&self, numbers: &[usize]) -> Tensor<1, Int> {
        let numbers: Vec<i32> = numbers.iter().map(|&number| number as i32).collect();
        let count = numbers.len();
        let data = TensorData::new(numbers, [count]);
        Tensor::from_data(data, (&self.shared.device, DType::I32))
    }

    /// Lends memory for `len` activations on the host; it holds anything. The caller has planned for it: it is not
    /// charged to the budget here.
    pub fn floats(&self, len: usize) -> Floats {
        self.shared.floats.lend(len)
    }

    /// Bytes of the memory that [`floats`](Self::floats) lends, in use and spare: the most that was lent at one time since
    /// [`release`](Self::release).
    pub fn activation_bytes(&self) -> u64 {
        self.shared.floats.bytes()
    }

    /// Lends `use_them` a tensor's elements as floats on the host: in place where they are stored as `f32`, else
    /// decoded.
    ///
    /// # Errors
    /// [`WeightError`] if the bytes cannot be loaded or decoded.
    pub fn with_floats<R>(&self, placed: &PlacedTensor, use_them: impl FnOnce(&[f32]) -> R) -> Result<R, WeightError> {
        if let ([piece], Encoding::F32) = (placed.pieces.as_slice(), placed.encoding) {
            let lease = self.lease(placed, piece)?;
            if let Ok(values) = bytemuck::try_cast_slice(lease.part(piece.part)) {
                return Ok(use_them(values));
            }
        }
        let mut values = self.floats(placed.elements());
        self.decode_into(placed, &mut values)?;
        Ok(use_them(&values))
    }

    fn decode_into(&self, placed: &PlacedTensor, values: &mut [f32]) -> Result<(), WeightError> {
        for piece in &placed.pieces {
            let out = &mut values[piece.first_row * placed.columns()..][..piece.rows * placed.columns()];
            self.decode_piece(placed, piece, out)?;
        }
        Ok(())
    }

    fn decode_piece(&self, placed: &PlacedTensor, piece: &Piece, out: &mut [f32]) -> Result<(), WeightError> {
        let lease = self.lease(placed, piece)?;
        smoke_quant::decode(placed.encoding, lease.part(piece.part), out).map_err(WeightError::packed(&placed.name))
    }

    /// Some rows of a matrix as floats on the device, `[rows, columns]`: decoded and uploaded for this use, or the first
    /// time only where the matrix [stays](Residence::Device) there.
    ///
    /// # Errors
    /// [`WeightError`] if the bytes cannot be loaded or decoded.
    pub fn matrix(&self, placed: &PlacedTensor, piece: &Piece) -> Result<Tensor<2>, WeightError> {
        let stays = placed.residence == Residence::Device && !self.shared.on_host;
        let kept = || self.shared.on_device.lock().unwrap_or_else(PoisonError::into_inner);
        if stays && let Some(matrix) = kept().get(&piece.part) {
            return Ok(matrix.clone());
        }
        let mut values = vec![0.0_f32; piece.rows * placed.columns()];
        self.decode_piece(placed, piece, &mut values)?;
        let data = TensorData::new(values, [piece.rows, placed.columns()]);
        let matrix = Tensor::<2>::from_data(data, (&self.shared.device, DType::F32));
        if stays {
            kept().insert(piece.part, matrix.clone());
        }
        Ok(matrix)
    }

    /// A whole tensor as floats on the device, in its stored shape.
    ///
    /// On the host an `F32` tensor is a view of the cache's bytes, without a copy, and holds their lease until it is
    /// dropped. Other encodings are decoded into memory that is drawn from the budget until the tensor is dropped; on
    /// other devices the floats are uploaded and the host's bytes released.
    ///
    /// # Errors
    /// [`WeightError`] if the bytes cannot be loaded or decoded, or the decoded floats find no room.
    ///
    /// # Panics
    /// If the tensor has not `D` dimensions.
    pub fn tensor<const D: usize>(&self, placed: &PlacedTensor) -> Result<Tensor<D>, WeightError> {
        let bytes = match placed.pieces.as_slice() {
            [piece] => self.view(placed, piece)?,
            _ => self.decoded(placed)?,
        };
        let data = TensorData::from_bytes(bytes, placed.shape.clone(), DType::F32);
        Ok(Tensor::from_data(data, (&self.shared.device, DType::F32)))
    }

    /// A whole tensor as floats on the device, which no longer needs the cache: on the host its memory is drawn from the
    /// budget until it is dropped.
    ///
    /// # Errors
    /// [`WeightError`] as of [`tensor`](Self::tensor).
    pub(crate) fn resident<const D: usize>(&self, placed: &PlacedTensor) -> Result<Tensor<D>, WeightError> {
        let data = TensorData::from_bytes(self.decoded(placed)?, placed.shape.clone(), DType::F32);
        Ok(Tensor::from_data(data, (&self.shared.device, DType::F32)))
    }

    fn view(&self, placed: &PlacedTensor, piece: &Piece) -> Result<Bytes, WeightError> {
        if placed.encoding == Encoding::F32 {
            let lease = self.lease(placed, piece)?;
            let view = LeasedBytes { lease, piece: *piece };
            if view.as_ref().as_ptr().cast::<f32>().is_aligned() {
                return Ok(shared(view));
            }
        }
        self.decoded(placed)
    }

    fn decoded(&self, placed: &PlacedTensor) -> Result<Bytes, WeightError> {
        let floats = placed.elements();
        let bytes = (floats * size_of::<f32>()) as u64;
        let permit = self.with_room(|streamer| streamer.make_room(bytes)).map_err(WeightError::stream(&placed.name))?;
        let mut values = vec![0.0_f32; floats];
        self.decode_into(placed, &mut values)?;
        Ok(shared(DecodedBytes { bytes: Bytes::from_elems(values), _permit: permit }))
    }
}

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Weights")
            .field("streamer", &self.shared.streamer)
            .field("device", &self.shared.device)
            .finish_non_exhaustive()
    }
}

fn shared<T: AsRef<[u8]> + Send + 'static>(owner: T) -> Bytes {
    Bytes::from_shared(bytes::Bytes::from_owner(owner), AllocationProperty::Other)
}

/// Bytes in the cache; whoever looks at them keeps their unit leased.
struct LeasedBytes {
    lease: UnitLease,
    piece: Piece,
}

impl AsRef<[u8]> for LeasedBytes {
    fn as_ref(&self) -> &[u8] {
        self.lease.part(self.piece.part)
    }
}

/// Decoded floats; the budget gets their bytes back when nobody looks at them any more.
struct DecodedBytes {
    bytes: Bytes,
    _permit: Permit,
}

impl AsRef<[u8]> for DecodedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(feature = "flex")]
fn is_host(device: &Device) -> bool {
    *device == Device::flex()
}

#[cfg(not(feature = "flex"))]
fn is_host(_device: &Device) -> bool {
    false
}
