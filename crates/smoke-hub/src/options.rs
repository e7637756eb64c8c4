use std::env;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// Where the hub is, who asks, and where files are kept.
#[derive(Clone)]
#[non_exhaustive]
pub struct HubOptions {
    /// The hub's address, without a slash at the end.
    pub endpoint: String,
    /// Where repositories are cached.
    pub cache: PathBuf,
    /// The token that says who asks. It is sent to the endpoint's host only.
    pub token: Option<String>,
    /// Whether nothing may be asked of a network: models come from the cache or not at all.
    pub offline: bool,
    /// How long to wait before a request that failed for a passing reason is made again; empty for never. A download
    /// that went on meanwhile starts again from the first of these.
    pub pauses: Vec<Duration>,
}

/// The user has no home directory, and no variable says where the cache is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no home directory to keep models in: set HF_HOME")]
pub struct NoHome;

const ENDPOINT: &str = "https://huggingface.co";

impl HubOptions {
    /// The public hub without a token, with its cache in this directory.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        let pauses = [300, 1000, 3000].map(Duration::from_millis).to_vec();
        Self { endpoint: ENDPOINT.to_owned(), cache: cache.into(), token: None, offline: false, pauses }
    }

    /// What the environment says, in the variables of the hub's own libraries.
    ///
    /// - `HF_ENDPOINT`: the hub's address.
    /// - `HF_HUB_CACHE`, or `hub` in `HF_HOME`, which is `huggingface` in the user's cache directory unless set.
    /// - `HF_TOKEN`, or the file `HF_TOKEN_PATH`, which is `token` in `HF_HOME` unless set.
    /// - `HF_HUB_OFFLINE`: `1`, `true`, `yes` or `on`.
    ///
    /// # Errors
    /// [`NoHome`] if none of it says where the cache is.
    pub fn from_env() -> Result<Self, NoHome> {
        Self::from_variables(|name| env::var(name).ok(), env::home_dir())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>, home: Option<PathBuf>) -> Result<Self, NoHome> {
        let set = |name: &str| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let path = |name: &str| {
            set(name).map(|text| match (text.strip_prefix("~/"), &home) {
                (Some(rest), Some(home)) => home.join(rest),
                _ => PathBuf::from(text),
            })
        };
        let caches = path("XDG_CACHE_HOME").or_else(|| home.as_ref().map(|home| home.join(".cache")));
        let root = path("HF_HOME").or_else(|| caches.map(|caches| caches.join("huggingface")));
        let cache = path("HF_HUB_CACHE").or_else(|| root.as_ref().map(|root| root.join("hub"))).ok_or(NoHome)?;
        let token_file = path("HF_TOKEN_PATH").or_else(|| root.map(|root| root.join("token")));
        let written = || fs::read_to_string(token_file?).ok().map(|token| token.trim().to_owned());
        Ok(Self {
            endpoint: set("HF_ENDPOINT").map_or(ENDPOINT.to_owned(), |url| url.trim_end_matches('/').to_owned()),
            token: set("HF_TOKEN").or_else(written).filter(|token| !token.is_empty()),
            offline: set("HF_HUB_OFFLINE")
                .is_some_and(|value| ["1", "true", "yes", "on"].contains(&value.to_lowercase().as_str())),
            ..Self::new(cache)
        })
    }
}

/// Says whether there is a token, but not which.
impl fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, cache, token, offline, pauses } = self;
        let mut options = f.debug_struct("HubOptions");
        options.field("endpoint", endpoint).field("cache", cache).field("token", &token.as_ref().map(|_| "…"));
        options.field("offline", offline).field("pauses", pauses).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn options(variables: &[(&str, &str)]) -> Result<HubOptions, NoHome> {
        let variables: HashMap<_, _> = variables.iter().copied().collect();
        HubOptions::from_variables(|name| variables.get(name).map(|&value| value.into()), Some("/home/me".into()))
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        for (variables, cache) in [
            (&[][..], "/home/me/.cache/huggingface/hub"),
            (&[("XDG_CACHE_HOME", "/c")], "/c/huggingface/hub"),
            (&[("HF_HOME", "/h"), ("XDG_CACHE_HOME", "/c")], "/h/hub"),
            (&[("HF_HOME", "~/h")], "/home/me/h/hub"),
            (&[("HF_HUB_CACHE", "/models"), ("HF_HOME", "/h")], "/models"),
            (&[("HF_HUB_CACHE", ""), ("HF_HOME", "/h")], "/h/hub"),
        ] {
            assert_eq!(options(variables).unwrap().cache, PathBuf::from(cache), "{variables:?}");
        }
        assert!(HubOptions::from_variables(|_| None, None).is_err());
    }

    #[test]
    fn the_variable_goes_before_the_file_of_the_token() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().to_str().unwrap();
        assert_eq!(options(&[("HF_HOME", root)]).unwrap().token, None);
        fs::write(home.path().join("token"), "hf_written\n").unwrap();
        assert_eq!(options(&[("HF_HOME", root)]).unwrap().token.as_deref(), Some("hf_written"));
        let both = options(&[("HF_HOME", root), ("HF_TOKEN", "hf_set")]).unwrap();
        assert_eq!(both.token.as_deref(), Some("hf_set"));
        assert!(!format!("{both:?}").contains("hf_set"));
        fs::write(home.path().join("other"), " ").unwrap();
        let path = home.path().join("other");
        let empty = options(&[("HF_HOME", root), ("HF_TOKEN_PATH", path.to_str().unwrap())]).unwrap();
        assert_eq!(empty.token, None);
    }

    #[test]
    fn endpoint_and_offline_are_read() {
        let options = |variables: &[(&str, &str)]| options(variables).unwrap();
        assert_eq!(options(&[]).endpoint, ENDPOINT);
        assert_eq!(options(&[("HF_ENDPOINT", "http://mirror/")]).endpoint, "http://mirror");
        for (value, offline) in [("1", true), ("TRUE", true), ("on", true), ("0", false), ("", false)] {
            assert_eq!(options(&[("HF_HUB_OFFLINE", value)]).offline, offline, "{value}");
        }
    }
}
