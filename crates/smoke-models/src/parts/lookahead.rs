//! What a layer with experts says of the experts of those that follow.

use std::array;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use smoke_burn::{Activations, WeightError, Weights};
use smoke_core::UnitId;
use smoke_predict::experts::{ExpertAdviser, ExpertShape, LAYERS_AHEAD, Routed, RouterLookahead};

use super::{Router, Routes};

/// What a layer before has to know of a layer with experts.
#[derive(Clone, Debug)]
pub struct RoutedLayer {
    /// Chooses its experts.
    pub router: Router,
    /// The units of its experts, by number.
    pub units: Vec<UnitId>,
}

/// All layers with experts of a model, and who predicts which they choose: one for all layers, by router lookahead
/// unless [another one](Self::advise) is set.
#[derive(Debug, Default)]
pub struct ExpertLayers {
    layers: OnceLock<Vec<RoutedLayer>>,
    adviser: Mutex<Option<ExpertAdviser>>,
}

impl ExpertLayers {
    /// Sets the layers, in their order, once all are placed; what is set later is passed over.
    pub fn set(&self, layers: Vec<RoutedLayer>) {
        if self.layers.set(layers).is_ok() {
            let lookahead = RouterLookahead::new(self.shape());
            self.advise(Some(ExpertAdviser::new(self.shape(), self.units(), "lookahead", lookahead)));
        }
    }

    fn layers(&self) -> &[RoutedLayer] {
        self.layers.get().map_or(&[], Vec::as_slice)
    }

    /// How many there are. Where layers differ, the most.
    pub fn shape(&self) -> ExpertShape {
        let layers = self.layers();
        ExpertShape {
            layers: layers.len(),
            experts: layers.iter().map(|layer| layer.units.len()).max().unwrap_or(0),
            used: layers.iter().map(|layer| layer.router.used).max().unwrap_or(0),
        }
    }

    /// Features that routers see; 0 without any.
    pub fn inputs(&self) -> usize {
        self.layers().first().map_or(0, |layer| layer.router.scores.inputs())
    }

    /// The units of the experts, by layer and number.
    pub fn units(&self) -> Vec<Vec<UnitId>> {
        self.layers().iter().map(|layer| layer.units.clone()).collect()
    }

    /// Lets `adviser` predict from here on, or nobody.
    pub fn advise(&self, adviser: Option<ExpertAdviser>) {
        *self.adviser() = adviser;
    }

    /// Who predicts, held until it is dropped; tokens wait meanwhile.
    pub fn adviser(&self) -> MutexGuard<'_, Option<ExpertAdviser>> {
        self.adviser.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A layer's view of those that follow. Their routers are run ahead of time on this layer's input (Eliseev and Mazur,
/// 2023): since each layer changes the hidden state by little, they choose mostly what they will choose then.
#[derive(Clone, Debug)]
pub struct Lookahead {
    /// All layers with experts, set when the last one was placed.
    pub layers: Arc<ExpertLayers>,
    /// This layer's number among them.
    pub layer: usize,
}

impl Lookahead {
    /// Tells the streamer which experts the next layers will probably use. Only for a single token, for several want most
    /// experts anyway; and only where the streamer listens.
    pub(super) fn hint(
        &self,
        weights: &Weights,
        x: &Activations,
        scores: &Activations,
        routes: &Routes,
    ) -> Result<(), WeightError> {
        if x.rows() != 1 || !weights.streamer().wants_hints() {
            return Ok(());
        }
        let mut adviser = self.layers.adviser();
        let Some(adviser) = &mut *adviser else { return Ok(()) };
        let mut early: [Option<Activations>; LAYERS_AHEAD] = array::from_fn(|_| None);
        for (early, next) in early.iter_mut().zip(self.layers.layers().iter().skip(self.layer + 1)) {
            *early = next.router.scores.forward_if_resident(weights, x)?;
        }
        let early: [&[f32]; LAYERS_AHEAD] =
            array::from_fn(|ahead| early[ahead].as_ref().and_then(Activations::on_host).unwrap_or(&[]));
        // What lies on another device is not fetched for this.
        let hints = adviser.observe(&Routed {
            layer: self.layer,
            chosen: &routes.experts,
            scores: scores.on_host().unwrap_or(&[]),
            input: x.on_host().unwrap_or(&[]),
            lookahead: &early,
        });
        weights.streamer().hint(hints);
        Ok(())
    }
}
