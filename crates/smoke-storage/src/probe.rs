//! Measures how a disk is read best.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::buffer::AlignedBuffer;
use crate::profile::DiskProfile;
use crate::reader::{ReadError, Reader, ReaderKind};

/// What is tried, the least demanding first: of equals the first one is taken.
const PACES: [(u64, u32); 6] = [(1 << 20, 4), (2 << 20, 4), (1 << 20, 16), (2 << 20, 8), (4 << 20, 4), (4 << 20, 8)];

/// A read of the size of a unit.
const READ_BYTES: usize = 16 << 20;

/// How long each way is tried in each round.
const TRIAL: Duration = Duration::from_millis(25);

/// Twice, for the first trial of a disk may be slow, and any may be disturbed; the better one counts.
const ROUNDS: usize = 2;

/// When no more trials begin.
const DEADLINE: Duration = Duration::from_millis(600);

/// Rates that differ by less are equal: one trial says no more.
const NOISE: f64 = 0.05;

impl DiskProfile {
    /// Reads parts of a file past the page cache, in several ways, and says which one is best. Takes well under a
    /// second, and reads up to a few GB of a fast disk.
    ///
    /// # Errors
    /// If the file cannot be read past the page cache, or is empty.
    pub fn measure(path: &Path) -> io::Result<Self> {
        let start = Instant::now();
        let mut places = Places::of(std::fs::metadata(path)?.len())?;
        let mut buffer = AlignedBuffer::zeroed(places.read_bytes);
        // Pages are made before anything is timed.
        buffer.fill(1);
        let direct = Self { reader: ReaderKind::Direct, ..Self::default() };
        let uring = PACES.map(|(block_bytes, queue_depth)| Self { block_bytes, queue_depth, ..Self::default() });
        let mut trials = Vec::new();
        for profile in std::iter::once(direct).chain(uring) {
            match Reader::open(path, profile.reader, &profile) {
                Ok(reader) => trials.push(Trial { profile, reader, bytes_per_second: 0.0 }),
                Err(error) if profile.reader == ReaderKind::Direct => return Err(io::Error::other(error)),
                // The kernel has no io_uring.
                Err(_) => {}
            }
        }
        for round in 0..ROUNDS {
            for trial in &mut trials {
                if round == 0 || start.elapsed() < DEADLINE {
                    trial.run(&mut places, &mut buffer)?;
                }
            }
        }
        let rates: Vec<f64> = trials.iter().map(|trial| trial.bytes_per_second).collect();
        let best = &trials[best_of(&rates)];
        Ok(Self { bytes_per_second: Some(best.bytes_per_second as u64), ..best.profile })
    }
}

/// The place of the way to take, of which the first one is direct reads and the others are rings: the first ring that
/// is as good as the best one, unless direct reads are better.
fn best_of(rates: &[f64]) -> usize {
    let (direct, rings) = rates.split_first().expect("direct reads are always tried");
    let best = rings.iter().copied().fold(0.0, f64::max);
    match rings.iter().position(|&rate| rate >= best * (1.0 - NOISE)) {
        Some(ring) if best >= direct * (1.0 - NOISE) => ring + 1,
        _ => 0,
    }
}

struct Trial {
    profile: DiskProfile,
    reader: Reader,
    bytes_per_second: f64,
}

impl Trial {
    fn run(&mut self, places: &mut Places, buffer: &mut AlignedBuffer) -> io::Result<()> {
        let start = Instant::now();
        let mut bytes = 0;
        while start.elapsed() < TRIAL {
            match self.reader.read_at(places.next(), buffer, &|| false) {
                Ok(()) => bytes += buffer.len(),
                Err(ReadError::Io(error)) => return Err(error),
                Err(ReadError::Cancelled) => return Err(io::ErrorKind::Interrupted.into()),
            }
        }
        self.bytes_per_second = self.bytes_per_second.max(bytes as f64 / start.elapsed().as_secs_f64());
        Ok(())
    }
}

/// Where to read next: all over the file, no place twice before all were read, for the disk may have a cache.
struct Places {
    count: u64,
    stride: u64,
    read: u64,
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
        Ok(Self { count, stride, read: 0, read_bytes })
    }

    fn next(&mut self) -> u64 {
        let place = (self.read % self.count) * self.stride % self.count;
        self.read += 1;
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
            let mut places = Places::of(len).unwrap();
            let mut offsets: Vec<u64> = (0..places.count).map(|_| places.next()).collect();
            assert!(offsets.iter().all(|offset| offset + places.read_bytes as u64 <= len));
            offsets.sort_unstable();
            offsets.dedup();
            assert_eq!(offsets.len() as u64, places.count, "a file of {len} bytes");
        }
        assert!(Places::of(0).is_err());
    }

    #[test]
    fn the_first_ring_of_the_best_is_taken_and_direct_reads_only_where_they_are_better() {
        for (rates, best) in [
            (&[1.0, 2.0, 2.5, 2.6][..], 2),
            (&[1.0, 2.6, 2.5, 2.6], 1),
            (&[2.7, 2.0, 2.5, 2.6], 2),
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
