use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::error::SourceError;
use crate::format::{FormatError, parse_gguf, parse_pytorch, parse_safetensors, parse_shard_index};
use crate::index::{FileInfo, TensorIndex, TensorInfo};
use crate::metadata::{Format, Metadata};
use crate::profile::DiskProfile;
use crate::reader::{ReadError, Reader, ReaderKind, check_range};
use crate::source::{Extent, WeightSource};

/// A checkpoint in files: GGUF, or safetensors or PyTorch's own, in one file or in shards.
///
/// Opening reads headers only. The index is kept; no tensor is read before it is asked for.
#[derive(Debug)]
pub struct Checkpoint {
    index: TensorIndex,
    metadata: Metadata,
    readers: Vec<Reader>,
    profile: DiskProfile,
}

/// Why a checkpoint cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A file or directory cannot be read.
    #[error("{path}: {cause}{}", remedy(cause))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
    /// A file is not what its name says.
    #[error("{path}: {cause}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: FormatError,
    },
    /// There is no checkpoint, or more than one.
    #[error("{path}: {reason}")]
    NoCheckpoint {
        /// The file or directory.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A shard that the index names is not there.
    #[error("{path}: the shard is missing, which holds {count} tensors, `{tensor}` among them: download it, too")]
    MissingShard {
        /// Where the shard should be.
        path: PathBuf,
        /// One of its tensors.
        tensor: String,
        /// How many it has.
        count: usize,
    },
    /// A shard lacks a tensor that the index says it has.
    #[error(
        "{path}: the shard lacks tensor `{tensor}`, which the index says it has: the files do not belong together, fetch them again"
    )]
    MissingTensor {
        /// The shard.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// Two shards have tensors of one name.
    #[error("{second}: tensor `{tensor}` is in {first}, too: the shards do not belong together, fetch them again")]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
        /// The shard that was read first.
        first: PathBuf,
        /// The shard that was read later.
        second: PathBuf,
    },
    /// The kernel has no io_uring, or does not allow it, or the file system does not give what it needs.
    #[error("{path}: io_uring cannot be used ({cause}): choose another reader")]
    Uring {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
    /// The file system does not give what the reader needs.
    #[error("{path}: cannot be read past the page cache ({cause}): choose another reader")]
    Direct {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
}

impl Checkpoint {
    /// Opens a file, or the checkpoint in a directory, with [`ReaderKind::Auto`].
    ///
    /// # Errors
    /// [`OpenError`] if there is none, or it is not valid.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::open_with(path, ReaderKind::Auto)
    }

    /// Opens a file, or the checkpoint in a directory.
    ///
    /// In a directory it takes `model.safetensors.index.json`, `model.safetensors`, the only other safetensors file,
    /// the only GGUF file, `pytorch_model.bin.index.json`, `pytorch_model.bin` or the only other file that ends in `.bin`,
    /// `.pt` or `.pth`, in this order.
    ///
    /// # Errors
    /// [`OpenError`] if there is none, or it is not valid, or it cannot be read in this way.
    pub fn open_with(path: impl AsRef<Path>, kind: ReaderKind) -> Result<Self, OpenError> {
        Self::open_parts(path.as_ref(), |parts| match kind {
            ReaderKind::Auto | ReaderKind::Uring => {
                let largest = parts.iter().max_by_key(|part| part.len);
                (kind, largest.map(|part| DiskProfile::of(&part.path)).unwrap_or_default())
            }
            _ => (kind, DiskProfile::default()),
        })
    }

    /// Opens as [`open`](Self::open) does, with a profile that is given instead of measured: with its reader, block size
    /// and queue depth.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
    pub fn open_profiled(path: impl AsRef<Path>, profile: &DiskProfile) -> Result<Self, OpenError> {
        Self::open_parts(path.as_ref(), |_| (profile.reader, *profile))
    }

    fn open_parts(path: &Path, choose: impl FnOnce(&[Part]) -> (ReaderKind, DiskProfile)) -> Result<Self, OpenError> {
        let metadata = std::fs::metadata(path).map_err(|cause| io_error(path, cause))?;
        let file = if metadata.is_dir() { find(path)? } else { path.to_owned() };
        let directory = file.parent().map(Path::to_owned).unwrap_or_default();
        let mut metadata = Metadata { directory, format: Format::Safetensors, gguf: None, texts: BTreeMap::new() };
        let (format, is_index) = kind_of(&file)?;
        metadata.format = format;
        let parts = match format {
            _ if is_index => shards(&file, &metadata.directory, format)?,
            Format::Safetensors => {
                let part = Part::safetensors(file)?;
                metadata.texts = part.texts.clone();
                vec![part]
            }
            Format::Gguf => {
                let (part, gguf) = Part::gguf(file)?;
                metadata.gguf = Some(gguf);
                vec![part]
            }
            Format::PyTorch => vec![Part::pytorch(file)?],
        };
        check_distinct(&parts)?;
        let (kind, profile) = choose(&parts);
        let mut files = Vec::new();
        let mut tensors = Vec::new();
        let mut readers = Vec::new();
        for (part, number) in parts.into_iter().zip(0..) {
            readers.push(Reader::open(&part.path, kind, &profile)?);
            let renumbered = part.tensors.into_iter().map(|tensor| {
                let extent = Extent { file: number, ..tensor.extent };
                TensorInfo { extent, ..tensor }
            });
            tensors.extend(renumbered);
            files.push(FileInfo { path: part.path, len: part.len });
        }
        let first = files.first().map(|file| file.path.clone()).unwrap_or_default();
        let index = match format {
            Format::PyTorch => TensorIndex::with_shared(files, tensors),
            Format::Safetensors | Format::Gguf => TensorIndex::new(files, tensors),
        };
        let index = index.map_err(|cause| OpenError::Format { path: first, cause })?;
        Ok(Self { index, metadata, readers, profile })
    }

    /// What is known of its disk: measured or remembered with [`ReaderKind::Auto`] and [`ReaderKind::Uring`], else the
    /// default.
    pub fn disk_profile(&self) -> &DiskProfile {
        &self.profile
    }

    /// How its files are read, after [`ReaderKind::Auto`] was decided. Files of one checkpoint may differ.
    pub fn reader_kinds(&self) -> impl Iterator<Item = ReaderKind> {
        self.readers.iter().map(Reader::kind)
    }

    /// What the checkpoint says beside its tensors.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

impl Checkpoint {
    fn source_error(&self, file: u32, error: ReadError) -> SourceError {
        match error {
            ReadError::Io(error) => SourceError::of_io(error, &self.index.files()[file as usize].path),
            ReadError::Cancelled => SourceError::cancelled(),
        }
    }
}

impl WeightSource for Checkpoint {
    fn index(&self) -> &TensorIndex {
        &self.index
    }

    fn read_at(&self, extent: Extent, buf: &mut [u8]) -> Result<(), SourceError> {
        self.read_cancellable(extent, buf, &|| false)
    }

    fn read_cancellable(
        &self,
        extent: Extent,
        buf: &mut [u8],
        should_stop: &dyn Fn() -> bool,
    ) -> Result<(), SourceError> {
        let file = self.index.files().get(extent.file as usize);
        check_range(extent, file, buf.len())?;
        let read = self.readers[extent.file as usize].read_at(extent.offset, buf, should_stop);
        read.map_err(|error| self.source_error(extent.file, error))
    }

    fn read_all_cancellable(
        &self,
        reads: &mut [(Extent, &mut [u8])],
        should_stop: &dyn Fn() -> bool,
    ) -> Result<(), SourceError> {
        for (extent, buf) in &*reads {
            check_range(*extent, self.index.files().get(extent.file as usize), buf.len())?;
        }
        if let Some(&(Extent { file, .. }, _)) = reads.first()
            && reads.iter().all(|(extent, _)| extent.file == file)
        {
            let mut of_file: Vec<_> = reads.iter_mut().map(|(extent, buf)| (extent.offset, &mut **buf)).collect();
            if let Some(read) = self.readers[file as usize].read_all_at_once(&mut of_file, should_stop) {
                return read.map_err(|error| self.source_error(file, error));
            }
        }
        reads.iter_mut().try_for_each(|(extent, buf)| self.read_cancellable(*extent, buf, should_stop))
    }

    fn alignment(&self) -> u64 {
        self.readers.iter().map(Reader::alignment).max().unwrap_or(1)
    }
}

/// More than an index of millions of tensors takes.
const LARGEST_INDEX: u64 = 256 << 20;

/// A file whose header was read.
struct Part {
    path: PathBuf,
    len: u64,
    tensors: Vec<TensorInfo>,
    texts: BTreeMap<String, String>,
}

impl Part {
    fn safetensors(path: PathBuf) -> Result<Self, OpenError> {
        let (file, len) = open_file(&path)?;
        match parse_safetensors(BufReader::new(file), len) {
            Ok(header) => Ok(Self { path, len, tensors: header.tensors, texts: header.metadata }),
            Err(cause) => Err(OpenError::Format { path, cause }),
        }
    }

    fn pytorch(path: PathBuf) -> Result<Self, OpenError> {
        let (file, len) = open_file(&path)?;
        match parse_pytorch(BufReader::new(file), len) {
            Ok(tensors) => Ok(Self { path, len, tensors, texts: BTreeMap::new() }),
            Err(cause) => Err(OpenError::Format { path, cause }),
        }
    }

    fn gguf(path: PathBuf) -> Result<(Self, crate::GgufMetadata), OpenError> {
        let (file, len) = open_file(&path)?;
        let header = match parse_gguf(BufReader::new(file), len) {
            Ok(header) => header,
            Err(cause) => return Err(OpenError::Format { path, cause }),
        };
        if header.metadata.u64("split.count").is_some_and(|count| count > 1) {
            let reason = "it is one of several parts; merge them with llama.cpp's gguf-split first".to_owned();
            return Err(OpenError::NoCheckpoint { path, reason });
        }
        Ok((Self { path, len, tensors: header.tensors, texts: BTreeMap::new() }, header.metadata))
    }
}

/// Checks that no tensor is in two parts.
fn check_distinct(parts: &[Part]) -> Result<(), OpenError> {
    let mut seen: HashMap<&str, &Path> = HashMap::new();
    for part in parts {
        for TensorInfo { name, .. } in &part.tensors {
            // Within one file it is that file's error, found with the index.
            if let Some(&first) = seen.get(name.as_str()).filter(|&&first| first != part.path) {
                let (tensor, first, second) = (name.clone(), first.to_owned(), part.path.clone());
                return Err(OpenError::DuplicateTensor { tensor, first, second });
            }
            seen.insert(name, &part.path);
        }
    }
    Ok(())
}

fn shards(index_path: &Path, directory: &Path, format: Format) -> Result<Vec<Part>, OpenError> {
    let (file, len) = open_file(index_path)?;
    if len > LARGEST_INDEX {
        let cause = FormatError::header(format!("an index of {len} bytes"));
        return Err(OpenError::Format { path: index_path.to_owned(), cause });
    }
    let mut text = Vec::new();
    file.take(LARGEST_INDEX).read_to_end(&mut text).map_err(|cause| io_error(index_path, cause))?;
    let index = parse_shard_index(&text).map_err(|cause| OpenError::Format { path: index_path.to_owned(), cause })?;
    let mut parts = Vec::new();
    for (shard, names) in index.shards {
        let path = directory.join(&shard);
        if !path.is_file() {
            let (count, tensor) = (names.len(), names.into_iter().next().unwrap_or_default());
            return Err(OpenError::MissingShard { path, tensor, count });
        }
        let part = match format {
            Format::PyTorch => Part::pytorch(path)?,
            _ => Part::safetensors(path)?,
        };
        let there: HashSet<&str> = part.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        if let Some(tensor) = names.into_iter().find(|name| !there.contains(name.as_str())) {
            return Err(OpenError::MissingTensor { path: part.path.clone(), tensor });
        }
        parts.push(part);
    }
    Ok(parts)
}

/// What a file is by its name, and whether it is an index of shards.
fn kind_of(path: &Path) -> Result<(Format, bool), OpenError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (name, is_index) = match name.strip_suffix(".index.json") {
        Some(name) => (name, true),
        None => (&*name, false),
    };
    match () {
        () if name.ends_with(".safetensors") => Ok((Format::Safetensors, is_index)),
        () if name.ends_with(".gguf") && !is_index => Ok((Format::Gguf, false)),
        () if ends_in(name, &PYTORCH) => Ok((Format::PyTorch, is_index)),
        () => Err(OpenError::NoCheckpoint {
            path: path.to_owned(),
            reason: "its name does not end in .safetensors, .gguf, .bin, .pt or .pth".to_owned(),
        }),
    }
}

/// How the names of PyTorch's files end.
const PYTORCH: [&str; 3] = [".bin", ".pt", ".pth"];

fn ends_in(name: &str, suffixes: &[&str]) -> bool {
    suffixes.iter().any(|suffix| name.ends_with(suffix))
}

fn find(directory: &Path) -> Result<PathBuf, OpenError> {
    let entries = std::fs::read_dir(directory).map_err(|cause| io_error(directory, cause))?;
    let mut names = entries
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(|cause| io_error(directory, cause))?;
    names.retain(|name| directory.join(name).is_file());
    names.sort();
    // Each family by its usual names, or by what ends as its files do.
    let families: [(&[&str], &[&str]); 3] = [
        (&["model.safetensors.index.json", "model.safetensors"], &[".safetensors"]),
        (&[], &[".gguf"]),
        (&["pytorch_model.bin.index.json", "pytorch_model.bin"], &PYTORCH),
    ];
    for (usual, suffixes) in families {
        if let Some(name) = usual.iter().find(|usual| names.iter().any(|name| name == *usual)) {
            return Ok(directory.join(name));
        }
        let mut found = names.iter().filter(|name| ends_in(name, suffixes));
        match (found.next(), found.next()) {
            (Some(name), None) => return Ok(directory.join(name)),
            (Some(first), Some(second)) => {
                let reason = format!("it has several checkpoints, {first} and {second} among them: name the file");
                return Err(OpenError::NoCheckpoint { path: directory.to_owned(), reason });
            }
            _ => {}
        }
    }
    let reason =
        "it has neither a safetensors, nor a GGUF, nor a PyTorch file: is it the directory of a model?".to_owned();
    Err(OpenError::NoCheckpoint { path: directory.to_owned(), reason })
}

fn open_file(path: &Path) -> Result<(File, u64), OpenError> {
    // Asked before it is opened: opening a pipe would wait for somebody who writes.
    if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        let reason = "it is no regular file: name the file of a checkpoint, or its directory".to_owned();
        return Err(OpenError::NoCheckpoint { path: path.to_owned(), reason });
    }
    let file = File::open(path).map_err(|cause| io_error(path, cause))?;
    let len = file.metadata().map_err(|cause| io_error(path, cause))?.len();
    Ok((file, len))
}

fn remedy(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ": is the path right?",
        io::ErrorKind::PermissionDenied => ": allow yourself to read it",
        _ => ": can it be read by other programs?",
    }
}

pub(crate) fn io_error(path: &Path, cause: io::Error) -> OpenError {
    OpenError::Io { path: path.to_owned(), cause }
}
