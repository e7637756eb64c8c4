//! Compressed copies of weights that stream, where they make tokens come faster.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use smoke_burn::Residence;
use smoke_compress::codec::{self, CODEC_NAMES};
use smoke_compress::{Codec, CompressedTier, Offer, Pass, Sample};
use smoke_core::{Encoding, Permit, UnitId};
use smoke_prefetch::planner::pin_plan;
use smoke_storage::{SourceError, TensorIndex, UnitMap};

use crate::plan::{Load, Plan, Sizes};
use crate::probe::Probe;
use crate::runtime::Runtime;

/// Whether memory holds compressed copies of weights that would be read from the disk for every token.
///
/// They are made while a text is generated, after its second token, and count in the budget. Which weights become copies is
/// chosen as for what stays: spread over the pass. Mixtures of experts have none, nor do models that embed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// No copies.
    #[default]
    Off,
    /// By the codec that suits most of the weights, where the rates that were measured meanwhile promise faster tokens, and
    /// making the copies is made up for by the tokens to come. Packed weights have nothing to give: of them there are none.
    Auto,
    /// By the codec of this name, as many as there is room for, whatever it costs; of weights that become shorter.
    Always(&'static str),
}

/// Why a text is not a [`Compression`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is none of off, auto, {names}", names = CODEC_NAMES.join(", "))]
pub struct ParseCompressionError(String);

impl FromStr for Compression {
    type Err = ParseCompressionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let codec = CODEC_NAMES.iter().find(|&&name| name == text);
        Ok(match (text, codec) {
            ("off", _) => Self::Off,
            ("auto", _) => Self::Auto,
            (_, Some(name)) => Self::Always(name),
            _ => return Err(ParseCompressionError(text.to_owned())),
        })
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Auto => "auto",
            Self::Always(name) => name,
        })
    }
}

impl Compression {
    /// The codec for weights in these encodings, if there is to be one.
    ///
    /// # Errors
    /// If there is none of the name.
    pub(crate) fn codec(self, index: &TensorIndex) -> Result<Option<Box<dyn Codec>>, ParseCompressionError> {
        Ok(match self {
            Self::Off => None,
            Self::Auto => match most_common(index) {
                Some(Encoding::BF16 | Encoding::F16) => codec::by_name("bf16-planes"),
                Some(Encoding::F32) => codec::by_name("zstd"),
                _ => None,
            },
            Self::Always(name) => Some(codec::by_name(name).ok_or_else(|| ParseCompressionError(name.to_owned()))?),
        })
    }
}

/// The encoding that most bytes have.
pub(crate) fn most_common(index: &TensorIndex) -> Option<Encoding> {
    let mut bytes_by_encoding: HashMap<Encoding, u64> = HashMap::new();
    for tensor in index.iter() {
        *bytes_by_encoding.entry(tensor.encoding).or_default() += tensor.extent.len;
    }
    bytes_by_encoding.into_iter().max_by_key(|&(_, bytes)| bytes).map(|(encoding, _)| encoding)
}

/// What was measured of compressed copies, and what was made of it.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Weighed {
    /// The codec's name.
    pub codec: &'static str,
    /// What the codec makes of the weights.
    pub sample: Sample,
    /// The copies that are worth it; `None` where none are.
    pub offer: Option<Offer>,
}

impl Weighed {
    /// What decoding so many raw bytes takes if all cores do nothing else.
    pub(crate) fn decompressing(&self, bytes: u64) -> Duration {
        Duration::from_secs_f64(bytes as f64 / (self.sample.decode_bytes_per_second * cores() as f64))
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The tier of a model, and what it is used for.
#[derive(Debug)]
pub(crate) struct Compressed {
    tier: Arc<CompressedTier>,
    /// Whatever it costs.
    is_forced: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    weighed: Option<Weighed>,
    /// By number: those that have copies, or are to have some.
    units: Arc<[UnitId]>,
    /// Whether those that were refused are no longer among them.
    is_settled: bool,
}

/// What copies mean for a plan.
#[derive(Clone, Debug, Default)]
pub(crate) struct Copies {
    /// They are not pinned. By number; none takes no memory.
    pub(crate) units: Arc<[UnitId]>,
    /// Memory that is not for weights.
    pub(crate) taken_bytes: u64,
    /// Raw bytes that are not read for a pass.
    pub(crate) served_bytes: u64,
}

impl Compressed {
    pub(crate) fn new(tier: Arc<CompressedTier>, compression: Compression) -> Self {
        Self { tier, is_forced: matches!(compression, Compression::Always(_)), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is now.
    fn copies(&self, units: &UnitMap) -> Copies {
        let mut state = self.state();
        let report = self.tier.report();
        if report.pending == 0 && !state.is_settled {
            // What found no room, or did not become shorter, may be pinned again.
            let is_copied = |&unit: &UnitId| units.runs(unit).iter().all(|run| self.tier.has_copy(run.extent));
            state.units = state.units.iter().copied().filter(is_copied).collect();
            state.is_settled = true;
        }
        let taken_bytes = report.held_bytes + report.left_bytes;
        Copies { units: Arc::clone(&state.units), taken_bytes, served_bytes: report.copied_bytes }
    }

    /// Makes copies of `units` in `share` from here on.
    fn keep(&self, units: Arc<[UnitId]>, map: &UnitMap, share: Permit) {
        let mut state = self.state();
        let extents = units.iter().flat_map(|&unit| map.runs(unit)).map(|run| run.extent);
        self.tier.keep(extents, share);
        (state.units, state.is_settled) = (units, false);
    }

    /// Gives their memory back.
    fn forget(&self) {
        let mut state = self.state();
        state.units = Arc::default();
        self.tier.clear();
    }

    pub(crate) fn weighed(&self) -> Option<Weighed> {
        self.state().weighed
    }

    /// Raw bytes that copies served since the model was opened.
    pub(crate) fn served_bytes(&self) -> u64 {
        self.tier.report().served_bytes
    }

    fn weigh(&self, pass: &Pass, sample: Sample, passes: Option<usize>) -> Weighed {
        let offer = match self.is_forced {
            true => pass.most(&sample),
            false => pass.offer(&sample).filter(|offer| passes.is_none_or(|passes| offer.pays_within(passes))),
        };
        Weighed { codec: self.tier.codec().name(), sample, offer }
    }
}

/// What a generation knows of its passes when it thinks about copies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Observation {
    /// The load of the whole generation.
    pub(crate) whole: Load,
    /// The load at the moment.
    pub(crate) now: Load,
    pub(crate) disk_bytes_per_second: f64,
    pub(crate) compute_seconds: f64,
    /// How many passes are to come.
    pub(crate) passes: usize,
}

impl Runtime {
    pub(crate) fn copies(&self) -> Copies {
        let units = self.weights.streamer().units();
        self.compressed.as_ref().map(|compressed| compressed.copies(units)).unwrap_or_default()
    }

    pub(crate) fn forget_copies(&self) {
        self.compressed.iter().for_each(Compressed::forget);
    }

    /// What compressed copies would bring to `plan` on a machine with these rates, those of disk and kernels side by side.
    /// `None` where there are none to be: see [`Compression`]. Takes a moment, and some MB beside the budget.
    ///
    /// # Errors
    /// [`SourceError`] if the weights cannot be read.
    pub fn weigh_copies(&self, plan: &Plan, probe: &Probe) -> Result<Option<Weighed>, SourceError> {
        let Some(compressed) = &self.compressed else { return Ok(None) };
        let compute_seconds = plan.pass_bytes as f64 / probe.compute_beside_disk_bytes_per_second;
        let pass = self.pass(plan, probe.disk_beside_compute_bytes_per_second, compute_seconds);
        let streamer = self.weights.streamer();
        let (units, share) = spread(&self.schedule.cycle, streamer.units());
        let mut places = Vec::new();
        for unit in units {
            let mut extent = streamer.units().runs(unit)[0].extent;
            extent.len = extent.len.min(share as u64);
            let mut bytes = vec![0; extent.len as usize];
            streamer.source().read_at(extent, &mut bytes)?;
            places.push(bytes);
        }
        let places: Vec<&[u8]> = places.iter().map(Vec::as_slice).collect();
        Ok(Sample::of(compressed.tier.codec(), &places).map(|sample| compressed.weigh(&pass, sample, None)))
    }

    /// Makes copies from here on if they are worth it, and pins what is left room for. Returns the plan of the whole
    /// generation, if it is another one now.
    pub(crate) fn consider_copies(&self, observed: Observation) -> Option<Plan> {
        let compressed = self.compressed.as_ref()?;
        // Nobody changes the budget meanwhile.
        let _load = self.load.lock().unwrap_or_else(PoisonError::into_inner);
        let Observation { whole, now, .. } = observed;
        let plan = self.plan_load(whole).ok()?;
        let pass = self.pass(&plan, observed.disk_bytes_per_second, observed.compute_seconds);
        let is_of_use = compressed.is_forced || pass.waits();
        if !is_of_use || plan.streamed_bytes == 0 || !self.copies().units.is_empty() {
            return None;
        }
        let streamer = self.weights.streamer();
        let weighed = compressed.weigh(&pass, self.sample_memory(compressed)?, Some(observed.passes));
        compressed.state().weighed = Some(weighed);
        let offer = weighed.offer?;
        let units: Arc<[UnitId]> = self.sizes().spread_copies(offer.served_bytes).into();
        let taken_bytes = offer.held_bytes + self.scratch_bytes();
        let copies = Copies { units: Arc::clone(&units), taken_bytes, served_bytes: offer.served_bytes };
        let limit_bytes = streamer.budget().limit_bytes();
        let plan_with = |load| Sizes { copies: copies.clone(), ..self.sizes() }.plan(limit_bytes, load);
        let (Ok(whole), Ok(pinned)) = (plan_with(whole), plan_with(now).map(|plan| plan.pinned)) else { return None };
        // First what is to stay, so that the right units go.
        self.pinned.set(pinned);
        let Ok(share) = streamer.make_room(taken_bytes) else {
            self.pinned.set(self.plan_load(now).map(|plan| plan.pinned).unwrap_or_default());
            return None;
        };
        compressed.keep(units, streamer.units(), share);
        Some(whole)
    }

    /// What is measured of units in memory; `None` where there is no room for that, or nothing in memory.
    fn sample_memory(&self, compressed: &Compressed) -> Option<Sample> {
        let streamer = self.weights.streamer();
        let units = streamer.units();
        let longest = units.units().map(|unit| units.buffer_bytes(unit)).max()?;
        let _scratch = streamer.make_room(Sample::scratch_bytes(longest as usize)).ok()?;
        let resident: Vec<UnitId> =
            self.schedule.cycle.iter().copied().filter(|&unit| streamer.cache().contains(unit)).collect();
        let (sampled, share) = spread(&resident, units);
        let leases: Vec<_> = sampled.into_iter().filter_map(|unit| streamer.peek(unit)).collect();
        // Without what fills up the last page.
        let run_bytes = |unit| units.runs(unit)[0].extent.len as usize;
        let places: Vec<&[u8]> =
            leases.iter().map(|lease| &lease.buffer()[..share.min(run_bytes(lease.unit()))]).collect();
        Sample::of(compressed.tier.codec(), &places)
    }

    fn pass(&self, plan: &Plan, disk_bytes_per_second: f64, compute_seconds: f64) -> Pass {
        let units = self.weights.streamer().units();
        let kept_bytes: u64 = self.sizes().kept().into_iter().map(|unit| units.buffer_bytes(unit)).sum();
        Pass {
            streamed_bytes: plan.streamed_bytes,
            room_bytes: plan.pinned_bytes.saturating_sub(kept_bytes + self.scratch_bytes()),
            disk_bytes_per_second,
            compute_seconds,
            readers: self.weights.streamer().io_threads(),
            cores: cores(),
        }
    }

    /// What making copies takes of their share, in every thread that reads.
    fn scratch_bytes(&self) -> u64 {
        let streamer = self.weights.streamer();
        let units = streamer.units();
        let longest = units.units().flat_map(|unit| units.runs(unit)).map(|run| run.extent.len).max().unwrap_or(0);
        CompressedTier::scratch_bytes(longest) * streamer.io_threads() as u64
    }
}

impl Sizes<'_> {
    /// So many bytes of units, spread evenly over the pass, that no rule keeps in memory, by number.
    fn spread_copies(&self, bytes: u64) -> Vec<UnitId> {
        let candidates: Vec<UnitId> =
            self.schedule.cycle.iter().copied().filter(|&unit| self.residence(unit) != Residence::Memory).collect();
        pin_plan(&candidates, &self.units.all_buffer_bytes(), bytes, 0).pinned
    }
}

/// Some of `among`, spread evenly, and how many bytes of each make a sample.
fn spread(among: &[UnitId], units: &UnitMap) -> (Vec<UnitId>, usize) {
    let bytes: u64 = among.iter().map(|&unit| units.buffer_bytes(unit)).sum();
    let mean_bytes = bytes / (among.len() as u64).max(1);
    // Of several places at least.
    let count = (Sample::ENOUGH as u64).div_ceil(mean_bytes.max(1)).max(4).min(among.len() as u64) as usize;
    ((0..count).map(|place| among[place * among.len() / count]).collect(), Sample::ENOUGH / count.max(1))
}
