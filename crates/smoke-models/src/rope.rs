//! Reads how rotary embeddings are configured: `rope_parameters`, the older `rope_theta` and `rope_scaling`, or a GGUF
//! file's keys.

use smoke_core::Encoding;
use smoke_storage::{Checkpoint, WeightSource};

use crate::blueprint::Blueprint;
use crate::config::Config;
use crate::error::ModelError;
use crate::layer_kinds::LayerKind;
use crate::parts::{Pairing, RopeScaling, Rotary};

/// What the configuration need not say.
#[derive(Clone, Copy, Debug)]
pub struct RopeDefaults {
    /// Elements of a head.
    pub head_dim: usize,
    /// The base of the frequencies.
    pub theta: f64,
    /// The share of a head that is turned.
    pub turned: f64,
    /// Which elements are turned together.
    pub pairing: Pairing,
}

impl RopeDefaults {
    /// Whole heads in halves, with base 10 000.
    pub fn new(head_dim: usize) -> Self {
        Self { head_dim, theta: 10_000.0, turned: 1.0, pairing: Pairing::Halves }
    }

    /// The rotary embedding that the configuration describes. A `config.json` may describe one for each kind of layers.
    ///
    /// # Errors
    /// [`ModelError`] if a value is missing or invalid, or the kind of scaling is unknown.
    pub fn read(self, model: &Blueprint<'_, '_>, kind: LayerKind) -> Result<Rotary, ModelError> {
        if model.config().is_gguf() {
            self.read_gguf(model.config(), model.checkpoint())
        } else {
            self.read_json(model.config(), kind)
        }
    }

    /// The rotary embedding of layers that look back a window, where theirs is another: its base is `key`, and nothing is
    /// scaled, but for a `config.json` that describes both kinds.
    ///
    /// # Errors
    /// [`ModelError`] if a value is missing or invalid, or the kind of scaling is unknown.
    pub fn read_local(self, model: &Blueprint<'_, '_>, key: &str) -> Result<Rotary, ModelError> {
        let config = model.config();
        let parameters = config.section("rope_parameters")?;
        if let Some(parameters) = parameters
            && parameters.section(LayerKind::Sliding.name())?.is_some()
        {
            return self.read(model, LayerKind::Sliding);
        }
        let turned = (self.head_dim as f64 * self.turned) as usize;
        self.rotary(config, config.positive_or(key, 10_000.0)?, turned, RopeScaling::None)
    }

    fn read_json(self, json: &Config, kind: LayerKind) -> Result<Rotary, ModelError> {
        let parameters = json.section("rope_parameters")?;
        let parameters = match parameters.as_ref().map(|all| all.section(kind.name())).transpose()?.flatten() {
            Some(of_kind) => Some(of_kind),
            None => parameters,
        };
        // Transformers 5 keeps all in one place; before, the base and the share stood beside the scaling.
        let first = |keys: [&str; 2], default: f64| -> Result<f64, ModelError> {
            let inside = parameters.as_ref().map_or(Ok(None), |parameters| parameters.optional(keys[0]))?;
            let beside = [json.optional(keys[0])?, json.optional(keys[1])?];
            Ok(inside.or(beside[0]).or(beside[1]).unwrap_or(default))
        };
        let theta = first(["rope_theta", "rotary_emb_base"], self.theta)?;
        let share = first(["partial_rotary_factor", "rotary_pct"], self.turned)?;
        let scaling = match parameters.map_or_else(|| json.section("rope_scaling"), |found| Ok(Some(found)))? {
            Some(parameters) => scaling(&parameters, json)?,
            None => RopeScaling::None,
        };
        self.rotary(json, theta, (self.head_dim as f64 * share) as usize, scaling)
    }

    fn read_gguf(self, gguf: &Config, checkpoint: &Checkpoint) -> Result<Rotary, ModelError> {
        let architecture: String = gguf.required("general.architecture")?;
        let key = |name: &str| format!("{architecture}.rope.{name}");
        let turned = gguf.count_or(&key("dimension_count"), self.head_dim)?;
        let tensor = |name| factors(checkpoint, name, turned / 2, gguf);
        let original_context = gguf.or(&key("scaling.original_context_length"), 0)?;
        let long_and_short = (tensor("rope_factors_long.weight")?, tensor("rope_factors_short.weight")?);
        // Files from before the type was stated have a factor only, the oldest under another name.
        let factor_key = [key("scaling.factor"), key("scale_linear")]
            .into_iter()
            .find_map(|key| gguf.optional::<f64>(&key).map(|factor| factor.map(|factor| (key, factor))).transpose())
            .transpose()?;
        let is_scaled = long_and_short.0.is_none() && factor_key.as_ref().is_some_and(|&(_, factor)| factor != 0.0);
        let kind: String = gguf.or(&key("scaling.type"), if is_scaled { "linear" } else { "none" }.to_owned())?;
        let scaling = match (kind.as_str(), long_and_short) {
            ("none" | "longrope", (Some(long), Some(short))) => {
                let context = gguf.count("max_position_embeddings")?;
                let original_context = if original_context == 0 { context } else { original_context };
                let magnitude = long_rope_magnitude(context as f64 / original_context as f64, original_context);
                let floats = |factors: Vec<f32>| factors.into_iter().map(f64::from).collect();
                RopeScaling::LongRope {
                    long_factors: floats(long),
                    short_factors: floats(short),
                    original_context,
                    magnitude: gguf.positive_or(&key("scaling.attn_factor"), magnitude)?,
                }
            }
            ("none", _) => RopeScaling::None,
            ("linear", _) => {
                let key = factor_key.map_or_else(|| key("scaling.factor"), |(key, _)| key);
                RopeScaling::Linear { factor: gguf.positive(&key)? }
            }
            (other, _) => {
                let reason = format!("key `{}` is `{other}`; supported: none, linear, longrope", key("scaling.type"));
                return Err(gguf.invalid(reason));
            }
        };
        let rotary = self.rotary(gguf, gguf.positive_or("rope_theta", self.theta)?, turned, scaling)?;
        Ok(Rotary { divisors: tensor("rope_freqs.weight")?.unwrap_or_default(), ..rotary })
    }

    fn rotary(self, config: &Config, theta: f64, turned: usize, scaling: RopeScaling) -> Result<Rotary, ModelError> {
        let Self { head_dim, pairing, .. } = self;
        if !turned.is_multiple_of(2) || !(2..=head_dim).contains(&turned) {
            return Err(config.invalid(format!("{turned} of {head_dim} elements of a head cannot be turned in pairs")));
        }
        if !(theta > 1.0 && theta.is_finite()) {
            return Err(config.invalid(format!("key `{}` is {theta}", config.key("rope_theta"))));
        }
        if let RopeScaling::LongRope { short_factors, long_factors, .. } = &scaling {
            for (key, factors) in [("short_factor", short_factors), ("long_factor", long_factors)] {
                if factors.len() != turned / 2 || !factors.iter().all(|&factor| factor > 0.0 && factor.is_finite()) {
                    return Err(config.invalid(format!("key `{key}` must be {} positive numbers", turned / 2)));
                }
            }
        }
        Ok(Rotary { head_dim, turned, theta, scaling, divisors: Vec::new(), pairing })
    }
}

/// What `rope_parameters` or `rope_scaling` say; `json` is the whole configuration.
fn scaling(parameters: &Config, json: &Config) -> Result<RopeScaling, ModelError> {
    let kind = match parameters.optional::<String>("rope_type")? {
        Some(kind) => kind,
        None => parameters.or("type", "default".to_owned())?,
    };
    const ORIGINAL: &str = "original_max_position_embeddings";
    let context = || json.count("max_position_embeddings");
    let original_context = || match parameters.optional::<usize>(ORIGINAL)? {
        Some(_) => parameters.count(ORIGINAL),
        None => json.count_or(ORIGINAL, context()?),
    };
    match kind.as_str() {
        // NTK scaling that follows the length changes nothing up to `max_position_embeddings`, and longer rows are refused.
        "default" | "dynamic" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: parameters.positive("factor")? }),
        "llama3" => {
            let (low, high) = (parameters.positive("low_freq_factor")?, parameters.positive("high_freq_factor")?);
            if low >= high {
                return Err(
                    json.invalid(format!("key `low_freq_factor` is {low}, not below `high_freq_factor`, {high}"))
                );
            }
            Ok(RopeScaling::Llama3 {
                factor: parameters.positive("factor")?,
                low_frequency_factor: low,
                high_frequency_factor: high,
                original_context: parameters.positive("original_max_position_embeddings")?,
            })
        }
        "yarn" => {
            let original_context = original_context()?;
            let factor = match parameters.optional_positive("factor")? {
                None => context()? as f64 / original_context as f64,
                Some(factor) => factor,
            };
            Ok(RopeScaling::Yarn {
                factor,
                fast_turns: parameters.positive_or("beta_fast", 32.0)?,
                slow_turns: parameters.positive_or("beta_slow", 1.0)?,
                whole_pairs: parameters.or("truncate", true)?,
                original_context: original_context as f64,
                magnitude: yarn_magnitude(parameters, factor)?,
            })
        }
        "longrope" | "su" => {
            let original_context = original_context()?;
            // A context beside the scaling outweighs a factor inside it.
            let stretched = match (json.optional::<usize>(ORIGINAL)?, parameters.optional_positive("factor")?) {
                (None, Some(factor)) => factor,
                _ => context()? as f64 / original_context as f64,
            };
            let magnitude = long_rope_magnitude(stretched, original_context);
            Ok(RopeScaling::LongRope {
                short_factors: parameters.required("short_factor")?,
                long_factors: parameters.required("long_factor")?,
                original_context,
                magnitude: parameters.positive_or("attention_factor", magnitude)?,
            })
        }
        other => {
            let supported = "default, linear, dynamic, llama3, yarn, longrope";
            Err(json.invalid(format!("key `rope_type` is `{other}`, which is not supported; supported: {supported}")))
        }
    }
}

fn yarn_magnitude(parameters: &Config, factor: f64) -> Result<f64, ModelError> {
    let grown = |by: f64| if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 };
    let scales: [Option<f64>; 2] = [parameters.optional("mscale")?, parameters.optional("mscale_all_dim")?];
    let default = match scales {
        [Some(scale), Some(all)] if scale != 0.0 && all != 0.0 => grown(scale) / grown(all),
        _ => grown(1.0),
    };
    parameters.positive_or("attention_factor", default)
}

fn long_rope_magnitude(stretched: f64, original_context: usize) -> f64 {
    if stretched <= 1.0 || original_context < 2 {
        return 1.0;
    }
    (1.0 + stretched.ln() / (original_context as f64).ln()).sqrt()
}

/// Divisors of frequencies that llama.cpp's converter stores as a tensor.
fn factors(checkpoint: &Checkpoint, name: &str, len: usize, gguf: &Config) -> Result<Option<Vec<f32>>, ModelError> {
    let Some(info) = checkpoint.index().get(name) else {
        return Ok(None);
    };
    if info.encoding != Encoding::F32 || info.shape != [len as u64] {
        return Err(gguf.invalid(format!("{name} must be {len} F32 elements")));
    }
    let mut bytes = vec![0; len * size_of::<f32>()];
    checkpoint.read_at(info.extent, &mut bytes).map_err(|error| gguf.invalid(error.to_string()))?;
    let floats = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    Ok(Some(floats.collect()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;

    fn read(config: &Value, kind: LayerKind) -> Result<Rotary, ModelError> {
        RopeDefaults::new(8).read_json(&Config::parse(Path::new("config.json"), &config.to_string())?, kind)
    }

    /// Magnitudes are those that Transformers' formulas give, computed anew in Python.
    #[test]
    fn both_styles_say_the_same() {
        let yarn = |magnitude| RopeScaling::Yarn {
            factor: 4.0,
            fast_turns: 32.0,
            slow_turns: 1.0,
            whole_pairs: true,
            original_context: 2048.0,
            magnitude,
        };
        let long_rope = |magnitude| RopeScaling::LongRope {
            short_factors: vec![1.0, 1.1, 1.2, 1.3],
            long_factors: vec![2.0, 3.0, 4.0, 5.0],
            original_context: 4096,
            magnitude,
        };
        let factors = |more: Value| {
            let mut all = json!({"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 3.0, 4.0, 5.0]});
            all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            all
        };
        let cases = [
            (json!({"rope_type": "default"}), json!({}), RopeScaling::None),
            (json!({"type": "linear", "factor": 4}), json!({}), RopeScaling::Linear { factor: 4.0 }),
            (
                json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}),
                json!({}),
                yarn(1.138_629_436_111_989),
            ),
            (
                json!({"type": "yarn", "factor": 4.0}),
                json!({"max_position_embeddings": 2048}),
                yarn(1.138_629_436_111_989),
            ),
            (
                json!({"rope_type": "yarn", "factor": 4.0, "attention_factor": 0.5}),
                json!({"original_max_position_embeddings": 2048}),
                yarn(0.5),
            ),
            (
                factors(json!({"type": "longrope"})),
                json!({"original_max_position_embeddings": 4096}),
                long_rope(1.190_238_071_423_808_3),
            ),
            (
                factors(json!({"rope_type": "longrope", "factor": 32.0, "original_max_position_embeddings": 4096})),
                json!({}),
                long_rope(1.190_238_071_423_808_3),
            ),
            (
                factors(json!({"type": "su", "attention_factor": 1.25})),
                json!({"max_position_embeddings": 4096}),
                long_rope(1.25),
            ),
        ];
        for (scaling, mut config, expected) in cases {
            let positions = config.as_object_mut().unwrap().entry("max_position_embeddings").or_insert(131_072.into());
            assert!(positions.is_number());
            let mut older = config.clone();
            older["rope_scaling"] = scaling.clone();
            older["rope_theta"] = 1e6.into();
            let mut newer = config.clone();
            newer["rope_parameters"] = scaling.clone();
            newer["rope_parameters"]["rope_theta"] = 1e6.into();
            let mut by_kind = config.clone();
            by_kind["rope_parameters"] = json!({"full_attention": newer["rope_parameters"], "sliding_attention": {}});
            for config in [older, newer, by_kind] {
                let rotary = read(&config, LayerKind::Full).unwrap();
                assert_eq!((&rotary.scaling, rotary.theta, rotary.turned), (&expected, 1e6, 8), "{config}");
            }
        }
    }

    #[test]
    fn two_magnitudes_of_yarn_are_divided() {
        let scaling = json!({"type": "yarn", "factor": 40.0, "mscale": 0.707, "mscale_all_dim": 1.0});
        let rotary = read(&json!({"rope_scaling": scaling, "max_position_embeddings": 4096}), LayerKind::Full).unwrap();
        assert!((rotary.scaling.magnitude() - 0.921_042_355_316_339_9).abs() < 1e-12, "{rotary:?}");
    }

    #[test]
    fn layers_of_two_kinds_may_be_turned_differently() {
        let config = json!({"rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6, "partial_rotary_factor": 0.5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        }});
        let full = read(&config, LayerKind::Full).unwrap();
        assert_eq!((full.theta, full.turned, full.scaling), (1e6, 4, RopeScaling::Linear { factor: 8.0 }));
        let sliding = read(&config, LayerKind::Sliding).unwrap();
        assert_eq!((sliding.theta, sliding.turned, sliding.scaling), (1e4, 8, RopeScaling::None));
    }
}
