//! `smoke pack`

use std::io::Write;

use serde_json::json;
use smoke_runtime::ByteSize;
use smoke_runtime::storage::pack::Pack;
use smoke_runtime::storage::{Checkpoint, ReaderKind};

use super::{Result, open_everything};
use crate::arguments::PackArguments;
use crate::report::bytes_bar;

/// Writes the checkpoint anew in the order of use.
pub(crate) fn pack(arguments: &PackArguments) -> Result {
    let mut out = std::io::stdout().lock();
    let runtime = open_everything(&arguments.model)?;
    let checkpoint = Checkpoint::open_with(&arguments.model.model, ReaderKind::Pread)?;
    let pack = Pack::plan(&checkpoint, runtime.weights().streamer().units(), &arguments.out)?;
    let bytes = pack.bytes();
    eprintln!("{} takes {} of disk", arguments.out.display(), ByteSize(bytes));
    let bar = bytes_bar(bytes, "packing");
    let packed = pack.write(&mut |done| bar.set_position(done));
    bar.finish_and_clear();
    packed?;
    if arguments.model.json {
        writeln!(out, "{}", json!({ "path": arguments.out, "bytes": bytes }))?;
    }
    Ok(())
}
