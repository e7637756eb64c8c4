use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why bytes could not be read. Callers branch on its [`kind`](Self::kind); the cause is for people.
#[derive(Debug)]
pub struct SourceError {
    kind: SourceErrorKind,
    path: Option<PathBuf>,
    cause: Box<dyn Error + Send + Sync>,
}

/// What a caller may want to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SourceErrorKind {
    /// The file, or the object, is not there.
    NotFound,
    /// The range is not inside its file.
    OutOfRange,
    /// The file is shorter than it was when it was opened.
    Truncated,
    /// Trying again may help.
    Transient,
    /// Reading is not allowed.
    PermissionDenied,
    /// The caller asked to stop.
    Cancelled,
    /// Anything else.
    Other,
}

impl SourceError {
    /// An error of a source of one's own.
    pub fn new(kind: SourceErrorKind, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { kind, path: None, cause: cause.into() }
    }

    /// Names the file.
    pub fn with_path(mut self, path: &Path) -> Self {
        self.path = Some(path.to_owned());
        self
    }

    /// What happened, for branching.
    pub fn kind(&self) -> SourceErrorKind {
        self.kind
    }

    /// Whether trying again may help.
    pub fn is_transient(&self) -> bool {
        self.kind == SourceErrorKind::Transient
    }

    pub(crate) fn cancelled() -> Self {
        Self::new(SourceErrorKind::Cancelled, "reading was cancelled")
    }

    pub(crate) fn of_io(error: io::Error, path: &Path) -> Self {
        use io::ErrorKind as Io;
        /// The device failed: often for a moment only. The number is that of every Unix.
        const EIO: i32 = 5;
        let kind = match error.kind() {
            Io::NotFound => SourceErrorKind::NotFound,
            Io::PermissionDenied => SourceErrorKind::PermissionDenied,
            Io::UnexpectedEof => SourceErrorKind::Truncated,
            Io::Interrupted | Io::WouldBlock | Io::TimedOut | Io::ConnectionReset => SourceErrorKind::Transient,
            _ if error.raw_os_error() == Some(EIO) => SourceErrorKind::Transient,
            _ => SourceErrorKind::Other,
        };
        Self::new(kind, error).with_path(path)
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{}: ", path.display())?;
        }
        match self.kind {
            SourceErrorKind::Truncated => {
                write!(f, "the file became shorter while it was in use ({}): restore it and open it again", self.cause)
            }
            SourceErrorKind::Transient => write!(f, "reading failed, even when tried again: {}", self.cause),
            _ => write!(f, "{}", self.cause),
        }
    }
}

impl Error for SourceError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.cause)
    }
}
