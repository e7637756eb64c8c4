//! The frame of every decoder-only model: an embedding, layers one after another, a norm, an output head.

use std::fmt::Debug;
use std::sync::Arc;

use smallvec::SmallVec;
use smoke_burn::layers::{Embedding, Linear};
use smoke_burn::{Activations, Weights};

use crate::error::ModelError;
use crate::model::{CausalLm, LmConfig, Output, Want};
use crate::parts::{ExpertLayers, KvCache, Mask, Norm, Rotary, Rotation, Routes, softcap};

/// A decoder-only language model without its weights; the architectures differ in what they fill it with.
#[derive(Debug)]
pub struct Decoder {
    /// The sizes that callers plan by.
    pub config: LmConfig,
    /// A row for each token of the vocabulary.
    pub embedding: Embedding,
    /// Multiplies the embedding's rows.
    pub embedding_scale: f32,
    /// A row for each position, added to the token's; none where queries and keys are turned instead.
    pub positions: Option<Embedding>,
    /// What the layers see of the tokens before: each layer has one of these.
    pub views: Vec<View>,
    /// In the order of their use.
    pub layers: Vec<Box<dyn DecoderLayer>>,
    /// After the last layer.
    pub norm: Norm,
    /// From the hidden size to the vocabulary.
    pub head: Linear,
    /// Keeps logits between plus and minus this, smoothly.
    pub logit_softcap: Option<f32>,
    /// The layers that have experts, where any do.
    pub experts: Option<Arc<ExpertLayers>>,
}

impl Decoder {
    /// A model whose positions are turned into queries and keys, without a cap on its logits: what most are. `ends` are
    /// its embedding and its head.
    pub fn new(
        config: LmConfig,
        ends: (Embedding, Linear),
        views: Vec<View>,
        layers: Vec<Box<dyn DecoderLayer>>,
        norm: Norm,
    ) -> Self {
        let (embedding, head) = ends;
        Self {
            config,
            embedding,
            embedding_scale: 1.0,
            positions: None,
            views,
            layers,
            norm,
            head,
            logit_softcap: None,
            experts: None,
        }
    }
}

/// One layer of a [`Decoder`].
pub trait DecoderLayer: Debug + Send + Sync {
    /// Changes `x`, `[batch · tokens, hidden]`, from what enters the layer to what leaves it, and keeps the layer's keys
    /// and values in the pass' cache.
    ///
    /// # Errors
    /// [`ModelError`] if weights cannot be loaded.
    fn forward(&self, pass: &mut Pass<'_>, x: &mut Activations) -> Result<(), ModelError>;
}

/// What a kind of layers sees of the tokens before.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// How queries and keys are turned by their positions, if they are.
    pub rotary: Option<Rotary>,
    /// How many tokens back they see, themselves among them; none for the whole context.
    pub window: Option<usize>,
}

/// What the layers share in one forward pass.
#[derive(Debug)]
pub struct Pass<'a> {
    /// Where weights and memory come from.
    pub weights: &'a Weights,
    /// Keys and values of the tokens before, which layers add to.
    pub cache: &'a mut KvCache,
    /// The decoder's views for the tokens of this pass.
    pub views: SmallVec<[PassView; 2]>,
    /// Which experts the tokens took in each layer that has any, where somebody wants to know.
    pub routes: Option<Vec<Routes>>,
}

/// A [`View`] for the tokens of one forward pass.
#[derive(Debug)]
pub struct PassView {
    /// How queries and keys are turned.
    pub rotation: Option<Rotation>,
    /// Which keys a query sees.
    pub mask: Mask,
}

impl View {
    fn of_pass(&self, cache: &KvCache, tokens: usize, weights: &Weights) -> PassView {
        let rotation = self.rotary.as_ref().map(|rotary| rotary.next(cache, tokens, weights));
        let mask = match self.window {
            Some(window) => Mask::window(window, cache, tokens, weights),
            None => Mask::causal(cache, tokens, weights),
        };
        PassView { rotation, mask }
    }
}

impl CausalLm for Decoder {
    fn config(&self) -> &LmConfig {
        &self.config
    }

    fn experts(&self) -> Option<&ExpertLayers> {
        self.experts.as_deref()
    }

    fn forward(
        &self,
        weights: &Weights,
        tokens: &[u32],
        cache: &mut KvCache,
        want: Want,
    ) -> Result<Output, ModelError> {
        let count = self.config.begin(weights, tokens, cache)?;
        let mut x = self.embedding.forward(weights, tokens)?;
        if self.embedding_scale != 1.0 {
            x.scale(self.embedding_scale);
        }
        if let Some(table) = &self.positions {
            let positions: SmallVec<[u32; 4]> = cache.next_positions(count).collect();
            x.add(table.forward(weights, &positions)?);
        }
        let mut hidden_states = Vec::new();
        let views = self.views.iter().map(|view| view.of_pass(cache, count, weights)).collect();
        let routes = (want == Want::HiddenStates).then(Vec::new);
        let mut pass = Pass { weights, cache, views, routes };
        for layer in &self.layers {
            if want == Want::HiddenStates {
                hidden_states.push(x.duplicate(weights));
            }
            layer.forward(&mut pass, &mut x)?;
        }
        pass.cache.advance(count);
        let routes = pass.routes.unwrap_or_default();
        if want == Want::LastLogits {
            x = x.last_of_each(weights, count);
        }
        let x = self.norm.forward(weights, &x)?;
        let mut logits = self.head.forward(weights, &x)?;
        if let Some(cap) = self.logit_softcap {
            logits = softcap(logits, cap);
        }
        if want == Want::HiddenStates {
            hidden_states.push(x);
        }
        Ok(Output { logits, hidden_states, routes })
    }
}
