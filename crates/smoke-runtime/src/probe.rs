//! How fast this machine is, measured in about half a second.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use smoke_core::Encoding;
use smoke_quant::PackedMatrix;
use smoke_storage::{AlignedBuffer, Extent, SourceError, WeightSource};

use crate::plan::Plan;

/// Measured rates of a machine and a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Probe {
    /// Bytes per second that the checkpoint's files give.
    pub disk_bytes_per_second: f64,
    /// Bytes of weights per second that one token's products take.
    pub compute_bytes_per_second: f64,
}

/// What a plan should reach on a machine.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Prediction {
    /// Tokens per second when the plan's reads and computation overlap perfectly.
    pub tokens_per_second: f64,
    /// The same if every byte of the budget that keys, values and activations do not need held weights: what no plan can
    /// pass on this machine.
    pub bound_tokens_per_second: f64,
    /// What limits it.
    pub limit: Limit,
}

/// What limits the speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Reading the units that stream.
    Disk,
    /// Multiplying by the weights.
    Compute,
}

const READERS: u64 = 4;
const READ_BYTES: u64 = 2 << 20;
const READ_TIME: Duration = Duration::from_millis(300);
/// More than what a processor's caches hold.
const MATRIX_BYTES: u64 = 160 << 20;

impl Probe {
    /// Reads parts of the checkpoint for a third of a second and multiplies by a matrix in its most common encoding.
    ///
    /// # Errors
    /// [`SourceError`] if the files cannot be read.
    pub fn measure(source: &dyn WeightSource) -> Result<Self, SourceError> {
        let mut bytes_by_encoding: HashMap<Encoding, u64> = HashMap::new();
        for tensor in source.index().iter() {
            *bytes_by_encoding.entry(tensor.encoding).or_default() += tensor.extent.len;
        }
        let common = bytes_by_encoding.into_iter().max_by_key(|&(_, bytes)| bytes).map(|(encoding, _)| encoding);
        Ok(Self {
            disk_bytes_per_second: disk_rate(source)?,
            compute_bytes_per_second: compute_rate(common.unwrap_or(Encoding::F32)),
        })
    }
}

impl Plan {
    /// What this plan should reach on a machine with these rates.
    pub fn predict(&self, probe: &Probe) -> Prediction {
        let disk = self.streamed_bytes as f64 / probe.disk_bytes_per_second;
        let compute = self.pass_bytes as f64 / probe.compute_bytes_per_second;
        let limit = if disk > compute { Limit::Disk } else { Limit::Compute };
        let least_disk = self.least_streamed_bytes() as f64 / probe.disk_bytes_per_second;
        Prediction {
            tokens_per_second: 1.0 / disk.max(compute),
            bound_tokens_per_second: 1.0 / least_disk.max(compute),
            limit,
        }
    }
}

fn disk_rate(source: &dyn WeightSource) -> Result<f64, SourceError> {
    let extents: Vec<Extent> = source
        .index()
        .files()
        .iter()
        .zip(0_u32..)
        .flat_map(|(file, number)| {
            let blocks = file.len.div_ceil(READ_BYTES);
            (0..blocks).map(move |block| {
                let offset = block * READ_BYTES;
                Extent { file: number, offset, len: READ_BYTES.min(file.len - offset) }
            })
        })
        .collect();
    let (next, read) = (AtomicU64::new(0), AtomicU64::new(0));
    let start = Instant::now();
    std::thread::scope(|scope| {
        let reader = || -> Result<(), SourceError> {
            let mut buffer = AlignedBuffer::zeroed(READ_BYTES as usize);
            // Each block at most once: a second time it would come from a cache of the disk or the system.
            while start.elapsed() < READ_TIME {
                let Some(&extent) = extents.get(next.fetch_add(1, Ordering::Relaxed) as usize) else { break };
                source.read_at(extent, &mut buffer[..extent.len as usize])?;
                read.fetch_add(extent.len, Ordering::Relaxed);
            }
            Ok(())
        };
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(reader)).collect();
        readers.into_iter().try_for_each(|reader| reader.join().expect("a reader does not panic"))
    })?;
    Ok(read.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64())
}

fn compute_rate(encoding: Encoding) -> f64 {
    let columns = 4096;
    let row_bytes = encoding.bytes_for(columns).unwrap_or(columns);
    let rows = MATRIX_BYTES / row_bytes;
    // Not zeros: memory that was never written is one page over and over, and lies in the first-level cache.
    let bytes = vec![1_u8; (rows * row_bytes) as usize];
    let Ok(matrix) = PackedMatrix::new(encoding, rows as usize, columns as usize, &bytes) else {
        return f64::INFINITY;
    };
    let (x, mut y) = (vec![0.5_f32; columns as usize], vec![0.0_f32; rows as usize]);
    let fastest = (0..4).map(|_| {
        let start = Instant::now();
        matrix.multiply(&x, &mut y, rows as usize);
        start.elapsed()
    });
    let fastest = fastest.min().unwrap_or_default();
    std::hint::black_box(&y);
    bytes.len() as f64 / fastest.as_secs_f64()
}
