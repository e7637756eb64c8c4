use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use smoke_burn::{DeviceKind, Layout, Weights};
use smoke_cache::policy::{self, Known, Pinned, PinnedUnits};
use smoke_cache::{Budget, EvictionPolicy};
use smoke_compress::CompressedTier;
use smoke_convert::{Converted, DtypeRule, DtypeRules};
use smoke_core::{ByteSize, UnitInfo, UnitKind};
use smoke_models::parts::{ExpertLayers, KvEncoding};
use smoke_models::text::Tokenizer;
use smoke_models::{AutoModel, Model};
use smoke_predict::experts::ExpertPredictor;
use smoke_predict::{AccessPredictor, CyclicPredictor, RoutedPredictor, RoutedUnit};
use smoke_prefetch::{Speculation, Streamer};
use smoke_storage::{Checkpoint, DiskProfile, ReaderKind, UnitMap, WeightSource};

use crate::compressed::{Compressed, Compression, Copies};
use crate::error::RuntimeError;
use crate::experts::{EXPERT_PREDICTOR_NAMES, ExpertChoice};
use crate::placement::{DeviceMap, PlaceRule};
use crate::plan::{Reading, Sizes};
use crate::runtime::Runtime;
use crate::state::{State, or_ignored};

/// The names that [`RuntimeBuilder::policy_name`] takes: the plan's own policy first.
pub use smoke_cache::policy::NAMES as POLICY_NAMES;

/// Says how a model is opened. Made by [`Runtime::builder`].
#[derive(Debug)]
pub struct RuntimeBuilder {
    path: PathBuf,
    memory: Result<Option<ByteSize>, RuntimeError>,
    device: DeviceKind,
    reader: Option<ReaderKind>,
    dtypes: Result<DtypeRules, RuntimeError>,
    policy: Result<Policy, RuntimeError>,
    predictor: Option<Box<dyn AccessPredictor>>,
    experts: Result<ExpertChoice, RuntimeError>,
    state: Option<PathBuf>,
    warm: bool,
    speculation: Speculation,
    models: AutoModel,
    kv_encoding: KvEncoding,
    map: DeviceMap,
    compression: Compression,
    around: Around,
}

type Source = Arc<dyn WeightSource>;

/// Puts a source around the one that weights lie in.
struct Around(Box<dyn FnOnce(Source) -> Source + Send>);

impl std::fmt::Debug for Around {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Around")
    }
}

#[derive(Debug)]
enum Policy {
    Own(Box<dyn EvictionPolicy>),
    Named(String),
}

impl RuntimeBuilder {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            memory: Ok(None),
            device: DeviceKind::Cpu,
            reader: None,
            dtypes: Ok(DtypeRules::new()),
            policy: Ok(Policy::Named(POLICY_NAMES[0].to_owned())),
            predictor: None,
            experts: Ok(ExpertChoice::Named(EXPERT_PREDICTOR_NAMES[0])),
            state: None,
            warm: true,
            speculation: Speculation::Gated,
            models: AutoModel::default(),
            kv_encoding: KvEncoding::default(),
            map: DeviceMap::default(),
            compression: Compression::default(),
            around: Around(Box::new(|source| source)),
        }
    }

    /// The most memory that weights, keys and values and activations may take together, as in `4GB` or `3.5GiB`. Unless
    /// said, the model's own size and what a context of 1024 tokens needs.
    pub fn memory(mut self, size: &str) -> Self {
        self.memory = size.parse().map(Some).map_err(RuntimeError::from);
        self
    }

    /// The same in bytes.
    pub fn memory_bytes(mut self, bytes: u64) -> Self {
        self.memory = Ok(Some(ByteSize(bytes)));
        self
    }

    /// Where tensors are computed; the processor unless said.
    pub fn device(mut self, device: DeviceKind) -> Self {
        self.device = device;
        self
    }

    /// How files are read. Unless said: directly, past the page cache, where units are large enough for that.
    pub fn reader(mut self, reader: ReaderKind) -> Self {
        self.reader = Some(reader);
        self
    }

    /// Converts weights whenever they are read, as in `bf16` for all or `*.mlp.*=q8_0` for those whose names match: see
    /// [`DtypeRule`]. May be given several times; the first rule that matches a tensor counts. Sizes and statistics are
    /// those of the converted weights.
    pub fn dtype(mut self, rule: &str) -> Self {
        self.dtypes = self.dtypes.and_then(|mut rules| {
            rules.push(rule.parse::<DtypeRule>()?);
            Ok(rules)
        });
        self
    }

    /// The same as rules, in the place of those that were given before.
    pub fn dtypes(mut self, rules: DtypeRules) -> Self {
        self.dtypes = Ok(rules);
        self
    }

    /// What to evict when memory is full. Unless said: a fixed set of units stays and the others stream, which is the
    /// best that can be done for a schedule that repeats.
    pub fn policy(mut self, policy: impl EvictionPolicy + 'static) -> Self {
        self.policy = Ok(Policy::Own(Box::new(policy)));
        self
    }

    /// A policy by its name, one of [`POLICY_NAMES`].
    pub fn policy_name(mut self, name: &str) -> Self {
        let named = || Policy::Named(name.to_owned());
        let unknown = || RuntimeError::UnknownPolicy { name: name.to_owned(), known: POLICY_NAMES.join(", ") };
        self.policy = POLICY_NAMES.contains(&name).then(named).ok_or_else(unknown);
        self
    }

    /// Who says what is used next. Unless said: the order in which the architecture uses its weights.
    pub fn predictor(mut self, predictor: impl AccessPredictor + 'static) -> Self {
        self.predictor = Some(Box::new(predictor));
        self
    }

    /// Who says which experts the next layers of a mixture will choose, by its name, one of [`EXPERT_PREDICTOR_NAMES`].
    /// Unless said: the one that learns as tokens are generated. What is said leads to reads as [`speculation`](Self::speculation)
    /// lets it.
    pub fn expert_predictor_name(mut self, name: &str) -> Self {
        let named = EXPERT_PREDICTOR_NAMES.iter().find(|&&known| known == name).map(|name| ExpertChoice::Named(name));
        let known = || EXPERT_PREDICTOR_NAMES.join(", ");
        self.experts = named.ok_or_else(|| RuntimeError::UnknownPredictor { name: name.to_owned(), known: known() });
        self
    }

    /// The same by one's own predictor; it must be made for the model's experts. To look into it later, pass a clone of an
    /// `Arc<Mutex<_>>`.
    pub fn expert_predictor(mut self, predictor: impl ExpertPredictor + 'static) -> Self {
        self.experts = Ok(ExpertChoice::Own(Box::new(predictor)));
        self
    }

    /// Remembers in `directory` what is learnt of a mixture of experts, which experts are used often, and which units were
    /// in memory (their numbers, not their weights), each model in a directory of its own below it: what is there is read when the model
    /// is opened, and written by [`Runtime::save_state`]. Unless said, nothing is remembered.
    ///
    /// Of models without experts there is nothing to remember: their first pass uses every unit, in an order that is known.
    pub fn state(mut self, directory: impl AsRef<Path>) -> Self {
        self.state = Some(directory.as_ref().to_owned());
        self
    }

    /// Whether what is remembered to have been in memory is read again in the background, beginning when the model is opened,
    /// as far as memory is free and the disk has nothing else to do; so it is, unless said.
    pub fn warm(mut self, warm: bool) -> Self {
        self.warm = warm;
        self
    }

    /// Which experts are read before their router has chosen them, for what the routers of earlier layers say; unless said,
    /// those whose read is expected to pay.
    pub fn speculation(mut self, speculation: Speculation) -> Self {
        self.speculation = speculation;
        self
    }

    /// The architectures that are known, to add one's own.
    pub fn models(mut self, models: AutoModel) -> Self {
        self.models = models;
        self
    }

    /// How keys and values are kept: as `f32` unless said; less lets more weights stay. Devices other than the processor
    /// keep `f32`.
    pub fn kv_encoding(mut self, encoding: KvEncoding) -> Self {
        self.kv_encoding = encoding;
        self
    }

    /// Says where weights stay, as in `model.layers.0.*=ram`: see [`PlaceRule`]. May be given several times; the first rule
    /// that matches a tensor counts, and what no rule names goes where the planner finds room.
    pub fn place(mut self, rule: PlaceRule) -> Self {
        self.map.rules.push(rule);
        self
    }

    /// How many bytes of a device's own memory are filled with weights that no rule names, decoded to `f32`, the first to
    /// be used first. None unless said; it is no part of the budget.
    pub fn device_memory_bytes(mut self, bytes: u64) -> Self {
        self.map.device_bytes = bytes;
        self
    }

    /// Whether memory holds compressed copies of weights that would be read for every token: none unless said. They count
    /// in the budget, and are made where they make tokens come faster.
    pub fn compressed(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Reads weights through the source that `around` makes of the one they lie in: for one that counts, waits, or keeps
    /// copies elsewhere. It has the same index.
    pub fn source_around(
        mut self,
        around: impl FnOnce(Arc<dyn WeightSource>) -> Arc<dyn WeightSource> + Send + 'static,
    ) -> Self {
        self.around = Around(Box::new(around));
        self
    }

    /// Opens the model: reads its headers, configuration and tokenizer, but no weights.
    ///
    /// # Errors
    /// [`RuntimeError`] if the checkpoint, its configuration or the device cannot be used, or the budget is too small.
    pub fn open(self) -> Result<Runtime, RuntimeError> {
        let policy = self.policy?;
        let dtypes = self.dtypes?;
        let experts = self.experts?;
        let device = self.device.open()?;
        let checkpoint = Checkpoint::open_with(&self.path, self.reader.unwrap_or(ReaderKind::Auto))?;
        let unit_bytes = Layout::unit_bytes_for(checkpoint.index().total_bytes());
        let checkpoint = match self.reader {
            // Widening small units to whole blocks would cost more than the page cache does.
            None if unit_bytes < 64 << 10 => Checkpoint::open_with(&self.path, ReaderKind::Pread)?,
            _ => checkpoint,
        };
        let tokenizer = Tokenizer::beside(&checkpoint);
        let directory = checkpoint.metadata().directory.clone();
        let checkpoint = Arc::new(checkpoint);
        let source = (self.around.0)(with_dtypes(Arc::clone(&checkpoint), &dtypes)?);
        let model_bytes = source.index().total_bytes();
        let mut layout = Layout::new(source.index(), source.alignment(), Layout::unit_bytes_for(model_bytes));
        if self.device == DeviceKind::Cpu && (self.map.names_device() || self.map.device_bytes > 0) {
            return Err(RuntimeError::NoDeviceMemory);
        }
        layout.reside(self.map.reside());
        let model = self.models.place(&checkpoint, &mut layout)?;
        let routed = layout.routed().to_vec();
        let residences = layout.residences().to_vec();
        let (units, schedule) = layout.finish();
        let kv_encoding = if self.device == DeviceKind::Cpu { self.kv_encoding } else { KvEncoding::F32 };
        let keys_and_values = model.config().kv_shape(kv_encoding);
        let has_experts = !routed.is_empty();
        // Past the page cache as many read as the disk was measured with; through it, more hide its copies.
        let is_direct = |kind| matches!(kind, ReaderKind::Uring | ReaderKind::Direct);
        let at_once = match checkpoint.reader_kinds().all(is_direct) {
            // Experts are small. More at once made a disk slower: eight gave 1.8 GB/s where two and three gave 2.2.
            true if has_experts => DiskProfile::READERS + 1,
            true => DiskProfile::READERS,
            false if has_experts => 8,
            false => 4,
        };
        let reading = Reading { at_once, bytes_per_second: checkpoint.disk_profile().bytes_per_second };
        let sizes = Sizes {
            model: &model,
            units: &units,
            schedule: &schedule,
            routed: &routed,
            residences: &residences,
            model_bytes,
            device: self.device,
            keys_and_values,
            reading,
            copies: Copies::default(),
        };

        let budget_bytes = match self.memory? {
            Some(memory) => memory.bytes(),
            None => sizes.everything_bytes(sizes.load(DEFAULT_CONTEXT)),
        };
        let load = sizes.load(1);
        let plan = sizes.plan(budget_bytes, load)?;
        let load = Mutex::new(load);
        let pinned = PinnedUnits::new(plan.pinned);
        let policy: Box<dyn EvictionPolicy> = match policy {
            // Shared weights are used for every token: no policy has to find that out.
            Policy::Own(policy) if has_experts => Box::new(Pinned::following(pinned.clone()).otherwise(policy)),
            Policy::Own(policy) => policy,
            Policy::Named(name) => {
                let known = Known { units: units_known(&units, &routed), pinned: pinned.clone() };
                let policy = policy::by_name(&name, &known).expect("the name was looked up when it was given");
                let is_pinned = !has_experts || name == POLICY_NAMES[0];
                if is_pinned { policy } else { Box::new(Pinned::following(pinned.clone()).otherwise(policy)) }
            }
        };
        let mut ignored = Vec::new();
        let state = self.state.filter(|_| has_experts);
        let state = state.map(|directory| State::of(&*checkpoint, &directory)).transpose();
        let state = or_ignored(state, &mut ignored);
        let held = or_ignored(state.as_ref().map_or(Ok(None), |state| state.held(&units)), &mut ignored);
        let rates = held.as_ref().map(|held| held.rates(&routed)).unwrap_or_default();
        let learning =
            expert_layers(&model).and_then(|layers| experts.advise(layers, state.as_ref(), &rates, &mut ignored));
        let predictor = self.predictor.unwrap_or_else(|| match has_experts {
            true => Box::new(RoutedPredictor::new(schedule.cycle.clone(), &routed).with_rates(rates)),
            false => Box::new(CyclicPredictor::new(schedule.clone())),
        });
        let can_copy = !has_experts && !matches!(model, Model::Encoder(_));
        let codec = self.compression.codec(source.index())?.filter(|_| can_copy);
        let mut streamer = Streamer::builder(source, units);
        let mut compressed = None;
        if let Some(codec) = codec {
            let tier = Arc::new(CompressedTier::new(streamer.counted_source(), codec));
            compressed = Some(Compressed::new(Arc::clone(&tier), self.compression));
            streamer = streamer.through(tier);
        }
        let streamer = streamer
            .io_threads(reading.at_once)
            .budget(Budget::new(budget_bytes))
            .policy(policy)
            .predictor(predictor)
            .speculation(self.speculation)
            .record_trace(has_experts)
            .read_ahead_bytes(plan.streaming_bytes - plan.largest_unit_bytes)
            .build()?;
        let warming = held.as_ref().filter(|_| self.warm).map(|held| streamer.warm(held.units())).transpose()?;
        let weights = Weights::new(streamer, device);
        let device = self.device;
        Ok(Runtime {
            model,
            weights,
            tokenizer,
            schedule,
            routed,
            residences,
            pinned,
            compressed,
            model_bytes,
            device,
            keys_and_values,
            reading,
            directory,
            load,
            state,
            held,
            warming: Mutex::new(warming),
            learning,
            ignored,
        })
    }
}

/// The layers with experts of a model that has any.
pub(crate) fn expert_layers(model: &Model) -> Option<&ExpertLayers> {
    model.decoder().ok()?.experts()
}

/// The checkpoint itself, or what converts it.
fn with_dtypes(checkpoint: Arc<Checkpoint>, dtypes: &DtypeRules) -> Result<Arc<dyn WeightSource>, RuntimeError> {
    if dtypes.is_empty() {
        return Ok(checkpoint);
    }
    Ok(Arc::new(Converted::new(checkpoint, dtypes)?))
}

const DEFAULT_CONTEXT: usize = 1024;

/// What policies are told of the units: experts belong to the layer of the place that they are used at.
pub(crate) fn units_known(units: &UnitMap, routed: &[RoutedUnit]) -> Vec<UnitInfo> {
    let shared = |unit| UnitInfo { bytes: units.buffer_bytes(unit), layer: None, kind: UnitKind::Shared };
    let mut known: Vec<UnitInfo> = units.units().map(shared).collect();
    let (mut layer, mut place) = (0, None);
    for routed in routed {
        if place.replace(routed.place).is_some_and(|before| before != routed.place) {
            layer += 1;
        }
        let info = &mut known[routed.unit.index()];
        (info.layer, info.kind) = (Some(layer), UnitKind::Expert);
    }
    known
}
