use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use smoke_compress::codec::{self, CODEC_NAMES};
use smoke_compress::{Codec, CodecError, CompressedTier, Sample};
use smoke_core::{Budget, Encoding, Permit};
use smoke_storage::conformance::{self, CountingSource};
use smoke_storage::{Extent, MemorySource, SourceErrorKind, WeightSource};

const MIB: u64 = 1 << 20;

/// What of the raw bytes, which are zeros, is left, in hundredths.
#[derive(Debug)]
struct Percent(usize);

impl Codec for Percent {
    fn name(&self) -> &'static str {
        "percent"
    }
    fn compress(&self, raw: &[u8]) -> Vec<u8> {
        vec![0; (raw.len() * self.0).div_ceil(100)]
    }
    fn decompress(&self, _: &[u8], raw: &mut [u8]) -> Result<(), CodecError> {
        raw.fill(0);
        Ok(())
    }
}

/// A codec that cannot decode.
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

fn share(bytes: u64) -> Permit {
    Budget::new(bytes).try_acquire(bytes).unwrap()
}

fn mebibytes() -> impl Iterator<Item = Extent> {
    (0..8).map(|number| extent(number * MIB, MIB))
}

#[test]
fn a_cycle_meets_the_same_copies_each_time() {
    let budget = Budget::new(64 * MIB);
    let source = Arc::new(CountingSource::new(memory(vec![0; 8 << 20])));
    let tier = CompressedTier::new(source.clone(), Box::new(Percent(50)));
    let pass = || {
        let (before, served) = (source.bytes(), tier.report().served_bytes);
        mebibytes().for_each(|extent| assert_eq!(read(&tier, extent), [0; 1 << 20]));
        (source.bytes() - before, tier.report().served_bytes - served)
    };
    assert_eq!(pass(), (8 * MIB, 0), "nothing was to be kept");
    // Two copies of half a MiB fit, beside what making them takes; the others do not.
    tier.keep(mebibytes().skip(1), budget.try_acquire(2 * MIB).unwrap());
    for round in 0..4 {
        assert_eq!(pass(), if round == 0 { (8 * MIB, 0) } else { (6 * MIB, 2 * MIB) }, "round {round}");
        let report = tier.report();
        assert_eq!((report.copied_bytes, report.held_bytes, report.left_bytes), (2 * MIB, MIB, 0));
        assert_eq!(budget.used_bytes(), MIB, "what was not needed of the share is given back");
    }
    // Other extents: what was there goes.
    tier.keep(mebibytes().take(1), budget.try_acquire(2 * MIB).unwrap());
    assert_eq!((tier.report().held_bytes, budget.used_bytes()), (0, 2 * MIB));
    assert_eq!([pass(), pass()], [(8 * MIB, 0), (7 * MIB, MIB)]);
    tier.clear();
    assert_eq!((tier.report().held_bytes, budget.used_bytes()), (0, 0));
    assert_eq!(pass(), (8 * MIB, 0));
    tier.keep([], budget.try_acquire(MIB).unwrap());
    assert_eq!(budget.used_bytes(), 0, "nothing is to be kept");
}

#[test]
fn what_does_not_shrink_is_not_kept() {
    for (percent, is_kept) in [(94, true), (95, false), (120, false)] {
        let budget = Budget::new(64 * MIB);
        let tier = CompressedTier::new(Arc::new(memory(vec![0; 8 << 20])), Box::new(Percent(percent)));
        tier.keep([extent(0, 3 * MIB)], budget.try_acquire(32 * MIB).unwrap());
        for _ in 0..2 {
            read(&tier, extent(0, 3 * MIB));
        }
        let held = if is_kept { 3 * (MIB * percent as u64).div_ceil(100) } else { 0 };
        assert_eq!((tier.report().held_bytes, budget.used_bytes()), (held, held), "to {percent} %");
    }
}

#[test]
fn served_reads_can_be_stopped_and_cancelled_copies_are_made_later() {
    let source = Arc::new(memory(vec![7; 2 << 20]));
    let tier = CompressedTier::new(source, codec::by_name("lz4").unwrap());
    let whole = extent(0, 2 * MIB);
    tier.keep([whole], share(8 * MIB));
    let stop_after = |calls: u64| {
        let left = AtomicU64::new(calls);
        let mut bytes = vec![0; 2 << 20];
        let stop = || left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err();
        tier.read_cancellable(whole, &mut bytes, &stop).map(|()| bytes)
    };
    // Stopped after the read and before the copy is whole: the read counts.
    assert_eq!(stop_after(2).unwrap(), vec![7; 2 << 20]);
    assert_eq!((tier.report().held_bytes, tier.report().left_bytes), (0, 8 * MIB));
    read(&tier, whole);
    assert!(tier.report().held_bytes > 0);
    assert_eq!(stop_after(1).unwrap_err().kind(), SourceErrorKind::Cancelled);
    assert_eq!(read(&tier, whole), vec![7; 2 << 20]);
}

#[test]
fn a_codec_that_fails_costs_no_answer() {
    let budget = Budget::new(32 * MIB);
    let tier = CompressedTier::new(Arc::new(memory(vec![7; 5 << 20])), Box::new(Forgetful));
    tier.keep([extent(0, 5 * MIB)], budget.try_acquire(32 * MIB).unwrap());
    for _ in 0..4 {
        assert_eq!(read(&tier, extent(0, 5 * MIB)), vec![7; 5 << 20]);
    }
    assert_eq!((tier.report().served_bytes, tier.report().held_bytes, budget.used_bytes()), (0, 0, 0));
    assert_eq!(Sample::of(&Forgetful, &[&[7; 100]]), None);
}

#[test]
fn a_sample_says_how_much_is_left() {
    let raw = vec![0; 5 << 19];
    for percent in [10, 68, 120] {
        let sample = Sample::of(&Percent(percent), &raw.chunks(1_600_000).collect::<Vec<_>>()).unwrap();
        assert!((sample.ratio * 100.0 - percent as f64).abs() < 0.01, "{sample:?}");
        assert!(sample.decode_bytes_per_second > 0.0 && sample.compress_bytes_per_second > 0.0, "{sample:?}");
    }
    assert_eq!(Sample::of(&Percent(50), &[&[1, 2, 3]]), None, "they come back as zeros");
    assert_eq!(Sample::of(&Percent(50), &[]), None);
}

#[test]
fn the_rules_of_sources_are_kept() {
    let bytes: Vec<u8> = (0..50_000_u32).map(|i| (i / 100) as u8).collect();
    for name in CODEC_NAMES {
        let source = Arc::new(memory(bytes.clone()));
        let tier = CompressedTier::new(source, codec::by_name(name).unwrap());
        tier.keep([extent(0, 50_000)], share(4 * MIB));
        for _ in 0..2 {
            conformance::weight_source(&tier, &[("w", &bytes)]);
        }
        // High bytes of what counts upwards are few.
        assert!(tier.report().served_bytes > 0, "{name}");
        assert!(tier.read_at(extent(0, 10), &mut [0; 9]).is_err(), "a buffer of another length");
    }
}

/// Reads of one call: each is a place and a size.
type Reads = Vec<(u64, u64)>;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_tier_returns_what_the_source_has_and_reads_no_copy_again(
        name in prop::sample::select(&CODEC_NAMES[..]),
        values in 1..=255_u8,
        share in 0..60_000_u64,
        calls in prop::collection::vec((any::<bool>(), prop::collection::vec((0..6_u64, 0..4_u64), 1..4)), 1..60),
    ) {
        let bytes: Vec<u8> = (0..60_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 % values).collect();
        let budget = Budget::new(60_000);
        let source = Arc::new(CountingSource::new(memory(bytes.clone())));
        let tier = CompressedTier::new(source.clone(), codec::by_name(name).unwrap());
        let extents = |places: &Reads| -> Vec<Extent> {
            places.iter().map(|&(place, size)| extent(place * 9_999, size * 3_333)).collect()
        };
        for (is_kept, places) in calls {
            let extents = extents(&places);
            if is_kept {
                tier.clear();
                tier.keep(extents.iter().copied(), budget.try_acquire(share).unwrap());
            }
            let mut buffers: Vec<Vec<u8>> = extents.iter().map(|extent| vec![0xA5; extent.len as usize]).collect();
            let mut all: Vec<(Extent, &mut [u8])> =
                extents.iter().copied().zip(buffers.iter_mut().map(Vec::as_mut_slice)).collect();
            let before = (source.bytes(), tier.report());
            tier.read_all_cancellable(&mut all, &|| false).unwrap();
            for (extent, buffer) in extents.iter().zip(&buffers) {
                prop_assert_eq!(&buffer[..], &bytes[extent.offset as usize..extent.end() as usize]);
            }
            let (from_source, report) = (source.bytes() - before.0, tier.report());
            let served = report.served_bytes - before.1.served_bytes;
            prop_assert_eq!(from_source + served, extents.iter().map(|extent| extent.len).sum::<u64>());
            prop_assert_eq!(budget.used_bytes(), report.held_bytes + report.left_bytes);
            prop_assert!(budget.used_bytes() <= share);
            if is_kept {
                // All were read: what was copied is served from now on, and nothing more is wanted.
                prop_assert_eq!(report.left_bytes, 0);
                let before = source.bytes();
                extents.iter().for_each(|&extent| drop(read(&tier, extent)));
                let distinct: std::collections::HashSet<Extent> = extents.iter().copied().collect();
                let missing = distinct.iter().map(|extent| extent.len).sum::<u64>() - report.copied_bytes;
                prop_assert!(source.bytes() - before <= missing * extents.len() as u64);
                prop_assert!(missing > 0 || source.bytes() == before);
            }
        }
        drop(tier);
        prop_assert_eq!(budget.used_bytes(), 0);
    }
}
