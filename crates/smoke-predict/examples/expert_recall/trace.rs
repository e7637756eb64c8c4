//! Recorded routing, as `cargo xtask train-moe` writes it; `tests/assets/README.md` says what is in it.

use std::error::Error;
use std::path::Path;

use half::f16;
use safetensors::{Dtype, SafeTensors};
use smoke_predict::experts::{ExpertShape, LAYERS_AHEAD, Routed};

/// The routing of some tokens.
#[derive(Debug)]
pub(crate) struct Trace {
    /// The model's experts.
    pub(crate) shape: ExpertShape,
    /// Tokens.
    pub(crate) tokens: usize,
    /// Hidden size; 0 if not every token's router inputs were recorded.
    pub(crate) hidden: usize,
    chosen: Vec<u32>,
    scores: Vec<f32>,
    /// By distance; `[tokens, layers - distance, experts]`.
    lookahead: [Vec<f32>; LAYERS_AHEAD],
    /// Without the norm's scales: `[tokens, layers, hidden]`.
    inputs: Vec<f32>,
}

impl Trace {
    /// Reads `path`, at most the first `most` tokens.
    ///
    /// # Errors
    /// If it cannot be read, is no safetensors file, or lacks a tensor.
    pub(crate) fn read(path: &Path, most: usize) -> Result<Self, Box<dyn Error>> {
        let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| format!("{}: {error}", path.display()))?;
        let shape_of = |name: &str| Ok::<_, Box<dyn Error>>(file.tensor(name)?.shape().to_vec());
        let ([recorded, layers, used], [_, _, experts], [with_input, _, hidden]) =
            (dimensions(shape_of("experts")?)?, dimensions(shape_of("logits")?)?, dimensions(shape_of("inputs")?)?);
        let tokens = recorded.min(most);
        let numbers = |name: &str, rows: usize| numbers(&file, name, rows);
        let mut inputs = if tokens <= with_input { numbers("inputs", tokens)? } else { Vec::new() };
        let norms = numbers("router.norm", layers)?;
        for (value, scale) in inputs.iter_mut().zip(norms.iter().cycle()) {
            *value /= scale;
        }
        Ok(Self {
            shape: ExpertShape { layers, experts, used },
            tokens,
            hidden: if inputs.is_empty() { 0 } else { hidden },
            chosen: numbers("experts", tokens)?.into_iter().map(|expert| expert as u32).collect(),
            scores: numbers("logits", tokens)?,
            lookahead: [numbers("lookahead.1", tokens)?, numbers("lookahead.2", tokens)?],
            inputs,
        })
    }

    /// Calls `tell` with every router of every token, in the order in which they ran.
    pub(crate) fn play(&self, mut tell: impl FnMut(&Routed<'_>)) {
        let ExpertShape { layers, experts, used } = self.shape;
        for (token, layer) in (0..self.tokens).flat_map(|token| (0..layers).map(move |layer| (token, layer))) {
            let row = token * layers + layer;
            let early: Vec<&[f32]> = (1..=LAYERS_AHEAD)
                .take_while(|ahead| layer + ahead < layers)
                .map(|ahead| &self.lookahead[ahead - 1][(token * (layers - ahead) + layer) * experts..][..experts])
                .collect();
            tell(&Routed {
                layer,
                chosen: &self.chosen[row * used..][..used],
                scores: &self.scores[row * experts..][..experts],
                input: &self.inputs[row * self.hidden..][..self.hidden],
                lookahead: &early,
            });
        }
    }
}

fn dimensions(shape: Vec<usize>) -> Result<[usize; 3], Box<dyn Error>> {
    shape.try_into().map_err(|shape| format!("a tensor of shape {shape:?} where three dimensions were expected").into())
}

/// The first `rows` of a tensor.
fn numbers(file: &SafeTensors<'_>, name: &str, rows: usize) -> Result<Vec<f32>, Box<dyn Error>> {
    let tensor = file.tensor(name)?;
    let row_bytes = tensor.data().len() / tensor.shape()[0].max(1);
    let data = tensor.data().get(..rows * row_bytes).ok_or_else(|| format!("{name} has fewer than {rows} rows"))?;
    match tensor.dtype() {
        Dtype::U8 => Ok(data.iter().map(|&byte| f32::from(byte)).collect()),
        Dtype::F16 => Ok(data.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()),
        Dtype::F32 => Ok(data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()),
        other => Err(format!("{name} is {other:?}").into()),
    }
}
