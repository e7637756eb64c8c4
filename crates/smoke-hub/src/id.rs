use std::fmt;
use std::path::{Component, Path};
use std::str::FromStr;

use crate::selection::is_weights;

/// Which model of a hub: `owner/name`, `owner/name@revision` or `owner/name/file.gguf`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModelId {
    repository: String,
    revision: String,
    file: Option<String>,
}

/// Why a text names no model of a hub.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` names no model of a hub: that would be OWNER/NAME, OWNER/NAME@REVISION or OWNER/NAME/FILE.gguf")]
pub struct ModelIdError {
    /// The text.
    pub text: String,
}

/// What the branch is called that a hub gives unless asked for another.
const DEFAULT_REVISION: &str = "main";

impl ModelId {
    /// `owner/name`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// A branch, a tag or a commit; `main` unless another was named.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The file of weights, if one was named: a path within the repository.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// The same model with a file of weights named.
    ///
    /// # Errors
    /// [`ModelIdError`] if `file` is not a path within the repository.
    pub fn with_file(mut self, file: &str) -> Result<Self, ModelIdError> {
        if !is_inner_path(file) {
            return Err(ModelIdError { text: format!("{self}/{file}") });
        }
        self.file = Some(file.to_owned());
        Ok(self)
    }
}

impl FromStr for ModelId {
    type Err = ModelIdError;

    fn from_str(text: &str) -> Result<Self, ModelIdError> {
        let error = || ModelIdError { text: text.to_owned() };
        let (path, revision) = match text.split_once('@') {
            Some((path, revision)) => (path, revision),
            None => (text, DEFAULT_REVISION),
        };
        let mut parts = path.splitn(3, '/');
        let (Some(owner), Some(name)) = (parts.next(), parts.next()) else { return Err(error()) };
        let file = parts.next();
        let is_file = |file: &str| is_inner_path(file) && is_weights(file);
        if !is_name(owner) || !is_name(name) || !is_inner_path(revision) || !file.is_none_or(is_file) {
            return Err(error());
        }
        let (repository, revision) = (format!("{owner}/{name}"), revision.to_owned());
        Ok(Self { repository, revision, file: file.map(str::to_owned) })
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if let Some(file) = &self.file {
            write!(f, "/{file}")?;
        }
        if self.revision != DEFAULT_REVISION {
            write!(f, "@{}", self.revision)?;
        }
        Ok(())
    }
}

/// Names of owners and models, as hubs allow them. A name never has `--`, which stands for `/` in the cache.
fn is_name(text: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let ends = |c: char| matches!(c, '-' | '.');
    let lasting = !text.starts_with(ends) && !text.ends_with(ends) && !text.contains("--") && !text.contains("..");
    (1..=96).contains(&text.len()) && text.chars().all(known) && lasting
}

/// Whether a path stays in the directory that it is joined to, on every system.
pub(crate) fn is_inner_path(text: &str) -> bool {
    let plain = text.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    let normal = Path::new(text).components().all(|part| matches!(part, Component::Normal(_)));
    plain && normal && !text.contains('\\') && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_model_may_have_a_revision_and_a_file() {
        for (text, repository, revision, file) in [
            ("owner/name", "owner/name", "main", None),
            ("Owner-1/n_a.m-e", "Owner-1/n_a.m-e", "main", None),
            ("owner/name@v1.0", "owner/name", "v1.0", None),
            ("owner/name@refs/pr/7", "owner/name", "refs/pr/7", None),
            ("owner/name/model.Q4_0.gguf", "owner/name", "main", Some("model.Q4_0.gguf")),
            ("owner/name/sub/m.gguf@dev", "owner/name", "dev", Some("sub/m.gguf")),
        ] {
            let id: ModelId = text.parse().unwrap();
            assert_eq!((id.repository(), id.revision(), id.file()), (repository, revision, file), "{text}");
            assert_eq!(id.to_string(), text);
        }
    }

    #[test]
    fn paths_and_hostile_names_are_no_models() {
        for text in [
            "",
            "gpt2",
            "/owner/name",
            "./name",
            "../name",
            "~/name",
            "owner/",
            "owner/name/",
            "owner/..",
            "owner/name/sub",
            "owner/name/../x.gguf",
            "owner/name@",
            "owner/name@../../x",
            "owner/name@a//b",
            "owner/na--me",
            "-owner/name",
            "owner/na me",
            "owner\\name",
            "owner/name@a\\b",
        ] {
            let error = text.parse::<ModelId>().unwrap_err();
            assert!(error.to_string().contains(text) && error.to_string().contains("OWNER/NAME"), "{error}");
        }
        let id: ModelId = "owner/name".parse().unwrap();
        assert!(id.clone().with_file("../x.gguf").is_err());
        assert_eq!(id.with_file("x.gguf").unwrap().to_string(), "owner/name/x.gguf");
    }

    proptest! {
        #[test]
        fn an_inner_path_never_leaves_its_directory(text in "[a/.\\\\:~]{0,12}") {
            if is_inner_path(&text) {
                let mut depth = 0;
                for part in Path::new("root").join(&text).components() {
                    match part {
                        Component::Normal(_) => depth += 1,
                        other => panic!("{other:?} in {text}"),
                    }
                }
                prop_assert!(depth >= 2);
            }
        }

        #[test]
        fn what_is_read_is_what_was_printed(text in "[a-c.@/-]{0,16}") {
            if let Ok(id) = text.parse::<ModelId>() {
                prop_assert_eq!(id.to_string().parse::<ModelId>().unwrap(), id);
            }
        }
    }
}
