use burn::tensor::{DType, IndexingUpdateOp, Tensor, TensorData};
use smoke_burn::layers::Linear;
use smoke_burn::{Activations, Place, WeightError, Weights};
use smoke_core::UnitId;

use super::host::softmax;
use super::{FeedForward, GatedMlp, Lookahead};
use crate::error::ModelError;

/// Chooses a few experts for each token (Shazeer et al., 2017).
#[derive(Clone, Debug)]
pub struct Router {
    /// From the hidden size to a score for each expert.
    pub scores: Linear,
    /// How many experts a token has.
    pub used: usize,
    /// Whether the weights of a token's experts sum to one; else each keeps its share of all experts' probabilities.
    pub normalised: bool,
}

/// The experts of some tokens, and what their outputs are multiplied by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routes {
    /// Experts of a token.
    pub used: usize,
    /// Token after token, of each its experts by falling weight: `[tokens, used]`.
    pub experts: Vec<u32>,
    /// A weight for each of them.
    pub weights: Vec<f32>,
}

impl Router {
    /// The experts of every row of `x`, `[tokens, hidden]`. Of experts with the same score the first is chosen.
    ///
    /// # Errors
    /// [`WeightError`] if the weights cannot be loaded.
    pub fn route(&self, weights: &Weights, x: &Activations) -> Result<Routes, WeightError> {
        Ok(self.choose(&self.scores.forward(weights, x)?))
    }

    fn choose(&self, scores: &Activations) -> Routes {
        let used = self.used;
        let mut scores_of_all = scores.to_vec();
        let mut routes = Routes { used, ..Routes::default() };
        let mut order: Vec<u32> = Vec::new();
        for probabilities in scores_of_all.chunks_exact_mut(scores.features()) {
            softmax(probabilities);
            let of = |expert: u32| probabilities[expert as usize];
            order.clear();
            order.extend(0..probabilities.len() as u32);
            order.sort_by(|&a, &b| of(b).total_cmp(&of(a)));
            let chosen = &order[..used];
            let sum: f32 = if self.normalised { chosen.iter().map(|&expert| of(expert)).sum() } else { 1.0 };
            routes.experts.extend_from_slice(chosen);
            routes.weights.extend(chosen.iter().map(|&expert| of(expert) / sum));
        }
        routes
    }
}

/// An expert: a unit that is read when a router says so.
#[derive(Clone, Debug)]
pub struct Expert {
    /// The unit that holds all of its weights.
    pub unit: UnitId,
    /// What it computes.
    pub mlp: GatedMlp,
}

/// A router and its experts, in the place of one MLP (Shazeer et al., 2017; Jiang et al., 2024).
///
/// Each expert is leased once in a pass, for all tokens that are routed to it. All that are missing are read at once, and
/// what is there computes meanwhile.
#[derive(Clone, Debug)]
pub struct MixtureOfExperts {
    /// Named in errors.
    pub name: String,
    /// Chooses the experts of each token.
    pub router: Router,
    /// By number.
    pub experts: Vec<Expert>,
    /// The layers after this one.
    pub ahead: Lookahead,
}

impl FeedForward for MixtureOfExperts {
    fn forward(&self, weights: &Weights, x: &Activations) -> Result<Activations, ModelError> {
        Ok(self.mix(weights, x)?.0)
    }

    fn forward_routed(
        &self,
        weights: &Weights,
        x: &Activations,
        all_routes: &mut Vec<Routes>,
    ) -> Result<Activations, ModelError> {
        let (mixed, routes) = self.mix(weights, x)?;
        all_routes.push(routes);
        Ok(mixed)
    }
}

impl MixtureOfExperts {
    /// The sum of each row's experts, each multiplied by its weight, and which these were.
    fn mix(&self, weights: &Weights, x: &Activations) -> Result<(Activations, Routes), ModelError> {
        let scores = self.router.scores.forward(weights, x)?;
        let routes = self.router.choose(&scores);
        let used = routes.used;
        // Places of `routes`, by expert.
        let mut places: Vec<usize> = (0..routes.experts.len()).collect();
        places.sort_by_key(|&place| routes.experts[place]);
        let groups: Vec<&[usize]> = places.chunk_by(|&a, &b| routes.experts[a] == routes.experts[b]).collect();
        let expert = |group: &[usize]| &self.experts[routes.experts[group[0]] as usize];
        let units: Vec<UnitId> = groups.iter().map(|group| expert(group).unit).collect();
        let mut sum = Sum::new(weights, x, used);
        let arrivals = weights.each(&self.name, &units)?;
        // While the disk is busy.
        self.ahead.hint(weights, x, &scores, &routes)?;
        for arrival in arrivals {
            let group = groups[arrival?];
            let mlp = &expert(group).mlp;
            let output = match x.rows() {
                1 => mlp.forward(weights, x)?,
                _ => {
                    let rows: Vec<usize> = group.iter().map(|place| place / used).collect();
                    mlp.forward(weights, &x.select_rows(weights, &rows))?
                }
            };
            sum.add(weights, output, group, &routes.weights);
        }
        Ok((sum.finish(weights), routes))
    }
}

/// The experts' outputs as they come. They are added when all are there, in the order of their weights, so that the sum
/// does not depend on which one was in memory.
struct Sum {
    used: usize,
    features: usize,
    outputs: Activations,
}

impl Sum {
    fn new(weights: &Weights, x: &Activations, used: usize) -> Self {
        let features = x.features();
        let outputs = if weights.on_host() {
            Activations::from_host(weights.floats(x.rows() * used * features), features)
        } else {
            Activations::from_tensor(Tensor::zeros([x.rows() * used, features], (weights.device(), DType::F32)))
        };
        Self { used, features, outputs }
    }

    /// `output` has a row for each of `places`.
    fn add(&mut self, weights: &Weights, output: Activations, places: &[usize], factors: &[f32]) {
        let features = self.features;
        let outputs = std::mem::replace(&mut self.outputs, Activations::from_host(weights.floats(0), features));
        self.outputs = match (outputs.place(), output.place()) {
            (Place::Host(mut outputs), Place::Host(output)) => {
                for (&place, row) in places.iter().zip(output.chunks_exact(features)) {
                    let out = &mut outputs[place * features..][..features];
                    out.iter_mut().zip(row).for_each(|(out, &x)| *out = x * factors[place]);
                }
                Activations::from_host(outputs, features)
            }
            (Place::Device(outputs), Place::Device(output)) => {
                let factors: Vec<f32> = places.iter().map(|&place| factors[place]).collect();
                let factors = TensorData::new(factors, [places.len(), 1]);
                let factors = Tensor::<2>::from_data(factors, (weights.device(), DType::F32));
                let places = weights.indices(places);
                Activations::from_tensor(outputs.select_assign(0, places, output * factors, IndexingUpdateOp::Add))
            }
            _ => panic!("activations on different devices"),
        };
    }

    fn finish(self, weights: &Weights) -> Activations {
        let (used, features) = (self.used, self.features);
        match self.outputs.place() {
            Place::Host(outputs) => {
                let mut out = weights.floats(outputs.len() / used);
                for (out, of_token) in out.chunks_exact_mut(features).zip(outputs.chunks_exact(used * features)) {
                    out.copy_from_slice(&of_token[..features]);
                    for output in of_token[features..].chunks_exact(features) {
                        out.iter_mut().zip(output).for_each(|(out, x)| *out += x);
                    }
                }
                Activations::from_host(out, features)
            }
            Place::Device(outputs) => {
                let tokens = outputs.dims()[0] / used;
                let sum: Tensor<3> = outputs.reshape([tokens, used, features]).sum_dim(1);
                Activations::from_tensor(sum.reshape([tokens, features]))
            }
        }
    }
}
