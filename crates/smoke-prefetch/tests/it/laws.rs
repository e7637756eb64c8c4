//! What holds whatever is asked in whatever order: any sizes, budgets, policies, predictors, failures and threads.

use std::time::Duration;

use proptest::prelude::*;
use smoke_cache::EvictionPolicy;
use smoke_cache::policy::{self, Known, Pinned, PinnedUnits};
use smoke_core::{Budget, ExpectedUse, UnitId, UnitInfo, UnitKind};
use smoke_predict::{AccessPredictor, CyclicPredictor, MarkovPredictor, NoForecast, RoutedPredictor, RoutedUnit};
use smoke_prefetch::{Speculation, StreamError, Streamer, UnitLease};
use smoke_storage::SourceErrorKind;

use crate::model::{Model, PAGE, units};

/// Longer than a test may run: who waits for what never comes is seen to hang.
const LONG: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug)]
struct Setup {
    lens: Vec<u64>,
    /// A number of `policy::NAMES`, or pinning these.
    policy: Result<usize, Vec<u32>>,
    forecast: Expects,
    limit: Percent,
    read_ahead_pages: Option<u64>,
    speculation: Speculation,
    io_threads: usize,
    /// Every so manieth read fails so.
    failures: Option<(u64, SourceErrorKind)>,
}

#[derive(Clone, Debug)]
enum Expects {
    Nothing,
    WhatFollowed,
    Cycle(Vec<u32>),
    /// So many shared units, between which the others are used as experts.
    Experts(u32),
}

/// Where a limit lies between the largest unit and all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Percent(u64);

/// Units are numbers modulo how many there are.
#[derive(Clone, Debug)]
enum Action {
    Use(u32),
    /// Several at once, as many as fit the least limit.
    Step(Vec<u32>),
    /// Any number, one after another as they arrive, of which one may be held meanwhile.
    Each(Vec<u32>, bool),
    /// The second while the first is held.
    Hold(u32, u32),
    Peek(u32),
    Hint(u32, u64),
    MakeRoom(Percent),
    Limit(Percent),
}

fn percent() -> impl Strategy<Value = Percent> {
    prop_oneof![Just(0), 0..=100_u64, Just(100)].prop_map(Percent)
}

fn setups() -> impl Strategy<Value = Setup> {
    let lens = prop::collection::vec(prop_oneof![Just(PAGE), 1..4 * PAGE], 2..10);
    let unit = || 0..10_u32;
    let policy = prop_oneof![
        4 => (0..policy::NAMES.len()).prop_map(Ok),
        1 => prop::collection::vec(unit(), 0..6).prop_map(Err),
    ];
    let forecast = prop_oneof![
        Just(Expects::Nothing),
        Just(Expects::WhatFollowed),
        prop::collection::vec(unit(), 0..12).prop_map(Expects::Cycle),
        Just(Expects::Cycle((0..10).collect())),
        (1..4_u32).prop_map(Expects::Experts),
    ];
    let failure = prop_oneof![
        Just(SourceErrorKind::Transient),
        Just(SourceErrorKind::Truncated),
        Just(SourceErrorKind::PermissionDenied),
    ];
    let failures = prop::option::weighted(0.4, (2..12_u64, failure));
    let speculation = prop_oneof![Just(Speculation::Off), Just(Speculation::Likely), Just(Speculation::Gated)];
    let read_ahead = prop::option::of(0..8_u64);
    (lens, policy, forecast, percent(), read_ahead, speculation, 1..4_usize, failures).prop_map(
        |(lens, policy, forecast, limit, read_ahead_pages, speculation, io_threads, failures)| Setup {
            lens,
            policy,
            forecast,
            limit,
            read_ahead_pages,
            speculation,
            io_threads,
            failures,
        },
    )
}

fn scripts() -> impl Strategy<Value = Vec<Action>> {
    let unit = || 0..10_u32;
    let action = prop_oneof![
        4 => unit().prop_map(Action::Use),
        3 => prop::collection::vec(unit(), 1..4).prop_map(Action::Step),
        3 => (prop::collection::vec(unit(), 1..8), any::<bool>()).prop_map(|(units, hold)| Action::Each(units, hold)),
        2 => (unit(), unit()).prop_map(|(first, second)| Action::Hold(first, second)),
        1 => unit().prop_map(Action::Peek),
        2 => (unit(), 1..4_u64).prop_map(|(unit, distance)| Action::Hint(unit, distance)),
        1 => percent().prop_map(Action::MakeRoom),
        1 => percent().prop_map(Action::Limit),
    ];
    // Runs of units in order, where reading ahead comes true, between single actions.
    let run = (unit(), 1..12_u32).prop_map(|(start, len)| (start..start + len).map(Action::Use).collect::<Vec<_>>());
    prop::collection::vec(prop_oneof![2 => action.prop_map(|action| vec![action]), 1 => run], 1..24)
        .prop_map(|parts| parts.concat())
}

/// A streamer and what may happen to it.
struct Case {
    model: Model,
    streamer: Streamer,
    failing: Option<SourceErrorKind>,
    /// All limits that will ever be in force lie between these.
    least_limit_bytes: u64,
    most_limit_bytes: u64,
    is_alone: bool,
}

impl Case {
    fn new(setup: &Setup, scripts: &[Vec<Action>]) -> Self {
        let mut model = Model::new(&setup.lens);
        let later = scripts.iter().flatten().filter_map(|action| match action {
            Action::Limit(percent) => Some(*percent),
            _ => None,
        });
        let limits: Vec<u64> = std::iter::once(setup.limit).chain(later).map(|at| limit_bytes(&model, at)).collect();
        let count = setup.lens.len() as u32;
        let policy: Box<dyn EvictionPolicy> = match &setup.policy {
            Ok(number) => {
                let unit = |number| UnitInfo { bytes: PAGE, layer: Some(number % 3), kind: UnitKind::Expert };
                let known = Known { units: (0..count).map(unit).collect(), pinned: PinnedUnits::new(units([0, 2])) };
                policy::by_name(policy::NAMES[*number], &known).unwrap()
            }
            Err(pinned) => Box::new(Pinned::new(units(pinned.iter().copied()))),
        };
        let predictor: Box<dyn AccessPredictor> = match &setup.forecast {
            Expects::Nothing => Box::new(NoForecast),
            Expects::WhatFollowed => Box::new(MarkovPredictor::new()),
            Expects::Experts(shared) => {
                let shared = (*shared).min(count);
                let expert = |unit| RoutedUnit { unit: UnitId(unit), place: (unit % shared) as usize, share: 0.5 };
                let experts: Vec<_> = (shared..count).map(expert).collect();
                Box::new(RoutedPredictor::new(units(0..shared), &experts))
            }
            Expects::Cycle(order) => Box::new(CyclicPredictor::new(units(order.iter().map(|unit| unit % count)))),
        };
        let mut builder = model
            .builder()
            .budget(Budget::new(limits[0]))
            .policy(policy)
            .predictor(predictor)
            .speculation(setup.speculation)
            .io_threads(setup.io_threads)
            .patience(LONG);
        if let Some(pages) = setup.read_ahead_pages {
            builder = builder.read_ahead_bytes(pages * PAGE);
        }
        if let Some((n, kind)) = setup.failures {
            model.source.fail_every(n, kind);
        }
        Self {
            streamer: builder.build().unwrap(),
            failing: setup.failures.map(|(_, kind)| kind),
            least_limit_bytes: *limits.iter().min().unwrap(),
            most_limit_bytes: *limits.iter().max().unwrap(),
            is_alone: scripts.len() == 1,
            model,
        }
    }

    fn unit(&self, number: u32) -> UnitId {
        UnitId(number % self.model.unit_bytes().len() as u32)
    }

    fn bytes(&self, unit: UnitId) -> u64 {
        self.model.unit_bytes()[unit.index()]
    }

    /// As many of `numbers` as fit whatever the limit becomes.
    fn step(&self, numbers: &[u32]) -> Vec<UnitId> {
        let (mut step, mut sum_bytes) = (Vec::new(), 0);
        for unit in numbers.iter().map(|&number| self.unit(number)) {
            sum_bytes += if step.contains(&unit) { 0 } else { self.bytes(unit) };
            if sum_bytes <= self.least_limit_bytes {
                step.push(unit);
            }
        }
        step
    }

    fn run(&self, script: &[Action]) {
        for action in script {
            self.act(action);
            self.check_use();
        }
    }

    fn act(&self, action: &Action) {
        let streamer = &self.streamer;
        match action {
            Action::Use(number) => {
                let unit = self.unit(*number);
                if let Some(lease) = self.succeeded(streamer.acquire(unit)) {
                    self.check_held(&[lease], &[unit]);
                }
            }
            Action::Step(numbers) => {
                let step = self.step(numbers);
                if let Some(leases) = self.succeeded(streamer.acquire_all(&step)) {
                    self.check_held(&leases, &step);
                }
            }
            Action::Each(numbers, hold) => {
                let mut each: Vec<UnitId> = numbers.iter().map(|&number| self.unit(number)).collect();
                each.sort_unstable();
                each.dedup();
                self.act_on_each(&each, *hold);
            }
            Action::Hold(first, second) => {
                let (first, second) = (self.unit(*first), self.unit(*second));
                let Some(held) = self.succeeded(streamer.acquire(first)) else { return };
                match streamer.acquire(second) {
                    Err(StreamError::NoRoom { .. }) => {
                        let both_bytes = self.bytes(first) + self.bytes(second);
                        let limit_bytes = streamer.budget().limit_bytes();
                        assert!(!self.is_alone || both_bytes > limit_bytes, "{both_bytes} of {limit_bytes} bytes");
                        self.check_held(&[held], &[first]);
                    }
                    other => {
                        if let Some(lease) = self.succeeded(other) {
                            self.check_held(&[held, lease], &[first, second]);
                        }
                    }
                }
            }
            Action::Peek(number) => {
                let unit = self.unit(*number);
                if let Some(lease) = streamer.peek(unit) {
                    self.check_held(&[lease], &[unit]);
                }
            }
            Action::Hint(number, distance) => {
                streamer.hint(&[ExpectedUse { unit: self.unit(*number), distance: *distance, probability: 1.0 }]);
            }
            // Others are not told when other memory is given back, so they would be right to fail.
            Action::MakeRoom(percent) if self.is_alone => {
                let bytes = limit_bytes(&self.model, *percent).min(self.least_limit_bytes);
                assert_eq!(streamer.make_room(bytes).unwrap().bytes(), bytes);
            }
            Action::MakeRoom(_) => {}
            Action::Limit(percent) => streamer.set_memory_limit(limit_bytes(&self.model, *percent)).unwrap(),
        }
    }

    /// Each unit comes once, whatever fails. While another lease is held there may be no room, and then only.
    fn act_on_each(&self, each: &[UnitId], hold: bool) {
        let mut given = Vec::new();
        let mut held: Option<UnitLease> = None;
        for arrival in self.streamer.acquire_each(each).unwrap() {
            match arrival {
                Err(StreamError::NoRoom { .. }) if held.is_some() => given.push(None),
                other => {
                    let arrival = self.succeeded(other);
                    if let Some((place, lease)) = &arrival {
                        assert_eq!(lease.unit(), each[*place]);
                        self.check_held(std::slice::from_ref(lease), &[each[*place]]);
                    }
                    given.push(arrival.as_ref().map(|(place, _)| *place));
                    if hold && held.is_none() {
                        held = arrival.map(|(_, lease)| lease);
                    }
                }
            }
        }
        assert_eq!(given.len(), each.len());
        let mut places: Vec<usize> = given.into_iter().flatten().collect();
        places.sort_unstable();
        assert!(places.windows(2).all(|pair| pair[0] < pair[1]), "a unit came twice");
    }

    /// The only failure that there may be is the one that the source was told to make.
    fn succeeded<T>(&self, result: Result<T, StreamError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(StreamError::Load { error, .. }) if Some(error.kind()) == self.failing => None,
            Err(other) => panic!("{other:?}"),
        }
    }

    fn check_held(&self, leases: &[UnitLease], expected: &[UnitId]) {
        assert_eq!(leases.iter().map(UnitLease::unit).collect::<Vec<_>>(), expected);
        for lease in leases {
            self.model.check(lease);
            assert!(self.streamer.cache().contains(lease.unit()), "{} is leased and was evicted", lease.unit());
        }
    }

    fn check_use(&self) {
        let budget = self.streamer.budget();
        assert!(budget.peak_bytes() <= self.most_limit_bytes, "{budget:?}");
        if self.is_alone {
            // This thread has dropped its leases, so nothing excuses more.
            assert!(budget.used_bytes() <= budget.limit_bytes(), "{budget:?}");
        }
    }

    /// After all leases are dropped: all memory can be had, and comes back.
    fn finish(self) {
        let budget = self.streamer.budget().clone();
        self.streamer.set_memory_limit(self.most_limit_bytes).unwrap();
        self.streamer.set_memory_limit(self.least_limit_bytes).unwrap();
        assert!(budget.used_bytes() <= self.least_limit_bytes, "{budget:?}");
        // Were any reservation neither filled nor given back, this would find no room.
        drop(self.streamer.make_room(self.least_limit_bytes).unwrap());
        assert_eq!(budget.used_bytes(), 0, "{budget:?}");
        let stats = self.streamer.stats().cache;
        assert_eq!((stats.resident_bytes, stats.inserted_bytes), (0, stats.evicted_bytes));
        // What was evicted is there again when it is asked for.
        self.model.source.fail_every(u64::MAX, SourceErrorKind::Other);
        for number in 0..self.model.unit_bytes().len() as u32 {
            self.model.check(&self.streamer.acquire(UnitId(number)).unwrap());
        }
        assert!(self.model.source.most_reads_at_once() <= 1, "a unit was read twice at once");
        drop(self.streamer);
        assert_eq!(budget.used_bytes(), 0);
    }
}

fn limit_bytes(model: &Model, Percent(percent): Percent) -> u64 {
    let largest = model.unit_bytes().iter().copied().max().unwrap_or(0);
    let total: u64 = model.unit_bytes().iter().sum();
    largest + (total - largest) * percent / 100
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn one_thread_gets_what_it_asks_for(setup in setups(), script in scripts()) {
        let case = Case::new(&setup, std::slice::from_ref(&script));
        case.run(&script);
        case.finish();
    }

    #[test]
    fn several_threads_get_what_they_ask_for(setup in setups(), scripts in prop::collection::vec(scripts(), 2..5)) {
        let case = Case::new(&setup, &scripts);
        std::thread::scope(|scope| {
            for script in &scripts {
                scope.spawn(|| case.run(script));
            }
        });
        case.finish();
    }
}
