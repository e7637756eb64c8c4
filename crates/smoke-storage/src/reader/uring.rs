//! Direct reads of many blocks at once by one thread: io_uring.
//!
//! Neither buffers nor files are registered with the ring. Measured with blocks of 2 MiB on huge pages, 16 in flight:
//! 2.8 to 3.0 GB/s and 0.006 s of processor time per GB without, 2.8 to 2.9 GB/s and 0.004 s with both. On small pages
//! registering takes the processor time from 0.034 to 0.009 s per GB and leaves the rate at 1.2 GB/s. It would tie the
//! reader to buffers that somebody has announced.
//!
//! On that disk, blocking reads of 2 MiB on huge pages reach the rate of the ring; the ring is for disks that want a
//! queue, and it keeps one however few threads read.
//!
//! The end of a buffer that is no multiple of 2 MiB lies on small pages. It is read by way of a huge page and copied:
//! see `Flight::staging`.

use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use io_uring::{IoUring, Probe, opcode, types};

use super::direct::{BLOCK, DirectFile};
use super::{Pace, ReadError, ended};
use crate::buffer::AlignedBuffer;
use crate::mapping::HUGE_PAGE;

/// Reads past the page cache, as many blocks at once as the pace says.
#[derive(Debug)]
pub(crate) struct UringFile {
    file: DirectFile,
    pace: Pace,
}

/// Rings are kept for the next read, whichever thread makes it.
static IDLE: Mutex<Vec<Lane>> = Mutex::new(Vec::new());

/// More threads than this do not read at once for long.
const MOST_IDLE: usize = 8;

/// The entries of a ring: at least the greatest queue depth.
const ENTRIES: u32 = Pace::DEEPEST as u32;

impl UringFile {
    pub(crate) fn open(path: &Path, pace: Pace) -> io::Result<Self> {
        give_back(take_lane()?);
        Ok(Self { file: DirectFile::open(path)?, pace: pace.clamped() })
    }

    pub(crate) fn read_at(&self, offset: u64, buf: &mut [u8], should_stop: &dyn Fn() -> bool) -> Result<(), ReadError> {
        let (aligned, rest) = DirectFile::split(offset, buf);
        let rest_offset = offset + aligned.len() as u64;
        if aligned.len() <= self.pace.block_bytes {
            // One block needs no queue.
            super::check_stop(should_stop)?;
            self.file.read_aligned(offset, aligned)?;
        } else {
            return self.read_all(&mut [(offset, buf)], should_stop);
        }
        Ok(self.file.bounce(rest_offset, rest)?)
    }

    /// Several ranges at once.
    pub(crate) fn read_all(
        &self,
        reads: &mut [(u64, &mut [u8])],
        should_stop: &dyn Fn() -> bool,
    ) -> Result<(), ReadError> {
        let mut flight = Flight { lane: Some(take_lane()?), in_flight: 0 };
        let total: usize = reads.iter().map(|(_, buf)| buf.len()).sum();
        let mut blocks = Vec::with_capacity(total.div_ceil(self.pace.block_bytes) + reads.len() + 1);
        let mut whole = reads.len();
        if let Some((offset, buf)) = reads.last_mut() {
            let (aligned, _) = DirectFile::split(*offset, buf);
            let (base, len) = (aligned.as_mut_ptr(), aligned.len());
            let staged = staged(base.addr(), len, total);
            if staged < len {
                // First of all, so that it is copied while others are read.
                let copy_to = Some((base.wrapping_add(staged), len - staged));
                let (offset, to) = (*offset + staged as u64, flight.staging());
                blocks.push(Block { offset, to, len: len - staged, copy_to });
            }
            self.cut(*offset, base, staged, &mut blocks);
            whole -= 1;
        }
        for (offset, buf) in &mut reads[..whole] {
            let (aligned, _) = DirectFile::split(*offset, buf);
            self.cut(*offset, aligned.as_mut_ptr(), aligned.len(), &mut blocks);
        }
        // SAFETY: the blocks are parts of the buffers, which are borrowed until after the flight, but for the staged one,
        // which alone is in the flight's own staging memory and no longer than that. They do not overlap.
        unsafe { self.fly(&mut flight, &mut blocks, should_stop) }?;
        for (offset, buf) in reads {
            let (aligned, rest) = DirectFile::split(*offset, buf);
            self.file.bounce(*offset + aligned.len() as u64, rest)?;
        }
        Ok(())
    }

    /// Appends the blocks of a range of `len` bytes that is read to `to`.
    fn cut(&self, offset: u64, to: *mut u8, len: usize, blocks: &mut Vec<Block>) {
        blocks.extend((0..len).step_by(self.pace.block_bytes).map(|start| Block {
            offset: offset + start as u64,
            to: to.wrapping_add(start),
            len: (len - start).min(self.pace.block_bytes),
            copy_to: None,
        }));
    }

    /// Reads all of `blocks`, as many at once as the pace says.
    ///
    /// # Safety
    /// The memory of every block, and where it is copied to, must be writable and used by nobody else until `flight` is
    /// dropped.
    unsafe fn fly(
        &self,
        flight: &mut Flight,
        blocks: &mut [Block],
        should_stop: &dyn Fn() -> bool,
    ) -> Result<(), ReadError> {
        let staging = flight.staging();
        // The numbers of blocks to read, the next one last.
        let mut waiting: Vec<usize> = (0..blocks.len()).rev().collect();
        let mut failed: Option<ReadError> = None;
        loop {
            while failed.is_none() && flight.in_flight < self.pace.queue_depth {
                let Some(number) = waiting.pop() else { break };
                if should_stop() {
                    failed = Some(ReadError::Cancelled);
                    break;
                }
                let Block { offset, to, len, .. } = blocks[number];
                // SAFETY: the kernel writes `len` bytes at `to` until this entry completes. The caller keeps that memory
                // until `flight` is dropped, which waits for all entries, in case of a panic, too.
                unsafe { flight.push(&self.file, to, len, offset, number) };
            }
            if flight.in_flight == 0 {
                break;
            }
            if let Err(error) = flight.wait()
                && !is_passing(&error)
            {
                failed.get_or_insert(error.into());
            }
            while let Some((number, read)) = flight.completed() {
                let block = &mut blocks[number];
                match read {
                    Ok(read) if read == block.len => {
                        if let Some((to, len)) = block.copy_to {
                            // SAFETY: this block alone was read to the staging memory, and is complete. Where it goes is
                            // `len` bytes long and no part of the staging memory.
                            unsafe { to.copy_from_nonoverlapping(staging, len) };
                        }
                    }
                    // Less than a block is the end of the file; what is left begins on a block, too.
                    Ok(read) if read >= BLOCK => {
                        let done = read - read % BLOCK;
                        (block.offset, block.to) = (block.offset + done as u64, block.to.wrapping_add(done));
                        block.len -= done;
                        waiting.push(number);
                    }
                    Ok(_) => drop(failed.get_or_insert(ended().into())),
                    Err(error) if is_passing(&error) => waiting.push(number),
                    Err(error) => drop(failed.get_or_insert(error.into())),
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Where the part of the last of some ranges begins that is read to the staging memory: at the last huge page, which a
/// unit of `total` bytes does not fill. A short part is read where it belongs, and so is a unit that has no huge page.
fn staged(address: usize, len: usize, total: usize) -> usize {
    let rest = ((address + len) % HUGE_PAGE).min(len);
    if total >= HUGE_PAGE && rest >= WORTH_STAGING { len - rest } else { len }
}

/// Fewer bytes are read faster than they are copied.
const WORTH_STAGING: usize = 128 << 10;

/// Part of a read.
#[derive(Clone, Copy)]
struct Block {
    /// In the file.
    offset: u64,
    /// Where the bytes go.
    to: *mut u8,
    len: usize,
    /// Where they are copied when all are there, and how many: from the begin of the staging memory.
    copy_to: Option<(*mut u8, usize)>,
}

/// What a thread needs to read.
struct Lane {
    ring: IoUring,
    /// A huge page. Small pages are many pieces to the disk: units of 13.7 MiB came at 2.2 GB/s where those of 16 MiB
    /// came at 2.7. Not in the ledger of the budget: 2 MiB for each thread that reads.
    staging: AlignedBuffer,
}

/// A lane in use. Nothing is in flight any more when it is dropped.
struct Flight {
    /// Always there before the drop.
    lane: Option<Lane>,
    in_flight: usize,
}

impl Flight {
    fn lane(&mut self) -> &mut Lane {
        self.lane.as_mut().expect("the lane is given back at the end only")
    }

    fn ring(&mut self) -> &mut IoUring {
        &mut self.lane().ring
    }

    /// The staging memory, for which only the holder of the pointer has a use.
    fn staging(&mut self) -> *mut u8 {
        self.lane().staging.as_mut_ptr()
    }

    /// Puts a read into the queue; `in_flight` is below [`ENTRIES`].
    ///
    /// # Safety
    /// The kernel may write `len` bytes at `to`, and read from `file`, until the entry has completed or the flight is
    /// dropped.
    unsafe fn push(&mut self, file: &DirectFile, to: *mut u8, len: usize, offset: u64, number: usize) {
        let len = u32::try_from(len).expect("a block is small");
        let read = opcode::Read::new(types::Fd(file.as_raw_fd()), to, len).offset(offset).build();
        // SAFETY: the caller keeps the memory and the file.
        let pushed = unsafe { self.ring().submission().push(&read.user_data(number as u64)) };
        // The kernel takes every entry when it is told of them, so the queue is as empty as the count says.
        pushed.expect("the queue has room for the greatest depth");
        self.in_flight += 1;
    }

    /// Tells the kernel of new entries and waits for one to complete.
    fn wait(&mut self) -> io::Result<()> {
        self.ring().submit_and_wait(1).map(drop)
    }

    /// A completed read: its number, and how much was read.
    fn completed(&mut self) -> Option<(usize, io::Result<usize>)> {
        let entry = self.ring().completion().next()?;
        self.in_flight -= 1;
        let result = usize::try_from(entry.result()).map_err(|_| io::Error::from_raw_os_error(-entry.result()));
        Some((entry.user_data() as usize, result))
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        // Whatever happens, the kernel must not write to a buffer that is no longer borrowed.
        while self.in_flight > 0 {
            if self.wait().is_err() {
                std::thread::yield_now();
            }
            while self.completed().is_some() {}
        }
        self.lane.take().into_iter().for_each(give_back);
    }
}

/// Whether the same may succeed in a moment.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::ResourceBusy)
}

fn take_lane() -> io::Result<Lane> {
    if let Some(lane) = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop() {
        return Ok(lane);
    }
    let ring = IoUring::new(ENTRIES)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    if !probe.is_supported(opcode::Read::CODE) {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel's io_uring does not read"));
    }
    Ok(Lane { ring, staging: AlignedBuffer::zeroed(HUGE_PAGE) })
}

/// Keeps a lane in which nothing is in flight.
fn give_back(lane: Lane) {
    let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
    if idle.len() < MOST_IDLE {
        idle.push(lane);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::test_file::file_of;

    /// A file of `len` bytes that tell where they lie, and a reader with small blocks; `None` where the kernel has no
    /// io_uring.
    fn open(len: usize) -> Option<(tempfile::NamedTempFile, UringFile)> {
        let file = file_of(&(0..len).map(byte).collect::<Vec<u8>>());
        let pace = Pace { block_bytes: 4 * BLOCK, queue_depth: 3 };
        let opened = UringFile::open(file.path(), pace);
        opened.ok().map(|reader| (file, reader))
    }

    fn byte(at: usize) -> u8 {
        (at as u32).wrapping_mul(0x9E37_79B1).rotate_left(9) as u8
    }

    fn check(buf: &[u8], offset: usize) {
        let wrong = buf.iter().zip(offset..).find(|&(&there, at)| there != byte(at));
        assert_eq!(wrong, None);
    }

    #[test]
    fn many_blocks_are_read_and_the_end_is_found() {
        let Some((file, reader)) = open(50 * BLOCK + 17) else { return };
        let mut buffer = AlignedBuffer::zeroed(50 * BLOCK + 17);
        for (offset, len) in [(0, 50 * BLOCK + 17), (BLOCK, 49 * BLOCK), (3 * BLOCK, 9 * BLOCK + 5), (1, 40 * BLOCK)] {
            buffer.fill(0);
            reader.read_at(offset as u64, &mut buffer[..len], &|| false).unwrap();
            check(&buffer[..len], offset);
        }
        file.as_file().set_len(33 * BLOCK as u64 + 100).unwrap();
        let error = reader.read_at(0, &mut buffer, &|| false).expect_err("the end is gone");
        assert!(matches!(error, ReadError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof));
        reader.read_at(0, &mut buffer[..33 * BLOCK], &|| false).unwrap();
        check(&buffer[..33 * BLOCK], 0);
    }

    #[test]
    fn several_ranges_are_read_at_once() {
        let Some((file, reader)) = open(50 * BLOCK + 17) else { return };
        let ranges =
            [(0, 9 * BLOCK), (20 * BLOCK, BLOCK), (11 * BLOCK, 3 * BLOCK + 100), (49 * BLOCK, BLOCK + 17), (7, 5)];
        let read = |stop: bool| {
            let mut buffers = ranges.map(|(_, len)| AlignedBuffer::zeroed(len));
            let mut reads: Vec<(u64, &mut [u8])> = ranges
                .iter()
                .zip(&mut buffers)
                .map(|(&(offset, _), buffer)| (offset as u64, &mut buffer[..]))
                .collect();
            reader.read_all(&mut reads, &|| stop).map(|()| buffers)
        };
        for ((offset, len), buffer) in ranges.into_iter().zip(read(false).unwrap()) {
            assert_eq!(buffer.len(), len);
            check(&buffer, offset);
        }
        assert!(matches!(read(true), Err(ReadError::Cancelled)));
        file.as_file().set_len(20 * BLOCK as u64).unwrap();
        let error = read(false).expect_err("the end is gone");
        assert!(matches!(error, ReadError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof));
    }

    #[test]
    fn the_end_on_small_pages_is_read_by_way_of_a_huge_one() {
        let page = HUGE_PAGE;
        for (address, len, staged_from) in [
            (0, page, page),
            (0, page - BLOCK, page - BLOCK),
            (0, 3 * page + 5 * BLOCK, 3 * page + 5 * BLOCK),
            (0, 3 * page + WORTH_STAGING, 3 * page),
            (0, 4 * page - BLOCK, 3 * page),
            (page - BLOCK, page, BLOCK),
            (page - BLOCK, page - BLOCK, page - BLOCK),
        ] {
            assert_eq!(staged(address, len, len), staged_from, "{len} bytes at {address}");
        }
        // The last of three ranges in one buffer: partly or wholly after its last huge page.
        let third = 204 * BLOCK;
        assert_eq!(staged(2 * third, third, 3 * third), page - 2 * third);
        assert_eq!(staged(page + page / 4, page / 4, 2 * page), 0);
        let len = 2 * page + 3 * (page / 4) + BLOCK;
        let Some((file, reader)) = open(len) else { return };
        let mut buffer = AlignedBuffer::zeroed(len);
        for len in [len, len - BLOCK, 2 * page + WORTH_STAGING, 2 * page, page + page / 2] {
            buffer.fill(0);
            reader.read_at(0, &mut buffer[..len], &|| false).unwrap();
            check(&buffer[..len], 0);
            assert!(buffer[len..].iter().all(|&byte| byte == 0));
        }
        // The same memory in ranges from all over the file.
        let mut buffer = AlignedBuffer::zeroed(3 * third);
        let mut reads: Vec<(u64, &mut [u8])> =
            [2, 0, 1].iter().zip(buffer.chunks_mut(third)).map(|(&at, buf)| (at * third as u64, buf)).collect();
        reader.read_all(&mut reads, &|| false).unwrap();
        for (at, buf) in [2, 0, 1].into_iter().zip(buffer.chunks(third)) {
            check(buf, at * third);
        }
        let mut buffer = AlignedBuffer::zeroed(len);
        file.as_file().set_len(2 * page as u64 + 9 * BLOCK as u64).unwrap();
        let error = reader.read_at(0, &mut buffer, &|| false).expect_err("the end is gone");
        assert!(matches!(error, ReadError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof));
    }

    #[test]
    fn stopping_and_panicking_leave_nothing_in_flight() {
        let Some((_file, reader)) = open(100 * BLOCK) else { return };
        for stop_at in [0, 1, 4, 20] {
            let mut buffer = AlignedBuffer::zeroed(100 * BLOCK);
            let asked = Cell::new(0);
            let count = || asked.replace(asked.get() + 1);
            let error = reader.read_at(0, &mut buffer, &|| count() == stop_at).expect_err("stopped");
            assert!(matches!(error, ReadError::Cancelled));
            assert_eq!(asked.get(), stop_at + 1, "it goes on after it was stopped");
            asked.set(0);
            let result = catch_unwind(AssertUnwindSafe(|| {
                reader.read_at(0, &mut buffer, &|| if count() == stop_at { panic!("made to panic") } else { false })
            }));
            assert!(result.is_err());
            // Nobody writes to the buffer any more.
            buffer.fill(0xAB);
            std::thread::yield_now();
            assert!(buffer.iter().all(|&byte| byte == 0xAB));
        }
        let mut buffer = AlignedBuffer::zeroed(100 * BLOCK);
        reader.read_at(0, &mut buffer, &|| false).unwrap();
        check(&buffer, 0);
    }

    #[test]
    fn rings_are_used_again() {
        let Some((_file, reader)) = open(40 * BLOCK) else { return };
        let mut buffer = AlignedBuffer::zeroed(40 * BLOCK);
        for _ in 0..100 {
            reader.read_at(0, &mut buffer, &|| false).unwrap();
        }
        let open_rings = std::fs::read_dir("/proc/self/fd").unwrap().filter(|entry| {
            let target = entry.as_ref().ok().and_then(|entry| std::fs::read_link(entry.path()).ok());
            target.is_some_and(|target| target.to_string_lossy().contains("io_uring"))
        });
        assert!(open_rings.count() <= MOST_IDLE + 4);
    }
}
