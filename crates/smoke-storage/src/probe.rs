//! Measures how a disk is read best.

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::{Duration, Instant};

use crate::buffer::AlignedBuffer;
use crate::profile::DiskProfile;
use crate::reader::{ReadError, Reader, ReaderKind};

/// The rings that are tried after direct reads: block size and queue depth, the least demanding first. No block is larger
/// than a huge page: one that begins on a huge page and ends on small ones comes at the rate of these.
const PACES: [(u64, u32); 4] = [(512 << 10, 4), (1 << 20, 2), (1 << 20, 4), (2 << 20, 4)];

/// A read of the size of a unit that fills one huge page and most of a second: its end lies on small pages. Of whole huge
/// pages direct reads are as fast as a ring, but of units like this they gave 1.3 GB/s where a ring gave 1.8.
const READ_BYTES: usize = 7 << 19;

/// Reads of one way in one round, by all readers together; fewer on a slow disk, where a turn ends in time.
const READS: usize = 12;
const TURN: Duration = Duration::from_millis(60);

/// All ways take turns, so that a disk that is slow for a moment is slow for all of them, and of its turns each is judged by
/// the median.
const ROUNDS: usize = 9;

/// When no more rounds begin.
const DEADLINE: Duration = Duration::from_millis(1200);

/// Rates that differ by less are equal: the trials say no more.
const NOISE: f64 = 0.03;

impl DiskProfile {
    /// How many threads read at a time where a profile is measured, and how many should: two keep a disk busy while one
    /// of them hands over what it has read.
    pub const READERS: usize = 2;

    /// Reads parts of a file past the page cache, in several ways, and says which one is best. Takes one to two
    /// seconds, and reads up to a few GB of a fast disk.
    ///
    /// # Errors
    /// If the file cannot be read past the page cache, or is empty.
    pub fn measure(path: &Path) -> io::Result<Self> {
        let start = Instant::now();
        let places = Places::of(std::fs::metadata(path)?.len())?;
        let mut buffers = [0; Self::READERS].map(|_| AlignedBuffer::zeroed(places.read_bytes));
        // Pages are made before anything is timed.
        buffers.iter_mut().for_each(|buffer| buffer.fill(1));
        let direct = Self { reader: ReaderKind::Direct, ..Self::default() };
        let uring = PACES.map(|(block_bytes, queue_depth)| Self { block_bytes, queue_depth, ..Self::default() });
        let mut trials = Vec::new();
        for profile in std::iter::once(direct).chain(uring) {
            match Reader::open(path, profile.reader, &profile) {
                Ok(reader) => trials.push(Trial { profile, reader, rates: Vec::with_capacity(ROUNDS) }),
                Err(error) if profile.reader == ReaderKind::Direct => return Err(io::Error::other(error)),
                // The kernel has no io_uring.
                Err(_) => {}
            }
        }
        for round in 0..ROUNDS {
            if round > 1 && start.elapsed() >= DEADLINE {
                break;
            }
            for trial in &mut trials {
                // The first round of a disk may be slow.
                if round == 1 {
                    trial.rates.clear();
                }
                trial.run(&places, &mut buffers)?;
            }
        }
        let rates: Vec<f64> = trials.iter_mut().map(Trial::bytes_per_second).collect();
        let best = best_of(&rates);
        Ok(Self { bytes_per_second: Some(rates[best] as u64), ..trials[best].profile })
    }
}

/// The first way that is as good as the best one.
fn best_of(rates: &[f64]) -> usize {
    let best = rates.iter().copied().fold(0.0, f64::max);
    rates.iter().position(|&rate| rate >= best * (1.0 - NOISE)).unwrap_or(0)
}

struct Trial {
    profile: DiskProfile,
    reader: Reader,
    /// Bytes per second, by turn.
    rates: Vec<f64>,
}

impl Trial {
    fn run(&mut self, places: &Places, buffers: &mut [AlignedBuffer]) -> io::Result<()> {
        let (reader, left, start) = (&self.reader, AtomicUsize::new(READS), Instant::now());
        let read = |buffer: &mut AlignedBuffer| -> io::Result<u64> {
            let mut bytes = 0;
            while start.elapsed() < TURN && left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
                match reader.read_at(places.next(), buffer, &|| false) {
                    Ok(()) => bytes += buffer.len() as u64,
                    Err(ReadError::Io(error)) => return Err(error),
                    Err(ReadError::Cancelled) => return Err(io::ErrorKind::Interrupted.into()),
                }
            }
            Ok(bytes)
        };
        let bytes: io::Result<u64> = std::thread::scope(|scope| {
            let readers: Vec<_> = buffers.iter_mut().map(|buffer| scope.spawn(|| read(buffer))).collect();
            readers.into_iter().map(|reader| reader.join().expect("a reader does not panic")).sum()
        });
        self.rates.push(bytes? as f64 / start.elapsed().as_secs_f64().max(1e-9));
        Ok(())
    }

    /// The median; of an even number of turns the faster of the two in the middle.
    fn bytes_per_second(&mut self) -> f64 {
        self.rates.sort_by(f64::total_cmp);
        self.rates[self.rates.len() / 2]
    }
}

/// Where to read next: all over the file, no place twice before all were read, for the disk may have a cache.
struct Places {
    count: u64,
    stride: u64,
    read: AtomicU64,
    read_bytes: usize,
}

impl Places {
    fn of(file_len: u64) -> io::Result<Self> {
        let read_bytes = READ_BYTES.min(usize::try_from(file_len).unwrap_or(READ_BYTES));
        if read_bytes == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is empty"));
        }
        let count = file_len / read_bytes as u64;
        // No common divisor with the count, so that the walk meets every place.
        let mut stride = count * 5 / 8 + 1;
        while greatest_common_divisor(stride, count) != 1 {
            stride += 1;
        }
        Ok(Self { count, stride, read: AtomicU64::new(0), read_bytes })
    }

    fn next(&self) -> u64 {
        let place = (self.read.fetch_add(1, Relaxed) % self.count) * self.stride % self.count;
        place * self.read_bytes as u64
    }
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_file::file_of;

    #[test]
    fn places_are_all_different_and_inside() {
        for len in [1, 4096, READ_BYTES as u64 - 1, READ_BYTES as u64, 5 << 26, 12_345_678_901] {
            let places = Places::of(len).unwrap();
            let mut offsets: Vec<u64> = (0..places.count).map(|_| places.next()).collect();
            assert!(offsets.iter().all(|offset| offset + places.read_bytes as u64 <= len));
            offsets.sort_unstable();
            offsets.dedup();
            assert_eq!(offsets.len() as u64, places.count, "a file of {len} bytes");
        }
        assert!(Places::of(0).is_err());
    }

    #[test]
    fn the_first_of_the_best_is_taken() {
        for (rates, best) in [
            (&[1.0, 2.0, 2.5, 2.55][..], 2),
            (&[1.0, 2.6, 2.5, 2.6], 1),
            (&[2.55, 2.0, 2.5, 2.6], 0),
            (&[3.0, 2.0, 2.5, 2.6], 0),
            (&[1.0], 0),
        ] {
            assert_eq!(best_of(rates), best, "{rates:?}");
        }
    }

    #[test]
    fn a_file_is_measured_in_bounded_time() {
        let file = file_of(&[7; 3 << 20]);
        let profile = DiskProfile::measure(file.path()).unwrap();
        assert!(profile.bytes_per_second.unwrap() > 0);
        assert!(matches!(profile.reader, ReaderKind::Uring | ReaderKind::Direct));
        assert!(DiskProfile::measure(Path::new("/absent")).is_err());
    }
}
