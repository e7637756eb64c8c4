//! Who predicts the experts of a mixture, and how well.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use smoke_core::UnitId;
use smoke_models::parts::ExpertLayers;
use smoke_predict::experts::{
    self, ExpertAdviser, ExpertPredictor, LAYERS_AHEAD, LearnedExperts, LearnedShape, PopularExperts, RoutingScore,
};

use crate::state::{State, StateError, or_ignored};

/// The names that [`RuntimeBuilder::expert_predictor_name`](crate::RuntimeBuilder::expert_predictor_name) takes: the one
/// that is taken unless said first.
pub use smoke_predict::experts::NAMES as EXPERT_PREDICTOR_NAMES;

/// Who was chosen.
#[derive(Debug)]
pub(crate) enum ExpertChoice {
    Named(&'static str),
    Own(Box<dyn ExpertPredictor>),
}

/// How well a predictor knew the experts of the layers ahead.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ExpertScore {
    /// The predictor's name; `own` for one that came from outside.
    pub predictor: String,
    /// How many layers ahead, from 1.
    pub layers_ahead: usize,
    /// How often it was right.
    pub score: RoutingScore,
}

/// What learns, and where what it learns is kept.
#[derive(Debug)]
pub(crate) struct Learning {
    learned: Arc<Mutex<LearnedExperts>>,
    /// A file that could not be read is not written over.
    may_save: bool,
}

impl ExpertChoice {
    /// Puts the one that was chosen to work on a model's layers, with what it learnt before if that is kept. What cannot
    /// be read of that goes to `ignored`. `rates` are the shares of passes that used the experts before, if that is known.
    pub(crate) fn advise(
        self,
        layers: &ExpertLayers,
        state: Option<&State>,
        rates: &[(UnitId, f32)],
        ignored: &mut Vec<StateError>,
    ) -> Option<Learning> {
        let model = state.map_or(0, |state| state.model);
        let shape = LearnedShape { experts: layers.shape(), inputs: layers.inputs(), model };
        let adviser = |name: &str, predictor: Box<dyn ExpertPredictor>| {
            layers.advise(Some(ExpertAdviser::new(shape.experts, layers.units(), name, predictor)));
        };
        match self {
            // Nothing is even looked at.
            Self::Named("none") => layers.advise(None),
            Self::Named("learned") => {
                let before = state.map_or(Ok(None), |state| state.learned(shape));
                let may_save = before.is_ok();
                let before = or_ignored(before, ignored);
                let learned = Arc::new(Mutex::new(before.unwrap_or_else(|| LearnedExperts::new(shape))));
                adviser("learned", Box::new(Arc::clone(&learned)));
                return Some(Learning { learned, may_save });
            }
            Self::Named("popular") => {
                let rates: HashMap<UnitId, f32> = rates.iter().copied().collect();
                let units = layers.units();
                let numbered = units.iter().enumerate().flat_map(|(layer, units)| {
                    units.iter().enumerate().map(move |(number, unit)| (layer, number, unit))
                });
                let known = numbered.filter_map(|(layer, number, unit)| Some((layer, number, *rates.get(unit)?)));
                adviser("popular", Box::new(PopularExperts::new(shape.experts).with_rates(known)));
            }
            Self::Named(name) => {
                adviser(name, experts::by_name(name, shape).expect("the name was looked up when it was given"));
            }
            Self::Own(predictor) => adviser("own", predictor),
        }
        None
    }
}

impl Learning {
    pub(crate) fn save(&self, state: &State) -> Result<(), StateError> {
        if !self.may_save {
            return Ok(());
        }
        state.keep_learned(&self.learned.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The scores of the predictor that advises, then of those that it is compared with; none without one.
pub(crate) fn scores(layers: &ExpertLayers) -> Vec<ExpertScore> {
    let adviser = layers.adviser();
    let of = |(name, scores): (&str, &[RoutingScore; LAYERS_AHEAD])| {
        let predictor = name.to_owned();
        scores
            .iter()
            .zip(1..)
            .map(move |(&score, layers_ahead)| ExpertScore { predictor: predictor.clone(), layers_ahead, score })
            .collect::<Vec<_>>()
    };
    adviser.iter().flat_map(ExpertAdviser::scores).flat_map(of).collect()
}
