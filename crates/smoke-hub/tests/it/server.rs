//! A hub of one model on this machine. It serves what it is given, notes what it is asked, and misbehaves on demand.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

/// What is to go wrong with one answer.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// This status, with this code in `X-Error-Code`.
    Status(u16, &'static str),
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// The same, and no length was announced.
    CutUnannounced(usize),
    /// All of the file, whatever range was asked for.
    WholeInstead,
    /// A file with so many bytes more, or fewer, than there should be.
    Longer(isize),
    /// Each byte is another.
    Garbled,
    /// This header has this value instead of its own.
    Header(&'static str, &'static str),
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) host: String,
    pub(crate) range: Option<String>,
    pub(crate) token: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    commit: String,
    faults: VecDeque<(String, Fault)>,
    asked: Vec<Asked>,
}

/// Serves `owner/name` until the test's process ends.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    port: u16,
    state: Arc<Mutex<State>>,
}

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

impl Server {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let state = State { commit: COMMIT.to_owned(), ..State::default() };
        let server = Self { port: listener.local_addr().unwrap().port(), state: Arc::new(Mutex::new(state)) };
        let serving = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = serving.clone();
                // Somebody who hangs up is no failure of the server.
                std::thread::spawn(move || server.answer(&stream).ok());
            }
        });
        server
    }

    /// With the files of a directory, as far as `wanted` says so.
    pub(crate) fn with_directory(directory: &Path, wanted: impl Fn(&str) -> bool) -> Self {
        let server = Self::start();
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if wanted(&name) {
                server.put(&name, std::fs::read(entry.path()).unwrap());
            }
        }
        server
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn put(&self, name: &str, content: impl Into<Vec<u8>>) {
        self.state.lock().unwrap().files.insert(name.to_owned(), content.into());
    }

    pub(crate) fn set_commit(&self, commit: &str) {
        self.state.lock().unwrap().commit = commit.to_owned();
    }

    /// The next request whose method and path contain `what` meets this fault.
    pub(crate) fn fail(&self, what: &str, fault: Fault) {
        self.state.lock().unwrap().faults.push_back((what.to_owned(), fault));
    }

    /// What was asked since this was called last.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }

    /// Names of the files whose content was asked for since this, or `asked`, was called last.
    pub(crate) fn fetched(&self) -> Vec<String> {
        let bodies =
            self.asked().into_iter().filter(|asked| asked.method == "GET" && asked.path.starts_with("/store/"));
        bodies.map(|asked| asked.path.rsplit_once(':').unwrap().1.to_owned()).collect()
    }

    fn answer(&self, stream: &TcpStream) -> std::io::Result<()> {
        let asked = read_request(stream)?;
        let mut state = self.state.lock().unwrap();
        state.asked.push(asked.clone());
        let line = format!("{} {}", asked.method, asked.path);
        let place = state.faults.iter().position(|(what, _)| line.contains(what.as_str()));
        let fault = place.and_then(|place| state.faults.remove(place)).map(|(_, fault)| fault);
        let mut answer = self.route(&state, &asked);
        drop(state);
        match fault {
            Some(Fault::Status(status, code)) => {
                answer = Answer { status, headers: vec![("X-Error-Code", code.to_owned())], body: Vec::new() };
            }
            Some(Fault::Header(name, value)) => {
                answer.headers.retain(|(header, _)| *header != name);
                answer.headers.push((name, value.to_owned()));
            }
            Some(Fault::Longer(by)) => {
                let len = answer.body.len().checked_add_signed(by).unwrap();
                answer.body.resize(len, 7);
            }
            Some(Fault::Garbled) => answer.body.iter_mut().for_each(|byte| *byte ^= 0xFF),
            _ => {}
        }
        let range = asked.range.filter(|_| answer.status == 200 && !matches!(fault, Some(Fault::WholeInstead)));
        if let Some(range) = range {
            let start: usize = range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap();
            let whole = answer.body.len();
            if start >= whole {
                answer = Answer { status: 416, headers: Vec::new(), body: Vec::new() };
            } else {
                answer.status = 206;
                answer.headers.push(("Content-Range", format!("bytes {start}-{}/{whole}", whole - 1)));
                answer.body.drain(..start);
            }
        }
        answer.send(stream, &asked.method, fault)
    }

    /// The endpoints of a hub. Content is given by a store under another host name, as that of large files is.
    fn route(&self, state: &State, asked: &Asked) -> Answer {
        let not_found =
            |code: &str| Answer { status: 404, headers: vec![("X-Error-Code", code.to_owned())], body: Vec::new() };
        if let Some(revision) = asked.path.strip_prefix("/api/models/owner/name/revision/") {
            if !["main", "dev", "refs%2Fpr%2F1", state.commit.as_str()].contains(&revision) {
                return not_found("RevisionNotFound");
            }
            let siblings: Vec<String> =
                state.files.keys().map(|name| format!("{{\"rfilename\": \"{name}\", \"blobId\": \"x\"}}")).collect();
            let body = format!("{{\"sha\": \"{}\", \"siblings\": [{}]}}", state.commit, siblings.join(", "));
            return Answer { status: 200, headers: Vec::new(), body: body.into() };
        }
        let resolved = asked.path.strip_prefix("/owner/name/resolve/").and_then(|rest| rest.split_once('/'));
        if let Some((commit, name)) = resolved {
            let Some(content) = state.files.get(name).filter(|_| commit == state.commit) else {
                return not_found("EntryNotFound");
            };
            let sum: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
            let headers = vec![
                ("X-Repo-Commit", commit.to_owned()),
                ("X-Linked-Etag", format!("\"{sum}\"")),
                ("X-Linked-Size", content.len().to_string()),
                ("ETag", "\"another\"".to_owned()),
                ("Location", format!("http://localhost:{}/store/{commit}:{name}", self.port)),
            ];
            return Answer { status: 302, headers, body: Vec::new() };
        }
        match asked.path.strip_prefix("/store/").and_then(|rest| rest.split_once(':')) {
            Some((_, name)) => Answer { status: 200, headers: Vec::new(), body: state.files[name].clone() },
            None => not_found("RepoNotFound"),
        }
    }
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn send(&self, mut stream: &TcpStream, method: &str, fault: Option<Fault>) -> std::io::Result<()> {
        let mut head = format!("HTTP/1.1 {} Because\r\nConnection: close\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !matches!(fault, Some(Fault::CutUnannounced(_))) {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        if method != "HEAD" {
            match fault {
                Some(Fault::Cut(bytes) | Fault::CutUnannounced(bytes)) => stream.write_all(&self.body[..bytes])?,
                _ => stream.write_all(&self.body)?,
            }
        }
        stream.shutdown(Shutdown::Write)
    }
}

fn read_request(stream: &TcpStream) -> std::io::Result<Asked> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut asked = Asked { method, path, host: String::new(), range: None, token: None };
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else { break };
        match name.to_lowercase().as_str() {
            "host" => asked.host = value.to_owned(),
            "range" => asked.range = Some(value.to_owned()),
            "authorization" => asked.token = Some(value.to_owned()),
            _ => {}
        }
    }
    Ok(asked)
}
