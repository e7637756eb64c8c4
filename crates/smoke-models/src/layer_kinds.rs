//! Which layers see the whole context, and which a window of it.

use crate::config::Config;
use crate::error::ModelError;

/// What a layer sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerKind {
    /// The whole context.
    Full,
    /// The nearest tokens.
    Sliding,
}

impl LayerKind {
    /// What `layer_types` calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full_attention",
            Self::Sliding => "sliding_attention",
        }
    }

    /// Its place in a list of two views, of which the first is that of the whole context.
    pub const fn view(self) -> usize {
        match self {
            Self::Full => 0,
            Self::Sliding => 1,
        }
    }

    /// The kinds of all layers: from `layer_types`, or by layer from `default` where that key is absent.
    ///
    /// # Errors
    /// [`ModelError::Config`] if a kind is unknown, or there are not as many as layers.
    pub fn of_layers(config: &Config, layers: usize, default: impl Fn(usize) -> Self) -> Result<Vec<Self>, ModelError> {
        let Some(names) = config.optional::<Vec<String>>("layer_types")? else {
            return Ok((0..layers).map(default).collect());
        };
        if names.len() != layers {
            return Err(config.invalid(format!("key `layer_types` has {} entries for {layers} layers", names.len())));
        }
        let kind = |name: String| {
            [Self::Full, Self::Sliding].into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
                let supported = format!("{}, {}", Self::Full.name(), Self::Sliding.name());
                config.invalid(format!("key `layer_types`: `{name}` is not supported; supported: {supported}"))
            })
        };
        names.into_iter().map(kind).collect()
    }
}
