//! A model of made-up bytes, on a source that can be held up and made to fail.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::Duration;

use smoke_core::{Budget, Encoding, UnitId};
use smoke_prefetch::{Clock, Streamer, StreamerBuilder, UnitLease};
use smoke_storage::{
    Extent, MemorySource, PartId, SourceError, SourceErrorKind, TensorIndex, UnitMap, UnitMapBuilder, WeightSource,
};

pub(crate) const PAGE: u64 = 4096;

/// The byte at `offset` of a unit: neither periodic in pages nor the same in two units.
pub(crate) fn byte(unit: u32, offset: usize) -> u8 {
    (offset as u32).wrapping_mul(0x9e37_79b1).wrapping_add(unit.wrapping_mul(0x85eb_ca6b)).rotate_left(13) as u8
}

/// Units of one part each.
pub(crate) struct Model {
    pub(crate) source: Arc<Obedient>,
    parts: Vec<PartId>,
    unit_bytes: Vec<u64>,
    units: Option<UnitMap>,
}

impl Model {
    pub(crate) fn new(unit_bytes: &[u64]) -> Self {
        let tensor = |(unit, &len): (u32, &u64)| {
            let bytes = (0..len as usize).map(|offset| byte(unit, offset)).collect();
            (format!("tensor.{unit}"), Encoding::U8, vec![len], bytes)
        };
        let memory = MemorySource::new((0..).zip(unit_bytes).map(tensor).collect()).unwrap();
        let extents: Vec<Extent> = memory.index().iter().map(|tensor| tensor.extent).collect();
        let mut map = UnitMapBuilder::new(1);
        let parts = extents
            .iter()
            .map(|&extent| {
                map.begin_unit();
                map.push(extent)
            })
            .collect();
        let units = map.finish(memory.index()).unwrap();
        Self {
            parts,
            unit_bytes: units.all_buffer_bytes(),
            units: Some(units),
            source: Arc::new(Obedient::new(memory, extents)),
        }
    }

    /// `count` units of one page.
    pub(crate) fn of_pages(count: usize) -> Self {
        Self::new(&vec![PAGE; count])
    }

    /// What each unit occupies.
    pub(crate) fn unit_bytes(&self) -> &[u64] {
        &self.unit_bytes
    }

    pub(crate) fn extent(&self, unit: u32) -> Extent {
        self.source.extents[unit as usize]
    }

    pub(crate) fn builder(&mut self) -> StreamerBuilder {
        let source: Arc<dyn WeightSource> = self.source.clone();
        Streamer::builder(source, self.units.take().expect("one streamer of a model")).clock(Sleepless::default())
    }

    pub(crate) fn check(&self, lease: &UnitLease) {
        let unit = lease.unit().0;
        let part = lease.part(self.parts[unit as usize]);
        assert_eq!(part.len() as u64, self.extent(unit).len);
        for (offset, &there) in part.iter().enumerate() {
            assert_eq!(there, byte(unit, offset), "byte {offset} of unit {unit}");
        }
    }
}

pub(crate) fn units(numbers: impl IntoIterator<Item = u32>) -> Vec<UnitId> {
    numbers.into_iter().map(UnitId).collect()
}

/// Time passes only by sleeping.
#[derive(Debug, Default)]
pub(crate) struct Sleepless(AtomicU64);

impl Clock for Sleepless {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::SeqCst))
    }
    fn sleep(&self, duration: Duration) {
        self.0.fetch_add(duration.as_nanos() as u64, Ordering::SeqCst);
    }
}

/// A source that does as it is told: waits at a gate, fails, and notes which units are read.
#[derive(Debug)]
pub(crate) struct Obedient {
    memory: MemorySource,
    extents: Vec<Extent>,
    orders: Mutex<Orders>,
    told: Condvar,
    watched: OnceLock<Budget>,
    most_used_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct Orders {
    is_closed: bool,
    at_the_gate: usize,
    failures: HashMap<u32, VecDeque<SourceErrorKind>>,
    every: Option<(u64, SourceErrorKind)>,
    reads: Vec<u32>,
    reading: HashMap<u32, usize>,
    most_at_once: usize,
}

impl Obedient {
    fn new(memory: MemorySource, extents: Vec<Extent>) -> Self {
        Self {
            memory,
            extents,
            orders: Mutex::default(),
            told: Condvar::new(),
            watched: OnceLock::new(),
            most_used_bytes: AtomicU64::new(0),
        }
    }

    /// Reads wait from now on.
    pub(crate) fn close_gate(&self) {
        self.orders.lock().unwrap().is_closed = true;
    }

    pub(crate) fn open_gate(&self) {
        self.orders.lock().unwrap().is_closed = false;
        self.told.notify_all();
    }

    /// Blocks until `count` reads wait at the gate.
    pub(crate) fn wait_for_reads_at_the_gate(&self, count: usize) {
        let orders = self.orders.lock().unwrap();
        drop(self.told.wait_while(orders, |orders| orders.at_the_gate < count).unwrap());
    }

    /// The next reads of `unit` fail in these ways.
    pub(crate) fn fail(&self, unit: u32, kinds: impl IntoIterator<Item = SourceErrorKind>) {
        self.orders.lock().unwrap().failures.entry(unit).or_default().extend(kinds);
    }

    /// Every `n`th read fails.
    pub(crate) fn fail_every(&self, n: u64, kind: SourceErrorKind) {
        self.orders.lock().unwrap().every = Some((n, kind));
    }

    /// The units that reads were begun of, in order.
    pub(crate) fn reads(&self) -> Vec<u32> {
        self.orders.lock().unwrap().reads.clone()
    }

    pub(crate) fn reads_of(&self, unit: u32) -> usize {
        self.reads().into_iter().filter(|&read| read == unit).count()
    }

    /// The most reads of one unit that there were at the same time.
    pub(crate) fn most_reads_at_once(&self) -> usize {
        self.orders.lock().unwrap().most_at_once
    }

    /// Notes at each read how much of `budget` is used.
    pub(crate) fn watch(&self, budget: &Budget) {
        self.watched.set(budget.clone()).unwrap();
    }

    /// The most that was used at a read since this was asked last.
    pub(crate) fn take_most_used_bytes(&self) -> u64 {
        self.most_used_bytes.swap(0, Ordering::SeqCst)
    }

    fn obey(&self, unit: u32) -> Result<(), SourceError> {
        let mut orders = self.orders.lock().unwrap();
        orders.reads.push(unit);
        let reading = orders.reading.entry(unit).or_default();
        *reading += 1;
        let at_once = *reading;
        orders.most_at_once = orders.most_at_once.max(at_once);
        orders.at_the_gate += 1;
        self.told.notify_all();
        orders = self.told.wait_while(orders, |orders| orders.is_closed).unwrap();
        orders.at_the_gate -= 1;
        let count = orders.reads.len() as u64;
        let ordered = orders.failures.get_mut(&unit).and_then(VecDeque::pop_front);
        let regular = orders.every.filter(|(n, _)| count.is_multiple_of(*n)).map(|(_, kind)| kind);
        match ordered.or(regular) {
            Some(kind) => Err(SourceError::new(kind, format!("told to fail on unit {unit}"))),
            None => Ok(()),
        }
    }
}

impl WeightSource for Obedient {
    fn index(&self) -> &TensorIndex {
        self.memory.index()
    }

    fn read_at(&self, extent: Extent, buf: &mut [u8]) -> Result<(), SourceError> {
        if let Some(budget) = self.watched.get() {
            self.most_used_bytes.fetch_max(budget.used_bytes(), Ordering::SeqCst);
        }
        let unit = self.extents.iter().position(|unit| (unit.offset..unit.offset + unit.len).contains(&extent.offset));
        let unit = unit.unwrap_or(0) as u32;
        let result = self.obey(unit).and_then(|()| self.memory.read_at(extent, buf));
        *self.orders.lock().unwrap().reading.entry(unit).or_default() -= 1;
        result
    }
}
