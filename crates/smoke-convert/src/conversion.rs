//! Writes a checkpoint in another format or other encodings.

use std::fs;
use std::path::{Path, PathBuf};

use smoke_core::Encoding;
use smoke_storage::header::{self, GgufKeys, Header};
use smoke_storage::new_file::{NewFile, directory_of, free_bytes};
use smoke_storage::{AlignedBuffer, Checkpoint, Extent, Format, TensorInfo, WeightSource};

use crate::dtype::DtypeRules;
use crate::error::ConvertError;
use crate::llama;
use crate::order::{RowOrder, in_natural_order};
use crate::side_files::{self, SideFile};
use crate::source::Converted;
use crate::target::{NewDirectory, Target, TargetKind};

/// What is read and written at once, in bytes, where a tensor's rows stay in their order.
const PIECE: u64 = 4 << 20;

/// How a checkpoint is converted.
#[derive(Clone, Debug, Default)]
pub struct ConvertOptions {
    /// The encodings of tensors. Without a rule they stay as they are, but for what the new format cannot hold: in
    /// safetensors quantised tensors become F32, and in GGUF vectors always do, as is the custom there.
    pub dtypes: DtypeRules,
    /// The most bytes of tensors in a file, where safetensors go to a directory; a larger tensor has a file of its own.
    pub shard_bytes: Option<u64>,
    /// What becomes of a file or a model's directory that is there already.
    pub existing: Existing,
}

/// What becomes of what is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and nothing is converted.
    #[default]
    Keep,
    /// It is replaced when all else is done.
    Replace,
}

/// What would be written. Nothing is before [`write`](Self::write).
#[derive(Debug)]
pub struct Conversion<'a> {
    source: Converted<&'a Checkpoint>,
    target: Target,
    weights: Vec<WeightFile>,
    side_files: Vec<SideFile>,
    notes: Vec<String>,
}

/// A tensor on its way: where it is read in the converted source, and what it becomes.
#[derive(Clone, Debug)]
pub(crate) struct Move {
    pub(crate) content: Content,
    /// The tensor as it is written; its extent's length counts only.
    pub(crate) tensor: TensorInfo,
}

#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// A tensor of the source, whose rows are put into another order.
    Tensor(Extent, RowOrder),
    /// Bytes that the source has not as a tensor.
    Bytes(Vec<u8>),
}

/// What a family's translation says.
#[derive(Debug, Default)]
pub(crate) struct Translation {
    pub(crate) moves: Vec<Move>,
    pub(crate) keys: GgufKeys,
    pub(crate) side_files: Vec<SideFile>,
    /// What a person should know.
    pub(crate) notes: Vec<String>,
}

#[derive(Debug)]
struct WeightFile {
    name: String,
    header: Header,
    moves: Vec<Move>,
}

impl<'a> Conversion<'a> {
    /// Plans the conversion of `checkpoint` to `target`: a GGUF file where the name ends in `.gguf`, one file of weights
    /// alone where it ends in `.safetensors`, else a directory with safetensors, configuration and tokenizer.
    ///
    /// Between the two formats the names of tensors, the configuration, the tokenizer and the order of rows in attention are
    /// translated, for the LLaMA family.
    ///
    /// # Errors
    /// [`ConvertError`] if the target is there or no place for it, a rule matches nothing, or the other format cannot hold
    /// this model.
    pub fn plan(checkpoint: &'a Checkpoint, target: &Path, options: &ConvertOptions) -> Result<Self, ConvertError> {
        let target = Target::plan(target, options.existing, checkpoint)?;
        let shard_bytes = target.shard_bytes(options.shard_bytes)?;
        let to_gguf = target.kind == TargetKind::Gguf;
        let from_gguf = checkpoint.metadata().format == Format::Gguf;
        let source = convert(checkpoint, &options.dtypes, to_gguf)?;
        let mut translation = match (from_gguf, to_gguf) {
            (false, true) => llama::to_gguf(checkpoint, source.index())?,
            (true, false) => llama::to_hugging_face(checkpoint, source.index())?,
            (true, true) => Translation { moves: unchanged(&source), keys: keys_of(checkpoint)?, ..Default::default() },
            (false, false) => {
                let side_files = side_files::beside(checkpoint, source.index())?;
                Translation { moves: unchanged(&source), side_files, ..Default::default() }
            }
        };
        in_natural_order(&mut translation.moves);
        let mut notes = std::mem::take(&mut translation.notes);
        notes.extend(left_as_they_are(&source, &options.dtypes));
        if target.kind == TargetKind::Safetensors && !translation.side_files.is_empty() {
            let names: Vec<&str> = translation.side_files.iter().map(|file| file.name.as_str()).collect();
            notes.push(format!(
                "one file of weights has no place for {}: write to a directory to have them",
                names.join(", ")
            ));
            translation.side_files.clear();
        }
        let weights = if to_gguf {
            vec![WeightFile::gguf(&target, translation.moves, &translation.keys)?]
        } else {
            let (weights, index) = shards(&target, checkpoint, translation.moves, shard_bytes)?;
            translation.side_files.extend(index);
            weights
        };
        Ok(Self { source, target, weights, side_files: translation.side_files, notes })
    }

    /// The length of everything that is written: what it takes of the disk, in bytes.
    pub fn bytes(&self) -> u64 {
        let weights = self.weights.iter().map(|file| file.header.file_bytes).sum::<u64>();
        weights + self.side_files.iter().map(|file| file.content.len() as u64).sum::<u64>()
    }

    /// The bytes of all tensors that are written: where progress ends.
    pub fn tensor_bytes(&self) -> u64 {
        self.weights.iter().flat_map(|file| &file.moves).map(|each| each.tensor.extent.len).sum()
    }

    /// What a person should know about the result, a sentence each: what could not be taken over, and what stays as it is.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Writes it: under another name first, which it gets when all of it is on the disk. `progress` is told the bytes of
    /// tensors written so far, every few MiB.
    ///
    /// # Errors
    /// [`ConvertError`] if there is not enough room, which is found before anything is written, or the original cannot be
    /// read or holds a number that its new encoding has not, or the new files cannot be written. What was written is removed
    /// then, and what was to be replaced is as it was.
    pub fn write(self, progress: &mut dyn FnMut(u64)) -> Result<(), ConvertError> {
        let target = &self.target;
        let free_bytes = free_bytes(directory_of(&target.path)).map_err(|cause| target.io(cause))?;
        self.check_space(free_bytes)?;
        let mut done = 0;
        if target.kind != TargetKind::Directory {
            let file = self.weights.first().expect("a file of weights is always planned");
            let written = self.write_weights(file, &target.path, &mut done, progress)?;
            let finished = match target.existing {
                Existing::Keep => written.finish(),
                Existing::Replace => written.replace(),
            };
            return finished.map_err(|cause| target.io(cause));
        }
        let directory = NewDirectory::create(&target.path).map_err(|cause| target.io(cause))?;
        for file in &self.weights {
            let path = directory.path().join(&file.name);
            self.write_weights(file, &path, &mut done, progress)?.finish().map_err(|cause| target.io(cause))?;
        }
        for file in &self.side_files {
            let path = directory.path().join(&file.name);
            let parent = path.parent().map_or(Ok(()), fs::create_dir_all);
            let new = parent.and_then(|()| NewFile::create(&path, file.content.len() as u64));
            new.and_then(|new| new.write_at(&file.content, 0).and_then(|()| new.finish()))
                .map_err(|cause| target.io(cause))?;
        }
        directory.finish(target)
    }

    fn check_space(&self, free_bytes: u64) -> Result<(), ConvertError> {
        let needed_bytes = self.bytes();
        if needed_bytes <= free_bytes {
            return Ok(());
        }
        Err(ConvertError::NoSpace { path: self.target.path.clone(), needed_bytes, free_bytes })
    }

    fn write_weights(
        &self,
        file: &WeightFile,
        path: &Path,
        done: &mut u64,
        progress: &mut dyn FnMut(u64),
    ) -> Result<NewFile, ConvertError> {
        let io = |cause| self.target.io(cause);
        let new = NewFile::create(path, file.header.file_bytes).map_err(io)?;
        new.write_at(&file.header.bytes, 0).map_err(io)?;
        let mut buffer = AlignedBuffer::zeroed(0);
        let mut ordered = Vec::new();
        for (each, &start) in file.moves.iter().zip(&file.header.starts) {
            let (extent, rows) = match &each.content {
                Content::Tensor(extent, rows) => (*extent, *rows),
                Content::Bytes(bytes) => {
                    new.write_at(bytes, start).map_err(io)?;
                    *done += bytes.len() as u64;
                    progress(*done);
                    continue;
                }
            };
            // Whole groups of rows, so that what is put into another order is there.
            let group_bytes = rows.group_bytes(&each.tensor);
            let piece = (PIECE / group_bytes.max(1)).max(1).saturating_mul(group_bytes.max(1));
            for offset in (0..extent.len).step_by(piece as usize) {
                let len = piece.min(extent.len - offset);
                if (buffer.len() as u64) < len {
                    buffer.resize(len as usize);
                }
                let bytes = &mut buffer[..len as usize];
                self.source.read_at(Extent { offset: extent.offset + offset, len, ..extent }, bytes)?;
                let bytes = rows.put_in_order(&each.tensor, bytes, &mut ordered);
                new.write_at(bytes, start + offset).map_err(io)?;
                *done += len;
                progress(*done);
            }
        }
        Ok(new)
    }
}

/// The source with the encodings that rules and the format want.
fn convert<'a>(
    checkpoint: &'a Checkpoint,
    dtypes: &DtypeRules,
    to_gguf: bool,
) -> Result<Converted<&'a Checkpoint>, ConvertError> {
    dtypes.check(checkpoint.index())?;
    let encoding_of = |tensor: &TensorInfo| {
        let wanted = dtypes.encoding_of(tensor);
        if !tensor.encoding.is_real() {
            tensor.encoding
        } else if to_gguf && tensor.shape.len() < 2 {
            Encoding::F32
        } else if !to_gguf && tensor.encoding.block_elements() > 1 {
            // What a rule could not apply to, or leaves, must still be plain.
            wanted.filter(|wanted| *wanted != tensor.encoding).unwrap_or(Encoding::F32)
        } else {
            wanted.unwrap_or(tensor.encoding)
        }
    };
    let source = Converted::with(checkpoint, encoding_of);
    match source.index().iter().find(|tensor| !to_gguf && tensor.encoding.block_elements() > 1) {
        Some(TensorInfo { name, encoding, .. }) => {
            Err(ConvertError::NotPlain { name: name.clone(), encoding: *encoding })
        }
        None => Ok(source),
    }
}

fn unchanged(source: &Converted<&Checkpoint>) -> Vec<Move> {
    let each = |tensor: &TensorInfo| Move {
        content: Content::Tensor(tensor.extent, RowOrder::AsStored),
        tensor: tensor.clone(),
    };
    source.index().iter().map(each).collect()
}

fn keys_of(checkpoint: &Checkpoint) -> Result<GgufKeys, ConvertError> {
    let path = checkpoint.index().files().first().map(|file| file.path.clone()).unwrap_or_default();
    GgufKeys::of_file(&path).map_err(|cause| ConvertError::Io { path, cause })
}

/// A sentence about matrices that a rule for a block encoding could not apply to.
fn left_as_they_are(source: &Converted<&Checkpoint>, dtypes: &DtypeRules) -> Option<String> {
    let is_left = |tensor: &&TensorInfo| dtypes.asks_in_vain(tensor);
    let left: Vec<&TensorInfo> = source.original().index().iter().filter(is_left).collect();
    let first = left.first()?;
    let columns = first.shape.last().copied().unwrap_or_default();
    Some(format!(
        "{} tensors cannot be quantised, since their rows are no whole blocks (`{}` has rows of {columns})",
        left.len(),
        first.name
    ))
}

impl WeightFile {
    fn gguf(target: &Target, moves: Vec<Move>, keys: &GgufKeys) -> Result<Self, ConvertError> {
        let tensors: Vec<&TensorInfo> = moves.iter().map(|each| &each.tensor).collect();
        let header =
            header::gguf(&tensors, keys).map_err(|cause| ConvertError::Format { path: target.path.clone(), cause })?;
        Ok(Self { name: String::new(), header, moves })
    }
}

/// Files of at most `shard_bytes`, and where there are several, the index that says which tensor is where.
fn shards(
    target: &Target,
    checkpoint: &Checkpoint,
    moves: Vec<Move>,
    shard_bytes: u64,
) -> Result<(Vec<WeightFile>, Option<SideFile>), ConvertError> {
    let total_bytes = moves.iter().map(|each| each.tensor.extent.len).sum::<u64>();
    let mut parts: Vec<Vec<Move>> = vec![Vec::new()];
    let mut filled = 0_u64;
    for each in moves {
        let len = each.tensor.extent.len;
        if filled > 0 && filled.saturating_add(len) > shard_bytes {
            parts.push(Vec::new());
            filled = 0;
        }
        filled += len;
        parts.last_mut().expect("there is one from the beginning").push(each);
    }
    let mut texts = checkpoint.metadata().texts.clone();
    texts.entry("format".to_owned()).or_insert_with(|| "pt".to_owned());
    let count = parts.len();
    let mut weight_map = serde_json::Map::new();
    let mut files = Vec::with_capacity(count);
    for (moves, number) in parts.into_iter().zip(1_usize..) {
        let name = match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{number:05}-of-{count:05}.safetensors"),
        };
        weight_map.extend(moves.iter().map(|each| (each.tensor.name.clone(), name.clone().into())));
        let tensors: Vec<&TensorInfo> = moves.iter().map(|each| &each.tensor).collect();
        let header = header::safetensors(&tensors, &texts)
            .map_err(|cause| ConvertError::Format { path: target.path.clone(), cause })?;
        files.push(WeightFile { name, header, moves });
    }
    let index = (count > 1).then(|| {
        let json = serde_json::json!({"metadata": {"total_size": total_bytes}, "weight_map": weight_map});
        SideFile::json("model.safetensors.index.json", &json)
    });
    Ok((files, index))
}

/// Reads a small file whole.
pub(crate) fn read(path: PathBuf) -> Result<Vec<u8>, ConvertError> {
    fs::read(&path).map_err(|cause| ConvertError::Io { path, cause })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_without_room_is_found_before_anything_is_written() {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/assets/tiny/llama");
        let checkpoint = Checkpoint::open(model).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("new");
        let conversion = Conversion::plan(&checkpoint, &target, &ConvertOptions::default()).unwrap();
        let bytes = conversion.bytes();
        assert!(bytes > checkpoint.index().total_bytes());
        assert!(conversion.check_space(bytes).is_ok());
        let text = conversion.check_space(bytes - 1).expect_err("a byte is missing").to_string();
        assert!(text.contains(&bytes.to_string()) && text.contains("make room"), "{text}");
    }
}
