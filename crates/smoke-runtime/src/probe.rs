//! How fast this machine is, measured in about two seconds: disk and kernels alone, and together.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use smoke_core::{Encoding, UnitId};
use smoke_predict::RoutedUnit;
use smoke_prefetch::Streamer;
use smoke_quant::PackedMatrix;
use smoke_storage::{AlignedBuffer, SourceError, UnitMap, WeightSource};

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
    /// Reads the units of `order` as the streamer would, and multiplies by a matrix in the checkpoint's most common encoding,
    /// in pieces as large as a unit, by turns alone and together.
    ///
    /// # Errors
    /// [`SourceError`] if the files cannot be read.
    pub(crate) fn measure(streamer: &Streamer, order: Vec<UnitId>) -> Result<Self, SourceError> {
        let units = streamer.units();
        let largest_bytes = units.units().map(|unit| units.buffer_bytes(unit)).fold(1, u64::max);
        let common = most_common(streamer.source().index());
        let disk = Disk::new(streamer, order, largest_bytes);
        // Larger pieces are multiplied no faster, and this is beside the budget.
        let mut kernels = Kernels::new(common.unwrap_or(Encoding::F32), largest_bytes.min(16 << 20));
        kernels.run(|| false);
        let mut turns: [Vec<f64>; 4] = Default::default();
        for _ in 0..TURNS {
            turns[0].push(disk.run(TURN)?);
            let start = Instant::now();
            turns[1].push(kernels.run(|| start.elapsed() < TURN));
            let (read, multiplied) = std::thread::scope(|scope| {
                let reading = scope.spawn(|| disk.run(TURN));
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

/// What is read where `pinned` stays, in the order of use, and of experts one token's share after another's. All of it where
/// everything stays, so that there is a rate.
pub(crate) fn streamed(cycle: &[UnitId], routed: &[RoutedUnit], pinned: &[UnitId]) -> Vec<UnitId> {
    let largest_share = routed.iter().map(|routed| routed.share).fold(0.0, f32::max);
    let tokens = (1.0 / largest_share.clamp(f32::EPSILON, 1.0)).round() as usize;
    let experts = (0..tokens.min(routed.len())).flat_map(|token| routed.iter().skip(token).step_by(tokens));
    let pinned: HashSet<&UnitId> = pinned.iter().collect();
    let shared = cycle.iter().copied().filter(|unit| !pinned.contains(unit));
    let streamed: Vec<UnitId> = shared.chain(experts.map(|routed| routed.unit)).collect();
    if streamed.is_empty() { cycle.to_vec() } else { streamed }
}

/// Reads as the streamer does: the same units in the same order, as many at once, into memory that is used again. A disk may
/// give less for units that lie apart than for what follows one another, and less into much memory than into little.
struct Disk<'a> {
    source: &'a dyn WeightSource,
    units: &'a UnitMap,
    order: Vec<UnitId>,
    /// Goes on from turn to turn: what was read a moment ago would come from a cache of the disk or the system. At the end
    /// it begins anew, so units that are read faster than in a second are measured in such a cache.
    next: AtomicUsize,
    readers: usize,
    /// Those that nobody reads into, the one that was filled the longest ago first.
    buffers: Mutex<VecDeque<AlignedBuffer>>,
}

impl<'a> Disk<'a> {
    fn new(streamer: &'a Streamer, order: Vec<UnitId>, largest_bytes: u64) -> Self {
        let readers = streamer.io_threads();
        let buffer = || {
            let mut buffer = AlignedBuffer::zeroed(largest_bytes as usize);
            // Pages are made before anything is timed.
            buffer.fill(1);
            buffer
        };
        // For the unit in use, too: while the computation waits, the next one is read into the memory of the last.
        let buffers = (0..readers + 1).map(|_| buffer()).collect();
        Self {
            source: streamer.source(),
            units: streamer.units(),
            order,
            next: AtomicUsize::new(0),
            readers,
            buffers: Mutex::new(buffers),
        }
    }

    fn buffers(&self) -> MutexGuard<'_, VecDeque<AlignedBuffer>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes per second.
    fn run(&self, turn: Duration) -> Result<f64, SourceError> {
        if self.order.is_empty() {
            return Ok(0.0);
        }
        let flow = Mutex::new(Flow::new(Instant::now() + turn, 2 * self.readers));
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..self.readers).map(|_| scope.spawn(|| self.read(&flow))).collect();
            readers.into_iter().try_for_each(|reader| reader.join().expect("a reader does not panic"))
        })?;
        let flow = flow.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(flow.bytes_per_second())
    }

    /// Reads units until the flow is measured.
    fn read(&self, flow: &Mutex<Flow>) -> Result<(), SourceError> {
        let flow = || flow.lock().unwrap_or_else(PoisonError::into_inner);
        while !flow().is_measured() {
            let unit = self.order[self.next.fetch_add(1, Relaxed) % self.order.len()];
            let mut buffer = self.buffers().pop_front().expect("a buffer for each reader");
            self.units.load_into(unit, self.source, &mut buffer, &|| false)?;
            self.buffers().push_back(buffer);
            flow().add(self.units.buffer_bytes(unit), Instant::now());
        }
        Ok(())
    }
}

/// What came from the end of the first read to that of the last one, while others were always under way, as in a run: what
/// a turn takes to begin and to end is no part of it.
struct Flow {
    until: Instant,
    /// A slow disk may need longer than that for enough of them.
    least_reads: usize,
    between: Option<(Instant, Instant)>,
    bytes: u64,
    reads: usize,
}

impl Flow {
    fn new(until: Instant, least_reads: usize) -> Self {
        Self { until, least_reads, between: None, bytes: 0, reads: 0 }
    }

    fn is_measured(&self) -> bool {
        self.reads >= self.least_reads && self.between.is_some_and(|(_, last)| last >= self.until)
    }

    /// A read of so many bytes has ended.
    fn add(&mut self, bytes: u64, now: Instant) {
        if self.is_measured() {
            return;
        }
        let Some((_, last)) = &mut self.between else {
            self.between = Some((now, now));
            return;
        };
        (*last, self.bytes, self.reads) = (now.max(*last), self.bytes + bytes, self.reads + 1);
    }

    fn bytes_per_second(&self) -> f64 {
        let duration = self.between.map_or(Duration::ZERO, |(first, last)| last - first);
        self.bytes as f64 / duration.max(Duration::from_nanos(1)).as_secs_f64()
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

    fn units(numbers: impl IntoIterator<Item = u32>) -> Vec<UnitId> {
        numbers.into_iter().map(UnitId).collect()
    }

    #[test]
    fn what_streams_is_read_in_the_order_of_use() {
        assert_eq!(streamed(&units([3, 0, 1, 3, 2]), &[], &units([0, 2])), units([3, 1, 3]));
        assert_eq!(streamed(&units([1, 0]), &[], &units([0, 1])), units([1, 0]), "everything stays");
        assert_eq!(streamed(&[], &[], &[]), []);
    }

    #[test]
    fn experts_are_read_as_tokens_choose_them_and_each_once() {
        // Two layers of four experts, of which a token uses two.
        let expert = |unit| RoutedUnit { unit: UnitId(unit), place: unit as usize / 4, share: 0.5 };
        let routed: Vec<_> = (2..10).map(expert).collect();
        let shared = units([0, 1]);
        assert_eq!(streamed(&shared, &routed, &shared), units([2, 4, 6, 8, 3, 5, 7, 9]));
        assert_eq!(streamed(&shared, &routed, &units([0])), units([1, 2, 4, 6, 8, 3, 5, 7, 9]));
    }

    #[test]
    fn a_flow_is_what_comes_while_it_flows() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut flow = Flow::new(at(100), 3);
        // The first took a start, and the one that ends after the turn has nothing beside it any more.
        for (milliseconds, bytes, is_measured) in
            [(50, 9000, false), (60, 20, false), (110, 20, false), (150, 60, true), (190, 9000, true)]
        {
            flow.add(bytes, at(milliseconds));
            assert_eq!(flow.is_measured(), is_measured, "{milliseconds} ms");
        }
        assert!((flow.bytes_per_second() - 1000.0).abs() < 1e-6, "{}", flow.bytes_per_second());
    }

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
