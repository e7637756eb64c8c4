//! `smoke convert`

use std::io::Write;

use serde_json::json;
use smoke_runtime::ByteSize;
use smoke_runtime::convert::{Conversion, ConvertOptions, Existing};
use smoke_runtime::storage::{Checkpoint, ReaderKind};

use super::Result;
use crate::arguments::ConvertArguments;
use crate::report::bytes_bar;

/// Writes a checkpoint in another format or with other dtypes.
pub(crate) fn convert(arguments: &ConvertArguments) -> Result {
    let mut out = std::io::stdout().lock();
    let checkpoint = Checkpoint::open_with(&arguments.model.model, ReaderKind::Pread)?;
    let options = ConvertOptions {
        dtypes: arguments.dtype.iter().cloned().collect(),
        shard_bytes: arguments.shard_size.map(ByteSize::bytes),
        existing: if arguments.force { Existing::Replace } else { Existing::Keep },
    };
    let conversion = Conversion::plan(&checkpoint, &arguments.target, &options)?;
    let (bytes, notes) = (conversion.bytes(), conversion.notes().to_vec());
    eprintln!("{} takes {} of disk", arguments.target.display(), ByteSize(bytes));
    let bar = bytes_bar(conversion.tensor_bytes(), "converting");
    let written = conversion.write(&mut |done| bar.set_position(done));
    bar.finish_and_clear();
    written?;
    for note in &notes {
        eprintln!("note: {note}");
    }
    if arguments.model.json {
        writeln!(out, "{}", json!({ "path": arguments.target, "bytes": bytes, "notes": notes }))?;
    }
    Ok(())
}
