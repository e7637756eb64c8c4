//! How fast a checkpoint is read, by each reader: GB/s and processor time per GB, by block size and queue depth.
//!
//! `cargo run --release -p smoke-storage --example reader_speed -- MODEL [MIB_PER_ROW]`. For `direct` and `pread` the
//! depth is the number of threads, for `uring` that of blocks in flight by one thread. Each row reads other bytes than
//! the row before; give it a model larger than what the disk caches.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use smoke_storage::{AlignedBuffer, Checkpoint, DiskProfile, Extent, ReaderKind, SourceError, WeightSource};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// What one read of a unit asks for, where one thread keeps several blocks in flight.
const UNIT: u64 = 32 << 20;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("name a model")?;
    let row_bytes = arguments.next().map_or(Ok(512), |mib| mib.parse::<u64>())? << 20;
    let start = Instant::now();
    let measured = DiskProfile::measure(Path::new(&path))?;
    println!("measured in {:.2} s: {measured:?}\n", start.elapsed().as_secs_f64());
    println!("| reader | block | depth | GB/s | CPU s/GB |\n|---|--:|--:|--:|--:|");
    let mut position = 0;
    for reader in [ReaderKind::Uring, ReaderKind::Direct, ReaderKind::Pread] {
        for block_kib in [256, 512, 1024, 2048, 4096, 8192] {
            for depth in [1, 2, 4, 8, 16, 32] {
                let mut profile = DiskProfile::default();
                (profile.reader, profile.block_bytes, profile.queue_depth) = (reader, block_kib << 10, depth);
                let checkpoint = Checkpoint::open_profiled(&path, &profile)?;
                let (threads, each) = match reader {
                    ReaderKind::Uring => (1, UNIT),
                    _ => (u64::from(depth), block_kib << 10),
                };
                let (time, cpu) = read(&checkpoint, &mut position, row_bytes, threads, each)?;
                let gigabytes = row_bytes as f64 / 1e9;
                let (rate, cost) = (gigabytes / time.as_secs_f64(), cpu / gigabytes);
                println!("| {reader:?} | {block_kib} KiB | {depth} | {rate:.2} | {cost:.3} |");
            }
        }
    }
    Ok(())
}

/// Reads `bytes` of the first file from `position` on, by so many threads and so much at once.
fn read(source: &Checkpoint, position: &mut u64, bytes: u64, threads: u64, each: u64) -> Result<(Duration, f64)> {
    let places = source.index().files()[0].len / each;
    let (next, end) = (AtomicU64::new(*position / each), (*position + bytes) / each);
    *position += bytes;
    let mut buffers: Vec<_> = (0..threads).map(|_| AlignedBuffer::zeroed((each as usize).max(2 << 20))).collect();
    // Pages are made before anything is timed.
    buffers.iter_mut().for_each(|buffer| buffer.fill(1));
    let (start, cpu) = (Instant::now(), cpu_seconds()?);
    let work = |buffer: &mut AlignedBuffer| {
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            if place >= end {
                return Ok::<(), SourceError>(());
            }
            let extent = Extent { file: 0, offset: place % places * each, len: each };
            source.read_at(extent, &mut buffer[..each as usize])?;
        }
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = buffers.iter_mut().map(|buffer| scope.spawn(|| work(buffer))).collect();
        readers.into_iter().try_for_each(|reader| reader.join().expect("a reader does not panic"))
    })?;
    Ok((start.elapsed(), cpu_seconds()? - cpu))
}

/// Processor time of this process so far, in ticks of a hundredth of a second.
fn cpu_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit_once(')').ok_or("a name in brackets")?.1;
    let ticks = after_name.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<std::result::Result<f64, _>>()? / 100.0)
}
