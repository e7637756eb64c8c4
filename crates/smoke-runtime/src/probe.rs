//! How fast this machine is, measured in about two seconds: disk and kernels alone, and together.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use smoke_core::Encoding;
use smoke_quant::PackedMatrix;
use smoke_storage::{AlignedBuffer, Extent, SourceError, WeightSource};

use crate::compressed::most_common;
use crate::plan::Plan;

/// Measured rates of a machine and a checkpoint, in bytes per second. Each is the median of a few turns.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Probe {
    /// What the checkpoint's files give while nothing is computed.
    pub disk_bytes_per_second: f64,
    /// What one token's products take of weights while nothing is read.
    pub compute_bytes_per_second: f64,
    /// What the files give while products run: both go through the same memory, and reading takes processor time.
    pub disk_beside_compute_bytes_per_second: f64,
    /// What products take while the files are read.
    pub compute_beside_disk_bytes_per_second: f64,
}

/// What a plan should reach on a machine.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Prediction {
    /// Tokens per second: both rates as they are side by side while both go on, and as they are alone for the rest.
    pub tokens_per_second: f64,
    /// What no plan can pass on this machine: disk and kernels as fast as alone, perfect overlap, and every byte of the
    /// budget that keys, values and activations do not need holding weights.
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

/// Odd, so that there is a median. A disk that is slow for a moment is slow for one turn.
const TURNS: usize = 5;
const TURN: Duration = Duration::from_millis(120);
/// More than what a processor's caches hold.
const MATRIX_BYTES: u64 = 160 << 20;

impl Probe {
    /// Reads parts of the checkpoint with so many `readers` at once and multiplies by a matrix in its most common
    /// encoding, both in pieces of `unit_bytes` as a run does, by turns alone and together.
    ///
    /// # Errors
    /// [`SourceError`] if the files cannot be read.
    ///
    /// # Panics
    /// If `unit_bytes` is 0.
    pub(crate) fn measure(source: &dyn WeightSource, unit_bytes: u64, readers: usize) -> Result<Self, SourceError> {
        let common = most_common(source.index());
        let mut disk = Disk::new(source, unit_bytes, readers);
        let mut kernels = Kernels::new(common.unwrap_or(Encoding::F32), unit_bytes);
        kernels.run(|| false);
        let mut turns: [Vec<f64>; 4] = Default::default();
        for _ in 0..TURNS {
            let start = Instant::now();
            let goes_on = || start.elapsed() < TURN;
            turns[0].push(disk.run(&goes_on)?);
            let start = Instant::now();
            turns[1].push(kernels.run(|| start.elapsed() < TURN));
            let start = Instant::now();
            let (read, multiplied) = std::thread::scope(|scope| {
                let reading = scope.spawn(|| disk.run(&|| start.elapsed() < TURN));
                // No longer than the other, or the end of one would be measured alone.
                let multiplied = kernels.run(|| !reading.is_finished());
                (reading.join().expect("a reader does not panic"), multiplied)
            });
            turns[2].push(read?);
            turns[3].push(multiplied);
        }
        let [disk, compute, disk_beside, compute_beside] = turns.map(median);
        Ok(Self {
            disk_bytes_per_second: disk,
            compute_bytes_per_second: compute,
            // Neither helps the other: what says so is chance.
            disk_beside_compute_bytes_per_second: disk_beside.min(disk),
            compute_beside_disk_bytes_per_second: compute_beside.min(compute),
        })
    }

    /// Seconds in which `streamed` bytes are read and `multiplied` bytes of weights multiplied by, both beginning at once:
    /// the shorter of the two passes beside the other, and the rest of the longer one alone.
    fn seconds(&self, streamed: u64, multiplied: u64) -> f64 {
        let read = seconds(streamed, self.disk_beside_compute_bytes_per_second);
        let multiply = seconds(multiplied, self.compute_beside_disk_bytes_per_second);
        if read >= multiply {
            let alone = self.disk_beside_compute_bytes_per_second / self.disk_bytes_per_second;
            multiply + if read > multiply { (read - multiply) * alone } else { 0.0 }
        } else {
            read + (multiply - read) * self.compute_beside_disk_bytes_per_second / self.compute_bytes_per_second
        }
    }
}

fn seconds(bytes: u64, rate: f64) -> f64 {
    if bytes == 0 { 0.0 } else { bytes as f64 / rate }
}

/// Of an odd number of rates.
fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

impl Plan {
    /// What this plan should reach on a machine with these rates.
    pub fn predict(&self, probe: &Probe) -> Prediction {
        let disk = seconds(self.streamed_bytes, probe.disk_beside_compute_bytes_per_second);
        let compute = seconds(self.pass_bytes, probe.compute_beside_disk_bytes_per_second);
        let least_disk = seconds(self.least_streamed_bytes(), probe.disk_bytes_per_second);
        let least_compute = seconds(self.pass_bytes, probe.compute_bytes_per_second);
        Prediction {
            tokens_per_second: 1.0 / probe.seconds(self.streamed_bytes, self.pass_bytes),
            bound_tokens_per_second: 1.0 / least_disk.max(least_compute),
            limit: if disk > compute { Limit::Disk } else { Limit::Compute },
        }
    }
}

/// Reads as the streamer does: whole units, as many at once, into memory that is used again.
struct Disk<'a> {
    source: &'a dyn WeightSource,
    extents: Vec<Extent>,
    /// Goes on from turn to turn: what was read a moment ago would come from a cache of the disk or the system. At the end
    /// it begins anew, so a model that is read faster than in a second is measured in such a cache.
    next: AtomicU64,
    /// One for each reader.
    buffers: Vec<AlignedBuffer>,
}

impl<'a> Disk<'a> {
    fn new(source: &'a dyn WeightSource, unit_bytes: u64, readers: usize) -> Self {
        let files = source.index().files().iter().zip(0_u32..);
        let extents: Vec<Extent> = files
            .flat_map(|(file, number)| {
                (0..file.len.div_ceil(unit_bytes)).map(move |unit| {
                    let offset = unit * unit_bytes;
                    Extent { file: number, offset, len: unit_bytes.min(file.len - offset) }
                })
            })
            .collect();
        let mut buffers: Vec<_> = (0..readers).map(|_| AlignedBuffer::zeroed(unit_bytes as usize)).collect();
        // Pages are made before anything is timed.
        buffers.iter_mut().for_each(|buffer| buffer.fill(1));
        Self { source, extents, next: AtomicU64::new(0), buffers }
    }

    /// Bytes per second.
    fn run(&mut self, goes_on: &(dyn Fn() -> bool + Sync)) -> Result<f64, SourceError> {
        let Self { source, extents, next, buffers } = self;
        let (source, extents, next): (&dyn WeightSource, &[Extent], &AtomicU64) = (*source, extents, next);
        if extents.is_empty() {
            return Ok(0.0);
        }
        let read = |buffer: &mut AlignedBuffer| -> Result<u64, SourceError> {
            let mut bytes = 0;
            while goes_on() {
                let extent = extents[next.fetch_add(1, Relaxed) as usize % extents.len()];
                source.read_at(extent, &mut buffer[..extent.len as usize])?;
                bytes += extent.len;
            }
            Ok(bytes)
        };
        let start = Instant::now();
        let bytes: Result<u64, SourceError> = std::thread::scope(|scope| {
            let readers: Vec<_> = buffers.iter_mut().map(|buffer| scope.spawn(|| read(buffer))).collect();
            readers.into_iter().map(|reader| reader.join().expect("a reader does not panic")).sum()
        });
        Ok(bytes? as f64 / start.elapsed().as_secs_f64())
    }
}

/// Multiplies as a token does: one unit after another, each from memory, so that what a product costs beside its bytes
/// (rounding activations, waking threads) is counted as often as in a run.
struct Kernels {
    encoding: Encoding,
    rows_per_unit: usize,
    /// Of whole rows each, in the same kind of memory as a run's: how large its pages are decides how fast it is read.
    units: Vec<AlignedBuffer>,
    next: usize,
    x: Vec<f32>,
    y: Vec<f32>,
}

const COLUMNS: u64 = 4096;

/// As f32, f16 and bf16 a number of usual size. Not 0: memory that was never written is one page over and over, and lies in
/// the first-level cache. Nor 1: as f16, the scale of a block, that is a subnormal number, which may take longer.
const FILLING: u8 = 0x3c;

impl Kernels {
    fn new(encoding: Encoding, unit_bytes: u64) -> Self {
        let row_bytes = encoding.bytes_for(COLUMNS).unwrap_or(COLUMNS);
        let rows_per_unit = (unit_bytes / row_bytes).max(1);
        let unit_bytes = rows_per_unit * row_bytes;
        let unit = || {
            let mut unit = AlignedBuffer::zeroed(unit_bytes as usize);
            unit.fill(FILLING);
            unit
        };
        Self {
            encoding,
            rows_per_unit: rows_per_unit as usize,
            units: (0..MATRIX_BYTES.div_ceil(unit_bytes)).map(|_| unit()).collect(),
            next: 0,
            x: vec![0.5; COLUMNS as usize],
            y: vec![0.0; rows_per_unit as usize],
        }
    }

    /// Bytes per second, of at least one unit; infinite for an encoding that is not multiplied by.
    fn run(&mut self, goes_on: impl Fn() -> bool) -> f64 {
        let (start, mut bytes) = (Instant::now(), 0);
        loop {
            let unit = &self.units[self.next];
            let matrix = PackedMatrix::new(self.encoding, self.rows_per_unit, COLUMNS as usize, unit);
            let Ok(matrix) = matrix else { return f64::INFINITY };
            matrix.multiply(&self.x, &mut self.y, self.rows_per_unit);
            std::hint::black_box(&self.y);
            bytes += unit.len();
            self.next = (self.next + 1) % self.units.len();
            if !goes_on() {
                return bytes as f64 / start.elapsed().as_secs_f64();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk of 2 GB/s that gives 1 beside products, kernels of 20 GB/s that take 10 beside reads.
    const PROBE: Probe = Probe {
        disk_bytes_per_second: 2e9,
        compute_bytes_per_second: 20e9,
        disk_beside_compute_bytes_per_second: 1e9,
        compute_beside_disk_bytes_per_second: 10e9,
    };
    const GB: u64 = 1_000_000_000;

    #[test]
    fn what_is_longer_goes_on_alone_at_its_own_rate() {
        for (streamed, multiplied, expected) in [
            // Nothing to read: the kernels alone. Nothing to multiply: the disk alone.
            (0, 10 * GB, 0.5),
            (2 * GB, 0, 1.0),
            // One second each, side by side throughout.
            (GB, 10 * GB, 1.0),
            // After 1 s of both, 2 GB are left to read alone: 1 s.
            (3 * GB, 10 * GB, 2.0),
            // After 1 s of both, 30 GB are left to multiply by alone: 1.5 s.
            (GB, 40 * GB, 2.5),
            (0, 0, 0.0),
        ] {
            let seconds = PROBE.seconds(streamed, multiplied);
            assert!((seconds - expected).abs() < 1e-9, "{streamed} and {multiplied}: {seconds}, not {expected}");
        }
    }

    #[test]
    fn where_neither_slows_the_other_it_is_perfect_overlap() {
        let probe =
            Probe { disk_beside_compute_bytes_per_second: 2e9, compute_beside_disk_bytes_per_second: 20e9, ..PROBE };
        for (streamed, multiplied, expected) in [(4 * GB, 20 * GB, 2.0), (GB, 40 * GB, 2.0), (2 * GB, 20 * GB, 1.0)] {
            assert!((probe.seconds(streamed, multiplied) - expected).abs() < 1e-9);
        }
    }

    #[test]
    fn kernels_that_are_not_measured_and_a_disk_without_files_take_no_time() {
        let unknown = f64::INFINITY;
        let probe = Probe { compute_bytes_per_second: unknown, compute_beside_disk_bytes_per_second: unknown, ..PROBE };
        assert!((probe.seconds(2 * GB, 10 * GB) - 1.0).abs() < 1e-9);
        let probe = Probe { disk_bytes_per_second: 0.0, disk_beside_compute_bytes_per_second: 0.0, ..PROBE };
        assert!((probe.seconds(0, 20 * GB) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn the_median_is_neither_the_best_nor_the_mean() {
        assert_eq!(median(vec![9.0, 1.0, 2.0, 100.0, 3.0]), 3.0);
    }
}
