//! From the features of a text's tokens to one vector for the text, as Sentence-BERT does it (Reimers and Gurevych, 2019).

use std::path::{Component, Path};

use serde::Deserialize;

use crate::config::Config;
use crate::error::ModelError;

/// How the features of tokens become one vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pooling {
    /// Their mean.
    #[default]
    Mean,
    /// Those of the first token.
    First,
    /// The largest of each feature.
    Max,
}

/// Whether vectors get the length 1, so that their products are cosines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Length {
    /// They stay as they are.
    #[default]
    Free,
    /// They are divided by their Euclidean length.
    One,
}

/// What a directory of sentence-transformers says beside its encoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SentencePooling {
    /// How the features of tokens become one vector.
    pub pooling: Pooling,
    /// The vector's length.
    pub length: Length,
    /// The most tokens of a text that the model was trained for, special ones included.
    pub max_tokens: Option<usize>,
}

#[derive(Deserialize)]
struct Module {
    #[serde(default)]
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

impl SentencePooling {
    /// Reads `modules.json` in the directory of a checkpoint and the files that it points to. Without that file it is the
    /// mean of the tokens' features, whatever its length, as in sentence-transformers.
    ///
    /// # Errors
    /// [`ModelError`] if a file is damaged, or asks for what is not supported.
    pub fn in_directory(directory: &Path) -> Result<Self, ModelError> {
        let path = directory.join("modules.json");
        let mut found = Self::default();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
            Err(cause) => return Err(ModelError::File { path, cause }),
        };
        let invalid = |reason: String| ModelError::Config { path: path.clone(), reason };
        let modules: Vec<Module> = serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))?;
        for module in modules {
            let inside = Path::new(&module.path).components().all(|part| matches!(part, Component::Normal(_)));
            if !inside {
                return Err(invalid(format!("module path `{}` leaves the directory", module.path)));
            }
            let directory = directory.join(&module.path);
            // The rest of the type's name has changed between versions.
            match module.kind.rsplit('.').next().unwrap_or_default() {
                "Transformer" => {
                    let settings = optional_file(&directory.join("sentence_bert_config.json"))?;
                    found.max_tokens = match settings {
                        Some(settings) => settings.optional("max_seq_length")?,
                        None => None,
                    };
                }
                "Pooling" => found.pooling = Pooling::read(&file(&directory.join("config.json"))?)?,
                "Normalize" => found.length = Length::One,
                other => return Err(ModelError::unsupported("module", other, "Transformer, Pooling, Normalize")),
            }
        }
        Ok(found)
    }

    /// One vector for each row: `hidden` is `[rows, tokens, features]`, of which `padding` says how many tokens of each row
    /// are to be left out at its beginning.
    ///
    /// # Panics
    /// If a row is all padding, or the numbers do not fit together.
    pub fn apply(&self, hidden: &[f32], padding: &[usize], features: usize) -> Vec<Vec<f32>> {
        let row_len = hidden.len() / padding.len().max(1);
        let rows = hidden.chunks_exact(row_len.max(1)).zip(padding);
        rows.map(|(row, pad)| {
            let mut vector = self.pooling.pool(&row[pad * features..], features);
            if self.length == Length::One {
                let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
                vector.iter_mut().for_each(|x| *x /= length);
            }
            vector
        })
        .collect()
    }
}

impl Pooling {
    fn read(config: &Config) -> Result<Self, ModelError> {
        const MODES: [(&str, Option<Pooling>); 6] = [
            ("pooling_mode_mean_tokens", Some(Pooling::Mean)),
            ("pooling_mode_cls_token", Some(Pooling::First)),
            ("pooling_mode_max_tokens", Some(Pooling::Max)),
            ("pooling_mode_mean_sqrt_len_tokens", None),
            ("pooling_mode_weightedmean_tokens", None),
            ("pooling_mode_lasttoken", None),
        ];
        let mut chosen = Vec::new();
        for (key, pooling) in MODES {
            if config.or(key, false)? {
                chosen.push((key, pooling));
            }
        }
        match chosen[..] {
            [(_, Some(pooling))] => Ok(pooling),
            [] => Err(config.invalid("no pooling mode is true")),
            _ => {
                let keys: Vec<_> = chosen.iter().map(|(key, _)| *key).collect();
                Err(ModelError::unsupported("pooling", &keys.join(" + "), "one of mean, cls and max"))
            }
        }
    }

    fn pool(self, tokens: &[f32], features: usize) -> Vec<f32> {
        let mut rows = tokens.chunks_exact(features);
        let mut vector = rows.next().expect("a text has a token").to_vec();
        match self {
            Self::First => {}
            Self::Max => rows.for_each(|row| vector.iter_mut().zip(row).for_each(|(max, x)| *max = max.max(*x))),
            Self::Mean => {
                rows.for_each(|row| vector.iter_mut().zip(row).for_each(|(sum, x)| *sum += x));
                let count = (tokens.len() / features) as f32;
                vector.iter_mut().for_each(|sum| *sum /= count);
            }
        }
        vector
    }
}

fn file(path: &Path) -> Result<Config, ModelError> {
    optional_file(path)?.ok_or_else(|| ModelError::File {
        path: path.to_owned(),
        cause: std::io::Error::from(std::io::ErrorKind::NotFound),
    })
}

fn optional_file(path: &Path) -> Result<Option<Config>, ModelError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Config::parse(path, &text).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(ModelError::File { path: path.to_owned(), cause }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const MODULES: &str = r#"[{"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}NORMALIZE]"#;

    fn read(modules: &str, pooling: &str) -> Result<SentencePooling, ModelError> {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("1_Pooling")).unwrap();
        fs::write(directory.path().join("modules.json"), modules).unwrap();
        fs::write(directory.path().join("sentence_bert_config.json"), r#"{"max_seq_length": 7}"#).unwrap();
        fs::write(directory.path().join("1_Pooling/config.json"), pooling).unwrap();
        SentencePooling::in_directory(directory.path())
    }

    #[test]
    fn pooling_length_and_limit_are_read() {
        for (normalize, pooling, expected) in [
            ("", r#"{"pooling_mode_mean_tokens": true}"#, (Pooling::Mean, Length::Free)),
            (
                r#", {"path": "2_Normalize", "type": "some.new.place.Normalize"}"#,
                r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#,
                (Pooling::First, Length::One),
            ),
        ] {
            let found = read(&MODULES.replace("NORMALIZE", normalize), pooling).unwrap();
            assert_eq!((found.pooling, found.length), expected);
            assert_eq!(found.max_tokens, Some(7));
        }
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(SentencePooling::in_directory(empty.path()).unwrap(), SentencePooling::default());
    }

    #[test]
    fn what_is_not_known_is_named() {
        let modules = MODULES.replace("NORMALIZE", "");
        for (modules, pooling, part) in [
            (modules.as_str(), "{}", "no pooling mode"),
            (&modules, r#"{"pooling_mode_lasttoken": true}"#, "pooling_mode_lasttoken"),
            (&modules, r#"{"pooling_mode_max_tokens": true, "pooling_mode_cls_token": true}"#, "cls_token + "),
            (&modules.replace("Pooling\"}", "Dense\"}"), "{}", "Dense"),
            (&modules.replace("1_Pooling", "../elsewhere"), "{}", "leaves the directory"),
            ("{", "{}", "modules.json"),
        ] {
            let error = read(modules, pooling).unwrap_err().to_string();
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn padding_is_left_out() {
        // Two rows of three tokens of two features; the second has one token of padding.
        let hidden = [1.0, 8.0, 2.0, -4.0, 6.0, 5.0, 9e9, 9e9, 3.0, 0.0, 5.0, 8.0];
        let pooled = |pooling, length| {
            let sentence = SentencePooling { pooling, length, max_tokens: None };
            sentence.apply(&hidden, &[0, 1], 2)
        };
        assert_eq!(pooled(Pooling::Mean, Length::Free), [[3.0, 3.0], [4.0, 4.0]]);
        assert_eq!(pooled(Pooling::First, Length::Free), [[1.0, 8.0], [3.0, 0.0]]);
        assert_eq!(pooled(Pooling::Max, Length::Free), [[6.0, 8.0], [5.0, 8.0]]);
        assert_eq!(pooled(Pooling::First, Length::One)[1], [1.0, 0.0]);
    }
}
