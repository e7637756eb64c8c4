use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use smoke_compress::codec::{self, CODEC_NAMES};
use smoke_compress::{Clock, Codec, CodecError, CompressedTier, Rule};
use smoke_core::{Budget, Encoding};
use smoke_storage::conformance::{self, CountingSource};
use smoke_storage::{Extent, MemorySource, SourceError, SourceErrorKind, TensorIndex, WeightSource};

const MIB: u64 = 1 << 20;

/// A clock that goes on when somebody says so, in nanoseconds.
#[derive(Clone, Debug, Default)]
struct Manual(Arc<AtomicU64>);

impl Manual {
    fn pass(&self, bytes: usize, bytes_per_second: f64) {
        self.0.fetch_add((bytes as f64 / bytes_per_second * 1e9) as u64, Ordering::SeqCst);
    }
}

impl Clock for Manual {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::SeqCst))
    }
}

/// A source or a codec with a rate.
#[derive(Debug)]
struct Timed<T> {
    inner: T,
    clock: Manual,
    bytes_per_second: f64,
}

impl<S: WeightSource> WeightSource for Timed<S> {
    fn index(&self) -> &TensorIndex {
        self.inner.index()
    }
    fn read_at(&self, extent: Extent, buf: &mut [u8]) -> Result<(), SourceError> {
        self.clock.pass(buf.len(), self.bytes_per_second);
        self.inner.read_at(extent, buf)
    }
}

/// What of the raw bytes, which are zeros, is left, in hundredths.
#[derive(Debug)]
struct Percent(usize);

impl Codec for Timed<Percent> {
    fn name(&self) -> &'static str {
        "timed"
    }
    fn compress(&self, raw: &[u8]) -> Vec<u8> {
        vec![0; (raw.len() * self.inner.0).div_ceil(100)]
    }
    fn decompress(&self, _: &[u8], raw: &mut [u8]) -> Result<(), CodecError> {
        self.clock.pass(raw.len(), self.bytes_per_second);
        raw.fill(0);
        Ok(())
    }
}

fn memory(bytes: Vec<u8>) -> MemorySource {
    MemorySource::new(vec![("w".to_owned(), Encoding::I8, vec![bytes.len() as u64], bytes)]).unwrap()
}

fn extent(offset: u64, len: u64) -> Extent {
    Extent { file: 0, offset, len }
}

fn read(source: &dyn WeightSource, extent: Extent) -> Vec<u8> {
    let mut bytes = vec![0xA5; extent.len as usize];
    source.read_at(extent, &mut bytes).unwrap();
    bytes
}

fn timed_tier(percent: usize, decode: f64, source: f64, budget: &Budget, share: u64) -> CompressedTier {
    let clock = Manual::default();
    let source = Timed { inner: memory(vec![0; 8 << 20]), clock: clock.clone(), bytes_per_second: source };
    let codec = Timed { inner: Percent(percent), clock: clock.clone(), bytes_per_second: decode };
    let share = budget.try_acquire(share).unwrap();
    CompressedTier::new(Arc::new(source), Box::new(codec), share).with_clock(clock)
}

#[test]
fn only_what_decodes_faster_and_shrinks_is_kept() {
    for (percent, decode, source, is_on) in [
        (70, 2.0e9, 1.0e9, true),
        (94, 1.1e9, 1.0e9, true),
        (95, 2.0e9, 1.0e9, false),
        (70, 0.9e9, 1.0e9, false),
        (70, 1.0e9, 2.8e9, false),
    ] {
        let budget = Budget::new(64 * MIB);
        let tier = timed_tier(percent, decode, source, &budget, 32 * MIB);
        for number in 0..3 {
            assert!(!tier.report().is_on, "decided after {number} MiB");
            read(&tier, extent(number * MIB, MIB));
        }
        assert_eq!(tier.report().measurement, None);
        read(&tier, extent(3 * MIB, MIB));
        let report = tier.report();
        let measured = report.measurement.unwrap();
        assert_eq!(report.is_on, is_on, "{measured:?}");
        assert!((measured.ratio * 100.0 - percent as f64).abs() < 0.01, "{measured:?}");
        assert!((measured.decode_bytes_per_second / decode - 1.0).abs() < 1e-3, "{measured:?}");
        assert!((measured.source_bytes_per_second / source - 1.0).abs() < 1e-3, "{measured:?}");
        // A second round makes copies, a third one is served from them.
        for number in [0, 1, 0, 1] {
            read(&tier, extent(number * MIB, MIB));
        }
        let report = tier.report();
        let copies = if is_on { 2 * (MIB * percent as u64).div_ceil(100) } else { 0 };
        assert_eq!((report.served_bytes, report.held_bytes), (if is_on { 2 * MIB } else { 0 }, copies));
        assert_eq!(budget.used_bytes(), if is_on { 32 * MIB } else { 0 }, "a share without use is given back");
    }
}

#[test]
fn a_cycle_meets_the_same_copies_each_time() {
    let budget = Budget::new(64 * MIB);
    let clock = Manual::default();
    let source = Arc::new(CountingSource::new(memory(vec![0; 8 << 20])));
    let codec = Timed { inner: Percent(50), clock: clock.clone(), bytes_per_second: 1.0 };
    // Two copies of half a MiB fit, beside what making them takes; the others do not.
    let share = budget.try_acquire(2 * MIB).unwrap();
    let tier = CompressedTier::new(source.clone(), Box::new(codec), share).with_rule(Rule::Always);
    for round in 0..5 {
        let (before, served) = (source.bytes(), tier.report().served_bytes);
        for number in 0..8 {
            read(&tier, extent(number * MIB, MIB));
        }
        let expected = if round < 2 { (8 * MIB, 0) } else { (6 * MIB, 2 * MIB) };
        assert_eq!((source.bytes() - before, tier.report().served_bytes - served), expected, "round {round}");
    }
    assert_eq!(tier.report().held_bytes, MIB);
}

#[test]
fn served_reads_can_be_stopped_and_cancelled_copies_are_made_later() {
    let budget = Budget::new(64 * MIB);
    let share = budget.try_acquire(8 * MIB).unwrap();
    let source = Arc::new(memory(vec![7; 2 << 20]));
    let tier = CompressedTier::new(source, codec::by_name("lz4").unwrap(), share).with_rule(Rule::Always);
    let whole = extent(0, 2 * MIB);
    read(&tier, whole);
    let stop_after = |calls: u64| {
        let left = AtomicU64::new(calls);
        let mut bytes = vec![0; 2 << 20];
        let stop = || left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err();
        tier.read_cancellable(whole, &mut bytes, &stop).map(|()| bytes)
    };
    // Stopped after the read and before the copy is whole: the read counts.
    assert_eq!(stop_after(2).unwrap(), vec![7; 2 << 20]);
    assert_eq!(tier.report().held_bytes, 0);
    read(&tier, whole);
    assert!(tier.report().held_bytes > 0);
    assert_eq!(stop_after(1).unwrap_err().kind(), SourceErrorKind::Cancelled);
    assert_eq!(read(&tier, whole), vec![7; 2 << 20]);
}

#[test]
fn a_codec_that_fails_costs_no_answer() {
    #[derive(Debug)]
    struct Forgetful;
    impl Codec for Forgetful {
        fn name(&self) -> &'static str {
            "forgetful"
        }
        fn compress(&self, _: &[u8]) -> Vec<u8> {
            Vec::new()
        }
        fn decompress(&self, _: &[u8], raw: &mut [u8]) -> Result<(), CodecError> {
            raw.fill(0xFF);
            Err(CodecError::Length { codec: "forgetful", expected: raw.len(), found: 0 })
        }
    }
    for rule in [Rule::Always, Rule::Measured] {
        let share = Budget::new(64 * MIB).try_acquire(32 * MIB).unwrap();
        let tier = CompressedTier::new(Arc::new(memory(vec![7; 5 << 20])), Box::new(Forgetful), share).with_rule(rule);
        for _ in 0..4 {
            assert_eq!(read(&tier, extent(0, 5 * MIB)), vec![7; 5 << 20]);
        }
        assert_eq!((tier.report().served_bytes, tier.report().held_bytes), (0, 0));
    }
}

#[test]
fn the_rules_of_sources_are_kept() {
    let bytes: Vec<u8> = (0..50_000_u32).map(|i| (i / 100) as u8).collect();
    for name in CODEC_NAMES {
        let share = Budget::new(4 * MIB).try_acquire(4 * MIB).unwrap();
        let source = Arc::new(memory(bytes.clone()));
        let tier = CompressedTier::new(source, codec::by_name(name).unwrap(), share).with_rule(Rule::Always);
        for _ in 0..3 {
            conformance::weight_source(&tier, &[("w", &bytes)]);
        }
        // High bytes of what counts upwards are few.
        assert!(tier.report().served_bytes > 0, "{name}");
        assert!(tier.read_at(extent(0, 10), &mut [0; 9]).is_err(), "a buffer of another length");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_tier_returns_what_the_source_has(
        name in prop::sample::select(&CODEC_NAMES[..]),
        always in any::<bool>(),
        values in 1..=255_u8,
        share in 0..60_000_u64,
        reads in prop::collection::vec(prop::collection::vec((0..6_u64, 0..4_u64), 1..4), 1..60),
    ) {
        let bytes: Vec<u8> = (0..60_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 % values).collect();
        let budget = Budget::new(60_000);
        let rule = if always { Rule::Always } else { Rule::Measured };
        let source = Arc::new(memory(bytes.clone()));
        let tier = CompressedTier::new(source, codec::by_name(name).unwrap(), budget.try_acquire(share).unwrap())
            .with_rule(rule);
        for places in reads {
            let extents: Vec<Extent> =
                places.iter().map(|&(place, size)| extent(place * 9_999, size * 3_333)).collect();
            let mut buffers: Vec<Vec<u8>> = extents.iter().map(|extent| vec![0xA5; extent.len as usize]).collect();
            let mut all: Vec<(Extent, &mut [u8])> =
                extents.iter().copied().zip(buffers.iter_mut().map(Vec::as_mut_slice)).collect();
            tier.read_all_cancellable(&mut all, &|| false).unwrap();
            for (extent, buffer) in extents.iter().zip(&buffers) {
                prop_assert_eq!(&buffer[..], &bytes[extent.offset as usize..extent.end() as usize]);
            }
            prop_assert!(tier.report().held_bytes <= share);
        }
        drop(tier);
        prop_assert_eq!(budget.used_bytes(), 0);
    }
}
