//! Predictors of the experts that the next layers of a token will choose.
//!
//! An [`AccessPredictor`](crate::AccessPredictor) hears which units were used. That is too little for the best predictors
//! of experts, which look at what the router looked at: they implement [`ExpertPredictor`], and whoever runs the model
//! tells them of each router as it has run. [`ExpertForecast`] makes an access predictor of those that need no more than
//! which experts were used.
//!
//! | predictor | says |
//! |---|---|
//! | [`PopularExperts`] | what the layer chose most lately |
//! | [`PreviousToken`] | what the layer chose for the token before |
//! | [`Transitions`] | what mostly followed the experts that were chosen one and two layers before |
//! | [`RouterLookahead`] | what the later router says when it is run early (Eliseev and Mazur 2023) |
//! | [`LearnedExperts`] | the same, corrected by what was learnt of this layer's input and choice |
//!
//! [`by_name`] makes each of them. [`Scoreboard`] runs any of them side by side and counts how often they are right, and
//! [`ExpertAdviser`] puts one to work beside a running model.

mod adviser;
mod counted;
mod forecast;
mod learned;
mod learned_file;
mod lookahead;
mod margin;
mod scoreboard;

use std::sync::{Arc, Mutex, PoisonError};

pub use adviser::{BASELINES, ExpertAdviser};
pub use counted::{PopularExperts, PreviousToken, Transitions};
pub use forecast::ExpertForecast;
pub use learned::{LearnedExperts, LearnedShape};
pub use learned_file::LearnedFileError;
pub use lookahead::RouterLookahead;
pub use scoreboard::{RoutingScore, Scoreboard};

use smoke_core::NoForecast;

use crate::RoutedUnit;

/// The names that [`by_name`] knows: the one that is right most often first.
pub const NAMES: &[&str] = &["learned", "lookahead", "transitions", "popular", "previous", "none"];

/// A fresh predictor of a name in [`NAMES`].
///
/// ```
/// use smoke_predict::experts::{self, ExpertShape, LearnedShape};
/// let experts = ExpertShape { layers: 24, experts: 64, used: 4 };
/// let shape = LearnedShape { experts, inputs: 1024, model: 0 };
/// assert!(experts::NAMES.iter().all(|name| experts::by_name(name, shape).is_some()));
/// assert!(experts::by_name("clairvoyant", shape).is_none());
/// ```
pub fn by_name(name: &str, shape: LearnedShape) -> Option<Box<dyn ExpertPredictor>> {
    let experts = shape.experts;
    Some(match name {
        "learned" => Box::new(LearnedExperts::new(shape)),
        "lookahead" => Box::new(RouterLookahead::new(experts)),
        "transitions" => Box::new(Transitions::new(experts)),
        "popular" => Box::new(PopularExperts::new(experts)),
        "previous" => Box::new(PreviousToken::new(experts)),
        "none" => Box::new(NoForecast),
        _ => return None,
    })
}

/// Layers ahead that are predicted: the next one, and the one after it.
pub const LAYERS_AHEAD: usize = 2;

/// The experts of a model. Layers without experts do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertShape {
    /// Layers with experts.
    pub layers: usize,
    /// Experts of a layer.
    pub experts: usize,
    /// Experts of a layer that a token uses.
    pub used: usize,
}

impl ExpertShape {
    /// The shape of experts that are units: a layer for each place. Where layers differ, the largest.
    pub fn of(routed: &[RoutedUnit]) -> Self {
        let mut places: Vec<usize> = routed.iter().map(|routed| routed.place).collect();
        places.sort_unstable();
        let experts = places.chunk_by(|a, b| a == b).map(<[usize]>::len).max().unwrap_or(0);
        places.dedup();
        let share = routed.iter().map(|routed| routed.share).fold(0.0, f32::max);
        Self { layers: places.len(), experts, used: ((share * experts as f32).round() as usize).min(experts) }
    }

    /// The share of experts that a token uses: how probable each is to somebody who knows nothing.
    fn even(self) -> f32 {
        self.used as f32 / self.experts.max(1) as f32
    }

    /// The numbers in `chosen` that are experts.
    fn known(self, chosen: &[u32]) -> impl Iterator<Item = usize> {
        chosen.iter().map(|&expert| expert as usize).filter(move |&expert| expert < self.experts)
    }

    /// Whether `scores` has a finite score for every expert.
    fn are_scores(self, scores: &[f32]) -> bool {
        !scores.is_empty() && scores.len() == self.experts && scores.iter().all(|score| score.is_finite())
    }
}

/// What one layer's router did for one token. What is not known is left empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct Routed<'a> {
    /// The layer, counted among those with experts, from 0.
    pub layer: usize,
    /// The experts that it chose, in any order.
    pub chosen: &'a [u32],
    /// Its score for each expert, before softmax.
    pub scores: &'a [f32],
    /// What it saw: the hidden state, best without the scales of the norm before it, so that its mean square is 1.
    pub input: &'a [f32],
    /// The scores of the next layers' routers, run early on the same state: the next layer's first.
    pub lookahead: &'a [&'a [f32]],
}

/// Predicts the experts of the layers that follow in the same token.
///
/// # Contract
///
/// Whoever runs the model calls [`observe`](Self::observe) for each router that has run, token after token and within a
/// token by rising layer; a layer that is not above the latest one begins a new token. Layers may be left out: skipped
/// ones, branches, early exits. Nothing that is told may cause a panic; what makes no sense is passed over. Memory does
/// not grow with what is observed, and the same observations give the same predictions.
pub trait ExpertPredictor: std::fmt::Debug + Send {
    /// Takes note of what a router did, and learns from what earlier predictions made of it.
    fn observe(&mut self, routed: &Routed<'_>);

    /// How probable it is that the token uses each expert, by number, of the layer `ahead` layers after the one observed
    /// last. Replaces what `out` held; leaves it empty where nothing can be said: without such a layer, with an `ahead`
    /// of 0 or above [`LAYERS_AHEAD`], or for want of what the prediction is made from.
    fn predict(&self, ahead: usize, out: &mut Vec<f32>);
}

impl<P: ExpertPredictor + ?Sized> ExpertPredictor for Box<P> {
    fn observe(&mut self, routed: &Routed<'_>) {
        (**self).observe(routed);
    }
    fn predict(&self, ahead: usize, out: &mut Vec<f32>) {
        (**self).predict(ahead, out);
    }
}

/// Shared, so that whoever keeps a handle can look at what was learnt, as to save it.
impl<P: ExpertPredictor> ExpertPredictor for Arc<Mutex<P>> {
    fn observe(&mut self, routed: &Routed<'_>) {
        self.lock().unwrap_or_else(PoisonError::into_inner).observe(routed);
    }
    fn predict(&self, ahead: usize, out: &mut Vec<f32>) {
        self.lock().unwrap_or_else(PoisonError::into_inner).predict(ahead, out);
    }
}

/// Says nothing.
impl ExpertPredictor for NoForecast {
    fn observe(&mut self, _routed: &Routed<'_>) {}
    fn predict(&self, _ahead: usize, out: &mut Vec<f32>) {
        out.clear();
    }
}

/// Where a token is among the layers.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    latest: Option<usize>,
}

impl Progress {
    /// Moves to `layer`; whether that begins a token.
    fn move_to(&mut self, layer: usize) -> bool {
        let begins = self.latest.is_none_or(|latest| layer <= latest);
        self.latest = Some(layer);
        begins
    }

    /// The layer `ahead` layers on, if the token has it.
    fn ahead(self, ahead: usize, layers: usize) -> Option<usize> {
        let layer = self.latest?.checked_add(ahead)?;
        ((1..=LAYERS_AHEAD).contains(&ahead) && layer < layers).then_some(layer)
    }
}

/// The distances at which `layer` was predicted, each with the layer that it was predicted from.
fn sources(layer: usize) -> impl Iterator<Item = (usize, usize)> {
    (1..=LAYERS_AHEAD).filter_map(move |ahead| Some((ahead, layer.checked_sub(ahead)?)))
}

/// The place of what is kept for each layer and distance.
fn pair(layer: usize, ahead: usize) -> usize {
    layer * LAYERS_AHEAD + ahead - 1
}
