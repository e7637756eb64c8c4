//! What is asked of the hub, and what its answers mean.

use std::fmt;
use std::io::Read;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use ureq::config::RedirectAuthHeaders;
use ureq::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, LOCATION, RANGE};
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

use crate::cache::is_plain;
use crate::error::HubError;
use crate::id::{ModelId, is_inner_path};
use crate::options::HubOptions;

/// More than a list of a million files takes.
const LARGEST_LIST: u64 = 256 << 20;

/// The most addresses that a repository was moved through.
const MOST_MOVES: usize = 5;

/// What stays as it is within a part of an address.
const PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Asks one hub.
pub(crate) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

/// What a repository has at a revision.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) commit: String,
    pub(crate) names: Vec<String>,
}

/// A file of a repository, as the hub describes it.
#[derive(Debug)]
pub(crate) struct Remote {
    pub(crate) url: String,
    /// Names the content; plain.
    pub(crate) etag: String,
    pub(crate) bytes: u64,
    /// In hexadecimal digits, if the hub knows it: it does of large files.
    pub(crate) sha256: Option<String>,
}

/// A file on its way.
pub(crate) struct Incoming {
    /// Where in the file it begins.
    pub(crate) start: u64,
    pub(crate) reader: Box<dyn Read>,
}

impl Client {
    pub(crate) fn new(options: &HubOptions) -> Self {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .user_agent(concat!("smoke-hub/", env!("CARGO_PKG_VERSION")))
            // Lengths and offsets are those of the file itself.
            .accept_encoding("identity")
            .timeout_connect(Some(Duration::from_secs(15)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(Duration::from_secs(60)));
        if is_this_machine(&options.endpoint) {
            config = config.proxy(None);
        }
        Self { agent: config.build().into(), endpoint: options.endpoint.clone(), token: options.token.clone() }
    }

    /// The page on which people read about a model.
    pub(crate) fn page(&self, model: &ModelId) -> String {
        format!("{}/{}", self.endpoint, model.repository())
    }

    /// Asks what there is. Names are inner paths.
    pub(crate) fn list(&self, model: &ModelId) -> Result<Listing, HubError> {
        #[derive(Deserialize)]
        struct Info {
            sha: String,
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        let revision = utf8_percent_encode(model.revision(), PART);
        let url = format!("{}/api/models/{}/revision/{revision}", self.endpoint, model.repository());
        let response = self.send(self.agent.get(&url)).map_err(|cause| failed(&url, cause))?;
        self.check(&url, model, &response)?;
        let mut text = Vec::new();
        let mut reader = response.into_body().into_reader().take(LARGEST_LIST);
        reader.read_to_end(&mut text).map_err(|cause| HubError::Broken {
            url: url.clone(),
            received_bytes: 0,
            cause,
        })?;
        let nonsense = |reason: String| HubError::Answer { url: url.clone(), reason };
        let info: Info = serde_json::from_slice(&text).map_err(|error| nonsense(error.to_string()))?;
        if !is_plain(&info.sha) {
            return Err(nonsense(format!("`{}` is no commit", info.sha)));
        }
        let names: Vec<String> = info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        if let Some(name) = names.iter().find(|name| !is_inner_path(name)) {
            return Err(HubError::HostileName { page: self.page(model), name: name.clone() });
        }
        Ok(Listing { commit: info.sha, names })
    }

    /// Asks about a file of a commit. What the hub says counts, not the store to which it sends those who fetch large
    /// files.
    pub(crate) fn describe(&self, model: &ModelId, commit: &str, name: &str) -> Result<Remote, HubError> {
        let name: Vec<String> = name.split('/').map(|part| utf8_percent_encode(part, PART).to_string()).collect();
        let mut url = format!("{}/resolve/{commit}/{}", self.page(model), name.join("/"));
        let mut moves = 0;
        let response = loop {
            let request = self.agent.head(&url).config().max_redirects(0).max_redirects_will_error(false).build();
            let response = self.send(request).map_err(|cause| failed(&url, cause))?;
            self.check(&url, model, &response)?;
            // Only a repository that was renamed sends to the same host.
            match header(response.headers(), LOCATION.as_str()) {
                Some(path) if path.starts_with('/') && !path.starts_with("//") && moves < MOST_MOVES => {
                    url = format!("{}{path}", origin(&self.endpoint));
                    moves += 1;
                }
                _ => break response,
            }
        };
        let nonsense = |reason: &str| HubError::Answer { url: url.clone(), reason: reason.to_owned() };
        let headers = response.headers();
        let either = |linked: &str, own: &str| header(headers, linked).or_else(|| header(headers, own));
        let etag = either("x-linked-etag", ETAG.as_str()).ok_or_else(|| nonsense("the answer has no ETag"))?;
        let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
        if !is_plain(&etag) {
            return Err(nonsense("the ETag of the answer names no file"));
        }
        let bytes = either("x-linked-size", CONTENT_LENGTH.as_str()).and_then(|text| text.parse().ok());
        let bytes = bytes.ok_or_else(|| nonsense("the answer has no length"))?;
        let is_sum = |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let sha256 = header(headers, "x-linked-etag").and(Some(etag.to_lowercase())).filter(|etag| is_sum(etag));
        Ok(Remote { url, etag, bytes, sha256 })
    }

    /// Begins to fetch a file from byte `from` on. The answer may begin at 0 all the same.
    pub(crate) fn open(&self, model: &ModelId, remote: &Remote, from: u64) -> Result<Incoming, HubError> {
        let Remote { url, bytes, .. } = remote;
        let mut request = self.agent.get(url);
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let broken =
            |cause: ureq::Error| HubError::Broken { url: url.clone(), received_bytes: from, cause: cause.into_io() };
        let response = self.send(request).map_err(broken)?;
        self.check(url, model, &response)?;
        let (start, whole) = match response.status().as_u16() {
            206 => {
                let range = header(response.headers(), CONTENT_RANGE.as_str()).and_then(parse_range);
                let reason = "the answer does not say which part it is".to_owned();
                range.ok_or(HubError::Answer { url: url.clone(), reason })?
            }
            _ => (0, response.body().content_length()),
        };
        if start != 0 && start != from {
            let reason = format!("bytes from {start} on came instead of those from {from} on");
            return Err(HubError::Answer { url: url.clone(), reason });
        }
        if let Some(actual_bytes) = whole.filter(|whole| whole != bytes) {
            return Err(HubError::Length { url: url.clone(), expected_bytes: *bytes, actual_bytes });
        }
        Ok(Incoming { start, reader: Box::new(response.into_body().into_reader()) })
    }

    fn send(
        &self,
        mut request: ureq::RequestBuilder<ureq::typestate::WithoutBody>,
    ) -> Result<Response<Body>, ureq::Error> {
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        request.call()
    }

    /// Makes an error of an answer that is one.
    fn check(&self, url: &str, model: &ModelId, response: &Response<Body>) -> Result<(), HubError> {
        let status = response.status();
        if !status.is_client_error() && !status.is_server_error() {
            return Ok(());
        }
        let (endpoint, page) = (self.endpoint.clone(), self.page(model));
        let had_token = self.token.is_some();
        Err(match (status.as_u16(), header(response.headers(), "x-error-code")) {
            (_, Some("GatedRepo")) => HubError::Gated { endpoint, page },
            (_, Some("RevisionNotFound")) => HubError::NoRevision { page, revision: model.revision().to_owned() },
            (_, Some("RepoNotFound")) => HubError::NoModel { endpoint, model: model.clone() },
            (401, _) => HubError::Unauthorized { endpoint, page, had_token },
            (403, _) => HubError::Gated { endpoint, page },
            (404, None) if url.contains("/api/models/") => HubError::NoModel { endpoint, model: model.clone() },
            (status, _) => HubError::Status { url: url.to_owned(), status },
        })
    }
}

/// The token is nobody's business.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

fn failed(url: &str, cause: ureq::Error) -> HubError {
    HubError::Unreachable { url: url.to_owned(), cause }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim)
}

/// The start and, unless it is a star, the whole length of `bytes 5-9/10`.
fn parse_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, whole) = text.strip_prefix("bytes ")?.split_once('/')?;
    let start = range.split_once('-')?.0.parse().ok()?;
    match whole {
        "*" => Some((start, None)),
        whole => Some((start, Some(whole.parse().ok()?))),
    }
}

/// Scheme and host of an address, without a path.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |scheme| scheme + 3);
    url[host..].find('/').map_or(url, |path| &url[..host + path])
}

/// Whether an address is on this machine, where no proxy is needed.
fn is_this_machine(url: &str) -> bool {
    let origin = origin(url);
    let host = origin.split_once("://").map_or(origin, |(_, host)| host);
    ["127.0.0.1", "localhost", "[::1]"]
        .iter()
        .any(|local| host.strip_prefix(local).is_some_and(|rest| rest.is_empty() || rest.starts_with(':')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_strictly() {
        assert_eq!(parse_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(parse_range("bytes 0-9/*"), Some((0, None)));
        for text in ["", "bytes", "bytes 5/10", "bytes a-9/10", "bytes 5-9/", "5-9/10", "bytes -9/10", "bytes */10"] {
            assert_eq!(parse_range(text), None, "{text}");
        }
    }

    #[test]
    fn proxies_are_for_other_machines() {
        for (url, origin_of, local) in [
            ("http://127.0.0.1:80/hub", "http://127.0.0.1:80", true),
            ("http://localhost", "http://localhost", true),
            ("http://[::1]:8/", "http://[::1]:8", true),
            ("http://localhost.example/x", "http://localhost.example", false),
            ("https://mirror/hub/x", "https://mirror", false),
        ] {
            assert_eq!((origin(url), is_this_machine(url)), (origin_of, local), "{url}");
        }
    }
}
