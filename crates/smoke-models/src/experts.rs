//! Places mixtures of experts, however a checkpoint stores them.

use std::sync::Arc;

use smoke_burn::Layout;
use smoke_burn::layers::Linear;
use smoke_predict::experts::LAYERS_AHEAD;

use crate::blueprint::{Bias, Blueprint};
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::model::LmConfig;
use crate::parts::{Activation, Expert, ExpertLayers, GatedMlp, Lookahead, MixtureOfExperts, RoutedLayer, Router};

/// Places a model's mixtures of experts, layer after layer.
#[derive(Debug)]
pub(crate) struct Experts {
    /// Experts of a layer.
    count: usize,
    /// Experts of a token.
    used: usize,
    hidden: usize,
    /// Features inside an expert.
    intermediate: usize,
    normalised: bool,
    activation: Activation,
    layers: Vec<RoutedLayer>,
    /// The same, for the layers themselves, once all are placed.
    shared: Arc<ExpertLayers>,
}

impl Experts {
    /// Reads how many there are, each with `intermediate` features inside.
    ///
    /// # Errors
    /// [`ModelError::Config`] if a number is missing or impossible.
    pub(crate) fn read(model: &Blueprint<'_, '_>, intermediate: usize, normalised: bool) -> Result<Self, ModelError> {
        let config = model.config();
        let count = match config.optional("num_experts")? {
            Some(count) => count,
            None => config.count("num_local_experts")?,
        };
        let used = config.count("num_experts_per_tok")?;
        if used > count {
            let (of, key) = (config.key("num_local_experts"), config.key("num_experts_per_tok"));
            return Err(config.invalid(format!("key `{key}` is {used}, and `{of}` only {count}")));
        }
        Ok(Self {
            count,
            used,
            hidden: config.count("hidden_size")?,
            intermediate,
            normalised,
            activation: config.activation("hidden_act", "silu")?,
            layers: Vec::new(),
            shared: Arc::default(),
        })
    }

    /// The sizes with what a mixture of experts needs for a token: for one expert its input, what is inside, and its
    /// output; the outputs of all its experts, their sum, and a score for each expert of this layer and of those ahead.
    pub(crate) fn with_activations(&self, config: LmConfig) -> LmConfig {
        let outputs = (self.used + 3) * self.hidden;
        let floats = 3 * self.intermediate + outputs + (1 + LAYERS_AHEAD) * self.count;
        LmConfig { intermediate: config.intermediate.max(floats.div_ceil(3)), ..config }
    }

    /// Places the router and the experts of a layer; `module` is what Transformers calls them.
    ///
    /// # Errors
    /// [`ModelError`] if tensors are missing.
    pub(crate) fn place(
        &mut self,
        model: &mut Blueprint<'_, '_>,
        layer: usize,
        module: &str,
    ) -> Result<MixtureOfExperts, ModelError> {
        let name = format!("layers.{layer}.{module}");
        let scores = model.linear(&format!("{name}.gate"), self.hidden, self.count, Bias::Absent)?;
        let router = Router { scores, used: self.used, normalised: self.normalised };
        let files = Files::find(model, layer, &name);
        let share = self.used as f32 / self.count as f32;
        let experts = (0..self.count).map(|expert| {
            let (unit, mlp) = model.layout().place_routed(share, |layout| {
                let [gate, up, down] = files.place(layout, expert, [self.count, self.hidden, self.intermediate])?;
                Ok::<_, ModelError>(GatedMlp { gate, up, activation: self.activation, down })
            })?;
            Ok(Expert { unit, mlp })
        });
        let experts = experts.collect::<Result<Vec<_>, ModelError>>()?;
        let ahead = Lookahead { layers: Arc::clone(&self.shared), layer: self.layers.len() };
        let units = experts.iter().map(|expert| expert.unit).collect();
        self.layers.push(RoutedLayer { router: router.clone(), units });
        Ok(MixtureOfExperts { name: model.name(&name), router, experts, ahead })
    }

    /// The decoder whose last layer was placed, which knows of its layers with experts now, as they do of one another.
    pub(crate) fn finish(self, decoder: Decoder) -> Decoder {
        self.shared.set(self.layers);
        Decoder { experts: Some(self.shared), ..decoder }
    }
}

/// How a layer's experts lie in the checkpoint.
#[derive(Debug)]
enum Files {
    /// Three tensors for each expert: gate, up, down.
    Separate { prefix: String, names: [&'static str; 3] },
    /// Three tensors for all of them, `[experts, outputs, inputs]`, as llama.cpp stores them.
    Stacked([String; 3]),
    /// Gates and what they multiply in one tensor, `[experts, 2 · intermediate, hidden]`, and another one for the way back.
    Fused([String; 2]),
}

impl Files {
    fn find(model: &mut Blueprint<'_, '_>, layer: usize, name: &str) -> Self {
        let prefix = format!("{}.experts", model.name(name));
        let index = model.layout().index();
        let stacked = ["gate", "up", "down"].map(|part| format!("blk.{layer}.ffn_{part}_exps.weight"));
        if index.get(&stacked[0]).is_some() {
            return Self::Stacked(stacked);
        }
        let fused = ["gate_up_proj", "down_proj"].map(|part| format!("{prefix}.{part}"));
        if index.get(&fused[0]).is_some() {
            return Self::Fused(fused);
        }
        let is_mixtral = index.get(&format!("{prefix}.0.w1.weight")).is_some();
        let names = if is_mixtral { ["w1", "w3", "w2"] } else { ["gate_proj", "up_proj", "down_proj"] };
        Self::Separate { prefix, names }
    }

    fn place(
        &self,
        layout: &mut Layout<'_>,
        expert: usize,
        [count, hidden, inner]: [usize; 3],
    ) -> Result<[Linear; 3], ModelError> {
        let (up_shape, down_shape) = ([count, inner, hidden], [count, hidden, inner]);
        let (up_rows, down_rows) = (expert * inner..(expert + 1) * inner, expert * hidden..(expert + 1) * hidden);
        Ok(match self {
            Self::Separate { prefix, names: [gate, up, down] } => [
                Linear::place(layout, &format!("{prefix}.{expert}.{gate}"), hidden, inner)?,
                Linear::place(layout, &format!("{prefix}.{expert}.{up}"), hidden, inner)?,
                Linear::place(layout, &format!("{prefix}.{expert}.{down}"), inner, hidden)?,
            ],
            Self::Stacked([gate, up, down]) => [
                Linear::place_rows(layout, gate, &up_shape, up_rows.clone())?,
                Linear::place_rows(layout, up, &up_shape, up_rows)?,
                Linear::place_rows(layout, down, &down_shape, down_rows)?,
            ],
            Self::Fused([gate_up, down]) => {
                let (shape, first) = ([count, 2 * inner, hidden], 2 * expert * inner);
                [
                    Linear::place_rows(layout, gate_up, &shape, first..first + inner)?,
                    Linear::place_rows(layout, gate_up, &shape, first + inner..first + 2 * inner)?,
                    Linear::place_rows(layout, down, &down_shape, down_rows)?,
                ]
            }
        })
    }
}
